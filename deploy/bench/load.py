"""The devices: a process that publishes readings at a rate, QoS 1, as cheaply as it can.

    python -m deploy.bench.load --port 1883 --site run-1 --rate 40000 --seconds 60

Everything but packet id, ts and seq of a message is encoded beforehand: 0.7 µs a message instead of the 4 of a client
that makes a packet object of each. Prints `ready` when each device has sent once, begins at a line on standard input,
tells `Sent` as a line of JSON, and ends at another line: until then its CPU time can be read.
"""

import argparse
import asyncio
import json
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
TAILS = 509
CONNECT = b"\x10%c\x00\x04MQTT\x04\x02\x00\x00\x00%c%b"  # 3.1.1, clean session, no keep-alive
CONNACK = b"\x20\x02\x00\x00"
PUBACK = b"\x40\x02"
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


def connect_packet(client_id: str) -> bytes:
    return CONNECT % (12 + len(client_id), len(client_id), client_id.encode())


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

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._greeting = b""
        self._part = 0
        self.connected = asyncio.Event()
        self.sent = 0
        self.acknowledged = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(connect_packet(self._client_id))

    def data_received(self, data: bytes) -> None:
        if not self.connected.is_set():
            self._greeting += data
            if len(self._greeting) < len(CONNACK):
                return
            if self._greeting[:4] != CONNACK:
                raise ConnectionError(f"the broker refuses the connection: {self._greeting!r}")
            data = self._greeting[4:]
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


async def connect(host: str, port: int, client_id: str) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(client_id), host, port)
    async with asyncio.timeout(10):
        await connection.connected.wait()
    return connection


class Devices:
    """Some devices behind one connection, taking turns."""

    def __init__(self, connection: Connection, site: str, numbers: Sequence[int]) -> None:
        self.connection = connection
        self._tails = tails(TAILS) * 2
        size = len(payload(round(time.time() * 1000), FIRST_SEQ, self._tails[0]))
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
        pieces[1::4] = PACKET_IDS[self._next_id : self._next_id + n]
        pieces[2::4] = [_middle(ts_ms, FIRST_SEQ + self._round)] * n
        pieces[3::4] = self._tails[tail : tail + n]
        self._turn = (self._turn + n) % len(self._heads)
        self._round += self._turn == 0
        self._next_id = (self._next_id + n) % len(PACKET_IDS)
        return b"".join(pieces)


class Load:
    def __init__(self, groups: Sequence[Devices]) -> None:
        self._groups = groups
        self._sent = 0

    @property
    def sent(self) -> int:
        return sum(group.connection.sent for group in self._groups)

    @property
    def acknowledged(self) -> int:
        return sum(group.connection.acknowledged for group in self._groups)

    def send(self, count: int) -> None:
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
    numbers = range(arguments.devices)
    groups = []
    for i in range(arguments.connections):
        connection = await connect(arguments.host, arguments.port, f"{arguments.site}-load-{i}")
        groups.append(Devices(connection, arguments.site, numbers[i :: arguments.connections]))
    load = Load(groups)
    for group in groups:
        group.send_each()
    await load.answered()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(asdict(await load.run(arguments.rate, arguments.seconds))), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for group in groups:
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
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
