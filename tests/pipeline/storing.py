"""Messages into a database by the real sink, as if they had come through Kafka."""

from collections.abc import Iterable, Sequence

from pipeline import packs
from pipeline.batches import Pack
from pipeline.packs import Message
from pipeline.positions import Positions
from pipeline.settings import WorkerSettings
from pipeline.sink import Sink

PARTITIONS = 3


async def _topic_id() -> str:
    return "an id"


async def _first_record(_partition: int, offset: int) -> int:
    return offset


async def store(database: str, messages: Iterable[tuple[str, bytes]], received_us: int) -> None:
    """Write messages, topic and payload, each received a microsecond after the one before."""
    by_partition: dict[int, list[Message]] = {}
    for index, (topic, payload) in enumerate(messages):
        partition = packs.partition_of(packs.partition_key(topic), PARTITIONS)
        by_partition.setdefault(partition, []).append(Message(topic, received_us + index, payload))
    positions = Positions()
    settings = WorkerSettings(database_url=database, partitions=PARTITIONS)
    sink = Sink(
        settings,
        positions,
        topic="readings.raw",
        dead_topic="readings.dead",
        topic_id=_topic_id,
        first_record=_first_record,
    )
    async with sink:
        sink.assign(range(PARTITIONS))
        offsets = await sink.next_offsets(by_partition)
        for partition, entries in by_partition.items():
            offset = offsets[partition]
            await sink.write([_pack(partition, offset + i, part) for i, part in enumerate(_parts(entries))])


def _parts(entries: list[Message]) -> list[list[Message]]:
    return [entries[i : i + 1000] for i in range(0, len(entries), 1000)]


def _pack(partition: int, offset: int, entries: Sequence[Message]) -> Pack:
    return Pack(partition, offset, packs.encode(entries), entries[0].received_us)
