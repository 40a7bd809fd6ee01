"""One transaction: rows, marks, ledger, dead letters, status and the offsets that produced them.

A batch delivered again, or to two workers at once, changes nothing: the offsets are compared and swapped first.
What is remembered between batches is remembered after the commit and thrown away after any error.
"""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg
import structlog
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from psycopg import AsyncConnection

from pipeline import accounts
from pipeline.batches import Batch, Pack, Recent, messages_of, part_of
from pipeline.delays import Delays
from pipeline.directory import Directory
from pipeline.patience import Answer, Connection, judge
from pipeline.positions import Pair, Position, Positions
from pipeline.readings import US, Limits
from pipeline.rows import Rows, Stored, UnknownNamesError, prepare
from pipeline.settings import WorkerSettings
from pipeline.tracing import Tracing

if TYPE_CHECKING:
    from observability.otlp import Traces

COLONS: Final = 25_000
BYTES: Final = 4 << 20
"""A transaction takes no further pack beyond these, so that catching up stays inside the statement timeout.

Every point has a colon behind its name, so there are no more points than these; counting them costs next to nothing.
"""
LAYOUTS: Final = 100_000
SAME_ERROR: Final = 3
REFUSED_IN_A_ROW: Final = 20
TIMED_READINGS: Final = 256
"""Of a batch, so many at least say how old readings are when they are committed; all where there are fewer."""

ROWS = Counter("pipeline_sink_rows_written_total", "Rows of readings committed.")
PACKS = Counter("pipeline_sink_packs_total", "Packs committed.")
MESSAGES = Counter("pipeline_sink_messages_total", "Messages of committed packs.")
PLAIN = Counter("pipeline_sink_plain_packs_total", "Packs decoded message by message.")
FENCED = Counter("pipeline_sink_fenced_total", "Batches rolled back because another worker had been there.")
SKIPPED = Counter("pipeline_sink_offsets_skipped_total", "Records that Kafka had dropped before they were read.")
HALVED = Counter("pipeline_sink_batches_halved_total", "Batches tried again in smaller parts.")
SECONDS = Histogram("pipeline_sink_batch_seconds", "From packs to committed.", buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10))
SIZE = Histogram("pipeline_sink_batch_messages", "Messages of a batch.", buckets=(1, 10, 100, 1_000, 10_000))
LAST = Gauge("pipeline_sink_last_commit_timestamp_seconds", "When the last batch was committed.")
PACK_DELAY = Histogram(
    "pipeline_sink_pack_delay_seconds",
    "From a pack's time in Kafka to committed.",
    buckets=(0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300, 3600),
)
EVENT_DELAY = Delays(
    "pipeline_sink_event_delay_seconds", "From the device's ts to the committed row, of new readings that came singly."
)
REGISTRY.register(EVENT_DELAY)
log = structlog.get_logger()

POSITIONS = """
WITH mine AS (SELECT * FROM unnest(%(partitions)s::int[]) AS m (partition)),
new AS (
    INSERT INTO ingest_offsets (consumer_group, topic, partition, topic_id, next_offset, closings)
    SELECT %(group)s, %(topic)s, partition, %(topic_id)s, 0,
           (SELECT coalesce(max(closings), 0) FROM marks WHERE marks.partition = mine.partition)
    FROM mine
    ON CONFLICT DO NOTHING
    RETURNING partition, next_offset, closings, topic_id
)
SELECT partition, next_offset, closings, topic_id FROM new
UNION ALL
SELECT partition, next_offset, closings, topic_id FROM ingest_offsets
WHERE consumer_group = %(group)s AND topic = %(topic)s AND partition = ANY(%(partitions)s)"""

# Without older ones: the partition's last owner, or our own closer, may be computing their minutes at this moment, and
# would then remove marks that we took for set.
OPEN_MARKS = """
SELECT m.partition, extract(epoch FROM m.bucket)::bigint / 60, m.device_id
FROM unnest(%s::int[], %s::bigint[]) AS known (partition, closings)
JOIN marks m ON m.partition = known.partition AND m.level = 0 AND m.closings >= known.closings"""

ADVANCE = """
UPDATE ingest_offsets AS o SET next_offset = v.next
FROM unnest(%(partitions)s::int[], %(expected)s::bigint[], %(next)s::bigint[]) AS v (partition, expected, next)
WHERE o.consumer_group = %(group)s AND o.topic = %(topic)s
  AND o.partition = v.partition AND o.next_offset = v.expected
RETURNING o.partition, o.closings"""

MARK = """
INSERT INTO marks (level, partition, bucket, device_id, closings)
SELECT 0, partition, to_timestamp(minute * 60), device_id, closings
FROM unnest(%s::int[], %s::bigint[], %s::int[], %s::bigint[]) AS new (partition, minute, device_id, closings)
ON CONFLICT (level, device_id, bucket) DO UPDATE SET closings = excluded.closings
WHERE marks.closings < excluded.closings"""


class FencedError(Exception):
    """Another worker has moved a partition's offset: this batch, or a part of it, is stored already."""


class DeliveryHoleError(RuntimeError):
    """Kafka still has records between what is stored and what was delivered: reading must begin again."""


class TopicRecreatedError(RuntimeError):
    """The table knows another topic than the one that is there now."""


class Sink:
    """Writes packs; opened with `async with`. `positions` holds the partitions that are this worker's.

    `topic_id()` is the id Kafka gave the topic; `first_record(partition, offset)` the offset of the first record
    Kafka has at or after it; `alive()` is called whenever an outage is being waited out, or poison looked for.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        positions: Positions,
        *,
        topic: str,
        dead_topic: str,
        topic_id: Callable[[], Awaitable[str]],
        first_record: Callable[[int, int], Awaitable[int]],
        alive: Callable[[], None] = lambda: None,
        traces: "Traces | None" = None,
    ) -> None:
        self._tracing = Tracing(traces) if traces else None
        self.positions = positions
        self.limits = Limits(
            future_us=round(settings.future_limit_seconds * US),
            past_us=round(settings.past_limit_days * 86_400 * US),
            metrics=settings.metrics_per_device,
        )
        self.directory = Directory(
            partitions=settings.partitions,
            metrics_per_device=settings.metrics_per_device,
            metric_names=settings.metric_names,
            devices_per_site=settings.devices_per_site,
            past_limit=settings.past_limit,
            site_time_zone=settings.site_time_zone,
        )
        self.recent = Recent()
        self._raw_retention_us = (settings.raw_retention_days - 1) * 86_400 * US  # less a chunk
        self._late_after_us = round(settings.close_after_seconds * US)
        self._where = {"group": settings.consumer_group, "topic": topic}
        self._dead_topic = dead_topic
        self._topic_id = topic_id
        self._known_topic_id = ""
        self._first_record = first_record
        self._alive = alive
        self._connection = Connection(settings, "sink", prepare=prepare, retrying=alive)
        self._seeking = Connection(settings, "seek", retrying=alive)
        self._most_packs = self._all_packs = settings.worker_packs
        self.rows = Rows()
        self._poisoned: dict[tuple[int, int], dict[int, str]] = {}
        self._refused_in_a_row = 0
        self._stale = False
        self._trying: Sequence[Pack] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.drop()
        await self._seeking.drop()

    def assign(self, partitions: Iterable[int]) -> None:
        """Own these partitions; what was remembered is thrown away, once the batch under way is done."""
        self.positions.assign(partitions)
        self._stale = True

    def forget(self) -> None:
        """Remember nothing of the database: after any error, and after every assignment."""
        self._stale = False
        self.positions.forget()
        self.directory.forget()
        self.recent.forget()

    async def write(self, packs: Sequence[Pack]) -> None:
        """Return when every pack is committed, each exactly once; while the database is away, wait for it.

        Packs of partitions that are not ours any more are left out. Anything but an outage is raised.
        """
        began = time.perf_counter()
        todo = list(packs)
        while todo:
            todo = await self._write_some(todo)
        SECONDS.observe(time.perf_counter() - began)

    async def next_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Where reading goes on, by the table; `TopicRecreatedError` if the table is of another topic."""
        rows: list[Any] = []
        wanted = list(partitions)
        async for attempt in self._seeking.attempts():
            async with attempt as database:
                rows = await self._read_positions(database, wanted)
        return {partition: next_offset for partition, next_offset, _ in rows}

    # One batch after the other -----------------------------------------------------------------------------

    async def _write_some(self, packs: list[Pack]) -> list[Pack]:
        """Commit the first of these packs; return what is left to do, which may be all of them."""
        try:
            async for attempt in self._connection.attempts(same_error=SAME_ERROR):
                async with attempt as database, self._forgetting():
                    left = await self._write_once(database, packs)
        except FencedError:
            FENCED.inc()
            log.warning("fenced", why="another worker has written these offsets; reading them again from the table")
            return packs
        except psycopg.Error as error:
            if judge(error) is Answer.BUG:
                raise
            await self._narrow(error)
            return packs
        return left

    @asynccontextmanager
    async def _forgetting(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            self.forget()
            raise

    async def _write_once(self, database: AsyncConnection, packs: list[Pack]) -> list[Pack]:
        if self._stale:
            self.forget()
        await self._know_positions(database, {pack.partition for pack in packs})
        todo = await self._not_stored(packs)
        self._trying = taken = todo[: first_packs(todo, self._most_packs)]
        while taken:
            try:
                await self._commit(database, taken)
                break
            except UnknownNamesError:
                await self._learn(database, taken)
        return todo[len(taken) :]

    async def _know_positions(self, database: AsyncConnection, partitions: Iterable[int]) -> None:
        unknown = [p for p in partitions if p in self.positions and self.positions[p].next_offset is None]
        if not unknown:
            return
        rows = await self._read_positions(database, unknown)
        marks: dict[int, set[Pair]] = {p: set() for p in unknown}
        partitions_closings = [[row[0] for row in rows], [row[2] for row in rows]]
        async for partition, minute, device_id in await database.execute(OPEN_MARKS, partitions_closings):
            marks[partition].add((int(minute), device_id))
        for partition, next_offset, closings in rows:
            if partition in self.positions:
                self.positions[partition].written(next_offset, closings, marks[partition])

    async def _read_positions(self, database: AsyncConnection, partitions: Iterable[int]) -> list[Any]:
        """Partition, next offset and closings; rows that are not there yet begin at 0."""
        self._known_topic_id = topic_id = await self._topic_id()
        wanted = sorted(partitions)
        values = {**self._where, "partitions": wanted, "topic_id": topic_id}
        rows: list[Any] = []
        while len(rows) < len(wanted):  # fewer: another worker inserted one at this moment
            rows = await (await database.execute(POSITIONS, values)).fetchall()
        for partition, next_offset, _, known_id in rows:
            if known_id != topic_id:
                stands = f"the database stands at offset {next_offset} of partition {partition}"
                raise self._created_again(f"{stands} of the topic with id {known_id}", topic_id)
        return [row[:3] for row in rows]

    def _created_again(self, known: str, topic_id: str) -> TopicRecreatedError:
        return TopicRecreatedError(
            f"{self._where['topic']} was created again: {known}, the topic's id now is {topic_id}."
            " `brigade offsets show` tells more, `brigade offsets reset` goes on with the new topic."
        )

    async def _not_stored(self, packs: list[Pack]) -> list[Pack]:
        """Packs of our partitions that are not stored yet; `DeliveryHoleError` when some are missing between."""
        todo = []
        stored = False
        expected = self.positions.known
        for pack in packs:
            at = expected.get(pack.partition)
            if at is None:
                continue
            if pack.offset < at:
                stored = True
                continue
            if pack.offset > at:
                await self._check_hole(pack, at)
            expected[pack.partition] = pack.offset + 1
            todo.append(pack)
        if stored:
            await self.check_topic()
        return todo

    async def check_topic(self) -> None:
        """Packs of a topic made again under us look like packs stored long ago: Kafka begins at offset 0, unasked."""
        topic_id = await self._topic_id()
        if self._known_topic_id not in {"", topic_id}:
            raise self._created_again(f"the database knows the topic with id {self._known_topic_id}", topic_id)

    async def _check_hole(self, pack: Pack, expected: int) -> None:
        first = await self._first_record(pack.partition, expected)
        if first != pack.offset:
            raise DeliveryHoleError(
                f"partition {pack.partition}: offset {expected} comes next, {pack.offset} was delivered,"
                f" Kafka has {first}"
            )
        SKIPPED.inc(pack.offset - expected)
        log.error("records_gone", partition=pack.partition, first=expected, count=pack.offset - expected,
                  why="Kafka's retention dropped them before they were stored")  # fmt: skip

    def _new_batch(self) -> Batch:
        if len(self.directory.layouts) > LAYOUTS:
            self.directory.forget()
            self.recent.forget()
        self.recent.turn()
        self.directory.reconsider()
        return self._batch(self.recent)

    def _batch(self, recent: Recent) -> Batch:
        oldest_us = time.time_ns() // 1000 - self._raw_retention_us
        return Batch(self.directory, self.limits, self._late_after_us, recent, oldest_us, self._poisoned)

    async def _learn(self, database: AsyncConnection, packs: Sequence[Pack]) -> None:
        """Make every device and metric of these packs known, or known as refused."""
        trial = self._batch(Recent())
        for pack in packs:
            while unknown := trial.add(pack):
                await self.directory.learn(database, unknown)

    async def _commit(self, database: AsyncConnection, packs: Sequence[Pack]) -> None:
        ahead = {pack.partition: pack.offset + 1 for pack in packs}
        positions = {p: at for p in ahead if (at := self.positions.get(p)) and at.next_offset is not None}
        if len(positions) < len(ahead):  # a rebalance came between
            raise FencedError
        batch = self._new_batch()
        began_ns = time.time_ns()
        try:
            async with database.transaction():
                closings = await self._advance(database, positions, ahead)
                stored = await self.rows.write(database, batch, packs)
                await _mark(database, batch, positions, closings)
                await accounts.keep(database, batch, stored, dead_topic=self._dead_topic)
        except UnknownNamesError:
            self.recent.forget(key for key, *_ in batch.kept)
            raise
        for partition, next_offset in ahead.items():
            marked = batch.marks.get(partition, set())
            positions[partition].written(next_offset, closings[partition], marked)
        self._count(batch, stored)
        log.debug("batch_written", packs=len(packs), messages=batch.messages, points=batch.points)
        if self._tracing and batch.traced:
            self._tracing.tell(batch, began_ns)

    async def _advance(
        self, database: AsyncConnection, positions: dict[int, Position], ahead: dict[int, int]
    ) -> dict[int, int]:
        """Move the offsets on, if they are where we left them; return each partition's number of closings."""
        partitions = sorted(ahead)
        expected = [positions[p].next_offset for p in partitions]
        values = {"partitions": partitions, "expected": expected, "next": [ahead[p] for p in partitions]}
        cursor = await database.execute(ADVANCE, {**self._where, **values})
        closings: dict[int, int] = dict(await cursor.fetchall())
        if len(closings) != len(partitions):
            raise FencedError
        return closings

    def _count(self, batch: Batch, stored: Stored) -> None:
        """After the commit: metrics, and what the memory of recent readings must not hold."""
        self.recent.forget(batch.kept[index][0] for index in stored.conflicts)
        new = accounts.count(batch, stored)
        ROWS.inc(batch.points if stored.points is None else sum(stored.points.values()))
        self._count_delays(batch, stored)
        PACKS.inc(len(batch.packs))
        MESSAGES.inc(batch.messages)
        SIZE.observe(batch.messages)
        PLAIN.inc(batch.plain_packs)
        LAST.set_to_current_time()
        if new or batch.repeats:
            self._refused_in_a_row = 0
        if self._poisoned:
            self._poisoned.clear()
        self._most_packs = min(self._all_packs, self._most_packs * 2)

    def _count_delays(self, batch: Batch, stored: Stored) -> None:
        """Of every n-th reading of a large batch: 0.02 µs a reading instead of 0.15."""
        now_us = time.time_ns() // 1000
        new = accounts.new_readings(batch, stored)
        step = 1 + len(new) // TIMED_READINGS
        moments = [batch.kept[index][0][1] for index in new[random.randrange(step) :: step]]
        EVENT_DELAY.add(moments, now_us, weight=step)
        for pack in batch.packs:
            PACK_DELAY.observe((now_us - pack.timestamp_us) / US)

    # When the database answers and will not have it --------------------------------------------------------

    async def _narrow(self, error: psycopg.Error) -> None:
        """The same error again and again: a smaller batch next, or find the messages that cause it."""
        HALVED.inc()
        if len(self._trying) > 1:
            self._most_packs = len(self._trying) // 2
            log.warning("batch_halved", packs=self._most_packs, why=str(error).strip(), state=error.sqlstate)
            return
        if not self._trying:
            raise error
        pack = self._trying[0]
        count = len(messages_of(pack))
        taken_out = self._poisoned.pop((pack.partition, pack.offset), {})
        bad = await self._poison(pack, list(range(count)))
        nothing_new = bad.keys() == taken_out.keys()
        if nothing_new and error.sqlstate == "57014":
            self._poisoned[(pack.partition, pack.offset)] = bad
            return  # too slow as a whole, fine in parts: the database is busy
        self._refused_in_a_row = self._refused_in_a_row + 1 if len(bad) == count else 0
        all_of_them = (len(bad) == count and count > 1) or self._refused_in_a_row > REFUSED_IN_A_ROW
        if nothing_new or all_of_them:
            raise error
        log.error("database_refused", partition=pack.partition, offset=pack.offset, messages=len(bad),
                  why=str(error).strip(), state=error.sqlstate)  # fmt: skip
        self._poisoned[(pack.partition, pack.offset)] = bad

    async def _poison(self, pack: Pack, positions: list[int]) -> dict[int, str]:
        """Of these positions, those the database refuses when they come without the others."""
        reason = await self._refusal(pack, positions)
        if reason is None:
            return {}
        if len(positions) == 1:
            return {positions[0]: reason}
        half = len(positions) // 2
        return {
            **await self._poison(pack, positions[:half]),
            **await self._poison(pack, positions[half:]),
        }

    async def _refusal(self, pack: Pack, positions: list[int]) -> str | None:
        """Why the database refuses these messages of a pack, tried and rolled back; None if it takes them."""
        part = Pack(pack.partition, pack.offset, part_of(pack, positions), pack.timestamp_us)
        self._alive()
        self.forget()
        try:
            async for attempt in self._connection.attempts(same_error=SAME_ERROR):
                async with attempt as database, self._forgetting():
                    await self._know_positions(database, [part.partition])
                    await self._learn(database, [part])
                    batch = self._new_batch()
                    async with database.transaction(force_rollback=True):
                        stored = await self.rows.write(database, batch, [part])
                        await accounts.keep(database, batch, stored, dead_topic=self._dead_topic)
        except psycopg.Error as error:
            if judge(error) is Answer.BUG:
                raise
            return f"{error.sqlstate}: {str(error).strip()}"
        finally:
            self.forget()
        return None


def first_packs(packs: Sequence[Pack], most: int) -> int:
    """How many of these packs one transaction may hold: one at least."""
    colons = size = 0
    for index, pack in enumerate(packs[:most]):
        if colons >= COLONS or size >= BYTES:
            return index
        value = pack.value or b""
        colons += value.count(b":")
        size += len(value)
    return min(len(packs), most)


async def _mark(
    database: AsyncConnection, batch: Batch, positions: dict[int, Position], closings: dict[int, int]
) -> None:
    """Mark the batch's minutes; those that the memory knows as marked are, unless a closing came between."""
    new = [
        (partition, minute, device_id, closings[partition])
        for partition, pairs in batch.marks.items()
        for minute, device_id in positions[partition].unmarked(closings[partition], pairs)
    ]
    if new:
        await database.execute(MARK, [list(column) for column in zip(*new, strict=True)])
