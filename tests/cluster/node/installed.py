"""The chart on a node: asked by kubectl, written to by devices, read by its API."""

import base64
import json
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from deploy.cluster.node import WithNode
from deploy.local.layout import REPOSITORY
from deploy.local.parts import BIN
from deploy.local.ready import wait_until
from tests.deploy.chart.rendering import SYSTEM, tools

BRIGADE = str(BIN / "brigade")
VALUES = "values-node.yaml"
SECONDS = 900
"""A machine that does other work, too, takes as long."""
TOKEN_SECONDS = 240
"""Well within an access token's ten minutes."""
PARTS = ("bridge", "worker", "gateway", "users", "lag", "broker", "maintain")
WORKLOADS = (
    *(f"deployment/{name}" for name in ("iot-deployment", "gateway-deployment", "user-deployment")),
    *(f"deployment/{name}" for name in ("lag-exporter", "broker-exporter", "maintain")),
    "statefulset/iot-bridge",
)
"""Of ours; PARTS are their pods."""
SERVERS = ("kafka", "mosquitto", "timescaledb", "postgresql", "redis")


@dataclass(frozen=True)
class Load:
    site: str
    devices: list[str]
    ledger: Path


class Installed:
    def __init__(self, cluster: WithNode, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self._environment = os.environ | {
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": f"{tools()}:{os.environ['PATH']}",
        }
        self._password = secrets.token_hex(12)

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=REPOSITORY,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        done = self.run("kubectl", "--namespace", SYSTEM, *words, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, document: dict[str, Any]) -> None:
        done = self.run("kubectl", "apply", "--filename", "-", stdin=json.dumps(document))
        assert done.returncode == 0, done.stderr

    def helm(self, *words: str) -> None:
        """As a person does; with the values of a node. A test asks oftener than a person."""
        often = ("--set-string", "gateway.settings.BRIGADE_GATEWAY_RATE_PEOPLE=100000")
        done = self.run("deploy/helm/deploy-helm.sh", "-f", VALUES, *often, *words)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.state()}"

    def state(self) -> str:
        """For who reads why it failed."""
        return self.run("kubectl", "get", "pods,events", "--all-namespaces", "--output", "wide").stdout[-8000:]

    def get(self, *words: str) -> list[dict[str, Any]]:
        return list(json.loads(self.kubectl("get", *words, "--output", "json"))["items"])

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Of that app, which are no Job's and not on their way out."""
        found = self.get("pods", "--selector", f"app.kubernetes.io/name={name},!batch.kubernetes.io/job-name")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, name: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods(name) if is_ready(pod)]

    def address(self, service: str) -> str:
        """This machine reaches it: it has a route to the node's Services."""
        return str(json.loads(self.kubectl("get", "service", service, "--output", "json"))["spec"]["clusterIP"])

    def secret(self, name: str, key: str) -> str:
        kept = json.loads(self.kubectl("get", "secret", name, "--output", "json"))["data"][key]
        return base64.b64decode(kept).decode()

    def superuser_url(self) -> str:
        password = self.secret("timescaledb-credentials", "POSTGRES_PASSWORD")
        return f"postgresql://postgres:{password}@{self.address('timescaledb-service')}:5432/brigade"

    # What people and devices do ------------------------------------------------------------------------------

    def new_site(self) -> str:
        """Another restaurant, with an owner: no other load's devices are in it."""
        site = f"site-{secrets.token_hex(4)}"
        words = ("create-owner", f"{site}@example.com", "--site", site, "--time-zone", "UTC", "--password-file", "-")
        self.kubectl(
            "exec", "--stdin", "deployment/user-deployment", "--", "brigade", "users", *words, stdin=self._password
        )
        return site

    def credentials(self, site: str, *devices: str) -> Path:
        """The file with their passwords."""
        create = f"brigade users credentials create --site {site} --file /tmp/devices.json {' '.join(devices)}"
        said = self.kubectl("exec", "deployment/user-deployment", "--", "sh", "-ec", f"{create}; cat /tmp/devices.json")
        file = self.folder / f"{site}.json"
        file.write_text(said)
        return file

    def api(self, site: str) -> httpx.Client:
        """Of its owner, who has logged in."""
        address = f"http://{self.address('gateway-service')}:8000/api/v1"
        account = {"email": f"{site}@example.com", "password": self._password}
        answer = httpx.post(f"{address}/auth/login", json=account, timeout=30, trust_env=False)
        assert answer.is_success, answer.text
        token = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        return httpx.Client(base_url=address, headers=token, timeout=10, trust_env=False)

    @contextmanager
    def load(self, *, rate: int = 100, devices: int = 20) -> Iterator[Load]:
        """Devices that send while this lasts; what they sent is in the ledger file then."""
        site = self.new_site()
        plan = ("--site", site, "--devices", str(devices), "--seed", str(secrets.randbelow(1_000_000)))
        names = self.run(BRIGADE, "simulate", *plan, "--names").stdout.split()
        ledger = self.folder / f"{site}.jsonl"
        where = ("--host", self.address("mosquitto-service"), "--credentials", str(self.credentials(site, *names)))
        words = (*plan, *where, "--rate", str(rate), "--offline", "0", "--goodbye", "60", "--ledger", str(ledger))
        sending = subprocess.Popen([BRIGADE, "simulate", *words], stderr=subprocess.PIPE, text=True)
        try:
            begun = wait_until(
                lambda: ledger.exists() and ledger.stat().st_size > 0, 120, while_true=lambda: sending.poll() is None
            )
            assert begun, self.state()
            yield Load(site, names, ledger)
        finally:
            sending.send_signal(signal.SIGINT)
            _, said = sending.communicate(timeout=180)
        assert sending.returncode == 0, said

    def verify(self, load: Load) -> str:
        """`brigade verify` on what was sent: everything acknowledged is stored, and nothing twice."""
        words = (str(load.ledger), "--wait", str(SECONDS), "--database-url", self.superuser_url())
        done = self.run(BRIGADE, "verify", *words)
        assert done.returncode == 0, done.stdout + done.stderr + self.state()
        return done.stdout

    def kill(self, name: str) -> str:
        """-9 to the program of one pod, of which Kubernetes knows nothing; return the pod's name."""
        pod = next(pod for pod in self.pods(name) if is_ready(pod))
        ours = pod["spec"]["containers"][0]["name"]
        (container,) = [one for one in pod["status"]["containerStatuses"] if one["name"] == ours]
        known = dict(line.split()[:2] for line in self.cluster.ctr("tasks", "list").stdout.splitlines()[1:])
        os.kill(int(known[container["containerID"].removeprefix("containerd://")]), signal.SIGKILL)
        return str(pod["metadata"]["name"])

    def all_ready(self, name: str) -> bool:
        return all(map(is_ready, self.pods(name)))

    def evictable(self, budget: str) -> int:
        """How many pods its PodDisruptionBudget lets go."""
        (found,) = [one for one in self.get("poddisruptionbudgets") if one["metadata"]["name"] == budget]
        return int(found["status"]["disruptionsAllowed"])

    def metric(self, pod: str, port: int, name: str) -> float:
        """The sum of its series, as the pod tells it; 0 as long as there is none."""
        address = json.loads(self.kubectl("get", "pod", pod, "--output", "json"))["status"]["podIP"]
        said = httpx.get(f"http://{address}:{port}/metrics", timeout=10, trust_env=False).text
        return sum(float(line.split()[-1]) for line in said.splitlines() if re.match(rf"{name}[ {{]", line))

    def ids(self, name: str) -> set[str]:
        """Of its pods; another pod of the same name has another."""
        return {pod["metadata"]["uid"] for pod in self.pods(name)}

    def replaced(self, name: str, pods: set[str]) -> bool:
        """Whether there are as many others, all of them ready."""
        now = self.ids(name)
        return not now & pods and len(now) == len(pods) and self.all_ready(name)

    def restarts(self) -> dict[str, int]:
        return {
            pod["metadata"]["name"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))
            for pod in self.get("pods")
        }


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


class Asking:
    """Somebody who asks the API again and again, on a connection of its own each time."""

    def __init__(self, installed: Installed, site: str) -> None:
        self._installed = installed
        self._site = site
        self._ended = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=60)

    def _ask(self) -> None:
        while not self._ended.is_set():
            with self._installed.api(self._site) as client:
                client.headers["Connection"] = "close"
                until = time.monotonic() + TOKEN_SECONDS
                while time.monotonic() < until and not self._ended.wait(0.1):
                    self._ask_once(client)

    def _ask_once(self, client: httpx.Client) -> None:
        try:
            answer = client.get("/latest", params={"site": self._site})
            if not answer.is_success:
                self.failures.append(f"{answer.status_code} {answer.text[:200]}")
        except httpx.TransportError as error:
            self.failures.append(repr(error))
        self.answers += 1
