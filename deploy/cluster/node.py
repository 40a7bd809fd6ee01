"""A cluster with one node that runs pods: containerd, kubelet, kube-proxy, CoreDNS and metrics-server, as root.

All of it, its control plane too, is in a network namespace of its own. This machine gets one end of a cable to it, with
routes to its pods and Services, which go when the namespace does.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

import psutil

from deploy.cluster import metrics
from deploy.cluster.certificates import Authority
from deploy.cluster.control_plane import SERVICES, Cluster, ClusterError
from deploy.images.leftovers import unmount_below
from deploy.local.ready import wait_until
from deploy.local.say import say

NAME = "brigade"
"""Of the node, of its network namespace and of both ends of the cable."""
NAMESPACE = Path("/run/netns", NAME)
MACHINE, NODE = "198.18.254.1", "198.18.254.2"
"""The two ends' addresses."""
CABLE = "198.18.254.0/30"
PODS = "10.244.0.0/16"
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "conntrack": "conntrack",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "ip": "iproute2",
}
"""What a node needs of Debian, and the packages that have it."""

MARK = "node"
SERVERS = ("containerd", "kubelet", "kube-proxy", "coredns", "metrics-server")
VOLUMES = 12
GROUPS = Path("/sys/fs/cgroup")
CNI_STATE = Path("/var/lib/cni")
LINKS = Path("/var/log/containers")
"""Where the kubelet puts links to logs, whatever it is told."""
READY_SECONDS = 180
END_SECONDS = 30

CONTAINERD = """
version = 2
root = "{state}/containerd"
state = "{state}/run"
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/brigade-local/pause:local"
restrict_oom_score_adj = true  # where root is not allowed everything
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{state}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""

COREDNS = """
.:53 {{
    errors
    ready
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
    }}
}}
"""


def missing() -> str | None:
    """What keeps a node from running here; None when nothing does."""
    if os.geteuid() != 0:
        return "a node takes root: it makes network namespaces, mounts and control groups"
    if absent := packages():
        return f"a node needs what Debian has as {' '.join(absent)}"
    return None


def packages() -> list[str]:
    """What is not installed."""
    return sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})


def found(name: str) -> Cluster:
    """The cluster of that name, with its node if it has one."""
    cluster = WithNode(name)
    return cluster if (cluster.state / MARK).exists() else Cluster(name)


class WithNode(Cluster):
    """One at a time on a machine."""

    address = NODE

    @property
    def socket(self) -> Path:
        return self.state / "run" / "containerd.sock"

    def node_up(self, programs: Path, images: list[Path]) -> None:
        """Start the node beside a control plane that answers, unless it runs; return when it is ready for pods."""
        if all(name in self.processes() for name in SERVERS):
            return
        try:
            self._start_node(programs, images)
        except BaseException:
            self._end()
            raise

    def _start_node(self, programs: Path, images: list[Path]) -> None:
        began = time.monotonic()
        self._configure()
        self.spawn("containerd", ["containerd", "--config", str(self.state / "containerd.toml")])
        self._until("containerd", lambda: self.ctr("version").returncode == 0)
        for image in images:
            if (imported := self.ctr("images", "import", str(image))).returncode:
                raise ClusterError(f"{image} cannot be imported:\n{imported.stderr[-2000:]}")
        kubeconfig = self.keys / "kubelet.kubeconfig"
        self.launch(
            programs,
            "kubelet",
            [
                f"--config={self.state / 'kubelet.json'}",
                f"--kubeconfig={kubeconfig}",
                f"--root-dir={self.state / 'kubelet'}",
                f"--hostname-override={NAME}",
                f"--node-ip={NODE}",
            ],
        )
        self.launch(programs, "kube-proxy", [f"--config={self.state / 'kube-proxy.json'}"])
        self.spawn("coredns", [str(programs.with_name("coredns")), "-conf", str(self.state / "Corefile"), "-p", "53"])
        self._until("kubelet", lambda: ready(self, f"/api/v1/nodes/{NAME}"))
        self._serve_metrics(programs)
        say(f"the node is ready after {time.monotonic() - began:.1f} s")

    def spawn(self, name: str, command: list[str]) -> None:
        super().spawn(name, ["nsenter", f"--net={NAMESPACE}", *command])

    def _refuse(self, port: Mapping[str, int]) -> None:
        del port  # in a network namespace of its own all are free
        if NAMESPACE.exists():
            raise ClusterError(f"a cluster with a node runs on this machine, and there can be one: {NAMESPACE}")
        if taken := taken_networks([route["dst"] for route in json.loads(_run("ip", "-json", "route"))]):
            raise ClusterError(f"this machine has routes already to what a node would use: {', '.join(taken)}")
        if folders := _control_groups():
            raise ClusterError(f"this machine is a node already: there is {folders[0]}")

    def _start(self, program: Path, port: Mapping[str, int]) -> None:
        _connect()
        super()._start(program, port)

    def _end(self) -> None:
        """The kubelet first, which would start pods again."""
        processes = self.processes()
        for name in ("kubelet", "containerd"):
            if name in processes:
                processes[name].end()
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if words and "containerd-shim" in words[0] and str(self.socket) in words:
                process.kill()
        _end_containers()
        super()._end()
        unmount_below(self.state)
        if NAMESPACE.exists():
            _run("ip", "netns", "delete", NAME)
        _remove_traces(self.state)

    def _make_keys(self, server: str) -> Authority:
        authority = super()._make_keys(server)
        authority.sign("kubelet", who=f"system:node:{NAME}", group="system:nodes", at=(NAME, NODE))
        authority.sign("kubelet-client", who="kube-apiserver", group="system:masters")
        authority.sign("kube-proxy", who="system:kube-proxy")
        for name in ("kubelet", "kube-proxy"):
            authority.kubeconfig(name, server)
        return authority

    def _flags(self, port: Mapping[str, int]) -> dict[str, list[str]]:
        flags = super()._flags(port)
        keys = self.keys
        flags["kube-apiserver"] = [
            *(flag for flag in flags["kube-apiserver"] if flag != "--endpoint-reconciler-type=none"),
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={keys / 'ca.crt'}",
            f"--kubelet-client-certificate={keys / 'kubelet-client.crt'}",
            f"--kubelet-client-key={keys / 'kubelet-client.key'}",
        ]
        return flags

    def _forget(self) -> None:
        super()._forget()
        (self.state / MARK).touch()

    def _configure(self) -> None:
        state = self.state
        (state / "containerd.toml").write_text(CONTAINERD.format(state=state, socket=self.socket))
        (state / "Corefile").write_text(COREDNS.format(kubeconfig=self.kubeconfig))
        documents = {
            "cni/pods.conflist": _pod_network(),
            "kubelet.json": self._kubelet(),
            "kube-proxy.json": self._kube_proxy(),
        }
        for name, document in documents.items():
            (state / name).parent.mkdir(exist_ok=True)
            (state / name).write_text(json.dumps(document, indent=2))
        self._make_volumes()
        # Its rights as elsewhere; only who it is differs, for here it is no pod with a service account.
        group = "rbac.authorization.k8s.io"
        metrics.put(
            self,
            f"/apis/{group}/v1/clusterrolebindings",
            {
                "metadata": {"name": "kube-proxy"},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "system:node-proxier"},
                "subjects": [{"apiGroup": group, "kind": "User", "name": "system:kube-proxy"}],
            },
        )

    def _kubelet(self) -> dict[str, object]:
        keys = self.keys
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(keys / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(keys / "kubelet.crt"),
            "tlsPrivateKeyFile": str(keys / "kubelet.key"),
            "clusterDNS": [NODE],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(self.state / "pods"),
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,  # images cannot be had again
        }

    def _kube_proxy(self) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": PODS,
            "hostnameOverride": NAME,
            "bindAddress": NODE,
            "clientConnection": {"kubeconfig": str(self.keys / "kube-proxy.kubeconfig")},
            "conntrack": {"maxPerCore": 0, "min": 0},
        }

    def _make_volumes(self) -> None:
        """Folders of this machine, for claims without a class."""
        metrics.put(
            self,
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            },
        )
        host = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
        for number in range(VOLUMES):
            folder = self.state / "volumes" / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            metrics.put(
                self,
                "/api/v1/persistentvolumes",
                {
                    "metadata": {"name": f"local-{number}"},
                    "spec": {
                        "capacity": {"storage": "10Gi"},
                        "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": "local",
                        "local": {"path": str(folder)},
                        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [host]}]}},
                    },
                },
            )

    def _serve_metrics(self, programs: Path) -> None:
        kubeconfig = self.kubeconfig
        self.launch(
            programs,
            "metrics-server",
            [
                f"--kubeconfig={kubeconfig}",
                f"--authentication-kubeconfig={kubeconfig}",
                f"--authorization-kubeconfig={kubeconfig}",
                "--bind-address=127.0.0.1",
                "--secure-port=4443",
                f"--cert-dir={self.state / 'metrics-server'}",
                "--metric-resolution=15s",
                f"--kubelet-certificate-authority={self.keys / 'ca.crt'}",
                "--kubelet-preferred-address-types=InternalIP",
            ],
        )
        metrics.register(self, "metrics.k8s.io", "metrics-server", 4443)
        self.wait(f"/apis/metrics.k8s.io/v1beta1/nodes/{NAME}", READY_SECONDS)

    def ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask containerd, by its own command."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _until(self, name: str, answers: Callable[[], bool]) -> None:
        if not wait_until(answers, READY_SECONDS):
            words = self.log(name).read_text(errors="replace")[-1500:]
            raise ClusterError(f"{name} is not ready: {self.log(name)}\n{words}")


def taken_networks(routes: list[str]) -> list[str]:
    """Of these destinations those that overlap with a node's networks."""
    ours = [ip_network(network) for network in (CABLE, PODS, SERVICES)]
    return [route for route in routes if route != "default" and any(ip_network(route).overlaps(one) for one in ours)]


def ready(cluster: Cluster, path: str) -> bool:
    """Whether the object says of itself that it is Ready."""
    answer = cluster.ask(path)
    conditions = answer.json().get("status", {}).get("conditions", []) if answer.is_success else []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _pod_network() -> dict[str, object]:
    """Each pod on a cable of its own to the node, which routes, so that what a Service translates comes back by it."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(CNI_STATE / NAME),
    }
    return {"cniVersion": "1.0.0", "name": NAME, "plugins": [{"type": "ptp", "ipam": addresses}]}


def _connect() -> None:
    _run("ip", "netns", "add", NAME)
    inside = ("ip", "-netns", NAME)
    for command in (
        ("ip", "link", "add", NAME, "type", "veth", "peer", "name", "machine", "netns", NAME),
        ("ip", "address", "add", f"{MACHINE}/30", "dev", NAME),
        ("ip", "link", "set", NAME, "up"),
        (*inside, "link", "set", "lo", "up"),
        (*inside, "address", "add", f"{NODE}/30", "dev", "machine"),
        (*inside, "link", "set", "machine", "up"),
        (*inside, "route", "add", "default", "via", MACHINE),
        ("ip", "route", "add", PODS, "via", NODE),
        ("ip", "route", "add", SERVICES, "via", NODE),
        ("nsenter", f"--net={NAMESPACE}", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"),
    ):
        _run(*command)


def _control_groups() -> list[Path]:
    """Of pods; the innermost first."""
    found = [folder for folder in GROUPS.glob("**/kubepods*/**/") if folder.is_dir()]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def _end_containers() -> None:
    processes = {int(pid) for folder in _control_groups() for pid in (folder / "cgroup.procs").read_text().split()}
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(_runs, processes)), END_SECONDS)


def _runs(pid: int) -> bool:
    """One that has ended holds nothing any more, also where nobody has asked how."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _remove_traces(state: Path) -> None:
    """What containerd and the kubelet leave outside of the cluster's folder."""
    for folder in _control_groups():
        folder.rmdir()
    for link in LINKS.glob("*"):
        if link.is_symlink() and link.readlink().is_relative_to(state):
            link.unlink()
    shutil.rmtree(CNI_STATE / NAME, ignore_errors=True)
    for result in (CNI_STATE / "results").glob(f"{NAME}-*"):
        result.unlink()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout
