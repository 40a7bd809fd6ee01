"""`/people`: who is a member of which site, and as what."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Response
from fastapi import Query as InQuery
from pydantic import Field

from users import audit, pages
from users.callers import Caller, CallerOf
from users.database import Connection
from users.pages import Model, Page, SiteName, SitePath
from users.problems import (
    ForbiddenError,
    LastOwnerError,
    SessionEndedError,
    TokenMissingError,
    UnknownError,
    documented,
)
from users.resources import DatabaseOf
from users.roles import MemberRole, Permission, Role, may_give

PEOPLE: Final = """
SELECT p.id, p.email, p.name, p.totp_since IS NOT NULL AS totp,
       jsonb_agg(jsonb_build_object('site', m.site, 'role', m.role, 'since', m.since) ORDER BY m.site) AS memberships
FROM memberships m JOIN people p ON p.organisation = m.organisation AND p.id = m.person
WHERE m.organisation = %(organisation)s AND m.site = ANY(%(sites)s)
  AND (%(after)s::text IS NULL OR lower(p.email) > %(after)s)
GROUP BY p.organisation, p.id
ORDER BY lower(p.email) LIMIT %(limit)s
"""

# Whoever changes the members of a site waits here for others who do, so that the last owner is seen as the last.
LOCK: Final = "SELECT site FROM sites WHERE organisation = %(organisation)s AND site = %(site)s FOR UPDATE"

MEMBERSHIP: Final = """
SELECT m.role, m.since, p.email FROM memberships m JOIN people p ON p.organisation = m.organisation AND p.id = m.person
WHERE m.organisation = %(organisation)s AND m.site = %(site)s AND m.person = %(person)s
"""

OTHER_OWNER: Final = """
SELECT person FROM memberships
WHERE organisation = %(organisation)s AND site = %(site)s AND role = 'owner' AND person <> %(person)s LIMIT 1
"""

CHANGE: Final = """
UPDATE memberships SET role = %(role)s
WHERE organisation = %(organisation)s AND site = %(site)s AND person = %(person)s
"""

REMOVE: Final = """
DELETE FROM memberships WHERE organisation = %(organisation)s AND site = %(site)s AND person = %(person)s
"""

# What they may no longer give is not to be had by an invitation that waits in a mailbox, perhaps their own.
WITHDRAW: Final = """
UPDATE invitations SET revoked_at = now()
WHERE organisation = %(organisation)s AND site = %(site)s AND invited_by = %(person)s
  AND accepted_at IS NULL AND revoked_at IS NULL AND role <> ALL(%(may_give)s)
"""

router = APIRouter(prefix="/people", tags=["people"])

REFUSALS: Final = (TokenMissingError, SessionEndedError, ForbiddenError, UnknownError)
"""Of every route about sites."""


class Membership(Model):
    site: str = Field(examples=["seoul-1"])
    role: Role
    since: datetime


class Person(Model):
    id: UUID
    email: str
    name: str
    totp: bool = Field(description="Whether the second factor is on.")
    memberships: list[Membership] = Field(description="In the sites that you may see people of.")


class People(Model):
    people: list[Person]
    next: str | None


class Asked(Page):
    site: SiteName | None = Field(None, description="Members of this site alone.")


class NewRole(Model):
    role: MemberRole


PersonPath = Annotated[UUID, Path(description="The person's id.")]


@router.get("", summary="The members of your sites", responses=documented(*REFUSALS))
async def people(asked: Annotated[Asked, InQuery()], caller: CallerOf, database: DatabaseOf) -> People:
    parameters = {
        "organisation": caller.organisation,
        "sites": caller.sites_for(Permission.PEOPLE_READ, asked.site),
        "after": pages.decode(asked.cursor, str),
        "limit": asked.limit + 1,
    }
    async with database.transaction() as connection:
        rows = await (await connection.execute(PEOPLE, parameters)).fetchall()
    shown, cursor = pages.cut(rows, asked.limit, lambda row: row["email"].lower())
    return People(people=[Person(**row) for row in shown], next=cursor)


@router.patch("/{person}/memberships/{site}", summary="Another role", responses=documented(*REFUSALS, LastOwnerError))
async def change_role(
    person: PersonPath, site: SitePath, body: NewRole, caller: CallerOf, database: DatabaseOf
) -> Membership:
    """In force at once here, and in ten minutes at the latest everywhere."""
    caller.require(Permission.PEOPLE_WRITE, site)
    key = _key(caller, site, person)
    async with database.transaction() as connection:
        before = await _member(connection, key)
        role = Role(body.role)
        _may_give(caller, site, Role(before["role"]), role)
        await _not_the_last_owner(connection, key, before=Role(before["role"]), now=role)
        await connection.execute(CHANGE, key | {"role": role})
        await _withdraw(connection, key, now=role)
        detail = {"person": str(person), "email": before["email"], "before": before["role"], "now": role}
        await audit.record(connection, "role.changed", caller, site=site, detail=detail)
    return Membership(site=site, role=role, since=before["since"])


@router.delete(
    "/{person}/memberships/{site}",
    status_code=204,
    summary="No longer a member",
    responses=documented(*REFUSALS, LastOwnerError),
)
async def remove(person: PersonPath, site: SitePath, caller: CallerOf, database: DatabaseOf) -> Response:
    """Anybody may leave a site; the account stays."""
    if person != caller.id or site not in caller.sites:
        caller.require(Permission.PEOPLE_WRITE, site)
    key = _key(caller, site, person)
    async with database.transaction() as connection:
        before = await _member(connection, key)
        if person != caller.id:
            _may_give(caller, site, Role(before["role"]))
        await _not_the_last_owner(connection, key, before=Role(before["role"]), now=None)
        await connection.execute(REMOVE, key)
        await _withdraw(connection, key, now=None)
        detail = {"person": str(person), "email": before["email"], "before": before["role"]}
        await audit.record(connection, "member.removed", caller, site=site, detail=detail)
    return Response(status_code=204)


async def _member(connection: Connection, key: Mapping[str, Any]) -> Mapping[str, Any]:
    await connection.execute(LOCK, key)
    row = await (await connection.execute(MEMBERSHIP, key)).fetchone()
    if row is None:
        raise UnknownError("nobody of this id is a member of this site")
    return row


def _may_give(caller: Caller, site: str, *given: Role) -> None:
    if not all(may_give(caller.sites[site], role) for role in given):
        raise ForbiddenError("only an owner makes or removes owners and managers")


async def _not_the_last_owner(
    connection: Connection, key: Mapping[str, Any], *, before: Role, now: Role | None
) -> None:
    if before is not Role.OWNER or now is Role.OWNER:
        return
    if await (await connection.execute(OTHER_OWNER, key)).fetchone() is None:
        raise LastOwnerError


async def _withdraw(connection: Connection, key: Mapping[str, Any], *, now: Role | None) -> None:
    may = [role for role in Role if now and may_give(now, role)]
    await connection.execute(WITHDRAW, {**key, "may_give": may})


def _key(caller: Caller, site: str, person: UUID) -> dict[str, Any]:
    return {"organisation": caller.organisation, "site": site, "person": person}
