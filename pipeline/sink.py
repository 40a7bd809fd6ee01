"""One transaction: rows, marks, ledger, dead letters, status and the offsets that produced them.

A batch delivered again, or to two workers at once, changes nothing: the offsets are compared and swapped first.
What is remembered between batches is remembered after the commit and thrown away after any error.
"""

import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, Self

import psycopg
import structlog
from prometheus_client import Counter, Gauge, Histogram
from psycopg import AsyncConnection, errors

from pipeline.batches import HOUR_BITS, Batch, DeadLetter, Pack, Recent, messages_of, part_of
from pipeline.directory import Directory
from pipeline.packs import Message
from pipeline.patience import Answer, Connection, judge
from pipeline.positions import Pair, Position, Positions
from pipeline.readings import HOUR_US, MINUTE_US, US, Limits, Reason, Refusal, is_status_topic
from pipeline.settings import WorkerSettings

POINTS: Final = 10_000
BYTES: Final = 4 << 20
"""A transaction takes no further pack beyond these, so that catching up stays inside the statement timeout."""
STAGED_BATCHES: Final = 20
"""After a repeat that the memory did not catch, so many batches go through the staging table."""
LAYOUTS: Final = 100_000
SAME_ERROR: Final = 3
REFUSED_IN_A_ROW: Final = 20

ROWS = Counter("pipeline_sink_rows_written_total", "Rows of readings committed.")
MESSAGES = Counter("pipeline_sink_messages_total", "Messages of committed packs.")
READINGS = Counter("pipeline_sink_readings_total", "Readings by what became of them.", ["outcome"])
LATE = Counter("pipeline_sink_readings_late_total", "Stored readings that came after their minute was closed.")
REFUSED = Counter("pipeline_sink_refused_total", "Dead letters written.", ["reason"])
BATCHES = Counter("pipeline_sink_batches_total", "Transactions committed, by their way into the table.", ["way"])
PLAIN = Counter("pipeline_sink_plain_packs_total", "Packs decoded message by message.")
FENCED = Counter("pipeline_sink_fenced_total", "Batches rolled back because another worker had been there.")
SKIPPED = Counter("pipeline_sink_offsets_skipped_total", "Records that Kafka had dropped before they were read.")
HALVED = Counter("pipeline_sink_batches_halved_total", "Batches tried again in smaller parts.")
SECONDS = Histogram("pipeline_sink_batch_seconds", "From packs to committed.", buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10))
SIZE = Histogram("pipeline_sink_batch_messages", "Messages of a batch.", buckets=(1, 10, 100, 1_000, 10_000))
LAST = Gauge("pipeline_sink_last_commit_timestamp_seconds", "When the last batch was committed.")
log = structlog.get_logger()

STAGING = """
CREATE TEMP TABLE IF NOT EXISTS staged (
    reading int, device_id int, metric_id smallint, ts timestamptz, received_at timestamptz, seq bigint,
    value double precision
) ON COMMIT DELETE ROWS"""

POSITIONS = """
WITH mine AS (SELECT * FROM unnest(%(partitions)s::int[]) AS m (partition)),
new AS (
    INSERT INTO ingest_offsets (consumer_group, topic, partition, topic_id, next_offset)
    SELECT %(group)s, %(topic)s, partition, %(topic_id)s, 0 FROM mine
    ON CONFLICT DO NOTHING
    RETURNING partition, next_offset, closings, topic_id
)
SELECT partition, next_offset, closings, topic_id FROM new
UNION ALL
SELECT partition, next_offset, closings, topic_id FROM ingest_offsets
WHERE consumer_group = %(group)s AND topic = %(topic)s AND partition = ANY(%(partitions)s)"""

OPEN_MARKS = """
SELECT partition, extract(epoch FROM bucket)::bigint / 60, device_id FROM marks
WHERE level = 0 AND partition = ANY(%s)"""

ADVANCE = """
UPDATE ingest_offsets AS o SET next_offset = v.next
FROM unnest(%(partitions)s::int[], %(expected)s::bigint[], %(next)s::bigint[]) AS v (partition, expected, next)
WHERE o.consumer_group = %(group)s AND o.topic = %(topic)s
  AND o.partition = v.partition AND o.next_offset = v.expected
RETURNING o.partition, o.closings"""

COPY_ROWS = "COPY readings (device_id, metric_id, ts, received_at, seq, value) FROM STDIN (FORMAT binary)"
COPY_STAGED = "COPY staged (reading, device_id, metric_id, ts, received_at, seq, value) FROM STDIN (FORMAT binary)"

CONTESTED = """
SELECT reading, device_id, metric_id, ts, value, stored
FROM (
    SELECT s.*, r.value AS stored, min(s.value) OVER same_key AS least, max(s.value) OVER same_key AS greatest
    FROM staged s LEFT JOIN LATERAL (
        SELECT value FROM readings r
        WHERE r.device_id = s.device_id AND r.metric_id = s.metric_id AND r.ts = s.ts
          AND r.ts BETWEEN to_timestamp(%(first)s) AND to_timestamp(%(last)s)
        OFFSET 0
    ) r ON true
    WINDOW same_key AS (PARTITION BY s.device_id, s.metric_id, s.ts)
) AS compared
WHERE least <> greatest OR value <> stored
ORDER BY reading"""

INSERT_STAGED = """
WITH fresh AS (
    INSERT INTO readings (device_id, metric_id, ts, received_at, seq, value)
    SELECT device_id, metric_id, ts, received_at, seq, value FROM staged
    WHERE reading <> ALL(%(refused)s::int[])
    ORDER BY device_id, metric_id, ts, reading
    ON CONFLICT DO NOTHING
    RETURNING device_id, metric_id, ts
), first_of_key AS (
    SELECT min(s.reading) AS reading
    FROM fresh f JOIN staged s USING (device_id, metric_id, ts)
    WHERE s.reading <> ALL(%(refused)s::int[])
    GROUP BY f.device_id, f.metric_id, f.ts
)
SELECT reading, count(*) FROM first_of_key GROUP BY reading"""

MARK = """
INSERT INTO marks (level, partition, bucket, device_id)
SELECT 0, partition, to_timestamp(minute * 60), device_id
FROM unnest(%s::int[], %s::bigint[], %s::int[]) AS new (partition, minute, device_id)
ON CONFLICT DO NOTHING"""

ACCOUNT = """
INSERT INTO ledger_pending (hour, device_ids, received, stored, duplicate, refused, late, points)
VALUES (to_timestamp(%s::bigint * 3600), %s::int[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[])"""

ACCOUNT_REFUSALS = """
INSERT INTO ledger_refusals AS l (device_id, hour, reason, refused)
SELECT device_id, to_timestamp(hour * 3600), reason, refused
FROM unnest(%s::int[], %s::bigint[], %s::text[], %s::bigint[]) AS new (device_id, hour, reason, refused)
ORDER BY device_id, hour, reason
ON CONFLICT (device_id, hour, reason) DO UPDATE SET refused = l.refused + excluded.refused"""

WRITE_DEAD_LETTERS = """
WITH new AS (
    INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, payload_sha256, element,
                              device_id, kafka_partition, kafka_offset, position)
    SELECT to_timestamp(received_us / 1000000.0), reason, detail, mqtt_topic, payload, payload_size, payload_sha256,
           element, device_id, kafka_partition, kafka_offset, position
    FROM unnest(%(received_us)s::bigint[], %(reason)s::text[], %(detail)s::text[], %(mqtt_topic)s::text[],
                %(payload)s::bytea[], %(payload_size)s::bigint[], %(payload_sha256)s::text[], %(element)s::int[],
                %(device_id)s::int[], %(kafka_partition)s::int[], %(kafka_offset)s::bigint[], %(position)s::int[])
      AS given (received_us, reason, detail, mqtt_topic, payload, payload_size, payload_sha256, element, device_id,
                kafka_partition, kafka_offset, position)
    RETURNING *
)
INSERT INTO outbox (partition, topic, key, value)
SELECT n.kafka_partition, %(topic)s, coalesce(d.name, ''), convert_to(json_build_object(
    'id', n.id, 'reason', n.reason, 'detail', n.detail, 'device', d.name, 'mqtt_topic', n.mqtt_topic,
    'received_at', n.received_at, 'element', n.element, 'payload_size', n.payload_size,
    'payload_sha256', n.payload_sha256, 'payload_base64', translate(encode(n.payload, 'base64'), E'\\n', ''),
    'kafka_partition', n.kafka_partition, 'kafka_offset', n.kafka_offset, 'position', n.position
)::text, 'UTF8')
FROM new n LEFT JOIN devices d ON d.id = n.device_id
ORDER BY n.id"""

WRITE_STATUS = """
INSERT INTO device_status AS s (device_id, online, received_at)
SELECT device_id, online, to_timestamp(received_us / 1000000.0)
FROM unnest(%s::int[], %s::boolean[], %s::bigint[], %s::boolean[]) AS new (device_id, online, received_us, changed)
WHERE changed OR NOT EXISTS (SELECT FROM device_status o WHERE o.device_id = new.device_id AND o.online = new.online)
ORDER BY device_id
ON CONFLICT (device_id) DO UPDATE SET online = excluded.online, received_at = excluded.received_at
WHERE s.received_at <= excluded.received_at"""
# An unchanged status keeps its time: a retained "offline" that the broker repeats must not hide newer readings.

SETTLE = """
WITH known AS (
    SELECT id FROM dead_letters
    WHERE id = %(id)s AND mqtt_topic = %(topic)s AND received_at = to_timestamp(%(received_us)s / 1000000.0)
), settled AS (
    UPDATE dead_letters l SET replayed_at = now(), outcome = %(outcome)s, resolved = %(resolved)s
    FROM known WHERE l.id = known.id AND NOT l.resolved
    RETURNING l.device_id, extract(epoch FROM l.received_at)::bigint / 3600, l.reason
)
SELECT settled.* FROM known LEFT JOIN settled ON true"""
# No row: no such dead letter here, the database was restored from before it. NULLs: it was resolved before.


class FencedError(Exception):
    """Another worker has moved a partition's offset: this batch, or a part of it, is stored already."""


class DeliveryHoleError(RuntimeError):
    """Kafka still has records between what is stored and what was delivered: reading must begin again."""


class TopicRecreatedError(RuntimeError):
    """The table knows another topic than the one that is there now."""


@dataclass(slots=True)
class Account:
    """What a transaction adds to the ledger, by hour of receipt and device."""

    counts: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    refusals: Tally[tuple[int, int, str]] = field(default_factory=Tally)

    RECEIVED, STORED, DUPLICATE, REFUSED, LATE, POINTS = range(6)

    def add(self, device_id: int, hour: int, column: int, n: int) -> None:
        self.counts.setdefault(hour, {}).setdefault(device_id, [0] * 6)[column] += n

    def refuse(self, device_id: int, hour: int, reason: str, n: int) -> None:
        self.add(device_id, hour, self.REFUSED, n)
        self.refusals[(device_id, hour, reason)] += n


@dataclass(slots=True)
class Stored:
    """What became of a batch's readings, by their index in `Batch.kept`; `points` None: all are new."""

    points: dict[int, int] | None = None
    conflicts: set[int] = field(default_factory=set)


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
    ) -> None:
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
        self._connection = Connection(settings, "sink", prepare=_prepare, retrying=alive)
        self._seeking = Connection(settings, "seek", retrying=alive)
        self._most_packs = self._all_packs = settings.worker_packs
        self._staged_for = 0
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
        async for attempt in self._seeking.attempts():
            async with attempt as database:
                rows = await self._read_positions(database, partitions)
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
        self._trying = todo[: self._most_packs]
        batch, left = await self._fill(database, todo)
        if batch.packs:
            await self._commit(database, batch)
        return left

    async def _know_positions(self, database: AsyncConnection, partitions: Iterable[int]) -> None:
        unknown = [p for p in partitions if p in self.positions and self.positions[p].next_offset is None]
        if not unknown:
            return
        rows = await self._read_positions(database, unknown)
        marks: dict[int, set[Pair]] = {p: set() for p in unknown}
        async for partition, minute, device_id in await database.execute(OPEN_MARKS, (sorted(unknown),)):
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
            await self._check_topic()
        return todo

    async def _check_topic(self) -> None:
        """Packs of a topic made again under us look like packs stored long ago: Kafka begins at offset 0, unasked."""
        topic_id = await self._topic_id()
        if topic_id != self._known_topic_id:
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

    async def _fill(self, database: AsyncConnection, packs: list[Pack]) -> tuple[Batch, list[Pack]]:
        """A batch of the first packs, and the rest. Names are learned before rows are made of them."""
        if len(self.directory.layouts) > LAYOUTS:
            self.directory.forget()
            self.recent.forget()
        self.recent.turn()
        self.directory.reconsider()
        oldest_us = time.time_ns() // 1000 - self._raw_retention_us
        batch = Batch(self.directory, self.limits, self._late_after_us, self.recent, oldest_us, self._poisoned)
        for index, pack in enumerate(packs):
            if index == self._most_packs or batch.points >= POINTS or batch.size >= BYTES:
                return batch, packs[index:]
            while unknown := batch.add(pack):
                await self.directory.learn(database, unknown)
        return batch, []

    async def _commit(self, database: AsyncConnection, batch: Batch) -> None:
        ahead = {pack.partition: pack.offset + 1 for pack in batch.packs}
        positions = {p: at for p in ahead if (at := self.positions.get(p)) and at.next_offset is not None}
        if len(positions) < len(ahead):  # a rebalance came between
            raise FencedError
        async with database.transaction():
            closings = await self._advance(database, positions, ahead)
            stored = await self._write_rows(database, batch)
            await _mark(database, batch, positions, closings)
            await self._account(database, batch, stored)
        for partition, next_offset in ahead.items():
            marked = batch.marks.get(partition, set())
            positions[partition].written(next_offset, closings[partition], marked)
        self._count(batch, stored)

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

    # Rows --------------------------------------------------------------------------------------------------

    async def _write_rows(self, database: AsyncConnection, batch: Batch) -> Stored:
        if not batch.rows:
            return Stored()
        if self._staged_for or batch.replays:
            self._staged_for = max(0, self._staged_for - 1)
            return await self._write_staged(database, batch)
        try:
            async with database.transaction():
                await _copy(database, COPY_ROWS, batch.copy_data())
        except errors.UniqueViolation:
            self._staged_for = STAGED_BATCHES
            return await self._write_staged(database, batch)
        BATCHES.labels("direct").inc()
        return Stored()

    async def _write_staged(self, database: AsyncConnection, batch: Batch) -> Stored:
        """Repeats are left out; a reading that says otherwise than a stored one becomes a dead letter."""
        await _copy(database, COPY_STAGED, batch.staged_data())
        times = [key[1] for key, *_ in batch.kept]
        span = {"first": min(times) / US - 1, "last": max(times) / US + 1}
        contested = await (await database.execute(CONTESTED, span)).fetchall()
        refused = _conflicting(contested, {i: replay.indices for replay in batch.replays for i in replay.indices})
        cursor = await database.execute(INSERT_STAGED, {"refused": sorted(refused)})
        BATCHES.labels("staged").inc()
        return Stored(points=dict(await cursor.fetchall()), conflicts=refused)

    # The ledger and what else happened ---------------------------------------------------------------------

    async def _account(self, database: AsyncConnection, batch: Batch, stored: Stored) -> None:
        account = Account()
        self._account_readings(account, batch, stored)
        letters = batch.dead_letters + self._conflicts(batch, stored)
        new = [letter for letter in letters if not await self._replay_failed(database, letter)]
        for letter in new:
            if not is_status_topic(letter.message.topic):
                hour = letter.message.received_us // HOUR_US
                account.add(letter.device_id, hour, Account.RECEIVED, 1)
                account.refuse(letter.device_id, hour, letter.refusal.reason, 1)
        await self._settle_replays(database, account, batch, stored)
        if new:
            await database.execute(WRITE_DEAD_LETTERS, self._columns(new))
        if batch.statuses:
            online, received, changed = zip(*batch.statuses.values(), strict=True)
            columns = (list(batch.statuses), list(online), list(received), list(changed))
            await database.execute(WRITE_STATUS, columns)
        await _write_account(database, account)

    def _account_readings(self, account: Account, batch: Batch, stored: Stored) -> None:
        layouts = self.directory.layouts
        outcomes = [(batch.repeats, Account.DUPLICATE)]
        if stored.points is None:
            outcomes.append((batch.tally, Account.STORED))
            for counted, n in Tally(batch.late).items():
                account.add(layouts[counted >> HOUR_BITS].device_id, _hour(counted), Account.LATE, n)
        else:
            for index, counted in enumerate(batch.tally):
                if index in stored.conflicts:
                    continue
                points = stored.points.get(index, 0)
                device_id, hour = layouts[counted >> HOUR_BITS].device_id, _hour(counted)
                account.add(device_id, hour, Account.RECEIVED, 1)
                account.add(device_id, hour, Account.STORED if points else Account.DUPLICATE, 1)
                account.add(device_id, hour, Account.POINTS, points)
                if points and self._is_late(batch, index):
                    account.add(device_id, hour, Account.LATE, 1)
        for counted_list, column in outcomes:
            for counted, n in Tally(counted_list).items():
                layout, hour = layouts[counted >> HOUR_BITS], _hour(counted)
                row = account.counts.setdefault(hour, {}).setdefault(layout.device_id, [0] * 6)
                row[Account.RECEIVED] += n
                row[column] += n
                if column == Account.STORED:
                    row[Account.POINTS] += n * layout.points

    def _is_late(self, batch: Batch, index: int) -> bool:
        key, message, *_ = batch.kept[index]
        return bool(message.received_us - self._late_after_us >= (key[1] // MINUTE_US + 1) * MINUTE_US)

    def _conflicts(self, batch: Batch, stored: Stored) -> list[DeadLetter]:
        letters = []
        places = _places(batch.packs) if stored.conflicts else {}
        for index in sorted(stored.conflicts):
            key, message, _, reading = batch.kept[index]
            pack, position = places[(message.topic, message.received_us, message.payload)]
            refusal = Refusal(
                reason=Reason.CONFLICTS_WITH_STORED,
                detail="another value is stored for the same device, metric and ts; it stays",
                element=reading.element if reading else None,
                raw=reading.raw if reading else None,
            )
            device_id = self.directory.layouts[key[0]].device_id
            letters.append(
                DeadLetter(refusal=refusal, message=message, pack=pack, position=position, device_id=device_id)
            )
        return letters

    async def _replay_failed(self, database: AsyncConnection, letter: DeadLetter) -> bool:
        """Whether this is a known dead letter's replay, refused again: that changes its outcome and nothing else."""
        if letter.replay_of is None:
            return False
        outcome = str(letter.refusal.reason)
        return bool(await _settle(database, letter.replay_of, letter.message, outcome, resolved=False))

    async def _settle_replays(self, database: AsyncConnection, account: Account, batch: Batch, stored: Stored) -> None:
        """A replay that succeeded moves one from refused in its old hour; a copy of it is no reading of its own."""
        for replay in batch.replays:
            if stored.conflicts.intersection(replay.indices):
                continue
            new = stored.points is None or any(stored.points.get(index) for index in replay.indices)
            outcome = "stored" if new else "duplicate"
            for device_id, hour, reason in await _settle(
                database, replay.letter_id, replay.message, outcome, resolved=True
            ):
                if reason is None:
                    self._take_back(account, batch, stored, replay.indices)
                else:
                    account.add(device_id, int(hour), Account.RECEIVED, -1)
                    account.refuse(device_id, int(hour), reason, -1)

    def _take_back(self, account: Account, batch: Batch, stored: Stored, indices: list[int]) -> None:
        for index in indices:
            layout, hour = self.directory.layouts[batch.tally[index] >> HOUR_BITS], _hour(batch.tally[index])
            account.add(layout.device_id, hour, Account.RECEIVED, -1)
            is_new = stored.points is None or stored.points.get(index)
            account.add(layout.device_id, hour, Account.STORED if is_new else Account.DUPLICATE, -1)

    def _columns(self, letters: list[DeadLetter]) -> dict[str, Any]:
        extras = [letter.message.extra or {} for letter in letters]
        return {
            "topic": self._dead_topic,
            "received_us": [letter.message.received_us for letter in letters],
            "reason": [str(letter.refusal.reason) for letter in letters],
            "detail": [_text(letter.refusal.detail) for letter in letters],
            "mqtt_topic": [_text(letter.message.topic) for letter in letters],
            "payload": [letter.payload for letter in letters],
            "payload_size": [e.get("size", len(x.payload)) for x, e in zip(letters, extras, strict=True)],
            "payload_sha256": [extra.get("sha256") for extra in extras],
            "element": [letter.refusal.element for letter in letters],
            "device_id": [letter.device_id for letter in letters],
            "kafka_partition": [letter.pack.partition for letter in letters],
            "kafka_offset": [letter.pack.offset for letter in letters],
            "position": [letter.position for letter in letters],
        }

    def _count(self, batch: Batch, stored: Stored) -> None:
        """After the commit: metrics, and what the memory of recent readings must not hold."""
        self.recent.forget(batch.kept[index][0] for index in stored.conflicts)
        new = len(batch.tally) if stored.points is None else len(stored.points)
        ROWS.inc(batch.points if stored.points is None else sum(stored.points.values()))
        MESSAGES.inc(batch.messages)
        SIZE.observe(batch.messages)
        PLAIN.inc(batch.plain_packs)
        READINGS.labels("stored").inc(new)
        READINGS.labels("duplicate").inc(len(batch.repeats) + len(batch.tally) - new - len(stored.conflicts))
        READINGS.labels("refused").inc(len(batch.dead_letters) + len(stored.conflicts))
        LATE.inc(
            len(batch.late) if stored.points is None else sum(self._is_late(batch, index) for index in stored.points)
        )
        for letter in batch.dead_letters:
            REFUSED.labels(letter.refusal.reason).inc()
        REFUSED.labels(Reason.CONFLICTS_WITH_STORED).inc(len(stored.conflicts))
        LAST.set_to_current_time()
        if new or batch.repeats:
            self._refused_in_a_row = 0
        if self._poisoned:
            self._poisoned.clear()
        self._most_packs = min(self._all_packs, self._most_packs * 2)

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
                    batch, _ = await self._fill(database, [part])
                    async with database.transaction(force_rollback=True):
                        await self._account(database, batch, await self._write_rows(database, batch))
        except psycopg.Error as error:
            if judge(error) is Answer.BUG:
                raise
            return f"{error.sqlstate}: {str(error).strip()}"
        finally:
            self.forget()
        return None


async def _prepare(connection: AsyncConnection) -> None:
    await connection.execute(STAGING)


async def _copy(database: AsyncConnection, statement: str, data: bytes) -> None:
    async with database.cursor() as cursor, cursor.copy(statement) as copy:
        await copy.write(data)


async def _mark(
    database: AsyncConnection, batch: Batch, positions: dict[int, Position], closings: dict[int, int]
) -> None:
    """Mark the batch's minutes; those that the memory knows as marked are, unless a closing came between."""
    new = [
        (partition, minute, device_id)
        for partition, pairs in batch.marks.items()
        for minute, device_id in positions[partition].unmarked(closings[partition], pairs)
    ]
    if new:
        await database.execute(MARK, [list(column) for column in zip(*new, strict=True)])


async def _settle(
    database: AsyncConnection, letter_id: int, message: Message, outcome: str, *, resolved: bool
) -> list[Any]:
    values = {"id": letter_id, "topic": _text(message.topic), "received_us": message.received_us}
    return await (await database.execute(SETTLE, {**values, "outcome": outcome, "resolved": resolved})).fetchall()


async def _write_account(database: AsyncConnection, account: Account) -> None:
    for hour, devices in account.counts.items():
        columns = zip(*devices.values(), strict=True)
        arrays = [_array(devices), *(_array(column) if any(column) else "{}" for column in columns)]
        received, stored, points = (arrays[i] for i in (1, 2, 6))
        zeros = _array([0] * len(devices))
        arrays[1], arrays[2], arrays[6] = (a if a != "{}" else zeros for a in (received, stored, points))
        await database.execute(ACCOUNT, (hour, *arrays))
    if account.refusals:
        rows = [(device_id, hour, reason, n) for (device_id, hour, reason), n in sorted(account.refusals.items())]
        await database.execute(ACCOUNT_REFUSALS, [list(column) for column in zip(*rows, strict=True)])


def _array(numbers: Any) -> str:
    """An array as PostgreSQL reads it: 4 µs a hundred, psycopg's own adaptation of a list takes ten times that."""
    return f"{{{','.join(map(str, numbers))}}}"


def _hour(counted: int) -> int:
    return counted & ((1 << HOUR_BITS) - 1)


def _conflicting(contested: Iterable[tuple[Any, ...]], together: Mapping[int, list[int]]) -> set[int]:
    """Readings that say otherwise than what is stored, or than an earlier one that will be; a replay is all or none."""
    refused: set[int] = set()
    kept: dict[Any, float] = {}
    for indices, points in groupby(contested, lambda point: together.get(point[0], [point[0]])):
        new: dict[Any, float] = {}
        for _, *key, value, stored in points:
            known = kept.get(tuple(key), value if stored is None else stored)
            if new.setdefault(tuple(key), known) != value:
                refused.update(indices)
        if indices[0] not in refused:
            kept.update(new)
    return refused


def _places(packs: Iterable[Pack]) -> dict[tuple[Any, ...], tuple[Pack, int]]:
    """Where each message stood."""
    return {
        (message.topic, message.received_us, message.payload): (pack, position)
        for pack in packs
        for position, message in enumerate(messages_of(pack))
    }


def _text(text: str) -> str:
    """PostgreSQL's text holds no NUL."""
    return text.replace("\x00", "\\0")
