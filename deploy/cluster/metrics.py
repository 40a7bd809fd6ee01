"""External metrics, which an autoscaler reads: prometheus-adapter beside the control plane, asking any Prometheus."""

from pathlib import Path

from deploy.cluster.control_plane import Cluster, ClusterError

GROUP = "external.metrics.k8s.io"
NAMESPACE = "kube-system"
NAME = "external-metrics"
ADAPTER = "prometheus-adapter"
READY_SECONDS = 60


def serve(cluster: Cluster, program: Path, *, prometheus: str, rules: Path) -> None:
    """Return when the API server passes questions on to it; another one of before is ended."""
    if before := cluster.processes().get(ADAPTER):
        before.end()
    kubeconfig, port = cluster.kubeconfig, cluster.ports()[ADAPTER]
    cluster.launch(
        program,
        ADAPTER,
        [
            f"--lister-kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={cluster.state / ADAPTER}",
            f"--prometheus-url={prometheus}",
            f"--config={rules.absolute()}",
            "--metrics-relist-interval=5s",  # of 30 s in the chart: tests wait for a new series
            "--metrics-max-age=5m",
        ],
    )
    register(cluster, GROUP, NAME, port)
    cluster.wait(f"/apis/{GROUP}/v1beta1", READY_SECONDS)


def register(cluster: Cluster, group: str, name: str, port: int) -> None:
    """Have the API server pass on to that port of loopback what is asked of the group."""
    # No address of this machine's can be an endpoint, as it listens on loopback alone; a name needs none.
    put(
        cluster,
        f"/api/v1/namespaces/{NAMESPACE}/services",
        {
            "metadata": {"name": name},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
        },
    )
    put(
        cluster,
        "/apis/apiregistration.k8s.io/v1/apiservices",
        {
            "metadata": {"name": f"v1beta1.{group}"},
            "spec": {
                "group": group,
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,  # its certificate is its own
                "service": {"namespace": NAMESPACE, "name": name, "port": port},
            },
        },
    )


def put(cluster: Cluster, path: str, document: dict[str, object]) -> None:
    """Make it, or make it as the document says."""
    name = document["metadata"]["name"]  # type: ignore[index]
    there = cluster.ask(f"{path}/{name}")
    if there.is_success:
        version = there.json()["metadata"]["resourceVersion"]
        answer = cluster.ask(
            f"{path}/{name}", "PUT", document | {"metadata": {"name": name, "resourceVersion": version}}
        )
    else:
        answer = cluster.ask(path, "POST", document)
    if not answer.is_success:
        raise ClusterError(f"{path}: {answer.text}")
