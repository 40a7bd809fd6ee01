"""Whatever comes in whatever order, with writers and closers in each other's way: the roll-ups are a recount."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from pipeline import closing
from pipeline.closing import Closer
from pipeline.patience import Connection
from pipeline.positions import Position, Positions
from pipeline.settings import WorkerSettings
from pipeline.sink import OPEN_MARKS

GROUP, TOPIC, AGGREGATES = "group", "readings.raw", "aggregates.1m"
AT_ONCE = {"minute": 0.0, "hour": 0.0, "day": 0.0}
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=400)
LONG_BEFORE = NOON - timedelta(days=1)

Row = tuple[int, int, datetime, float]
"""Device, metric, time, value."""

CAS = """
UPDATE ingest_offsets SET next_offset = next_offset + 1
WHERE consumer_group = %s AND topic = %s AND partition = %s AND next_offset = %s RETURNING closings"""

INSERT = """
INSERT INTO readings (device_id, metric_id, ts, received_at, value) VALUES (%s, %s, %s, now(), %s)
ON CONFLICT DO NOTHING"""

MARK = """
INSERT INTO marks (level, partition, bucket, device_id, closings) VALUES (0, %s, to_timestamp(%s), %s, %s)
ON CONFLICT (level, device_id, bucket) DO UPDATE SET closings = excluded.closings"""

RECOUNT = """
SELECT r.device_id, r.metric_id,
       CASE %(size)s WHEN 'minute' THEN date_trunc('minute', ts)::text WHEN 'hour' THEN date_trunc('hour', ts)::text
                     ELSE (ts AT TIME ZONE s.time_zone)::date::text END,
       count(*), round(sum(value)::numeric, 6), min(value), max(value),
       (array_agg(value ORDER BY ts))[1], (array_agg(value ORDER BY ts DESC))[1], min(ts), max(ts)
FROM readings r JOIN devices d ON d.id = r.device_id JOIN sites s ON s.id = d.site_id
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""

ROLLED_UP = """
SELECT a.device_id, a.metric_id, {bucket}::text, n, round(sum::numeric, 6), min, max, first, last, first_ts, last_ts
FROM {table} a JOIN devices d ON d.id = a.device_id JOIN sites s ON s.id = d.site_id ORDER BY 1, 2, 3"""

TABLES = {"minute": ("readings_1m", "bucket"), "hour": ("readings_1h", "bucket"),
          "day": ("readings_1d", "(bucket AT TIME ZONE s.time_zone)::date")}  # fmt: skip


ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/Santiago", "Atlantic/Azores")

OFFSETS = """
INSERT INTO ingest_offsets (consumer_group, topic, partition, topic_id, next_offset)
SELECT %s, %s, p, 'id', 0 FROM generate_series(0, 2) p"""


class FencedError(Exception):
    pass


class Worker:
    """A writer that keeps the sink's rules, in a few lines, and a closer; they share their positions."""

    def __init__(self, url: str, *, close_after: float = 5.0, **timeouts: float) -> None:
        self.settings = WorkerSettings(database_url=url, **timeouts)
        self.positions = Positions()
        self.writing = Connection(self.settings, "test")
        self.closing = Connection(self.settings, "test")
        self.closer = Closer(
            self.closing,
            self.positions,
            group=GROUP,
            topic=TOPIC,
            aggregates=AGGREGATES,
            close_after=timedelta(seconds=close_after),
            every=AT_ONCE,
        )

    async def own(self, partitions: Iterable[int]) -> None:
        self.positions.assign(partitions)
        await self.read_positions()

    async def read_positions(self) -> None:
        database = await self.writing.get()
        rows = await (await database.execute("SELECT partition, next_offset, closings FROM ingest_offsets")).fetchall()
        for partition, next_offset, closings in rows:
            if partition in self.positions and self.positions[partition].next_offset is None:
                marks = await (await database.execute(OPEN_MARKS, ([partition], [closings]))).fetchall()
                marked = {(int(minute), device) for _, minute, device in marks}
                self.positions[partition] = Position(next_offset, closings, marked)

    async def write(self, partition: int, rows: list[Row], pause: float = 0.0) -> None:
        position = self.positions[partition]
        try:
            async with (await self.writing.get()).transaction() as transaction:
                pairs, closings = await self._write(transaction.connection, partition, position, rows, pause)
        except BaseException:
            self.positions.forget()
            raise
        await asyncio.sleep(pause)  # committed, and not yet remembered
        assert position.next_offset is not None
        position.written(position.next_offset + 1, closings, pairs)

    async def _write(
        self, database: AsyncConnection, partition: int, position: Position, rows: list[Row], pause: float
    ) -> tuple[set[tuple[int, int]], int]:
        cursor = await database.execute(CAS, (GROUP, TOPIC, partition, position.next_offset))
        if (found := await cursor.fetchone()) is None:
            raise FencedError
        await asyncio.sleep(pause)
        await database.cursor().executemany(
            INSERT,
            rows,
        )
        pairs = {(int(ts.timestamp()) // 60, device) for device, _, ts, _ in rows}
        new = sorted(position.unmarked(found[0], pairs))
        await database.cursor().executemany(
            MARK,
            [(partition, minute * 60, device, found[0]) for minute, device in new],
        )
        await asyncio.sleep(pause)
        return pairs, found[0]

    async def close_all(self) -> int:
        closed = 0
        while n := await self.closer.close_due(LATER):
            closed += n
        return closed


@contextlib.asynccontextmanager
async def worker(url: str, partitions: Iterable[int] = (0,), **arguments: float) -> AsyncIterator[Worker]:
    it = Worker(url, **arguments)
    async with it.writing, it.closing:
        await it.own(partitions)
        yield it


@dataclass
class Installation:
    """Three partitions, five sites with a device each, metrics 1 and 2."""

    url: str
    connection: psycopg.Connection

    def recount(self, size: str) -> list[tuple[object, ...]]:
        return self.connection.execute(RECOUNT, {"size": size}).fetchall()

    def rolled_up(self, size: str, *, now: str = "") -> list[tuple[object, ...]]:
        table, bucket = TABLES[size]
        return self.connection.execute(ROLLED_UP.format(table=table + now, bucket=bucket)).fetchall()

    def one(self, query: str) -> object:
        row = self.connection.execute(query).fetchone()
        return row and row[0]

    def documents(self) -> list[dict[str, object]]:
        return [json.loads(value) for (value,) in self.connection.execute("SELECT value FROM outbox ORDER BY id")]


@pytest.fixture
def installation(database: str) -> Iterator[Installation]:
    with psycopg.connect(database, autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute("INSERT INTO metrics (name) VALUES ('temperature_c'), ('humidity_pct')")
        connection.execute(OFFSETS, (GROUP, TOPIC))
        for number, zone in enumerate(ZONES, 1):
            connection.execute("INSERT INTO sites (name, time_zone) VALUES (%s, %s)", (f"site-{number}", zone))
            connection.execute("INSERT INTO devices (name, site_id) VALUES (%s, %s)", (f"fridge-{number}", number))
        yield Installation(database, connection)


async def test_a_minute_is_computed_after_it_ended_and_not_before(installation: Installation) -> None:
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON + timedelta(seconds=s), float(s)) for s in (0, 10, 59)])
        assert await it.closer.close_due(NOON + timedelta(seconds=64)) == 0
        assert installation.rolled_up("minute") == []
        assert await it.closer.close_due(NOON + timedelta(seconds=65)) == 1
        assert installation.rolled_up("minute") == installation.recount("minute")
        assert it.positions[0] == Position(1, 1, set())


async def test_a_minute_is_published_with_a_revision_that_grows(installation: Installation) -> None:
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON, 3.5), (1, 2, NOON, 61.0)])
        await it.close_all()
        await it.write(0, [(1, 1, NOON + timedelta(seconds=1), 1.5)])
        await it.close_all()
    first, second = installation.documents()
    assert first == {
        "device": "fridge-1",
        "site": "site-1",
        "minute": "2026-11-20T12:00Z",
        "revision": 1,
        "metrics": {
            "humidity_pct": {"n": 1, "sum": 61.0, "min": 61.0, "max": 61.0, "first": 61.0, "last": 61.0},
            "temperature_c": {"n": 1, "sum": 3.5, "min": 3.5, "max": 3.5, "first": 3.5, "last": 3.5},
        },
    }
    assert second["revision"] == 2
    assert second["metrics"]["temperature_c"] == {"n": 2, "sum": 5.0, "min": 1.5, "max": 3.5, "first": 3.5, "last": 1.5}


async def test_minutes_whose_rows_are_gone_keep_their_values(installation: Installation) -> None:
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON, 3.5)])
        await it.close_all()
        before = installation.rolled_up("minute")
        installation.connection.execute("DELETE FROM readings")
        installation.connection.execute(MARK, (0, NOON.timestamp(), 1, 0))
        assert await it.close_all() == 1
        assert installation.rolled_up("minute") == before


async def test_late_data_do_not_compute_their_day_each_time(installation: Installation) -> None:
    async with worker(installation.url) as it:
        it.closer._every = {"minute": 0.0, "hour": 0.0, "day": 3600.0}
        for second in range(3):
            await it.write(0, [(1, 1, NOON + timedelta(seconds=second), 1.0)])
            await it.closer.close_due(LATER)
        assert installation.one("SELECT n FROM readings_1h") == 3
        assert installation.one("SELECT n FROM readings_1d") == 1


async def test_a_minute_that_has_just_ended_does_not_wait_for_the_look_at_all(installation: Installation) -> None:
    async with worker(installation.url) as it:
        it.closer._every = {"minute": 3600.0, "hour": 3600.0, "day": 3600.0}
        await it.closer.close_due(NOON)
        await it.write(0, [(1, 1, NOON, 1.0), (2, 1, NOON - timedelta(hours=1), 1.0)])
        assert await it.closer.close_due(NOON + timedelta(seconds=65)) == 1
        assert installation.one("SELECT device_id FROM readings_1m") == 1


async def test_many_pairs_are_closed_in_slices(installation: Installation) -> None:
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON + timedelta(minutes=m), 1.0) for m in range(450)])
        assert await it.close_all() > 450  # how many go into a slice depends on the machine
        assert it.positions[0].closings >= 3
        assert installation.rolled_up("minute") == installation.recount("minute")


@pytest.mark.parametrize(
    ("taken", "size", "seconds", "then"),
    [
        (10, 10, 0.001, 20),  # quick: twice as many, no more
        (200, 200, 0.001, 200),  # never more than a slice holds
        (10, 10, 1.0, 2),  # slow: as many as fit
        (1, 1, 9.0, 1),  # at least one
        (3, 100, 0.001, 200),  # few were due, and quick
        (40, 100, 1.0, 8),  # few were due, and slow
    ],
)
def test_a_slice_is_as_large_as_it_is_quick(taken: int, size: int, seconds: float, then: int) -> None:
    assert closing.next_slice(taken, size, seconds, _with_take("")) == then


async def test_a_slice_that_takes_too_long_is_halved(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = f"""
        WITH taken AS ({closing.TAKE_MINUTES}),
             slow AS MATERIALIZED (SELECT CASE WHEN %(slice)s > 100 THEN pg_sleep(9) END)
        SELECT taken.* FROM taken, slow"""
    monkeypatch.setattr(closing, "MINUTES", _with_take(slow))
    monkeypatch.setattr(closing, "LEVELS", (closing.MINUTES,))
    async with worker(installation.url, statement_timeout_seconds=1) as it:
        await it.write(0, [(1, 1, NOON + timedelta(minutes=m), 1.0) for m in range(300)])
        await it.close_all()
        assert installation.rolled_up("minute") == installation.recount("minute")


def _with_take(take: str) -> closing.Level:
    return closing.Level(
        number=0,
        name="minute",
        shortest=timedelta(minutes=1),
        slice=200,
        seconds=0.2,
        take=take,
        compute=closing.COMPUTE_MINUTES,
    )


async def test_only_the_chunks_concerned_are_read(installation: Installation) -> None:
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON - timedelta(days=d), 1.0) for d in range(12)])
        parameters = {
            **closing._spans([(1, NOON, NOON + timedelta(minutes=1))]),
            "partition": 0,
            "aggregates": "a",
            "closings": 1,
        }
        database = await it.writing.get()
        plan = await (
            await database.execute(f"EXPLAIN {closing.COMPUTE_MINUTES}", parameters, prepare=False)
        ).fetchall()
    scanned = {line.split(" on ")[1].split()[0] for (line,) in plan if "_hyper_" in line and " on " in line}
    assert len([chunk for chunk in scanned if chunk.startswith("_hyper_1_")]) == 1, plan


async def test_the_largest_values_have_a_sum(installation: Installation) -> None:
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON + timedelta(seconds=s), 1e300) for s in range(60)])
        await it.close_all()
        assert installation.one("SELECT sum FROM readings_1d") == pytest.approx(6e301)


# In each other's way ---------------------------------------------------------------------------------------


async def test_a_worker_that_lost_its_partition_clears_no_marks(installation: Installation) -> None:
    async with worker(installation.url) as zombie, worker(installation.url) as owner:
        await zombie.write(0, [(1, 1, NOON, 1.0)])
        await owner.own([0])
        await owner.write(0, [(1, 1, NOON + timedelta(seconds=1), 2.0)])
        assert await zombie.closer.close_due(LATER) == 0
        assert installation.one("SELECT count(*) FROM marks WHERE level = 0") == 1
        with pytest.raises(FencedError):
            await zombie.write(0, [(1, 1, NOON + timedelta(seconds=2), 3.0)])


async def test_a_writer_marks_again_what_another_closer_cleared(installation: Installation) -> None:
    """A closer with the same cached offset is no danger either: `closings` tells the writer."""
    async with worker(installation.url) as writer, worker(installation.url) as other:
        await writer.write(0, [(1, 1, NOON, 1.0)])
        await other.own([0])
        assert await other.close_all() > 0
        await writer.write(0, [(1, 1, NOON + timedelta(seconds=1), 2.0)])
        assert installation.one("SELECT count(*) FROM marks WHERE level = 0") == 1


async def test_a_closing_between_two_of_ours_is_noticed(installation: Installation) -> None:
    async with worker(installation.url) as it, worker(installation.url) as other:
        await it.write(0, [(1, 1, NOON, 1.0)])
        await other.own([0])
        await other.close_all()
        installation.connection.execute(MARK, (0, LONG_BEFORE.timestamp(), 1, 0))
        await it.close_all()
        await it.write(0, [(1, 1, NOON + timedelta(seconds=1), 2.0)])
        assert installation.one("SELECT bucket FROM marks WHERE level = 0") == NOON


async def test_the_writer_does_not_wait_for_our_closing_to_be_remembered(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the new number of closings before we know that our own closing is committed."""
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON, 1.0)])
        position = it.positions[0]
        with monkeypatch.context() as patched:
            patched.setattr(Position, "closed", lambda *_: None)
            await it.close_all()
        await it.write(0, [(1, 1, NOON + timedelta(seconds=1), 2.0)])
        assert installation.one("SELECT count(*) FROM marks WHERE level = 0") == 1
        position.closed(0, 1, [(int(NOON.timestamp()) // 60, 1)])
        assert (position.closings, len(position.marked)) == (1, 1)


async def test_the_closer_waits_for_its_own_writer_to_notice_its_commit(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "WRITER_SECONDS", 30)
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON, 1.0)])
        writing = asyncio.create_task(it.write(0, [(1, 1, NOON + timedelta(seconds=1), 2.0)], pause=0.05))
        await asyncio.sleep(0.02)
        assert await it.closer.close_due(LATER) > 0
        await writing
        await it.close_all()
        assert installation.rolled_up("minute") == installation.recount("minute")


class Slow(Closer):
    """Holds what it computed until it is told."""

    async def _compute(self, *arguments):
        computed = await super()._compute(*arguments)
        self.computed.set()
        await self.go.wait()
        return computed


def slow_down(closer: Closer) -> None:
    closer.__class__ = Slow
    closer.computed, closer.go = asyncio.Event(), asyncio.Event()


async def test_a_writer_does_not_wait_for_minutes_and_what_it_writes_meanwhile_is_computed_again(
    installation: Installation,
) -> None:
    async with worker(installation.url) as it:
        await it.write(0, [(1, 1, NOON, 1.0)])
        slow_down(it.closer)
        closing_it = asyncio.create_task(it.closer.close_due(LATER))
        await it.closer.computed.wait()
        async with asyncio.timeout(30):  # it would wait for ever
            await it.write(0, [(1, 1, NOON + timedelta(seconds=1), 2.0)])
        it.closer.go.set()
        await closing_it
        assert installation.one("SELECT count(*) FROM marks WHERE level = 0") == 1
        assert installation.rolled_up("minute", now="_now") == installation.recount("minute")
        await it.close_all()
        assert installation.rolled_up("minute") == installation.recount("minute")


async def test_what_a_worker_computed_before_it_lost_its_partition_is_thrown_away(installation: Installation) -> None:
    async with worker(installation.url) as zombie, worker(installation.url) as owner:
        await zombie.write(0, [(1, 1, NOON, 1.0)])
        slow_down(zombie.closer)
        computing = asyncio.create_task(zombie.closer.close_due(LATER))
        await zombie.closer.computed.wait()
        await owner.own([0])
        await owner.write(0, [(1, 1, NOON + timedelta(seconds=1), 2.0)])
        closing_it = asyncio.create_task(owner.close_all())
        async with asyncio.timeout(30):
            while installation.one("SELECT closings FROM ingest_offsets WHERE partition = 0") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # the database tells no event
        zombie.closer.go.set()
        assert await computing == 0
        assert await closing_it > 0
        assert installation.rolled_up("minute") == installation.recount("minute")


@pytest.mark.parametrize("owner", ["another worker", "the same one, after an error"])
async def test_what_is_written_while_the_last_owner_computes_is_computed_again(
    installation: Installation, owner: str
) -> None:
    """The new owner finds the minute's mark, which the last one is about to remove."""
    async with worker(installation.url) as last, worker(installation.url) as new:
        await last.write(0, [(1, 1, NOON, 1.0)])
        slow_down(last.closer)
        computing = asyncio.create_task(last.closer.close_due(LATER))
        await last.closer.computed.wait()
        writer = new if owner == "another worker" else last
        await writer.own([0])
        await writer.write(0, [(1, 1, NOON + timedelta(seconds=1), 2.0)])
        last.closer.go.set()
        await computing
        assert installation.one("SELECT count(*) FROM marks WHERE level = 0") == 1
        assert installation.rolled_up("minute", now="_now") == installation.recount("minute")
        await writer.close_all()
        assert installation.rolled_up("minute") == installation.recount("minute")


class Hesitant(Closer):
    """Stops for a moment wherever another one could come between."""

    async def _lock(self, *arguments):
        found = await super()._lock(*arguments)
        await asyncio.sleep(random.choice((0, 0, 0.01, 0.03)))
        return found

    async def _compute(self, *arguments):
        await asyncio.sleep(random.choice((0, 0.005)))
        computed = await super()._compute(*arguments)
        await asyncio.sleep(random.choice((0, 0, 0, 0.02)))
        return computed


CLOSINGS = "SELECT sum(closings) FROM ingest_offsets"


@pytest.mark.parametrize("seed", range(3))
async def test_two_workers_in_each_others_way_lose_nothing(
    installation: Installation, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions go to and fro without either being told; minutes are closed while they are written."""
    monkeypatch.setattr(closing, "REST", 0.0)
    randomly = random.Random(seed)
    random.seed(seed)
    async with worker(installation.url, (0, 1, 2)) as one_, worker(installation.url, (0, 1, 2)) as other:
        for it in (one_, other):
            it.closer.__class__ = Hesitant
        stop = asyncio.Event()
        closers = [asyncio.create_task(_keep_closing(it, stop)) for it in (one_, other)]
        await asyncio.gather(*(_keep_writing(it, randomly, installation) for it in (one_, other)))
        stop.set()
        await asyncio.gather(*closers)
        await one_.own((0, 1, 2))
        await one_.close_all()
    assert installation.one("SELECT count(*) FROM marks") == 0
    assert installation.one(CLOSINGS) > 15
    for size in TABLES:
        assert installation.rolled_up(size) == installation.recount(size) != []


async def _keep_writing(it: Worker, randomly: random.Random, installation: Installation) -> None:
    """Sixty batches, and more until enough was closed between them: how often that is depends on the machine."""
    for batch in range(600):
        if batch >= 60 and installation.one(CLOSINGS) > 15:
            break
        if batch % 6 == 0:
            partition = randomly.randrange(3)
        rows = [
            (
                partition + 1,
                1,
                NOON + timedelta(seconds=randomly.randrange(300), microseconds=randomly.randrange(10**6)),
                1.0,
            )
            for _ in range(3)
        ]
        while True:
            await it.read_positions()
            try:
                await it.write(partition, rows, randomly.choice((0, 0, 0.01)))
                break
            except FencedError:
                continue


async def _keep_closing(it: Worker, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await it.closer.close_due(LATER)
        await asyncio.sleep(0.002)


# Whatever comes --------------------------------------------------------------------------------------------

EDGES = [
    NOON,
    datetime(2026, 10, 25, 0, tzinfo=UTC),  # Berlin and the Azores set their clocks back around then
    datetime(2026, 9, 6, 4, tzinfo=UTC),  # in Santiago there is no midnight
    datetime(2026, 4, 5, 3, tzinfo=UTC),  # and here 23:00 comes twice
]
moments = st.builds(
    lambda edge, minutes, us: edge + timedelta(minutes=minutes, microseconds=us),
    st.sampled_from(EDGES), st.integers(-200, 200), st.integers(0, 59_999_999),
)  # fmt: skip
# Eighths up to 2⁴³: a hundred of them have one sum, in whatever order they are added; floats in general have not.
values = st.one_of(
    st.sampled_from([0.0, -0.0, 0.125, 2.0**43, -(2.0**43)]), st.integers(-8_000_000, 8_000_000).map(lambda n: n / 8)
)
batches = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2), moments, values), min_size=1, max_size=20)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(batches, st.none() | moments), min_size=1, max_size=5))
def test_roll_ups_are_a_recount(installation: Installation, story: list[tuple[list[Row], datetime | None]]) -> None:
    for table in ("readings", "readings_1m", "readings_1h", "readings_1d", "marks", "outbox"):
        installation.connection.execute(f"DELETE FROM {table}")
    asyncio.run(_live(installation, story))
    for size in TABLES:
        assert installation.rolled_up(size) == installation.recount(size)
    latest = {(d["device"], d["minute"]): d["metrics"] for d in installation.documents()}
    assert sum(metric["n"] for metrics in latest.values() for metric in metrics.values()) == installation.one(
        "SELECT count(*) FROM readings"
    )


async def _live(installation: Installation, story: list[tuple[list[Row], datetime | None]]) -> None:
    async with worker(installation.url) as it:
        for rows, now in story:
            await it.write(0, rows)
            if now:
                await it.closer.close_due(now)
            for size in TABLES:
                assert installation.rolled_up(size, now="_now") == installation.recount(size)
        await it.close_all()
