"""What people ask of 50 million readings, asked over HTTP of a gateway of its own, with the database's plans."""

import json
import statistics
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from deploy.bench import dataset, serving
from deploy.bench.instance import Bench
from deploy.bench.serving import Gateway
from deploy.local.ready import wait_until
from deploy.local.say import say

TIMES = 5
LOG_SECONDS = 5.0
LOG_SETTLE_SECONDS = 0.3
SCANS = {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
DEVICE = "fridge-0042"
EXPLAIN = {
    "session_preload_libraries": "'auto_explain'",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_format": "json",
}


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    path: str
    parameters: Mapping[str, str]

    def address(self, port: int) -> str:
        return f"http://127.0.0.1:{port}/api/v1{self.path}?{urlencode(self.parameters)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    question: str
    first_ms: float
    median_ms: float
    database_ms: float
    bytes: int
    used: list[str]  # "Index Scan readings_1m 2": how, which table, how many of its chunks
    rows_read: int
    scans_all: bool  # a table of readings was read from end to end


def questions(ends: datetime) -> list[Question]:
    def readings(text: str, back: timedelta, **more: str) -> Question:
        span = {"from": _iso(ends - back), "to": _iso(ends), "device": DEVICE, "metric": "temperature_c"}
        return Question(text, "/readings", span | more)

    hour, day = timedelta(hours=1), timedelta(days=1)
    return [
        Question("latest values of a device", f"/devices/{DEVICE}/latest", {}),
        Question(f"latest values of a site of {dataset.DEVICES} devices", "/latest", {"site": dataset.SITE}),
        Question(f"list of {dataset.DEVICES} devices, online or not", "/devices", {"site": dataset.SITE}),
        readings("an hour, raw", hour, bucket="raw"),
        readings("a day, raw, thinned to 1,000 points", day, bucket="raw", max_points="1000"),
        readings("a week, raw, as CSV", 7 * day, bucket="raw", format="csv"),
        readings("a day of minutes", day, bucket="1m"),
        readings("a week by the server's choice: hours", 7 * day, bucket="auto"),
        readings("two weeks of the site's days", 14 * day, bucket="1d"),
        readings("two weeks of days as counted in Paris", 14 * day, bucket="1d", tz="Europe/Paris"),
    ]


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def run(bench: Bench, rows: int) -> tuple[int, list[Answer]]:
    """How many readings there are, about as many as asked for, and the answers."""
    rows, ends = dataset.ready(bench, rows)
    asked = questions(ends)
    with serving.gateway(bench) as served:
        timed = [_timed(question, served) for question in asked]
    with _explaining(bench), serving.gateway(bench) as served:
        plans = [_plans(bench, question, served) for question in asked]
    chunks = chunks_of(bench)
    answers = []
    for question, (times, size), plan in zip(asked, timed, plans, strict=True):
        answers.append(_answer(question, times, size, plan, chunks))
        say(line(answers[-1]))
    return rows, answers


def _timed(question: Question, served: Gateway) -> tuple[list[float], int]:
    times, size = [], 0
    for _ in range(1 + TIMES):
        began = time.perf_counter()
        size = _ask(question, served)
        times.append((time.perf_counter() - began) * 1000)
    return times, size


def _ask(question: Question, served: Gateway) -> int:
    request = urllib.request.Request(question.address(served.port), headers=served.headers)  # noqa: S310, our own gateway
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return len(answer.read())


@contextmanager
def _explaining(bench: Bench) -> Iterator[None]:
    """Sessions that begin meanwhile log each statement's plan, as it was run."""
    with bench.connect(dataset.NAME) as connection:
        connection.execute("LOAD 'auto_explain'")
        for name, value in EXPLAIN.items():
            connection.execute(f"ALTER DATABASE {dataset.NAME} SET {name} = {value}")
        try:
            yield
        finally:
            for name in EXPLAIN:
                connection.execute(f"ALTER DATABASE {dataset.NAME} RESET {name}")


def _plans(bench: Bench, question: Question, served: Gateway) -> list[dict[str, Any]]:
    """Of the statements behind one question; `brigade_api`'s alone."""
    log = bench.stack.instance.logs / "postgres.log"
    _ask(question, served)  # once for the session's own caches
    time.sleep(LOG_SETTLE_SECONDS)
    begin = log.stat().st_size
    _ask(question, served)
    found: list[dict[str, Any]] = []

    def settled() -> bool:
        before = len(found)
        found[:] = [plan for plan in logged(log, begin) if "FROM" in plan["Query Text"]]
        return len(found) == before > 0

    wait_until(settled, LOG_SECONDS)
    return found


def logged(log: Path, begin: int) -> Iterator[dict[str, Any]]:
    """The plans that the server has logged since; the JSON's lines are indented by a tab."""
    with log.open() as opened:
        opened.seek(begin)
        lines: list[str] | None = None
        for text in (*opened, ""):
            if lines is not None and not text.startswith("\t"):
                yield json.loads("".join(lines))
                lines = None
            if lines is not None:
                lines.append(text)
            if "duration:" in text and text.rstrip().endswith("plan:"):
                lines = []


def chunks_of(bench: Bench) -> dict[str, str]:
    with bench.connect(dataset.NAME) as connection:
        return dict(
            connection.execute("SELECT chunk_name, hypertable_name FROM timescaledb_information.chunks").fetchall()
        )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if plan.get("Actual Loops", 0):  # else it was planned and never run
        yield plan
        for below in plan.get("Plans", ()):
            yield from _nodes(below)


def scans(plans: Iterable[dict[str, Any]], chunks: Mapping[str, str]) -> tuple[list[str], int, bool]:
    """How tables of readings were read, how many rows that was, and whether one was read from end to end."""
    used: dict[str, set[str]] = {}
    rows, scans_all = 0, False
    for plan in plans:
        for node in _nodes(plan["Plan"]):
            name = node.get("Relation Name", "")
            table = chunks.get(name, name)
            if node["Node Type"] not in SCANS or not table.startswith("readings"):
                continue
            used.setdefault(f"{node['Node Type']} {table}", set()).add(name)
            rows += round(node["Actual Rows"] * node["Actual Loops"])
            scans_all |= node["Node Type"] == "Seq Scan"
    return [f"{how} {len(names)}" for how, names in sorted(used.items())], rows, scans_all


def _answer(
    question: Question, times: list[float], size: int, plans: list[dict[str, Any]], chunks: Mapping[str, str]
) -> Answer:
    used, rows, scans_all = scans(plans, chunks)
    return Answer(
        question=question.text,
        first_ms=times[0],
        median_ms=statistics.median(times[1:]),
        database_ms=sum(plan["Plan"]["Actual Total Time"] for plan in plans),
        bytes=size,
        used=used,
        rows_read=rows,
        scans_all=scans_all,
    )


def line(one: Answer) -> str:
    return "; ".join(
        (
            f"{one.question}: {one.median_ms:.1f} ms, first {one.first_ms:.0f}, {one.bytes:,} bytes",
            f"database {one.database_ms:.1f} ms, {one.rows_read:,} rows by {', '.join(one.used)}",
            *(["READS A WHOLE TABLE"] if one.scans_all else []),
        )
    )
