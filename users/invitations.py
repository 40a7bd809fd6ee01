"""`/invitations`: how people become members of a site."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from fastapi import Query as InQuery
from psycopg.errors import UniqueViolation
from pydantic import Field

from users import accounts, audit, letters, mails, pages
from users.accounts import LoggedIn, Person
from users.callers import Caller, CallerOf
from users.database import Connection
from users.pages import Code, Email, Language, Model, Name, NewPassword, Page, SiteName, Token
from users.people import LOCK, REFUSALS
from users.problems import (
    BadCredentialsError,
    BadTokenError,
    ConflictError,
    ForbiddenError,
    SecondFactorNeededError,
    ThrottledError,
    UnknownError,
    documented,
)
from users.resources import DatabaseOf, OriginOf, Resources, ResourcesOf
from users.roles import MemberRole, Permission, Role, may_give
from users.sealing import sha256
from users.tokens import Origin

LASTS: Final = timedelta(days=7)

MEMBER: Final = """
SELECT p.id FROM memberships m JOIN people p ON p.organisation = m.organisation AND p.id = m.person
WHERE m.organisation = %(organisation)s AND m.site = %(site)s AND lower(p.email) = lower(%(email)s)
"""

# A newer invitation ends the older one of the same person to the same site.
WITHDRAW: Final = """
UPDATE invitations SET revoked_at = now()
WHERE organisation = %(organisation)s AND site = %(site)s AND lower(email) = lower(%(email)s)
  AND accepted_at IS NULL AND revoked_at IS NULL
"""

INVITE: Final = """
INSERT INTO invitations (organisation, site, email, role, sha256, invited_by, expires_at)
VALUES (%(organisation)s, %(site)s, %(email)s, %(role)s, %(sha256)s, %(person)s, %(expires_at)s)
RETURNING id, site, email, role, created_at, expires_at
"""

ABOUT: Final = """
SELECT s.name AS site_name, p.name AS inviter, p.email AS inviter_email, p.language
FROM sites s, people p
WHERE s.organisation = %(organisation)s AND s.site = %(site)s
  AND p.organisation = %(organisation)s AND p.id = %(person)s
"""

OPEN: Final = """
SELECT i.id, i.site, i.email, i.role, i.created_at, i.expires_at, p.id AS inviter, p.email AS inviter_email
FROM invitations i JOIN people p ON p.organisation = i.organisation AND p.id = i.invited_by
WHERE i.organisation = %(organisation)s AND i.site = ANY(%(sites)s)
  AND i.accepted_at IS NULL AND i.revoked_at IS NULL AND i.expires_at > now()
  AND (%(after)s::uuid IS NULL OR i.id > %(after)s)
ORDER BY i.id LIMIT %(limit)s
"""

ONE: Final = """
SELECT site, email, role FROM invitations
WHERE organisation = %(organisation)s AND id = %(id)s AND site = ANY(%(sites)s)
  AND accepted_at IS NULL AND revoked_at IS NULL
FOR UPDATE
"""

REVOKE: Final = "UPDATE invitations SET revoked_at = now() WHERE organisation = %(organisation)s AND id = %(id)s"

BY_TOKEN: Final = """
SELECT organisation, id, site, email, role FROM invitations
WHERE sha256 = %s AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now()
"""

ACCEPT: Final = """
UPDATE invitations SET accepted_at = now()
WHERE organisation = %(organisation)s AND id = %(id)s AND accepted_at IS NULL AND revoked_at IS NULL
RETURNING id
"""

JOIN: Final = """
INSERT INTO memberships (organisation, person, site, role)
VALUES (%(organisation)s, %(person)s, %(site)s, %(role)s)
ON CONFLICT DO NOTHING
"""

CREATE: Final = """
INSERT INTO people (organisation, email, name, language, password)
VALUES (%(organisation)s, %(email)s, %(name)s, %(language)s, %(password)s)
RETURNING organisation, id, email, epoch, language
"""

router = APIRouter(prefix="/invitations", tags=["people"])


class Invite(Model):
    site: SiteName = Field(examples=["seoul-1"])
    email: Email = Field(examples=["cook@example.com"])
    role: MemberRole
    language: Language | None = Field(None, description="Of the mail; yours, unless you say another.")


class By(Model):
    id: UUID
    email: str


class Invitation(Model):
    id: UUID
    site: str
    email: str
    role: Role
    created_at: datetime
    expires_at: datetime
    invited_by: By


class Invitations(Model):
    invitations: list[Invitation]
    next: str | None


class Asked(Page):
    site: SiteName | None = Field(None, description="To this site alone.")


class Accept(Model):
    token: Token
    name: Name = Field(description="Not looked at if there is an account already.")
    password: NewPassword = Field(description="A new one; of who has an account already, its password.")
    code: Code | None = Field(None, description="Of the second factor of an account that has one.")
    language: Language = Language.EN


@router.get("", summary="Those that are open", responses=documented(*REFUSALS))
async def invitations(asked: Annotated[Asked, InQuery()], caller: CallerOf, database: DatabaseOf) -> Invitations:
    parameters = {
        "organisation": caller.organisation,
        "sites": caller.sites_for(Permission.PEOPLE_READ, asked.site),
        "after": pages.decode(asked.cursor, UUID),
        "limit": asked.limit + 1,
    }
    async with database.transaction() as connection:
        rows = await (await connection.execute(OPEN, parameters)).fetchall()
    shown, cursor = pages.cut(rows, asked.limit, lambda row: row["id"])
    return Invitations(invitations=[_shown(row) for row in shown], next=cursor)


@router.post("", status_code=201, summary="Invite somebody by mail", responses=documented(*REFUSALS, ConflictError))
async def invite(body: Invite, caller: CallerOf, resources: ResourcesOf) -> Invitation:
    """The link in the mail is good for seven days."""
    caller.require(Permission.PEOPLE_WRITE, body.site)
    if not may_give(caller.sites[body.site], Role(body.role)):
        raise ForbiddenError("only an owner makes owners and managers")
    async with resources.database.transaction() as connection:
        row = await _invite(connection, resources, caller, body)
        detail = {"email": body.email, "role": body.role, "invitation": str(row["id"])}
        await audit.record(connection, "invitation.sent", caller, site=body.site, detail=detail)
    return _shown(row | {"inviter": caller.id, "inviter_email": caller.email})


async def _invite(connection: Connection, resources: Resources, caller: Caller, body: Invite) -> dict[str, Any]:
    token = secrets.token_urlsafe(32)
    parameters = {
        "organisation": caller.organisation,
        "site": body.site,
        "email": body.email,
        "role": body.role,
        "person": caller.id,
        "sha256": sha256(token),
        "expires_at": datetime.now(UTC) + LASTS,
    }
    await connection.execute(LOCK, parameters)
    if await (await connection.execute(MEMBER, parameters)).fetchone():
        raise ConflictError("they are a member of this site already; change their role instead")
    await connection.execute(WITHDRAW, parameters)
    row = await (await connection.execute(INVITE, parameters)).fetchone() or {}
    about = await (await connection.execute(ABOUT, parameters)).fetchone() or {}
    letter = letters.invitation(
        body.language or about["language"],
        site=about["site_name"],
        inviter=f"{about['inviter']} ({about['inviter_email']})",
        role=body.role,
        link=f"{resources.settings.public_url}/invite#{token}",
    )
    await mails.queue(connection, resources.sealer, caller.organisation, body.email, letter)
    return dict(row)


@router.delete("/{id}", status_code=204, summary="Take it back", responses=documented(*REFUSALS))
async def revoke(
    id: Annotated[UUID, Path(description="The invitation's.")],  # noqa: A002, its name in the path
    caller: CallerOf,
    database: DatabaseOf,
) -> Response:
    parameters = {"organisation": caller.organisation, "id": id, "sites": list(caller.sites)}
    async with database.transaction() as connection:
        row = await (await connection.execute(ONE, parameters)).fetchone()
        if row is None:
            raise UnknownError("there is no open invitation of this id")
        caller.require(Permission.PEOPLE_WRITE, row["site"])
        if not may_give(caller.sites[row["site"]], Role(row["role"])):
            raise ForbiddenError("only an owner makes or removes owners and managers")
        await connection.execute(REVOKE, parameters)
        detail = {"email": row["email"], "role": row["role"], "invitation": str(id)}
        await audit.record(connection, "invitation.revoked", caller, site=row["site"], detail=detail)
    return Response(status_code=204)


@router.post(
    "/accept",
    status_code=201,
    summary="Accept one, and be logged in",
    responses=documented(BadTokenError, BadCredentialsError, SecondFactorNeededError, ThrottledError, ConflictError),
)
async def accept(body: Accept, request: Request, origin: OriginOf, resources: ResourcesOf) -> LoggedIn:
    async with resources.database.transaction() as connection:
        invitation = await (await connection.execute(BY_TOKEN, (sha256(body.token),))).fetchone()
        if invitation is None:
            raise BadTokenError
        known = await accounts.by_email(connection, invitation["email"])
    if known:
        person = await _member_already(resources, origin, invitation, body)
    else:
        person = await _new_person(resources, origin, invitation, body)
    return await accounts.log_in(resources, request, origin, person)


async def _member_already(resources: Resources, origin: Origin, invitation: Mapping[str, Any], body: Accept) -> Person:
    """One who has an account proves it; the mailbox alone is not enough."""
    person = await accounts.authenticate(
        resources, origin, email=invitation["email"], password=body.password, code=body.code
    )
    if person["organisation"] != invitation["organisation"]:
        raise ConflictError("this address has an account in another organisation")
    async with resources.database.transaction() as connection:
        await _join(connection, origin, invitation, person)
    return person


async def _new_person(resources: Resources, origin: Origin, invitation: Mapping[str, Any], body: Accept) -> Person:
    accounts.check_new_password(body.password, invitation["email"])
    parameters = {
        "organisation": invitation["organisation"],
        "email": invitation["email"],
        "name": body.name,
        "language": body.language,
        "password": await resources.passwords.hash(body.password),
    }
    try:
        async with resources.database.transaction() as connection:
            person = await (await connection.execute(CREATE, parameters)).fetchone() or {}
            await _join(connection, origin, invitation, person)
    except UniqueViolation:
        raise ConflictError("this address has an account by now: accept with its password") from None
    return person


async def _join(connection: Connection, origin: Origin, invitation: Mapping[str, Any], person: Person) -> None:
    if await (await connection.execute(ACCEPT, invitation)).fetchone() is None:
        raise BadTokenError
    await connection.execute(JOIN, {**invitation, "person": person["id"]})
    detail = {"role": invitation["role"], "invitation": str(invitation["id"])}
    actor = accounts.actor_of(origin, person)
    await audit.record(connection, "invitation.accepted", actor, site=invitation["site"], detail=detail)


def _shown(row: Mapping[str, Any]) -> Invitation:
    fields = {name: row[name] for name in ("id", "site", "email", "role", "created_at", "expires_at")}
    return Invitation(**fields, invited_by=By(id=row["inviter"], email=row["inviter_email"]))
