"""What was seen at one moment. Its words are those of the pages and of the API's `/system`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final


class State(StrEnum):
    WELL = "well"
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """Nobody can tell from here: a name that is not resolved, a password that is refused."""


KAFKA: Final = "kafka"
DATABASE: Final = "database"
BROKER: Final = "mqtt"
PROMETHEUS: Final = "prometheus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A warning or an error of a process."""

    at: datetime
    level: str
    event: str
    reason: str = ""
    ours: bool = True
    """A library's levels mean what the library likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A process of ours, or a server."""

    name: str
    state: State
    address: str
    up: bool
    detail: str = ""
    version: str = ""
    since: datetime | None = None
    events: Sequence[Event] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    records: int
    messages: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A second; None: not known now."""

    over_seconds: float
    received: float | None = None
    stored: float | None = None
    refused: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What the database told."""

    migration: str
    missing_migrations: int = 0
    """Of this version's; below 0: the database is of a newer one."""
    size_bytes: int = 0
    dead_letters_open: int = 0
    readings_last_hour: int = 0
    refused_last_hour: int = 0
    reasons_last_hour: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    name: str
    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    name: str
    severity: str
    since: datetime | None
    summary: str
    runbook: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    at: datetime
    parts: Sequence[Part]
    lag: Lag | None = None
    rates: Rates | None = None
    tables: Tables | None = None
    topics_wrong: str = ""
    disks: Sequence[Disk] = ()
    alerts: Sequence[Alert] = ()

    def part(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong or that nobody can tell, and the first commands against it."""

    state: State
    what: str
    advice: Sequence[str] = field(default_factory=list)
