"""`brigade offsets`: told from the table and from a real Kafka, and put right."""

import asyncio
import json
from collections.abc import Iterator

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from pipeline import topics as kafka_topics
from tests.pipeline.deleted_topics import make_again


@pytest.fixture
def table(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def group(unique: str) -> str:
    return f"group-{unique}"


@pytest.fixture
def offsets(brigade, topics, database, group):
    settings = {
        "BRIGADE_DATABASE_URL": database,
        "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": topics.settings.kafka_bootstrap_servers,
        "BRIGADE_TOPIC_PREFIX": topics.settings.topic_prefix,
        "BRIGADE_CONSUMER_GROUP": group,
    }
    return lambda *arguments: brigade("offsets", *arguments, **settings)


async def produce(topics, count):
    """So many records into each partition."""
    async with AIOKafkaProducer(bootstrap_servers=topics.settings.kafka_bootstrap_servers) as producer:
        for partition in range(topics.settings.partitions):
            for _ in range(count):
                await producer.send_and_wait(topics.raw, b"x", partition=partition)


async def commit(topics, group, offset):
    async with AIOKafkaConsumer(
        bootstrap_servers=topics.settings.kafka_bootstrap_servers, group_id=group, enable_auto_commit=False
    ) as consumer:
        places = [TopicPartition(topics.raw, p) for p in range(topics.settings.partitions)]
        consumer.assign(places)
        await consumer.commit(dict.fromkeys(places, offset))


def stand(table, topics, group, *next_offsets, topic_id=None):
    topic_id = topic_id or kafka_topics.topic_id(topics.settings, topics.raw)
    for partition, next_offset in enumerate(next_offsets):
        table.execute(
            "INSERT INTO ingest_offsets VALUES (%s, %s, %s, %s, %s)",
            (group, topics.raw, partition, topic_id, next_offset),
        )


def stored(table):
    return [row[0] for row in table.execute("SELECT next_offset FROM ingest_offsets ORDER BY partition")]


def shown(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_show_tells_where_each_partition_stands(offsets, table, topics, group):
    await produce(topics, 5)
    await commit(topics, group, 4)
    stand(table, topics, group, 5, 3)
    done = await asyncio.to_thread(offsets, "show")
    assert done.returncode == 0, done.stderr
    told = [at["told"] for at in shown(await asyncio.to_thread(offsets, "show", "--json"))]
    assert told == ["up to date", "Kafka is ahead of the table: the worker goes back by itself", "nothing stored yet"]


async def test_show_finds_a_table_that_is_ahead(offsets, table, topics, group):
    stand(table, topics, group, 0, 7, 0)
    done = await asyncio.to_thread(offsets, "show", "--json")
    assert done.returncode == 1
    assert "ahead of the end" in shown(done)[1]["told"]


async def test_a_topic_created_again_is_shown_and_reset_goes_on_with_it(offsets, table, topics, group):
    await produce(topics, 4)
    stand(table, topics, group, 2, 3, 4)
    make_again(topics.settings, topics.raw)
    await produce(topics, 5)
    done = await asyncio.to_thread(offsets, "show", "--json")
    assert done.returncode == 1
    assert {at["recreated"] for at in shown(done)} == {True}
    done = await asyncio.to_thread(offsets, "reset", "--to", "earliest", "--yes")
    assert done.returncode == 0, done.stderr
    assert "2 → 0; all of the topic is read" in done.stdout
    assert stored(table) == [0, 0, 0]
    done = await asyncio.to_thread(offsets, "show", "--json")
    assert (done.returncode, {(at["recreated"], at["committed"]) for at in shown(done)}) == (0, {(False, 0)})


async def test_reset_moves_one_partition_and_says_what_that_means(offsets, table, topics, group):
    await produce(topics, 5)
    stand(table, topics, group, 4, 4, 1)
    done = await asyncio.to_thread(offsets, "reset", "--to", "2", "--partition", "1", "--yes")
    assert "2 records are read again" in done.stdout
    done = await asyncio.to_thread(offsets, "reset", "--to", "latest", "--partition", "2", "--yes")
    assert "4 records are never stored" in done.stdout
    assert stored(table) == [4, 2, 5]
    assert (await asyncio.to_thread(offsets, "reset", "--to", "9", "--partition", "1", "--yes")).returncode == 2
    assert (await asyncio.to_thread(offsets, "reset", "--to", "2", "--yes")).returncode == 2
    assert (await asyncio.to_thread(offsets, "reset", "--to", "earliest", "--partition", "9", "--yes")).returncode == 2


async def test_reset_refuses_while_a_worker_is_active(offsets, table, topics, group):
    stand(table, topics, group, 0, 0, 0)
    async with AIOKafkaConsumer(
        topics.raw, bootstrap_servers=topics.settings.kafka_bootstrap_servers, group_id=group
    ) as consumer:
        async with asyncio.timeout(60):
            while not consumer.assignment():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        done = await asyncio.to_thread(offsets, "reset", "--to", "earliest", "--yes")
    assert done.returncode == 1
    assert "has 1 active workers: stop them first" in done.stderr


def test_kafka_away_is_one_line(brigade, database, monkeypatch):
    monkeypatch.setattr(kafka_topics, "_SECONDS", 0.5)
    settings = {"BRIGADE_DATABASE_URL": database, "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    done = brigade("offsets", "show", **settings)
    assert done.returncode == 1
    assert done.stderr.startswith("brigade: Kafka does not answer")
