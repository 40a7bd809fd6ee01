"""Every password of an installation, and the files of settings made from them: a folder for each part to read.

`FOLDER/passwords` has each password once; everything else is made from it. Nobody needs to see it but this command.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NamedTuple
from urllib.parse import quote

import typer

PASSWORDS: Final = "passwords"
SEALING: Final = "users-sealing"
LEAST: Final = 8
PART: Final = 10001
"""The user, and the group, that our image runs as."""

EXPORTER_MAY: Final = "+info +ping +config|get +latency +slowlog +client|list"


class PasswordsError(Exception):
    """It cannot be done; the text names the file."""


class Owner(NamedTuple):
    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """host:port of the servers, as the parts reach them."""

    database: str
    users_database: str
    redis: str


def files(password: Callable[[str], str], at: Addresses) -> dict[str, dict[str, str]]:
    """The text of each file, by the folder of who reads it."""

    def database(role: str, name: str, database: str = "brigade", server: str = at.database) -> str:
        return f"postgresql://{role}:{quote(password(name), safe='')}@{server}/{database}"

    users_database = database("brigade_users", "database-users", "brigade_users", at.users_database)
    redis = f"redis://brigade:{quote(password('redis'), safe='')}@{at.redis}/0"
    users = {
        "BRIGADE_USERS_DATABASE_URL": users_database,
        "BRIGADE_USERS_REDIS_URL": redis,
        "BRIGADE_USERS_SECRET": password(SEALING),
        "BRIGADE_USERS_INTERNAL_SECRET": password("internal"),
        "BRIGADE_USERS_MQTT_ADMIN_PASSWORD": password("mqtt-users"),
    }
    as_owner = {"BRIGADE_DATABASE_URL": database("brigade", "database-owner")}
    return {
        "postgres": {"POSTGRES_PASSWORD": password("postgres")},
        "redis": {"users.acl": _acl(password("redis"), password("redis-exporter"))},
        "bridge": {"BRIGADE_MQTT_PASSWORD": password("mqtt-bridge")},
        "worker": {"BRIGADE_DATABASE_URL": database("brigade_worker", "database-worker")},
        "maintain": as_owner,
        "broker": {"BRIGADE_MQTT_PASSWORD": password("mqtt-monitor")},
        "users": users,
        "gateway": {
            "BRIGADE_GATEWAY_DATABASE_URL": database("brigade_api", "database-api"),
            "BRIGADE_GATEWAY_REDIS_URL": redis,
            "BRIGADE_GATEWAY_INTERNAL_SECRET": password("internal"),
        },
        "install": {
            "BRIGADE_INSTALL_DATABASE_URL": database("postgres", "postgres", "postgres"),
            "BRIGADE_INSTALL_USERS_DATABASE_URL": database("postgres", "postgres", "postgres", at.users_database),
            "BRIGADE_INSTALL_PASSWORD_OWNER": password("database-owner"),
            "BRIGADE_INSTALL_PASSWORD_WORKER": password("database-worker"),
            "BRIGADE_INSTALL_PASSWORD_API": password("database-api"),
            "BRIGADE_INSTALL_PASSWORD_MONITOR": password("database-monitor"),
            "BRIGADE_INSTALL_PASSWORD_GRAFANA": password("database-grafana"),
            "BRIGADE_INSTALL_PASSWORD_USERS": password("database-users"),
            "BRIGADE_INSTALL_MQTT_PASSWORD_USERS": password("mqtt-users"),
            "BRIGADE_INSTALL_MQTT_PASSWORD_BRIDGE": password("mqtt-bridge"),
            "BRIGADE_INSTALL_MQTT_PASSWORD_MONITOR": password("mqtt-monitor"),
        },
        "owner": {"password": password("first-account")},
        "command": {**users, **as_owner, "BRIGADE_MQTT_PASSWORD": password("mqtt-monitor")},
        "grafana": {"admin_password": password("grafana-admin"), "database_password": password("database-grafana")},
        "exporters": {
            "postgres_password": password("database-monitor"),
            "redis.json": json.dumps({f"redis://exporter@{at.redis}": password("redis-exporter")}),
        },
    }


def _acl(brigade: str, exporter: str) -> str:
    """Redis' users: our parts, the exporter, and who gives no password, who may ask whether it is there."""
    return (
        "user default on nopass resetkeys resetchannels -@all +ping\n"
        f"user brigade on #{_sha256(brigade)} ~* &* +@all\n"
        f"user exporter on #{_sha256(exporter)} {EXPORTER_MAY}\n"
    )


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


class Folder:
    """Where the files are: all of one installation."""

    def __init__(self, path: Path, owners: Mapping[str, Owner]) -> None:
        self.path = path
        self.owners = owners
        self.written: list[str] = []

    def password(self, name: str) -> str:
        """Made at random where it is not there yet."""
        file = self.path / PASSWORDS / name
        if not file.exists():
            self._write(file, f"{_random(name)}\n", _ourselves())
        text = file.read_text(encoding="utf-8").removesuffix("\n")
        if len(text) < LEAST or not text.isprintable():
            raise PasswordsError(f"{file}: a password has at least {LEAST} printable characters, in one line")
        return text

    def write(self, reader: str, name: str, text: str) -> None:
        """If it is not there, or says something else."""
        owner = self.owners.get(reader, Owner(PART, PART))
        self._write(self.path / reader / name, text, owner)

    def _write(self, file: Path, text: str, owner: Owner) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_bytes() != text.encode():
            unfinished = file.with_name(f".{file.name}")
            unfinished.unlink(missing_ok=True)
            unfinished.touch(mode=0o600)
            unfinished.write_text(text, encoding="utf-8")
            unfinished.rename(file)
            self.written.append(str(file.relative_to(self.path)))
        _give(file, owner, 0o400)

    def close(self, reader: str) -> None:
        """For the reader alone, once its files are there."""
        _give(self.path / reader, self.owners.get(reader, Owner(PART, PART)), 0o700)


def _give(path: Path, owner: Owner, mode: int) -> None:
    path.chmod(mode)
    there = path.stat()
    if (there.st_uid, there.st_gid) != owner:
        os.chown(path, *owner)


def _random(name: str) -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode() if name == SEALING else secrets.token_hex(16)


def _ourselves() -> Owner:
    return Owner(os.geteuid(), os.getegid())


def create(path: Path, at: Addresses, owners: Mapping[str, Owner]) -> list[str]:
    """Make what is missing, and what is not as the passwords say; return the files that were written."""
    readers = files(str, at)
    if unknown := set(owners) - set(readers):
        raise PasswordsError(f"--owner: no such reader: {', '.join(sorted(unknown))}; there are {', '.join(readers)}")
    folder = Folder(path, owners)
    for reader, texts in files(folder.password, at).items():
        for name, text in texts.items():
            folder.write(reader, name, text)
        folder.close(reader)
    (path / PASSWORDS).chmod(0o700)
    return folder.written


app = typer.Typer(no_args_is_help=True)


@app.callback()
def passwords() -> None:
    """The passwords of an installation, in files."""


@app.command("create")
def create_command(
    folder: Annotated[Path, typer.Argument(help="Where they are to be; made if it is not there.")],
    database: Annotated[str, typer.Option(help="host:port of the pipeline's PostgreSQL.")] = "timescaledb:5432",
    users_database: Annotated[str, typer.Option(help="That of the users' PostgreSQL, if it is another one.")] = "",
    redis: Annotated[str, typer.Option(help="host:port of Redis.")] = "redis:6379",
    owner: Annotated[
        list[str], typer.Option(help=f"READER=UID[:GID], who a reader's files belong to; else {PART}. May be repeated.")
    ] = [],  # noqa: B006, typer makes a new one
) -> None:
    """Make the passwords that are missing and the files made from them: a folder for each part, readable by it alone.

    FOLDER/passwords has each password once. To change one, delete it there or write another one, and run this again;
    `brigade install database` and `brigade install broker` tell the servers, and whoever reads it starts again.
    """
    at = Addresses(database=database, users_database=users_database or database, redis=redis)
    try:
        for file in create(folder, at, dict(_owner(word) for word in owner)):
            print(file)
    except PermissionError as error:
        sys.exit(
            f"brigade: {error.filename}: {error.strerror}: run it as root, or as the user who is to read the files "
            "(--owner)"
        )
    except OSError as error:
        sys.exit(f"brigade: {error.filename}: {error.strerror}")
    except (PasswordsError, UnicodeDecodeError) as error:
        sys.exit(f"brigade: {error}")


def _owner(word: str) -> tuple[str, Owner]:
    match re.fullmatch(r"([a-z]+)=(\d+)(?::(\d+))?", word):
        case None:
            raise PasswordsError(f"--owner wants READER=UID or READER=UID:GID, not {word}")
        case found:
            reader, uid, gid = found.groups()
            return reader, Owner(int(uid), int(gid or uid))
