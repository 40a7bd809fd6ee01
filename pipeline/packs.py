"""Many MQTT messages in one Kafka record: the frame of `readings.raw`, both ways.

A record's value is a msgpack list of entries, all of one partition. An entry is
`[topic, received_us, payload]` or `[topic, received_us, payload, extra]`; `extra` is a map and rare.
Its headers are `count` (messages in it, decimal) and `format` (`1`).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias, TypedDict

import msgspec
from msgspec import Meta

FORMAT: Final = b"1"
MAX_MESSAGES: Final = 4_000
MAX_BYTES: Final = 900_000
"""Of payloads and topics in one record; Kafka's own default limit of a record batch is 1 MiB."""


Entry: TypeAlias = tuple[str, int, bytes] | tuple[str, int, bytes, dict[str, Any]]


class Extra(TypedDict, total=False):
    """What few messages bear: `size` and `sha256` of a payload the bridge cut, the `dead_letter` a replay is of."""

    traceparent: str
    size: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    sha256: str
    dead_letter: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One MQTT message as the bridge received it.

    `received_us` is microseconds since 1970 UTC, unique per device and bridge; its hour has 20 bits, until 2089.
    """

    topic: str
    received_us: Annotated[int, Meta(ge=0, lt=2**20 * 3_600_000_000)]
    payload: bytes
    extra: Extra | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode


class UndecodableRecordError(ValueError):
    """A record of `readings.raw` that is not a pack; the text says why."""


def encode(messages: Sequence[Message | Entry]) -> bytes:
    """One record's value; plain tuples are accepted, they are what the bridge's fast path holds."""
    return _encode(messages)


def headers(count: int) -> list[tuple[str, bytes]]:
    return [("count", b"%d" % count), ("format", FORMAT)]


def decode(value: bytes | None) -> list[Message]:
    """The messages of a record, in order; `UndecodableRecordError` if it is no pack."""
    if value is None:
        raise UndecodableRecordError("the record has no value")
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableRecordError(str(error)) from error


def partition_key(topic: str) -> str:
    """The device of `brigade/v1/{site}/{device}/{kind}`; of any other topic, the topic itself."""
    parts = topic.split("/")
    return parts[3] if len(parts) == 5 and parts[3] else topic


def partition_of(key: str, partitions: int) -> int:
    """Kafka's default partitioner: murmur2 of the key's UTF-8 bytes, made positive, modulo the partitions."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Austin Appleby's MurmurHash2, 32 bits, with the seed of org.apache.kafka.common.utils.Utils."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
