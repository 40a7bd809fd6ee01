"""Rules by value: each alert fires and stays silent, what the autoscaler reads cannot be fooled."""

import re
from itertools import groupby

import pytest

from deploy.local.layout import REPOSITORY
from tests.prometheus.cases import CASES, Case
from tests.prometheus.promtool import RULES, Expectation, tool, try_rules

ALERTS = re.findall(
    r"- alert: (\w+)\n(.*?)(?=\n\s+- alert:|\n  - name:|\Z)", (RULES / "alerts.yml").read_text(), re.DOTALL
)
NAMES = [name for name, _ in ALERTS]


def test_promtool_finds_nothing_wrong():
    checked = tool(
        "promtool", RULES, "check", "rules", "--lint=all", *sorted(file.name for file in RULES.glob("*.yml"))
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(("name", "text"), ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name, text):
    assert re.search(r"severity: (critical|warning|info)\b", text)
    assert "summary: " in text
    assert "description: " in text
    page = REPOSITORY / re.search(r"runbook_url: (\S+)", text)[1]
    assert page == REPOSITORY / f"docs/runbooks/{name}.md"
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["What it means", "What the customer feels", "First three commands", "How to end it"]
    assert page.read_text().startswith(f"# {name}\n")


def test_each_runbook_belongs_to_an_alert():
    assert sorted(page.stem for page in (REPOSITORY / "docs/runbooks").glob("*.md")) == sorted(NAMES)


def test_each_alert_is_seen_firing_and_silent():
    by_alert = {name: list(cases) for name, cases in groupby(sorted(CASES, key=lambda c: c.alert), lambda c: c.alert)}
    assert sorted(by_alert) == sorted(NAMES)
    lacking = {name for name, cases in by_alert.items() if {case.fires is None for case in cases} != {True, False}}
    assert lacking == {"Watchdog"}  # which is never silent


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.what}")
def test_an_alert(case: Case, tmp_path):
    query = f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}'
    expected = []
    if case.fires is not None:
        labels = {"alertname": case.alert, "alertstate": "firing", **case.fires}
        matchers = ", ".join(f'{name}="{value}"' for name, value in labels.items())
        expected = [(f"ALERTS{{{matchers}}}", 1.0)]
    expectations = [Expectation(minutes=case.minutes, query=query, samples=expected)]
    tried = try_rules(tmp_path, case.series, expectations, every_seconds=case.every_seconds)
    assert tried.returncode == 0, tried.stdout + tried.stderr


# What the autoscaler reads ------------------------------------------------------------------------------------------

SERIES = "consumergroup:kafka_consumergroup_lag{}:sum"
GROUP = 'namespace="n", consumergroup="w", topic="t"'


def lag_holds(folder, rules=RULES, suffix="_messages"):
    """Every promise about lag: never committed is not negative, told twice is counted once, unknown is not zero."""
    metric, recorded = f"kafka_consumergroup_lag{suffix}", SERIES.format(suffix)
    series = {
        f'{metric}{{{GROUP}, partition="0", instance="a"}}': "10x8 stale",
        f'{metric}{{{GROUP}, partition="0", instance="b"}}': "10x8 stale",
        f'{metric}{{{GROUP}, partition="1", instance="a"}}': "-1x8 stale",
        f'{metric}{{{GROUP}, partition="2", instance="b"}}': "5x8 stale",
    }
    expectations = [
        Expectation(minutes=1, query=recorded, samples=[(f"{recorded}{{{GROUP}}}", 15)]),
        Expectation(minutes=4, query=recorded, samples=[]),
    ]
    return try_rules(folder, series, expectations, rules=rules)


def rate_holds(folder, rules=RULES):
    recorded = "pipeline:messages_appended:rate1m"
    metric = "pipeline_bridge_messages_acknowledged_total"
    series = {
        f'{metric}{{namespace="n", instance="a"}}': "0+150x12 stale",
        f'{metric}{{namespace="n", instance="b"}}': "0+300x12 stale",
    }
    expectations = [
        Expectation(minutes=2, query=recorded, samples=[(f'{recorded}{{namespace="n"}}', 30)]),
        Expectation(minutes=6, query=recorded, samples=[]),
    ]
    return try_rules(folder, series, expectations, rules=rules)


@pytest.mark.parametrize("suffix", ["_messages", ""])
def test_lag_is_summed_once_for_each_partition_and_ends_when_it_is_unknown(tmp_path, suffix):
    tried = lag_holds(tmp_path, suffix=suffix)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_the_append_rate_is_that_of_all_bridges_and_ends_with_them(tmp_path):
    tried = rate_holds(tmp_path)
    assert tried.returncode == 0, tried.stdout + tried.stderr


MUTATIONS = {  # of the rules as text: pattern, replacement, and which test must see it
    "the clamp is dropped": (r"clamp_min\((kafka_consumergroup_lag_messages), 0\)", r"\1", lag_holds),
    "partitions are not told apart from exporters": (
        r"max by \(namespace, consumergroup, topic, partition\) \((clamp_min\(kafka_consumergroup_lag_messages, 0\))\)",
        r"(\1)",
        lag_holds,
    ),
    "the maximum is taken over the partitions too": (
        r"max by \(namespace, consumergroup, topic, partition\) (\(clamp_min\(kafka_consumergroup_lag_messages)",
        r"max by (namespace, consumergroup, topic) \1",
        lag_holds,
    ),
    "no backlog is told where it is unknown": (
        r"(clamp_min\(kafka_consumergroup_lag_messages, 0\)\)\))",
        r"\1 or vector(0)",
        lag_holds,
    ),
    "a broken rate is told as none": (
        r"(sum by \(namespace\) \(rate\(pipeline_bridge_messages_acknowledged_total\[1m\]\)\))",
        r"\1 or vector(0)",
        rate_holds,
    ),
    "one bridge's rate is taken for all": (
        r"sum by \(namespace\) (\(rate\(pipeline_bridge_messages_acknowledged_total\[1m\]\)\))",
        r"max by (namespace) \1",
        rate_holds,
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_these_tests_see_when(mutation, tmp_path):
    pattern, replacement, holds = MUTATIONS[mutation]
    changed = tmp_path / "changed"
    changed.mkdir()
    text, count = re.subn(pattern, replacement, (RULES / "pipeline.yml").read_text())
    assert count == 1
    (changed / "pipeline.yml").write_text(text)
    (tmp_path / "run").mkdir()
    assert tool("promtool", changed, "check", "rules", "pipeline.yml").returncode == 0
    tried = holds(tmp_path / "run", rules=changed)
    assert tried.returncode == 1
    assert "exp:" in tried.stdout + tried.stderr, "it failed for another reason"


def test_nothing_that_feeds_the_autoscaler_divides():
    group = (RULES / "pipeline.yml").read_text().split("- name: ")[1]
    assert group.startswith("lag\n")
    expressions = re.findall(r"expr: (.*?)(?=\n\s+- record|\n\s*#|\Z)", group, re.DOTALL)
    assert len(expressions) == 3
    assert not [text for text in expressions if "/" in text or " or " in text]


# Service levels -----------------------------------------------------------------------------------------------------


def test_a_backlog_is_late_and_not_lost_and_a_loss_is_a_loss(tmp_path):
    """100 messages every 15 s are accepted; half wait in Kafka for half an hour, then one in ten is never stored."""
    lag = 'kafka_consumergroup_lag_messages{consumergroup="w", topic="t", partition="0"}'
    series = {
        "pipeline_bridge_messages_acknowledged_total": "0+100x480",
        "pipeline_sink_messages_total": "0+50x120 6000+90x360",
        lag: "0+50x120 6000x360",
    }
    query = 'sli:errors:ratio_rate1h{sli="completeness"}'
    waiting = Expectation(minutes=30, query=f"{query} < bool 0.001", samples=[('{sli="completeness"}', 1)])
    lost = Expectation(minutes=110, query=f"round({query}, 0.01)", samples=[('{sli="completeness"}', 0.1)])
    tried = try_rules(tmp_path, series, [waiting, lost])
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_the_counts_of_a_process_that_just_began_are_no_loss(tmp_path):
    """A worker is started again at 20 minutes, and the counts of its first seconds are in no scrape."""
    series = {
        "pipeline_bridge_messages_acknowledged_total": "0+100x200",
        "pipeline_sink_messages_total": "0+100x80 0+100x120",
        'kafka_consumergroup_lag_messages{consumergroup="w", topic="t", partition="0"}': "0x200",
        'process_start_time_seconds{job="worker"}': "-3600x80 1200x120",
        'process_start_time_seconds{job="bridge"}': "-3600x200",
    }
    query = 'sli:errors:ratio_rate30m{sli="completeness"}'
    tried = try_rules(tmp_path, series, [Expectation(minutes=40, query=query, samples=[(query, 0)])])
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_an_api_that_answers_has_all_of_its_budget_and_live_streams_are_not_slow(tmp_path):
    count, bucket = "http_request_duration_seconds_count", "http_request_duration_seconds_bucket"
    labels = 'job="gateway", method="GET", code="200"'
    series = {
        f'{count}{{{labels}, route="/a"}}': "0+10x80",
        f'{bucket}{{{labels}, route="/a", le="0.5"}}': "0+10x80",
        f'{count}{{{labels}, route="/api/v1/stream"}}': "0+10x80",
        f'{bucket}{{{labels}, route="/api/v1/stream", le="0.5"}}': "0x80",
    }
    remaining = [
        (f'sli:error_budget_remaining:ratio_7d{{sli="{sli}"}}', 1) for sli in ("api_availability", "api_latency")
    ]
    query = 'sli:error_budget_remaining:ratio_7d{sli=~"api.*"}'
    tried = try_rules(tmp_path, series, [Expectation(minutes=15, query=query, samples=remaining)])
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_one_failure_in_a_hundred_spends_the_availability_ten_times(tmp_path):
    count = 'http_request_duration_seconds_count{job="gateway", method="GET", route="/a"'
    series = {f'{count}, code="200"}}': "0+99x80", f'{count}, code="503"}}': "0+1x80"}
    query = 'round(sli:error_budget_remaining:ratio_7d{sli="api_availability"}, 0.01)'
    tried = try_rules(
        tmp_path, series, [Expectation(minutes=15, query=query, samples=[('{sli="api_availability"}', -9)])]
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
