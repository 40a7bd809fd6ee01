"""Real workers come with real lag, and go when it is gone."""

import json
import threading
import time

import pytest
import yaml

from deploy.local.ready import wait_until
from tests.cluster.node.installed import SECONDS
from tests.cluster.node.watching import Prometheus
from tests.deploy.chart.rendering import CHART

LAG = "consumergroup:kafka_consumergroup_lag_messages:sum"
APPENDED = "pipeline:messages_appended:rate1m"
CHOSEN = yaml.safe_load((CHART / "values-node-scaling.yaml").read_text())
MESSAGES_A_SECOND = 3000
DEVICES = 150
BACKLOG_SECONDS = 30
QUIET_LOOKS = 10
STORED = "pipeline_sink_messages_total"


@pytest.fixture
def prometheus(installed, tmp_path):
    prometheus = Prometheus(installed)
    prometheus.start(tmp_path)
    installed.helm("-f", "values-node-scaling.yaml")
    assert wait_until(lambda: installed.all_ready("worker"), SECONDS), installed.state()
    yield prometheus
    installed.helm()


class Seen:
    """Lag, rate and workers every two seconds."""

    def __init__(self, installed, prometheus):
        self._look = lambda: {
            "lag": prometheus.value(LAG),
            "rate": prometheus.value(APPENDED),
            "workers": len(installed.pods("worker")),
            "ready": len(installed.ready_pods("worker")),
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.rows = []

    def __enter__(self):
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join(timeout=60)
        self._note()

    def _watch(self):
        while not self._ended.wait(2):
            self._note()

    def _note(self):
        self.rows.append({"second": round(time.monotonic() - self._began, 1)} | self._look())


def test_a_load_step_takes_the_workers_from_two_to_five_and_back_and_nothing_is_lost(installed, prometheus, tmp_path):
    assert len(installed.pods("worker")) == 2
    with Seen(installed, prometheus) as seen:
        with installed.load(rate=MESSAGES_A_SECOND, devices=DEVICES) as load:
            assert wait_until(lambda: len(installed.ready_pods("worker")) == 5, SECONDS), installed.state()
        assert wait_until(lambda: len(installed.pods("worker")) == 2, SECONDS), installed.state()
    print("\n".join(map(json.dumps, seen.rows)))
    assert max(row["lag"] or 0 for row in seen.rows) > 4 * CHOSEN["worker"]["autoscaling"]["lagTarget"]
    print(installed.verify(load))


@pytest.mark.parametrize("limit", ["100m", "500m"])
def test_one_worker_at_its_limit_of_processors_works_a_backlog_off(installed, limit):
    """How quickly is printed, for docs/deploy/autoscaling.md: nothing comes meanwhile."""
    installed.helm("--set-string", f"worker.resources.limits.cpu={limit}")
    installed.kubectl("scale", "deployment/iot-deployment", "--replicas=0")
    assert wait_until(lambda: installed.pods("worker") == [], SECONDS), installed.state()
    with installed.load(rate=MESSAGES_A_SECOND, devices=DEVICES) as load:
        time.sleep(BACKLOG_SECONDS)
    installed.kubectl("scale", "deployment/iot-deployment", "--replicas=1")
    assert wait_until(lambda: len(installed.ready_pods("worker")) == 1, SECONDS), installed.state()
    (pod,) = installed.ready_pods("worker")
    done = []

    def nothing_comes_any_more():
        done.append((time.monotonic(), installed.metric(pod, 9102, STORED)))
        time.sleep(0.5)
        return len(done) > QUIET_LOOKS and done[-1][1] == done[-QUIET_LOOKS][1] > MESSAGES_A_SECOND

    assert wait_until(nothing_comes_any_more, SECONDS), done
    all_of_them = done[-1][1]
    middle = [(moment, count) for moment, count in done if 0.1 * all_of_them < count < 0.9 * all_of_them]
    if len(middle) > 1:
        (begin, first), (end, last) = middle[0], middle[-1]
        print(f"{limit}: {all_of_them:.0f} messages, {(last - first) / (end - begin):.0f} a second")
    print(installed.verify(load))
    installed.helm()
