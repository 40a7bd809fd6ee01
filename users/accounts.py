"""People's accounts in the database, and how a password becomes a session."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from fastapi import Request
from prometheus_client import Counter
from pydantic import Field

from users import audit, letters, mails, passwords, second_factor, tokens
from users.callers import identity, roles
from users.database import Connection
from users.pages import Model
from users.problems import BadCredentialsError, BadRequestError, SecondFactorNeededError, SessionEndedError
from users.resources import Resources
from users.sealing import Sealer, sha256
from users.sessions import ReusedError
from users.tokens import Access, Kind, Origin

BY_EMAIL: Final = """
SELECT organisation, id, email, name, language, password, epoch, totp_since IS NOT NULL AS totp
FROM people WHERE lower(email) = lower(%s)
"""

REHASH: Final = "UPDATE people SET password = %s WHERE organisation = %s AND id = %s AND password = %s"

SET_PASSWORD: Final = """
UPDATE people SET password = %(password)s, epoch = epoch + 1
WHERE organisation = %(organisation)s AND id = %(person)s
RETURNING epoch
"""

# One of each purpose at a time: a newer link ends the older one.
FORGET_TOKENS: Final = "DELETE FROM mailed_tokens WHERE organisation = %s AND person = %s AND purpose = %s"
KEEP_TOKEN: Final = """
INSERT INTO mailed_tokens (organisation, person, sha256, purpose, email, expires_at)
VALUES (%(organisation)s, %(person)s, %(sha256)s, %(purpose)s, %(email)s, %(expires_at)s)
"""
TOKENS_PERSON: Final = """
SELECT p.organisation, p.id, p.email, p.language
FROM mailed_tokens t JOIN people p ON p.organisation = t.organisation AND p.id = t.person
WHERE t.sha256 = %s AND t.purpose = %s AND t.expires_at > now()
"""
USE_TOKEN: Final = """
DELETE FROM mailed_tokens WHERE sha256 = %s AND purpose = %s AND expires_at > now()
RETURNING organisation, person AS id, email
"""

LOGINS: Final = Counter("users_logins_total", "Attempts to log in.", ["result"])
REFRESHES: Final = Counter("users_refreshes_total", "Refresh tokens presented.", ["result"])

Person = Mapping[str, Any]


class LoggedIn(Model):
    access_token: str = Field(description="A JWT, for `Authorization: Bearer`.")
    token_type: str = Field("Bearer", examples=["Bearer"])
    expires_in: int = Field(description="Seconds.", examples=[600])
    refresh_token: str = Field(description="Good for one refresh; each gives the next one.")


async def by_email(connection: Connection, email: str) -> Person | None:
    return await (await connection.execute(BY_EMAIL, (email,))).fetchone()


async def authenticate(resources: Resources, origin: Origin, *, email: str, password: str, code: str | None) -> Person:
    """The person with these credentials, or the refusal; throttled, and written down."""
    attempt = await resources.throttle.attempt(email, origin.ip)
    async with resources.database.transaction() as connection:
        person = await by_email(connection, email)
    if not await resources.passwords.verify(password, person["password"] if person else None) or person is None:
        await _refused(resources, origin, person, "password")
        raise BadCredentialsError
    if person["totp"] and code is None:
        await resources.throttle.give_back(attempt)
        raise SecondFactorNeededError
    if person["totp"] and not await _passes(resources, person, code or ""):
        await _refused(resources, origin, person, "code")
        raise SecondFactorNeededError
    await resources.throttle.succeeded(attempt)
    return await _rehashed(resources, person, password)


async def _passes(resources: Resources, person: Person, code: str) -> bool:
    async with resources.database.transaction() as connection:
        return await second_factor.passes(connection, resources.sealer, person["organisation"], person["id"], code)


async def _refused(resources: Resources, origin: Origin, person: Person | None, wrong: str) -> None:
    """The same work for an account that does not exist."""
    LOGINS.labels(f"wrong_{wrong}").inc()
    actor = actor_of(origin, person) if person else audit.Actor.stranger(origin)
    async with resources.database.transaction() as connection:
        await audit.record(connection, "login.refused", actor, detail={"wrong": wrong})


async def _rehashed(resources: Resources, person: Person, password: str) -> Person:
    """Bring a hash of older parameters up to today's, now that the password is at hand."""
    if passwords.outdated(person["password"]):
        hashed = await resources.passwords.hash(password)
        async with resources.database.transaction() as connection:
            await connection.execute(REHASH, (hashed, person["organisation"], person["id"], person["password"]))
    return person


async def log_in(resources: Resources, request: Request, origin: Origin, person: Person) -> LoggedIn:
    """A new session of one who has proved who they are."""
    sid, refresh_token = await resources.sessions.begin(
        person["id"],
        person["organisation"],
        epoch=person["epoch"],
        ip=origin.ip,
        agent=request.headers.get("user-agent", ""),
    )
    async with resources.database.transaction() as connection:
        row = await identity(connection, person["organisation"], person["id"])
        await audit.record(connection, "login", actor_of(origin, person), detail={"session": str(sid)})
    LOGINS.labels("ok").inc()
    return await _answer(resources, row, sid, refresh_token)


async def refresh(resources: Resources, origin: Origin, token: str) -> LoggedIn:
    """The next tokens of a session.

    The token is exchanged last: when the database is away the old one is still good, and may be tried again.
    """
    session = await resources.sessions.find(token)
    async with resources.database.transaction() as connection:
        row = await identity(connection, session.organisation, session.person)
    if row is None or row["epoch"] != session.epoch:
        await resources.sessions.end(session.person, session.id)
        REFRESHES.labels("ended").inc()
        raise SessionEndedError
    await resources.keys.signer()
    try:
        successor = await resources.sessions.rotate(token, ip=origin.ip)
    except ReusedError:
        REFRESHES.labels("reused").inc()
        await _reused(resources, origin, row, session.id)
        raise
    REFRESHES.labels("ok").inc()
    return await _answer(resources, row, session.id, successor)


async def _reused(resources: Resources, origin: Origin, person: Person, sid: UUID) -> None:
    async with resources.database.transaction() as connection:
        detail = {"session": str(sid), "why": "an old refresh token came again"}
        await audit.record(connection, "session.ended", actor_of(origin, person), detail=detail)


async def _answer(resources: Resources, row: Person | None, sid: UUID, refresh_token: str) -> LoggedIn:
    if row is None:
        raise SessionEndedError
    access = Access(
        kind=Kind.PERSON, subject=row["id"], organisation=row["organisation"], sites=roles(row["sites"]), session=sid
    )
    token = tokens.sign(access, await resources.keys.signer())
    return LoggedIn(access_token=token, expires_in=access.seconds, refresh_token=refresh_token, token_type="Bearer")


async def set_password(connection: Connection, organisation: UUID, person: UUID, hashed: str) -> int:
    """The new epoch: sessions of earlier ones have ended with the commit, and links to set a password are void."""
    await forget_tokens(connection, organisation, person, "password")
    parameters = {"password": hashed, "organisation": organisation, "person": person}
    row = await (await connection.execute(SET_PASSWORD, parameters)).fetchone()
    if row is None:
        raise SessionEndedError
    return int(row["epoch"])


def check_new_password(password: str, email: str) -> None:
    """`BadRequestError` for one that is guessed first; its length was looked at before."""
    plain = password.casefold()
    if len(set(plain)) < 5:
        raise BadRequestError("password", "has too few different characters")
    if email.partition("@")[0].casefold() in plain and len(plain) < 20:
        raise BadRequestError("password", "contains the e-mail address: choose something else, or something longer")


async def mailed_token(
    connection: Connection,
    organisation: UUID,
    person: UUID,
    *,
    purpose: str,
    lasts: timedelta,
    email: str | None = None,
) -> str:
    """A new token for a link in a mail; earlier ones of its purpose end."""
    token = secrets.token_urlsafe(32)
    await forget_tokens(connection, organisation, person, purpose)
    parameters = {
        "organisation": organisation,
        "person": person,
        "sha256": sha256(token),
        "purpose": purpose,
        "email": email,
        "expires_at": datetime.now(UTC) + lasts,
    }
    await connection.execute(KEEP_TOKEN, parameters)
    return token


async def forget_tokens(connection: Connection, organisation: UUID, person: UUID, purpose: str) -> None:
    await connection.execute(FORGET_TOKENS, (organisation, person, purpose))


async def tokens_person(connection: Connection, token: str, purpose: str) -> Person | None:
    """Whose it is, without using it."""
    return await (await connection.execute(TOKENS_PERSON, (sha256(token), purpose))).fetchone()


async def use_token(connection: Connection, token: str, purpose: str) -> Person | None:
    """Whose it is; a token works once."""
    return await (await connection.execute(USE_TOKEN, (sha256(token), purpose))).fetchone()


async def tell(connection: Connection, sealer: Sealer, person: Person, what: str) -> None:
    """A mail to the owner of an account that was changed: it may not have been them."""
    letter = letters.changed(person["language"], what)
    await mails.queue(connection, sealer, person["organisation"], person["email"], letter)


def actor_of(origin: Origin, person: Person) -> audit.Actor:
    return audit.Actor.person(origin, organisation=person["organisation"], id=person["id"], email=person["email"])
