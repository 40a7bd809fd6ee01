"""The core profile in containers: nothing is lost while parts are replaced and killed, and mistakes are named.

Needs a Docker engine with the images, and root for killing what is in a container; skipped by name elsewhere.
"""

import json
import os
import re
import signal
import socket
import subprocess
from contextlib import contextmanager

import pytest

from deploy.local.layout import REPOSITORY
from deploy.local.ready import wait_until

PARTS = ("bridge", "worker", "lag", "broker", "maintain", "users", "gateway")
SECONDS = 600
RUN = ("docker", "compose", "--profile", "command", "run", "--rm", "--no-TTY", "--no-deps")
FOR_DEVICES = ("--credentials", "/devices/simulated.json")


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return str(trial.getsockname()[1])


class Project:
    """A Compose project of its own: names, ports, secrets."""

    def __init__(self, name, folder, engine, **more):
        self.secrets = folder / "secrets"
        self.ledgers = folder / "ledgers"
        self.environment = (
            os.environ
            | engine
            | {
                "COMPOSE_PROJECT_NAME": name,
                "BRIGADE_SECRETS_FOLDER": str(self.secrets),
                "GATEWAY_PORT": free_port(),
                "MQTT_PORT": free_port(),
                **more,
            }
        )

    def script(self, *words):
        return subprocess.run(
            words,
            cwd=REPOSITORY,
            env=self.environment,
            text=True,
            check=False,
            timeout=SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def up(self):
        return self.script("scripts/up", "--docker", "--no-simulator")

    def down(self, *words):
        done = self.script("scripts/down", "--docker", *words)
        assert done.returncode == 0, done.stdout

    def compose(self, *words):
        done = self.script("docker", "compose", "--profile", "simulator", *words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def state(self, service):
        container = self.compose("ps", "--all", "--quiet", service).split()[0]
        [found] = json.loads(self.script("docker", "inspect", container).stdout)
        return found["State"] | {"Restarts": found["RestartCount"], "Container": found["Id"]}

    def healthy(self, service):
        return self.state(service)["Health"]["Status"] == "healthy"

    def until_healthy(self, service):
        assert wait_until(lambda: self.healthy(service), 120), self.compose("logs", "--tail=20", service)

    def kill(self, service):
        """-9 to the process itself: Docker does not know why it ended, and starts it again."""
        before = self.state(service)
        os.kill(before["Pid"], signal.SIGKILL)
        assert wait_until(lambda: self.state(service)["Restarts"] > before["Restarts"], 30)


@contextmanager
def project(name, folder, engine, **more):
    it = Project(name, folder, engine, **more)
    try:
        yield it
    finally:
        it.down("--delete")


@pytest.fixture(scope="module")
def core(engine, tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root may kill what is in a container")
    with project("brigade-test", tmp_path_factory.mktemp("core"), engine) as it:
        done = it.up()
        assert done.returncode == 0, done.stdout
        it.said = done.stdout
        assert "everything is ready after" in it.said
        it.compose("up", "--detach", "sensors")
        assert wait_until(lambda: it.state("sensors")["Status"] == "exited", 60)
        it.ledgers.mkdir()
        os.chown(it.ledgers, 10001, 10001)
        yield it


def test_the_lines_of_the_advice_work(core):
    """As a person would paste them, who looks again where the machine is slow."""
    lines = core.said[core.said.index("Send a reading, and see it:") :].splitlines()[1:]
    pasted = ("bash", "-ec", "\n".join(lines))
    assert wait_until(lambda: '"metric":"temperature_c"' in core.script(*pasted).stdout, 60), core.said


@contextmanager
def load(core):
    """Sensors that send while this lasts; what they sent is in the ledger file then."""
    ledger = core.ledgers / "sent.jsonl"
    name = f"{core.environment['COMPOSE_PROJECT_NAME']}-load"
    run = ("run", "--rm", "--no-TTY", "--no-deps", "--name", name, "--volume", f"{core.ledgers}:/ledgers")
    words = ("brigade", "simulate", *FOR_DEVICES, "--rate", "200", "--ledger", "/ledgers/sent.jsonl", "--goodbye", "20")
    sending = subprocess.Popen(
        ["docker", "compose", "--profile", "simulator", *run, "simulator", *words],
        cwd=REPOSITORY,
        env=core.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert wait_until(lambda: ledger.exists() and ledger.stat().st_size > 10_000, 90)
        yield
    finally:
        core.script("docker", "kill", "--signal=INT", name)
        said = sending.communicate(timeout=90)[0]
    assert sending.returncode == 0, said


def verified(core, *words):
    """`brigade verify` on what was sent."""
    volume = ("--volume", f"{core.ledgers}:/ledgers")
    checked = core.script(*RUN, *volume, "brigade", "verify", "/ledgers/sent.jsonl", *words)
    assert checked.returncode == 0, checked.stdout
    return checked.stdout


def test_nothing_is_lost_while_each_part_is_replaced_and_killed(core):
    with load(core):
        for part in PARTS:
            before = core.state(part)["Container"]
            core.compose("up", "--detach", "--force-recreate", "--no-deps", part)
            assert core.state(part)["Container"] != before
        for part in PARTS:
            core.until_healthy(part)
        for victim in ("worker", "bridge", "timescaledb", "mosquitto"):
            core.kill(victim)
            core.until_healthy(victim)
    print(verified(core, "--wait", "120"))


def test_down_and_up_keep_the_data(core):
    core.down()
    assert core.compose("ps", "--all", "--quiet") == ""
    done = core.up()
    assert done.returncode == 0, done.stdout
    verified(core)


def test_status_finds_everything(core):
    said = core.script(*RUN, "brigade", "status", "--json")
    parts = json.loads(said.stdout[said.stdout.index("{") :])["parts"]
    assert {one["name"] for one in parts if one["up"]} >= set(PARTS) - {"broker"}


def test_a_missing_secret_is_named_and_the_next_up_makes_it_again(core):
    secret = core.secrets / "worker/BRIGADE_DATABASE_URL"
    was = secret.read_text()
    secret.unlink()
    core.compose("restart", "worker")
    assert wait_until(lambda: core.state("worker")["Restarts"] > 0, 30)
    assert "The secret BRIGADE_DATABASE_URL is missing or empty" in core.compose("logs", "--tail=5", "worker")
    assert core.up().returncode == 0
    assert secret.read_text() == was
    assert core.healthy("worker")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [("mqtt-bridge", "", "Delete {}/passwords/mqtt-bridge"), ("postgres", "another-password", "Put the old one back")],
    ids=["empty", "wrong"],
)
def test_a_password_that_cannot_be_is_named(core, name, content, word):
    password = core.secrets / "passwords" / name
    was = password.read_text()
    password.write_text(content)
    try:
        done = core.up()
    finally:
        password.write_text(was)
    assert done.returncode == 1
    assert word.format(os.path.relpath(core.secrets, REPOSITORY)) in done.stdout


def test_a_taken_port_names_its_owner_and_the_variable(engine, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with project("brigade-test-port", tmp_path, engine, GATEWAY_PORT=port) as it:
            done = it.up()
    assert done.returncode == 1
    assert f"port {port} for gateway is taken by process {os.getpid()}: " in done.stdout
    assert "GATEWAY_PORT=" in done.stdout


def test_a_full_disk_is_named(engine, tmp_path):
    small = tmp_path / "small.yml"
    small.write_text('volumes: {timescaledb: {driver_opts: {type: tmpfs, device: tmpfs, o: "size=8m"}}}')
    files = f"docker-compose.yml:{small}"
    with project("brigade-test-full", tmp_path, engine, COMPOSE_FILE=files) as it:
        done = it.up()
    assert done.returncode == 1
    assert "timescaledb is not ready" in done.stdout
    assert "The disk with Docker's volumes is full" in done.stdout


def test_a_machine_without_an_engine_is_told_what_to_do(tmp_path, compose_binary):
    environment = {"DOCKER_CONFIG": str(compose_binary.parents[1]), "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    done = Project("brigade-test-none", tmp_path, environment).up()
    assert done.returncode == 1
    assert re.search(r"There is no docker command here|The Docker engine does not answer", done.stdout)
