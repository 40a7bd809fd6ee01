"""On a running stack: what is killed is told and what is back is told, every name exists, series stay bounded."""

import asyncio
import json
import queue
import re
import signal
import time
from datetime import UTC, datetime

import aiomqtt
import httpx
import pytest

from deploy.local.layout import OWNER, REPOSITORY, Passwords
from docs.metrics_page import declared
from tests.prometheus.promtool import RULES

SECONDS = 180
RUNBOOKS = sorted((REPOSITORY / "docs" / "runbooks").glob("*.md"))
OTHER_PAGES = [REPOSITORY / "docs" / "operations.md"]

ELSEWHERE = {
    # Told by kube-state-metrics, which needs a Kubernetes.
    "kube_horizontalpodautoscaler_status_condition",
    "kube_horizontalpodautoscaler_status_current_replicas",
    "kube_horizontalpodautoscaler_spec_max_replicas",
}


def calling(stack, port: str, path: str = "") -> httpx.Client:
    address = f"http://127.0.0.1:{stack.ports[port]}{path}"
    return httpx.Client(base_url=address, trust_env=False, timeout=SECONDS)


def metrics_of(stack, port: str) -> str:
    with calling(stack, port) as client:
        return client.get("/metrics").text


@pytest.fixture(scope="module")
def prometheus(stack):
    with calling(stack, "prometheus", "/api/v1") as client:
        yield client


@pytest.fixture(scope="module")
def names(stack, prometheus, traffic) -> set[str]:
    """Of every series that Prometheus has, when all that can be there is."""
    found: set[str] = set()

    def complete() -> bool:
        ask(stack, "/api/v1/devices")  # again and again: a rate needs two samples
        found.clear()
        found.update(prometheus.get("/label/__name__/values").raise_for_status().json()["data"])
        return not missing_from(found, in_rules())

    wait(complete, SECONDS, lambda: f"missing: {sorted(missing_from(found, in_rules()))}")
    return found


@pytest.fixture(scope="module")
def traffic(stack) -> None:
    """Readings that are stored, one that is refused, requests that are answered."""
    asyncio.run(publish(stack, devices=3))
    ask(stack, "/api/v1/devices")


def wait(condition, seconds, why=lambda: "it never came"):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.25)


async def publish(stack, *, devices: int, site: str = "metrics") -> None:
    async with aiomqtt.Client("127.0.0.1", stack.ports["mqtt"], **stack.mqtt_login) as client:
        for number in range(devices):
            topic = f"brigade/v1/{site}/sensor-{number}"
            reading = {"ts": datetime.now(UTC).isoformat(), "temperature_c": 3.4}
            await client.publish(f"{topic}/readings", json.dumps(reading), qos=1)
        await client.publish(f"{topic}/readings", b"{", qos=1)
        await client.publish(f"{topic}/status", b"online", qos=1)


def ask(stack, path: str) -> None:
    with calling(stack, "gateway") as client:
        who = {"email": OWNER, "password": Passwords.of(stack.instance).owner}
        token = client.post("/api/v1/auth/login", json=who).raise_for_status().json()["access_token"]
        client.get(path, headers={"Authorization": f"Bearer {token}"}).raise_for_status()


def number(prometheus, query: str) -> float | None:
    found = prometheus.get("/query", params={"query": query}).raise_for_status().json()["data"]["result"]
    return float(found[0]["value"][1]) if found else None


# Every name exists ------------------------------------------------------------------------------------------------

NAME = re.compile(
    r"\b[a-z][a-z0-9_]*(?::[a-z0-9_]+)+\b|\b(?:pipeline|gateway|users|http|kafka|broker|brigade|node|pg|redis|kube|process)_[a-z0-9_]+\b"
)
NO_METRICS = {
    "brigade_monitor",
    "pg_blocking_pids",
    "pg_monitor",
    "pg_replication_slots",
    "pg_stat_activity",
    "pg_terminate_backend",
}


def in_rules() -> set[str]:
    expressions = " ".join(
        text
        for file in RULES.glob("*.yml")
        for text in re.findall(r"expr: (.*?)(?=\n\s+(?:- |for:|labels:|$)|\Z)", file.read_text(), re.DOTALL)
    )
    recorded = {name for file in RULES.glob("*.yml") for name in re.findall(r"record: (\S+)", file.read_text())}
    return (set(NAME.findall(re.sub(r"\{[^}]*\}|\([a-z, ]+\)", " ", expressions))) | recorded) - ELSEWHERE


def missing_from(there: set[str], wanted: set[str]) -> set[str]:
    """A histogram is named without its `_bucket` in texts."""
    return {name for name in wanted if name not in there and f"{name}_bucket" not in there}


def test_every_metric_of_a_rule_exists(names):
    assert len(in_rules()) > 100
    assert missing_from(names, in_rules()) == set()


@pytest.mark.parametrize("page", [*RUNBOOKS, *OTHER_PAGES], ids=lambda page: page.stem)
def test_every_metric_of_a_page_exists(names, page):
    told = set(NAME.findall(page.read_text())) - NO_METRICS - ELSEWHERE
    assert missing_from(names, told) == set()


def test_the_page_of_metrics_and_the_processes_tell_the_same(stack, names):
    """Both ways: what is declared is told, what is told is declared."""
    port_of = {"bridge": "bridge-0", "worker": "worker-1", "gateway": "gateway-metrics", "users": "users-metrics"}
    page = declared()
    web = {metric.name for metric in page["gateway and users"]}
    everywhere = {metric.name for metric in page["every process"]}
    for process in ("bridge", "worker", "lag", "maintain", "broker", "gateway", "users"):
        text = metrics_of(stack, port_of.get(process, process))
        told = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
        wanted = {metric.name for metric in page[process]} | everywhere
        wanted |= web if process in {"gateway", "users"} else set()
        assert wanted - told == set(), process
        unknown = {name for name in told - wanted if not name.startswith(("python_", "process_"))}
        if process == "broker":  # $SYS
            unknown = {name for name in unknown if not name.startswith("broker_")}
        assert unknown == set(), process


def test_every_target_is_up(prometheus, names):
    targets = prometheus.get("/targets").raise_for_status().json()["data"]["activeTargets"]
    assert {t["labels"]["job"]: t["lastError"] for t in targets if t["health"] != "up"} == {}
    assert {t["labels"]["job"] for t in targets} >= {"node", "postgres", "redis", "kafka", "broker", "bridge", "worker"}


def test_a_reading_counts_as_delayed_by_what_it_was(stack, prometheus, names):
    assert number(prometheus, "sum(pipeline_sink_event_delay_seconds_count)") >= 3
    assert number(prometheus, 'sum(pipeline_sink_event_delay_seconds_bucket{le="10.0"})') >= 3


# Bounded ----------------------------------------------------------------------------------------------------------


def series_of(stack, *ports: str) -> int:
    texts = [metrics_of(stack, port) for port in ports]
    return sum(not line.startswith("#") for text in texts for line in text.splitlines())


def test_series_stay_bounded_whatever_is_asked_for_and_whoever_sends(stack, prometheus, names):
    ports = ("gateway-metrics", "users-metrics", "bridge-0", "worker-1", "worker-2", "lag", "broker", "maintain")
    with calling(stack, "gateway") as client:
        for path in ("/nothing", "/api/v1/nothing", "/api/v1/devices/nobody/latest"):
            client.get(path)
        client.request("BREW", "/nothing")
        before = series_of(stack, *ports)
        for n in range(1000):
            path = ("/{}", "/api/v1/{}", "/api/v1/devices/{}/latest", "/{}?a={}")[n % 4].format(f"x{n}", n)
            client.request(f"M{n}" if n % 10 == 0 else "GET", path)
    asyncio.run(publish(stack, devices=500, site="metrics"))
    wait(lambda: (number(prometheus, 'sum(pipeline_fleet_devices{site="metrics"})') or 0) >= 500, SECONDS)
    more = series_of(stack, *ports) - before
    assert more <= 200, "a histogram for each kind of answer, not for each thing asked for"


# Told -------------------------------------------------------------------------------------------------------------


def next_of(receivers, alert: str, status: str) -> tuple[str, dict]:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            path, told = receivers.webhooks.get(timeout=max(0.1, deadline - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"{alert} was never told as {status}")
        if told["status"] == status and told["commonLabels"].get("alertname") == alert:
            return path, told


def test_the_watchdog_barks_outside(receivers, stack):
    path, told = next_of(receivers, "Watchdog", "firing")
    assert path == "/dead-man"
    assert told["receiver"] == "dead-man"


def test_a_killed_bridge_is_told_and_so_is_its_recovery(receivers, stack, names):
    stack.signal("bridge-0", signal.SIGKILL)
    stack.stop("bridge-0")
    try:
        path, told = next_of(receivers, "BridgeDown", "firing")
        assert path == "/on-call"
        (alert,) = told["alerts"]
        assert alert["labels"]["severity"] == "critical"
        assert alert["annotations"]["runbook_url"] == "docs/runbooks/BridgeDown.md"
        wait(
            lambda: any("To: on-call@example.com" in mail and "BridgeDown" in mail for mail in receivers.mails), SECONDS
        )
    finally:
        stack.start("bridge-0")
    path, told = next_of(receivers, "BridgeDown", "resolved")
    assert path == "/on-call"
