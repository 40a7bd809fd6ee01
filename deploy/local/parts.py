"""Our own processes on the local stack: their commands and settings."""

import base64
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local import pages
from deploy.local.layout import Instance, Passwords, database_url
from pipeline.install.broker import ANY_DEVICE, BRIDGE, MONITOR, USERS

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
        "BRIGADE_MQTT_USER": ANY_DEVICE,
        "BRIGADE_MQTT_PASSWORD": Passwords.of(instance).mqtt_any_device,
        "BRIGADE_DATABASE_URL": database_url(instance, "brigade_worker"),
        "BRIGADE_BRIDGE_PORT": str(port["bridge-0"]),
        "BRIGADE_WORKER_PORT": str(port["worker-1"]),
        "BRIGADE_LAG_PORT": str(port["lag"]),
        "BRIGADE_MAINTAIN_PORT": str(port["maintain"]),
        "BRIGADE_BROKER_PORT": str(port["broker"]),
        "BRIGADE_ALERTMANAGER_URL": f"http://127.0.0.1:{port['alertmanager']}",
        "BRIGADE_GATEWAY_DATABASE_URL": database_url(instance, "brigade_api"),
        "BRIGADE_GATEWAY_HOST": "127.0.0.1",
        "BRIGADE_GATEWAY_PORT": str(port["gateway"]),
        "BRIGADE_GATEWAY_METRICS_PORT": str(port["gateway-metrics"]),
        "BRIGADE_GATEWAY_PAGES": str(pages.folder(instance.cache)),
    }


def owner_settings(instance: Instance) -> dict[str, str]:
    """For what changes the tables: migrations, and dropping old chunks, which only their owner may."""
    return settings(instance) | {"BRIGADE_DATABASE_URL": database_url(instance, "brigade")}


def users_settings(instance: Instance) -> dict[str, str]:
    """Those of users alone, for its process and for `brigade users`."""
    port, passwords = instance.ports, Passwords.of(instance)
    return {
        "BRIGADE_USERS_DATABASE_URL": database_url(instance, "brigade_users", "brigade_users"),
        "BRIGADE_USERS_REDIS_URL": f"redis://127.0.0.1:{port['redis']}/0",
        "BRIGADE_USERS_HOST": "127.0.0.1",
        "BRIGADE_USERS_PORT": str(port["users"]),
        "BRIGADE_USERS_METRICS_PORT": str(port["users-metrics"]),
        "BRIGADE_USERS_MQTT_HOST": "127.0.0.1",
        "BRIGADE_USERS_MQTT_PORT": str(port["mqtt"]),
        "BRIGADE_USERS_MQTT_ADMIN_USER": USERS,
        "BRIGADE_USERS_MQTT_ADMIN_PASSWORD": passwords.mqtt_users,
        "BRIGADE_USERS_SECRET": base64.b64encode(passwords.users_secret.encode()).decode(),
        "BRIGADE_USERS_INTERNAL_SECRET": passwords.internal,
        "BRIGADE_USERS_PUBLIC_URL": f"http://127.0.0.1:{port['gateway']}",
        "BRIGADE_USERS_MAIL_URL": (instance.state / "mails").as_uri(),
    }


def gateway_settings(instance: Instance) -> dict[str, str]:
    """What only the gateway needs, beside what is in `settings`."""
    port = instance.ports
    return {
        "BRIGADE_GATEWAY_USERS_URL": f"http://127.0.0.1:{port['users']}",
        "BRIGADE_GATEWAY_REDIS_URL": f"redis://127.0.0.1:{port['redis']}/0",
        "BRIGADE_GATEWAY_PROMETHEUS_URL": f"http://127.0.0.1:{port['prometheus']}",
        "BRIGADE_GATEWAY_INTERNAL_SECRET": Passwords.of(instance).internal,
    }


def command_settings(instance: Instance) -> dict[str, str]:
    """For the command `brigade`, whichever service it is about."""
    return owner_settings(instance) | users_settings(instance) | _status_settings(instance)


def install_settings(instance: Instance) -> dict[str, str]:
    """For `brigade install database`: a superuser, and the passwords that its roles are to have."""
    passwords = Passwords.of(instance)
    return {
        "BRIGADE_INSTALL_DATABASE_URL": database_url(instance, "postgres", "postgres"),
        "BRIGADE_INSTALL_PASSWORD_OWNER": passwords.brigade,
        "BRIGADE_INSTALL_PASSWORD_WORKER": passwords.brigade_worker,
        "BRIGADE_INSTALL_PASSWORD_API": passwords.brigade_api,
        "BRIGADE_INSTALL_PASSWORD_MONITOR": passwords.brigade_monitor,
        "BRIGADE_INSTALL_PASSWORD_GRAFANA": passwords.brigade_grafana,
        "BRIGADE_INSTALL_PASSWORD_USERS": passwords.brigade_users,
    }


def _status_settings(instance: Instance) -> dict[str, str]:
    port = instance.ports
    workers = [f"worker-{number}" for number in range(1, instance.workers + 1)]
    own = {name: port[name] for name in ("bridge-0", *workers, "lag", "maintain")}
    own |= {name: port[f"{name}-metrics"] for name in ("users", "gateway")}
    return {
        "BRIGADE_STATUS_PARTS": " ".join(f"{name}=http://127.0.0.1:{number}" for name, number in own.items()),
        "BRIGADE_STATUS_PROMETHEUS_URL": f"http://127.0.0.1:{port['prometheus']}",
        "BRIGADE_STATUS_LOGS": str(instance.logs),
        "BRIGADE_STATUS_DATA": str(instance.state / "data"),
    }


def parts(instance: Instance, workers: int, devices: int) -> list[Part]:
    """Every part that can run here, in the order in which they start."""
    return [
        Part(name="bridge-0", command=(PYTHON, "-m", "pipeline.bridge"), env=_bridge(instance)),
        *(_worker(number, instance) for number in range(1, workers + 1)),
        Part(name="lag", command=(PYTHON, "-m", "pipeline.lag")),
        Part(name="broker", command=(PYTHON, "-m", "pipeline.broker"), env=_monitor(instance)),
        Part(name="maintain", command=(PYTHON, "-m", "pipeline.maintain"), env=owner_settings(instance)),
        Part(name="users", command=(PYTHON, "-m", "users.app"), env=users_settings(instance)),
        Part(name="gateway", command=(PYTHON, "-m", "gateway.app"), env=gateway_settings(instance)),
        _simulator(instance, devices),
    ]


def _simulator(instance: Instance, devices: int) -> Part:
    words = ("--devices", str(devices), "--credentials", str(instance.credentials))
    return Part(name="simulator", command=(str(BIN / "brigade"), "simulate", *words))


def _bridge(instance: Instance) -> dict[str, str]:
    return {"BRIGADE_MQTT_USER": BRIDGE, "BRIGADE_MQTT_PASSWORD": Passwords.of(instance).mqtt_bridge}


def _monitor(instance: Instance) -> dict[str, str]:
    return {"BRIGADE_MQTT_USER": MONITOR, "BRIGADE_MQTT_PASSWORD": Passwords.of(instance).mqtt_monitor}


def _worker(number: int, instance: Instance) -> Part:
    name = f"worker-{number}"
    faust = (str(BIN / "faust"), "--quiet", "-A", "pipeline.agents", "worker", "--without-web", "-l", "warn")
    return Part(name=name, command=faust, env={"BRIGADE_WORKER_PORT": str(instance.ports[name])})
