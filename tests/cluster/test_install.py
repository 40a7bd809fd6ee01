"""The chart on a real API server, by the commands that people type; no pod runs (stand_in.py)."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest
import yaml

from tests.cluster.api import Api
from tests.cluster.stand_in import StandIn
from tests.deploy.chart.rendering import CHART, MONITORING, SYSTEM, VALUES, render, tools

RELEASE = "restaurant-management"
SECONDS = 300
NOT_SERVED = {"cert-manager.io/v1", "keda.sh/v1alpha1"}
"""Of operators: their schemas are checked in tests/deploy/chart."""
RIGHTS = {
    (MONITORING, "kube-state-metrics"): {
        "list, watch pods",
        "list, watch persistentvolumeclaims",
        *(f"list, watch apps/{kind}" for kind in ("deployments", "statefulsets", "daemonsets")),
        "list, watch autoscaling/horizontalpodautoscalers",
        "list, watch batch/jobs",
        "list, watch policy/poddisruptionbudgets",
    },
    (MONITORING, "prometheus"): {"get, list, watch pods", "get, list, watch nodes", "get nodes/metrics"},
    (MONITORING, "prometheus-adapter"): {
        "create authentication.k8s.io/tokenreviews",
        "create authorization.k8s.io/subjectaccessreviews",
    },
}
"""What an account may beyond asking who it is; every other account of the chart may nothing."""


class Commands:
    """kubectl and helm, towards this cluster, in the chart's folder."""

    def __init__(self, cluster):
        self._environment = os.environ | {
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": f"{tools()}:{os.environ['PATH']}",
        }

    def run(self, *words, stdin=None):
        return subprocess.run(
            words, cwd=CHART, env=self._environment, input=stdin, capture_output=True, text=True, check=False
        )

    def done(self, *words, stdin=None):
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def get(self, *words):
        return json.loads(self.done("kubectl", "get", "--namespace", SYSTEM, *words, "--output", "json"))

    def helm(self, verb, *words):
        return self.done("helm", verb, RELEASE, *words, "--namespace", SYSTEM, "--timeout", f"{SECONDS}s")


@pytest.fixture(scope="module")
def commands(cluster):
    return Commands(cluster)


@pytest.mark.parametrize("values", VALUES, ids=" ".join)
def test_the_api_server_takes_every_object_strictly(commands, values):
    for namespace in (SYSTEM, MONITORING):  # a dry run makes neither
        commands.run("kubectl", "create", "namespace", namespace)
    commands.run("kubectl", "create", "serviceaccount", "helm-test", "--namespace", SYSTEM)
    served = [one for one in render(*values) if one["apiVersion"] not in NOT_SERVED]
    text = yaml.dump_all(served)
    words = ("kubectl", "apply", "--dry-run=server", "--validate=strict", "--filename", "-")
    taken = commands.done(*words, stdin=text).splitlines()
    assert len(taken) == len(served) > 80
    assert all(line.endswith("(server dry run)") for line in taken)


def test_a_value_that_the_chart_lets_pass_and_the_api_server_does_not_is_refused(commands):
    (deployment,) = [one for one in render() if one["metadata"]["name"] == "gateway-deployment"]
    text = yaml.dump(deployment | {"spec": deployment["spec"] | {"replica": 2}})
    words = ("kubectl", "apply", "--dry-run=server", "--validate=strict", "--filename", "-")
    refused = commands.run(*words, stdin=text)
    assert refused.returncode == 1
    assert 'unknown field "spec.replica"' in refused.stderr


@pytest.fixture(scope="module")
def installed(cluster, commands):
    """As the README of the chart says, on a cluster that gives volumes."""
    api = Api(cluster)
    with StandIn(api) as stand_in:
        make_volumes(api)
        for namespace in (MONITORING, SYSTEM):
            commands.done("kubectl", "delete", "namespace", namespace, "--ignore-not-found", "--wait")
        commands.done("kubectl", "apply", "--filename", "../kubernetes/namespaces/00-restaurant-system.yaml")
        commands.helm("install", ".", "--create-namespace", "--wait")
        yield SimpleNamespace(commands=commands, api=api, stand_in=stand_in)
        commands.helm("uninstall", "--wait")
        for namespace in (MONITORING, SYSTEM):
            commands.done("kubectl", "delete", "namespace", namespace, "--ignore-not-found", "--wait")
    api.close()


def make_volumes(api):
    """Of nothing: no pod will look into them."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    api.make(
        "/apis/storage.k8s.io/v1/storageclasses",
        {"metadata": {"name": "none", "annotations": default}, "provisioner": "kubernetes.io/no-provisioner"},
    )
    for number in range(20):
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "none",
            "hostPath": {"path": "/nowhere"},
        }
        api.make("/api/v1/persistentvolumes", {"metadata": {"name": f"none-{number}"}, "spec": spec})


def deployments(commands):
    return {one["metadata"]["name"]: one for one in commands.get("deployments")["items"]}


def passwords(commands):
    """But for what an upgrade's own job is given of them."""
    secrets = {one["metadata"]["name"]: one for one in commands.get("secrets")["items"]}
    return {name: one["data"] for name, one in secrets.items() if one["type"] == "Opaque" and name != "brigade-upgrade"}


def test_all_of_it_is_there_and_ready(installed):
    for name, one in deployments(installed.commands).items():
        assert one["status"].get("readyReplicas") == one["spec"]["replicas"], name
    claims = installed.commands.get("persistentvolumeclaims")["items"]
    assert {one["status"]["phase"] for one in claims} == {"Bound"}
    (release,) = json.loads(installed.commands.done("helm", "list", "--namespace", SYSTEM, "--output", "json"))
    assert release["status"] == "deployed"


def test_an_upgrade_keeps_passwords_and_the_autoscalers_numbers_and_a_rollback_goes_back(installed):
    commands = installed.commands
    before = passwords(commands)
    assert all(len(data) > 0 for data in before.values())
    commands.done("kubectl", "scale", "--namespace", SYSTEM, "deployment/gateway-deployment", "--replicas", "5")
    revision = deployments(commands)["gateway-deployment"]["metadata"]["annotations"][
        "deployment.kubernetes.io/revision"
    ]

    commands.helm("upgrade", ".", "--wait", "--set-string", "gateway.settings.BRIGADE_LOG_LEVEL=debug")
    gateway = deployments(commands)["gateway-deployment"]
    assert gateway["spec"]["replicas"] == 5
    assert gateway["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == str(int(revision) + 1)
    assert passwords(commands) == before

    commands.helm("rollback", "1", "--wait", "--force-conflicts")
    gateway = deployments(commands)["gateway-deployment"]
    assert int(gateway["metadata"]["annotations"]["deployment.kubernetes.io/revision"]) == int(revision) + 2
    assert "BRIGADE_LOG_LEVEL" not in json.dumps(gateway["spec"])
    assert passwords(commands) == before


def test_an_upgrade_whose_tables_cannot_be_made_changes_nothing(installed):
    commands = installed.commands
    before = {name: one["spec"]["template"] for name, one in deployments(commands).items()}
    installed.stand_in.failing.add("brigade-upgrade")
    words = (".", "--wait", "--set-string", "gateway.settings.BRIGADE_LOG_LEVEL=debug")
    failed = commands.run("helm", "upgrade", RELEASE, *words, "--namespace", SYSTEM, "--timeout", f"{SECONDS}s")
    installed.stand_in.failing.clear()
    assert failed.returncode == 1
    assert "pre-upgrade hooks failed" in failed.stderr
    assert {name: one["spec"]["template"] for name, one in deployments(commands).items()} == before
    commands.helm("upgrade", ".", "--wait")


RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.mark.parametrize(
    ("namespace", "change", "why"),
    [
        (SYSTEM, {"image": "brigade:latest"}, "an image needs a tag other than latest, or a digest: brigade:latest"),
        (SYSTEM, {"image": "registry:5000/brigade"}, "an image needs a tag other than latest"),
        (MONITORING, {"image": "brigade:latest"}, "an image needs a tag other than latest"),
        (SYSTEM, {"securityContext": {"privileged": True}}, 'violates PodSecurity "restricted'),
        (SYSTEM, {"securityContext": RESTRICTED | {"runAsUser": 0}}, 'violates PodSecurity "restricted'),
    ],
)
def test_a_bad_pod_is_refused(installed, namespace, change, why):
    assert tried(installed.api, namespace).is_success
    refused = tried(installed.api, namespace, **change)
    assert refused.status_code in {403, 422}
    assert why in refused.json()["message"]


def tried(api, namespace, **change):
    container = {"name": "one", "image": "brigade:1", "securityContext": RESTRICTED} | change
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    return api.ask("POST", path, {"metadata": {"name": "one"}, "spec": {"containers": [container]}})


@pytest.fixture
def unrestricted(installed):
    """The chart's namespace as Helm alone would make it: without labels."""
    label = "pod-security.kubernetes.io/enforce"
    labels = installed.api.get(f"/api/v1/namespaces/{SYSTEM}")["metadata"]["labels"]
    installed.commands.done("kubectl", "label", "namespace", SYSTEM, f"{label}-")
    yield
    installed.commands.done("kubectl", "label", "namespace", SYSTEM, f"{label}={labels[label]}")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"securityContext": {}}, "every container has to say runAsNonRoot, or its pod for all of them"),
        ({"securityContext": {"runAsNonRoot": True, "runAsUser": 0}}, "no container may run as user 0"),
    ],
)
@pytest.mark.usefixtures("unrestricted")
def test_root_is_refused_without_pod_security_too(installed, change, why):
    refused = tried(installed.api, SYSTEM, **change)
    assert refused.status_code == 422
    assert why in refused.json()["message"]


def rights(api, namespace, name):
    """What that account may in the chart's two namespaces, in words."""
    return _rights(api, namespace, name, SYSTEM) | _rights(api, namespace, name, MONITORING)


def _rights(api, namespace, name, where):
    review = {"spec": {"namespace": where}}
    user = {"Impersonate-User": f"system:serviceaccount:{namespace}:{name}"}
    groups = {"Impersonate-Group": "system:serviceaccounts"}
    answer = api.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review, **user, **groups)
    found = set()
    for rule in answer.json()["status"]["resourceRules"]:
        verbs = ", ".join(sorted(rule["verbs"]))
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                names = " ".join(rule.get("resourceNames", ()))
                found.add(f"{verbs} {group}{'/' if group else ''}{resource} {names}".strip())
    return found


def test_each_account_may_what_it_needs_and_nothing_else(installed):
    api = installed.api
    accounts = {
        (namespace, one["metadata"]["name"])
        for namespace in (SYSTEM, MONITORING)
        for one in api.get(f"/api/v1/namespaces/{namespace}/serviceaccounts")["items"]
    }
    assert len(accounts) > 20
    anybody = rights(api, "default", "default")
    found = {account: rights(api, *account) - anybody for account in accounts}
    assert {account: more for account, more in found.items() if more} == RIGHTS
