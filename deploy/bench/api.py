"""The gateway under load, beside a bare handler that runs the same SQL in the same run: what its guarantees cost."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from deploy.bench import dataset, http_load, serving
from deploy.bench.instance import Bench
from deploy.bench.measure import Snapshot
from deploy.bench.probes import quantile
from deploy.bench.queries import DEVICE
from deploy.local import ready
from deploy.local.layout import database_url
from deploy.local.say import say

METRIC = "temperature_c"
CONNECTIONS = 4
RATE = 200
RATE_CONNECTIONS = 32
BARE_PORT = 1
"""Beyond the gateway's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Of one question, asked of the gateway or of the bare handler."""

    question: str
    server: str
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Of the serving process, a request."""
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    server: str
    clients: int
    events: int
    """Received, by all clients together."""
    cpu_us: float
    """Of the serving process, for an event to a client; its reading of the database included."""
    cpu_share: float
    """Of one core."""
    p50_ms: float
    p99_ms: float
    """From the commit of a reading to a client's having it; up to a second of it is waiting for the next look."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    pid: int
    port: int
    paths: dict[str, str]
    headers: dict[str, str]


def run(bench: Bench, rows: int, seconds: float, clients: int) -> tuple[int, list[Load], list[FanOut]]:
    """How many readings there are, and what came out."""
    rows, ends = dataset.ready(bench, rows)
    loads, streams = [], []
    with ours(bench, ends) as gateway, bare(bench, ends) as other:
        for question in ("latest", "day", "month"):
            for server in (gateway, other):
                loads.append(_load(question, server, seconds))
                say(load_line(loads[-1]))
        for server in (gateway, other):
            loads.append(_at_a_rate("latest", server, seconds))
            say(load_line(loads[-1]))
        for server in (gateway, other):
            streams.append(_fan_out(bench, server, clients, seconds))
            say(fan_out_line(streams[-1]))
    return rows, loads, streams


def _load(question: str, server: Server, seconds: float) -> Load:
    def ask(seconds: float) -> http_load.Asked:
        return asyncio.run(
            http_load.as_fast_as_it_goes(
                server.port, server.paths[question], server.headers, connections=CONNECTIONS, seconds=seconds
            )
        )

    ask(min(1.0, seconds))
    before = _cpu(server)
    asked = ask(seconds)
    return _told(f"{question}, {CONNECTIONS} at once", server, asked, _cpu(server) - before)


def _at_a_rate(question: str, server: Server, seconds: float) -> Load:
    before = _cpu(server)
    asked = asyncio.run(
        http_load.at_a_rate(
            server.port,
            server.paths[question],
            server.headers,
            rate=RATE,
            connections=RATE_CONNECTIONS,
            seconds=seconds,
        )
    )
    return _told(f"{question}, {RATE} a second", server, asked, _cpu(server) - before)


def _told(question: str, server: Server, asked: http_load.Asked, cpu: float) -> Load:
    return Load(
        question=question,
        server=server.name,
        rate=asked.rate,
        p50_ms=asked.quantile(0.5),
        p99_ms=asked.quantile(0.99),
        cpu_us=cpu / len(asked.times) * 1e6,
        bytes=asked.bytes,
    )


def _cpu(server: Server) -> float:
    return Snapshot.take().seconds({server.pid})


# The live stream ------------------------------------------------------------------------------------------

READINGS = """
INSERT INTO readings (ts, received_at, value, seq, device_id, metric_id)
SELECT clock_timestamp(), clock_timestamp(), %(tick)s, NULL, d.id, m.id
FROM devices d, metrics m WHERE m.name = %(metric)s
"""
TICK_SECONDS = 1.7
"""Between two commits: at no fixed distance from the servers' looks, which are a second apart."""
AWAY_WITH_THEM = "DELETE FROM readings WHERE ts > %(began)s"


def _fan_out(bench: Bench, server: Server, clients: int, seconds: float) -> FanOut:
    """Every device has a new temperature, again and again; every client is told of all of them."""
    with bench.connect(dataset.NAME) as connection:
        began = connection.execute("SELECT clock_timestamp()").fetchone()
        try:
            return asyncio.run(_listen(connection, server, clients, max(2, round(seconds / TICK_SECONDS))))
        finally:
            connection.execute(AWAY_WITH_THEM, {"began": began[0] if began else None})


async def _listen(connection: psycopg.Connection, server: Server, clients: int, ticks: int) -> FanOut:
    crowd = [_Listener(ticks) for _ in range(clients)]
    loop = asyncio.get_running_loop()
    request = "".join(f"{name}: {value}\r\n" for name, value in server.headers.items())
    for listener in crowd:
        await loop.create_connection(lambda listener=listener: listener, "127.0.0.1", server.port)  # type: ignore[misc]
        listener.ask(f"GET {server.paths['stream']} HTTP/1.1\r\nHost: bench\r\n{request}\r\n".encode())
    await asyncio.sleep(3)
    for listener in crowd:
        listener.begin()
    before, started = _cpu(server), time.perf_counter()
    committed = []
    for tick in range(ticks):
        await asyncio.to_thread(connection.execute, READINGS, {"tick": 1000 + tick, "metric": METRIC})
        committed.append(time.perf_counter())
        await asyncio.sleep(max(0, started + (tick + 1) * TICK_SECONDS - time.perf_counter()))
    await asyncio.sleep(2)
    used, lasted = _cpu(server) - before, time.perf_counter() - started
    waits = [heard - committed[tick] for one in crowd for tick, heard in one.heard.items()]
    events = sum(one.events for one in crowd)
    for one in crowd:
        one.close()
    if len(waits) < clients * ticks:
        say(f"{server.name}: {clients * ticks - len(waits)} of {clients * ticks} ticks were not heard of")
    return FanOut(
        server=server.name,
        clients=clients,
        events=events,
        cpu_us=used / max(events, 1) * 1e6,
        cpu_share=used / lasted,
        p50_ms=quantile(waits, 0.5) * 1000,
        p99_ms=quantile(waits, 0.99) * 1000,
        bytes=sum(one.bytes for one in crowd) // max(events, 1),
    )


class _Listener(asyncio.Protocol):
    """Notes when it first sees each tick's number among the values."""

    def __init__(self, ticks: int) -> None:
        self.heard: dict[int, float] = {}
        self.events = 0
        self.bytes = 0
        self._ticks = ticks
        self._next = 0
        self._rest = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        self.events += data.count(b"event: change")
        seen = self._rest + data
        while self._next < self._ticks and b'"value":%d.0' % (1000 + self._next) in seen:
            self.heard[self._next] = time.perf_counter()
            self._next += 1
        self._rest = data[-32:]

    def begin(self) -> None:
        """What came until now was the state of everything."""
        self.events = self.bytes = 0

    def ask(self, request: bytes) -> None:
        self._transport.write(request)

    def close(self) -> None:
        self._transport.abort()


# The servers ----------------------------------------------------------------------------------------------


@contextmanager
def ours(bench: Bench, ends: datetime) -> Iterator[Server]:
    series = f"/api/v1/readings?device={DEVICE}&metric={METRIC}&to={_iso(ends)}"
    paths = {
        "latest": f"/api/v1/latest?site={dataset.SITE}",
        "day": f"{series}&bucket=raw&from={_iso(ends - timedelta(days=1))}",
        "month": f"{series}&bucket=1h&from={_iso(ends - timedelta(days=30))}",
        "stream": f"/api/v1/stream?site={dataset.SITE}",
    }
    with serving.gateway(bench) as served:
        yield Server("gateway", served.pid, served.port, paths, served.headers)


@contextmanager
def bare(bench: Bench, ends: datetime) -> Iterator[Server]:
    here = bench.stack.instance
    port = here.ports["gateway"] + BARE_PORT
    environment = {
        "BENCH_DATABASE_URL": database_url(here, "brigade_api", dataset.NAME),
        "BENCH_ENDS": ends.isoformat(),
        "BENCH_SITE": dataset.SITE,
        "BENCH_DEVICE": DEVICE,
        "BENCH_METRIC": METRIC,
        "BENCH_PORT": str(port),
    }
    paths = {name: f"/{name}" for name in ("latest", "day", "month", "stream")}
    with serving.process(bench, "deploy.bench.bare", environment, lambda: ready.listens(port)) as pid:
        yield Server("bare", pid, port, paths, {})


def _iso(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


# What came out --------------------------------------------------------------------------------------------


def load_line(one: Load) -> str:
    return (
        f"{one.server}: {one.question}: {one.rate:,.0f}/s, p50 {one.p50_ms:.1f} ms, p99 {one.p99_ms:.1f} ms, "
        f"{one.cpu_us:,.0f} µs, {one.bytes:,} bytes"
    )


def fan_out_line(one: FanOut) -> str:
    return (
        f"{one.server}: {one.clients} clients, {one.events:,} events of {one.bytes:,} bytes: {one.cpu_us:.0f} µs each, "
        f"{one.cpu_share:.0%} of a core; after the commit p50 {one.p50_ms:.0f} ms, p99 {one.p99_ms:.0f} ms"
    )


def pairs(loads: Sequence[Load]) -> Iterator[tuple[Load, Load]]:
    """The gateway's beside the bare handler's."""
    others = {one.question: one for one in loads if one.server == "bare"}
    for one in loads:
        if one.server == "gateway" and one.question in others:
            yield one, others[one.question]
