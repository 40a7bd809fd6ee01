"""What transactions left for Kafka gets there, at least once, and replays with it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline import outbox, packs
from pipeline.outbox import Outbox
from pipeline.packs import Message
from pipeline.patience import Connection
from pipeline.positions import Positions
from pipeline.settings import WorkerSettings
from pipeline.topics import Topics

RECEIVED = datetime(2026, 11, 20, 12, 0, 0, 123457, tzinfo=UTC)
RECEIVED_US = 1_795_176_000_123_457

PUT = "INSERT INTO outbox (partition, topic, key, value) VALUES (%s, %s, %s, %s)"

LETTER = """
INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, payload_sha256, element,
                          kafka_partition, kafka_offset, position, replay_requested_at)
VALUES (%(received_at)s, %(reason)s, '', %(mqtt_topic)s, %(payload)s, 1, %(sha256)s, %(element)s, %(partition)s, 1, 0,
        CASE WHEN %(requested)s THEN now() END)
RETURNING id"""


@pytest.fixture
def database_(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@contextlib.asynccontextmanager
async def opened(
    database: str, bootstrap: str, topic: str, partitions: tuple[int, ...] = (0, 1, 2)
) -> AsyncIterator[Outbox]:
    positions = Positions()
    positions.assign(partitions)
    async with (
        Connection(WorkerSettings(database_url=database), "test") as connection,
        Outbox(connection, positions, kafka={"bootstrap_servers": bootstrap}, topic=topic) as it,
    ):
        yield it


async def consumed(topics: Topics, topic: str) -> list[object]:
    """All records of a topic as it is now."""
    async with AIOKafkaConsumer(bootstrap_servers=topics.settings.kafka_bootstrap_servers, group_id=None) as consumer:
        places = [TopicPartition(topic, p) for p in range(topics.settings.partitions)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, 0)
        records = []
        while len(records) < sum(ends.values()):
            for batch in (await consumer.getmany(timeout_ms=1000)).values():
                records += batch
        return records


async def test_rows_are_published_in_order_and_then_deleted(database, database_, topics):
    for i in range(1200):
        database_.execute(PUT, (i % 3, topics.aggregates_1m, "fridge-1", b"%d" % i))
    database_.execute(PUT, (1, topics.dead, "fridge-2", b"dead"))
    async with opened(database, topics.settings.kafka_bootstrap_servers, topics.raw) as it:
        published = [await it.publish() for _ in range(4)]
    assert published == [500, 500, 201, 0]
    assert database_.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    assert [int(record.value) for record in await consumed(topics, topics.aggregates_1m)] == list(range(1200))
    [dead] = await consumed(topics, topics.dead)
    assert (dead.key, dead.value) == (b"fridge-2", b"dead")


async def test_rows_of_others_partitions_are_left_to_them(database, database_, topics):
    for partition in range(3):
        database_.execute(PUT, (partition, topics.alarms, "k", b"v"))
    async with opened(database, topics.settings.kafka_bootstrap_servers, topics.raw, (1,)) as it:
        assert await it.publish() == 1
    assert database_.execute("SELECT partition FROM outbox ORDER BY 1").fetchall() == [(0,), (2,)]


async def test_while_kafka_is_away_rows_stay_and_nobody_is_busy(database, database_, topics, monkeypatch, capsys):
    monkeypatch.setattr(outbox, "FIRST_WAIT_SECONDS", 0.05)
    database_.execute(PUT, (0, topics.alarms, "k", b"v"))
    before = outbox.RETRIES._value.get()
    async with opened(database, "127.0.0.1:1", topics.raw) as it:
        running = asyncio.create_task(it.run())
        began = time.process_time()
        await asyncio.sleep(1.5)
        busy = time.process_time() - began
        tried = outbox.RETRIES._value.get() - before
        assert database_.execute("SELECT count(*) FROM outbox").fetchone() == (1,)
        assert 2 <= tried <= 15
        assert busy < 0.75
        it._kafka = {"bootstrap_servers": topics.settings.kafka_bootstrap_servers}
        told = capsys.readouterr().out
        async with asyncio.timeout(60):
            while "outbox_goes_on" not in told:
                await asyncio.sleep(0.05)
                told += capsys.readouterr().out
        assert database_.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(await consumed(topics, topics.alarms)) == 1
    told += capsys.readouterr().out
    assert (told.count("outbox_waits"), told.count("outbox_goes_on")) == (1, 1)


async def test_a_row_too_large_for_kafka_holds_up_no_other(database, database_, topics, capsys):
    database_.execute(PUT, (0, topics.alarms, "k", bytes(3 << 20)))
    database_.execute(PUT, (0, topics.alarms, "k", b"small"))
    async with opened(database, topics.settings.kafka_bootstrap_servers, topics.raw) as it:
        await it.publish()
    assert database_.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    assert [record.value for record in await consumed(topics, topics.alarms)] == [b"small"]
    assert "outbox_gave_up" in capsys.readouterr().out


def letter(database_: psycopg.Connection, **values: object) -> int:
    given = {
        "received_at": RECEIVED, "reason": "ts_invalid", "mqtt_topic": "brigade/v1/seoul-1/fridge-1/readings",
        "payload": b'{"t":1}', "sha256": None, "element": None, "partition": 0, "requested": True, **values,
    }  # fmt: skip
    return database_.execute(LETTER, given).fetchone()[0]


async def test_a_replay_is_the_message_as_it_was_received(database, database_, topics):
    whole = letter(database_)
    element = letter(database_, element=3, mqtt_topic="brigade/v1/seoul-1/oven-7/readings")
    letter(database_, requested=False)
    letter(database_, partition=7)
    async with opened(database, topics.settings.kafka_bootstrap_servers, topics.raw) as it:
        assert await it.publish() == 2
        assert await it.publish() == 0
    records = await consumed(topics, topics.raw)
    got = {}
    for record in records:
        [message] = packs.decode(record.value)
        assert record.partition == packs.partition_of(packs.partition_key(message.topic), 3)
        assert dict(record.headers) == {"count": b"1", "format": b"1"}
        got[message.extra["dead_letter"]] = message
    assert got == {
        whole: Message("brigade/v1/seoul-1/fridge-1/readings", RECEIVED_US, b'{"t":1}', {"dead_letter": whole}),
        element: Message("brigade/v1/seoul-1/oven-7/readings", RECEIVED_US, b'[{"t":1}]', {"dead_letter": element}),
    }
    published = "SELECT id FROM dead_letters WHERE replay_published_at IS NOT NULL AND replayed_at IS NULL ORDER BY id"
    assert database_.execute(published).fetchall() == [(whole,), (element,)]


async def test_what_cannot_be_replayed_says_so(database, database_, topics):
    cut = letter(database_, sha256="00", reason="oversized")
    unreadable = letter(database_, mqtt_topic="", reason="undecodable_record")
    async with opened(database, topics.settings.kafka_bootstrap_servers, topics.raw) as it:
        await it.publish()
        assert await it.publish() == 0
    assert await consumed(topics, topics.raw) == []
    outcomes = dict(database_.execute("SELECT id, outcome FROM dead_letters WHERE replayed_at >= replay_requested_at"))
    assert "only the beginning" in outcomes[cut]
    assert "unreadable" in outcomes[unreadable]
