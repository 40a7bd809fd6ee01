"""A running instance of the local stack, for tests, faults and benches."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

import psutil

from deploy.local import database
from deploy.local.layout import REPOSITORY, Instance, database_url
from deploy.local.parts import BIN, owner_settings, settings
from deploy.local.ready import ready, wait_until
from deploy.local.servers import SERVERS
from deploy.local.supervision import SupervisionError, Supervisor

READY_SECONDS = 60


class Stack:
    """One instance by name.

    Its parts: mosquitto, kafka, postgres, redis, prometheus, alertmanager, bridge-0, worker-1, worker-2, lag,
    maintain, gateway, simulator.
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
        """The same, with the database's owner: for migrations and maintenance."""
        return owner_settings(self.instance)

    @property
    def test_env(self) -> dict[str, str]:
        port = self.ports
        return {
            "BRIGADE_TEST_INSTANCE": self.instance.name,
            "BRIGADE_TEST_MQTT": f"127.0.0.1:{port['mqtt']}",
            "BRIGADE_TEST_KAFKA": f"127.0.0.1:{port['kafka']}",
            "BRIGADE_TEST_POSTGRES": self.superuser_url("postgres"),
            "BRIGADE_TEST_REDIS": f"127.0.0.1:{port['redis']}",
        }

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
        if pid == 0 or name not in {server.name for server in SERVERS}:
            return pid
        try:
            process_1 = psutil.Process(pid).children()[0]
            return int(process_1.children()[0].pid)
        except (psutil.NoSuchProcess, IndexError):
            return 0

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal; STOP and CONT reach the children too, so that nothing of the part goes on."""
        process = psutil.Process(self.pid(name))
        family = (
            [process, *process.children(recursive=True)] if number in {signal.SIGSTOP, signal.SIGCONT} else [process]
        )
        for member in family:
            os.kill(member.pid, number)

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
        """Migrate the database, create the topics: what our parts need beside the servers. Safe to repeat."""
        self.migrate()
        self.create_topics()

    def migrate(self) -> None:
        self._brigade("migrate")
        database.grant(self.instance)

    def create_topics(self) -> None:
        self._brigade("topics", "create")

    def _brigade(self, *words: str) -> None:
        command = [str(BIN / "brigade"), *words]
        environment = os.environ | self.owner_env
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SupervisionError(f"brigade {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
