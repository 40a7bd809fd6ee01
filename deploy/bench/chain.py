"""Devices → Mosquitto → bridge → Kafka → worker → rows: one rate at a time, each with devices of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

from deploy.bench import rows
from deploy.bench.cpu import OURS, REST, SERVERS, Account
from deploy.bench.instance import Bench, environment
from deploy.bench.load import Sent
from deploy.bench.probes import Latency, Probes
from deploy.local.layout import REPOSITORY
from deploy.local.say import say

POINTS = 3
STORED_SECONDS = 120.0
LATE_SECONDS = 0.5
DRAIN_SECONDS = 2.0
LONG_SECONDS = 30.0
CLOSED_SECONDS = 240.0
PROBES_A_SECOND = 100
LOOK_SECONDS = 0.005
MINUTE_SECONDS = 60
EARLIEST_SECOND, LATEST_SECOND = 10, 30
CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of the load, whatever its rate."""

    devices: int = 500
    connections: int = 4
    traced: float = 0.0
    """Share of the messages that begin a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    rate: int
    seconds: float
    sent: int
    acknowledged: int
    received: int  # by the ledger
    stored: int
    rows: int  # counted in the table
    behind_seconds: float  # of the devices' schedule, at the worst
    late_seconds: float  # of the last message
    drain_seconds: float  # from the last PUBACK until everything was stored
    latency: Latency
    cpu: dict[str, float]  # µs a message
    closed: bool  # "postgres closing" has all of its minutes
    busy: float  # share of the machine's CPU time that this run used
    others: float  # share that somebody else used

    @property
    def exact(self) -> bool:
        return self.sent == self.acknowledged == self.received == self.stored and self.rows == self.stored * POINTS

    @property
    def sustained(self) -> bool:
        return self.exact and self.late_seconds < LATE_SECONDS and self.drain_seconds < DRAIN_SECONDS


class LoadProcess:
    """`deploy.bench.load`, connected, each device known, and waiting for `go`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def go(self) -> Sent:
        """Publish; return when the broker has acknowledged everything."""
        self._say("go")
        return Sent(**json.loads(self.hear()))

    def hear(self) -> str:
        if self._process.stdout and (line := self._process.stdout.readline()):
            return line.strip()
        raise RuntimeError("the publishing process failed")

    def _say(self, word: str) -> None:
        if self._process.stdin:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()


@contextmanager
def publisher(bench: Bench, site: str, rate: float, seconds: float, shape: Shape) -> Iterator[LoadProcess]:
    words = {"port": bench.mqtt_port, "site": site, "rate": rate, "seconds": seconds}
    words |= {"devices": shape.devices, "connections": shape.connections, "traced": shape.traced}
    module = [sys.executable, "-m", "deploy.bench.load", *(f"--{name}={value}" for name, value in words.items())]
    command = ["setpriv", "--pdeathsig", "KILL", *module]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(bench), stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            load = LoadProcess(process)
            load.hear()
            yield load
        finally:
            process.kill()


def run(bench: Bench, rate: int, seconds: float, shape: Shape) -> Run:
    """One rate for so long, and until everything is stored."""
    site = f"bench-{time.time_ns() // 1_000_000 % 10**9}-{rate}"
    probe_rate = min(PROBES_A_SECOND, rate // 10)
    with (
        bench.connect() as database,
        bench.connect() as looking,
        publisher(bench, site, rate - probe_rate, seconds, shape) as load,
        closing(Probes(looking, bench, site)) as probes,
        ThreadPoolExecutor() as pool,
    ):
        probes.introduce()
        introduced = shape.devices + probes.sent
        rows.wait_stored(database, site, introduced, STORED_SECONDS)
        account = Account(bench, database, publisher=load.pid)
        began = time.monotonic()
        latency = pool.submit(probes.run, seconds, probe_rate, LOOK_SECONDS)
        sent = load.go()
        acknowledged = time.monotonic()
        messages = sent.sent + round(seconds * probe_rate)
        ledger = rows.wait_stored(database, site, introduced + messages, STORED_SECONDS)
        stored = time.monotonic()
        used, took = account.seconds(), stored - began
        visible = latency.result()
        busy = sum(used[group] for group in used if group not in REST) / took / CORES
        closed = seconds >= LONG_SECONDS and rows.wait_closed(database, CLOSED_SECONDS)
        if closed:
            used["postgres closing"] = account.seconds()["postgres closing"]
        return Run(
            rate=rate,
            seconds=seconds,
            sent=introduced + messages,
            acknowledged=shape.devices + sent.acknowledged + probes.acknowledged,
            received=ledger.received,
            stored=ledger.stored,
            rows=rows.count(database, site),
            behind_seconds=sent.behind_seconds,
            late_seconds=sent.late_seconds,
            drain_seconds=stored - acknowledged,
            latency=visible,
            cpu={group: used[group] / messages * 1e6 for group in used if group not in REST},
            closed=closed,
            busy=busy,
            others=used["others"] / took / CORES,
        )


def warm_up(bench: Bench, rate: int, seconds: float, shape: Shape) -> None:
    """Java compiles what it runs often: 30 µs a message in its first seconds."""
    say(f"warming up with {rate}/s for {seconds:g} s")
    run(bench, rate, seconds, shape)


AIM = 40_000
"""Messages a second that a machine of two cores should take for a minute."""


def climb(bench: Bench, rates: Sequence[int], seconds: float, long_seconds: float, shape: Shape) -> list[Run]:
    """Each rate until one is too much, then half-way back, then the highest that was sustained for long.

    Where the aim is below that one, it has its long run too.
    """
    runs: list[Run] = []
    for rate in rates:
        runs.append(_told(run(bench, rate, seconds, shape)))
        if not runs[-1].sustained:
            break
    sustained = [one.rate for one in runs if one.sustained]
    if len(sustained) < len(runs) and sustained:
        between = (sustained[-1] + runs[-1].rate) // 2 // 1000 * 1000
        runs.append(_told(run(bench, between, seconds, shape)))
        sustained += [between] if runs[-1].sustained else []
    while sustained and long_seconds:
        _settle(bench, long_seconds)
        runs.append(_told(run(bench, sustained[-1], long_seconds, shape)))
        if runs[-1].sustained:
            break
        sustained.pop()
    if long_seconds and AIM in sustained[:-1]:
        _settle(bench, long_seconds)
        runs.append(_told(run(bench, AIM, long_seconds, shape)))
    return runs


def _settle(bench: Bench, seconds: float) -> None:
    """Begin with nothing left to compute, and where a minute ends and is closed within these seconds."""
    with bench.connect() as database:
        rows.wait_closed(database, CLOSED_SECONDS)
    if seconds < MINUTE_SECONDS:
        return
    second = time.time() % MINUTE_SECONDS
    if not EARLIEST_SECOND <= second <= LATEST_SECOND:
        time.sleep((EARLIEST_SECOND - second) % MINUTE_SECONDS)


def _told(one: Run) -> Run:
    say(line(one))
    return one


def line(one: Run) -> str:
    """What a person wants to see of a run while the next one begins."""
    ours = sum(one.cpu.get(name, 0) for name in OURS)
    servers = sum(one.cpu.get(name, 0) for name in SERVERS)
    wait = one.latency
    return "; ".join(
        (
            f"{one.rate:>6}/s {one.seconds:g} s: {'sustained' if one.sustained else 'NOT sustained'}",
            "sent = stored" if one.exact else f"SENT {one.sent}, STORED {one.stored}, ROWS {one.rows}",
            f"visible p50 {wait.p50:.0f} p99 {wait.p99:.0f} max {wait.max:.0f} ms",
            f"looked every {wait.look_p50:.0f} to {wait.look_p99:.0f} ms",
            f"µs a message: ours {ours:.1f}, servers {servers:.1f}",
            ", ".join(f"{name} {used:.1f}" for name, used in one.cpu.items()),
            f"machine {one.busy:.0%} busy with this, {one.others:.0%} with other things",
        )
    )
