"""What is wrong, and what to do about it first. Pure."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from pipeline.status.seen import BROKER, DATABASE, KAFKA, PROMETHEUS, Disk, Finding, Part, Seen, State

BEHIND_SECONDS: Final = 60
REFUSED_SHARE: Final = 0.05
"""Of the readings of the last hour. A device with broken firmware is worth a look, a broken message is not."""
FREE_SHARE: Final = 0.1
ERRORS_WITHIN: Final = timedelta(hours=1)
SERIOUS: Final = frozenset({"", "critical", "warning"})
"""Of alerts; the others are told to nobody at once."""
ALWAYS: Final = "Watchdog"
"""An alert that fires to say that alerting works."""

SERVER_ADVICE: Final = {
    KAFKA: (
        "Nothing is lost: the MQTT broker keeps what devices send until Kafka is back.",
        "is it running? Its own log says why not. Is BRIGADE_KAFKA_BOOTSTRAP_SERVERS right? `brigade settings`",
        "afterwards: `brigade topics check`",
    ),
    DATABASE: (
        "Nothing is lost: Kafka keeps the readings until the database is back. The API cannot answer meanwhile.",
        "is it running? Its own log says why not; is its disk full?",
        "can it be reached? `psql \"$BRIGADE_DATABASE_URL\" -c 'SELECT 1'`",
    ),
    BROKER: (
        "Devices keep what they measure, as far as their memory goes. Start it soon.",
        "is it running? Its own log says why not. Are BRIGADE_MQTT_HOST and BRIGADE_MQTT_PORT right?",
    ),
    PROMETHEUS: (
        "The kitchen is not touched, but no alert comes while it is away.",
        "is it running? Its own log says why not; `promtool check config` on its configuration",
    ),
}


def findings(seen: Seen, *, logs: str = "") -> list[Finding]:
    """The worst first. `logs` is the folder of the parts' logs, where there is one."""
    found = [*_parts(seen, logs), *_versions(seen.parts), *_data(seen), *_disks(seen.disks), *_alerts(seen)]
    return sorted(found, key=lambda finding: finding.state is not State.WRONG)


def state(found: Sequence[Finding]) -> State:
    if any(finding.state is State.WRONG for finding in found):
        return State.WRONG
    return State.UNKNOWN if found else State.WELL


def _parts(seen: Seen, logs: str) -> Iterator[Finding]:
    for part in seen.parts:
        if part.state is not State.WELL:
            yield Finding(state=part.state, what=_what(part), advice=_advice(part, logs))
        errors = [e for e in part.events if e.level != "warning" and e.ours and seen.at - e.at < ERRORS_WITHIN]
        if errors:
            last = errors[-1]
            told = f"{last.event}: {last.reason}" if last.reason else last.event
            yield Finding(
                state=State.WRONG,
                what=f"{part.name} logged {len(errors)} error(s) in the last hour, the last at {last.at:%H:%M}: {told}",
                advice=("an error means that data were lost or a person is needed: read it whole", _log(part, logs)),
            )


def _what(part: Part) -> str:
    if part.state is State.UNKNOWN:
        return f"{part.name}: cannot tell: {part.detail}"
    return f"{part.name} is {'up, but not ready' if part.up else 'down'}: {part.detail}"


def _advice(part: Part, logs: str) -> Sequence[str]:
    if part.state is State.UNKNOWN:
        return (f"is the address right, and may you reach it from here? {part.address}",)
    if part.name in SERVER_ADVICE:
        return SERVER_ADVICE[part.name]
    if part.up:
        return (f"it waits, and goes on by itself when what it waits for is back: `curl {part.address}/readyz`",)
    return (_log(part, logs), "whatever keeps it running should have started it again: is that itself alive?")


def _log(part: Part, logs: str) -> str:
    return f"`tail -n 20 {logs}/{part.name}.log`" if logs else f"the log of {part.name}, wherever yours are collected"


def _versions(parts: Sequence[Part]) -> Iterator[Finding]:
    by_version: dict[str, list[str]] = {}
    for part in parts:
        if part.version and part.name not in SERVER_ADVICE:
            by_version.setdefault(part.version, []).append(part.name)
    if len(by_version) > 1:
        told = "; ".join(f"{version}: {', '.join(names)}" for version, names in sorted(by_version.items()))
        advice = ("fine while a new version is rolled out; if not, roll out the same one everywhere",)
        yield Finding(state=State.WRONG, what=f"parts of several versions: {told}", advice=advice)


def _data(seen: Seen) -> Iterator[Finding]:
    if seen.topics_wrong:
        advice = ("`brigade topics check` says what differs", "`brigade topics create` mends what can be mended")
        yield Finding(state=State.WRONG, what=f"Kafka: {seen.topics_wrong}", advice=advice)
    if seen.lag and seen.lag.seconds > BEHIND_SECONDS:
        yield Finding(
            state=State.WRONG,
            what=f"the workers are {seen.lag.seconds:.0f} s behind, about {seen.lag.messages:,.0f} messages",
            advice=(
                "is it growing? run this again; if it shrinks, wait",
                "is a worker down, or does one wait for the database? it says so above",
                "all well, and still growing: start one more worker, up to one for each partition",
            ),
        )
    if tables := seen.tables:
        if tables.missing_migrations > 0:
            what = f"the database lacks {tables.missing_migrations} migration(s) of this version"
            yield Finding(state=State.WRONG, what=what, advice=("`brigade migrate`",))
        elif tables.missing_migrations < 0:
            what = f"the database is of a newer version than this command: it has {tables.migration}"
            yield Finding(state=State.WRONG, what=what, advice=("run the newer version",))
        if tables.refused_last_hour > REFUSED_SHARE * tables.readings_last_hour:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in tables.reasons_last_hour)
            yield Finding(
                state=State.WRONG,
                what=f"of the last hour's {tables.readings_last_hour:,} readings {tables.refused_last_hour:,} were "
                f"refused: {reasons}",
                advice=(
                    "`brigade dead-letters list` shows which devices, `brigade dead-letters show ID` the bytes",
                    "when the cause is gone, `brigade dead-letters replay` stores them after all",
                ),
            )


def _disks(disks: Sequence[Disk]) -> Iterator[Finding]:
    for disk in disks:
        if disk.free_bytes < FREE_SHARE * disk.size_bytes:
            yield Finding(
                state=State.WRONG,
                what=f"the disk of {disk.name} is {100 * (1 - disk.free_bytes / disk.size_bytes):.0f} % full",
                advice=(
                    "a full disk stops PostgreSQL and Kafka; make it larger before that",
                    "or keep less: BRIGADE_RAW_RETENTION_DAYS, BRIGADE_READINGS_RETENTION_HOURS",
                ),
            )


def _alerts(seen: Seen) -> Iterator[Finding]:
    for alert in seen.alerts:
        if alert.name != ALWAYS and alert.severity in SERIOUS:
            since = f" since {alert.since:%H:%M}" if alert.since else ""
            told = f": {alert.summary}" if alert.summary else ""
            advice = (alert.runbook,) if alert.runbook else ()
            yield Finding(state=State.WRONG, what=f"alert {alert.name} fires{since}{told}", advice=advice)
