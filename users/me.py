"""`/me`: one's own account, sessions and second factor."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from fastapi import APIRouter, Response
from pydantic import Field

from users import accounts, audit, letters, mails, second_factor
from users.accounts import Person
from users.callers import Caller, PersonOf
from users.database import Connection
from users.pages import Code, Email, GivenPassword, Language, Model, Name, NewPassword, Token
from users.problems import (
    BadCredentialsError,
    BadRequestError,
    BadTokenError,
    ConflictError,
    ForbiddenError,
    SessionEndedError,
    ThrottledError,
    TokenMissingError,
    UnknownError,
    documented,
)
from users.resources import DatabaseOf, Resources, ResourcesOf, SessionsOf
from users.roles import Role

ADDRESS_LASTS: Final = timedelta(days=1)

ME: Final = """
SELECT id, organisation, email, name, language, password, epoch, totp_since IS NOT NULL AS totp
FROM people WHERE organisation = %(organisation)s AND id = %(person)s
"""

MEMBERSHIPS: Final = """
SELECT m.site, s.name AS site_name, m.role, s.time_zone
FROM memberships m JOIN sites s ON s.organisation = m.organisation AND s.site = m.site
WHERE m.organisation = %(organisation)s AND m.person = %(person)s
ORDER BY m.site
"""

CHANGE: Final = """
UPDATE people SET name = coalesce(%(name)s, name), language = coalesce(%(language)s, language)
WHERE organisation = %(organisation)s AND id = %(person)s
"""

SET_EMAIL: Final = """
UPDATE people SET email = %(email)s WHERE organisation = %(organisation)s AND id = %(person)s
"""

router = APIRouter(prefix="/me", tags=["me"])

REFUSALS: Final = (TokenMissingError, SessionEndedError, ForbiddenError)
"""Of every route that is for people."""

WITH_PASSWORD: Final = (*REFUSALS, BadCredentialsError, ThrottledError)


class Membership(Model):
    site: str = Field(examples=["seoul-1"])
    site_name: str
    role: Role
    time_zone: str = Field(examples=["Asia/Seoul"])


class Me(Model):
    id: UUID
    email: str
    name: str
    language: Language
    totp: bool = Field(description="Whether the second factor is on.")
    memberships: list[Membership]


class Change(Model):
    name: Name | None = None
    language: Language | None = None


class NewPasswordFor(Model):
    current: GivenPassword
    password: NewPassword


class NewEmail(Model):
    password: GivenPassword
    email: Email


class Confirmation(Model):
    token: Token


class SessionOf(Model):
    id: UUID
    created_at: datetime
    seen_at: datetime = Field(description="When its tokens were refreshed last.")
    ip: str
    agent: str
    current: bool


class SessionList(Model):
    sessions: list[SessionOf]


class Secret(Model):
    secret: str
    uri: str = Field(description="otpauth://…, for a QR code.")


class Confirm(Model):
    code: Code


class RecoveryCodes(Model):
    recovery_codes: list[str] = Field(description="Shown once; each is good once, instead of a code.")


class Proof(Model):
    password: GivenPassword


@router.get("", summary="Your account", responses=documented(*REFUSALS))
async def me(caller: PersonOf, database: DatabaseOf) -> Me:
    async with database.transaction() as connection:
        person = await _myself(connection, caller)
        memberships = await (await connection.execute(MEMBERSHIPS, _key(caller))).fetchall()
    return Me(
        **{name: person[name] for name in ("id", "email", "name", "language", "totp")},
        memberships=[Membership(**row) for row in memberships],
    )


@router.patch("", summary="Your name, your language", responses=documented(*REFUSALS))
async def change(body: Change, caller: PersonOf, database: DatabaseOf) -> Me:
    async with database.transaction() as connection:
        await connection.execute(CHANGE, _key(caller) | {"name": body.name, "language": body.language})
    return await me(caller, database)


@router.post("/password", status_code=204, summary="A new password", responses=documented(*WITH_PASSWORD))
async def new_password(body: NewPasswordFor, caller: PersonOf, resources: ResourcesOf) -> Response:
    """Ends your other sessions."""
    person = await _proved(resources, caller, body.current)
    accounts.check_new_password(body.password, person["email"])
    hashed = await resources.passwords.hash(body.password)
    async with resources.database.transaction() as connection:
        epoch = await accounts.set_password(connection, caller.organisation, caller.id, hashed)
        await accounts.tell(connection, resources.sealer, person, "password")
        await audit.record(connection, "password.changed", caller)
        await resources.sessions.end_all(caller.id, but=caller.session)
        await resources.sessions.enter_epoch(_session(caller), epoch)
    return Response(status_code=204)


@router.post(
    "/email",
    status_code=202,
    response_class=Response,
    summary="A new e-mail address",
    responses=documented(*WITH_PASSWORD),
)
async def new_email(body: NewEmail, caller: PersonOf, resources: ResourcesOf) -> Response:
    """A link goes to the new address, unless it has an account already; nothing changes until it is confirmed."""
    person = await _proved(resources, caller, body.password)
    async with resources.database.transaction() as connection:
        if await accounts.by_email(connection, body.email) is None:
            await _send_confirmation(connection, resources, person, body.email)
        await audit.record(connection, "email.asked", caller)
    return Response(status_code=202)


async def _send_confirmation(connection: Connection, resources: Resources, person: Person, email: str) -> None:
    token = await accounts.mailed_token(
        connection, person["organisation"], person["id"], purpose="email", lasts=ADDRESS_LASTS, email=email
    )
    letter = letters.new_address(person["language"], f"{resources.settings.public_url}/email#{token}")
    await mails.queue(connection, resources.sealer, person["organisation"], email, letter)


@router.post(
    "/email/confirm",
    status_code=204,
    summary="Confirm the new address by its mailed token",
    responses=documented(*REFUSALS, BadTokenError, ConflictError),
)
async def confirm_email(body: Confirmation, caller: PersonOf, resources: ResourcesOf) -> Response:
    try:
        async with resources.database.transaction() as connection:
            await _change_email(connection, resources, caller, body.token)
    except psycopg.errors.UniqueViolation:
        raise ConflictError("this address has an account by now") from None
    return Response(status_code=204)


async def _change_email(connection: Connection, resources: Resources, caller: Caller, token: str) -> None:
    used = await accounts.use_token(connection, token, "email")
    if used is None or used["id"] != caller.id:
        raise BadTokenError
    person = await _myself(connection, caller)
    await connection.execute(SET_EMAIL, _key(caller) | {"email": used["email"]})
    await accounts.forget_tokens(connection, caller.organisation, caller.id, "password")  # they are in the old mailbox
    await accounts.tell(connection, resources.sealer, person, "email")
    await audit.record(connection, "email.changed", caller, detail={"before": person["email"], "now": used["email"]})


@router.get("/sessions", summary="Where you are logged in", responses=documented(*REFUSALS))
async def my_sessions(caller: PersonOf, sessions: SessionsOf) -> SessionList:
    listed = [
        SessionOf(
            id=session.id,
            created_at=session.created_at,
            seen_at=session.seen_at,
            ip=session.ip,
            agent=session.agent,
            current=session.id == caller.session,
        )
        for session in await sessions.of(caller.id)
    ]
    return SessionList(sessions=listed)


@router.delete(
    "/sessions/{sid}", status_code=204, summary="End one of them", responses=documented(*REFUSALS, UnknownError)
)
async def end_session(sid: UUID, caller: PersonOf, resources: ResourcesOf) -> Response:
    """Its refresh token is worth nothing from now on, an access token at most ten minutes more."""
    if not await resources.sessions.end(caller.id, sid):
        raise UnknownError("you have no such session")
    async with resources.database.transaction() as connection:
        await audit.record(connection, "session.ended", caller, detail={"session": str(sid)})
    return Response(status_code=204)


@router.post("/totp", summary="Prepare the second factor", responses=documented(*REFUSALS, ConflictError))
async def prepare_totp(caller: PersonOf, resources: ResourcesOf) -> Secret:
    """Nothing changes until it is confirmed by a code."""
    async with resources.database.transaction() as connection:
        prepared = await second_factor.prepare(connection, resources.sealer, caller.organisation, caller.id)
    if prepared is None:
        raise ConflictError("the second factor is on already; turn it off first")
    return Secret(secret=prepared[0], uri=prepared[1])


@router.post(
    "/totp/confirm",
    summary="Turn the second factor on",
    responses=documented(*REFUSALS, ThrottledError),
)
async def confirm_totp(body: Confirm, caller: PersonOf, resources: ResourcesOf) -> RecoveryCodes:
    attempt = await resources.throttle.attempt(f"code of {caller.id}", caller.ip)
    async with resources.database.transaction() as connection:
        codes = await second_factor.confirm(connection, resources.sealer, caller.organisation, caller.id, body.code)
        if codes is None:
            raise BadRequestError("code", "is not the authenticator's present code, or there is nothing to confirm")
        await accounts.tell(connection, resources.sealer, await _myself(connection, caller), "totp_on")
        await audit.record(connection, "second-factor.on", caller)
    await resources.throttle.succeeded(attempt)
    return RecoveryCodes(recovery_codes=codes)


@router.delete("/totp", status_code=204, summary="Turn the second factor off", responses=documented(*WITH_PASSWORD))
async def turn_off_totp(body: Proof, caller: PersonOf, resources: ResourcesOf) -> Response:
    person = await _proved(resources, caller, body.password)
    async with resources.database.transaction() as connection:
        if await second_factor.turn_off(connection, caller.organisation, caller.id):
            await accounts.tell(connection, resources.sealer, person, "totp_off")
            await audit.record(connection, "second-factor.off", caller)
    return Response(status_code=204)


async def _proved(resources: Resources, caller: Caller, password: str) -> Person:
    """The caller, who knows the password too; as slow to guess as at the door."""
    attempt = await resources.throttle.attempt(f"password of {caller.id}", caller.ip)
    async with resources.database.transaction() as connection:
        person = await _myself(connection, caller)
    if not await resources.passwords.verify(password, person["password"]):
        raise BadCredentialsError("this is not your present password")
    await resources.throttle.succeeded(attempt)
    return person


async def _myself(connection: Connection, caller: Caller) -> Mapping[str, Any]:
    row = await (await connection.execute(ME, _key(caller))).fetchone()
    if row is None:
        raise SessionEndedError
    return row


def _key(caller: Caller) -> dict[str, Any]:
    return {"organisation": caller.organisation, "person": caller.id}


def _session(caller: Caller) -> UUID:
    if caller.session is None:
        raise SessionEndedError
    return caller.session
