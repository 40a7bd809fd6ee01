"""The control plane is a real one: it refuses, controls and schedules as any other does."""

import secrets
import signal
import subprocess
import sys

import psutil
import pytest

from deploy.cluster import __main__ as command
from deploy.cluster import binary, control_plane
from deploy.cluster.control_plane import Cluster, ClusterError, Started
from deploy.local.layout import REPOSITORY
from deploy.local.ready import wait_until
from tests.cluster.conftest import free_ports
from tests.cluster.owned import end_orphans, own_cluster


@pytest.fixture
def namespace(cluster):
    name = f"test-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made(cluster, "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    # Pods are refused until a controller has made it.
    assert wait_until(lambda: cluster.answers(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 20)
    return name


def made(cluster, path, document):
    answer = cluster.ask(path, "POST", document)
    assert answer.is_success, answer.text
    return answer.json()


def pod(**more):
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "web", "image": "web:1", "securityContext": restricted} | more
    return {"metadata": {"labels": {"app": "web"}, "name": "web"}, "spec": {"containers": [container]}}


def test_it_is_the_kubernetes_that_go_mod_names(cluster):
    assert cluster.ask("/version").json()["gitVersion"] == f"v{binary.version()}"


def test_it_listens_on_loopback_alone(cluster):
    for name, started in cluster.processes().items():
        listening = [one.laddr.ip for one in psutil.Process(started.pid).net_connections() if one.status == "LISTEN"]
        assert set(listening) == {"127.0.0.1"}, name


def test_a_field_that_nobody_knows_is_refused_strictly(cluster, namespace):
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict"
    assert cluster.ask(path, "POST", pod()).status_code == 201
    answer = cluster.ask(path, "POST", pod(imagePullPolcy="Always"))
    assert answer.status_code == 400
    assert 'unknown field "spec.containers[0].imagePullPolcy"' in answer.json()["message"]


def test_a_pod_with_rights_is_refused_where_pods_are_restricted(cluster, namespace):
    answer = cluster.ask(f"/api/v1/namespaces/{namespace}/pods", "POST", pod(securityContext={"privileged": True}))
    assert answer.status_code == 403
    assert 'violates PodSecurity "restricted' in answer.json()["message"]


def test_a_deployment_gets_its_pods_and_the_scheduler_looks_for_nodes(cluster, namespace):
    template = pod()
    del template["metadata"]["name"]
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    made(cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments", {"metadata": {"name": "web"}, "spec": spec})

    def unscheduled():
        pods = cluster.ask(f"/api/v1/namespaces/{namespace}/pods").json()["items"]
        return [one for one in pods if one["status"].get("conditions", [{}])[0].get("reason") == "Unschedulable"]

    assert wait_until(lambda: len(unscheduled()) == 3, 30)
    assert unscheduled()[0]["status"]["conditions"][0]["message"].startswith("no nodes available")


def test_a_service_account_may_nothing_unless_it_is_granted(cluster, namespace):
    def may(verb):
        review = {
            "kind": "SubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "spec": {
                "user": f"system:serviceaccount:{namespace}:default",
                "resourceAttributes": {"namespace": namespace, "verb": verb, "resource": "secrets"},
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return made(cluster, path, review)["status"]["allowed"]

    assert not may("get")
    group = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    made(cluster, f"{group}/roles", {"metadata": {"name": "reader"}, "rules": rules})
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }
    made(cluster, f"{group}/rolebindings", binding)
    assert wait_until(lambda: may("get"), 10)
    assert not may("list")


def test_taken_ports_are_told_and_nothing_is_started(cluster, program, ports):
    with own_cluster() as other:
        with pytest.raises(ClusterError, match=r"port \d+ for kube-apiserver is taken by process"):
            other.up(program, ports)
        assert other.processes() == {}
        assert other.down()


def test_what_runs_is_not_started_again(cluster, program, ports):
    before = cluster.processes()
    cluster.up(program, ports)
    assert cluster.processes() == before


def test_what_ended_is_told_and_down_leaves_nothing(program, capsys):
    with own_cluster() as own:
        own.up(program, free_ports())
        command.status(own)
        assert f"export KUBECONFIG={own.kubeconfig}" in capsys.readouterr().out
        processes = own.processes()
        scheduler = processes["kube-scheduler"].process()
        scheduler.send_signal(signal.SIGKILL)
        scheduler.wait(10)
        with pytest.raises(SystemExit) as ended:
            command.status(own)
        assert ended.value.code == 1
        assert f"kube-scheduler           ended: {own.log('kube-scheduler')}" in capsys.readouterr().out
        assert own.down()
        assert not [name for name, started in processes.items() if started.process()]
        assert not own.state.exists()
        assert not own.down()


ORPHAN = """
import signal, sys
from pathlib import Path
from tests.cluster.owned import own_cluster

with own_cluster() as cluster:
    cluster.state.mkdir()
    cluster.launch(Path("/bin/sleep"), "600", [])
    print(cluster.name, flush=True)
    signal.pause()
"""


def test_a_cluster_whose_tests_were_killed_is_ended_by_the_next_ones():
    with subprocess.Popen([sys.executable, "-c", ORPHAN], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as tests:
        cluster = Cluster(tests.stdout.readline().strip())
        server = cluster.processes()["600"]
        assert cluster.name not in end_orphans()
        assert server.process() is not None
        tests.kill()
        tests.wait(10)
        assert server.process() is not None
        assert cluster.name in end_orphans()
        assert server.process() is None
        assert not cluster.state.exists()


def test_a_pid_that_somebody_else_has_now_is_left_alone():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as somebody:
        began = psutil.Process(somebody.pid).create_time()
        assert Started(somebody.pid, began).process() is not None
        assert Started(somebody.pid, began - 1).process() is None
        somebody.kill()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ClusterError, match="cannot be a cluster's name"):
        Cluster(name)


def test_an_offset_without_ports_is_refused():
    with pytest.raises(ClusterError, match="an offset is at most"):
        control_plane.ports(60_000)
