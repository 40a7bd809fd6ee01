"""`/auth/…`: in, on and out again."""

from contextlib import suppress
from datetime import timedelta
from typing import Final

from fastapi import APIRouter, Request, Response
from pydantic import Field

from users import accounts, audit, letters, mails
from users.accounts import LoggedIn, Person
from users.callers import identity
from users.pages import Code, GivenPassword, Model, NewPassword, SomeEmail, Token
from users.problems import (
    BadCredentialsError,
    BadTokenError,
    SecondFactorNeededError,
    SessionEndedError,
    ThrottledError,
    documented,
)
from users.resources import OriginOf, Resources, ResourcesOf
from users.sessions import Session
from users.tokens import Kind, Origin

RESET_LASTS: Final = timedelta(hours=1)

router = APIRouter(prefix="/auth", tags=["auth"])


class Login(Model):
    email: SomeEmail = Field(examples=["chef@example.com"])
    password: GivenPassword
    code: Code | None = Field(None, description="Of the second factor, if it is on; or a recovery code.")


class Refresh(Model):
    refresh_token: Token


class Logout(Model):
    refresh_token: Token | None = Field(None, description="Its session ends; without one, the caller's.")


class Forgot(Model):
    email: SomeEmail


class Reset(Model):
    token: Token
    password: NewPassword


@router.post(
    "/login",
    summary="A password for tokens",
    responses=documented(BadCredentialsError, SecondFactorNeededError, ThrottledError),
)
async def login(body: Login, request: Request, origin: OriginOf, resources: ResourcesOf) -> LoggedIn:
    """The same answer, after the same work, whether the account exists or not."""
    person = await accounts.authenticate(resources, origin, email=body.email, password=body.password, code=body.code)
    return await accounts.log_in(resources, request, origin, person)


@router.post("/refresh", summary="The next tokens", responses=documented(SessionEndedError))
async def refresh(body: Refresh, origin: OriginOf, resources: ResourcesOf) -> LoggedIn:
    """Each refresh token works once, and for ten seconds more it gives the same successor: an answer may be lost.

    An older one ends the session, because somebody has a copy.
    """
    return await accounts.refresh(resources, origin, body.refresh_token)


@router.post("/logout", status_code=204, summary="End this session", responses=documented())
async def logout(origin: OriginOf, resources: ResourcesOf, body: Logout | None = None) -> Response:
    """Also when it has ended already."""
    if body and body.refresh_token:
        await _end_of_token(resources, origin, body.refresh_token)
    elif origin.kind is Kind.PERSON and origin.subject and origin.session:
        await _end(resources, origin, await resources.sessions.get(origin.session))
    return Response(status_code=204)


async def _end_of_token(resources: Resources, origin: Origin, token: str) -> None:
    with suppress(SessionEndedError):
        await _end(resources, origin, await resources.sessions.find(token))


async def _end(resources: Resources, origin: Origin, session: Session | None) -> None:
    if session is None or not await resources.sessions.end(session.person, session.id):
        return
    async with resources.database.transaction() as connection:
        if person := await identity(connection, session.organisation, session.person):
            detail = {"session": str(session.id)}
            await audit.record(connection, "logout", accounts.actor_of(origin, person), detail=detail)


@router.post(
    "/password/forgot",
    status_code=202,
    response_class=Response,
    summary="Ask for a link to set a new password",
    responses=documented(),
)
async def forgot(body: Forgot, origin: OriginOf, resources: ResourcesOf) -> Response:
    """Always the same answer at the same time; the mail goes only to somebody who has an account."""
    wanted = await resources.throttle.mail(body.email, origin.ip)
    async with resources.database.transaction() as connection:
        person = await accounts.by_email(connection, body.email)
    if wanted and person:
        resources.later.do(_send_reset(resources, origin, person))
    return Response(status_code=202)


async def _send_reset(resources: Resources, origin: Origin, person: Person) -> None:
    async with resources.database.transaction() as connection:
        token = await accounts.mailed_token(
            connection, person["organisation"], person["id"], purpose="password", lasts=RESET_LASTS
        )
        link = f"{resources.settings.public_url}/reset#{token}"
        letter = letters.reset(person["language"], link)
        await mails.queue(connection, resources.sealer, person["organisation"], person["email"], letter)
        await audit.record(connection, "password.forgotten", accounts.actor_of(origin, person))


@router.post(
    "/password/reset",
    status_code=204,
    summary="Set a new password by a mailed token",
    responses=documented(BadTokenError),
)
async def reset(body: Reset, origin: OriginOf, resources: ResourcesOf) -> Response:
    """Ends every session of the account. The second factor, if it is on, stays on."""
    async with resources.database.transaction() as connection:
        person = await accounts.tokens_person(connection, body.token, "password")
    if person is None:
        raise BadTokenError
    accounts.check_new_password(body.password, person["email"])
    hashed = await resources.passwords.hash(body.password)
    async with resources.database.transaction() as connection:
        if await accounts.use_token(connection, body.token, "password") is None:
            raise BadTokenError
        await accounts.set_password(connection, person["organisation"], person["id"], hashed)
        await accounts.tell(connection, resources.sealer, person, "password")
        await audit.record(connection, "password.reset", accounts.actor_of(origin, person))
        await resources.sessions.end_all(person["id"])
    return Response(status_code=204)
