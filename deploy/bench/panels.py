"""The SQL of every dashboard's panels on 50 million readings, as Grafana would send it, with the database's plans."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg

from deploy.bench import dataset, queries
from deploy.bench.instance import Bench
from deploy.local.layout import database_url
from deploy.local.say import say
from grafana.committed import Asked, asked
from grafana.expanding import Chosen, Shown, milliseconds, sql

RANGES: Final = {"24 h": timedelta(hours=24), "7 d": timedelta(days=7), "90 d": timedelta(days=90)}
ROLE: Final = "brigade_grafana"
AIM_MS: Final = 200
TIMES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    panel: str
    shown: str
    first_ms: float
    median_ms: float
    rows: int
    used: list[str]
    rows_read: int
    scans_all: bool


def run(bench: Bench, rows: int) -> tuple[int, list[Answer]]:
    """How many readings there are, about as many as asked for, and the answers."""
    rows, ends = dataset.ready(bench, rows)
    dataset.with_accounts(bench)
    chunks = queries.chunks_of(bench)
    url = database_url(bench.stack.instance, ROLE, dataset.NAME)
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        answers = []
        for one in measured(connection, ends, chunks):
            say(line(one))
            answers.append(one)
    return rows, answers


def measured(connection: psycopg.Connection, ends: datetime, chunks: Mapping[str, str]) -> Iterator[Answer]:
    """Every statement for every range that ends with the readings."""
    devices = [name for (name,) in connection.execute("SELECT name FROM devices ORDER BY name").fetchall()]
    for statement in asked("timescaledb"):
        for shown, back in RANGES.items():
            yield _measured(connection, statement, shown, _shown(statement, ends, back, devices), chunks)


def _shown(statement: Asked, ends: datetime, back: timedelta, devices: Sequence[str]) -> Shown:
    one = statement.board == "kitchen-device"
    chosen = {
        "site": Chosen(dataset.SITE),
        "device": Chosen(devices[len(devices) // 2]) if one else Chosen(devices, multi=True),
        "metric": Chosen(dataset.METRICS[0]),
    }
    panel = statement.panel
    points, least = panel.get("maxDataPoints", 1_000), milliseconds(panel.get("interval") or "1m")
    return Shown(ends - back, ends, chosen, points=points, least_ms=least)


def _measured(
    connection: psycopg.Connection, statement: Asked, shown: str, asked_for: Shown, chunks: Mapping[str, str]
) -> Answer:
    text = sql(statement.target["rawSql"], asked_for).encode()
    times, rows = [], 0
    for _ in range(1 + TIMES):
        began = time.perf_counter()
        rows = len(connection.execute(text).fetchall())
        times.append((time.perf_counter() - began) * 1000)
    used, rows_read, scans_all = queries.scans([explained(connection, text)], chunks)
    return Answer(
        panel=f"{statement.board}: {statement.panel['title']}",
        shown=shown,
        first_ms=times[0],
        median_ms=statistics.median(times[1:]),
        rows=rows,
        used=used,
        rows_read=rows_read,
        scans_all=scans_all,
    )


def explained(connection: psycopg.Connection, text: bytes) -> dict[str, Any]:
    """The plan, as it was run."""
    ((plans,),) = connection.execute(b"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + text).fetchall()
    plan: dict[str, Any] = plans[0]
    return plan


def line(one: Answer) -> str:
    return "; ".join(
        (
            f"{one.panel}, {one.shown}: {one.median_ms:.1f} ms, first {one.first_ms:.0f}, {one.rows:,} rows",
            f"{one.rows_read:,} read by {', '.join(one.used) or 'no readings'}",
            *(["READS A WHOLE TABLE"] if one.scans_all else []),
            *([f"ABOVE {AIM_MS} ms"] if one.median_ms > AIM_MS else []),
        )
    )
