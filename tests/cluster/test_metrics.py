"""An autoscaler decides by what a real Prometheus says, through the real adapter."""

import secrets

import pytest

from deploy.cluster import metrics
from deploy.local.ready import wait_until
from tests.cluster.test_control_plane import made, pod
from tests.pipeline.bridge_servers import OwnServer, own_instance

RULES = """
externalRules:
  - seriesQuery: prometheus_build_info
    resources: {namespaced: false}
    name: {as: waiting}
    metricsQuery: sum(prometheus_build_info) * 450
"""


@pytest.fixture
def prometheus(tmp_path):
    server = OwnServer("prometheus", own_instance(tmp_path))
    server.start()
    yield f"http://127.0.0.1:{server.instance.ports['prometheus']}"
    server.end()


def test_an_autoscaler_follows_a_metric_of_prometheus(cluster, program, prometheus, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    metrics.serve(cluster, program, prometheus=prometheus, rules=rules)
    name = f"worker-{secrets.token_hex(3)}"
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": pod()}
    del spec["template"]["metadata"]["name"]
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    made(cluster, deployments, {"metadata": {"name": name}, "spec": spec})
    metric = {"metric": {"name": "waiting"}, "target": {"type": "AverageValue", "averageValue": "100"}}
    scaler = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": 1,
        "maxReplicas": 10,
        "metrics": [{"type": "External", "external": metric}],
    }
    path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
    made(cluster, path, {"metadata": {"name": name}, "spec": scaler})

    def replicas():
        return cluster.ask(f"{deployments}/{name}").json()["spec"]["replicas"]

    assert wait_until(lambda: replicas() == 5, 60), cluster.ask(f"{path}/{name}").text  # 450 at 100 each
