"""What came out, as docs/performance/results.json keeps it."""

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from deploy.bench import measure
from deploy.bench.api import FanOut, Load
from deploy.bench.chain import Run
from deploy.bench.panels import Answer as PanelAnswer
from deploy.bench.queries import Answer
from deploy.bench.telegraf import RivalRun
from deploy.local.layout import REPOSITORY, Broker

FOLDER = REPOSITORY / "docs" / "performance"
FILE = FOLDER / "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    cores: int
    model: str
    memory_gib: int
    system: str

    @classmethod
    def this(cls) -> "Machine":
        return cls(
            cores=os.cpu_count() or 1,
            model=measure.model(),
            memory_gib=round(measure.memory_gib()),
            system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        )


def own_settings() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.startswith(("BRIGADE_BRIDGE_", "BRIGADE_WORKER_"))
    }


@dataclass(slots=True, kw_only=True)
class Results:
    measured: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))
    machine: Machine = field(default_factory=Machine.this)
    settings: dict[str, str] = field(default_factory=own_settings)
    """Of bridge and worker, where they were not the defaults."""
    chain: dict[Broker, list[Run]] = field(default_factory=dict)
    rival: list[RivalRun] = field(default_factory=list)
    rows: int = 0
    queries: list[Answer] = field(default_factory=list)
    panel_rows: int = 0
    panels: list[PanelAnswer] = field(default_factory=list)
    api_rows: int = 0
    loads: list[Load] = field(default_factory=list)
    streams: list[FanOut] = field(default_factory=list)


def load() -> Results:
    """What was saved, or nothing yet."""
    return msgspec.json.decode(FILE.read_bytes(), type=Results) if FILE.exists() else Results()


def save(results: Results) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
