"""The routes of users, behind the same door: which there are says users' own document, `accounts.json`.

Nothing goes through that is not named here: of a request's headers those in `ASKED`, of an answer's those in `TOLD`.
Who asks is told by the gateway's signed word alone.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import orjson
import psycopg
import structlog
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import browser, names, problems
from gateway.auth import Visit
from gateway.database import Database
from gateway.problems import SlowRequestError, TooLargeError, UsersAwayError
from gateway.queries import PREFIX
from gateway.settings import GatewaySettings
from gateway.tokens import Tokens
from gateway.user_service import UserService

log = structlog.get_logger(__name__)

DOCUMENT: Final = Path(__file__).with_name("accounts.json")
"""Written by scripts/docs."""

ASKED: Final = ("accept", "accept-language", "content-type", "user-agent", "if-none-match")
TOLD: Final = (
    "cache-control", "content-disposition", "content-language", "content-type", "etag", "link", "location",
    "retry-after", "vary", "www-authenticate",
)  # fmt: skip

INSIDE: Final = ("/internal", "/.well-known", "/health", "/openapi.json")
OWN: Final = frozenset({("GET", "/sites")})
"""What the gateway answers itself."""

BEGIN: Final = frozenset({"/auth/login", "/auth/refresh", "/invitations/accept"})
REFRESH: Final = "/auth/refresh"
LOGOUT: Final = "/auth/logout"
VERBS: Final = frozenset({"get", "post", "put", "patch", "delete"})


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, verb and description of each route that goes through."""
    for path, verbs in document["paths"].items():
        if path.startswith(INSIDE):
            continue
        for verb, operation in verbs.items():
            if verb in VERBS and (verb.upper(), path) not in OWN:
                yield path, verb, operation


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return found


class Membership(msgspec.Struct):
    site: str
    role: str


class Me(msgspec.Struct):
    """What of users' answer matters here."""

    memberships: list[Membership]


class Accounts:
    """Passes calls to users, and turns tokens into cookies for browsers."""

    def __init__(self, settings: GatewaySettings, users: UserService, tokens: Tokens) -> None:
        self._users = users
        self._tokens = tokens
        self._secret = settings.internal_secret.get_secret_value()
        self._body_limit = settings.body_limit_bytes
        self._body_seconds = settings.slow_request_seconds
        self._routes: dict[str, Route] = {}

    def install(self, app: FastAPI) -> None:
        """A route for each path of the document."""
        methods: dict[str, set[str]] = {}
        for path, verb, _ in operations(document()):
            methods.setdefault(path, set()).add(verb.upper())
        for path, verbs in methods.items():
            route = Route(PREFIX + path, self._endpoint(path), methods=sorted(verbs), include_in_schema=False)
            self._routes[path] = route
            route.methods = verbs  # without the HEAD that Starlette adds
            app.router.routes.append(route)

    def _endpoint(self, path: str) -> Callable[[Request], Awaitable[Response]]:
        async def forward(request: Request) -> Response:
            request.scope["route"] = self._routes[path]  # FastAPI's own routes do it: logs and metrics name it
            return await self._forward(request, path)

        return forward

    async def _forward(self, request: Request, path: str) -> Response:
        visit: Visit = request.state.visit
        body = await self._body(request)
        by_cookie = visit.headers.get("x-brigade-session") == "cookie" and path in BEGIN
        if by_cookie:
            browser.must_be_own_origin(visit.headers)
        if path in {REFRESH, LOGOUT} and not visit.authorizations and not body.strip(b" {}\r\n\t"):
            body = await self._refresh_token(visit) or body
            by_cookie = True
        headers = {name: visit.headers[name] for name in ASKED if name in visit.headers}
        if by_cookie:
            headers["content-type"] = "application/json"
        answer = await self._asked(request, path, headers, body)
        if by_cookie:
            return await self._in_cookies(visit, path, answer)
        return _passed_on(visit, answer)

    async def _asked(self, request: Request, path: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        """Users' answer; where it is yes, the names it changed are changed in the pipeline's tables, too."""
        visit: Visit = request.state.visit

        async def call() -> httpx.Response:
            return await self._users.call(
                visit.method,
                _target(path, request),
                who=visit.principal,
                address=visit.address,
                request_id=visit.request_id,
                headers=headers,
                body=body,
            )

        sites = await self._sites(visit) if (visit.method, path) in names.BY_SITES else {}
        changes = names.changes(visit.method, path, request.path_params, body, sites)
        if not changes:
            return await call()
        database: Database = request.app.state.database
        async with database.writing() as connection:
            for change in changes:
                await names.apply(connection, change)
            answer = await call()
            if not answer.is_success:
                raise psycopg.Rollback
        return answer

    async def _sites(self, visit: Visit) -> Mapping[str, str]:
        """Where a person has a role by now: their token, up to ten minutes old, knows of no site made since."""
        who = visit.principal
        if who is None or who.kind == "key":
            return who.sites if who else {}
        answer = await self._users.call("GET", "/me", who=who, address=visit.address, request_id=visit.request_id)
        if not answer.is_success:  # then the call itself is refused, too
            return {}
        return {found.site: found.role for found in msgspec.json.decode(answer.content, type=Me).memberships}

    async def _body(self, request: Request) -> bytes:
        found = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                async for part in request.stream():
                    found += part
                    if len(found) > self._body_limit:
                        raise TooLargeError(
                            f"a body may have {self._body_limit} bytes", headers={"Connection": "close"}
                        )
        except TimeoutError:
            raise SlowRequestError(f"a body must be here within {self._body_seconds:g} s") from None
        except ClientDisconnect:
            raise SlowRequestError("the body ended before its end") from None
        return bytes(found)

    async def _refresh_token(self, visit: Visit) -> bytes | None:
        """The body that the browser cannot send, as no script can read its cookie."""
        if not (refresh := visit.jar.get(browser.REFRESH)):
            return None
        access = visit.jar.get(browser.ACCESS)
        session = await self._tokens.session(access) if access else None
        browser.must_be_ours(visit.method, visit.headers, visit.jar, secret=self._secret, session=session)
        return orjson.dumps({"refresh_token": refresh})

    async def _in_cookies(self, visit: Visit, path: str, answer: httpx.Response) -> Response:
        if path == LOGOUT or (path == REFRESH and answer.status_code == HTTPStatus.UNAUTHORIZED):
            visit.cookies = browser.end()
        if path == LOGOUT or not answer.is_success:
            return _passed_on(visit, answer)
        tokens = answer.json()
        principal = await self._tokens.principal(tokens["access_token"])
        visit.cookies = browser.begin(
            tokens["access_token"], tokens["refresh_token"], secret=self._secret, session=principal.session or ""
        )
        return Response(
            orjson.dumps({"expires_in": tokens["expires_in"]}), answer.status_code, media_type="application/json"
        )


def _target(path: str, request: Request) -> str:
    """The template with its parts filled in again: whatever the client wrote, it cannot become another path."""
    parts = {name: _quoted(str(value)) for name, value in request.path_params.items()}
    query = request.scope["query_string"].decode("latin-1")
    return path.format(**parts) + (f"?{query}" if query else "")


def _quoted(part: str) -> str:
    """Dots too where a part is nothing else: the client would take `..` for a step up."""
    return part.replace(".", "%2E") if part in {".", ".."} else quote(part, safe="")


def _passed_on(visit: Visit, answer: httpx.Response) -> Response:
    headers = {name: answer.headers[name] for name in TOLD if name in answer.headers}
    content = answer.content
    if headers.get("content-type") == problems.MEDIA_TYPE:
        problem = orjson.loads(content)
        if problem["type"] == "urn:brigade:problem:not-from-gateway":
            log.error("internal_secret_differs", detail="BRIGADE_GATEWAY_INTERNAL_SECRET is not users' own")
            raise UsersAwayError("accounts are not to be had now; try again")
        content = orjson.dumps(problem | {"instance": visit.path})
    if location := headers.get("location"):
        headers["location"] = PREFIX + location if location.startswith("/") else location
    return Response(content, answer.status_code, headers=headers)
