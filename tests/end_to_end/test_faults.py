"""Any part may die, stop or freeze under load: nothing acknowledged is missing, nothing is there twice.

`scripts/faults` does the same longer.
"""

import pytest

from pipeline.settings import WorkerSettings
from tests.end_to_end import faults
from tests.end_to_end.faults import ALL_AT_ONCE, COME_AND_GO, FULL_HANDS, MATRIX, How

pytestmark = [pytest.mark.faults, pytest.mark.slow]

RATE = 1_000
CASES = [*MATRIX, *FULL_HANDS, *faults.away(kafka=30, postgres=20), COME_AND_GO]


@pytest.mark.parametrize("part", faults.PARTS)
def test_nothing_is_lost_and_nothing_is_twice(stack, part, tmp_path):
    """Killed, ended, frozen, away. Which one it was: `scripts/faults --case PART:HOW --no-docs`."""
    cases = [case for case in CASES if case.part == part]
    assert {How.KILL, How.TERM, How.FREEZE} <= {case.how for case in cases}
    outcome = faults.run(stack, cases, tmp_path, rate=RATE)
    assert outcome.account.wrong == {}
    assert (outcome.account.missing, outcome.account.twice) == (0, 0)
    assert outcome.not_returned == ()
    assert outcome.account.acknowledged > RATE * len(cases), "too little was sent to prove anything"


def test_everything_at_once(stack, tmp_path):
    """As when the machine's processes are all killed; the disk and its cache stay."""
    outcome = faults.run(stack, [ALL_AT_ONCE], tmp_path, rate=RATE)
    assert outcome.account.wrong == {}
    assert outcome.right


def test_the_waits_that_these_tests_shorten_have_their_defaults_elsewhere():
    worker = WorkerSettings()
    assert (worker.session_timeout_seconds, worker.close_after_seconds, worker.stuck_seconds) == (10, 5, 120)
    assert (worker.statement_timeout_seconds, worker.lock_timeout_seconds) == (5, 3)
    assert worker.idle_in_transaction_seconds == 10
