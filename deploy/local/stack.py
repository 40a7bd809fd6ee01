"""A running instance of the local stack, for tests, faults and benches."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Self

import psutil

from deploy.local import accounts
from deploy.local.layout import OWN_DEVICE, OWNER, REPOSITORY, SITE, Instance, Passwords, database_url
from deploy.local.parts import BIN, command_settings, install_settings, settings
from deploy.local.ready import ready, wait_until
from deploy.local.servers import EXPORTERS, SERVERS
from deploy.local.supervision import SupervisionError, Supervisor
from pipeline.install.broker import ANY_DEVICE, MONITOR, USERS
from pipeline.simulate.command import Plan
from pipeline.simulate.command import names as simulated

READY_SECONDS = 180


class Stack:
    """One instance by name.

    Its parts: mosquitto, kafka, postgres, redis, prometheus, alertmanager, bridge-0, worker-1, worker-2, lag,
    maintain, broker, users, gateway, node-exporter, postgres-exporter, redis-exporter, simulator.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.supervisor = Supervisor(instance)

    @classmethod
    def attach(cls, name: str = "local") -> Self:
        """The running instance of that name; raises when there is none."""
        stack = cls(Instance.load(name))
        if not stack.supervisor.alive():
            raise SupervisionError(f"instance {name!r} is not running: scripts/up --detach --instance {name}")
        return stack

    @property
    def env(self) -> dict[str, str]:
        """BRIGADE_… settings under which our parts find this instance."""
        return settings(self.instance)

    @property
    def owner_env(self) -> dict[str, str]:
        """For the command `brigade`: the same, as the databases' owners, and the settings of users."""
        return command_settings(self.instance)

    @property
    def test_env(self) -> dict[str, str]:
        port = self.ports
        return {
            "BRIGADE_TEST_INSTANCE": self.instance.name,
            "BRIGADE_TEST_MQTT": accounts.url(self.instance, ANY_DEVICE),
            "BRIGADE_TEST_MQTT_USERS": accounts.url(self.instance, USERS),
            "BRIGADE_TEST_MQTT_MONITOR": accounts.url(self.instance, MONITOR),
            "BRIGADE_TEST_KAFKA": f"127.0.0.1:{port['kafka']}",
            "BRIGADE_TEST_POSTGRES": self.superuser_url("postgres"),
            "BRIGADE_TEST_REDIS": f"127.0.0.1:{port['redis']}",
            "BRIGADE_TEST_ALERTMANAGER": f"http://127.0.0.1:{port['alertmanager']}",
        }

    @property
    def mqtt_login(self) -> dict[str, str]:
        """For a client that may be any device and hear everything."""
        return {"username": self.env["BRIGADE_MQTT_USER"], "password": self.env["BRIGADE_MQTT_PASSWORD"]}

    @property
    def ports(self) -> dict[str, int]:
        return dict(self.instance.ports)

    @property
    def state(self) -> Path:
        return self.instance.state

    def superuser_url(self, name: str = "brigade") -> str:
        return database_url(self.instance, "postgres", name)

    def pid(self, name: str) -> int:
        """Of the process that does the work, not of the sandbox around it; 0 while there is none."""
        pid = int(self.supervisor.process(name)["pid"])
        if pid == 0 or name not in {server.name for server in (*SERVERS, *EXPORTERS)}:
            return pid
        try:
            process_1 = psutil.Process(pid).children()[0]
            return int(process_1.children()[0].pid)
        except (psutil.NoSuchProcess, IndexError):
            return 0

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal; STOP and CONT reach the children too, so that nothing of the part goes on."""
        process = psutil.Process(self.pid(name))
        process.send_signal(number)
        if number in {signal.SIGSTOP, signal.SIGCONT}:
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
                    child.send_signal(number)

    def stop(self, name: str) -> None:
        """Return when it has ended by itself, cleanly; it stays down until `start`."""
        self.supervisor.stop(name)

    def start(self, name: str, *, seconds: float = READY_SECONDS) -> None:
        """Return when it answers."""
        self.supervisor.start(name)
        if not self.wait_ready(name, seconds=seconds):
            raise SupervisionError(f"{name} is not ready after {seconds:g} s: {self.instance.logs / name}.log")

    def running(self, name: str) -> bool:
        return self.supervisor.process(name)["statename"] in {"STARTING", "RUNNING"} and self.pid(name) != 0

    def ready(self, name: str) -> bool:
        return self.running(name) and ready(name, self.instance)

    def wait_ready(self, name: str, *, seconds: float = READY_SECONDS) -> bool:
        return wait_until(lambda: self.ready(name), seconds)

    def prepare(self) -> None:
        """Make the databases and the topics: what our parts need on the servers. Safe to repeat."""
        self.install_database()
        self.install_topics()

    def install_database(self) -> None:
        self._brigade("install", "database")

    def install_topics(self) -> None:
        self._brigade("install", "topics")

    def create_owner(self) -> None:
        """The first account, of the simulated restaurant; once somebody owns a site, nothing more."""
        restaurant = ("--site", SITE, "--site-name", "Demo", "--time-zone", "UTC")
        words = ("users", "create-owner", OWNER, *restaurant, "--first", "--password-file", "-")
        self._brigade(*words, stdin=Passwords.of(self.instance).owner)

    def enrol(self, devices: int) -> None:
        """Give the simulated devices their passwords, and one more for a person to try; those they have stay."""
        names = (*simulated(Plan(sites=(SITE,), devices=devices)), OWN_DEVICE)
        self._brigade(
            "users", "credentials", "create", "--site", SITE, "--file", str(self.instance.credentials), *names
        )

    def _brigade(self, *words: str, stdin: str = "") -> None:
        command = [str(BIN / "brigade"), *words]
        environment = os.environ | self.owner_env | install_settings(self.instance)
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SupervisionError(f"brigade {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
