"""Who is told what: the routes by value, inhibition and the command on a real Alertmanager."""

import re
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from deploy.local.layout import REPOSITORY
from tests.prometheus.promtool import RULES, tool

FOLDER = REPOSITORY / "deploy" / "alertmanager"
CONFIGURATION = (FOLDER / "alertmanager.yml").read_text()


def test_amtool_finds_nothing_wrong():
    checked = tool("amtool", FOLDER, "check-config", "alertmanager.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["alertname=Watchdog", "severity=info"], "dead-man"),
        (["alertname=BridgeDown", "severity=critical", "part=bridge"], "on-call"),
        (["alertname=DiskFillingUp", "severity=warning", "part=node"], "tickets"),
        (["alertname=DevicesOffline", "severity=warning", "site=seoul"], "site,tickets"),
        (["alertname=Anything", "severity=critical", "site=seoul"], "site,on-call"),
        (["alertname=DeadLettersArriving", "severity=warning", 'site=""'], "tickets"),
        (["alertname=Notice", "severity=info"], "nobody"),
        (["alertname=WithoutSeverity"], "tickets"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_an_alert_goes_to(labels, receivers):
    routed = tool("amtool", FOLDER, "config", "routes", "test", "--config.file=alertmanager.yml", *labels)
    assert routed.returncode == 0, routed.stdout + routed.stderr
    assert routed.stdout.strip() == receivers


def test_what_is_inhibited_exists():
    alerts = set(re.findall(r"- alert: (\w+)", (RULES / "alerts.yml").read_text()))
    rules = CONFIGURATION[CONFIGURATION.index("inhibit_rules:") :]
    named = re.findall(r'alertname(?:=~|=)"([^"]+)"', rules)
    alone = [name for names in named for name in (names.split("|") if "(" not in names else [names])]
    assert [name for name in alone if not any(re.fullmatch(name, alert) for alert in alerts)] == []


# On the real one ----------------------------------------------------------------------------------------------------


@pytest.fixture
def alertmanager(alertmanager_url):
    with httpx.Client(base_url=f"{alertmanager_url}/api/v2", trust_env=False, timeout=60) as client:
        yield client


def fire(client: httpx.Client, *alerts: dict[str, str]) -> None:
    ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    notes = {"summary": "It is so", "runbook_url": "docs/runbooks/It.md"}
    told = [{"labels": labels, "annotations": notes, "endsAt": ends} for labels in alerts]
    client.post("/alerts", json=told).raise_for_status()


def state_of(client: httpx.Client, **labels: str) -> dict[str, list[str]]:
    matchers = [f'{name}="{value}"' for name, value in labels.items()]
    (alert,) = client.get("/alerts", params={"filter": matchers}).raise_for_status().json()
    return alert["status"]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def test_a_cause_silences_its_consequences_and_nothing_else(alertmanager, unique):
    consequence = {"alertname": "BrokerDroppingMessages", "severity": "critical", "part": unique}
    unrelated = {"alertname": "DiskFillingUp", "severity": "warning", "instance": unique}
    fire(alertmanager, {"alertname": "BrokerDown", "severity": "critical", "part": unique}, consequence, unrelated)
    until(lambda: state_of(alertmanager, **consequence)["inhibitedBy"])
    assert not state_of(alertmanager, **unrelated)["inhibitedBy"]


def test_a_smaller_burn_of_the_same_promise_is_not_told_again(alertmanager, unique):
    fast = {"alertname": "ErrorBudgetBurnFast", "severity": "critical", "sli": unique}
    slow = {"alertname": "ErrorBudgetBurnSlow", "severity": "critical", "sli": unique}
    other = {"alertname": "ErrorBudgetBurnSlow", "severity": "critical", "sli": f"other-{unique}"}
    fire(alertmanager, fast, slow, other)
    until(lambda: state_of(alertmanager, **slow)["inhibitedBy"])
    assert not state_of(alertmanager, **other)["inhibitedBy"]
