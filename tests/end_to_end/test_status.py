"""`brigade status` on a stack whose servers and parts come and go."""

import json
import os
import signal
import subprocess
import time

import pytest

from deploy.local.layout import REPOSITORY
from deploy.local.ready import wait_until
from tests.end_to_end.load import BRIGADE, GOOD_HABITS, Sensors
from tests.end_to_end.stacks import SHORT_WAITS, own_stack

SECONDS = 120


@pytest.fixture(scope="module")
def stack(request):
    """Its own: what other tests broke would be told for an hour."""
    if "BRIGADE_TEST_INSTANCE" not in os.environ:
        missing = "BRIGADE_TEST_INSTANCE is not set: scripts/test knows where the servers are, and starts more of them"
        pytest.fail(missing) if os.environ.get("BRIGADE_TEST_ALL") == "1" else pytest.skip(missing)
    with own_stack("status", SHORT_WAITS, keep_logs=lambda: request.session.testsfailed > 0) as own:
        yield own


@pytest.fixture
def status(stack):
    """Exit code, and the document or the screen."""

    def run(*words, **environment):
        done = subprocess.run(
            [BRIGADE, "status", *words],
            cwd=REPOSITORY,
            env=os.environ | stack.owner_env | environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout) if "--json" in words else done.stdout

    return run


@pytest.fixture
def well(status):
    """Before and after nothing is wrong but what alerts remember of the tests before."""
    assert wait_until(lambda: not faults(status("--json")[1]), SECONDS), status("--explain")[1]
    yield
    assert wait_until(lambda: not faults(status("--json")[1]), SECONDS), status("--explain")[1]


def faults(document):
    return [found for found in document["findings"] if not found["what"].startswith("alert ")]


def part(document, name):
    return next(part for part in document["parts"] if part["name"] == name)


def test_all_is_well_and_all_of_it_is_told(stack, status, well, tmp_path):
    def by_prometheus():
        rates = status("--json")[1]["rates"]
        return rates["over_seconds"] == 300 and (rates["stored"] or 0) > 20

    with Sensors(stack, tmp_path, rate=200, habits=GOOD_HABITS):
        assert wait_until(by_prometheus, 180)
        code, told = status("--json")
    assert (code, told["state"], told["findings"]) == (0, "well", [])
    assert [part["name"] for part in told["parts"]] == [
        "bridge-0", "worker-1", "worker-2", "lag", "maintain", "users", "gateway", "mqtt", "kafka", "database",
        "prometheus",
    ]  # fmt: skip
    assert all(part["up"] for part in told["parts"])
    assert {part["version"] for part in told["parts"][:7]} == {"0.1.0"}
    assert part(told, "database")["version"].startswith("PostgreSQL 17")
    assert 0 <= told["lag"]["seconds"] < 10
    assert told["rates"]["over_seconds"] == 300
    assert told["rates"]["received"] > 20
    assert told["disks"][0]["free_bytes"] > 0
    code, screen = status()
    assert code == 0
    assert screen.strip().endswith("all is well")


@pytest.mark.parametrize("name", ["bridge-0", "worker-2", "users"])
def test_a_part_that_is_down_is_named_with_its_log(stack, status, well, name):
    stack.stop(name)
    try:
        code, told = status("--json")
        assert (code, part(told, name)["up"]) == (1, False)
        (found,) = faults(told)
        assert found["what"].startswith(f"{name} is down")
        assert f"{stack.instance.logs}/{name}.log" in found["advice"][0]
    finally:
        stack.start(name)


def test_a_part_that_is_frozen_is_down(stack, status, well):
    stack.signal("maintain", signal.SIGSTOP)
    try:
        code, told = status("--json")
        assert (code, part(told, "maintain")["detail"]) == (1, "no answer within 3 s")
    finally:
        stack.signal("maintain", signal.SIGCONT)


@pytest.mark.parametrize(
    ("server", "name", "word"),
    [("kafka", "kafka", "topics check"), ("postgres", "database", "psql"), ("mosquitto", "mqtt", "BRIGADE_MQTT_HOST")],
)
def test_a_server_that_is_away_is_named_and_so_is_who_waits_for_it(stack, status, well, server, name, word):
    stack.stop(server)
    try:
        began = time.monotonic()
        assert wait_until(lambda: len(faults(status("--json")[1])) > 1, SECONDS)
        code, told = status("--json")
        assert code == 1
        assert not part(told, name)["up"]
        advice = {found["what"].split()[0]: " ".join(found["advice"]) for found in faults(told)}
        assert word in advice[name]
        assert (told["lag"] is None) == (server == "kafka")
        assert (told["database"] is None) == (server == "postgres")
        assert time.monotonic() - began < 60
    finally:
        stack.start(server)


def test_without_prometheus_the_processes_themselves_tell_the_rates(stack, status, well, tmp_path):
    stack.stop("prometheus")
    try:
        with Sensors(stack, tmp_path, rate=200, habits=GOOD_HABITS):
            assert wait_until(lambda: (status("--json")[1]["rates"]["stored"] or 0) > 50, SECONDS)
            code, told = status("--json")
        assert code == 1
        assert [found["what"].split()[0] for found in told["findings"]] == ["prometheus"]
        assert 1 < told["rates"]["over_seconds"] < 10
    finally:
        stack.start("prometheus")
    assert status("--json", BRIGADE_STATUS_PROMETHEUS_URL="")[0] == 0, "to have none is no fault"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BRIGADE_DATABASE_URL", "postgresql://brigade:wrong@127.0.0.1:{postgres}/brigade"),
        ("BRIGADE_STATUS_PARTS", "lag=http://nowhere.invalid:9103"),
    ],
)
def test_what_cannot_be_told_from_here_is_neither_well_nor_wrong(stack, status, well, variable, value):
    code, told = status("--json", **{variable: value.format(**stack.ports), "BRIGADE_STATUS_PROMETHEUS_URL": ""})
    assert (code, told["state"]) == (2, "unknown")
    assert "cannot tell" in told["findings"][0]["what"]


def test_explain_says_what_to_do(stack, status, well):
    stack.stop("lag")
    try:
        code, screen = status("--explain")
        assert code == 1
        assert "✗ lag is down" in screen
        assert "tail -n 20" in screen
    finally:
        stack.start("lag")
