"""What a person types, in which order it is asked, and how the answers are told."""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import psycopg
import typer
from psycopg import IsolationLevel

from pipeline.settings import DatabaseSettings, load
from pipeline.verify import checks, sent
from pipeline.verify.checks import OF_A_FILE, OF_THE_TABLES, Check

POLL_SECONDS: Final = 0.5
HOURS: Final = 24
SESSION: Final = """
SET statement_timeout = 0; SET default_transaction_read_only = off; SET jit = off; SET work_mem = '128MB'
"""

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Answer:
    """How many are wrong, and up to five of them in words."""

    check: Check
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    answers: tuple[Answer, ...]
    sent: sent.Sent | None
    marks_due: int
    marks_open: int

    @property
    def clean(self) -> bool:
        return not any(answer.count for answer in self.answers)


@app.command()
def verify(
    *,
    file: Annotated[Path | None, typer.Argument(help="What `brigade simulate --ledger` wrote.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Wait at most so many seconds for what is under way.")] = 0,
    closed: Annotated[bool, typer.Option("--closed", help="Wait for ended minutes to be computed, too.")] = False,
    hours: Annotated[float, typer.Option(min=0.01, help="Without FILE: how far back to look.")] = HOURS,
    database_url: Annotated[str | None, typer.Option(help="Default BRIGADE_DATABASE_URL.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Tell it to a program.")] = False,
) -> None:
    """Compare what was sent with what is stored, and what is stored with itself.

    With the FILE of a simulator: each acknowledged point is stored, nothing else is, each malformed message is a dead
    letter. With and without: the ledger balances and agrees with the rows; minutes, hours and days are what their
    rows give. It only reads. Exit code 1 if anything is found.
    """
    if file and not file.is_file():
        raise typer.BadParameter(f"there is no file {file}", param_hint="FILE")
    url = database_url or load(DatabaseSettings).database_url.get_secret_value()
    try:
        report = examine(url, file, wait=wait, closed=closed, hours=hours)
    except sent.NotALedgerError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from error
    sys.stdout.write(_json(report) if json else _text(report))
    if not report.clean:
        raise typer.Exit(1)


def examine(
    url: str, file: Path | None = None, *, wait: float = 0, closed: bool = False, hours: float = HOURS
) -> Report:
    """Ask everything at one moment of the database; before, wait until what was acknowledged has arrived.

    A database that is away is waited for as long.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            return _examine(url, file, deadline, closed=closed, hours=hours)
        except psycopg.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(POLL_SECONDS)


def _examine(url: str, file: Path | None, deadline: float, *, closed: bool, hours: float) -> Report:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SESSION)
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        loaded = sent.load(connection, file) if file else None
        while time.monotonic() < deadline and _under_way(connection, loaded, hours, closed=closed):
            time.sleep(POLL_SECONDS)
        with connection.transaction():
            facts = _facts(connection, loaded, hours)
            connection.execute(checks.RECOUNT, facts)
            connection.execute("ANALYZE recount")
            asked = (*OF_A_FILE, *OF_THE_TABLES) if loaded else OF_THE_TABLES
            due, marks_open = _marks(connection)
            return Report(
                answers=tuple(_ask(connection, check, facts) for check in asked),
                sent=loaded,
                marks_due=due,
                marks_open=marks_open,
            )


def _facts(connection: psycopg.Connection[Any], loaded: sent.Sent | None, hours: float) -> dict[str, Any]:
    """What is asked about: times of readings, times of receipt, devices. Makes the table `span`."""
    now = datetime.now(UTC)
    facts: dict[str, Any] = {"first": now - timedelta(hours=hours), "last": now, "devices": None}
    facts["sent_from"], facts["sent_until"] = facts["first"], now
    if loaded:
        connection.execute(checks.KNOW_DEVICES)
        connection.execute(checks.KNOW_METRICS)
        connection.execute("ANALYZE sent_device, sent_metric")
        ((facts["devices"],),) = connection.execute(checks.DEVICES).fetchall()
        ((first, last),) = connection.execute(checks.TIMES).fetchall()
        facts["first"], facts["last"] = first or now, last or now
        facts["sent_from"] = _moment(loaded.first_us) or now
        facts["sent_until"] = _moment(loaded.last_us) or now
    facts["received_from"] = facts["sent_from"].replace(minute=0, second=0, microsecond=0)
    connection.execute(checks.SPAN, facts)
    connection.execute("ANALYZE span")
    return facts


def _under_way(connection: psycopg.Connection[Any], loaded: sent.Sent | None, hours: float, *, closed: bool) -> bool:
    with connection.transaction(force_rollback=True):
        facts = _facts(connection, loaded, hours)
        if closed and _marks(connection)[0]:
            return True
        arriving = (checks.NOT_STORED, checks.NOT_REFUSED) if loaded else ()
        return any(_ask(connection, check, facts).count for check in arriving)


def _marks(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    ((due, marks_open),) = connection.execute(checks.MARKS).fetchall()
    return due, marks_open


def _ask(connection: psycopg.Connection[Any], check: Check, facts: dict[str, Any]) -> Answer:
    rows = connection.execute(check.sql, facts).fetchall()
    return Answer(check, rows[0][0] if rows else 0, tuple(example for _, example in rows))


def _moment(us: int | None) -> datetime | None:
    return datetime.fromtimestamp(us / 1_000_000, UTC) if us else None


# Telling ---------------------------------------------------------------------------------------------------


def _json(report: Report) -> str:
    told = {
        "clean": report.clean,
        "sent": dict(report.sent.outcomes) | {"points": report.sent.points} if report.sent else None,
        "checks": {a.check.name: {"count": a.count, "examples": a.examples} for a in report.answers},
        "marks": {"due": report.marks_due, "open": report.marks_open},
    }
    return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n"


def _text(report: Report) -> str:
    return "".join(f"{line}\n" for line in [*_head(report), *_table(report), *_findings(report)])


def _head(report: Report) -> Iterable[str]:
    if report.sent is None:
        return
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(report.sent.outcomes.items()))
    yield f"In the file: {sum(report.sent.outcomes.values()):,} messages ({outcomes}), {report.sent.points:,} points."
    if report.sent.cut:
        yield "The file's last line is cut: the simulator was killed, and what it sent last is not in the file."


def _table(report: Report) -> Iterable[str]:
    for answer in report.answers:
        yield f"{answer.check.name:<40}{answer.count or 'none':>12}"
    yield f"{'buckets still to be computed':<40}{report.marks_open or 'none':>12}"


def _findings(report: Report) -> Iterable[str]:
    for answer in report.answers:
        if answer.count:
            yield f"\n{answer.check.name}: {answer.count:,}. {answer.check.meaning}"
            yield from (f"  {example}" for example in answer.examples)
            if answer.count > len(answer.examples):
                yield f"  and {answer.count - len(answer.examples):,} more"
    if report.marks_due:
        yield (
            f"\n{report.marks_due:,} minutes, hours or days have ended and are not computed yet; queries compute them"
            " from their rows meanwhile. If it does not go away: is a worker running?"
        )
    yield "\nNothing is wrong." if report.clean else "\nSomething is wrong."
