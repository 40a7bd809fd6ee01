"""How far the workers are behind, told from outside their group: right with no worker alive too.

    python -m pipeline.lag

A record of `readings.raw` is a pack of many messages, so lag is told in records, messages and seconds.
While Kafka is away the series end: a frozen number would look like a quiet system.
"""

import asyncio
import logging
import random
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
    UnknownTopicOrPartitionError,
    for_code,
)
from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from observability import logs, web
from pipeline.kafka import for_aiokafka
from pipeline.settings import LagSettings, load
from pipeline.topics import Topics

SAMPLES: Final = 8
LOOK_SECONDS: Final = 30.0

LOOKS = Counter("pipeline_lag_looks_total", "Looks at Kafka that ended well.")
FAILURES = Counter("pipeline_lag_look_failures_total", "Looks at Kafka that did not.")
LAST_LOOK = Gauge("pipeline_lag_last_look_timestamp_seconds", "When Kafka was last looked at with success.")
DURATION = Gauge("pipeline_lag_look_duration_seconds", "How long the last successful look took.")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one record tells: the messages in it, and when it was written."""

    messages: int
    written_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    partition: int
    committed: int | None
    end: int
    records: int
    messages: float
    seconds: float


class Lag(Collector):
    """The series of the last look, for as long as it is recent."""

    def __init__(self, *, group: str, topic: str, recent_seconds: float) -> None:
        self._labels = [group, topic]
        self._recent_seconds = recent_seconds
        self._partitions: list[PartitionLag] = []
        self._looked_at = 0.0
        self._tried_at = time.monotonic()

    def tell(self, partitions: list[PartitionLag]) -> None:
        self._partitions = partitions
        self._looked_at = self._tried_at = time.monotonic()

    def end(self) -> None:
        """There is nothing to tell now: a look failed."""
        self._partitions = []
        self._tried_at = time.monotonic()

    def looking(self) -> bool | str:
        """Whether looks end at all, well or not."""
        idle = time.monotonic() - self._tried_at
        return idle < self._recent_seconds + LOOK_SECONDS or f"no look at Kafka has ended for {idle:.0f} s"

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._looked_at

    def known(self) -> bool | str:
        if self._partitions and self.age_seconds < self._recent_seconds:
            return True
        if not self._looked_at:
            return "Kafka has not answered yet"
        return f"Kafka has not answered for {self.age_seconds:.0f} s"

    def collect(self) -> Iterator[Metric]:
        lag = self._family("kafka_consumergroup_lag", "Records the group has not read.")
        messages = self._family("kafka_consumergroup_lag_messages", "Messages in them, estimated from a few of them.")
        seconds = self._family("kafka_consumergroup_lag_seconds", "Age of the first record the group has not read.")
        committed = self._family("kafka_consumergroup_current_offset", "Where the group goes on; none: nowhere yet.")
        end = GaugeMetricFamily(
            "kafka_topic_partition_current_offset", "Offset of the next record.", labels=["topic", "partition"]
        )
        for one in self._partitions if self.known() is True else []:
            labels = [*self._labels, str(one.partition)]
            lag.add_metric(labels, one.records)
            messages.add_metric(labels, one.messages)
            seconds.add_metric(labels, one.seconds)
            end.add_metric(labels[1:], one.end)
            if one.committed is not None:
                committed.add_metric(labels, one.committed)
        yield from (lag, messages, seconds, committed, end)

    def _family(self, name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, text, labels=["consumergroup", "topic", "partition"])


class Kafka:
    """One connection to look through, reached as `kafka` says; after any error open a new one."""

    def __init__(self, kafka: Mapping[str, Any], *, group: str, topic: str) -> None:
        self._group = group
        self._topic = topic
        self._admin = AIOKafkaAdminClient(**kafka, request_timeout_ms=5000)
        self._consumer = AIOKafkaConsumer(
            **kafka,
            request_timeout_ms=5000,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # a sample that retention has just dropped: the next one will do
            max_partition_fetch_bytes=1,  # Kafka sends one batch of records whatever its size
        )
        self._samples: dict[TopicPartition, dict[int, Sample]] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._admin.start()
            await self._consumer.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        for part in (self._consumer.stop(), self._admin.close()):
            with suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(part, 5)

    async def look(self) -> list[PartitionLag]:
        """The lag of every partition of the topic now."""
        partitions = await self._partitions()
        committed = await self._committed(partitions)  # first: what is read meanwhile makes lag no negative number
        beginnings = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        told = [
            await self._lag(one, committed.get(one), beginning=beginnings[one], end=ends[one]) for one in partitions
        ]
        self._consumer.unsubscribe()
        return told

    async def _partitions(self) -> list[TopicPartition]:
        (described,) = await self._admin.describe_topics([self._topic])
        if error := described["error_code"]:
            raise for_code(error)(self._topic)
        return [
            TopicPartition(self._topic, number) for number in sorted(p["partition"] for p in described["partitions"])
        ]

    async def _committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        offsets = await self._offsets(partitions)
        return {one: at.offset for one, at in offsets.items() if at.offset >= 0}  # -1: none committed

    async def _offsets(self, partitions: list[TopicPartition]) -> Any:
        for _ in range(10):
            with suppress(GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError, GroupLoadInProgressError):
                return await self._admin.list_consumer_group_offsets(self._group, partitions=partitions)
            await asyncio.sleep(random.uniform(0.1, 0.4))  # a fresh cluster makes its offsets topic when first asked
        return await self._admin.list_consumer_group_offsets(self._group, partitions=partitions)

    async def _lag(self, partition: TopicPartition, committed: int | None, *, beginning: int, end: int) -> PartitionLag:
        start = min(max(committed or 0, beginning), end)  # committed beyond the end: the topic was created again
        samples = await self._sampled(partition, start, end)
        return PartitionLag(
            partition=partition.partition,
            committed=committed,
            end=end,
            records=end - start,
            messages=estimate(start, end, samples),
            seconds=max(0.0, time.time() - samples[start].written_at) if start in samples else 0.0,
        )

    async def _sampled(self, partition: TopicPartition, start: int, end: int) -> Mapping[int, Sample]:
        """Records across the backlog, its first among them; those read at earlier looks are not read again."""
        known = {at: sample for at, sample in self._samples.get(partition, {}).items() if start <= at < end}
        for at in missing(start, end, known):
            known |= await self._read(partition, at)
        self._samples[partition] = known
        return known

    async def _read(self, partition: TopicPartition, offset: int) -> dict[int, Sample]:
        self._consumer.assign([partition])
        self._consumer.seek(partition, offset)
        record = await asyncio.wait_for(self._consumer.getone(partition), 5)
        sample = Sample(messages=count(record.headers), written_at=record.timestamp / 1000)
        return {offset: sample, record.offset: sample}


def spread(start: int, end: int) -> list[int]:
    """Up to eight offsets, evenly over the backlog, its first among them."""
    length = end - start
    points = min(SAMPLES, length)
    return [start + length * i // points for i in range(points)]


def missing(start: int, end: int, known: Iterable[int]) -> list[int]:
    """The offsets to read: the first, and those of the spread that no known record stands for."""
    near = (end - start) // (2 * SAMPLES)
    return [
        at for at in spread(start, end) if at not in known and (at == start or all(abs(at - k) > near for k in known))
    ]


def estimate(start: int, end: int, samples: Mapping[int, Sample]) -> float:
    """Messages in the backlog: its records, each as full as the mean of the samples across it."""
    if start == end or not samples:
        return 0.0
    stand_ins = [samples[min(samples, key=lambda known: abs(known - at))] for at in spread(start, end)]
    return (end - start) * sum(sample.messages for sample in stand_ins) / len(stand_ins)


def count(headers: Iterable[tuple[str, bytes]]) -> int:
    """Messages in a record as its header says; a record without a sensible one counts as one."""
    text = dict(headers).get("count", b"1")
    return int(text) if text.isdigit() else 1


async def watch(settings: LagSettings, lag: Lag) -> None:
    """Look, and look again; while Kafka is away, end the series and come back by ourselves."""
    topic, away = Topics(settings).raw, False
    while True:
        try:
            async with Kafka(for_aiokafka(settings), group=settings.consumer_group, topic=topic) as kafka:
                while True:
                    await _look(kafka, lag)
                    if away:
                        log.info("kafka_back")
                        away = False
                    await asyncio.sleep(settings.lag_every_seconds)
        except (KafkaError, OSError, TimeoutError) as error:
            FAILURES.inc()
            lag.end()
            if not away:
                log.warning("kafka_away", error=_why(error, topic), kafka=settings.kafka_bootstrap_servers)
                away = True
        await asyncio.sleep(random.uniform(0.5, 1) * min(settings.lag_every_seconds, 5))


async def _look(kafka: Kafka, lag: Lag) -> None:
    started = time.monotonic()
    async with asyncio.timeout(LOOK_SECONDS):
        lag.tell(await kafka.look())
    LOOKS.inc()
    LAST_LOOK.set_to_current_time()
    DURATION.set(time.monotonic() - started)


def _why(error: Exception, topic: str) -> str:
    if isinstance(error, UnknownTopicOrPartitionError):
        return f"topic {topic} does not exist: `brigade topics create` creates it"
    return f"{type(error).__name__}: {error}"


async def run(settings: LagSettings) -> None:
    lag = Lag(
        group=settings.consumer_group,
        topic=Topics(settings).raw,
        recent_seconds=settings.lag_every_seconds + LOOK_SECONDS,
    )
    REGISTRY.register(lag)
    task = asyncio.create_task(watch(settings, lag))
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, task.cancel)
    with (
        web.serve(settings.lag_port, host=settings.web_host, healthy=lag.looking, ready=lag.known) as server,
        suppress(asyncio.CancelledError),
    ):
        log.info("started", port=server.port, group=settings.consumer_group)
        await task
    log.info("stopped")


def main() -> None:
    settings = load(LagSettings)
    logs.configure("lag", settings.log_level)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # while Kafka is away: many lines a second
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
