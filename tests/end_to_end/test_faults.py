"""Any part may die, stop or freeze under load: nothing acknowledged is missing, nothing is there twice.

`scripts/faults` does the same longer.
"""

import psycopg
import pytest

from pipeline.settings import BridgeSettings, WorkerSettings
from tests.end_to_end import faults
from tests.end_to_end.faults import COME_AND_GO, FULL_HANDS, MATRIX, Case, How

pytestmark = [pytest.mark.faults, pytest.mark.slow]

RATE = 1_000
AWAY = faults.away(kafka=30, postgres=20)


@pytest.mark.parametrize("case", [*MATRIX, *FULL_HANDS, *AWAY, COME_AND_GO], ids=str)
def test_nothing_is_lost_and_nothing_is_twice(stack, case: Case, tmp_path):
    outcome = faults.run(stack, case, tmp_path, rate=RATE)
    assert outcome.account.wrong == {}
    assert (outcome.account.missing, outcome.account.twice) == (0, 0)
    assert outcome.returned, "not everything came back by itself"
    assert outcome.account.acknowledged > RATE, "too little was sent to prove anything"


def test_what_was_stored_is_the_same_after_all_parts_were_killed_at_once(stack, tmp_path):
    with psycopg.connect(stack.superuser_url()) as connection:
        before = connection.execute("SELECT count(*), sum(value) FROM readings").fetchone()
    for part in faults.PARTS:
        stack.signal(part, faults.signal.SIGKILL)
    for part in faults.PARTS:
        assert stack.wait_ready(part), f"{part} did not come back"
    with psycopg.connect(stack.superuser_url()) as connection:
        assert connection.execute("SELECT count(*), sum(value) FROM readings").fetchone() == before
    outcome = faults.run(stack, Case(part="worker-2", how=How.KILL), tmp_path, rate=RATE)
    assert outcome.right


def test_the_waits_that_these_tests_shorten_have_their_defaults_elsewhere():
    worker = WorkerSettings()
    assert (worker.session_timeout_seconds, worker.close_after_seconds, worker.stuck_seconds) == (10, 5, 120)
    assert (worker.statement_timeout_seconds, worker.lock_timeout_seconds) == (5, 3)
    assert worker.idle_in_transaction_seconds == 10
    assert BridgeSettings().bridge_linger_seconds == 0.03
