"""Where an instance of the local stack lives and what its ports are."""

import fcntl
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

REPOSITORY = Path(__file__).parents[2]

PORTS = {
    "mqtt": 1883,
    "kafka": 9092,
    "kafka-controller": 29093,
    "postgres": 5432,
    "redis": 6379,
    "prometheus": 9090,
    "alertmanager": 9093,
    "gateway": 8000,
    "gateway-metrics": 9100,
    "bridge-0": 9101,
    "worker-1": 9102,
    "worker-2": 9112,
    "lag": 9103,
    "maintain": 9104,
}


class Broker(StrEnum):
    DURABLE = "durable"  # on disk before it is acknowledged
    MEMORY = "memory"  # faster; loses everything when Mosquitto is killed


class LayoutError(Exception):
    """The person asked for something that cannot be."""


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    if own := environment.get("BRIGADE_CACHE"):
        return Path(own).absolute()
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "brigade"


def state_folder(instance: str, environment: Mapping[str, str] = os.environ) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", instance):  # scripts/down --delete removes this folder
        raise LayoutError(f"{instance!r} cannot be an instance's name: letters, digits, - and _, at most 40")
    if own := environment.get("BRIGADE_STATE"):
        return Path(own).absolute()
    return cache_folder(environment) / "state" / instance


def ports(offset: int = 0, own: Mapping[str, int] | None = None) -> dict[str, int]:
    """Every port shifted by `offset`, except those named in `own`."""
    own = own or {}
    if unknown := set(own) - set(PORTS):
        raise LayoutError(f"no such port: {', '.join(sorted(unknown))}; there are {', '.join(PORTS)}")
    chosen = {name: own.get(name, port + offset) for name, port in PORTS.items()}
    for name, port in chosen.items():
        if not 0 < port < 65536:
            highest = 65535 - max(PORTS.values())
            raise LayoutError(f"{name} would have port {port}, which does not exist: an offset is at most {highest}")
    return chosen


@dataclass(frozen=True, kw_only=True)
class Instance:
    name: str
    cache: Path
    state: Path
    ports: Mapping[str, int]
    broker: Broker = Broker.DURABLE
    workers: int = 1

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def socket(self) -> Path:
        return self.state / "supervisor.sock"

    def data(self, server: str) -> Path:
        return self.state / "data" / server

    def save(self) -> None:
        facts = asdict(self) | {"cache": str(self.cache), "state": str(self.state)}
        (self.state / "instance.json").write_text(json.dumps(facts, indent=2))

    @classmethod
    def load(cls, name: str) -> Self:
        file = state_folder(name) / "instance.json"
        if not file.exists():
            raise LayoutError(f"there is no instance {name!r} in {file.parent}: scripts/up --instance {name}")
        facts = json.loads(file.read_text())
        return cls(
            name=facts["name"],
            cache=Path(facts["cache"]),
            state=file.parent,
            ports=facts["ports"],
            broker=Broker(facts["broker"]),
            workers=facts["workers"],
        )


@dataclass(frozen=True)
class Passwords:
    """PostgreSQL's, made once for an instance."""

    postgres: str
    brigade: str
    brigade_worker: str
    brigade_api: str

    @classmethod
    def of(cls, instance: Instance) -> Self:
        file = instance.state / "passwords.json"
        if not file.exists():
            fresh = cls(*(secrets.token_hex(16) for _ in range(4)))
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                json.dump(asdict(fresh), opened)
        return cls(**json.loads(file.read_text()))


def database_url(instance: Instance, role: str, database: str = "brigade") -> str:
    password = getattr(Passwords.of(instance), role)
    return f"postgresql://{role}:{password}@127.0.0.1:{instance.ports['postgres']}/{database}"


def hold(file: Path) -> int | None:
    """Lock `file` and return its descriptor; None while another process holds it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
