"""What the chart's autoscalers decide, and that its rules are why.

Everything between the exporters and the number of pods is real: a Prometheus with the chart's rules, the adapter with
the chart's, Kubernetes' controllers, and the chart's autoscalers with values-decisions.yaml. The exporters' numbers are
set here (recorded.py), and no pod runs (stand_in.py). All cases are played at the same time, each in a namespace of its
own, with a target in Prometheus that carries this namespace; mutants, whose rules or autoscaler somebody has spoilt,
among them.
"""

import re
import signal
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import pytest
import yaml

from deploy.cluster import metrics
from deploy.local.ready import wait_until
from tests.cluster.api import Api
from tests.cluster.deciding import (
    LAG,
    PATIENCE_SECONDS,
    RATE,
    VALUES,
    Case,
    Prometheus,
    adapter_rules,
    chart_rules,
    mutated,
)
from tests.cluster.recorded import PARTITIONS, RESOURCE_METRICS, exporters, resource_metrics, spread
from tests.cluster.stand_in import StandIn
from tests.deploy.chart.rendering import CHART, of_kind
from tests.pipeline.bridge_servers import OwnServer, own_instance

CHOSEN = yaml.safe_load((CHART / "values-decisions.yaml").read_text())
PERIOD_SECONDS = CHOSEN["worker"]["autoscaling"]["behavior"]["scaleDown"]["policies"][0]["periodSeconds"]
FROZEN_SECONDS = 40
"""Longer than everything after which an autoscaler takes a pod away: its window, its period, its interval."""

PLAYS = {}


def play(workload="iot", *, exporters=1, rules=None, scaler=None):
    """Have this played; `rules` and `scaler` spoil the rules, or the autoscaler, of its namespace."""

    def add(scene):
        PLAYS[scene.__name__.replace("_", " ")] = SimpleNamespace(
            scene=scene, workload=workload, exporters=exporters, rules=rules, scaler=scaler
        )
        return scene

    return add


# How one exporter's lag becomes a number of workers -----------------------------------------------------------------


@play()
def at_3500_behind_it_wants_4(case, _):
    case.recorded.behind(spread(3_500))
    assert case.decides(**{LAG: 3_500}) == 4
    assert case.pods() == 4


@play()
def at_27000_behind_it_wants_5_and_says_that_it_is_limited(case, _):
    case.recorded.behind(spread(27_000))
    decision = case.decision_on(**{LAG: 27_000})
    assert decision.wanted == 5
    assert decision.reasons["ScalingLimited"] == ("True", "TooManyReplicas")
    assert case.pods() == 5


@play()
def at_2100_behind_two_stay_two(case, _):
    """A tenth more than the target is as good as the target; more than that is not."""
    case.recorded.behind(spread(2_100))
    assert case.decides(**{LAG: 2_100}) == 2
    case.recorded.behind(spread(2_300))
    assert case.decides(**{LAG: 2_300}) == 3


def two_partitions_unknown(case, *, seen):
    """The number of workers, of three, when two partitions are told as -1 and the others are 2,001 behind."""
    case.recorded.behind(spread(2_900))
    assert case.decides(**{LAG: 2_900}) == 3
    known = [2_001 // (PARTITIONS - 2)] * (PARTITIONS - 2)
    case.recorded.behind([-1, -1, known[0] + 2_001 % (PARTITIONS - 2), *known[1:]])
    return case.decides(**{LAG: seen})


@play()
def minus_1_of_two_partitions_changes_nothing(case, _):
    assert two_partitions_unknown(case, seen=2_001) == 3
    case.recorded.behind([-1] * PARTITIONS)
    assert case.decides(**{LAG: 0}) == 2


@play(rules=lambda expr: re.sub(r"clamp_min\((\w+), 0\)", r"\1", expr))
def without_the_clamp_minus_1_takes_a_worker_away(case, _):
    assert two_partitions_unknown(case, seen=1_999) == 2


def told_twice(case, *, seen):
    case.recorded.behind(spread(3_500))
    return case.decides(**{LAG: seen})


@play(exporters=2)
def two_exporters_count_once(case, _):
    assert told_twice(case, seen=3_500) == 4


@play(exporters=2, rules=lambda expr: expr.replace("max by (namespace, consumergroup, topic, partition) ", ""))
def without_the_maximum_by_partition_two_exporters_count_twice(case, _):
    assert told_twice(case, seen=7_000) == 5


def as_a_value(scaler):
    for metric in scaler["spec"]["metrics"]:
        target = metric["external"]["target"]
        metric["external"]["target"] = {"type": "Value", "value": target["averageValue"]}


@play(scaler=as_a_value)
def with_value_for_average_value_3500_behind_are_5(case, _):
    case.recorded.behind(spread(3_500))
    assert case.decides(**{LAG: 3_500}) == 5


# Load that comes, stays and goes ------------------------------------------------------------------------------------


def caught_up(case):
    """The number of workers when 3,400 messages come every second and all of them are read at once."""
    case.recorded.appends(3_400)
    case.recorded.behind(spread(3_500))
    case.until(lambda decision: decision.pods == 4 and decision.read.get(LAG, 0) > 3_400)
    assert wait_until(lambda: (case.served(RATE) or 0) > 3_100, PATIENCE_SECONDS)
    case.recorded.behind(spread(0))
    return case.decides(**{LAG: 0})


@play()
def at_lag_0_and_a_high_rate_they_stay(case, _):
    assert caught_up(case) == 4
    assert 3_100 < case.decision().read[RATE] < 3_700


def without_the_rate(scaler):
    (lag,) = [one for one in scaler["spec"]["metrics"] if one["external"]["metric"]["name"] == LAG]
    scaler["spec"]["metrics"] = [lag]


@play(scaler=without_the_rate)
def by_the_lag_alone_they_leave_at_a_high_rate(case, _):
    assert caught_up(case) == 2


@play()
def when_the_load_is_gone_they_leave_one_at_a_time(case, _):
    case.recorded.behind(spread(27_000))
    assert case.decides(**{LAG: 27_000}) == 5
    case.recorded.behind(spread(0))
    assert case.decides(**{LAG: 0}) == 2
    down = [step for before, step in pairwise(case.steps()) if step[1] < before[1]]
    assert [size for _, size in down] == [4, 3, 2]
    for (earlier, _), (later, _) in pairwise(down):
        assert (later - earlier).total_seconds() > PERIOD_SECONDS - 2  # events tell whole seconds


# Processors ---------------------------------------------------------------------------------------------------------


@play("gateway")
def the_gateway_goes_from_2_to_7_on_its_processors_and_back(case, used):
    """476 millicores: 68 for each of seven, of the 100 that each has asked for."""
    used[case.namespace] = 40
    assert case.decides(memory=50, cpu=20) == 2
    used[case.namespace] = 476
    assert case.decides(memory=50, cpu=68) == 7
    used[case.namespace] = 40
    assert case.decides(memory=50, cpu=20) == 2


@play("user")
def users_are_never_more_than_5(case, used):
    used[case.namespace] = 10_000
    decision = case.decision_on(memory=50, cpu=200)
    assert decision.wanted == 5
    assert decision.reasons["ScalingLimited"] == ("True", "TooManyReplicas")
    assert max(size for _, size in case.steps()) == 5


# The other reader of the series -------------------------------------------------------------------------------------


@play()
def keda_asks_for_the_same_numbers(case, stage):
    """KEDA itself does not run here: its queries do, as the chart writes them."""
    case.recorded.appends(800)
    case.recorded.behind(spread(2_900))
    assert case.decides(**{LAG: 2_900}) == 3
    lag, rate = keda_queries(case)
    assert stage.prometheus.query(lag) == [2_900] == [case.served(LAG)]

    def the_same():
        ((by_keda,), by_adapter) = stage.prometheus.query(rate), case.served(RATE)
        return by_keda > 700 and abs(by_keda - by_adapter) < 0.02 * by_keda

    assert wait_until(the_same, PATIENCE_SECONDS)


def keda_queries(case):
    words = ("--namespace", case.namespace, *VALUES, "-f", "values-keda.yaml")
    triggers = of_kind("ScaledObject", *words)["iot"]["spec"]["triggers"]
    return [trigger["metadata"]["query"] for trigger in triggers]


# The last case needs that nobody tells a lag any more ---------------------------------------------------------------


@play()
def four_at_work(case, _):
    """For what comes after all cases."""
    case.recorded.appends(100)
    case.recorded.behind(spread(3_500))
    assert case.decides(**{LAG: 3_500}) == 4


@pytest.fixture(scope="module")
def stage(cluster, program, tmp_path_factory):
    """Servers, namespaces and autoscalers of all cases, and the cases at play."""
    folder = tmp_path_factory.mktemp("decisions")
    api = Api(cluster)
    used = defaultdict(int)
    cases = {
        name: Case(api, re.sub(r"[^a-z0-9]+", "-", name)[:63].strip("-"), one.workload, one.scaler)
        for name, one in PLAYS.items()
    }
    recorded = {case.namespace: case.recorded for case in cases.values()}
    with (
        StandIn(api),
        exporters(recorded) as told,
        resource_metrics(api, used, folder) as measured,
        ThreadPoolExecutor(len(cases)) as players,
    ):
        prometheus = started(folder, cases, told.port)
        metrics.register(cluster, RESOURCE_METRICS, "resource-metrics", measured.port)
        cluster.wait(f"/apis/{RESOURCE_METRICS}/v1beta1", PATIENCE_SECONDS)
        stage = SimpleNamespace(cluster=cluster, program=program, prometheus=prometheus, cases=cases, used=used)
        stage.adapter_rules = folder / "adapter.yaml"
        serve(stage, adapter_rules())
        stage.played = {name: players.submit(played, case, PLAYS[name].scene, stage) for name, case in cases.items()}
        yield stage
        for future in stage.played.values():
            future.cancel()
        players.shutdown()
        prometheus.server.end()
        for case in cases.values():
            api.remove(f"/api/v1/namespaces/{case.namespace}")
        for group in (RESOURCE_METRICS, metrics.GROUP):
            api.remove(f"/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.{group}")
    api.close()


def played(case, scene, stage):
    case.install()
    case.scale()
    scene(case, stage.used if case.workload != "iot" else stage)


def started(folder, cases, port):
    prometheus = Prometheus(OwnServer("prometheus", own_instance(folder / "prometheus")))
    for file in prometheus.rules.iterdir():
        file.unlink()
    for name, text in chart_rules().items():
        # The alert would fire after two minutes.
        quick = re.sub(r"(alert: LagMetricAbsent\n.*\n +for:) 2m", r"\1 5s", text)
        assert name != "alerts.yml" or quick != text
        (prometheus.rules / name).write_text(quick)
    targets = []
    for name, one in PLAYS.items():
        labels = {"namespace": cases[name].namespace}
        if one.rules:
            labels["mutant"] = re.sub(r"\W", "_", name)
            (prometheus.rules / f"{labels['mutant']}.yml").write_text(mutated(labels["mutant"], one.rules))
        parts = [("lag", f"lag-exporter-{number}") for number in range(one.exporters)]
        for part, instance in (*parts, ("bridge", "iot-bridge-0")):
            own = {"__metrics_path__": f"/{labels['namespace']}/{part}", "instance": instance}
            targets.append({"targets": [f"127.0.0.1:{port}"], "labels": labels | own})
    prometheus.configure(targets, CHOSEN["prometheus"]["scrapeInterval"])
    prometheus.server.start()
    return prometheus


def serve(stage, rules):
    stage.adapter_rules.write_text(rules)
    metrics.serve(stage.cluster, stage.program, prometheus=stage.prometheus.url, rules=stage.adapter_rules)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYS)
def test_a_decision(stage, name):
    stage.played[name].result()


@pytest.fixture(scope="module")
def silent(stage):
    """When all cases have been played, no exporter of a lag answers any more."""
    for future in stage.played.values():
        future.exception()
    for case in stage.cases.values():
        case.recorded.exporter_answers = False
    case = stage.cases["four at work"]
    case.until(lambda decision: decision.reasons["ScalingActive"] == ("False", "FailedGetExternalMetric"))
    return case


@pytest.mark.slow
def test_without_an_exporter_the_number_stays_and_an_alert_fires(stage, silent):
    assert silent.keeps(4, FROZEN_SECONDS)
    assert silent.decision().reasons["ScalingActive"] == ("False", "FailedGetExternalMetric")
    assert wait_until(lambda: stage.prometheus.fires("LagMetricAbsent"), PATIENCE_SECONDS)


def test_without_an_exporter_keda_gets_no_number_either(stage, silent):
    lag, rate = keda_queries(silent)
    assert stage.prometheus.query(lag) == []
    assert stage.prometheus.query(rate) != []


@pytest.mark.slow
def test_a_rule_with_or_vector_0_would_silence_that_alert(stage, silent):
    """The autoscaler does not follow that rule, as the adapter asks for series of its namespace, and it has none."""
    assert wait_until(lambda: stage.prometheus.fires("LagMetricAbsent"), PATIENCE_SECONDS)
    file = stage.prometheus.rules / "pipeline.yml"
    text = file.read_text()
    spoilt = re.sub(r"(clamp_min\(kafka_consumergroup_lag_messages, 0\)\)\))", r"\1 or vector(0)", text)
    assert spoilt != text
    for rules, fires in ((spoilt, False), (text, True)):
        file.write_text(rules)
        stage.prometheus.server.send(signal.SIGHUP)
        assert wait_until(lambda fires=fires: stage.prometheus.fires("LagMetricAbsent") is fires, PATIENCE_SECONDS)
    assert silent.pods() == 4


@pytest.mark.slow
def test_an_adapter_with_or_vector_0_would_take_the_workers_away(stage, silent):
    rules = adapter_rules()
    spoilt = rules.replace("by (<<.GroupBy>>)", "by (<<.GroupBy>>) or vector(0)")
    assert spoilt != rules
    serve(stage, spoilt)
    assert not silent.keeps(4, PATIENCE_SECONDS)
    assert silent.decides(**{LAG: 0}) == 2
