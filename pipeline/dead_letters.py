"""`brigade dead-letters`: the messages that could not be stored: list, show, replay.

A replay is only requested here; the worker that owns the partition publishes the message again.
"""

import base64
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import psycopg
import typer
from psycopg.rows import DictRow, dict_row
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.readings import Reason
from pipeline.settings import DatabaseSettings, load

MATCHING: Final = """
SELECT l.id, l.created_at, l.received_at, l.reason, l.detail, l.mqtt_topic, d.name AS device, l.element,
       l.payload_size, l.payload_sha256, l.kafka_partition, l.kafka_offset, l.position, l.replay_requested_at,
       l.replay_published_at, l.replayed_at, l.outcome, l.resolved,
       CASE WHEN l.payload_sha256 IS NOT NULL THEN 'only the beginning of its payload was kept'
            WHEN l.mqtt_topic = '' THEN 'its Kafka record was unreadable'
            WHEN l.resolved THEN 'resolved: ' || l.outcome
            WHEN l.replay_requested_at > coalesce(l.replayed_at, '-infinity') THEN 'a replay is under way'
       END AS why_not
FROM dead_letters l LEFT JOIN devices d ON d.id = l.device_id
WHERE (%(ids)s::bigint[] IS NULL OR l.id = ANY(%(ids)s))
  AND (%(device)s::text IS NULL OR d.name = %(device)s
       OR (l.device_id = 0 AND split_part(l.mqtt_topic, '/', 4) = %(device)s))
  AND (%(site)s::text IS NULL OR split_part(l.mqtt_topic, '/', 3) = %(site)s)
  AND (%(reason)s::text IS NULL OR l.reason = %(reason)s)
  AND (%(since)s::timestamptz IS NULL OR l.received_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR l.received_at < %(until)s)
  AND (%(resolved)s OR NOT l.resolved)
ORDER BY l.id DESC LIMIT %(limit)s"""

PAYLOAD: Final = "SELECT payload FROM dead_letters WHERE id = %s"

REQUEST: Final = """
UPDATE dead_letters SET replay_requested_at = clock_timestamp(), replay_published_at = NULL
WHERE id = ANY(%s) AND NOT resolved AND payload_sha256 IS NULL AND mqtt_topic <> ''
  AND (replay_requested_at IS NULL OR replayed_at >= replay_requested_at)
RETURNING id"""

OUTCOMES: Final = """
SELECT outcome FROM dead_letters WHERE id = ANY(%s) AND replayed_at >= replay_requested_at"""

RESOLVED: Final = ("stored", "duplicate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    device: str | None = None
    site: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None


app = typer.Typer(no_args_is_help=True)

Device = Annotated[str | None, typer.Option(help="Only of this device.")]
Site = Annotated[str | None, typer.Option(help="Only with this site in their topic.")]
OfReason = Annotated[Reason | None, typer.Option(help="Only refused for this.", metavar="REASON")]
Since = Annotated[datetime | None, typer.Option(help="Only received at or after; UTC.")]
Until = Annotated[datetime | None, typer.Option(help="Only received before; UTC.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list")
def list_letters(
    *,
    device: Device = None,
    site: Site = None,
    reason: OfReason = None,
    since: Since = None,
    until: Until = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Also those that a replay has resolved.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The newest dead letters, and what became of their replays."""
    with _connect() as database:
        asked = Filter(device=device, site=site, reason=reason, since=since, until=until)
        letters = _matching(database, asked, resolved=resolved, limit=limit)
    if as_json:
        for letter in letters:
            print(_json(letter))
    else:
        _show_table(letters)


@app.command("show")
def show(letter_id: Annotated[int, typer.Argument(metavar="ID")], *, as_json: AsJson = False) -> None:
    """One dead letter with its payload."""
    with _connect() as database:
        letters = _matching(database, Filter(), ids=[letter_id], resolved=True)
        payload = b"".join(bytes(row["payload"]) for row in database.execute(PAYLOAD, (letter_id,)))
    if not letters:
        sys.exit(f"brigade: no dead letter {letter_id}")
    if as_json:
        print(_json({**letters[0], "payload_base64": base64.b64encode(payload).decode()}))
        return
    for name, value in letters[0].items():
        if value is not None and name != "why_not":
            print(f"{name:20} {_plain(value)}")
    print(f"{'replay':20} {_replay_of(letters[0])}")
    print(f"\n{_plain(payload)}")


@app.command("replay")
def replay(
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...")] = None,
    *,
    device: Device = None,
    site: Site = None,
    reason: OfReason = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are not resolved, without any filter.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, whatever the number.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the outcomes; exit 1 if one was refused again.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 60,
) -> None:
    """Send dead letters through the pipeline again, as received first: after a limit was raised or a bug mended."""
    asked = Filter(device=device, site=site, reason=reason, since=since, until=until)
    if not ids and not everything and asked == Filter():
        raise typer.BadParameter("name dead letters by id, by a filter, or take --all")
    with _connect() as database:
        letters = _matching(database, asked, ids=ids or None, resolved=bool(ids))
        for missing in sorted(set(ids or []) - {letter["id"] for letter in letters}):
            print(f"{missing}: there is no such dead letter")
        possible = [letter["id"] for letter in letters if letter["why_not"] is None]
        _tell_why_not(letters, each=bool(ids))
        if possible and not ids and not yes:
            typer.confirm(f"Replay {len(possible)} dead letters?", abort=True)
        requested = [row["id"] for row in database.execute(REQUEST, (possible,))]
        print(f"{len(requested)} requested; the workers publish them")
        if wait and requested:
            _wait_for(database, requested, timeout)
    if ids and len(requested) < len(set(ids)):
        sys.exit(1)


def _connect() -> psycopg.Connection[DictRow]:
    url = load(DatabaseSettings).database_url.get_secret_value()
    return psycopg.connect(url, autocommit=True, row_factory=dict_row, application_name="brigade")


def _matching(
    database: psycopg.Connection[DictRow],
    asked: Filter,
    *,
    ids: Sequence[int] | None = None,
    resolved: bool,
    limit: int | None = None,
) -> list[DictRow]:
    parameters = {
        **asdict(asked),
        "since": asked.since and asked.since.replace(tzinfo=UTC),
        "until": asked.until and asked.until.replace(tzinfo=UTC),
        "ids": list(ids) if ids else None,
        "resolved": resolved,
        "limit": limit,
    }
    return database.execute(MATCHING, parameters).fetchall()


def _tell_why_not(letters: list[DictRow], *, each: bool) -> None:
    refused = [letter for letter in letters if letter["why_not"]]
    if each:
        for letter in refused:
            print(f"{letter['id']}: not replayed, {letter['why_not']}")
    else:
        for why, count in Counter(letter["why_not"] for letter in refused).items():
            print(f"{count} not replayed: {why}")


def _wait_for(database: psycopg.Connection[DictRow], ids: list[int], timeout: float) -> None:
    """Tell the outcomes; exit with 1 if one is missing or is not what was hoped for."""
    deadline = time.monotonic() + timeout
    while True:
        outcomes = [row["outcome"] for row in database.execute(OUTCOMES, (ids,))]
        under_way = len(ids) - len(outcomes)
        if under_way <= 0 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for outcome, count in Counter(outcomes).most_common():
        print(f"{count} {outcome}" if outcome in RESOLVED else f"{count} refused again: {outcome}")
    if under_way > 0:
        sys.exit(f"brigade: {under_way} still under way after {timeout:g} s: is a worker running?")
    if any(outcome not in RESOLVED for outcome in outcomes):
        sys.exit(1)


def _show_table(letters: list[DictRow]) -> None:
    table = Table("id", "received", "reason", "device", "detail", "size", "replay", box=None, pad_edge=False)
    for letter in letters:
        device = letter["device"] or letter["mqtt_topic"]
        received = letter["received_at"].astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        cells = (
            letter["id"],
            received,
            letter["reason"],
            device,
            letter["detail"],
            letter["payload_size"],
            _replay_of(letter),
        )
        table.add_row(*[Text(_plain(cell)) for cell in cells])
    Console(width=None if sys.stdout.isatty() else 250).print(table if letters else "no dead letters")


def _replay_of(letter: DictRow) -> str:
    if letter["why_not"]:
        return str(letter["why_not"])
    return f"refused again: {letter['outcome']}" if letter["replayed_at"] else "possible"


def _json(letter: dict[str, Any]) -> str:
    return json.dumps(letter, default=lambda value: value.astimezone(UTC).isoformat())


def _plain(value: object) -> str:
    """As it is if a terminal can print it; escaped where a device sent something else."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return repr(value)
    text = str(value)
    return text if text.replace("\n", "").isprintable() else ascii(text)
