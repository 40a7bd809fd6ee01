"""Messages into packs, packs into Kafka, and PUBACKs when they are there: the path of every message."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import structlog
from prometheus_client import Counter, Gauge, Histogram

from pipeline import packs
from pipeline.bridge.tracing import Traced
from pipeline.bridge.windows import Flush, Window
from pipeline.mqtt import RETAINED, Client, Cut, Publish
from pipeline.settings import BridgeSettings

STALLED_SECONDS: Final = 5.0
"""Records that wait longer mean that Kafka takes none, whatever else it answers."""
REMEMBERED_TOPICS: Final = 32_768
"""With their partitions; longer ones than the next number are not: about 12 MB at the worst."""
REMEMBERED_TOPIC_LENGTH: Final = 200
ORDINALS: Final = 8
MESSAGE_OVERHEAD_BYTES: Final = 300
"""What Python keeps of an open message besides topic and payload, roughly."""
BUSY: Final = 600
"""With more in a flush the next one waits twice as long: a record costs the worker 300 µs, whatever is in it."""
ENTRY_OVERHEAD_BYTES: Final = 20
"""What msgpack adds to them in a pack."""

RECEIVED = Counter("pipeline_bridge_messages_received_total", "MQTT messages that came, each time they came.")
RECEIVED_BYTES = Counter("pipeline_bridge_bytes_received_total", "Bytes of their topics and payloads.")
ACKNOWLEDGED = Counter(
    "pipeline_bridge_messages_acknowledged_total", "MQTT messages that Kafka has; their PUBACKs follow in order."
)
RECORDS = Counter("pipeline_bridge_records_written_total", "Packs that Kafka has.")
RECORD_BYTES = Counter("pipeline_bridge_record_bytes_written_total", "Bytes of these packs, before compression.")
OVERSIZED = Counter("pipeline_bridge_messages_oversized_total", "Messages whose payload was cut.")
IN_FLIGHT = Gauge("pipeline_bridge_messages_in_flight", "Messages received and not yet in Kafka.")
HELD = Gauge("pipeline_bridge_held_bytes", "Memory that messages not yet in Kafka hold.")
PAUSED = Gauge("pipeline_bridge_reading_paused", "1 while too much is held to read on.")
LAST_RECEIVED = Gauge("pipeline_bridge_last_received_timestamp_seconds", "When a message last came.")
LAST_ACKNOWLEDGED = Gauge("pipeline_bridge_last_acknowledged_timestamp_seconds", "When Kafka last took one.")
COPIES = Counter(
    "pipeline_bridge_messages_copies_total", "Statuses left out: they came by the shared subscription too."
)
FLUSH_SECONDS = Histogram(
    "pipeline_bridge_flush_seconds",
    "From a flush to Kafka's word that it has all of it.",
    buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
FLUSH_MESSAGES = Histogram(
    "pipeline_bridge_flush_messages", "Messages of a flush.", buckets=(1, 10, 100, 1_000, 10_000)
)

log = structlog.get_logger()

Send: TypeAlias = Callable[[int, bytes, list[tuple[str, bytes]], Flush], None]
"""Partition, value, headers, and what `arrived` gets when Kafka has the record."""


class Partitions:
    """Topic to partition, remembered for as many topics as memory may hold."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.known: dict[str, int] = {}

    def find(self, topic: str) -> int:
        partition = packs.partition_of(packs.partition_key(topic), self.count)
        if len(topic) <= REMEMBERED_TOPIC_LENGTH:
            if len(self.known) >= REMEMBERED_TOPICS:
                self.known.clear()
            self.known[topic] = partition
        return partition


def receive_time(last_us: int, now_us: int, ordinal: int) -> int:
    """The first microsecond from now on that is later than the last and ours: ≡ ordinal, modulo ORDINALS."""
    earliest = max(now_us, last_us + 1)
    return earliest + (ordinal - earliest) % ORDINALS


def split(entries: list[packs.Entry]) -> Iterator[list[packs.Entry]]:
    """The entries in order, in lists that each fit a record."""
    begin = size = 0
    for i, entry in enumerate(entries):
        more = len(entry[0].encode()) + len(entry[2]) + ENTRY_OVERHEAD_BYTES
        if i > begin and (size + more > packs.MAX_BYTES or i - begin == packs.MAX_MESSAGES):
            yield entries[begin:i]
            begin, size = i, 0
        size += more
    if begin < len(entries):
        yield entries[begin:]


def entry_of(message: Publish | Cut, received_us: int) -> packs.Entry:
    if isinstance(message, Cut):
        OVERSIZED.inc()
        extra = {"size": message.size, "sha256": message.sha256}
        return message.topic, received_us, message.payload, extra
    return message.topic, received_us, message.payload


def _is_copy(message: Publish | Cut | Traced) -> bool:
    """A status published just now comes by the shared subscription, and once more to who asked for retained ones."""
    return isinstance(message, Publish) and RETAINED in message.subscription_ids and not message.retain


class Forwarder:
    """What is between the broker and Kafka: at most `bridge_held_bytes`, and what one read of the socket brings."""

    def __init__(self, settings: BridgeSettings, send: Send) -> None:
        self._settings = settings
        self._send = send
        self._partitions = Partitions(settings.partitions)
        self._open: list[list[packs.Entry]] = [[] for _ in range(settings.partitions)]
        self._ids: list[int | None] = []
        self._spans: list[Any] = []
        self._open_held = 0
        self._open_size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._linger_seconds = settings.bridge_linger_seconds
        self._received_us = 0
        self._window = Window(lambda _: None)
        self._pause: Callable[[], None] = lambda: None
        self._resume: Callable[[], None] = lambda: None
        self._taking = False
        self._records = 0
        self._moved = time.monotonic()
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.held = 0
        self.in_flight = 0
        self.received = 0

    def join(self, mqtt: Client) -> None:
        """Take messages from this connection, and acknowledge them to it alone."""
        self._window = Window(mqtt.acknowledge)
        self._pause, self._resume = mqtt.pause, mqtt.resume
        self._taking = True

    def part(self) -> None:
        """The connection is gone. What it brought still goes to Kafka, and will come again: twice is once."""
        self._taking = False
        self.flush()
        self._window.close()
        self._pause = self._resume = lambda: None

    def stop_taking(self) -> None:
        """Ignore what comes: it is not acknowledged, the session keeps it."""
        self._taking = False
        self.flush()

    async def room(self) -> None:
        await self._room.wait()

    async def empty(self) -> None:
        """Return when Kafka has everything that came."""
        self.flush()
        await self._empty.wait()

    @property
    def moving(self) -> bool:
        """Whether Kafka took a record lately, or got its first after a pause."""
        return time.monotonic() - self._moved < STALLED_SECONDS

    @property
    def stalled(self) -> bool:
        return self._records > 0 and not self.moving

    def forward(self, messages: Sequence[Publish | Cut | Traced]) -> None:
        """Take messages as they come; each of the loop's lines is passed 40,000 times a second."""
        if not self._taking:
            return
        partition_of, find, lists = self._partitions.known.get, self._partitions.find, self._open
        add_id, open_before = self._ids.append, len(self._ids)
        received_us = receive_time(self._received_us, time.time_ns() // 1000, self._settings.bridge_ordinal)
        received_us -= ORDINALS
        size = 0
        for message in messages:
            packet_id = message.packet_id
            if packet_id is None and _is_copy(message):
                COPIES.inc()
                continue
            topic, payload = message.topic, message.payload
            partition = partition_of(topic)
            if partition is None:
                partition = find(topic)
            received_us += ORDINALS
            entry = (topic, received_us, payload) if type(message) is Publish else self._unusual(message, received_us)
            lists[partition].append(entry)
            add_id(packet_id)
            size += len(topic) + len(payload)
        self._received_us = received_us
        if len(self._ids) == open_before:
            return
        self._hold(len(self._ids) - open_before, size)
        if not self._fits():
            self.flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._linger_seconds, self.flush)

    def _unusual(self, message: Publish | Cut | Traced, received_us: int) -> packs.Entry:
        if isinstance(message, Traced):
            self._spans.append(message.span)
            return message.topic, received_us, message.payload, {"traceparent": message.traceparent}
        return entry_of(message, received_us)

    def _fits(self) -> bool:
        """Whether everything open would fit one record."""
        count = len(self._ids)
        return count <= packs.MAX_MESSAGES and self._open_size + count * ENTRY_OVERHEAD_BYTES <= packs.MAX_BYTES

    def _hold(self, count: int, size: int) -> None:
        self._empty.clear()
        self.received += count
        self.in_flight += count
        self._open_size += size
        self._open_held += size + count * MESSAGE_OVERHEAD_BYTES
        self.held += size + count * MESSAGE_OVERHEAD_BYTES
        if self.held > self._settings.bridge_held_bytes and self._room.is_set():
            self._room.clear()
            self._pause()
            PAUSED.set(1)

    def flush(self) -> None:
        """Send what is open, a record or more for each partition."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._ids:
            return
        flush = Flush(self._ids)
        if self._spans:
            flush.spans, self._spans = self._spans, []
        self._window.add(flush)
        if self._records == 0:
            self._moved = time.monotonic()
        for partition, entries in enumerate(self._open):
            if entries:
                self._send_packs(partition, entries, flush)
                self._open[partition] = []
        self._ids = []
        RECEIVED.inc(flush.messages)
        RECEIVED_BYTES.inc(self._open_size)
        self.held += flush.held - self._open_held
        self._open_held = self._open_size = 0
        self._records += flush.records
        self._linger_seconds = self._settings.bridge_linger_seconds * (2 if flush.messages > BUSY else 1)
        LAST_RECEIVED.set_to_current_time()
        self._tell()

    def _send_packs(self, partition: int, entries: list[packs.Entry], flush: Flush) -> None:
        for some in (entries,) if self._fits() else split(entries):
            value = packs.encode(some)
            flush.sent(value)
            self._send(partition, value, packs.headers(len(some)), flush)

    def arrived(self, flushes: list[Flush]) -> None:
        """Kafka has a record of each of these flushes; of some, several."""
        self._moved = time.monotonic()
        self._records -= len(flushes)
        for flush in flushes:
            flush.waiting -= 1
            if flush.waiting == 0:
                self._release(flush)
        self._window.settle()
        if self.in_flight == 0:
            self._empty.set()
        if self.held <= self._settings.bridge_held_bytes and not self._room.is_set():
            self._room.set()
            self._resume()
            PAUSED.set(0)
        LAST_ACKNOWLEDGED.set_to_current_time()
        self._tell()

    def _release(self, flush: Flush) -> None:
        self.held -= flush.held
        self.in_flight -= flush.messages
        for span in flush.spans:
            span.end()
        ACKNOWLEDGED.inc(flush.messages)
        RECORDS.inc(flush.records)
        log.debug("flush_written", messages=flush.messages, records=flush.records, bytes=flush.record_bytes)
        RECORD_BYTES.inc(flush.record_bytes)
        FLUSH_SECONDS.observe(time.monotonic() - flush.began)
        FLUSH_MESSAGES.observe(flush.messages)

    def _tell(self) -> None:
        IN_FLIGHT.set(self.in_flight)
        HELD.set(self.held)
