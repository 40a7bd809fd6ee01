"""How long it takes from a reading's publishing to its row being there for others.

Probes are devices, one in each Kafka partition, which publish in turn among the load. One loop publishes them and
asks the database every few milliseconds, on a connection of its own, which of them it can see. A row is seen late by
up to the time between two looks, never early; that time is told with the result.
"""

import math
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

import psycopg

from deploy.bench import load
from deploy.bench.instance import Bench
from pipeline import packs

PARTITIONS = 12
GIVE_UP_SECONDS = 30.0
FIRST_SECONDS = 15.0

IDS = """
SELECT dm.device_id, dm.metric_id
FROM devices d JOIN sites s ON s.id = d.site_id JOIN device_metrics dm ON dm.device_id = d.id
JOIN metrics m ON m.id = dm.metric_id
WHERE s.name = %s AND d.name = ANY (%s) AND m.name = 'temperature_c'"""

SEEN = """
SELECT r.ts FROM unnest(%s::int[]) AS d (id), LATERAL (
    SELECT ts FROM readings WHERE device_id = d.id AND metric_id = %s AND ts >= %s
) AS r"""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    probes: int
    unseen: int
    p50: float
    p90: float
    p99: float
    max: float
    look_p50: float  # time between two looks
    look_p99: float


def names(site: str) -> list[str]:
    """A device for each partition."""
    found: dict[int, str] = {}
    for number in count():
        name = f"{site}-probe-{number}"
        found.setdefault(packs.partition_of(name, PARTITIONS), name)
        if len(found) == PARTITIONS:
            return [found[partition] for partition in sorted(found)]
    raise AssertionError


class Probes:
    def __init__(self, database: psycopg.Connection, bench: Bench, site: str) -> None:
        self._database = database
        self._hello = load.connect_packet(f"{site}-probes", *bench.stack.mqtt_login.values())
        self._socket = socket.create_connection(("127.0.0.1", bench.mqtt_port), timeout=10)
        self._site = site
        self._names = names(site)
        self._tail = load.tails(1)[0]
        self._open: dict[int, float] = {}  # by ts in ms: when it was published
        self._last_ms = 0
        self.sent = 0
        self._answered_bytes = 0

    @property
    def acknowledged(self) -> int:
        self._read_answers()
        return self._answered_bytes // 4

    def introduce(self) -> None:
        """Let each device be known; what comes after is about known ones."""
        self._socket.sendall(self._hello)
        if self._socket.recv(4, socket.MSG_WAITALL) != load.CONNACK:
            raise ConnectionError("the broker refuses the probes")
        self._socket.setblocking(False)
        for _ in self._names:
            self._publish()
        end = time.monotonic() + FIRST_SECONDS
        while len(found := self._database.execute(IDS, (self._site, self._names)).fetchall()) < len(self._names):
            if time.monotonic() > end:
                raise TimeoutError("the first readings have not arrived in the database")
            time.sleep(0.05)
        self._ids, metrics = ([*column] for column in zip(*found, strict=True))
        self._metric = metrics[0]
        self._open.clear()

    def run(self, seconds: float, rate: float, look_seconds: float) -> Latency:
        """Publish for so long; return when every probe was seen, or 30 s later."""
        began = looked = time.monotonic()
        due = self._schedule(began, seconds, rate)
        next_due = next(due, None)
        seen: list[float] = []
        looks: list[float] = []
        while next_due is not None or self._open:
            if next_due is None and time.monotonic() > began + seconds + GIVE_UP_SECONDS:
                break
            while next_due is not None and time.monotonic() >= next_due:
                self._publish()
                next_due = next(due, None)
            seen += self._look()
            now = time.monotonic()
            looks.append(now - looked)
            looked = now
            time.sleep(look_seconds)
        return _latency(seen, looks, len(self._open))

    def close(self) -> None:
        self._socket.close()

    def _schedule(self, began: float, seconds: float, rate: float) -> Iterator[float]:
        return (began + number / rate for number in range(round(seconds * rate)))

    def _publish(self) -> None:
        now = time.time()
        self._last_ms = ts_ms = max(int(now * 1000), self._last_ms + 1)
        self._open[ts_ms] = now
        topic = load.topic(self._site, self._names[self.sent % len(self._names)])
        body = load.payload(ts_ms, load.FIRST_SEQ + self.sent, self._tail)
        self._socket.send(load.publish_packet(topic, self.sent % 65_535 + 1, body))
        self.sent += 1
        self._read_answers()

    def _read_answers(self) -> None:
        try:
            self._answered_bytes += len(self._socket.recv(1 << 16))
        except BlockingIOError:
            return

    def _look(self) -> list[float]:
        """The waits of the probes that are to be seen now and were not before."""
        if not self._open:
            return []
        since = datetime.fromtimestamp(min(self._open) / 1000, UTC)
        rows = self._database.execute(SEEN, (self._ids, self._metric, since), prepare=True, binary=True).fetchall()
        now = time.time()
        published = (self._open.pop(round(ts.timestamp() * 1000), None) for (ts,) in rows)
        return [now - at for at in published if at is not None]


def _latency(seen: list[float], looks: list[float], unseen: int) -> Latency:
    if not seen:
        raise RuntimeError("no probe has become visible")
    p50, p90, p99, highest = (quantile(seen, q) * 1000 for q in (0.5, 0.9, 0.99, 1))
    look_p50, look_p99 = (quantile(looks, q) * 1000 for q in (0.5, 0.99))
    return Latency(len(seen) + unseen, unseen, p50, p90, p99, highest, look_p50, look_p99)


def quantile(values: list[float], q: float) -> float:
    """The value that a share `q` does not exceed."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
