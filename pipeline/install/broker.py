"""Mosquitto's accounts at its start: those of our own services; the devices' come later, from `users`.

Their names hold a `/`, which no device's may: none can be taken for another.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.install.waiting import InstallError
from pipeline.settings import InstallBrokerSettings

USERS: Final = "brigade/users"
BRIDGE: Final = "brigade/bridge"
MONITOR: Final = "brigade/monitor"
ANY_DEVICE: Final = "brigade/any-device"

CONTROL: Final = "$CONTROL/dynamic-security/v1"

ROLES: Final = {  # what each account may do; all else is refused
    USERS: [
        ("publishClientSend", CONTROL),
        ("publishClientSend", "brigade/v1/+/+/status"),  # says that a device is offline when it ended its connection
        ("subscribePattern", f"{CONTROL}/response"),
        ("publishClientReceive", f"{CONTROL}/response"),
    ],
    BRIDGE: [
        ("subscribePattern", "$share/bridge/brigade/v1/#"),
        ("subscribePattern", "brigade/v1/+/+/status"),
        ("publishClientReceive", "brigade/v1/#"),
    ],
    MONITOR: [
        ("subscribePattern", "$SYS/#"),
        ("publishClientReceive", "$SYS/#"),
    ],
    ANY_DEVICE: [  # for tests, benches and a person's simulator
        ("publishClientSend", "#"),
        ("subscribePattern", "#"),
        ("subscribePattern", "$share/#"),
        ("publishClientReceive", "#"),
    ],
}

EMPTY: Final = {
    "defaultACLAccess": {
        "publishClientSend": False,
        "publishClientReceive": False,
        "subscribe": False,
        "unsubscribe": True,
    },
    "roles": [],
    "clients": [],
}

ROUNDS: Final = 1000


def passwords(settings: InstallBrokerSettings) -> dict[str, str]:
    """By account; an account without a password is not made."""
    given = {
        USERS: settings.install_mqtt_password_users,
        BRIDGE: settings.install_mqtt_password_bridge,
        MONITOR: settings.install_mqtt_password_monitor,
        ANY_DEVICE: settings.install_mqtt_password_any_device,
    }
    return {account: password.get_secret_value() for account, password in given.items() if password is not None}


def install(file: Path, passwords: Mapping[str, str]) -> list[str]:
    """Bring the file to these accounts, leaving all others as they are; return a line for each change.

    To be called while Mosquitto is down: it reads the file at its start, and from then on writes it itself.
    """
    try:
        known = file.read_text() if file.exists() else json.dumps(EMPTY)
        document, changes = completed(json.loads(known), passwords)
        if changes:
            _write(file, json.dumps(document, indent=2))
    except OSError as error:
        raise InstallError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InstallError(
            f"{file} is not what Mosquitto's dynamic security writes: put a backup of it there, or move it away, and "
            "every device needs a new password"
        ) from error
    return changes


def completed(document: dict[str, Any], passwords: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The document with our accounts, their passwords, what they may do in this version; and what was changed."""
    roles = {role["rolename"]: role for role in document["roles"]}
    clients = {client["username"]: client for client in document["clients"]}
    changes = []
    for account, password in passwords.items():
        role, client = roles.get(account), clients.get(account)
        if role is None or _allowed(role) != set(ROLES[account]):
            roles[account] = (role or {"rolename": account}) | {"acls": _acls(account)}
            changes.append(f"role {account}: what it may do is set")
        if client is None:
            clients[account] = {"username": account, "roles": [{"rolename": account}]}
        if client is None or not _matches(client, password):
            for old in ("password", "salt", "iterations"):  # as an older Mosquitto writes them
                clients[account].pop(old, None)
            clients[account]["encoded_password"] = _encoded(password, secrets.token_bytes(64))
            changes.append(f"account {account}: {'made' if client is None else 'its password is changed'}")
    return document | {"roles": list(roles.values()), "clients": list(clients.values())}, changes


def _acls(account: str) -> list[dict[str, Any]]:
    return [{"acltype": kind, "topic": topic, "priority": 0, "allow": True} for kind, topic in ROLES[account]]


def _allowed(role: dict[str, Any]) -> set[tuple[str, str]]:
    return {(one["acltype"], one["topic"]) for one in role.get("acls", []) if one["allow"]}


def _matches(client: dict[str, Any], password: str) -> bool:
    kept = client.get("encoded_password", "")
    try:
        _, _, _, salt, _ = kept.split("$")
        return hmac.compare_digest(kept, _encoded(password, base64.b64decode(salt)))
    except (ValueError, binascii.Error):  # of another kind: made again
        return False


def _encoded(password: str, salt: bytes) -> str:
    """As Mosquitto itself hashes what it is told: PBKDF2, a thousand rounds; it pays for them at each connection."""
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS)
    return f"$7${ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def _write(file: Path, text: str) -> None:
    """For Mosquitto's user alone; written by root it is given to whoever has the folder."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    if os.geteuid() == 0:
        folder = file.parent.stat()
        os.chown(unfinished, folder.st_uid, folder.st_gid)
    unfinished.rename(file)
