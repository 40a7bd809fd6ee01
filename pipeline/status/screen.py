"""What was seen, in one screen; or as one JSON document."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.status.judgement import state
from pipeline.status.seen import Event, Finding, Part, Seen, State

STYLES: Final = {State.WELL: "green", State.WRONG: "bold red", State.UNKNOWN: "yellow"}
SIGNS: Final = {State.WELL: "✓", State.WRONG: "✗", State.UNKNOWN: "?"}
WORDS: Final = {
    State.WELL: "all is well",
    State.WRONG: "something is wrong",
    State.UNKNOWN: "nothing is known to be wrong, but not everything can be told",
}
EVENTS: Final = 6


def show(console: Console, seen: Seen, found: Sequence[Finding], *, explain: bool) -> None:
    blocks: list[RenderableType] = [_parts(seen), _figures(seen)]
    if events := _events(seen):
        blocks.append(events)
    console.print(Group(*blocks, *_findings(found, explain=explain)))
    said = state(found)
    hint = "" if explain or said is State.WELL else "; `brigade status --explain` says what to do"
    console.print(Text(f"{SIGNS[said]} {WORDS[said]}{hint}", STYLES[said]))


def document(seen: Seen, found: Sequence[Finding]) -> dict[str, Any]:
    """Its `parts`, `lag` and `rates` are those of the API's /system, with more in them."""
    tables, lag, rates = seen.tables, seen.lag, seen.rates
    return {
        "at": seen.at,
        "state": state(found),
        "parts": [
            {
                "name": part.name,
                "up": part.up,
                "state": part.state,
                "detail": part.detail or None,
                "address": part.address,
                "version": part.version or None,
                "since": part.since,
                "last_errors": [
                    {"at": e.at, "level": e.level, "event": e.event, "reason": e.reason} for e in part.events
                ],
            }
            for part in seen.parts
        ],
        "lag": {"records": lag.records, "messages": lag.messages, "seconds": lag.seconds} if lag else None,
        "rates": {
            "over_seconds": rates.over_seconds if rates else None,
            "received": rates.received if rates else None,
            "stored": rates.stored if rates else None,
            "refused": rates.refused if rates else None,
            "dead_letters_open": tables.dead_letters_open if tables else None,
        },
        "database": {"migration": tables.migration, "size_bytes": tables.size_bytes} if tables else None,
        "disks": [{"name": d.name, "free_bytes": d.free_bytes, "size_bytes": d.size_bytes} for d in seen.disks],
        "findings": [{"state": f.state, "what": f.what, "advice": list(f.advice)} for f in found],
    }


def _parts(seen: Seen) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("part", "", "version", "up since", "what it says"):
        table.add_column(column, overflow="fold")
    for part in seen.parts:
        table.add_row(
            part.name,
            Text(SIGNS[part.state], STYLES[part.state]),
            part.version,
            _since(part, seen.at),
            Text(part.detail, "" if part.state is State.WELL else STYLES[part.state]),
        )
    return table


def _since(part: Part, now: datetime) -> str:
    if part.since is None:
        return ""
    seconds = int((now - part.since).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{max(0, seconds)} s ago"


def _figures(seen: Seen) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    lag, rates, tables = seen.lag, seen.rates, seen.tables
    behind = f"{lag.messages:,.0f} messages in {lag.records:,} records, {lag.seconds:.1f} s" if lag else "not known"
    table.add_row("\nbehind", f"\n{behind}")
    if rates:
        told = f"{_rate(rates.received)} messages in, {_rate(rates.stored)} readings stored, {_rate(rates.refused)}"
        table.add_row("a second", f"{told} refused (over {rates.over_seconds:.0f} s)")
    else:
        table.add_row("a second", "not known")
    letters = "not known"
    if tables:
        reasons = ", ".join(f"{reason} {count}" for reason, count in tables.reasons_last_hour)
        letters = f"{tables.dead_letters_open:,} open" + (f"; in the last hour: {reasons}" if reasons else "")
    table.add_row("dead letters", letters)
    for disk in seen.disks:
        free = 100 * disk.free_bytes / disk.size_bytes
        table.add_row("disk", f"{disk.free_bytes / 1e9:,.0f} GB free of {disk.name}, {free:.0f} %")
    return table


def _rate(value: float | None) -> str:
    return "?" if value is None else f"{value:,.1f}"


def _events(seen: Seen) -> Table | None:
    found = [(event, part.name) for part in seen.parts for event in part.events]
    if not found:
        return None
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_column(overflow="fold")
    for number, (event, name) in enumerate(sorted(found, key=_at)[-EVENTS:]):
        table.add_row(("\n" if number == 0 else "") + f"{event.at:%m-%d %H:%M:%S}", "\n" * (number == 0) + name,
                      Text("\n" * (number == 0) + _told(event), "red" if event.level != "warning" else ""))  # fmt: skip
    return table


def _at(found: tuple[Event, str]) -> datetime:
    return found[0].at


def _told(event: Event) -> str:
    return f"{event.level} {event.event}{f': {event.reason[:160]}' if event.reason else ''}"


def _findings(found: Sequence[Finding], *, explain: bool) -> list[Text]:
    lines = [Text("")]
    for finding in found:
        lines.append(Text(f"{SIGNS[finding.state]} {finding.what}", STYLES[finding.state]))
        if explain:
            lines += [Text(f"    {advice}") for advice in finding.advice]
    return lines
