"""Our own processes on the local stack: their commands and settings."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.layout import Instance, database_url

PYTHON = sys.executable
BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # beside what all of them get


def settings(instance: Instance) -> dict[str, str]:
    """What every part of ours needs to know of this instance."""
    port = instance.ports
    return {
        "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port['kafka']}",
        "BRIGADE_MQTT_HOST": "127.0.0.1",
        "BRIGADE_MQTT_PORT": str(port["mqtt"]),
        "BRIGADE_DATABASE_URL": database_url(instance, "brigade_worker"),
        "BRIGADE_BRIDGE_PORT": str(port["bridge-0"]),
        "BRIGADE_WORKER_PORT": str(port["worker-1"]),
        "BRIGADE_LAG_PORT": str(port["lag"]),
        "BRIGADE_MAINTAIN_PORT": str(port["maintain"]),
        "BRIGADE_GATEWAY_DATABASE_URL": database_url(instance, "brigade_api"),
        "BRIGADE_GATEWAY_HOST": "127.0.0.1",
        "BRIGADE_GATEWAY_PORT": str(port["gateway"]),
        "BRIGADE_GATEWAY_METRICS_PORT": str(port["gateway-metrics"]),
    }


def owner_settings(instance: Instance) -> dict[str, str]:
    """For what changes the tables: migrations, and dropping old chunks, which only their owner may."""
    return settings(instance) | {"BRIGADE_DATABASE_URL": database_url(instance, "brigade")}


def parts(instance: Instance, workers: int, devices: int) -> list[Part]:
    """Every part that can run here, in the order in which they start."""
    return [
        Part(name="bridge-0", command=(PYTHON, "-m", "pipeline.bridge")),
        *(_worker(number, instance) for number in range(1, workers + 1)),
        Part(name="lag", command=(PYTHON, "-m", "pipeline.lag")),
        Part(name="maintain", command=(PYTHON, "-m", "pipeline.maintain"), env=owner_settings(instance)),
        Part(name="gateway", command=(PYTHON, "-m", "gateway.app")),
        Part(name="simulator", command=(str(BIN / "brigade"), "simulate", "--devices", str(devices))),
    ]


def _worker(number: int, instance: Instance) -> Part:
    name = f"worker-{number}"
    faust = (str(BIN / "faust"), "-A", "pipeline.agents", "worker", "--without-web", "-l", "warn")
    return Part(name=name, command=faust, env={"BRIGADE_WORKER_PORT": str(instance.ports[name])})
