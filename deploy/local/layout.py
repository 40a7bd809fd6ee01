"""Where an instance of the local stack lives and what its ports are."""

import fcntl
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
    "users": 8001,
    "users-metrics": 9105,
    "bridge-0": 9101,
    "worker-1": 9102,
    "worker-2": 9112,
    "lag": 9103,
    "maintain": 9104,
    "node-exporter": 9106,
    "postgres-exporter": 9107,
    "redis-exporter": 9108,
    "kafka-metrics": 9109,
    "broker": 9110,
}

OWNER = "owner@example.com"
"""The first account, which owns the simulated restaurant."""

SITE = "demo"
OWN_DEVICE = "my-fridge"
"""For a person's first own reading, in the same restaurant."""


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

    @property
    def credentials(self) -> Path:
        """The passwords of the simulated devices, and of the one that a person tries."""
        return self.state / "credentials.json"

    def data(self, server: str) -> Path:
        return self.state / "data" / server

    def save(self) -> None:
        facts = asdict(self) | {"cache": str(self.cache), "state": str(self.state)}
        (self.state / "instance.json").write_text(json.dumps(facts, indent=2))

    @classmethod
    def load(cls, name: str, state: Path | None = None) -> Self:
        """The instance of that name, or the one in the folder `state`."""
        file = (state or state_folder(name)) / "instance.json"
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
    """Made once for an instance."""

    postgres: str
    brigade: str
    brigade_worker: str
    brigade_api: str
    brigade_users: str
    brigade_grafana: str
    brigade_monitor: str
    users_secret: str  # seals what users keeps
    internal: str  # with which the gateway tells users who calls
    owner: str  # of the first account
    mqtt_users: str
    mqtt_bridge: str
    mqtt_monitor: str
    mqtt_any_device: str

    @classmethod
    def of(cls, instance: Instance) -> Self:
        """Those of the instance; what it has none for yet is made."""
        file = instance.state / "passwords.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in known]:
            known |= {name: secrets.token_hex(16) for name in missing}
            _write_secret(file, json.dumps(known))
        return cls(**{name: known[name] for name in names})


def _write_secret(file: Path, text: str) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    unfinished.rename(file)


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
