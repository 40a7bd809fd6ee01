"""The bench's own instance of the local stack: started, emptied, given another broker setting, ended."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import sql

from deploy.local import servers
from deploy.local.down import shut_down
from deploy.local.layout import REPOSITORY, Broker, Instance
from deploy.local.ready import wait_until
from deploy.local.say import say
from deploy.local.stack import Stack

APPLICATION = "brigade-bench"
CHAIN = ("bridge-0", "worker-1")
BESIDE = ("lag", "maintain")


@contextmanager
def running(name: str, offset: int, *, keep: bool) -> Iterator["Bench"]:
    """The instance, started unless it runs; ended afterwards unless it is to be kept."""
    command = [sys.executable, "-m", "deploy.local.up", "--detach", "--only", "servers"]
    if subprocess.run([*command, "--instance", name, "--offset", str(offset)], cwd=REPOSITORY, check=False).returncode:
        raise SystemExit(1)
    try:
        yield Bench(Stack.attach(name))
    finally:
        if not keep:
            shut_down(Instance.load(name))
            say(f"instance {name} is down; its data stay: scripts/down --delete --instance {name}")


class Bench:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    @property
    def mqtt_port(self) -> int:
        return self.stack.ports["mqtt"]

    def connect(self, name: str = "brigade") -> psycopg.Connection:
        """As superuser, under a name that the CPU accounts leave out."""
        alone = "-c max_parallel_workers_per_gather=0 -c jit=off"  # helpers would be counted as the server's
        url = self.stack.superuser_url(name)
        return psycopg.connect(url, autocommit=True, application_name=APPLICATION, options=alone)

    def begin(self, broker: Broker) -> None:
        """Our chain, from nothing: no row, no record, no session."""
        self.end_chain()
        self.restart_broker(broker)
        self._delete_topics()
        self.drop("brigade")
        self.stack.prepare()
        for part in (*CHAIN, *BESIDE):
            self.stack.start(part)
        with self.connect() as connection:
            connection.execute("CHECKPOINT")

    def end_chain(self) -> None:
        for part in (*BESIDE, *CHAIN):
            self.stack.stop(part)

    def restart_broker(self, broker: Broker) -> None:
        """Mosquitto, under this setting, remembering nothing."""
        self.stack.stop("mosquitto")
        changed = replace(self.stack.instance, broker=broker)
        changed.save()
        servers.configure(changed)
        self.stack = Stack(changed)
        for file in changed.data("mosquitto").glob("mosquitto*"):
            file.unlink()
        self.stack.start("mosquitto")

    def drop(self, name: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _delete_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.stack.env["BRIGADE_KAFKA_BOOTSTRAP_SERVERS"]})

        def names() -> list[str]:
            return [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]

        if not (there := names()):
            return
        for gone in admin.delete_topics(there).values():
            try:
                gone.result()
            except KafkaException as error:
                say(f"a topic stays: {error}")
        wait_until(lambda: not names(), 30)

    def pids(self) -> dict[str, int]:
        """Of the processes that do the work."""
        parts = ("mosquitto", "kafka", "postgres", "redis", "prometheus", "alertmanager", *CHAIN, *BESIDE)
        return {part: pid for part in parts if (pid := self.stack.pid(part))}


def environment(bench: Bench) -> dict[str, str]:
    return os.environ | bench.stack.env
