"""What transactions left for Kafka, published after them; and dead letters sent through the pipeline again.

A row leaves the table after Kafka acknowledged it, so everything is published at least once: readers tell copies by
a dead letter's `id` and a minute's `revision`.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordTooLargeError
from prometheus_client import Counter, Gauge, Histogram

from pipeline import packs
from pipeline.packs import Message
from pipeline.patience import Connection
from pipeline.positions import Positions
from pipeline.topics import MAX_MESSAGE_BYTES

ROWS: Final = 500
REPLAYS: Final = 100
IDLE_SECONDS: Final = 0.5
FIRST_WAIT_SECONDS: Final = 0.25
LONGEST_WAIT_SECONDS: Final = 5.0
TOO_LARGE: Final = (MessageSizeTooLargeError, RecordTooLargeError)

PUBLISHED = Counter("pipeline_outbox_published_total", "Rows that Kafka acknowledged.", ["what"])
UNPUBLISHABLE = Counter("pipeline_outbox_refused_total", "Rows that are too large for their topic, given up.")
RETRIES = Counter("pipeline_outbox_retries_total", "Publishing put off because Kafka was away.")
LAST = Gauge("pipeline_outbox_last_timestamp_seconds", "When Kafka last acknowledged a row.")
SECONDS = Histogram(
    "pipeline_outbox_batch_seconds",
    "From rows read to published and deleted.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
SIZE = Histogram("pipeline_outbox_batch_rows", "Rows published together.", buckets=(1, 10, 100, 1_000))
log = structlog.get_logger()

WAITING: Final = """
SELECT id, topic, key, value FROM outbox WHERE partition = ANY(%(partitions)s) ORDER BY id LIMIT %(rows)s"""

DONE: Final = "DELETE FROM outbox WHERE id = ANY(%(ids)s)"

REPLAYS_WAITING: Final = """
SELECT id, mqtt_topic, received_at, payload, element,
       resolved OR payload_sha256 IS NOT NULL OR reason = 'undecodable_record' AS impossible
FROM dead_letters
WHERE replay_requested_at IS NOT NULL AND replay_published_at IS NULL AND kafka_partition = ANY(%(partitions)s)
ORDER BY id LIMIT %(rows)s"""

REPLAYS_DONE: Final = "UPDATE dead_letters SET replay_published_at = now() WHERE id = ANY(%(ids)s)"

# What was cut is gone, what was no pack has no topic; and what was resolved meanwhile needs no replay.
REPLAYS_REFUSED: Final = """
UPDATE dead_letters SET replay_published_at = now(), replayed_at = now(), outcome = CASE
    WHEN resolved THEN outcome
    WHEN payload_sha256 IS NOT NULL THEN 'cannot be replayed: only the beginning of its payload was kept'
    ELSE 'cannot be replayed: the Kafka record was unreadable, so its messages are unknown'
END
WHERE id = ANY(%(ids)s)"""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """What `AIOKafkaProducer.send` takes."""

    topic: str
    key: bytes | None
    value: bytes
    partition: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    id: int
    mqtt_topic: str
    received_at: datetime
    payload: bytes
    element: int | None

    def replay(self, topic: str, partitions: int) -> Record:
        """As a pack of one message: same MQTT topic, same receive time, same bytes.

        An element of an array stays one: what is refused in arrays only is refused again.
        """
        message = Message(
            self.mqtt_topic,
            (self.received_at - EPOCH) // timedelta(microseconds=1),
            self.payload if self.element is None else b"[" + self.payload + b"]",
            {"dead_letter": self.id},
        )
        partition = packs.partition_of(packs.partition_key(self.mqtt_topic), partitions)
        return Record(topic, None, packs.encode([message]), partition, packs.headers(1))


class Outbox:
    """Publishes for the partitions in `positions`; opened with `async with`. Its producer is made when needed."""

    def __init__(
        self,
        connection: Connection,
        positions: Positions,
        *,
        kafka: Mapping[str, Any],
        topic: str,
    ) -> None:
        self._connection = connection
        self._positions = positions
        self._kafka = kafka
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._drop_producer()

    async def run(self) -> None:
        """Publish for ever what comes. While Kafka is away: keep the rows, try again at most 5 s apart."""
        wait_seconds = FIRST_WAIT_SECONDS
        while True:
            try:
                published = await self.publish()
            except (KafkaError, ConnectionError, TimeoutError) as error:
                RETRIES.inc()
                if wait_seconds == FIRST_WAIT_SECONDS:
                    log.warning("outbox_waits", why=repr(error))
                await self._drop_producer()
                await asyncio.sleep(wait_seconds * random.uniform(0.5, 1))
                wait_seconds = min(wait_seconds * 2, LONGEST_WAIT_SECONDS)
                continue
            if wait_seconds != FIRST_WAIT_SECONDS:
                log.info("outbox_goes_on")
                wait_seconds = FIRST_WAIT_SECONDS
            await asyncio.sleep(0 if published else IDLE_SECONDS)

    async def publish(self) -> int:
        """Publish some rows and replays, and return how many. Raises what Kafka raises; nothing is lost by that."""
        partitions = list(self._positions)
        if not partitions:
            return 0
        return await self._publish_rows(partitions) + await self._publish_replays(partitions)

    async def _publish_rows(self, partitions: list[int]) -> int:
        rows = await self._fetch(WAITING, {"partitions": partitions, "rows": ROWS})
        records = {row_id: Record(topic, key.encode(), value) for row_id, topic, key, value in rows}
        await self._send(records, DONE, "row")
        return len(records)

    async def _publish_replays(self, partitions: list[int]) -> int:
        rows = await self._fetch(REPLAYS_WAITING, {"partitions": partitions, "rows": REPLAYS})
        if refused := [row[0] for row in rows if row[-1]]:
            await self._execute(REPLAYS_REFUSED, {"ids": refused})
        if letters := [Letter(*row[:-1]) for row in rows if not row[-1]]:
            n = len(await (await self._started()).partitions_for(self._topic))
            records = {letter.id: letter.replay(self._topic, n) for letter in letters}
            await self._send(records, REPLAYS_DONE, "replay")
        return len(rows)

    async def _send(self, records: Mapping[int, Record], done: str, what: str) -> None:
        """Return when Kafka has them all and the table says so; else raise, after saying so of those it has."""
        if not records:
            return
        began = time.perf_counter()
        producer = await self._started()
        sent = [await _begin(producer, record) for record in records.values()]
        results = dict(zip(records, await asyncio.gather(*sent, return_exceptions=True), strict=True))
        failed = {row_id: result for row_id, result in results.items() if isinstance(result, BaseException)}
        too_large = [row_id for row_id, error in failed.items() if isinstance(error, TOO_LARGE)]
        for row_id in too_large:  # it would hold up all others for ever; the dead letter itself is in its table
            log.error("outbox_gave_up", what=what, id=row_id, topic=records[row_id].topic, why="too large for Kafka")
            del failed[row_id]
        if finished := list(records.keys() - failed.keys()):
            await self._execute(done, {"ids": finished})
            PUBLISHED.labels(what).inc(len(finished) - len(too_large))
            UNPUBLISHABLE.inc(len(too_large))
            LAST.set_to_current_time()
            SIZE.observe(len(finished))
            SECONDS.observe(time.perf_counter() - began)
        for error in failed.values():
            raise error

    async def _fetch(self, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        async for attempt in self._connection.attempts():
            async with attempt as database:
                return await (await database.execute(query, parameters)).fetchall()
        raise AssertionError("attempts end by success or by an error")

    async def _execute(self, statement: str, parameters: Mapping[str, Any]) -> None:
        async for attempt in self._connection.attempts():
            async with attempt as database:
                await database.execute(statement, parameters)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = self._new_producer()
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    def _new_producer(self) -> AIOKafkaProducer:
        """Not idempotent: aiokafka's idempotent producer never recovers from a long outage (its issue 1017)."""
        producer = AIOKafkaProducer(
            **self._kafka,
            client_id="brigade-outbox",
            acks="all",
            compression_type="lz4",
            linger_ms=5,
            max_request_size=MAX_MESSAGE_BYTES,
            request_timeout_ms=10_000,
        )
        _pace(producer.client)
        return producer

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError, ConnectionError, TimeoutError):
                await asyncio.wait_for(producer.stop(), 5)


async def _begin(producer: AIOKafkaProducer, record: Record) -> Awaitable[Any]:
    """What `gather` can await, also when the producer refuses the record at once."""
    try:
        sent: Awaitable[Any] = await producer.send(
            record.topic, record.value, record.key, partition=record.partition, headers=list(record.headers)
        )
    except TOO_LARGE as error:
        sent = asyncio.get_running_loop().create_future()
        sent.set_exception(error)
    return sent


def _pace(client: Any) -> None:
    """Without this aiokafka 0.14 asks for metadata thousands of times a second while no broker answers."""
    update = client._metadata_update  # noqa: SLF001, there is no setting for it

    async def paced(*arguments: Any) -> bool:
        began = asyncio.get_running_loop().time()
        updated: bool = await update(*arguments)
        if not updated:
            await asyncio.sleep(max(0, began + 0.25 - asyncio.get_running_loop().time()))
        return updated

    client._metadata_update = paced  # noqa: SLF001
