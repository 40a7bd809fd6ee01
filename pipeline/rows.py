"""A batch's rows into `readings`: straight, or through a staging table that tells new readings from repeats."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from prometheus_client import Counter
from psycopg import AsyncConnection, errors

from pipeline.batches import COPY_HEAD, COPY_TAIL, Batch, Pack
from pipeline.readings import US

STAGED_BATCHES: Final = 20
"""After a repeat that the memory did not catch, so many batches go through the staging table."""
BATCHES = Counter("pipeline_sink_batches_total", "Transactions committed, by their way into the table.", ["way"])

STAGING = """
CREATE TEMP TABLE IF NOT EXISTS staged (
    reading int, device_id int, metric_id smallint, ts timestamptz, received_at timestamptz, seq bigint,
    value double precision
) ON COMMIT DELETE ROWS"""

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


@dataclass(slots=True)
class Stored:
    """What became of a batch's readings, by their index in `Batch.kept`; `points` None: all are new."""

    points: dict[int, int] | None = None
    conflicts: set[int] = field(default_factory=set)


class UnknownNamesError(Exception):
    """A device or metric must be looked up, or made, before rows can be."""


class _ReplaysError(Exception):
    """Replays want the staging table, which tells whether they were new."""


class Rows:
    """The way into the table: by COPY, until a repeat that the memory of recent readings did not catch."""

    def __init__(self) -> None:
        self.staged_for = 0
        """So many batches more go through the staging table."""

    async def write(self, database: AsyncConnection, batch: Batch, packs: Sequence[Pack]) -> Stored:
        """Put packs into the batch and their rows into the table; `UnknownNamesError` when a name is not known."""
        if not self.staged_for:
            try:
                async with database.transaction():
                    await _copy_while_decoding(database, batch, packs)
            except errors.UniqueViolation:
                self.staged_for = STAGED_BATCHES + 1
            except _ReplaysError:
                self.staged_for = 1
            else:
                BATCHES.labels("direct").inc()
                return Stored()
        for pack in packs[len(batch.packs) :]:
            _add(batch, pack)
        self.staged_for -= 1
        return await self._write_staged(database, batch) if batch.rows else Stored()

    async def _write_staged(self, database: AsyncConnection, batch: Batch) -> Stored:
        """Repeats are left out; a reading that says otherwise than a stored one becomes a dead letter."""
        async with database.cursor() as cursor, cursor.copy(COPY_STAGED) as copy:
            await copy.write(batch.staged_data())
        times = [key[1] for key, *_ in batch.kept]
        span = {"first": min(times) / US - 1, "last": max(times) / US + 1}
        contested = await (await database.execute(CONTESTED, span)).fetchall()
        refused = _conflicting(contested, {i: replay.indices for replay in batch.replays for i in replay.indices})
        cursor = await database.execute(INSERT_STAGED, {"refused": sorted(refused)})
        BATCHES.labels("staged").inc()
        return Stored(points=dict(await cursor.fetchall()), conflicts=refused)


def _add(batch: Batch, pack: Pack) -> None:
    if batch.add(pack):
        raise UnknownNamesError


async def prepare(connection: AsyncConnection) -> None:
    """What each new connection needs before it writes."""
    await connection.execute(STAGING)


async def _copy_while_decoding(database: AsyncConnection, batch: Batch, packs: Sequence[Pack]) -> None:
    """PostgreSQL inserts the rows of one pack while the next one is decoded.

    What makes the rows useless is raised after the COPY: broken off, it would be an error in PostgreSQL's log.
    """
    sent = 0
    useless: Exception | None = None
    async with database.cursor() as cursor, cursor.copy(COPY_ROWS) as copy:
        await copy.write(COPY_HEAD)
        for pack in packs:
            if batch.add(pack):
                useless = UnknownNamesError()
            elif batch.replays:
                useless = _ReplaysError()
            if useless:
                break
            await copy.write(b"".join(batch.rows[sent:]))
            sent = len(batch.rows)
        await copy.write(COPY_TAIL)
    if useless:
        raise useless


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
