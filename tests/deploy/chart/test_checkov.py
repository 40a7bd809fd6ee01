"""checkov's opinion of the rendered manifests: what it finds is mended, or explained here."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from deploy import manifests
from tests.deploy.chart import fetched

OWN_USERS = {
    f"StatefulSet.restaurant-system.{name}" for name in ("timescaledb", "postgresql", "redis", "kafka", "mosquitto")
}
EXPLAINED = {
    # Images have exact versions; their digests are the installation's choice (policies.requireDigests).
    "CKV_K8S_43": None,
    # So asking the registry at each start would find the same, or, when it is away, nothing.
    "CKV_K8S_15": None,
    # Servers run as the users of their own images, whose files are theirs.
    "CKV_K8S_40": OWN_USERS | {"Deployment.monitoring.grafana", "DaemonSet.monitoring.fluent-bit"},
    # They ask the Kubernetes API; each has a role of its own.
    "CKV_K8S_38": {
        "StatefulSet.monitoring.prometheus",
        "Deployment.monitoring.kube-state-metrics",
        "Deployment.monitoring.prometheus-adapter",
    },
    # Its data sources' passwords come by the environment alone.
    "CKV_K8S_35": {"Deployment.monitoring.grafana"},
    # It measures its node.
    "CKV_K8S_26": {"DaemonSet.monitoring.node-exporter"},
    "CKV_K8S_19": {"DaemonSet.monitoring.node-exporter"},
    # It reads the kubelet's log files, which are root's.
    "CKV_K8S_23": {"DaemonSet.monitoring.fluent-bit"},
}
"""None: of any workload."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = fetched.python_package(fetched.CHECKOV)
    # It skips what is below a folder whose name begins with a dot, and a checkout may be.
    copy = shutil.copytree(manifests.TARGET, tmp_path_factory.mktemp("checkov") / "kubernetes")
    words = ["--framework", "kubernetes", "--skip-download", "--output", "json", "--directory", str(copy)]
    done = subprocess.run(
        [sys.executable, "-m", "checkov.main", *words],
        env=os.environ | {"PYTHONPATH": str(folder), "LOG_LEVEL": "ERROR"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stderr[-1000:]
    return json.loads(done.stdout)


def test_what_it_finds_is_explained(found):
    failed = {(one["check_id"], one["resource"]) for one in found["results"]["failed_checks"]}
    assert found["summary"]["passed"] > 1000
    assert [
        (check, resource)
        for check, resource in sorted(failed)
        if check not in EXPLAINED or (EXPLAINED[check] is not None and resource not in EXPLAINED[check])
    ] == []


def test_nothing_is_explained_that_it_does_not_find(found):
    failed = {(one["check_id"], one["resource"]) for one in found["results"]["failed_checks"]}
    named = {(check, resource) for check, resources in EXPLAINED.items() for resource in resources or ()}
    assert named - failed == set()
    assert EXPLAINED.keys() - {check for check, _ in failed} == set()
