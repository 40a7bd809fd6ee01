"""What listeners of the live stream are told, and when. No clock but the reader's own."""

import asyncio
import json
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from gateway import feed
from gateway.feed import Board, Feed, Row

NOW = datetime(2026, 11, 25, 3, 40, tzinfo=UTC)
MINE = frozenset({"mine"})
BOTH = frozenset({"mine", "yours"})


def row(
    device="fridge-1", value=3.0, *, site="mine", metric="temperature_c", at=0, online=None, told=None, since=False
):
    ts = NOW + timedelta(seconds=at)
    told_at = None if told is None else NOW + timedelta(seconds=told)
    return Row(site, device, online, told_at, since, metric, "°C", ts, value, ts, False)


def silent(device="new-1", *, site="mine", online=None, told=None):
    told_at = None if told is None else NOW + timedelta(seconds=told)
    return Row(site, device, online, told_at, False, None, None, None, None, None, None)


def read(event):
    kind, data = event.decode().strip().split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def values(event):
    return {(v["device"], v["metric"]): v["value"] for v in read(event)[1]["latest"]}


def statuses(event):
    return {s["device"]: s["online"] for s in read(event)[1]["status"]}


def test_the_state_is_everything():
    board = Board()
    board.take(["mine"], [row(), row(metric="humidity_pct", value=60), silent()])
    event = board.event(MINE, 0)
    assert read(event)[0] == "state"
    assert values(event) == {("fridge-1", "temperature_c"): 3, ("fridge-1", "humidity_pct"): 60}
    assert statuses(event) == {"fridge-1": True, "new-1": True}


def test_a_change_is_what_is_new():
    board = Board()
    board.take(["mine"], [row(), row("fridge-2")])
    board.take(["mine"], [row(), row("fridge-2", 4, at=1)])
    event = board.event(MINE, 1)
    assert read(event)[0] == "change"
    assert values(event) == {("fridge-2", "temperature_c"): 4}
    assert statuses(event) == {}


def test_nothing_new_is_no_event():
    board = Board()
    board.take(["mine"], [row()])
    board.take(["mine"], [row()])
    assert board.event(MINE, 1) == b""


def test_who_was_slow_gets_all_that_changed_at_once_and_each_but_once():
    board = Board()
    for tick in range(5):
        board.take(["mine"], [row(value=tick, at=tick), row("fridge-2", at=min(tick, 1))])
    assert values(board.event(MINE, 1)) == {("fridge-1", "temperature_c"): 4, ("fridge-2", "temperature_c"): 3}
    assert values(board.event(MINE, 4)) == {("fridge-1", "temperature_c"): 4}
    assert board.event(MINE, 5) == b""


def test_other_sites_are_not_told():
    board = Board()
    board.take(["mine", "yours"], [row(), row("oven-1", site="yours")])
    assert values(board.event(MINE, 0)) == {("fridge-1", "temperature_c"): 3}
    assert len(values(board.event(BOTH, 0))) == 2
    board.take(["mine", "yours"], [row(), row("oven-1", 9, at=1, site="yours")])
    assert board.event(MINE, 1) == b""
    assert len(values(board.event(BOTH, 1))) == 1


@pytest.mark.parametrize(
    ("told", "online"),
    [
        (row(), True),
        (row(online=True, told=5), True),
        (row(online=False, told=5), False),
        (row(online=False, told=-5), True),  # a reading came since
        (row(online=False, told=5, since=True), True),  # a late one did
        (silent("fridge-1"), True),
        (silent("fridge-1", online=False, told=5), False),
    ],
)
def test_only_its_last_will_makes_a_device_offline_until_a_reading_comes(told, online):
    board = Board()
    board.take(["mine"], [told])
    assert statuses(board.event(MINE, 0)) == {"fridge-1": online}


def test_going_and_coming_back_are_told_once_each():
    board = Board()
    board.take(["mine"], [row()])
    board.take(["mine"], [row(online=False, told=5)])
    assert statuses(board.event(MINE, 1)) == {"fridge-1": False}
    board.take(["mine"], [row(online=False, told=5)])
    assert board.event(MINE, 2) == b""
    board.take(["mine"], [row(online=False, told=5, at=6)])
    assert statuses(board.event(MINE, 3)) == {"fridge-1": True}
    board.take(["mine"], [row(online=False, told=5, at=7)])
    assert statuses(board.event(MINE, 4)) == {}  # its readings are told, not that it is still there


def test_a_device_that_moved_away_is_no_longer_told():
    board = Board()
    board.take(["mine"], [row(), row("fridge-2")])
    board.take(["mine"], [row()])
    assert set(values(board.event(MINE, 0))) == {("fridge-1", "temperature_c")}
    assert set(statuses(board.event(MINE, 0))) == {"fridge-1"}


def test_a_site_without_devices_is_known_and_empty():
    board = Board()
    board.take(["mine"], [])
    assert board.knows(MINE)
    assert read(board.event(MINE, 0)) == ("state", {"latest": [], "status": []})


class Database:
    """Answers with the rows it has, or fails with what it is given; counts."""

    def __init__(self, *rows):
        self.rows = list(rows)
        self.error = None
        self.asked = []

    async def __call__(self, sites):
        self.asked.append(sites)
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return [r for r in self.rows if r.site in sites]


@asynccontextmanager
async def running(database):
    one = Feed(database)
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(feed, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(feed, "SOON_SECONDS", 0)


def later(seconds=30.0):
    return time.monotonic() + seconds


async def told(listener):
    """The next event; ticks without news are none."""
    while not (event := await anext(listener)):
        pass
    return event


async def test_without_listeners_nothing_is_asked():
    database = Database(row())
    async with running(database) as one:
        await asyncio.sleep(0.2)
        assert database.asked == []
        events = one.listen(MINE, until=later())
        assert values(await told(events))
        await events.aclose()
        await asyncio.sleep(0.1)
        asked = len(database.asked)
        await asyncio.sleep(0.2)
        assert len(database.asked) == asked


async def test_many_listeners_are_one_question_a_tick():
    database = Database(row())
    async with running(database) as one:
        listeners = [one.listen(MINE, until=later()) for _ in range(50)]
        for states in await asyncio.gather(*map(told, listeners)):
            assert read(states)[0] == "state"
        assert len(database.asked) <= 2
        database.rows = [row(value=9, at=1)]
        for change in await asyncio.gather(*map(told, listeners)):
            assert values(change) == {("fridge-1", "temperature_c"): 9}
        for listener in listeners:
            await listener.aclose()


async def test_a_second_site_is_read_at_once():
    database = Database(row(), row("oven-1", site="yours"))
    async with running(database) as one:
        first = one.listen(MINE, until=later())
        await told(first)
        second = one.listen(BOTH, until=later())
        assert len(values(await told(second))) == 2
        assert database.asked[-1] == ["mine", "yours"]
        await second.aclose()
        await first.aclose()


async def test_a_database_that_is_away_is_told_to_who_comes_and_waited_for_by_who_is_there(monkeypatch):
    monkeypatch.setattr(feed, "ALIVE_SECONDS", 0.1)
    database = Database(row())
    async with running(database) as one:
        there = one.listen(MINE, until=later())
        await told(there)
        database.error = psycopg.OperationalError("away")
        assert await told(there) == feed.ALIVE
        with pytest.raises(psycopg.OperationalError):
            await told(one.listen(BOTH, until=later()))
        database.error = None
        database.rows = [row(value=9, at=1)]
        while (event := await told(there)) == feed.ALIVE:
            pass
        assert values(event) == {("fridge-1", "temperature_c"): 9}
        await there.aclose()


async def test_it_ends_when_the_token_does():
    async with running(Database(row())) as one:
        async with asyncio.timeout(60):
            events = [event async for event in one.listen(MINE, until=later(1))]
        assert read(events[0])[0] == "state"
        assert not any(events[1:])
