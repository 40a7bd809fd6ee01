"""A sink on a real database, the log it reads as Kafka would number it, and what the tables say afterwards."""

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg

from pipeline import packs
from pipeline.batches import Pack
from pipeline.packs import Message
from pipeline.positions import Positions
from pipeline.readings import HOUR_US, US
from pipeline.settings import WorkerSettings
from pipeline.sink import Sink

PARTITIONS = 3
RAW, DEAD, GROUP = "readings.raw", "readings.dead", "brigade-worker"
HOUR = time.time_ns() // 1000 // HOUR_US - 2
NOW = HOUR * HOUR_US + 1800 * US + 123_456
"""When the tests' messages are received, microseconds: half past an hour lately."""


def devices_of(partition: int, count: int, partitions: int = PARTITIONS) -> list[str]:
    names = (f"fridge-{n}" for n in range(10_000))
    return [n for n in names if packs.partition_of(n, partitions) == partition][:count]


A, B, *_ = devices_of(0, 10)
OTHER = devices_of(1, 1)[0]


def message(
    payload: bytes | dict[str, Any] | list[Any],
    device: str = A,
    *,
    received_us: int = NOW,
    kind: str = "readings",
    site: str = "seoul",
    extra: dict[str, Any] | None = None,
) -> Message:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Message(f"brigade/v1/{site}/{device}/{kind}", received_us, data, extra)


def reading(ts_s: float = 0, device: str = A, *, received_us: int = NOW, **values: Any) -> Message:
    """One value, `ts_s` seconds after NOW."""
    ts_ms = (NOW // 1000) + round(ts_s * 1000)
    return message({"ts": ts_ms, **(values or {"temperature_c": 3.5})}, device, received_us=received_us)


@dataclass
class Log:
    """`readings.raw` as Kafka shows it to the sink: offsets are given here, and the beginning can be dropped."""

    topic_id: str = "first"
    end: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    begin: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    asked_id: int = 0
    asked_first: list[tuple[int, int]] = field(default_factory=list)

    def put(self, *messages: Message) -> list[Pack]:
        """One pack for each partition of these messages."""
        by_partition: dict[int, list[Message]] = defaultdict(list)
        for entry in messages:
            by_partition[packs.partition_of(packs.partition_key(entry.topic), PARTITIONS)].append(entry)
        return [self.put_record(p, packs.encode(entries)) for p, entries in sorted(by_partition.items())]

    def put_record(self, partition: int, value: bytes | None) -> Pack:
        offset = self.end[partition]
        self.end[partition] += 1
        return Pack(partition, offset, value, NOW)

    async def id(self) -> str:
        self.asked_id += 1
        return self.topic_id

    async def first(self, partition: int, offset: int) -> int:
        self.asked_first.append((partition, offset))
        return max(offset, self.begin[partition])


@contextlib.asynccontextmanager
async def sink(
    database: str, log: Log, partitions: Iterable[int] = range(PARTITIONS), **settings: Any
) -> AsyncIterator[Sink]:
    settings = {"partitions": PARTITIONS, "lock_timeout_seconds": 1, "statement_timeout_seconds": 3, **settings}
    opened = Sink(
        WorkerSettings(database_url=database, **settings),
        Positions(),
        topic=RAW,
        dead_topic=DEAD,
        topic_id=log.id,
        first_record=log.first,
    )
    async with asyncio.timeout(60), opened:
        opened.assign(partitions)
        yield opened


LEDGER = """
SELECT coalesce(d.name, ''), extract(epoch FROM l.hour)::bigint / 3600,
       l.received, l.stored, l.duplicate, l.refused, l.late, l.points
FROM ledger_now l LEFT JOIN devices d ON d.id = l.device_id
WHERE (l.received, l.stored, l.duplicate, l.refused, l.late, l.points) <> (0, 0, 0, 0, 0, 0)"""

ROWS = """
SELECT d.name, m.name, (extract(epoch FROM r.ts) * 1000000)::bigint,
       (extract(epoch FROM r.received_at) * 1000000)::bigint, r.seq, r.value
FROM readings r JOIN devices d ON d.id = r.device_id JOIN metrics m ON m.id = r.metric_id ORDER BY 1, 2, 3"""

REFUSALS = """
SELECT coalesce(d.name, ''), extract(epoch FROM r.hour)::bigint / 3600, r.reason, r.refused
FROM ledger_refusals r LEFT JOIN devices d ON d.id = r.device_id WHERE r.refused <> 0"""

LETTERS = """
SELECT l.id, l.reason, l.payload, l.element, coalesce(d.name, '') AS device, l.mqtt_topic, l.outcome, l.resolved,
       l.kafka_partition, l.kafka_offset, l.position, l.payload_size, l.payload_sha256, l.detail,
       (extract(epoch FROM l.received_at) * 1000000)::bigint AS received_us
FROM dead_letters l LEFT JOIN devices d ON d.id = l.device_id ORDER BY l.kafka_partition, l.kafka_offset, l.position,
     l.element, l.id"""

UNBALANCED = """
SELECT * FROM ledger_now WHERE received <> stored + duplicate + refused OR late > stored
   OR least(received, stored, duplicate, refused, late, points) < 0"""

REFUSED_BY_REASON = """
SELECT device_id, hour, sum(n) FROM (
    SELECT device_id, hour, refused AS n FROM ledger_now
    UNION ALL
    SELECT device_id, hour, -refused FROM ledger_refusals
) AS both_tables GROUP BY 1, 2 HAVING sum(n) <> 0"""

DATA = (
    "readings", "marks", "ledger", "ledger_refusals", "ledger_pending", "dead_letters", "device_status", "outbox",
    "ingest_offsets",
)  # fmt: skip


@dataclass
class Tables:
    """What the database holds, by names instead of numbers."""

    connection: psycopg.Connection

    def all(self, query: str, *values: Any) -> list[Any]:
        return self.connection.execute(query, values or None).fetchall()

    def one(self, query: str, *values: Any) -> Any:
        return self.all(query, *values)[0][0]

    def do(self, statement: str, *values: Any) -> None:
        self.connection.execute(statement, values or None)

    def rows(self) -> list[Any]:
        return self.all(ROWS)

    def values(self, metric: str = "temperature_c") -> list[tuple[str, float]]:
        return [(device, value) for device, name, _, _, _, value in self.rows() if name == metric]

    def ledger(self) -> dict[tuple[str, int], tuple[int, ...]]:
        """By device and hour: received, stored, duplicate, refused, late, points."""
        return {(device, hour): tuple(counts) for device, hour, *counts in self.all(LEDGER)}

    def ledger_of(self, device: str = A, hour: int = HOUR) -> tuple[int, ...]:
        """Received, stored, duplicate, refused of one device and hour."""
        return self.ledger().get((device, hour), (0,) * 6)[:4]

    def refusals(self) -> dict[tuple[str, int, str], int]:
        return {(device, hour, reason): n for device, hour, reason, n in self.all(REFUSALS)}

    def letters(self) -> list[Any]:
        with self.connection.cursor(row_factory=psycopg.rows.namedtuple_row) as cursor:
            return cursor.execute(LETTERS).fetchall()

    def reasons(self) -> list[str]:
        return [letter.reason for letter in self.letters()]

    def documents(self) -> list[dict[str, Any]]:
        query = "SELECT value FROM outbox WHERE topic = %s ORDER BY id"
        return [json.loads(value) for (value,) in self.all(query, DEAD)]

    def offsets(self) -> dict[int, int]:
        return dict(self.all("SELECT partition, next_offset FROM ingest_offsets ORDER BY 1"))

    def check_sums(self) -> None:
        """What holds at every moment, whatever happened."""
        assert self.all(UNBALANCED) == []
        assert self.all(REFUSED_BY_REASON) == []
        assert self.one("SELECT coalesce(sum(points), 0) FROM ledger_now") == self.one("SELECT count(*) FROM readings")
        assert self.one("SELECT count(*) FROM dead_letters WHERE NOT resolved AND mqtt_topic NOT LIKE '%%/status'") == (
            self.one("SELECT coalesce(sum(refused), 0) FROM ledger_now")
        )

    def clear(self) -> None:
        for table in DATA:
            self.do(f"DELETE FROM {table}")


@contextlib.contextmanager
def tables(database: str) -> Iterator[Tables]:
    with psycopg.connect(database, autocommit=True, options="-c timezone=UTC") as connection:
        yield Tables(connection)
