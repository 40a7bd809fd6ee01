"""Sensors at work, the partitions they fill, and the account that must come out in the end."""

import json
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import msgspec
import psycopg
from confluent_kafka import Consumer, TopicPartition

from deploy.local.layout import REPOSITORY
from deploy.local.parts import BIN
from deploy.local.ready import wait_until
from deploy.local.stack import Stack
from pipeline import packs

BRIGADE = str(BIN / "brigade")
TOPIC = "readings.raw"
STATUS = re.compile(r"brigade/v1/[^/]+/[^/]+/status")
LOOK_SECONDS = 0.1
STANDSTILL_SECONDS = 1.5
"""A partition that gets dozens of messages a second stands still when it has not moved for so long."""
VERIFY_SECONDS = 120

OFFSETS = "SELECT partition, next_offset FROM ingest_offsets WHERE consumer_group = 'brigade-worker' ORDER BY 1"
COUNTED = "SELECT coalesce(sum(received), 0)::bigint, coalesce(sum(stored), 0)::bigint FROM ledger_now"


HABITS: Final = "--offline 0.005 --gap 0.5 --malformed 0.005 --duplicates 0.01 --late 0.005"
GOOD_HABITS: Final = "--offline 0 --malformed 0 --duplicates 0 --late 0"


class Sensors:
    """`brigade simulate` with a site of its own, so that no other run's devices are these."""

    def __init__(
        self,
        stack: Stack,
        folder: Path,
        *,
        rate: int,
        devices: int = 120,
        seconds: float = 600,
        habits: str = HABITS,
    ) -> None:
        self.site = f"faults-{secrets.token_hex(4)}"
        self.ledger = folder / f"{self.site}.jsonl"
        words = f"--site {self.site} --devices {devices} --rate {rate} --duration {seconds}"
        self._command = [BRIGADE, "simulate", *words.split(), *habits.split(), "--ledger", str(self.ledger)]
        self._environment = os.environ | stack.env

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=REPOSITORY, env=self._environment, stderr=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Let the sensors send what they still have; the ledger file is complete then."""
        self._process.send_signal(signal.SIGTERM)
        try:
            _, said = self._process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        if self._process.returncode:
            raise RuntimeError(f"brigade simulate ended with {self._process.returncode}: {said}")


class Progress:
    """When each partition's committed offset moved; looks ten times a second, and through outages of the database."""

    def __init__(self, stack: Stack, partitions: int = 12) -> None:
        self._url = stack.superuser_url()
        self._offsets: dict[int, int] = {}
        self.moves: dict[int, list[float]] = {partition: [] for partition in range(partitions)}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                with psycopg.connect(self._url, autocommit=True, connect_timeout=2) as connection:
                    while not self._ended.wait(LOOK_SECONDS):
                        self._note(connection.execute(OFFSETS).fetchall())
            except psycopg.OperationalError:
                continue

    def _note(self, rows: list[tuple[int, int]]) -> None:
        now = time.monotonic()
        for partition, offset in rows:
            if self._offsets.get(partition, offset) != offset:
                self.moves[partition].append(now)
            self._offsets[partition] = offset

    def moving_since(self, moment: float) -> bool:
        """Whether every partition moved after that moment, and lately."""
        lately = max(moment, time.monotonic() - STANDSTILL_SECONDS)
        return all(moves and moves[-1] > lately for moves in self.moves.values())

    def wait_moving(self, seconds: float, *, steady: float = 1.5) -> bool:
        """Return True when every partition has kept moving for `steady` seconds; False when time is up."""
        end = time.monotonic() + seconds
        since = time.monotonic()
        while time.monotonic() < end:
            if not self.moving_since(0):
                since = time.monotonic()
            elif time.monotonic() - since >= steady and self.moving_since(since):
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def standstill(self, since: float) -> float:
        """Seconds from then until the last partition that stood still committed again; 0 if none did."""
        return max(self._standstill(moves, since) for moves in self.moves.values())

    def _standstill(self, moves: list[float], since: float) -> float:
        pairs = pairwise(moves)
        return max(
            (end - since for begin, end in pairs if end > since and end - begin > STANDSTILL_SECONDS), default=0.0
        )


@dataclass(frozen=True, kw_only=True)
class Account:
    """What the sensors sent and what became of it. `wrong`: every question of `brigade verify` with an answer."""

    acknowledged: int
    unknown: int
    never_sent: int
    stored: int
    missing: int
    twice: int
    wrong: dict[str, object] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        return not self.missing and not self.twice and not self.wrong


class Books:
    """Opened while nothing is under way; `close` says what has come since, by three independent counts."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._wait_settled()
        self._offsets, self._received, self._stored = self._state()

    def close(self, ledger: Path) -> Account:
        """What the sensors' file says against the tables, and Kafka's records against the ledger."""
        report = verify(self._stack, ledger)
        self._wait_settled()
        offsets, received, stored = self._state()
        in_kafka = readings_between(self._stack.env["BRIGADE_KAFKA_BOOTSTRAP_SERVERS"], self._offsets, offsets)
        counts = {name: check["count"] for name, check in report["checks"].items()}
        wrong = {name: report["checks"][name] for name, count in counts.items() if count}
        if received - self._received != in_kafka:
            wrong["readings in Kafka against the ledger"] = {"Kafka": in_kafka, "ledger": received - self._received}
        sent = report["sent"]
        return Account(
            acknowledged=sent.get("acknowledged", 0),
            unknown=sent.get("unknown", 0),
            never_sent=sent.get("never sent", 0) + sent.get("failed", 0),
            stored=stored - self._stored,
            missing=counts["acknowledged and not stored"] + counts["malformed and not a dead letter"],
            twice=max(0, received - self._received - in_kafka) + counts["ledger's points against rows"],
            wrong=wrong,
        )

    def _state(self) -> tuple[dict[int, int], int, int]:
        with psycopg.connect(self._stack.superuser_url()) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            offsets = dict(connection.execute(OFFSETS).fetchall())
            received, stored = connection.execute(COUNTED).fetchone() or (0, 0)
        return offsets, received, stored

    def _wait_settled(self) -> None:
        """Until the workers have stored whatever Kafka has."""
        if not wait_until(self._settled, VERIFY_SECONDS):
            raise AssertionError(f"Kafka ends at {self._ends()}, the workers are at {self._state()[0]}")

    def _settled(self) -> bool:
        done = self._state()[0]
        return all(done.get(partition, 0) == end for partition, end in self._ends().items())

    def _ends(self) -> dict[int, int]:
        with _consumer(self._stack.env["BRIGADE_KAFKA_BOOTSTRAP_SERVERS"]) as consumer:
            partitions = consumer.list_topics(TOPIC, timeout=60).topics[TOPIC].partitions
            return {n: consumer.get_watermark_offsets(TopicPartition(TOPIC, n), timeout=60)[1] for n in partitions}


def verify(stack: Stack, ledger: Path) -> dict[str, dict]:
    """What `brigade verify FILE` says, its exit code checked."""
    try:
        done = subprocess.run(
            [BRIGADE, "verify", str(ledger), "--wait", str(VERIFY_SECONDS), "--json"],
            cwd=REPOSITORY,
            env=os.environ | stack.env,
            capture_output=True,
            text=True,
            timeout=VERIFY_SECONDS * 3,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no account, brigade verify took longer than {VERIFY_SECONDS * 3} s") from None
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"brigade verify ended with {done.returncode}: {done.stdout}{done.stderr}")
    report: dict[str, dict] = json.loads(done.stdout)
    assert report["clean"] == (done.returncode == 0)
    return report


def readings_between(bootstrap: str, begin: dict[int, int], end: dict[int, int]) -> int:
    """Count, in the records themselves, what the ledger should have counted as received."""
    return sum(
        readings_of(message)
        for partition, offset in end.items()
        for value in _records(bootstrap, partition, begin.get(partition, 0), offset)
        for message in packs.decode(value)
    )


def _records(bootstrap: str, partition: int, begin: int, end: int) -> list[bytes]:
    values: list[bytes] = []
    if begin >= end:
        return values
    with _consumer(bootstrap) as consumer:
        consumer.assign([TopicPartition(TOPIC, partition, begin)])
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for record in consumer.consume(500, timeout=1):
                if record.error() is None and record.offset() < end:
                    values.append(record.value())
                if record.offset() >= end - 1:
                    return values
    raise RuntimeError(f"partition {partition}: records up to {end} did not come")


def readings_of(message: packs.Message) -> int:
    """A JSON object is one, an array as many as it has elements, what no one can read is one; a status is none."""
    if STATUS.fullmatch(message.topic):
        return 0
    try:
        content = msgspec.json.decode(message.payload)
    except (ValueError, RecursionError):
        return 1
    return len(content) or 1 if isinstance(content, list) else 1


class _consumer:  # noqa: N801, a context around confluent's client
    def __init__(self, bootstrap: str) -> None:
        self._settings = {
            "bootstrap.servers": bootstrap,
            "group.id": "none",
            "enable.auto.commit": False,
            "log_level": 0,
        }

    def __enter__(self) -> Consumer:
        self._kafka = Consumer(self._settings)
        return self._kafka

    def __exit__(self, *_: object) -> None:
        self._kafka.close()


def eventually(what: Callable[[], bool], seconds: float, why: str) -> None:
    if not wait_until(what, seconds):
        raise AssertionError(f"not within {seconds:g} s: {why}")
