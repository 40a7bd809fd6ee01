"""Marked minutes into minutes, hours and local days, always computed from what is stored, never added up.

Minutes are computed beside the writer, which never waits for it:

1. In a transaction of a moment, with the partition's row of `ingest_offsets` locked, so that no writer of that
   partition is under way: which marked minutes are due, and one more in `closings`. A writer that comes later finds
   that number and marks again what it writes to, under that number.
2. The minutes are computed, in a transaction that locks the row only at its end. It goes on only if nobody has
   counted in `closings` since, and removes only marks that were not set again since.

So a row is either in what was computed, or its minute is marked. A worker that lost the partition and does not know
it fails in one step or the other. Hours and days are few: they are taken and computed with the row locked.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from math import inf
from types import MappingProxyType
from typing import Any, Final

import psycopg
import structlog
from prometheus_client import Counter, Gauge, Histogram
from psycopg import AsyncConnection, AsyncCursor
from psycopg.errors import QueryCanceled

from pipeline.patience import Answer, Connection, judge
from pipeline.positions import Position, Positions

WRITER_SECONDS: Final = 0.05
"""How long a slice waits, holding the lock, for our own writer to notice the commit that it just made."""

CLOSED = Counter("pipeline_closing_closed_total", "Buckets of a device computed, again ones included.", ["level"])
SKIPPED = Counter("pipeline_closing_skipped_total", "Slices put off: the partition's offset was not our own.")
SECONDS = Histogram(
    "pipeline_closing_slice_seconds", "One slice's transaction.", ["level"], buckets=(0.01, 0.03, 0.1, 0.3, 1, 3)
)
LAST = Gauge("pipeline_closing_last_timestamp_seconds", "When a slice was last committed.", ["level"])
log = structlog.get_logger()

DUE: Final = """
SELECT owned.partition FROM unnest(%(partitions)s::int[]) AS owned (partition)
WHERE EXISTS (SELECT FROM marks m WHERE m.partition = owned.partition AND m.level = %(level)s
              AND m.bucket > %(after)s AND m.bucket <= %(until)s)"""

LOCK: Final = """
SELECT next_offset, closings FROM ingest_offsets
WHERE consumer_group = %(group)s AND topic = %(topic)s AND partition = %(partition)s
FOR UPDATE"""

COUNT: Final = """
UPDATE ingest_offsets SET closings = closings + 1
WHERE consumer_group = %(group)s AND topic = %(topic)s AND partition = %(partition)s
RETURNING closings"""

TAKE_MINUTES: Final = """
SELECT device_id, bucket, bucket + INTERVAL '1 minute' FROM marks
WHERE partition = %(partition)s AND level = 0 AND bucket > %(after)s AND bucket <= %(until)s
ORDER BY bucket, device_id LIMIT %(slice)s"""

STILL: Final = """
SELECT FROM ingest_offsets
WHERE consumer_group = %(group)s AND topic = %(topic)s AND partition = %(partition)s AND closings = %(closings)s
FOR UPDATE"""

UNMARK: Final = """
DELETE FROM marks m USING unnest(%(devices)s::int[], %(buckets)s::timestamptz[]) AS taken (device_id, bucket)
WHERE m.level = 0 AND m.device_id = taken.device_id AND m.bucket = taken.bucket AND m.closings < %(closings)s"""

MARK_HIGHER: Final = """
INSERT INTO marks (partition, level, device_id, bucket)
SELECT DISTINCT %(partition)s::int, higher.level, c.device_id, higher.bucket
FROM unnest(%(devices)s::int[], %(buckets)s::timestamptz[]) AS c (device_id, bucket)
JOIN devices d ON d.id = c.device_id JOIN sites s ON s.id = d.site_id,
     LATERAL (VALUES (1, date_trunc('hour', c.bucket, 'UTC')), (2, local_day(c.bucket, s.time_zone)))
         AS higher (level, bucket)
ON CONFLICT DO NOTHING"""

TAKE_HOURS: Final = """
DELETE FROM marks WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM marks
    WHERE partition = %(partition)s AND level = 1 AND bucket > %(after)s AND bucket <= %(until)s
    ORDER BY bucket, device_id LIMIT %(slice)s
))
RETURNING device_id, bucket, bucket + INTERVAL '1 hour'"""

TAKE_DAYS: Final = """
WITH due AS (
    SELECT m.level, m.device_id, m.bucket, local_day_end(m.bucket, s.time_zone) AS until
    FROM marks m JOIN devices d ON d.id = m.device_id JOIN sites s ON s.id = d.site_id
    WHERE m.partition = %(partition)s AND m.level = 2 AND m.bucket > %(after)s AND m.bucket <= %(until)s
      AND local_day_end(m.bucket, s.time_zone) <= %(ended)s
    ORDER BY m.bucket, m.device_id LIMIT %(slice)s
)
DELETE FROM marks m USING due
WHERE m.level = due.level AND m.device_id = due.device_id AND m.bucket = due.bucket
RETURNING m.device_id, m.bucket, due.until"""

# In all three, LATERAL and the constant bounds keep the plan to the chunks concerned: 6 ms for 200 minutes of a
# table of 90 chunks; a plain join took 10 to 170 ms with the bounds, and 500 ms and all chunks without.

COMPUTE_MINUTES: Final = """
WITH computed AS (
    INSERT INTO readings_1m AS old
           (device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts)
    SELECT due.device_id, r.metric_id, due.bucket, r.n, r.sum, r.min, r.max, r.first, r.last, r.first_ts, r.last_ts
    FROM unnest(%(devices)s::int[], %(buckets)s::timestamptz[], %(untils)s::timestamptz[])
           AS due (device_id, bucket, until),
         LATERAL (
             SELECT metric_id, count(*) AS n, sum(value) AS sum, min(value) AS min, max(value) AS max,
                    first(value, ts) AS first, last(value, ts) AS last, min(ts) AS first_ts, max(ts) AS last_ts
             FROM readings q
             WHERE q.device_id = due.device_id AND q.ts >= due.bucket AND q.ts < due.until
               AND q.ts >= %(from)s AND q.ts < %(to)s
             GROUP BY metric_id
         ) r
    ON CONFLICT (device_id, metric_id, bucket) DO UPDATE SET
        n = excluded.n, sum = excluded.sum, min = excluded.min, max = excluded.max, first = excluded.first,
        last = excluded.last, first_ts = excluded.first_ts, last_ts = excluded.last_ts
    RETURNING device_id, metric_id, bucket, n, sum, min, max, first, last
), minutes AS (
    SELECT c.device_id, d.name AS device, s.name AS site, c.bucket,
           json_object_agg(m.name, json_build_object('n', c.n, 'sum', c.sum, 'min', c.min, 'max', c.max,
                                                     'first', c.first, 'last', c.last) ORDER BY m.name) AS metrics
    FROM computed c
    JOIN metrics m ON m.id = c.metric_id JOIN devices d ON d.id = c.device_id JOIN sites s ON s.id = d.site_id
    GROUP BY c.device_id, d.name, s.name, c.bucket
), published AS (
    INSERT INTO outbox (partition, topic, key, value)
    SELECT %(partition)s::int, %(aggregates)s, device, convert_to(json_build_object(
        'device', device, 'site', site, 'minute', to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'),
        'revision', %(closings)s::bigint, 'metrics', metrics)::text, 'UTF8')
    FROM minutes ORDER BY bucket, device_id
)
SELECT device_id, bucket FROM minutes"""

COMPUTE_HOURS: Final = """
INSERT INTO readings_1h AS old (device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts)
SELECT due.device_id, r.metric_id, due.bucket, r.n, r.sum, r.min, r.max, r.first, r.last, r.first_ts, r.last_ts
FROM unnest(%(devices)s::int[], %(buckets)s::timestamptz[], %(untils)s::timestamptz[])
       AS due (device_id, bucket, until),
     LATERAL (
         SELECT metric_id, sum(n)::bigint AS n, sum(sum) AS sum, min(min) AS min, max(max) AS max,
                first(first, first_ts) AS first, last(last, last_ts) AS last,
                min(first_ts) AS first_ts, max(last_ts) AS last_ts
         FROM readings_1m q
         WHERE q.device_id = due.device_id AND q.bucket >= due.bucket AND q.bucket < due.until
           AND q.bucket >= %(from)s AND q.bucket < %(to)s
         GROUP BY metric_id
     ) r
ON CONFLICT (device_id, metric_id, bucket) DO UPDATE SET
    n = excluded.n, sum = excluded.sum, min = excluded.min, max = excluded.max, first = excluded.first,
    last = excluded.last, first_ts = excluded.first_ts, last_ts = excluded.last_ts"""

COMPUTE_DAYS: Final = COMPUTE_HOURS.replace("readings_1h", "readings_1d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A size of bucket. A transaction computes as many as take about `seconds`, `slice` at most."""

    number: int
    name: str
    shortest: timedelta
    slice: int
    seconds: float
    take: str
    compute: str


MINUTES: Final = Level(
    number=0,
    name="minute",
    shortest=timedelta(minutes=1),
    slice=200,
    seconds=0.05,
    take=TAKE_MINUTES,
    compute=COMPUTE_MINUTES,
)
HOURS: Final = Level(
    number=1,
    name="hour",
    shortest=timedelta(hours=1),
    slice=200,
    seconds=0.05,  # the partition's writer waits for it
    take=TAKE_HOURS,
    compute=COMPUTE_HOURS,
)
DAYS: Final = Level(
    number=2,
    name="day",
    shortest=timedelta(hours=22),
    slice=10,
    seconds=0.05,
    take=TAKE_DAYS,
    compute=COMPUTE_DAYS,
)
LEVELS: Final = (MINUTES, HOURS, DAYS)

EVERY: Final[Mapping[str, float]] = MappingProxyType({"minute": 5.0, "hour": 10.0, "day": 30.0})
"""Seconds between two looks at buckets that ended long ago: each late message must not compute its day again."""

LONG_AGO: Final = datetime.fromisoformat("0001-01-02T00:00:00Z")
REST: Final = 2.0
"""After a slice there is none for so many times its own time: a minute's rows have the processors first."""
FIRST_SLICE: Final = 10
SLICES: Final = 20
"""Of one partition and level in one go; then the others have their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Buckets that began after `after` and not after `until`; those that ended by `ended` are due."""

    after: datetime
    until: datetime
    ended: datetime


class NotOursError(Exception):
    """The partition's offset is not where this worker left it: another one's, or our writer is just behind."""


class Closer:
    """Computes due buckets of the partitions in `positions`, on a connection of its own."""

    def __init__(
        self,
        connection: Connection,
        positions: Positions,
        *,
        group: str,
        topic: str,
        aggregates: str,
        close_after: timedelta,
        every: Mapping[str, float] = EVERY,
    ) -> None:
        self._connection = connection
        self._positions = positions
        self._names = {"group": group, "topic": topic, "aggregates": aggregates}
        self._close_after = close_after
        self._every = every
        self._looked: dict[str, float] = {}  # monotonic time of the last look at everything, by level
        self._until: dict[str, datetime] = {}  # of the last look
        self._slices = {level.name: min(level.slice, FIRST_SLICE) for level in LEVELS}

    async def close_due(self, now: datetime) -> int:
        """Close what ended `close_after` before `now`; return how many buckets. Waits while the database is away."""
        closed = 0
        for level in LEVELS:  # hours are computed from minutes, so minutes come first
            if window := self._window(level, now - self._close_after):
                closed += await self._close_level(level, window)
        return closed

    def _window(self, level: Level, ended: datetime) -> Window | None:
        """What to look at: all every few seconds, in between only those minutes that have just ended."""
        until = ended - level.shortest
        if time.monotonic() - self._looked.get(level.name, -inf) >= self._every[level.name]:
            self._looked[level.name] = time.monotonic()
            after = LONG_AGO
        elif level is MINUTES:
            after = self._until[level.name]
        else:
            return None
        self._until[level.name] = until
        return Window(after=after, until=until, ended=ended)

    async def _close_level(self, level: Level, window: Window) -> int:
        closed = 0
        due = await self._due_partitions(level, window)
        for _ in range(SLICES):
            for partition in due.copy():
                began = time.perf_counter()
                n, more = await self._close_patiently(level, partition, window)
                closed += n
                await asyncio.sleep(REST * (time.perf_counter() - began) if n else 0)
                if not more:
                    due.remove(partition)
        if due:
            self._looked.pop(level.name)  # look at everything again next time
        return closed

    async def _due_partitions(self, level: Level, window: Window) -> list[int]:
        """Asked without a lock: nothing is due most of the time, and the writer shall not wait for that."""
        asked = {
            "partitions": list(self._positions.known),
            "level": level.number,
            "after": window.after,
            "until": window.until,
        }
        async for attempt in self._connection.attempts():
            async with attempt as database:
                rows = await (await database.execute(DUE, asked)).fetchall()
        return [partition for (partition,) in rows]

    async def _close_patiently(self, level: Level, partition: int, window: Window) -> tuple[int, bool]:
        """Close one slice; return how many buckets, and whether there may be more. What is too much is halved."""
        while True:
            try:
                async for attempt in self._connection.attempts():
                    async with attempt as database:
                        return await self._close_slice(database, level, partition, window)
            except NotOursError:
                SKIPPED.inc()
                self._until[level.name] = window.after
                return 0, False
            except psycopg.Error as error:
                size = self._slices[level.name]
                if judge(error) is not Answer.SPLIT or (size == 1 and not isinstance(error, QueryCanceled)):
                    raise
                self._slices[level.name] = max(1, size // 2)
                log.warning("closing_slice_halved", level=level.name, slice=size // 2, why=str(error).strip())
                if size == 1:
                    return 0, False

    async def _close_slice(
        self, database: AsyncConnection, level: Level, partition: int, window: Window
    ) -> tuple[int, bool]:
        began = time.perf_counter()
        position = self._positions.get(partition)
        if position is None:
            raise NotOursError
        size = self._slices[level.name]
        asked = {**self._names, **asdict(window), "partition": partition, "slice": size}
        close = self._close_minutes if level is MINUTES else self._close_locked
        taken, seconds = await close(database, level, position, asked)
        if not taken:
            return 0, False
        self._slices[level.name] = next_slice(taken, size, seconds, level)
        SECONDS.labels(level.name).observe(time.perf_counter() - began)
        CLOSED.labels(level.name).inc(taken)
        LAST.labels(level.name).set_to_current_time()
        return taken, taken == size

    async def _close_minutes(
        self, database: AsyncConnection, level: Level, position: Position, asked: dict[str, Any]
    ) -> tuple[int, float]:
        """How many, and the seconds that computing them took."""
        async with database.transaction():
            before = await self._lock(database, position, asked)
            taken = await (await database.execute(level.take, asked)).fetchall()
            if not taken:
                return 0, 0
            closings = await self._count(database, asked)
        position.closed(before, closings, [(int(bucket.timestamp()) // 60, d) for d, bucket, _ in taken])
        began = time.perf_counter()
        asked |= {**_spans(taken), "closings": closings}
        async with database.transaction():
            computed = await (await self._compute(database, level, asked)).fetchall()
            if await (await database.execute(STILL, asked)).fetchone() is None:
                raise NotOursError
            await database.execute(UNMARK, asked)
            if computed:
                devices, buckets = map(list, zip(*computed, strict=True))
                await database.execute(MARK_HIGHER, {**asked, "devices": devices, "buckets": buckets})
        return len(taken), time.perf_counter() - began

    async def _close_locked(
        self, database: AsyncConnection, level: Level, position: Position, asked: dict[str, Any]
    ) -> tuple[int, float]:
        async with database.transaction():
            await self._lock(database, position, asked)
            began = time.perf_counter()
            taken = await (await database.execute(level.take, asked)).fetchall()
            if taken:
                await self._compute(database, level, {**asked, **_spans(taken)})
        return len(taken), time.perf_counter() - began

    async def _compute(self, database: AsyncConnection, level: Level, asked: dict[str, Any]) -> AsyncCursor:
        return await database.execute(level.compute, asked, prepare=False)

    async def _lock(self, database: AsyncConnection, position: Position, asked: dict[str, Any]) -> int:
        """Hold the partition's writers off; return `closings`."""
        row = await (await database.execute(LOCK, asked)).fetchone()
        if row is None:
            raise NotOursError
        next_offset, closings = row
        # As a rule we waited behind our own writer: its commit is in the table before its memory knows of it.
        deadline = time.monotonic() + WRITER_SECONDS
        while (position.next_offset or next_offset) < next_offset and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.002)  # simpler than an event that the writer would have to set
        if position.next_offset != next_offset or self._positions.get(asked["partition"]) is not position:
            raise NotOursError
        return int(closings)

    async def _count(self, database: AsyncConnection, asked: dict[str, Any]) -> int:
        row = await (await database.execute(COUNT, asked)).fetchone()
        assert row is not None  # noqa: S101, we hold its lock
        return int(row[0])


def next_slice(taken: int, size: int, seconds: float, level: Level) -> int:
    """How many buckets the next slice may take, if these took so long; at most twice as many as this one."""
    fitting = int(taken * level.seconds / seconds)
    return max(1, fitting) if fitting < taken else min(max(fitting, size), size * 2, level.slice)


def _spans(taken: list[tuple[Any, ...]]) -> dict[str, Any]:
    devices, buckets, untils = zip(*taken, strict=True)
    return {
        "devices": list(devices),
        "buckets": list(buckets),
        "untils": list(untils),
        "from": min(buckets),
        "to": max(untils),
    }
