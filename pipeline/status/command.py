"""What a person types: look at everything at once, judge, show."""

import asyncio
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final

import httpx
import orjson
import typer
from rich.console import Console

from pipeline.settings import StatusSettings, load
from pipeline.status import looks, screen, servers
from pipeline.status.judgement import findings, state
from pipeline.status.seen import PROMETHEUS, Alert, Disk, Part, Rates, Seen, State

BETWEEN_SECONDS: Final = 2.0
CODES: Final = {State.WELL: 0, State.WRONG: 1, State.UNKNOWN: 2}

COUNTED: Final = {
    "received": "pipeline_bridge_messages_acknowledged_total",
    "stored": "pipeline_sink_readings_total:stored",
    "refused": "pipeline_sink_refused_total",
}

app = typer.Typer()


@app.command()
def status(
    *,
    explain: Annotated[bool, typer.Option("--explain", help="Say what to do about each thing that is wrong.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a screen.")] = False,
) -> None:
    """What is up, how far behind it is, what comes in, what went wrong lately, how full the disks are.

    Exit codes: 0 all is well, 1 something is wrong, 2 it cannot be told.
    """
    settings = load(StatusSettings)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the screen says it once
    seen = asyncio.run(look(settings))
    found = findings(seen, logs=settings.status_logs)
    if as_json:
        sys.stdout.write(orjson.dumps(screen.document(seen, found), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        screen.show(Console(highlight=False), seen, found, explain=explain)
    raise typer.Exit(CODES[state(found)])


async def look(settings: StatusSettings) -> Seen:
    """At everything at once; whatever does not answer in time is away."""
    async with httpx.AsyncClient(timeout=looks.SECONDS, trust_env=False) as client:
        prometheus, processes, (kafka, lag, topics_wrong), (database, tables), broker = await asyncio.gather(
            _prometheus(client, settings.status_prometheus_url),
            asyncio.gather(
                *(looks.process(client, name, url, settings.status_logs) for name, url in settings.parts.items())
            ),
            servers.kafka(settings),
            servers.database(settings),
            servers.broker(settings),
        )
        parts, rates, alerts, volumes = prometheus
        return Seen(
            at=datetime.now(UTC),
            parts=[*processes, broker, kafka, database, *parts],
            lag=lag,
            rates=rates or await _counted(client, settings.parts),
            tables=tables,
            topics_wrong=topics_wrong,
            disks=[*servers.disk(settings), *volumes],
            alerts=alerts,
        )


async def _prometheus(client: httpx.AsyncClient, url: str) -> tuple[list[Part], Rates | None, list[Alert], list[Disk]]:
    if not url:
        return [], None, [], []
    prometheus = servers.Prometheus(client, url)
    try:
        part = await prometheus.part()
        return [part], await prometheus.rates(), await prometheus.alerts(), await prometheus.volumes()
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return [servers.away(PROMETHEUS, url, str(error) or "no answer in time")], None, [], []


async def _counted(client: httpx.AsyncClient, parts: Mapping[str, str]) -> Rates:
    """Without Prometheus: what the processes' own counters moved by in two seconds."""
    began = asyncio.get_running_loop().time()
    before = await looks.numbers(client, parts)
    await asyncio.sleep(BETWEEN_SECONDS)
    after = await looks.numbers(client, parts)
    seconds = asyncio.get_running_loop().time() - began

    def rate(name: str) -> float | None:
        known = [part for part in after if name in after[part] and name in before.get(part, {})]
        moved = sum(max(0.0, after[part][name] - before[part][name]) for part in known)
        return moved / seconds if known else None

    return Rates(over_seconds=seconds, **{what: rate(name) for what, name in COUNTED.items()})
