"""Mosquitto's accounts of this instance, and where and as whom to connect."""

from urllib.parse import quote

from deploy.local.layout import Instance, Passwords
from pipeline.install.broker import ANY_DEVICE, BRIDGE, MONITOR, USERS


def passwords(instance: Instance) -> dict[str, str]:
    """By account."""
    ours = Passwords.of(instance)
    return {
        USERS: ours.mqtt_users,
        BRIDGE: ours.mqtt_bridge,
        MONITOR: ours.mqtt_monitor,
        ANY_DEVICE: ours.mqtt_any_device,
    }


def url(instance: Instance, account: str) -> str:
    """Where and as whom to connect, in one word."""
    password = passwords(instance)[account]
    return f"mqtt://{quote(account, safe='')}:{password}@127.0.0.1:{instance.ports['mqtt']}"
