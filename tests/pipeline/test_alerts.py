"""`brigade alerts` on a real Alertmanager."""

import re
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import typer

from pipeline.alerts import duration_of, matcher_of


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


def test_alerts_are_listed_silenced_and_told_again(brigade, alertmanager, alertmanager_url, unique):
    alert = {"alertname": f"Alert{unique}", "severity": "critical", "site": "seoul"}
    fire(alertmanager, alert)
    where = {"BRIGADE_ALERTMANAGER_URL": alertmanager_url}
    listed = brigade("alerts", "list", **where)
    assert listed.returncode == 1
    line = next(line for line in listed.stdout.splitlines() if alert["alertname"] in line)
    assert re.search(r"critical +seoul .* told +It is so +docs/runbooks/It.md", line)

    made = brigade("alerts", "silence", alert["alertname"], "site=seoul", "--why", "we know", "--for", "30m", **where)
    assert made.returncode == 0, made.stderr
    until(lambda: state_of(alertmanager, **alert)["silencedBy"] == [made.stdout.strip()])
    assert "silenced" in brigade("alerts", "list", **where).stdout
    silences = brigade("alerts", "silences", **where).stdout
    assert made.stdout.strip() in silences
    assert "we know" in silences

    assert brigade("alerts", "unsilence", made.stdout.strip(), **where).returncode == 0
    until(lambda: not state_of(alertmanager, **alert)["silencedBy"])


def test_without_an_alertmanager_one_line_says_so(brigade):
    refused = brigade("alerts", "list", BRIGADE_ALERTMANAGER_URL="http://127.0.0.1:9")
    assert refused.returncode == 1
    assert refused.stderr.startswith("brigade: Alertmanager at http://127.0.0.1:9 (BRIGADE_ALERTMANAGER_URL): ")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("word", "name", "value", "is_equal", "is_regex"),
    [
        ("BridgeDown", "alertname", "BridgeDown", True, False),
        ("site=seoul", "site", "seoul", True, False),
        ('part!="worker"', "part", "worker", False, False),
        ("alertname=~Error.*", "alertname", "Error.*", True, True),
        ("sli!~api_.*", "sli", "api_.*", False, True),
    ],
)
def test_a_matcher(word, name, value, is_equal, is_regex):
    assert matcher_of(word) == {"name": name, "value": value, "isEqual": is_equal, "isRegex": is_regex}


def test_a_time():
    assert duration_of("90m") == timedelta(hours=1.5)
    assert duration_of("1d") == timedelta(days=1)


@pytest.mark.parametrize("text", ["", "2", "h", "0m", "2 h", "2w", "-1h"])
def test_no_time(text):
    with pytest.raises(typer.BadParameter, match="no time such as 30m"):
        duration_of(text)
