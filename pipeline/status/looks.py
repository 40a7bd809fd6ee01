"""Looks at our own processes: their health ports, and the logs of those that do not answer."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from pipeline.status.seen import Event, Part, State

SECONDS: Final = 3.0
TAIL_BYTES: Final = 64 << 10
EVENTS: Final = 5

Numbers = Mapping[str, float]
"""Of a process: each metric's sum over its labels."""


class Line(msgspec.Struct):
    """What matters of a log line, or of an entry of /errors."""

    timestamp: datetime
    level: str
    event: str
    logger: str = ""
    reason: str = ""
    why: str = ""
    error: str = ""

    def told(self) -> Event:
        reason = self.reason or self.why or self.error
        return Event(at=self.timestamp, level=self.level, event=self.event, reason=reason, ours=not self.logger)


_lines = msgspec.json.Decoder(list[Line]).decode
_line = msgspec.json.Decoder(Line).decode


async def process(client: httpx.AsyncClient, name: str, address: str, logs: str) -> Part:
    """How it is; a process that does not answer is down, unless it is us who cannot reach it."""
    try:
        alive, ready, metrics, errors = await asyncio.gather(
            *(client.get(f"{address}/{path}") for path in ("healthz", "readyz", "metrics", "errors"))
        )
    except httpx.HTTPError as error:
        state = State.UNKNOWN if _is_our_trouble(error) else State.WRONG
        said = last_words(logs, name)
        return Part(name=name, state=state, address=address, up=False, detail=_why(error), events=said)
    well = alive.is_success and ready.is_success
    numbers, version = read_metrics(metrics.text) if metrics.is_success else ({}, "")
    started = numbers.get("process_start_time_seconds")
    return Part(
        name=name,
        state=State.WELL if well else State.WRONG,
        address=address,
        up=alive.is_success,
        detail="" if well else (ready if alive.is_success else alive).text.strip()[:200],
        version=version,
        since=datetime.fromtimestamp(started, UTC) if started else None,
        events=_events(errors),
    )


async def numbers(client: httpx.AsyncClient, addresses: Mapping[str, str]) -> dict[str, Numbers]:
    """The metrics alone, of the processes that answer."""

    async def one(name: str, address: str) -> tuple[str, Numbers]:
        try:
            answer = await client.get(f"{address}/metrics")
        except httpx.HTTPError:
            return name, {}
        return name, read_metrics(answer.text)[0] if answer.is_success else {}

    return dict(await asyncio.gather(*(one(name, address) for name, address in addresses.items())))


def read_metrics(text: str) -> tuple[Numbers, str]:
    """Sums by sample name, with `{outcome="stored"}` of readings as a name of its own; and the version."""
    sums: dict[str, float] = {}
    version = ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
            if outcome := sample.labels.get("outcome"):
                name = f"{sample.name}:{outcome}"
                sums[name] = sums.get(name, 0) + sample.value
            if sample.name == "brigade_build_info":
                version = sample.labels.get("version", "")
    return sums, version


def _events(answer: httpx.Response) -> tuple[Event, ...]:
    try:
        return tuple(line.told() for line in _lines(answer.content)[-EVENTS:]) if answer.is_success else ()
    except msgspec.DecodeError:
        return ()


def last_words(logs: str, name: str) -> tuple[Event, ...]:
    """The last warnings and errors in its log; none where there is no such file."""
    if not logs:
        return ()
    try:
        with (Path(logs) / f"{name}.log").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return ()
    found = [line.told() for line in map(_decoded, lines) if line and line.level in {"warning", "error", "critical"}]
    return tuple(found[-EVENTS:])


def _decoded(line: bytes) -> Line | None:
    try:
        return _line(line)
    except msgspec.DecodeError:
        return None


def _is_our_trouble(error: Exception) -> bool:
    """A host name that nobody here knows says nothing about the process."""
    return any(word in str(error) for word in ("Name or service not known", "name resolution", "nodename nor servname"))


def _why(error: Any) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {SECONDS:g} s"
    return str(error) or type(error).__name__
