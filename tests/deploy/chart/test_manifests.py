"""deploy/kubernetes/: what the chart renders, complete, in an order that works, and without a secret."""

import re
import subprocess

import pytest
import yaml

from deploy import manifests
from tests.deploy.chart import schemas
from tests.deploy.chart.rendering import SYSTEM, tools

SCRIPTS = {
    "kubernetes": manifests.TARGET / "deploy-kubernetes",
    "helm": manifests.CHART / "deploy-helm",
}


@pytest.fixture(scope="module")
def text():
    return manifests.rendered(f"{tools()}/helm")


def there(folder):
    return [
        one
        for file in sorted((manifests.TARGET / folder).glob("*.yaml"))
        for one in yaml.load_all(file.read_text(), yaml.CSafeLoader)
    ]


def test_they_are_current(text):
    assert manifests.stale(manifests.files(text)) == [], "scripts/manifests writes them"


def identity(one):
    return one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]


ONLY_HELM_READS = {"helm.sh/chart", "app.kubernetes.io/managed-by", "helm.sh/resource-policy"}


def without_helm(part):
    """As it is without what only Helm reads; empty mappings and spaces at a line's end are nothing."""
    match part:
        case dict():
            inner = {name: without_helm(value) for name, value in part.items() if name not in ONLY_HELM_READS}
            return {name: value for name, value in inner.items() if value != {}}
        case list():
            return [without_helm(value) for value in part]
        case str():
            return re.sub(r" +$", "", part, flags=re.MULTILINE).strip("\n")
        case _:
            return part


def test_nothing_of_the_chart_is_missing_or_changed(text):
    rendered = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]
    wanted = {
        identity(one): without_helm(one)
        for one in rendered
        if "helm.sh/hook" not in one["metadata"].get("annotations", {})
    }
    found = {identity(one): without_helm(one) for folder in manifests.FOLDERS for one in there(folder)}
    assert found.pop(("Namespace", "", SYSTEM))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_whatever_an_object_needs_comes_in_its_folder_or_before():
    known = set()
    for folder in manifests.FOLDERS:
        for one in there(folder):  # in the order in which kubectl takes them
            namespace = one["metadata"].get("namespace")
            assert not namespace or namespace == "kube-system" or ("Namespace", "", namespace) in known
            known.add(identity(one)) if one["kind"] == "Namespace" else None
        objects = there(folder)
        known |= {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in objects}
        for one in objects:
            namespace = one["metadata"].get("namespace")
            assert not namespace or namespace == "kube-system" or ("Namespace", "", namespace) in known
            pod = one.get("spec", {}).get("template", {}).get("spec", {}) if isinstance(one.get("spec"), dict) else {}
            for kind, name in needs(pod):
                assert (kind, namespace, name) in known, (folder, one["metadata"]["name"])


def needs(pod):
    if account := pod.get("serviceAccountName"):
        yield "ServiceAccount", account
    for volume in pod.get("volumes", ()):
        for source in volume.get("projected", {}).get("sources", [volume]):
            if "configMap" in source and not source["configMap"].get("optional"):
                yield "ConfigMap", source["configMap"]["name"]
            if "secret" in source and not source["secret"].get("optional"):
                yield "Secret", source["secret"].get("secretName") or source["secret"]["name"]
    for container in (*pod.get("containers", ()), *pod.get("initContainers", ())):
        for source in container.get("envFrom", ()):
            yield "ConfigMap", source["configMapRef"]["name"]


def test_no_secret_holds_anything_and_each_says_what_it_lacks():
    secrets = there("secrets")
    assert secrets
    for one in secrets:
        assert "data" not in one
        assert "stringData" not in one
        assert one["metadata"]["annotations"]["brigade/missing-keys"]


def test_kubernetes_takes_them():
    for folder in manifests.FOLDERS:
        for one in there(folder):
            faults = schemas.faults(one, "1.30")
            assert faults == [] or one["kind"] == "APIService", faults


def test_the_namespace_enforces_pod_security():
    (namespace,) = [one for one in there("namespaces") if identity(one) == ("Namespace", "", SYSTEM)]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def shell_lines(file):
    for line in file.with_suffix(".sh").read_text().splitlines():
        line = line.removeprefix('[ -n "$dry" ] || ')
        if line.startswith(("kubectl ", "helm ")):
            yield line.replace('"$@"', "WORDS").replace("$dry", "DRY")


def batch_lines(file):
    for line in file.with_suffix(".bat").read_text().splitlines():
        line = line.removeprefix("if not defined DRY ")
        if line.startswith(("kubectl ", "helm ")):
            assert line.endswith(" || goto stopped"), line
            yield line.removesuffix(" || goto stopped").replace("%WORDS%", "WORDS").replace("%DRY%", "DRY")


@pytest.mark.parametrize("file", SCRIPTS.values(), ids=SCRIPTS)
def test_the_batch_file_has_the_lines_of_the_shell_script(file):
    assert list(batch_lines(file)) == list(shell_lines(file))
    assert list(batch_lines(file))


def test_the_script_applies_every_folder_in_order():
    applied = [
        line.split("-f ")[1].rstrip("/")
        for line in shell_lines(SCRIPTS["kubernetes"])
        if "-f " in line and line.startswith("kubectl apply DRY")
    ]
    assert tuple(applied) == manifests.FOLDERS


@pytest.fixture
def fake_tools(tmp_path):
    """A kubectl and a helm that write down what they are called with; `kubectl` fails where it is told to."""
    for name in ("kubectl", "helm"):
        tool = tmp_path / name
        tool.write_text(
            f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/calls"\ncase "$*" in *"${{FAIL:-nothing}}"*) exit 1;; esac\n'
        )
        tool.chmod(0o755)
    return tmp_path


def run(file, folder, *words, fail="nothing at all"):
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "FAIL": fail}
    done = subprocess.run(
        [file.with_suffix(".sh"), *words], env=environment, capture_output=True, text=True, check=False
    )
    return done, (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def test_a_dry_run_changes_nothing(fake_tools):
    for file in SCRIPTS.values():
        done, _ = run(file, fake_tools, "--dry-run")
        assert done.returncode == 0, done.stderr
    calls = (fake_tools / "calls").read_text().splitlines()
    assert len(calls) > 5
    assert all("--dry-run" in call or "cluster-info" in call for call in calls)


@pytest.mark.parametrize("step", ["cluster-info", "namespaces/", "secrets/", "server-side", "deployments/"])
def test_it_stops_at_the_first_error_and_says_what_to_do(fake_tools, step):
    done, calls = run(SCRIPTS["kubernetes"], fake_tools, fail=step)
    assert done.returncode == 1
    assert "Stopped at:" in done.stderr
    assert "run this again" in done.stderr
    assert step in calls[-1] or step in calls[-2]  # of a pipe's two either may be last
    assert not any("monitoring/" in call for call in calls)


def test_helm_gets_the_persons_own_words(fake_tools):
    done, calls = run(SCRIPTS["helm"], fake_tools, "-f", "my values.yaml")
    assert done.returncode == 0
    assert calls[-1].endswith("--wait --timeout 15m -f my values.yaml")


def test_helm_that_fails_is_told_with_the_way_back(fake_tools):
    done, _ = run(SCRIPTS["helm"], fake_tools, fail="upgrade")
    assert done.returncode == 1
    assert "helm rollback" in done.stderr
