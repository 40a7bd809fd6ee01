"""`brigade users credentials`: devices' passwords as an operator handles them, and the broker put right."""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from observability.settings import load
from users import enrolment
from users.audit import Actor
from users.broker import DEVICE_PATTERN, Account, Broker, BrokerAwayError, BrokerRefusedError
from users.database import Connection
from users.enrolment import Credential, Enrolment
from users.problems import ConflictError
from users.sealing import Sealer, SealError
from users.settings import BrokerSettings

BROKER_SECONDS: Final = 30.0

SITE: Final = "SELECT organisation FROM sites WHERE site = %s"

OF_SITE: Final = """
SELECT device, name, created_at, rotated_at, revoked_at FROM credentials WHERE site = %s ORDER BY device
"""

KNOWN: Final = """
SELECT device, site, sealed FROM credentials WHERE device = ANY(%s) AND revoked_at IS NULL
"""

ONE: Final = """
SELECT organisation, device, site, sealed, revoked_at IS NOT NULL AS revoked FROM credentials
WHERE device = %s FOR UPDATE
"""

app = typer.Typer(help="Devices' names and passwords on the MQTT broker.", no_args_is_help=True)

T = TypeVar("T")
Device = Annotated[str, typer.Argument(help="Its id, as in MQTT topics.")]


@app.command("list")
def list_(site: Annotated[str, typer.Option(help="The site's name, as in MQTT topics.")]) -> None:
    """Who can connect, and since when."""

    async def go(connection: Connection, _settings: BrokerSettings) -> list[dict[str, Any]]:
        return await (await connection.execute(OF_SITE, (site,))).fetchall()

    for row in _run(go):
        revoked = f"revoked {row['revoked_at']:%Y-%m-%d %H:%M}" if row["revoked_at"] else ""
        print(f"{row['device']:30} {row['name']:20} {row['rotated_at'] or row['created_at']:%Y-%m-%d %H:%M} {revoked}")


@app.command()
def create(
    devices: Annotated[list[str], typer.Argument(help="Their ids, as in MQTT topics.")],
    site: Annotated[str, typer.Option(help="The site's name, as in MQTT topics.")],
    file: Annotated[
        Path | None,
        typer.Option(help="Keep the passwords there as JSON; who has one keeps it, and the broker is made to know it."),
    ] = None,
) -> None:
    """Give devices a password, and say it."""
    if wrong := [device for device in devices if not re.fullmatch(DEVICE_PATTERN, device)]:
        raise typer.BadParameter(f"{wrong[0]!r}: letters, digits, . _ : - and at most 128 of them")

    async def go(connection: Connection, settings: BrokerSettings) -> dict[str, str]:
        sealer = Sealer(settings.key)
        organisation = await _organisation(connection, site)
        known = await _known(connection, sealer, site, devices) if file else []
        new = sorted(set(devices) - {account.device for account in known})
        async with Broker(settings.broker, seconds=BROKER_SECONDS) as broker:
            if known:
                there = await broker.states()
                await broker.put(account for account in known if there.get(account.device) != account.state)
            changes = Enrolment(connection, broker, sealer, Actor.operator(organisation))
            made = await changes.enrol(organisation, site, [(device, "") for device in new])
        return {account.device: account.password for account in (*known, *made)}

    passwords = _run(go)
    if file:
        _keep(file, passwords)
        return
    for device, password in passwords.items():
        print(f"{device} {password}")


@app.command()
def rotate(device: Device) -> None:
    """Give a device another password, and say it; the old one is refused from now on."""

    async def go(changes: Enrolment, old: Credential) -> str:
        return (await changes.rotate(old)).password

    print(_change(device, go))


@app.command()
def revoke(device: Device) -> None:
    """End a device's connection; it cannot connect again."""

    async def go(changes: Enrolment, old: Credential) -> None:
        await changes.revoke(old)

    _change(device, go)


@app.command()
def move(device: Device, site: Annotated[str, typer.Option(help="Where it is from now on.")]) -> None:
    """Let a device publish in another site; its password stays. `brigade devices move` moves its readings."""

    async def go(changes: Enrolment, old: Credential) -> None:
        await changes.move(old, site)

    _change(device, go)


@app.command()
def sync() -> None:
    """Make the broker's accounts of devices what the table says: after it lost its file, or one of the two a backup."""

    async def go(connection: Connection, settings: BrokerSettings) -> enrolment.Repaired:
        async with Broker(settings.broker, seconds=BROKER_SECONDS) as broker:
            return await enrolment.sync(connection, broker, Sealer(settings.key))

    done = _run(go)
    print(f"{done.devices} devices: {done.put} put right, {done.removed} removed, {done.roles} sites' rights put right")


def _change(device: str, go: Callable[[Enrolment, Credential], Awaitable[T]]) -> T:
    async def changing(connection: Connection, settings: BrokerSettings) -> T:
        async with Broker(settings.broker, seconds=BROKER_SECONDS) as broker:
            row = await (await connection.execute(ONE, (device,))).fetchone()
            if row is None:
                raise ConflictError(f"there is no credential of {device}")
            old = Credential(**row)
            return await go(Enrolment(connection, broker, Sealer(settings.key), Actor.operator(old.organisation)), old)

    return _run(changing)


def _run(go: Callable[[Connection, BrokerSettings], Awaitable[T]]) -> T:
    """In one transaction; what cannot be is one line and exit code 1."""
    settings = load(BrokerSettings)

    async def transaction() -> T:
        url = settings.database_url.get_secret_value()
        async with await AsyncConnection.connect(url, row_factory=dict_row) as connection:
            return await go(connection, settings)

    try:
        return asyncio.run(transaction())
    except (BrokerAwayError, BrokerRefusedError) as error:
        typer.echo(f"brigade: the MQTT broker: {error}", err=True)
    except (ConflictError, SealError) as error:
        typer.echo(f"brigade: {error}", err=True)
    raise typer.Exit(1)


async def _known(connection: Connection, sealer: Sealer, site: str, devices: list[str]) -> list[Account]:
    """Those of the devices that have a credential."""
    rows = await (await connection.execute(KNOWN, (devices,))).fetchall()
    if elsewhere := [row["device"] for row in rows if row["site"] != site]:
        raise ConflictError(f"{elsewhere[0]} belongs to another site")
    return [Account(row["device"], site, enrolment.opened(sealer, row["device"], row["sealed"])) for row in rows]


async def _organisation(connection: Connection, site: str) -> Any:
    row = await (await connection.execute(SITE, (site,))).fetchone()
    if row is None:
        raise ConflictError(f"there is no site {site}")
    return row["organisation"]


def _keep(file: Path, passwords: dict[str, str]) -> None:
    """Readable by us alone; passwords of other devices in it stay."""
    known = json.loads(file.read_text()) if file.exists() else {}
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        json.dump(known | passwords, opened, indent=2)
    unfinished.rename(file)
