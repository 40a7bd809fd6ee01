"""`scripts/manifests`: deploy/kubernetes/ from the chart, for who has kubectl alone.

The folders are applied in the order of FOLDERS; each is complete when those before it are there.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).parent
CHART: Final = DEPLOY / "helm"
TARGET: Final = DEPLOY / "kubernetes"
FOLDERS: Final = ("namespaces", "configmaps", "secrets", "deployments", "services", "ingress", "monitoring")
SYSTEM: Final = "restaurant-system"
MONITORING: Final = "monitoring"

WORDS: Final = (
    "template",
    "restaurant-management",
    ".",
    "--namespace",
    SYSTEM,
    "--set",
    # No password is ever in a file; autoscaled Deployments say no number, which applying again would put back.
    "secrets.source=placeholders,autoscaling.writeReplicas=never,tls.source=secret",
)

HEADER: Final = "# Written by scripts/manifests from deploy/helm: change that.\n"
SECRETS: Final = """\
# No values are in here, and nothing starts before they are: deploy-kubernetes.sh makes them, by this line of its, which
# keeps what is there; or make the keys that are named below by hand (docs/deploy/kubernetes.md says what each holds).
#     helm template restaurant-management ../helm --namespace restaurant-system --dry-run=server --is-upgrade \\
#         --set install.enabled=false --show-only templates/secrets.yaml |
#         kubectl apply --server-side --field-manager=brigade-secrets --force-conflicts -f -
"""
NAMESPACE: Final = f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {SYSTEM}
  labels:
    app.kubernetes.io/part-of: brigade
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
"""

_FOLDER_OF_KIND: Final = {
    "Namespace": "namespaces",
    "ServiceAccount": "namespaces",
    "NetworkPolicy": "namespaces",
    "Role": "namespaces",
    "RoleBinding": "namespaces",
    "ValidatingAdmissionPolicy": "namespaces",
    "ValidatingAdmissionPolicyBinding": "namespaces",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "Deployment": "deployments",
    "StatefulSet": "deployments",
    "Job": "deployments",
    "HorizontalPodAutoscaler": "deployments",
    "PodDisruptionBudget": "deployments",
    "Service": "services",
    "Ingress": "ingress",
}


class ManifestsError(Exception):
    """They cannot be written; the text says why."""


def rendered(helm: str) -> str:
    done = subprocess.run([helm, *WORDS], cwd=CHART, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ManifestsError(f"helm cannot render the chart:\n{done.stderr}")
    return done.stdout


def files(text: str) -> dict[str, str]:
    """The text of every file, by its path below deploy/kubernetes."""
    found: dict[str, list[str]] = {f"namespaces/00-{SYSTEM}.yaml": [NAMESPACE]}
    for document in re.split(r"^---\n", text, flags=re.MULTILINE):
        one = yaml.safe_load(document)
        if one and "helm.sh/hook" not in one["metadata"].get("annotations", {}):
            source = re.search(r"^# Source: restaurant-management/(\S+)\.yaml$", document, re.MULTILINE)
            path = f"{_folder(one)}/{_file(one, source[1] if source else '')}.yaml"
            found.setdefault(path, []).append(_plain(document))
    return {path: _head(path) + "---\n".join(documents) for path, documents in sorted(found.items())}


def _folder(one: dict[str, Any]) -> str:
    kind = one["kind"]
    if kind in {"Namespace", "Secret", "Ingress"} or one["metadata"].get("namespace") == SYSTEM:
        return _FOLDER_OF_KIND[kind]
    return "namespaces" if kind.startswith("ValidatingAdmission") else "monitoring"


def _file(one: dict[str, Any], source: str) -> str:
    """charts/grafana/templates/dashboards → grafana-dashboards; templates/services → services.

    kubectl takes a folder's files by their names: namespaces come first.
    """
    if one["kind"] == "Namespace":
        return f"00-{one['metadata']['name']}"
    words = [word for word in source.split("/") if word not in {"charts", "templates"}]
    return "-".join(dict.fromkeys(words))


def _head(path: str) -> str:
    return HEADER + (SECRETS if path.startswith("secrets/") else "")


def _plain(document: str) -> str:
    """Without what only Helm reads."""
    lines = [line for line in document.splitlines() if not re.match(r"# Source:|\s+helm\.sh/chart:", line)]
    text = "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"
    text = text.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")
    return re.sub(r"  annotations:\n(?:    #.*\n)?    helm\.sh/resource-policy: keep\n", "", text)


def stale(wanted: dict[str, str]) -> list[str]:
    there = {str(file.relative_to(TARGET)) for folder in FOLDERS for file in (TARGET / folder).glob("*.yaml")}
    changed = {path for path in there & set(wanted) if (TARGET / path).read_text() != wanted[path]}
    return sorted(changed | (there ^ set(wanted)))


def write(wanted: dict[str, str]) -> None:
    for folder in FOLDERS:
        shutil.rmtree(TARGET / folder, ignore_errors=True)
    for path, text in wanted.items():
        (TARGET / path).parent.mkdir(parents=True, exist_ok=True)
        (TARGET / path).write_text(text)


def main() -> None:
    helm, *words = sys.argv[1:]
    try:
        wanted = files(rendered(helm))
    except ManifestsError as error:
        sys.exit(str(error))
    if words == ["--check"]:
        if old := stale(wanted):
            sys.exit(f"not as the chart says, scripts/manifests writes them: {', '.join(old)}")
    else:
        write(wanted)


if __name__ == "__main__":
    main()
