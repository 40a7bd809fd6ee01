"""Records to one Kafka topic, and word of each when Kafka has it.

librdkafka does the work: idempotent, all replicas, trying for as long as it takes. Its callbacks come on a thread of
ours, which hands them to the event loop in lots.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.kafka import for_librdkafka
from pipeline.settings import KafkaSettings
from pipeline.topics import KafkaAwayError, TopicsError

RECORD_OVERHEAD_BYTES: Final = 600
"""What librdkafka and we keep of a record besides its value, roughly."""

_SECONDS: Final = 3.0
"""For an answer; a stop may have to wait for it, and has 5."""
STRANDED_SECONDS: Final = 10.0
"""Kafka answers others and has not answered us for so long: this client will never find it again."""
_POLL_SECONDS: Final = 0.1
_GATHER_SECONDS: Final = 0.003
"""Word of the records of a flush comes in a lot: waking the loop for each cost 3 µs of a message at 10,000 a second."""

T = TypeVar("T")


class RecordError(RuntimeError):
    """Kafka will never take this record, or nothing from this producer any more."""


class Records(Generic[T]):
    """`arrived(tokens)` is called on the loop when Kafka has the records sent with these tokens, in any order.

    `failed(error)` is called on the loop when a record or the producer failed for good: a `RecordError`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        *,
        client_id: str,
        queue_bytes: int,
        arrived: Callable[[list[T]], None],
        failed: Callable[[RecordError], None],
    ) -> None:
        self.topic = topic
        self.last_error = ""
        self._arrived = arrived
        self._failed = failed
        self._connection: dict[str, Any] = {
            **for_librdkafka(settings),
            "client.id": client_id,
            "error_cb": self._hear,
            "log_level": 0,  # it repeats itself twenty times a second while Kafka is away; last_error says it once
            "reconnect.backoff.max.ms": 2_000,
            "socket.keepalive.enable": True,
        }
        self._config = self._connection | {
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": 0,  # none: an outage is waited out
            "linger.ms": 0,  # the records are packs already
            "compression.type": "lz4",
            "queue.buffering.max.kbytes": queue_bytes // 1024,
            "queue.buffering.max.messages": queue_bytes // RECORD_OVERHEAD_BYTES,
        }
        self._lot: list[T] = []
        self._closing = False
        self._heard = time.monotonic()
        self._deaf = 0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._kafka = Producer(self._config)
        self._thread = threading.Thread(target=self._serve, name="kafka", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget what Kafka does not have: its messages are not acknowledged and will come again."""
        self._closing = True
        self._kafka.purge()
        self._thread.join()

    def send(self, partition: int, value: bytes, headers: list[tuple[str, bytes]], token: T) -> None:
        try:
            self._kafka.produce(
                self.topic,
                value,
                partition=partition,
                headers=[*headers],
                on_delivery=partial(self._on_delivery, token),
            )
        except KafkaException as error:
            raise _refused(error.args[0]) from error

    async def partitions(self) -> int:
        """How many the topic has; `KafkaAwayError` if nobody says in time."""
        return await asyncio.to_thread(self._partitions)

    async def holds_records(self, partitions: int) -> bool:
        """Whether one of its partitions ever held a record."""
        return await asyncio.to_thread(self._holds_records, partitions)

    def _partitions(self) -> int:
        try:
            topic = self._kafka.list_topics(self.topic, timeout=_SECONDS).topics[self.topic]
        except KafkaException as error:
            self._look_around(error)
            raise KafkaAwayError(self.last_error or error.args[0].str()) from error
        self._heard = time.monotonic()
        if topic.error is None:
            return len(topic.partitions)
        if topic.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise TopicsError(f"topic {self.topic} does not exist: `brigade topics create` creates it")
        raise KafkaAwayError(topic.error.str())

    def _look_around(self, error: KafkaException) -> None:
        """Raise when others hear Kafka and we do not, the second time: at the first it may be just back."""
        if time.monotonic() - self._heard < STRANDED_SECONDS or not self._others_hear():
            self._deaf = 0
            return
        self._deaf += 1
        if self._deaf > 1:
            raise RecordError("Kafka answers others, and this client has lost it for good") from error

    def _others_hear(self) -> bool:
        try:
            return bool(AdminClient(self._connection | {"error_cb": _ignore}).list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def _holds_records(self, partitions: int) -> bool:
        consumer = Consumer(self._connection | {"group.id": self._connection["client.id"]})  # which it never joins
        try:
            places = [TopicPartition(self.topic, i) for i in range(partitions)]
            return any(consumer.get_watermark_offsets(place, timeout=_SECONDS)[1] > 0 for place in places)
        except KafkaException as error:
            raise KafkaAwayError(error.args[0].str()) from error
        finally:
            consumer.close()

    # on the thread

    def _serve(self) -> None:
        while not self._closing:
            self._kafka.poll(_POLL_SECONDS)
            if self._lot:
                time.sleep(_GATHER_SECONDS)
                self._kafka.poll(0)
                lot, self._lot = self._lot, []
                self._call(self._arrived, lot)

    def _on_delivery(self, token: T, error: KafkaError | None, _message: Any) -> None:
        if error is None:
            self._heard = time.monotonic()
            self._lot.append(token)
        else:
            self._call(self._failed, _refused(error))

    def _hear(self, error: KafkaError) -> None:
        self.last_error = error.str()
        if error.fatal():
            self._call(self._failed, _refused(error))

    def _call(self, function: Callable[[Any], None], argument: Any) -> None:
        if not self._closing:
            self._loop.call_soon_threadsafe(function, argument)


def _ignore(_error: KafkaError) -> None:
    """The answer says enough."""


def _refused(error: KafkaError) -> RecordError:
    return RecordError(f"Kafka refuses records for good: {error.name()}: {error.str()}")
