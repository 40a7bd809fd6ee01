"""Every expression of every panel, variable and annotation, sent to the Prometheus of a stack with a restaurant.

Beside the rules' tests: this stack's Prometheus is in a hurry, so that rates are known soon.
"""

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.ready import wait_until
from deploy.local.stack import Stack
from grafana.committed import BOARDS, Asked, asked, variables
from grafana.expanding import Chosen, Shown, promql
from grafana.promql import metrics

EXPRESSIONS = asked("prometheus")
ANNOTATIONS = [(uid, annotation) for uid, board in BOARDS.items() for annotation in board["annotations"]["list"]]
VARIABLE = re.compile(r"label_values\((.+), (\w+)\)")

PROMETHEUS_OWN = {"up", "ALERTS", "ALERTS_FOR_STATE"}
KUBERNETES = {  # told by kubelet and kube-state-metrics, which are there in a cluster alone
    "kube_pod_info",
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas_available",
    "kube_pod_container_status_restarts_total",
    "kube_pod_container_resource_limits",
    "kube_horizontalpodautoscaler_status_desired_replicas",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
}
DEVICES = 20
SETTLED_SECONDS = 180

every_expression = pytest.mark.parametrize("query", EXPRESSIONS, ids=lambda query: query.name)


class Prometheus:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._url = f"http://127.0.0.1:{stack.ports['prometheus']}/api/v1"

    def get(self, path: str, **parameters: object):
        with urllib.request.urlopen(f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def values(self, variable: Mapping) -> list[str]:
        """Of the last quarter of an hour."""
        series, label = VARIABLE.fullmatch(variable["query"]["query"]).groups()
        now = time.time()
        return self.get(f"label/{label}/values", **{"match[]": series, "start": now - 900, "end": now})

    def ask(self, query: Asked, shown: Shown) -> list[Mapping]:
        expr = promql(query.target["expr"], shown)
        if query.target["instant"]:
            found = self.get("query", query=expr, time=shown.end.timestamp())
            assert found["resultType"] == "vector"
        else:
            span = {"start": shown.start.timestamp(), "end": shown.end.timestamp()}
            found = self.get("query_range", query=expr, **span, step=max(15, shown.interval_ms // 1000))
            assert found["resultType"] == "matrix"
        return found["result"]


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Iterator[Prometheus]:
    """With a restaurant long enough for rates over five minutes to have begun."""
    stack.enrol(DEVICES)
    stack.start("simulator")
    found = Prometheus(stack)
    assert wait_until(lambda: settled(found), SETTLED_SECONDS), "a target was not scraped, or no reading counted"
    yield found
    stack.stop("simulator")


def settled(prometheus: Prometheus) -> bool:
    """Every target was scraped five times, so that rates are known and rules were evaluated since; readings flow."""
    few = prometheus.get("query", query="count_over_time(up[10m]) < 5 or up == 0")["result"]
    stored = prometheus.get("query", query="pipeline:messages_stored:rate5m > 0")["result"]
    return bool(stored) and not few


@pytest.fixture(scope="module")
def known(prometheus: Prometheus) -> set[str]:
    """What targets tell of, also where nothing was counted yet, and what rules record without an error."""
    told = set(prometheus.get("metadata", limit=100_000))
    told |= {f"{name}_{part}" for name in told for part in ("bucket", "count", "sum", "total")}
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording" and rule["health"] == "ok"}
    return told | recorded | PROMETHEUS_OWN


@pytest.fixture(scope="module")
def chosen(prometheus: Prometheus) -> Mapping[str, Mapping[str, Chosen]]:
    """`All` of each variable of each board: every value that it has, none in a list of none."""
    return {
        uid: {variable["name"]: Chosen(prometheus.values(variable), multi=True) for variable in own}
        for uid, board in BOARDS.items()
        if (own := [one for one in board["templating"]["list"] if one["datasource"]["uid"] == "prometheus"])
    }


@pytest.fixture(scope="module")
def shown(chosen) -> Callable[..., Shown]:
    def during(query: Asked, back: timedelta, *, end: datetime | None = None) -> Shown:
        end = end or datetime.now(UTC)
        points = query.panel.get("maxDataPoints", 1_000)
        return Shown(end - back, end, chosen.get(query.board, {}), points=points)

    return during


@every_expression
def test_every_metric_exists(known, query):
    assert metrics(query.target["expr"]) - KUBERNETES <= known


@pytest.mark.parametrize(("board", "annotation"), ANNOTATIONS)
def test_every_metric_of_an_annotation_exists(known, board, annotation):
    assert metrics(annotation["expr"]) <= known
    assert annotation["target"]["expr"] == annotation["expr"]


@pytest.mark.parametrize("back", [timedelta(minutes=15), timedelta(days=7)], ids=["15 min", "7 d"])
@every_expression
def test_answers_have_the_shape_of_their_panels(prometheus, shown, query, back):
    for series in prometheus.ask(query, shown(query, back)):
        labels = set(series["metric"])
        named = set(re.findall(r"\{\{(\w+)\}\}", query.target["legendFormat"])) - {"site"}  # not every alert has one
        assert named <= labels, series["metric"]
        for _, value in series.get("values") or [series["value"]]:
            float(value)
    if query.panel["type"] == "stat":
        assert len(prometheus.ask(query, shown(query, back))) <= 1, "a large number is one"
    assert (query.target.get("format") == "table") == (query.panel["type"] == "table")


@every_expression
def test_without_data(prometheus, shown, query):
    """Of a time before anything was measured."""
    found = prometheus.ask(query, shown(query, timedelta(hours=1), end=datetime(2020, 1, 1, tzinfo=UTC)))
    assert all("vector(0)" in query.target["expr"] for _ in found)


@pytest.mark.parametrize(
    "panel",
    [
        ("brigade-overview", "Oldest message not stored"),
        ("brigade-overview", "From device to row, p99"),
        ("brigade-overview", "Received, in Kafka, stored"),
        ("brigade-overview", "Up and down"),
        ("brigade-overview", "What runs"),
        ("brigade-alerts", "Watchdog"),
        ("brigade-bridge", "Messages"),
        ("brigade-worker", "Readings by outcome"),
        ("brigade-worker", "Time of a batch"),
        ("infrastructure-nodes", "Processor"),
        ("infrastructure-timescaledb", "Sizes"),
        ("infrastructure-mosquitto", "Messages"),
        ("infrastructure-redis", "Commands"),
        ("infrastructure-kafka", "Records in"),
    ],
    ids=": ".join,
)
def test_what_flows_is_seen(prometheus, shown, panel):
    queries = [query for query in EXPRESSIONS if (query.board, query.panel["title"]) == panel]
    assert queries
    for query in queries:
        assert prometheus.ask(query, shown(query, timedelta(minutes=15))), query.target["expr"]


@pytest.mark.parametrize(("board", "variable"), variables("prometheus"), ids=lambda value: str(value)[:30])
def test_variables(prometheus, board, variable):
    (metric,) = metrics(VARIABLE.fullmatch(variable["query"]["query"])[1])
    assert bool(prometheus.values(variable)) == (metric not in KUBERNETES)


@pytest.mark.parametrize(
    ("expr", "named"),
    [
        (
            'sum by (le, job) (rate(a_b_total{job="x", y=~"z|w"}[$__rate_interval])) / b:c:rate5m',
            {"a_b_total", "b:c:rate5m"},
        ),
        ('count(ALERTS{a="b"}) or vector(0)', {"ALERTS"}),
        ("(a * 1000) and ignoring(x) b offset 5m", {"a", "b"}),
        ("topk(10, histogram_quantile(0.95, sum by (le) (x_bucket))) > 1e3", {"x_bucket"}),
        ("time() - max(last_seconds)", {"last_seconds"}),
    ],
)
def test_metrics_of_an_expression(expr, named):
    assert metrics(expr) == named
