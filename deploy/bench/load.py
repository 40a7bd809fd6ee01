"""The devices: a process that publishes readings at a rate, QoS 1, as cheaply as it can.

    python -m deploy.bench.load --port 1883 --site run-1 --rate 40000 --seconds 60

BRIGADE_MQTT_USER and BRIGADE_MQTT_PASSWORD say as whom: one account plays all devices.
Everything but packet id, ts and seq of a message is encoded beforehand: 0.7 µs a message instead of the 4 of a client
that makes a packet object of each. Prints `ready` when each device has sent once, begins at a line on standard input,
tells `Sent` as a line of JSON, and ends at another line: until then its CPU time can be read.
"""

import argparse
import asyncio
import json
import os
import random
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

TICK_SECONDS = 0.01
IN_FLIGHT = 20_000
"""Messages that the broker has not acknowledged; with more the devices wait, and fall behind."""
ANSWER_SECONDS = 60.0
FIRST_SEQ = 1_000_000
TRACED_DEVICES = 20
"""Of their own: no device sends by two connections, whose clocks could agree."""
TAILS = 509
CONNECT = b"\x10%c\x00\x04MQTT\x04\xc2\x00\x00"  # 3.1.1, user and password, clean session, no keep-alive
TRACED_CONNECT = b"\x10%c\x00\x04MQTT\x05\xc2\x00\x00\x00"  # 5, without properties
CONNACK = b"\x20\x02\x00\x00"
WELCOME = CONNACK[3]
PUBACK = b"\x40\x02"
TRACEPARENT = b"\x26\x00\x0btraceparent\x00\x37"  # a user property: its value of 55 characters follows
PACKET_IDS = [struct.pack(">H", i) for i in range(1, 65_536)]


@dataclass(frozen=True, slots=True)
class Sent:
    sent: int
    acknowledged: int
    seconds: float
    behind_seconds: float  # at the worst: between when a message was due and when it was written
    late_seconds: float  # of the last message


def topic(site: str, device: str) -> bytes:
    return f"brigade/v1/{site}/{device}/readings".encode()


def device_name(site: str, number: int) -> str:
    return f"{site}-fridge-{number:04}"


def payload(ts_ms: int, seq: int, tail: bytes) -> bytes:
    return _middle(ts_ms, seq) + tail


def tails(count: int, seed: int = 7) -> list[bytes]:
    """What a fridge measures, all of one length."""
    dice = random.Random(seed)
    return [
        b'"temperature_c":%.2f,"humidity_pct":%.1f,"door_open":%s}'
        % (dice.uniform(2, 9.9), dice.uniform(40, 80), b"true " if dice.random() < 0.03 else b"false")
        for _ in range(count)
    ]


def connect_packet(client_id: str, username: str, password: str, *, traced: bool = False) -> bytes:
    """Of at most 127 bytes behind its head."""
    texts = b"".join(struct.pack(">H", len(text)) + text.encode() for text in (client_id, username, password))
    head = TRACED_CONNECT if traced else CONNECT
    return head % (len(head) - 3 + len(texts)) + texts


def publish_packet(name: bytes, packet_id: int, body: bytes) -> bytes:
    return _head(name, len(body)) + struct.pack(">H", packet_id) + body


def _middle(ts_ms: int, seq: int) -> bytes:
    return b'{"ts":%d,"seq":%d,' % (ts_ms, seq)


def _head(name: bytes, size: int) -> bytes:
    """A PUBLISH up to its packet id."""
    rest, length = 2 + len(name) + 2 + size, b""
    while rest > 127:
        length += bytes((rest & 127 | 128,))
        rest >>= 7
    return b"\x32" + length + bytes((rest,)) + struct.pack(">H", len(name)) + name


class Connection(asyncio.Protocol):
    """A client that publishes packets others made, and counts the answers."""

    def __init__(self, hello: bytes) -> None:
        self._hello = hello
        self._greeting = b""
        self._part = 0
        self.connected = asyncio.Event()
        self.sent = 0
        self.acknowledged = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        if not self.connected.is_set():
            self._greeting += data
            if len(self._greeting) < 4 or len(self._greeting) < 2 + self._greeting[1]:
                return
            if self._greeting[3] != WELCOME:
                raise ConnectionError(f"the broker refuses the connection: {self._greeting!r}")
            data = self._greeting[2 + self._greeting[1] :]
            self.connected.set()
        if self._part == 0 and data and data[:2] != PUBACK[: len(data)]:
            raise ConnectionError(f"the broker says {data[:8]!r}")
        answers, self._part = divmod(self._part + len(data), 4)  # nothing else is four bytes, nothing else comes
        self.acknowledged += answers

    def connection_lost(self, error: Exception | None) -> None:
        if error:
            raise ConnectionError("the broker closed the connection") from error

    def write(self, data: bytes, count: int) -> None:
        self.sent += count
        self._transport.write(data)

    def close(self) -> None:
        self._transport.write(b"\xe0\x00")
        self._transport.close()


async def connect(host: str, port: int, hello: bytes) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(hello), host, port)
    async with asyncio.timeout(10):
        await connection.connected.wait()
    return connection


class Devices:
    """Some devices behind one connection, taking turns."""

    properties_size = 0

    def __init__(self, connection: Connection, site: str, numbers: Sequence[int]) -> None:
        self.connection = connection
        self._tails = tails(TAILS) * 2
        size = len(payload(round(time.time() * 1000), FIRST_SEQ, self._tails[0])) + self.properties_size
        self._heads = [_head(topic(site, device_name(site, number)), size) for number in numbers]
        self._turn = self._round = 0
        self._next_id = 0
        self._last_ms = 0

    def send(self, count: int) -> None:
        """The next `count` readings; no device has two of one millisecond."""
        parts, left = [], count
        while left:
            n = min(left, len(self._heads) - self._turn, len(PACKET_IDS) - self._next_id, TAILS)
            parts.append(self._readings(n))
            left -= n
        if parts:
            self.connection.write(b"".join(parts), count)

    def send_each(self) -> None:
        """One reading of each device."""
        self.send(len(self._heads))

    def _readings(self, n: int) -> bytes:
        if self._turn == 0:
            self._last_ms += 1
        self._last_ms = ts_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        tail = self._round % TAILS
        pieces: list[bytes] = [b""] * (4 * n)
        pieces[0::4] = self._heads[self._turn : self._turn + n]
        pieces[1::4] = self._ids(n)
        pieces[2::4] = [_middle(ts_ms, FIRST_SEQ + self._round)] * n
        pieces[3::4] = self._tails[tail : tail + n]
        self._turn = (self._turn + n) % len(self._heads)
        self._round += self._turn == 0
        self._next_id = (self._next_id + n) % len(PACKET_IDS)
        return b"".join(pieces)

    def _ids(self, n: int) -> list[bytes]:
        return PACKET_IDS[self._next_id : self._next_id + n]


class TracedDevices(Devices):
    """Each of whose messages begins a trace, over MQTT 5."""

    properties_size = 1 + len(TRACEPARENT) + 55

    def _ids(self, n: int) -> list[bytes]:
        length = bytes((self.properties_size - 1,))
        traces = (b"00-%s-%s-01" % (os.urandom(16).hex().encode(), os.urandom(8).hex().encode()) for _ in range(n))
        return [i + length + TRACEPARENT + trace for i, trace in zip(super()._ids(n), traces, strict=True)]


class Load:
    """`traced` sends its share of the messages, the others the rest, in equal parts."""

    def __init__(self, groups: Sequence[Devices], traced: TracedDevices | None = None, share: float = 0) -> None:
        self._groups = groups
        self._traced = traced
        self._share = share
        self._owed = 0.0
        self._sent = 0

    @property
    def _connections(self) -> list[Connection]:
        every = [*self._groups, self._traced] if self._traced else self._groups
        return [group.connection for group in every]

    @property
    def sent(self) -> int:
        return sum(connection.sent for connection in self._connections)

    @property
    def acknowledged(self) -> int:
        return sum(connection.acknowledged for connection in self._connections)

    def send(self, count: int) -> None:
        if self._traced:
            self._owed += count * self._share
            traced = min(count, int(self._owed))
            self._owed -= traced
            self._traced.send(traced)
            count -= traced
        share, more = divmod(count, len(self._groups))
        for number, group in enumerate(self._groups):
            group.send(share + ((number + self._sent) % len(self._groups) < more))
        self._sent += count

    async def answered(self) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            while self.acknowledged < self.sent:  # noqa: ASYNC110, an event would be set 40,000 times a second
                await asyncio.sleep(0.005)

    async def run(self, rate: float, seconds: float) -> Sent:
        """Send on schedule; what the window holds back is sent as soon as there is room."""
        before = self.sent, self.acknowledged
        began = time.perf_counter()
        total, done, behind, late, tick = round(rate * seconds), 0, 0.0, 0.0, 0
        while done < total:
            tick += 1
            await asyncio.sleep(began + tick * TICK_SECONDS - time.perf_counter())
            elapsed = time.perf_counter() - began
            due = min(total, round(elapsed * rate))
            room = IN_FLIGHT - (self.sent - self.acknowledged)
            count = max(0, min(due - done, room))
            late = elapsed - done / rate - TICK_SECONDS if count else late
            behind = max(behind, late)
            self.send(count)
            done += count
        took = time.perf_counter() - began
        await self.answered()
        sent, acknowledged = self.sent - before[0], self.acknowledged - before[1]
        return Sent(sent, acknowledged, took, max(0.0, behind), max(0.0, took - seconds))


async def serve(arguments: argparse.Namespace) -> None:
    user, password = os.environ["BRIGADE_MQTT_USER"], os.environ["BRIGADE_MQTT_PASSWORD"]
    numbers = range(arguments.devices)
    apart = numbers[arguments.devices - TRACED_DEVICES :] if arguments.traced else numbers[:0]
    numbers = numbers[: arguments.devices - len(apart)]
    groups: list[Devices] = []
    for i in range(arguments.connections):
        hello = connect_packet(f"{arguments.site}-load-{i}", user, password)
        connection = await connect(arguments.host, arguments.port, hello)
        groups.append(Devices(connection, arguments.site, numbers[i :: arguments.connections]))
    traced = None
    if arguments.traced:
        hello = connect_packet(f"{arguments.site}-traced", user, password, traced=True)
        traced = TracedDevices(await connect(arguments.host, arguments.port, hello), arguments.site, apart)
    load = Load(groups, traced, arguments.traced)
    for group in [*groups, traced] if traced else groups:
        group.send_each()
    await load.answered()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(asdict(await load.run(arguments.rate, arguments.seconds))), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for group in [*groups, traced] if traced else groups:
        group.connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.bench.load", description="Devices that publish readings.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--site", required=True)
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rate", type=float, required=True, help="messages a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--traced", type=float, default=0.0, help="share of the messages that begin a trace")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
