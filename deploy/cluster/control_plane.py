"""etcd, API server, controllers and scheduler as processes on loopback: started, found again, ended by pid."""

import json
import os
import shutil
import ssl
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from deploy.cluster.certificates import Authority
from deploy.local.layout import cache_folder, hold
from deploy.local.ports import taken
from deploy.local.say import say

PORTS = {
    "kube-apiserver": 6443,
    "etcd": 2379,
    "etcd-peers": 2380,
    "kube-controller-manager": 10257,
    "kube-scheduler": 10259,
    "prometheus-adapter": 6444,
}
SERVICES = "10.96.0.0/16"
READY_SECONDS = 120


class ClusterError(Exception):
    """The text says what went wrong, and where to look."""


def ports(offset: int) -> dict[str, int]:
    shifted = {name: port + offset for name, port in PORTS.items()}
    if not all(0 < port < 65536 for port in shifted.values()):
        raise ClusterError(f"no such ports: {shifted}; an offset is at most {65535 - max(PORTS.values())}")
    return shifted


@dataclass(frozen=True)
class Started:
    """A process of ours; one that got the same pid after it has begun at another time."""

    pid: int
    began: float

    def process(self) -> psutil.Process | None:
        try:
            found = psutil.Process(self.pid)
            return found if found.create_time() == self.began and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def end(self) -> None:
        """At once, if it runs: nothing of it is kept, and a clean end would take seconds for that."""
        if process := self.process():
            process.kill()
            process.wait(10)


class Cluster:
    """One cluster by name; everything of it is in one folder."""

    address = "127.0.0.1"
    """Where its servers listen."""

    def __init__(self, name: str) -> None:
        if not name.replace("-", "").isalnum():  # the folder is deleted
            raise ClusterError(f"{name!r} cannot be a cluster's name: letters, digits and -")
        self.name = name
        self.state = cache_folder() / "state" / f"cluster-{name}"
        self.keys = self.state / "keys"
        self.kubeconfig = self.keys / "admin.kubeconfig"

    def up(self, program: Path, port: Mapping[str, int]) -> None:
        """Start it from nothing and return when it answers; nothing to do when it does already."""
        self.state.mkdir(parents=True, exist_ok=True)
        lock = hold(self.state / "lock")
        if lock is None:
            raise ClusterError(f"somebody is starting or ending cluster {self.name}")
        try:
            if any(started.process() for started in self.processes().values()):
                if self.answers():
                    return
                raise ClusterError(f"cluster {self.name} runs and does not answer: scripts/cluster down, then up")
            self._refuse(port)
            self._forget()
            (self.state / "ports.json").write_text(json.dumps(dict(port)))
            self._make_keys(f"https://{self.address}:{port['kube-apiserver']}")
            try:
                self._start(program, port)
            except BaseException:
                self._end()
                raise
        finally:
            os.close(lock)

    def down(self) -> bool:
        """End it, and delete what was in it; False when there is none."""
        if not self.state.exists():
            return False
        self._end()
        shutil.rmtree(self.state)
        return True

    def processes(self) -> dict[str, Started]:
        """In the order in which they were started."""
        file = self.state / "processes.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        return {name: Started(**facts) for name, facts in known.items()}

    def ports(self) -> dict[str, int]:
        return dict(json.loads((self.state / "ports.json").read_text()))

    def launch(self, program: Path, name: str, flags: list[str]) -> None:
        """Start one of its processes, which is that server of the program."""
        self.spawn(name, [str(program), name, *flags])

    def spawn(self, name: str, command: list[str]) -> None:
        """Start one of its processes, and remember it."""
        self.log(name).parent.mkdir(exist_ok=True)
        with self.log(name).open("ab") as output:
            # Not a Popen: it outlives us on purpose, which one of those warns of.
            pid = os.posix_spawnp(
                command[0],
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), 1), (os.POSIX_SPAWN_DUP2, output.fileno(), 2)],
                setsid=True,
            )
        began = psutil.Process(pid).create_time()
        known = self.processes() | {name: Started(pid, began)}
        file = self.state / "processes.json"
        file.write_text(json.dumps({each: asdict(started) for each, started in known.items()}, indent=2))

    def wait(self, path: str, seconds: float = READY_SECONDS) -> None:
        """Return when the API server has an answer to that."""
        deadline = time.monotonic() + seconds
        while not self.answers(path):
            ended = [name for name, started in self.processes().items() if started.process() is None]
            if ended or time.monotonic() > deadline:
                name = ended[0] if ended else "kube-apiserver"
                words = self.log(name).read_text(errors="replace")[-1500:]
                raise ClusterError(f"{name} {'ended' if ended else 'does not answer'}: {self.log(name)}\n{words}")
            time.sleep(0.2)

    def log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    def answers(self, path: str = "/readyz") -> bool:
        try:
            return self.ask(path).is_success
        except (httpx.TransportError, FileNotFoundError):
            return False

    def ask(self, path: str, method: str = "GET", document: object = None) -> httpx.Response:
        """As its administrator."""
        server = json.loads(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        trust = ssl.create_default_context(cafile=self.keys / "ca.crt")
        trust.load_cert_chain(self.keys / "admin.crt", self.keys / "admin.key")
        return httpx.request(method, f"{server}{path}", json=document, verify=trust, timeout=10, trust_env=False)

    def _refuse(self, port: Mapping[str, int]) -> None:
        """Say what keeps it from being started on this machine."""
        if problems := taken(port):
            raise ClusterError("\n".join([*problems, "Choose others: --offset 1000 moves all."]))

    def _end(self) -> None:
        for started in self.processes().values():
            started.end()

    def _forget(self) -> None:
        for path in self.state.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def _make_keys(self, server: str) -> Authority:
        authority = Authority(self.keys)
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", self.address, "10.96.0.1")
        authority.sign("kube-apiserver", who="kube-apiserver", at=names)
        authority.sign("admin", who="admin", group="system:masters")
        authority.sign("kube-controller-manager", who="system:kube-controller-manager")
        authority.sign("kube-scheduler", who="system:kube-scheduler")
        authority.sign("aggregator", who="aggregator")
        authority.key_pair("service-accounts")
        for name in ("admin", "kube-controller-manager", "kube-scheduler"):
            authority.kubeconfig(name, server)
        return authority

    def _start(self, program: Path, port: Mapping[str, int]) -> None:
        began = time.monotonic()
        for name, flags in self._flags(port).items():
            self.launch(program, name, flags)
            if name == "kube-apiserver":
                self.wait("/readyz")
        # Made by a controller; before, no pod of the namespace is accepted.
        self.wait("/api/v1/namespaces/default/serviceaccounts/default")
        say(f"the control plane is ready after {time.monotonic() - began:.1f} s")

    def _flags(self, port: Mapping[str, int]) -> dict[str, list[str]]:
        """In the order in which they start."""
        keys = self.keys
        etcd, peers = (f"http://127.0.0.1:{port[name]}" for name in ("etcd", "etcd-peers"))

        def client(name: str) -> list[str]:
            kubeconfig = keys / f"{name}.kubeconfig"
            return [
                f"--kubeconfig={kubeconfig}",
                f"--authentication-kubeconfig={kubeconfig}",
                f"--authorization-kubeconfig={kubeconfig}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port[name]}",
                f"--cert-dir={self.state / name}",
                "--leader-elect=false",
            ]

        return {
            "etcd": [
                f"--data-dir={self.state / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            "kube-apiserver": [
                f"--etcd-servers={etcd}",
                f"--bind-address={self.address}",
                f"--advertise-address={self.address}",
                "--endpoint-reconciler-type=none",  # a loopback address cannot be an endpoint
                f"--secure-port={port['kube-apiserver']}",
                f"--tls-cert-file={keys / 'kube-apiserver.crt'}",
                f"--tls-private-key-file={keys / 'kube-apiserver.key'}",
                f"--client-ca-file={keys / 'ca.crt'}",
                "--allow-privileged=true",  # as elsewhere: Pod Security says who may not
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                f"--service-cluster-ip-range={SERVICES}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={keys / 'service-accounts.pub'}",
                f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
                f"--requestheader-client-ca-file={keys / 'ca.crt'}",
                "--requestheader-allowed-names=aggregator",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-username-headers=X-Remote-User",
                f"--proxy-client-cert-file={keys / 'aggregator.crt'}",
                f"--proxy-client-key-file={keys / 'aggregator.key'}",
                "--profiling=false",
            ],
            "kube-controller-manager": [
                *client("kube-controller-manager"),
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={keys / 'service-accounts.key'}",
                f"--root-ca-file={keys / 'ca.crt'}",
                f"--cluster-signing-cert-file={keys / 'ca.crt'}",
                f"--cluster-signing-key-file={keys / 'ca.key'}",
                "--horizontal-pod-autoscaler-sync-period=5s",  # of 15 s: tests wait for decisions
            ],
            "kube-scheduler": client("kube-scheduler"),
        }
