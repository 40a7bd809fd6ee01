"""A broker and a Kafka of the bridge's tests alone, out of the local stack's roots: stopped and killed here."""

import os
import secrets
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from deploy.local import jars, roots, servers
from deploy.local.layout import PORTS, Instance, Passwords, cache_folder
from deploy.local.ready import ready, wait_until
from pipeline.install.broker import ANY_DEVICE


class OwnServer:
    """One server of an instance of the tests' own, started and ended at will; its data stay."""

    def __init__(self, name: str, instance: Instance) -> None:
        self.name = name
        self.instance = instance
        self._server = next(server for server in servers.SERVERS if server.name == name)
        self._sandbox: subprocess.Popen[bytes] | None = None
        self.first_start()

    def first_start(self) -> None:
        """Make what it needs and has not."""
        box = self._server.sandbox(self.instance)
        box.own()
        self._server.first_start(self.instance, box)

    def start(self) -> None:
        if self._sandbox is not None:
            return
        log = self.instance.state / f"{self.name}.log"
        with log.open("ab") as output:
            command = servers.command(self._server, self.instance)
            self._sandbox = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        assert wait_until(self.ready, 180), f"{self.name} did not start:\n{log.read_text()[-2000:]}"

    def ready(self) -> bool:
        return ready(self.name, self.instance)

    def send(self, number: signal.Signals) -> None:
        assert self._sandbox is not None
        process_1 = psutil.Process(self._sandbox.pid).children()[0]
        process_1.children()[0].send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Return when it has ended, by that signal."""
        if self._sandbox is not None:
            self.send(number)
            self._sandbox.wait(120)
            self._sandbox = None


class OwnMosquitto(OwnServer):
    """A broker alone."""

    def __init__(self, folder: Path) -> None:
        self.instance = own_instance(folder)
        self.port = self.instance.ports["mqtt"]
        super().__init__("mosquitto", self.instance)


class OwnServers:
    def __init__(self, folder: Path) -> None:
        instance = own_instance(folder)
        self.mqtt_port = instance.ports["mqtt"]
        self.kafka_address = f"127.0.0.1:{instance.ports['kafka']}"
        self.account = {"user": ANY_DEVICE, "password": Passwords.of(instance).mqtt_any_device}
        self.mosquitto = OwnServer("mosquitto", instance)
        self.kafka = OwnServer("kafka", instance)

    def start(self) -> None:
        self.mosquitto.start()
        self.kafka.start()

    def end(self) -> None:
        self.mosquitto.end()
        self.kafka.end(signal.SIGKILL)


def own_instance(folder: Path) -> Instance:
    """With every port free, and the servers configured."""
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    instance = Instance(name=f"own-{secrets.token_hex(3)}", cache=cache_folder(), state=folder, ports=ports)
    missing = [place for place in _needed(instance) if not place.exists()]
    if missing:
        _cannot(f"scripts/test makes them: {', '.join(map(str, missing))}")
    instance.logs.mkdir(parents=True)
    servers.configure(instance)
    return instance


def _needed(instance: Instance) -> list[Path]:
    return [
        roots.TRIXIE.folder(instance.cache),
        roots.FORKY.folder(instance.cache),
        jars.folder(instance.cache),
    ]


def _cannot(why: str) -> None:
    text = f"the local stack's servers are not there; {why}"
    if os.environ.get("BRIGADE_TEST_ALL") == "1":
        pytest.fail(text)
    pytest.skip(text)


def _free_ports(count: int) -> list[int]:
    trials = [socket.socket() for _ in range(count)]
    for trial in trials:
        trial.bind(("127.0.0.1", 0))
    ports = [trial.getsockname()[1] for trial in trials]
    for trial in trials:
        trial.close()
    return ports
