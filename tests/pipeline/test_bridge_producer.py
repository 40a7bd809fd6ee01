"""A producer that has lost Kafka for good, and one whose Kafka is away."""

import time

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.bridge.producer import STRANDED_SECONDS, RecordError, Records
from pipeline.settings import KafkaSettings
from pipeline.topics import KafkaAwayError

NOWHERE = "127.0.0.1:1"


class Deaf:
    """librdkafka after a metadata answer without brokers."""

    def list_topics(self, *_: object, **__: object) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def deaf_producer(bootstrap: str, *, for_seconds: float) -> Records[int]:
    records: Records[int] = Records(
        KafkaSettings(kafka_bootstrap_servers=bootstrap),
        "some-topic",
        client_id="deaf",
        queue_bytes=1 << 20,
        arrived=lambda _: None,
        failed=lambda _: None,
    )
    records._kafka = Deaf()
    records._heard = time.monotonic() - for_seconds
    return records


async def test_a_producer_that_alone_does_not_hear_kafka_ends_the_bridge(kafka):
    records = deaf_producer(kafka, for_seconds=STRANDED_SECONDS + 1)
    with pytest.raises(KafkaAwayError):  # it may be back since this moment
        await records.partitions()
    with pytest.raises(RecordError, match="answers others"):
        await records.partitions()


async def test_a_moment_of_silence_is_an_outage(kafka):
    with pytest.raises(KafkaAwayError):
        await deaf_producer(kafka, for_seconds=STRANDED_SECONDS / 2).partitions()


async def test_a_kafka_that_answers_nobody_is_waited_for(kafka):
    records = deaf_producer(NOWHERE, for_seconds=STRANDED_SECONDS + 1)
    for _ in range(3):
        with pytest.raises(KafkaAwayError):
            await records.partitions()
