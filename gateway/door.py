"""What every request passes before a route sees it, and every answer on its way out.

In: an id, the client's address, the body's declared size, who it is, how often. Out: the headers that tell browsers
what they must not do. A path below /api/v1 that is not in `PUBLIC` needs a token, also one that does not exist.
"""

import re
import uuid
from collections.abc import Iterable
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import addresses, browser, headers, problems
from gateway.auth import CLASSES, Authentication, Visit
from gateway.connections import HEAD_BYTES
from gateway.limits import Limits, RouteClass
from gateway.problems import ApiError, HeadTooLargeError, NoTokenError, TooLargeError, TwoLengthsError
from gateway.queries import PREFIX
from gateway.settings import GatewaySettings
from observability.requests import Told

log = structlog.get_logger(__name__)

OPENAPI: Final = f"{PREFIX}/openapi.json"
LOGOUT: Final = f"{PREFIX}/auth/logout"
LOGIN: Final = frozenset(
    f"{PREFIX}/{path}"
    for path in ("auth/login", "auth/refresh", "auth/password/forgot", "auth/password/reset", "invitations/accept")
) | {LOGOUT}
"""Without a token, and counted by address; a token is welcome at logout."""
PUBLIC: Final = LOGIN | {OPENAPI}

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Door:
    """ASGI middleware."""

    def __init__(
        self, app: ASGIApp, *, settings: GatewaySettings, authentication: Authentication, limits: Limits
    ) -> None:
        self._app = app
        self._authentication = authentication
        self._limits = limits
        self._trusted_hops = settings.trusted_hops
        self._body_limit = settings.body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = self._visit(scope)
        scope.setdefault("state", {})["visit"] = visit
        told = Told(scope, send)
        answer = _Answer(told.send, visit)
        with structlog.contextvars.bound_contextvars(request_id=visit.request_id), told:
            try:
                _must_be_short(scope)
                await self._let_in(visit)
                await self._app(scope, receive, answer.send)
            except ApiError as error:
                await problems.api_error(Request(scope), error)(scope, receive, answer.send)
            except Exception as error:
                if answer.started:
                    raise
                await problems.bug(Request(scope), error)(scope, receive, answer.send)

    def _visit(self, scope: Scope) -> Visit:
        found: dict[str, str] = {}
        several: dict[str, list[str]] = {"authorization": [], "cookie": [], "x-forwarded-for": []}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            found[name] = value
            if name in several:
                several[name].append(value)
        told = found.get("x-request-id", "")
        peer = scope["client"][0] if scope.get("client") else None
        return Visit(
            method=scope["method"],
            path=scope["path"],
            request_id=told if REQUEST_ID.fullmatch(told) else uuid.uuid4().hex,
            address=addresses.of_client(peer, several["x-forwarded-for"], self._trusted_hops),
            headers=found,
            authorizations=several["authorization"],
            jar=browser.cookies(several["cookie"]),
        )

    async def _let_in(self, visit: Visit) -> None:
        if int(visit.headers.get("content-length", 0)) > self._body_limit:
            raise TooLargeError(f"a body may have {self._body_limit} bytes", headers={"Connection": "close"})
        if "content-length" in visit.headers and "transfer-encoding" in visit.headers:
            raise TwoLengthsError(
                "a body has Content-Length or Transfer-Encoding, never both", headers={"Connection": "close"}
            )
        if not is_api(visit.path) or visit.path == OPENAPI:
            return
        if visit.path in LOGIN:
            who = addresses.neighbourhood(visit.address)
            visit.allowance = await self._limits.take(RouteClass.LOGIN, who)
            if visit.path == LOGOUT:
                await self._welcome(visit)
            return
        visit.principal = await self._authentication.principal(visit)
        route_class = CLASSES[visit.principal.kind]
        visit.allowance = await self._limits.take(route_class, visit.principal.subject)

    async def _welcome(self, visit: Visit) -> None:
        """Who logs out is known by the token, or by the refresh token alone."""
        try:
            visit.principal = await self._authentication.principal(visit)
        except NoTokenError:
            return


def _must_be_short(scope: Scope) -> None:
    size = len(scope["path"]) + len(scope["query_string"])
    if size + sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
        raise HeadTooLargeError(f"path, query and headers may have {HEAD_BYTES} bytes together")


def is_api(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


class _Answer:
    def __init__(self, send: Send, visit: Visit) -> None:
        self._send = send
        self._visit = visit
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = headers.completed(message["headers"], self._visit.request_id, self._more())
        await self._send(message)

    def _more(self) -> Iterable[tuple[str, str]]:
        if self._visit.allowance:
            yield from self._visit.allowance.headers().items()
        for cookie in self._visit.cookies:
            yield "Set-Cookie", cookie


def visit_of(request: Request) -> Visit:
    visit: Any = request.state.visit
    return visit  # type: ignore[no-any-return]
