"""Workers as processes of their own, what is fed to them through Kafka, and what became of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg
from confluent_kafka import Producer

from pipeline import packs
from pipeline.packs import Message
from pipeline.topics import MAX_MESSAGE_BYTES, Topics
from tests.pipeline.sinks import Tables

REPOSITORY = Path(__file__).parents[2]
FAUST = ("--quiet", "-A", "pipeline.agents", "worker", "--without-web", "-l", "warn")

RUN = f"""
import ctypes, sys
ctypes.CDLL(None).prctl(1, 9)  # end with whoever runs the tests
sys.argv = ["faust", *{FAUST!r}]
from faust.cli.faust import cli
cli()
"""


def eventually(check: Callable[[], Any], seconds: float = 120) -> Any:
    """Return what `check` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


class Worker:
    """`faust -A pipeline.agents worker`; `patch` is Python that runs before it, to break something in it."""

    def __init__(self, log: Path, environment: dict[str, str], patch: str = "") -> None:
        self.port = free_port()
        self._log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", patch + RUN],
                cwd=REPOSITORY,
                env={**os.environ, "BRIGADE_WORKER_PORT": str(self.port), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = 120) -> int:
        """The exit code, once there is one."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {seconds} s") from None

    def end(self) -> int:
        self.send(signal.SIGTERM)
        return self.ended(15)

    def destroy(self) -> None:
        if self.running:
            self.process.kill()
            self.process.wait()


@dataclass
class Kitchen:
    """One test's topics, group and database; the workers started for it, and what was fed to them."""

    topics: Topics
    url: str
    tables: Tables
    folder: Path
    settings: dict[str, str]
    workers: list[Worker] = field(default_factory=list)
    sent: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Received µs of each reading, by device."""

    def __post_init__(self) -> None:
        servers = self.topics.settings.kafka_bootstrap_servers
        limit = MAX_MESSAGE_BYTES - 4096
        self.producer = Producer({"bootstrap.servers": servers, "acks": "all", "message.max.bytes": limit})
        self._clock = time.time_ns() // 1000

    def worker(self, patch: str = "", **settings: object) -> Worker:
        own = {f"BRIGADE_{name.upper()}": str(value) for name, value in settings.items()}
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(Worker(log, {**self.settings, **own}, patch))
        return self.workers[-1]

    def put(self, partition: int, value: bytes | None) -> None:
        """A record as it is; returns when Kafka has it."""
        failed: list[object] = []
        self.producer.produce(
            self.topics.raw,
            value=value,
            partition=partition,
            on_delivery=lambda error, _: error and failed.append(error),
        )
        assert self.producer.flush(30) == 0
        assert not failed

    def messages(self, messages: list[Message]) -> None:
        """In one pack a partition."""
        by_partition: dict[int, list[Message]] = defaultdict(list)
        for message in messages:
            key = packs.partition_key(message.topic)
            by_partition[packs.partition_of(key, self.topics.settings.partitions)].append(message)
        for partition, entries in by_partition.items():
            self.put(partition, packs.encode(entries))

    def next_us(self) -> int:
        self._clock = max(self._clock + 8, time.time_ns() // 1000)
        return self._clock

    def feed(self, rounds: int = 1, devices: int = 9, each: int = 3) -> None:
        """`rounds` packs a partition: `each` readings, of two points, of every device."""
        for _ in range(rounds):
            entries = []
            for n in range(devices * each):
                device, us = f"fridge-{n % devices}", self.next_us()
                self.sent[device].add(us)
                entries.append(Message(f"brigade/v1/seoul-1/{device}/readings", us, b'{"a":1,"b":%d}' % n))
            self.messages(entries)

    @contextmanager
    def feeding(self, pause: float = 0.02, **arguments: int) -> Iterator[None]:
        """All the while."""
        stop = threading.Event()
        failed = []

        def feed() -> None:
            try:
                while not stop.wait(pause):
                    self.feed(**arguments)
            except BaseException as error:
                failed.append(error)
                raise

        thread = threading.Thread(target=feed)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not failed

    @property
    def count(self) -> int:
        return sum(map(len, self.sent.values()))

    def stored(self) -> int:
        return int(self.tables.one("SELECT coalesce(sum(stored), 0) FROM ledger_now"))

    def wait_stored(self, count: int | None = None, seconds: float = 120) -> None:
        expected = self.count if count is None else count
        try:
            eventually(lambda: self.stored() >= expected, seconds)
        except AssertionError:
            raise AssertionError(f"{self.stored()} of {expected} are stored after {seconds} s") from None

    def check_running(self) -> None:
        ended = {number: worker.process.returncode for number, worker in enumerate(self.workers) if not worker.running}
        assert not ended, "workers ended"

    def check_once(self) -> None:
        """Everything that was fed is stored, once, and nothing else came."""
        self.check_stored_once()
        assert self.tables.one("SELECT sum(received) FROM ledger_now") == self.count

    def check_stored_once(self) -> None:
        """Everything that was fed is stored, once, and nothing else is."""
        self.wait_stored()
        query = "SELECT d.name, (extract(epoch FROM r.ts) * 1000000)::bigint, count(*) FROM readings r"
        rows = self.tables.all(f"{query} JOIN devices d ON d.id = r.device_id GROUP BY 1, 2")
        stored: dict[str, set[int]] = defaultdict(set)
        for device, us, points in rows:
            stored[device].add(us)
            assert points == 2
        assert stored == self.sent
        assert self.tables.one("SELECT sum(duplicate) FROM ledger_now") == 0, "a record came into the tables twice"
        self.tables.check_sums()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.destroy()


def sessions(tables: Tables, like: str) -> list[tuple[int, str | None]]:
    """Process and what it waits for, of the workers' sessions whose statement is like that."""
    query = (
        "SELECT pid, wait_event_type FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'brigade-worker' AND state = 'active' AND query LIKE %s"
    )
    return tables.all(query, like)


@contextmanager
def locked(url: str, table: str, mode: str = "EXCLUSIVE") -> Iterator[None]:
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
        yield
