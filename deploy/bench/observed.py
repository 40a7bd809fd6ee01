"""What it costs to see everything: the same load with metrics, logs and sampled traces, and with all of it off.

On and off take turns in one run, so that both have the machine's good and bad moments.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import mean

from deploy.bench import chain
from deploy.bench.chain import Run, Shape
from deploy.bench.instance import CHAIN, Bench
from deploy.local.layout import REPOSITORY, Broker
from deploy.local.parts import PYTHON, Part, parts, settings
from deploy.local.ready import ready, wait_until
from deploy.local.say import say

OURS = ("bridge", "worker", "beside")
READY_SECONDS = 60
TURNS = (False, True, True, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of a message, in µs of CPU, by group: the mean of the runs with all off, and with all on."""

    rate: int
    traced: float
    runs: int
    exact: bool
    off: dict[str, float]
    on: dict[str, float]

    @property
    def ours(self) -> tuple[float, float]:
        return sum(self.off.get(g, 0) for g in OURS), sum(self.on.get(g, 0) for g in OURS)

    @property
    def whole(self) -> tuple[float, float]:
        """Without the publisher, which is no part of Brigade."""
        return sum(v for g, v in self.off.items() if g != "publisher"), sum(
            v for g, v in self.on.items() if g != "publisher"
        )


class _Bench(Bench):
    """Whose bridge and worker are processes of ours, with an environment of their own."""

    own: dict[str, int]

    def pids(self) -> dict[str, int]:
        return super().pids() | self.own


def measure(bench: Bench, rate: int, seconds: float, rounds: int, shape: Shape) -> Cost:
    """`rounds` times off, on, on, off. The load is traced as `shape` says while all is on."""
    bench.begin(Broker.MEMORY)
    for part in CHAIN:
        bench.stack.stop(part)
    ours = _Bench(bench.stack)
    runs: dict[bool, list[Run]] = {False: [], True: []}
    with collector() as url:
        with processes(ours, on=False, collector_url=url):
            chain.warm_up(ours, rate, seconds, replace(shape, traced=0))
        for on in TURNS * rounds:
            with processes(ours, on=on, collector_url=url):
                done = chain.run(ours, rate, seconds, replace(shape, traced=shape.traced if on else 0))
            say(f"{'on ' if on else 'off'} {chain.line(done)}")
            runs[on].append(done)
    return cost(rate, runs[False], runs[True], traced=shape.traced)


def cost(rate: int, off: Sequence[Run], on: Sequence[Run], *, traced: float) -> Cost:
    def means(runs: Sequence[Run]) -> dict[str, float]:
        return {group: mean(run.cpu[group] for run in runs) for group in runs[0].cpu}

    exact = all(run.exact for run in (*off, *on))
    return Cost(rate=rate, traced=traced, runs=len(off) + len(on), exact=exact, off=means(off), on=means(on))


def table(found: Cost) -> str:
    """For a person."""
    lines = [f"µs of CPU a message at {found.rate:,}/s, {found.runs} runs, {found.traced:.1%} of the messages traced:"]
    lines += [_line(group, off, found.on[group]) for group, off in found.off.items()]
    lines += [_line("ours", *found.ours), _line("without the publisher", *found.whole)]
    if not found.exact:
        lines.append("NOT EVERYTHING WAS STORED: these figures mean nothing")
    return "\n".join(lines)


def _line(name: str, off: float, on: float) -> str:
    share = f"{(on / off - 1):+.1%}" if off else ""
    return f"  {name:<24} off {off:6.2f}   on {on:6.2f}   {on - off:+5.2f}  {share}"


@contextmanager
def collector() -> Iterator[str]:
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "deploy.bench.collector"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@contextmanager
def processes(bench: _Bench, *, on: bool, collector_url: str) -> Iterator[None]:
    """Bridge and worker, seen or unseen; ended cleanly afterwards."""
    instance = bench.stack.instance
    chosen = [part for part in parts(instance, 1, 0) if part.name in CHAIN]
    running = {part.name: _started(bench, part, on=on, collector_url=collector_url) for part in chosen}
    try:
        for name in running:
            if not wait_until(lambda name=name: ready(name, instance), READY_SECONDS):  # type: ignore[misc]
                raise RuntimeError(f"{name} did not become ready")
        bench.own = {name: process.pid for name, process in running.items()}
        yield
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait(30)


def _started(bench: _Bench, part: Part, *, on: bool, collector_url: str) -> subprocess.Popen[bytes]:
    instance = bench.stack.instance
    environment = os.environ | settings(instance) | dict(part.env)
    words = list(part.command)
    if on:
        environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector_url, "BRIGADE_LOG_LEVEL": "INFO"}
    else:
        environment |= {"OTEL_SDK_DISABLED": "true", "BRIGADE_LOG_LEVEL": "ERROR"}
        words = [PYTHON, "-m", "deploy.bench.unmeasured", *(words[2:] if words[1] == "-m" else words)]
    with (instance.logs / f"bench-{part.name}.log").open("ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *words], cwd=REPOSITORY, env=environment, stdout=log, stderr=log
        )
