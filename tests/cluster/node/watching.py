"""A Prometheus in a pod with the chart's rules, and the adapter with the chart's.

Debian's does not know Kubernetes: it finds pods by their names in DNS, and that is all that differs from the chart's.
"""

import json
from pathlib import Path
from typing import Any

import httpx

from deploy.cluster import binary, metrics
from deploy.local.ready import wait_until
from tests.cluster.node.installed import SECONDS, Installed
from tests.deploy.chart.rendering import MONITORING, SYSTEM, of_kind

TARGETS = {"lag": 9103, "bridge": 9101, "worker": 9102}
IMAGE = "docker.io/brigade-local/servers:local"
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Prometheus:
    def __init__(self, installed: Installed) -> None:
        self._installed = installed

    def start(self, folder: Path) -> None:
        for document in (*_services(), *_prometheus()):
            self._installed.apply(document)
        self._installed.run("kubectl", "rollout", "status", "deployment/prometheus", "-n", MONITORING)
        service = json.loads(
            self._installed.run(
                "kubectl", "get", "service", "prometheus-service", "-n", MONITORING, "-o", "json"
            ).stdout
        )
        self.address = f"http://{service['spec']['clusterIP']}:9090"
        rules = folder / "adapter.yaml"
        rules.write_text(of_kind("ConfigMap")["prometheus-adapter-configuration"]["data"]["config.yaml"])
        metrics.serve(self._installed.cluster, binary.build(), prometheus=self.address, rules=rules)
        for series in ("consumergroup:kafka_consumergroup_lag_messages:sum", "pipeline:messages_appended:rate1m"):
            assert wait_until(lambda series=series: self.value(series) is not None, SECONDS), series

    def value(self, query: str) -> float | None:
        answer = httpx.get(f"{self.address}/api/v1/query", params={"query": query}, timeout=10, trust_env=False)
        found = answer.json()["data"]["result"] if answer.is_success else []
        return float(found[0]["value"][1]) if found else None


def _services() -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"{part}-metrics", "namespace": SYSTEM},
            "spec": {
                "clusterIP": "None",
                "selector": {"app.kubernetes.io/name": part},
                "ports": [{"name": "metrics", "port": port}],
            },
        }
        for part, port in TARGETS.items()
    ]


def _prometheus() -> list[dict[str, Any]]:
    scraped = [
        {
            "job_name": part,
            "dns_sd_configs": [
                {
                    "names": [f"{part}-metrics.{SYSTEM}.svc.cluster.local"],
                    "type": "A",
                    "port": port,
                    "refresh_interval": "2s",
                }
            ],
            "relabel_configs": [{"target_label": "namespace", "replacement": SYSTEM}],
        }
        for part, port in TARGETS.items()
    ]
    configuration = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": ["/rules/pipeline.yml"],
        "scrape_configs": scraped,
    }
    labels = {"app": "prometheus"}
    container = {
        "name": "prometheus",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": [
            "prometheus",
            "--config.file=/config/prometheus.json",
            "--storage.tsdb.path=/data",
            "--web.listen-address=:9090",
        ],
        "ports": [{"name": "http", "containerPort": 9090}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": "http"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/config"},
            {"name": "rules", "mountPath": "/rules"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    volumes = [
        {"name": "config", "configMap": {"name": "watching"}},
        {"name": "rules", "configMap": {"name": "prometheus-rules"}},
        {"name": "data", "emptyDir": {}},
    ]
    pod = {"containers": [container], "volumes": volumes, "securityContext": RESTRICTED}
    here = {"namespace": MONITORING}
    return [
        of_kind("ConfigMap")["prometheus-rules"],
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "watching"} | here,
            "data": {"prometheus.json": json.dumps(configuration)},  # JSON is YAML, too
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "prometheus"} | here,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "prometheus-service"} | here,
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 9090}]},
        },
    ]
