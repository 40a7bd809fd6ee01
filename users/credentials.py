"""The page of a site's device credentials: what a device connects to the broker with, in force at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Path
from fastapi import Query as InQuery
from pydantic import Field, StringConstraints

from users import broker, pages
from users.broker import DEVICE_PATTERN, Account, Broker
from users.callers import Caller, CallerOf
from users.database import Connection
from users.enrolment import Credential, Enrolment
from users.pages import Model, Page, SiteName
from users.problems import AwayError, ConflictError, ForbiddenError, UnknownError, documented
from users.resources import DatabaseOf, Resources, ResourcesOf
from users.roles import Permission

BROKER_SECONDS: Final = 1.5
"""For connecting, and for each answer: the gateway waits 3 s."""

LIST: Final = """
SELECT device, site, name, created_at, rotated_at, revoked_at FROM credentials
WHERE organisation = %(organisation)s AND site = ANY(%(sites)s) AND (%(after)s::text IS NULL OR device > %(after)s)
ORDER BY device LIMIT %(limit)s
"""

FIND: Final = """
SELECT organisation, device, site, sealed, revoked_at IS NOT NULL AS revoked FROM credentials
WHERE organisation = %(organisation)s AND site = ANY(%(sites)s) AND device = %(device)s FOR UPDATE
"""

RENAME: Final = """
UPDATE credentials SET name = coalesce(%(name)s, name) WHERE organisation = %(organisation)s AND device = %(device)s
RETURNING device, site, name, created_at, rotated_at, revoked_at
"""

router = APIRouter(tags=["credentials"])
log = structlog.get_logger(__name__)

DeviceName = Annotated[str, StringConstraints(pattern=DEVICE_PATTERN)]
DevicePath = Annotated[
    DeviceName, Path(description="The device's id, as in MQTT topics.", examples=["seoul-1.fridge-2"])
]
DisplayName = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=100, pattern=pages.NO_CONTROLS), Field(examples=["Fish"])
]


class BrokerIsAwayError(AwayError):
    kind = "broker-away"
    text = "the MQTT broker is away, so nothing was changed; try again"


class Shown(Model):
    device: str = Field(examples=["seoul-1.fridge-2"])
    site: str = Field(examples=["seoul-1"])
    name: str = Field(description="What people call it.")
    created_at: datetime
    rotated_at: datetime | None = Field(description="When it got its last password, if that is not its first.")
    revoked_at: datetime | None = Field(description="Since then it can no longer connect.")


class List(Model):
    credentials: list[Shown]
    next: str | None


class Mqtt(Model):
    """Where the device connects."""

    host: str
    port: int
    tls: bool


class Given(Model):
    """Shown this once."""

    device: str
    client_id: str = Field(description="The MQTT client id that the device has to use: its own id.")
    username: str
    password: str
    mqtt: Mqtt


class Wanted(Model):
    site: SiteName
    device: DeviceName
    name: DisplayName = ""


class Change(Model):
    site: SiteName | None = Field(None, description="Move it: it publishes below this site alone, password unchanged.")
    name: DisplayName | None = None


class Asked(Page):
    site: SiteName | None = Field(None, description="Of this site alone.")


@router.get("/credentials", summary="Who can connect to the broker", responses=documented(ForbiddenError, UnknownError))
async def listed(asked: Annotated[Asked, InQuery()], caller: CallerOf, database: DatabaseOf) -> List:
    parameters = {
        "organisation": caller.organisation,
        "sites": caller.sites_for(Permission.DEAD_LETTERS_READ, asked.site),  # auditors too see who can send
        "after": pages.decode(asked.cursor, str),
        "limit": asked.limit + 1,
    }
    async with database.transaction() as connection:
        rows = await (await connection.execute(LIST, parameters)).fetchall()
    shown, cursor = pages.cut(rows, asked.limit, lambda row: row["device"])
    return List(credentials=[Shown(**row) for row in shown], next=cursor)


@router.post(
    "/credentials",
    summary="A name and password for a device",
    status_code=201,
    responses=documented(ForbiddenError, UnknownError, ConflictError, BrokerIsAwayError),
)
async def create(wanted: Wanted, caller: CallerOf, resources: ResourcesOf) -> Given:
    caller.require(Permission.DEVICES_WRITE, wanted.site)
    if wanted.device == resources.settings.mqtt_admin_user:
        raise ConflictError("this name is taken")
    async with _changing(caller, resources) as (_, enrolment):
        [account] = await enrolment.enrol(caller.organisation, wanted.site, [(wanted.device, wanted.name)])
    return _given(account, resources)


@router.post(
    "/credentials/{device}/rotate",
    summary="Another password; the old one is refused from now on",
    responses=documented(ForbiddenError, UnknownError, ConflictError, BrokerIsAwayError),
)
async def rotate(device: DevicePath, caller: CallerOf, resources: ResourcesOf) -> Given:
    async with _changing(caller, resources) as (connection, enrolment):
        account = await enrolment.rotate(await _found(connection, caller, device))
    return _given(account, resources)


@router.patch(
    "/credentials/{device}",
    summary="Move a device to another site, or call it something else",
    responses=documented(ForbiddenError, UnknownError, ConflictError, BrokerIsAwayError),
)
async def change(device: DevicePath, wanted: Change, caller: CallerOf, resources: ResourcesOf) -> Shown:
    if wanted.site is None:  # the broker has no part in it
        async with resources.database.transaction() as connection:
            return await _renamed(connection, await _found(connection, caller, device), wanted.name)
    caller.require(Permission.DEVICES_WRITE, wanted.site)
    async with _changing(caller, resources) as (connection, enrolment):
        old = await _found(connection, caller, device)
        if wanted.site != old.site:
            await enrolment.move(old, wanted.site)
        return await _renamed(connection, old, wanted.name)


@router.delete(
    "/credentials/{device}",
    summary="Revoke: its connection ends, it cannot connect again",
    status_code=204,
    responses=documented(ForbiddenError, UnknownError, BrokerIsAwayError),
)
async def revoke(device: DevicePath, caller: CallerOf, resources: ResourcesOf) -> None:
    async with _changing(caller, resources) as (connection, enrolment):
        await enrolment.revoke(await _found(connection, caller, device))


@asynccontextmanager
async def _changing(caller: Caller, resources: Resources) -> AsyncIterator[tuple[Connection, Enrolment]]:
    """The broker first: while it is away, the table need not be asked."""
    settings = resources.settings
    try:
        async with (
            Broker(settings.broker, seconds=BROKER_SECONDS) as connected,
            resources.database.transaction() as connection,
        ):
            yield connection, Enrolment(connection, connected, resources.sealer, caller)
    except broker.BrokerAwayError as error:
        log.warning("broker_away", reason=str(error))
        raise BrokerIsAwayError from error


async def _found(connection: Connection, caller: Caller, device: str) -> Credential:
    parameters = {"organisation": caller.organisation, "sites": list(caller.sites), "device": device}
    row = await (await connection.execute(FIND, parameters)).fetchone()
    if row is None:
        raise UnknownError
    caller.require(Permission.DEVICES_WRITE, row["site"])
    return Credential(**row)


async def _renamed(connection: Connection, credential: Credential, name: str | None) -> Shown:
    parameters = {"organisation": credential.organisation, "device": credential.device, "name": name}
    return Shown.model_validate(await (await connection.execute(RENAME, parameters)).fetchone())


def _given(account: Account, resources: Resources) -> Given:
    settings = resources.settings
    return Given(
        device=account.device,
        client_id=account.device,
        username=account.device,
        password=account.password,
        mqtt=Mqtt(
            host=settings.mqtt_public_host or settings.mqtt_host,
            port=settings.mqtt_public_port or settings.mqtt_port,
            tls=settings.mqtt_public_tls,
        ),
    )
