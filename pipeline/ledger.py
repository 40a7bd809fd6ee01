"""The ledger's two parts into one: what batches appended, added to the rows of each device and hour.

`ledger_now` is exact at every moment; folding only keeps it quick.
"""

from typing import Final

from prometheus_client import Counter, Gauge

from pipeline.patience import Connection

BATCHES: Final = 500
"""Rows of `ledger_pending` folded in one transaction."""

FOLDED = Counter("pipeline_ledger_folded_total", "Batches' accounts added to the ledger.")
LAST = Gauge("pipeline_ledger_last_fold_timestamp_seconds", "When accounts were last looked for, and folded if any.")

# Two workers may fold at once: SKIP LOCKED gives each its own rows, the order keeps them from a deadlock. Each row of
# `ledger_pending` balances by itself (a replay's: received 0, stored +1, refused -1), so every sum of them does.
FOLD: Final = """
WITH taken AS (
    DELETE FROM ledger_pending WHERE id IN (
        SELECT id FROM ledger_pending ORDER BY id LIMIT %(batches)s FOR UPDATE SKIP LOCKED
    )
    RETURNING *
), summed AS (
    SELECT u.device_id, t.hour, sum(u.received) AS received, sum(u.stored) AS stored,
           sum(coalesce(u.duplicate, 0)) AS duplicate, sum(coalesce(u.refused, 0)) AS refused,
           sum(coalesce(u.late, 0)) AS late, sum(u.points) AS points
    FROM taken t,
         unnest(t.device_ids, t.received, t.stored, t.duplicate, t.refused, t.late, t.points)
           AS u (device_id, received, stored, duplicate, refused, late, points)
    GROUP BY u.device_id, t.hour
), folded AS (
    INSERT INTO ledger AS l (device_id, hour, received, stored, duplicate, refused, late, points)
    SELECT device_id, hour, received, stored, duplicate, refused, late, points FROM summed
    ORDER BY device_id, hour
    ON CONFLICT (device_id, hour) DO UPDATE SET
        received = l.received + excluded.received, stored = l.stored + excluded.stored,
        duplicate = l.duplicate + excluded.duplicate, refused = l.refused + excluded.refused,
        late = l.late + excluded.late, points = l.points + excluded.points
)
SELECT count(*) FROM taken"""


async def fold(connection: Connection) -> int:
    """Fold all that was there; return how many batches' accounts. Waits while the database is away."""
    folded = 0
    while True:
        n = await _fold_some(connection)
        folded += n
        FOLDED.inc(n)
        if n < BATCHES:
            LAST.set_to_current_time()
            return folded


async def _fold_some(connection: Connection) -> int:
    async for attempt in connection.attempts():
        async with attempt as database:
            row = await (await database.execute(FOLD, {"batches": BATCHES})).fetchone()
            return int(row[0]) if row else 0
    raise AssertionError("attempts end by success or by an error")
