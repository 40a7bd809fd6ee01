"""Folding changes nothing that anyone can read."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import tuple_row

from pipeline import ledger
from pipeline.patience import Connection
from pipeline.settings import WorkerSettings

HOURS = ("2026-11-20 10:00Z", "2026-11-20 11:00Z")

PEND = """
INSERT INTO ledger_pending (hour, device_ids, received, stored, duplicate, refused, late, points)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"""

NOW = "SELECT device_id, hour, received, stored, duplicate, refused, late, points FROM ledger_now ORDER BY 1, 2"


@pytest.fixture
def reader(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True, row_factory=tuple_row) as connection:
        yield connection


def pend(reader: psycopg.Connection, rows: int, devices: int = 50) -> None:
    """Accounts as batches leave them: the columns that are all zeros are left out."""
    for row in range(rows):
        ids = [(row * 7 + i) % devices for i in range(devices // 2)]
        two, one = [2] * len(ids), [1] * len(ids)
        if row % 3:
            reader.execute(PEND, (HOURS[row % 2], ids, two, two, [], [], [], one))
        else:
            reader.execute(PEND, (HOURS[row % 2], ids, two, one, [], one, one, one))


async def fold(database: str) -> int:
    async with Connection(WorkerSettings(database_url=database), "test") as connection:
        return await ledger.fold(connection)


async def test_folding_changes_nothing_that_is_read(database, reader):
    pend(reader, 20)
    before = reader.execute(NOW).fetchall()
    assert await fold(database) == 20
    assert reader.execute(NOW).fetchall() == before != []
    assert reader.execute("SELECT count(*) FROM ledger_pending").fetchone() == (0,)
    pend(reader, 5)
    before = reader.execute(NOW).fetchall()
    assert await fold(database) == 5
    assert reader.execute(NOW).fetchall() == before


async def test_a_replay_moves_one_from_refused_to_stored(database, reader):
    reader.execute(PEND, (HOURS[0], [1], [3], [1], [1], [1], [], [2]))
    await fold(database)
    reader.execute(PEND, (HOURS[0], [1], [0], [1], [], [-1], [], [4]))
    await fold(database)
    assert reader.execute("SELECT received, stored, duplicate, refused, points FROM ledger").fetchall() == [
        (3, 2, 1, 0, 6)
    ]


async def test_a_correction_may_be_folded_before_what_it_corrects(database, reader):
    reader.execute(PEND, (HOURS[0], [1], [0], [1], [], [-1], [], [4]))
    await fold(database)
    reader.execute(PEND, (HOURS[0], [1], [1], [0], [], [1], [], [0]))
    await fold(database)
    assert reader.execute("SELECT received, stored, refused, points FROM ledger").fetchall() == [(1, 1, 0, 4)]


async def test_two_workers_folding_at_once_neither_lose_nor_block(database, reader, monkeypatch):
    monkeypatch.setattr(ledger, "BATCHES", 7)
    pend(reader, 150)
    before = reader.execute(NOW).fetchall()
    folded = await asyncio.gather(*(fold(database) for _ in range(4)))
    assert sum(folded) + await fold(database) == 150
    assert reader.execute(NOW).fetchall() == before


async def test_nothing_to_fold_is_nothing(database):
    assert await fold(database) == 0
