import asyncio
import time

import pytest
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from prometheus_client import CollectorRegistry

from pipeline import lag as module
from pipeline import packs
from pipeline.lag import Kafka, Lag, Sample, count, estimate, missing, spread, watch
from pipeline.settings import LagSettings


def sampled(**messages):
    return {int(at[1:]): Sample(messages=n, written_at=0) for at, n in messages.items()}


@pytest.mark.parametrize(
    ("start", "end", "offsets"),
    [
        (5, 5, []),
        (5, 6, [5]),
        (5, 8, [5, 6, 7]),
        (0, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (100, 900, [100, 200, 300, 400, 500, 600, 700, 800]),
    ],
)
def test_samples_are_spread_over_the_backlog(start, end, offsets):
    assert spread(start, end) == offsets


def test_a_record_read_before_is_not_read_again():
    assert missing(100, 900, []) == spread(100, 900)
    assert missing(100, 900, [100, 210, 290, 380, 500, 600, 700, 800]) == []
    assert missing(110, 910, spread(100, 900)) == [110]  # the first one tells the age: always itself


@pytest.mark.parametrize(
    ("start", "end", "samples", "messages"),
    [
        (0, 0, {}, 0),
        (0, 1, sampled(o0=4000), 4000),
        (0, 4, sampled(o0=1, o1=1, o2=1, o3=1), 4),
        (0, 100, sampled(o12=10, o62=30), 2000),
        (0, 100, {}, 0),
    ],
)
def test_messages_are_records_times_the_mean_of_the_samples(start, end, samples, messages):
    assert estimate(start, end, samples) == messages


@pytest.mark.parametrize(
    ("headers", "messages"),
    [([("count", b"4000")], 4000), ([], 1), ([("count", b"many")], 1), ([("count", b"-1")], 1)],
)
def test_a_record_counts_as_its_header_says_or_as_one(headers, messages):
    assert count(headers) == messages


def settings_of(topics, **changes):
    return LagSettings(**topics.settings.model_dump(), consumer_group=topics.settings.topic_prefix + "group", **changes)


@pytest.fixture
async def producer(kafka):
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        yield producer


@pytest.fixture
async def exporter(kafka, topics):
    async with Kafka(
        {"bootstrap_servers": kafka}, group=settings_of(topics).consumer_group, topic=topics.raw
    ) as exporter:
        yield exporter


async def send(producer, topic, partition, *counts, age_seconds=0):
    for n in counts:
        await producer.send(
            topic,
            b"pack",
            partition=partition,
            headers=packs.headers(n),
            timestamp_ms=int((time.time() - age_seconds) * 1000),
        )
    await producer.flush()


async def commit(kafka, group, topic, partition, offset):
    """As a worker that has done its work and is gone."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([TopicPartition(topic, partition)])
    await consumer.commit({TopicPartition(topic, partition): offset})
    await consumer.stop()


async def test_lag_is_right_though_no_worker_ever_came(topics, producer, exporter):
    await send(producer, topics.raw, 1, 10, 20, 30, age_seconds=4200)
    empty, told, _ = await exporter.look()
    assert (empty.records, empty.messages, empty.seconds, empty.committed) == (0, 0, 0, None)
    assert (told.partition, told.records, told.messages, told.committed) == (1, 3, 60, None)
    assert told.seconds == pytest.approx(4200, abs=60)


async def test_lag_counts_from_what_a_worker_committed_before_it_died(kafka, topics, producer, exporter):
    await send(producer, topics.raw, 0, 1, 1, 1, 1, age_seconds=9000)
    await send(producer, topics.raw, 0, 7, age_seconds=500)
    await commit(kafka, settings_of(topics).consumer_group, topics.raw, 0, 4)
    told = (await exporter.look())[0]
    assert (told.committed, told.end, told.records, told.messages) == (4, 5, 1, 7)
    assert told.seconds == pytest.approx(500, abs=60)


async def test_nothing_unread_is_no_lag(kafka, topics, producer, exporter):
    await send(producer, topics.raw, 0, 1, 1, age_seconds=100)
    await commit(kafka, settings_of(topics).consumer_group, topics.raw, 0, 2)
    told = (await exporter.look())[0]
    assert (told.records, told.messages, told.seconds) == (0, 0, 0)


async def test_one_record_of_4000_weighs_as_much_as_4000_records_of_one(topics, producer, exporter):
    await send(producer, topics.raw, 0, 4000)
    await send(producer, topics.raw, 1, *[1] * 4000)
    big, small, _ = await exporter.look()
    assert (big.records, big.messages) == (1, 4000)
    assert (small.records, small.messages) == (4000, 4000)


async def test_a_hole_that_retention_made_is_not_lag(kafka, topics, producer, exporter):
    await send(producer, topics.raw, 0, *[2] * 10)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.delete_records({TopicPartition(topics.raw, 0): RecordsToDelete(before_offset=6)})
    await admin.close()
    told = (await exporter.look())[0]
    assert (told.records, told.messages, told.end) == (4, 8, 10)


async def test_a_second_look_reads_only_what_is_new(topics, producer, exporter):
    await send(producer, topics.raw, 0, *[1] * 5)
    await exporter.look()
    samples = exporter._samples[TopicPartition(topics.raw, 0)]
    assert sorted(samples) == [0, 1, 2, 3, 4]
    await send(producer, topics.raw, 0, 9)
    assert (await exporter.look())[0].messages == 14


def series(lag):
    registry = CollectorRegistry()
    registry.register(lag)
    return {
        (sample.name, sample.labels.get("partition")): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


async def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.02)


async def test_series_begin_with_kafka_and_end_when_it_is_away(topics, producer, monkeypatch):
    await send(producer, topics.raw, 2, 5)
    settings = settings_of(topics, lag_every_seconds=0.1)
    lag = Lag(group=settings.consumer_group, topic=topics.raw, recent_seconds=30)
    assert series(lag) == {}
    assert lag.known() == "Kafka has not answered yet"
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(watch(settings, lag))
        await until(lambda: series(lag))
        assert series(lag)["kafka_consumergroup_lag", "2"] == 1
        assert series(lag)["kafka_consumergroup_lag_messages", "2"] == 5
        assert ("kafka_consumergroup_current_offset", "2") not in series(lag)
        assert lag.known() is True

        async def gone(self):
            raise ConnectionError("gone")

        with monkeypatch.context() as away:
            away.setattr(Kafka, "look", gone)
            await until(lambda: not series(lag))
            assert "Kafka has not answered for" in lag.known()
            await until(lambda: module.FAILURES._value.get() >= 3)
        await until(lambda: series(lag))
        task.cancel()
        await asyncio.wait([task])
    assert [event["event"] for event in logged] == ["kafka_away", "kafka_back"]


async def test_a_kafka_that_nobody_hears_is_tried_again_and_said_once():
    settings = LagSettings(kafka_bootstrap_servers="127.0.0.1:1", lag_every_seconds=0.1)
    lag = Lag(group="group", topic="readings.raw", recent_seconds=30)
    failures = module.FAILURES._value.get()
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(watch(settings, lag))
        await until(lambda: module.FAILURES._value.get() >= failures + 4)
        task.cancel()
        await asyncio.wait([task])
    assert [event["event"] for event in logged] == ["kafka_away"]
    assert series(lag) == {}
    assert lag.looking() is True


async def test_a_missing_topic_is_told_with_the_command_that_makes_it(kafka, unique):
    settings = LagSettings(kafka_bootstrap_servers=kafka, topic_prefix=f"test-{unique}-", lag_every_seconds=0.1)
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(watch(settings, Lag(group="group", topic="", recent_seconds=30)))
        await until(lambda: logged)
        task.cancel()
        await asyncio.wait([task])
    assert "does not exist: `brigade topics create` creates it" in logged[0]["error"]


def test_series_of_a_look_that_hangs_end_too():
    lag = Lag(group="group", topic="topic", recent_seconds=0.0)
    lag.tell([module.PartitionLag(partition=0, committed=0, end=0, records=0, messages=0, seconds=0)])
    assert series(lag) == {}
