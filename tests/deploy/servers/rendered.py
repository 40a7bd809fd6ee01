"""The servers' charts as Helm renders them, each once in a run."""

import functools
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

from deploy.local.layout import REPOSITORY
from deploy.servers.files import CHARTS

Object = dict[str, Any]

NAMES = sorted(chart.parent.name for chart in CHARTS.glob("*/Chart.yaml"))

TLS = {"tls.enabled": "true", "tls.secretName": "certificate"}
EVERYTHING = {  # every switch of every chart, turned the other way
    "postgresql": TLS | {"tls.required": "true"},
    "timescaledb": {"tls.enabled": "true", "tls.issuer": "restaurant", "tls.required": "true"},
    "kafka": {"tls.enabled": "true", "tls.issuer": "restaurant"},
    "mosquitto": TLS | {"tls.clientCertificates": "true", "tls.only": "true", "service.type": "LoadBalancer"},
    "grafana": {"persistence.enabled": "true", "addresses.database": "db.example.com:5432"},
    "alertmanager": {
        "existingSecret": "alertmanager-receivers",
        "settings.smtp_from": "brigade@example.com",
        "settings.smtp_smarthost": "mail.example.com:587",
        "receivers[0].name": "on-call",
        "receivers[0].webhook_configs[0].url_file": "/run/secrets/alertmanager/on-call-url",
    },
    "prometheus": {"kubelet.insecureSkipVerify": "false"},
    "prometheus-adapter": {"tls.secretName": "certificate", "tls.caBundle": "Y2VydGlmaWNhdGU="},
}


@functools.cache
def tools() -> str:
    """The folder of helm and kubectl."""
    script = [REPOSITORY / "scripts" / "tools"]
    return subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{tools()}:{os.environ['PATH']}"}
    return subprocess.run(["helm", *words], capture_output=True, text=True, check=False, env=environment)


def render(chart: str, **values: str) -> list[Object]:
    """Its objects, under these values; a name's dots are `__`."""
    return list(_rendered(chart, tuple((name.replace("__", "."), value) for name, value in values.items())))


def everything(chart: str) -> list[Object]:
    return list(_rendered(chart, tuple(EVERYTHING.get(chart, {}).items())))


def refusal(chart: str, **values: str) -> str:
    """What Helm says to values that it refuses."""
    done = helm(*_template(chart, tuple((name.replace("__", "."), value) for name, value in values.items())))
    assert done.returncode != 0
    return done.stderr


def _template(chart: str, values: tuple[tuple[str, str], ...]) -> list[str]:
    words = ["template", "restaurant", str(CHARTS / chart), "--namespace", "restaurant-system"]
    return words + [word for name, value in values for word in ("--set", f"{name}={value}")]


@functools.cache
def _rendered(chart: str, values: tuple[tuple[str, str], ...]) -> tuple[Object, ...]:
    done = helm(*_template(chart, values))
    assert done.returncode == 0, done.stderr
    return tuple(found for found in yaml.load_all(done.stdout, yaml.CSafeLoader) if found)


def one(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def data(chart: str, name: str, **values: str) -> dict[str, str]:
    """The files of a ConfigMap."""
    return one(render(chart, **values), "ConfigMap", name)["data"]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every workload's name and the template of its pods."""
    for each in objects:
        if each["kind"] in {"Deployment", "StatefulSet", "DaemonSet"}:
            yield each["metadata"]["name"], each["spec"]["template"]


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def told(each: Object) -> str:
    """For a test's name."""
    return json.dumps([each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]])
