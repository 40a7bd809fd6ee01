"""Bytes from the broker into packets, without I/O: whole ones by mqtt5, messages too large to hold piece by piece."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

import mqtt5

WHOLE_BYTES: Final = 256 << 10
"""Larger payloads are cut."""
CUT_BYTES: Final = 64 << 10
"""To this."""

_LONGEST_HEADER: Final = 2 + 65_535 + 2 + 4  # topic, packet id, length of the properties

Publish: TypeAlias = mqtt5.PublishPacket


class MalformedError(ValueError):
    """Bytes that are no MQTT packet."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A message whose payload was longer than WHOLE_BYTES: its first CUT_BYTES, and what the whole was."""

    topic: str
    payload: bytes
    packet_id: int | None
    size: int
    sha256: str
    user_properties: ClassVar[Sequence[tuple[str, str]]] = ()
    """Whatever it had is not read."""


class Reader:
    """Bytes into packets. Holds at most WHOLE_BYTES of an unfinished one, whatever its length."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = 0
        self._large: _Large | None = None

    def feed(self, data: bytes) -> tuple[list[Publish | Cut], list[mqtt5.Packet]]:
        """Messages, and the other packets; each in order. `MalformedError` ends the connection."""
        messages: list[Publish | Cut] = []
        others: list[mqtt5.Packet] = []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return messages, others
            data, self._rest = bytes(self._rest), bytearray()
        view = memoryview(data)
        while view:
            if self._large is not None:
                view = self._read_large(self._large, view, messages)
            else:
                view = self._read_packets(view, messages, others)
        return messages, others

    def _read_packets(self, view: memoryview, messages: list[Publish | Cut], others: list[mqtt5.Packet]) -> memoryview:
        """Read whole packets; what is left begins a large one, or is nothing: an unfinished one is kept.

        Each message passes here: the loop costs 1 µs of it, mqtt5.read 0.7 of that.
        """
        read, append, publish = mqtt5.read, messages.append, mqtt5.PublishPacket
        offset, end = 0, len(view)
        try:
            while offset < end:
                packet, size = read(view[offset : offset + WHOLE_BYTES])  # a longer one does not fit: IndexError
                offset += size
                if type(packet) is publish:
                    append(packet)
                else:
                    others.append(packet)
        except IndexError:
            return self._begin(view[offset:])
        except ValueError as error:
            raise MalformedError(str(error)) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # mqtt5 panics on a topic that is not UTF-8
                raise
            raise MalformedError(str(error)) from error
        return view[end:]

    def _begin(self, view: memoryview) -> memoryview:
        """Keep the beginning of a packet, or turn to reading a large one."""
        length, header = _remaining_length(view)
        total = header + length
        if not header or len(view) < total <= WHOLE_BYTES:
            self._rest, self._wanted = bytearray(view), total
            return view[len(view) :]
        if total <= WHOLE_BYTES:
            raise MalformedError("a packet longer than it says")
        if view[0] >> 4 != 3:
            raise MalformedError(f"a packet of type {view[0] >> 4} with {length} bytes")
        self._large = _Large(qos=view[0] >> 1 & 3, length=length)
        return view[header:]

    def _read_large(self, large: "_Large", view: memoryview, messages: list[Publish | Cut]) -> memoryview:
        view = large.feed(view)
        if large.left == 0:
            messages.append(large.message())
            self._large = None
        return view


class _Large:
    """A PUBLISH of any length, read as it comes: the payload is hashed and its beginning kept."""

    def __init__(self, *, qos: int, length: int) -> None:
        self.left = length
        self._qos = qos
        self._length = length
        self._head = bytearray()
        self._payload = bytearray()
        self._begins = -1
        self._hash = hashlib.sha256()

    def feed(self, view: memoryview) -> memoryview:
        """Take what belongs to the message; return what is behind it."""
        mine, behind = view[: self.left], view[self.left :]
        at = self._length - self.left
        self.left -= len(mine)
        if self._begins < 0:
            self._head += mine
            if len(self._head) < _LONGEST_HEADER:  # the message is longer than that
                return behind
            self._begin()
            at, mine = 0, memoryview(bytes(self._head))
        self._keep(mine[max(0, self._begins - at) :])
        return behind

    def _begin(self) -> None:
        head = self._head
        topic_ends = 2 + int.from_bytes(head[:2], "big")
        id_ends = topic_ends + (2 if self._qos else 0)
        try:
            self.topic = head[2:topic_ends].decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"a topic that is not UTF-8: {error}") from error
        self.packet_id = int.from_bytes(head[topic_ends:id_ends], "big") if self._qos else None
        properties, size = _variable_byte_integer(head, id_ends)
        self._begins = id_ends + size + properties
        if size == 0 or self._begins > self._length:
            raise MalformedError("properties longer than their packet")

    def _keep(self, payload: memoryview) -> None:
        self._hash.update(payload)
        self._payload += payload[: WHOLE_BYTES - len(self._payload)]

    def message(self) -> Publish | Cut:
        size = self._length - self._begins
        if size > WHOLE_BYTES:
            payload = bytes(self._payload[:CUT_BYTES])
            return Cut(self.topic, payload, self.packet_id, size, self._hash.hexdigest())
        qos = mqtt5.QoS(self._qos)  # its properties, not its payload, made it large
        return mqtt5.PublishPacket(self.topic, bytes(self._payload), qos=qos, packet_id=self.packet_id)


def _remaining_length(view: memoryview) -> tuple[int, int]:
    """The length a fixed header tells, and the header's own; 0, 0 while it is not all there."""
    length, size = _variable_byte_integer(view, 1)
    return (length, 1 + size) if size else (0, 0)


def _variable_byte_integer(data: Sequence[int], at: int) -> tuple[int, int]:
    """Value and size; size 0 if it is not all there."""
    value = 0
    for size, byte in enumerate(data[at : at + 4]):
        value |= (byte & 127) << 7 * size
        if byte < 128:
            return value, size + 1
    if len(data) >= at + 4:
        raise MalformedError("a length of more than four bytes")
    return 0, 0
