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
