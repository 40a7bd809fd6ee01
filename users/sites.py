"""`/sites`: the restaurants."""

from typing import Annotated, Any, Final

from fastapi import APIRouter
from fastapi import Query as InQuery
from psycopg.errors import UniqueViolation
from pydantic import Field

from users import audit, pages
from users.callers import CallerOf, PersonOf
from users.pages import Model, Name, Page, SiteName, SitePath, TimeZone
from users.people import REFUSALS
from users.problems import ConflictError, ForbiddenError, documented
from users.resources import DatabaseOf
from users.roles import Permission, Role

SITES: Final = """
SELECT site, name, time_zone FROM sites
WHERE organisation = %(organisation)s AND site = ANY(%(sites)s) AND (%(after)s::text IS NULL OR site > %(after)s)
ORDER BY site LIMIT %(limit)s
"""

CREATE: Final = """
INSERT INTO sites (organisation, site, name, time_zone)
VALUES (%(organisation)s, %(site)s, %(name)s, %(time_zone)s)
"""

OWN: Final = """
INSERT INTO memberships (organisation, person, site, role) VALUES (%(organisation)s, %(person)s, %(site)s, 'owner')
"""

CHANGE: Final = """
UPDATE sites SET name = coalesce(%(name)s, name), time_zone = coalesce(%(time_zone)s, time_zone)
WHERE organisation = %(organisation)s AND site = %(site)s
RETURNING site, name, time_zone
"""

router = APIRouter(prefix="/sites", tags=["sites"])


class Site(Model):
    site: str = Field(description="As in MQTT topics.", examples=["seoul-1"])
    name: str
    time_zone: str = Field(examples=["Asia/Seoul"])
    role: Role = Field(description="Yours.")


class Sites(Model):
    sites: list[Site]
    next: str | None


class New(Model):
    site: SiteName = Field(examples=["seoul-1"])
    name: Name
    time_zone: TimeZone = Field(examples=["Asia/Seoul"])


class Change(Model):
    name: Name | None = None
    time_zone: TimeZone | None = Field(None, examples=["Asia/Seoul"])


@router.get("", summary="Your sites", responses=documented(*REFUSALS))
async def sites(asked: Annotated[Page, InQuery()], caller: CallerOf, database: DatabaseOf) -> Sites:
    parameters = {
        "organisation": caller.organisation,
        "sites": list(caller.sites),
        "after": pages.decode(asked.cursor, str),
        "limit": asked.limit + 1,
    }
    async with database.transaction() as connection:
        rows = await (await connection.execute(SITES, parameters)).fetchall()
    shown, cursor = pages.cut(rows, asked.limit, lambda row: row["site"])
    return Sites(sites=[Site(**row, role=caller.sites[row["site"]]) for row in shown], next=cursor)


@router.post(
    "", status_code=201, summary="A new site, and you its owner", responses=documented(*REFUSALS, ConflictError)
)
async def create(body: New, caller: PersonOf, database: DatabaseOf) -> Site:
    if not caller.may_somewhere(Permission.SITES_WRITE):
        raise ForbiddenError("only who owns a site makes another one")
    parameters: dict[str, Any] = body.model_dump() | {"organisation": caller.organisation, "person": caller.id}
    try:
        async with database.transaction() as connection:
            await connection.execute(CREATE, parameters)
            await connection.execute(OWN, parameters)
            await audit.record(connection, "site.created", caller, site=body.site, detail=body.model_dump())
    except UniqueViolation:
        raise ConflictError("there is a site of this name", fields={"site": "is taken"}) from None
    return Site(**body.model_dump(), role=Role.OWNER)


@router.patch("/{site}", summary="Its display name, its time zone", responses=documented(*REFUSALS))
async def change(site: SitePath, body: Change, caller: CallerOf, database: DatabaseOf) -> Site:
    caller.require(Permission.SITES_WRITE, site)
    parameters = {"organisation": caller.organisation, "site": site, **body.model_dump()}
    async with database.transaction() as connection:
        row = await (await connection.execute(CHANGE, parameters)).fetchone() or {}
        detail = body.model_dump(exclude_none=True)
        await audit.record(connection, "site.changed", caller, site=site, detail=detail)
    return Site(**row, role=caller.sites[site])
