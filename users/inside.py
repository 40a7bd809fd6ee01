"""The door: a call has the gateway's token and a body of a sane size, or it goes no further."""

from typing import Any, Final

import structlog
from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from observability.requests import Told
from users import tokens
from users.problems import ApiError, TooLargeError, api_error

HEADER: Final = b"x-brigade-internal"
OPEN: Final = frozenset({"/.well-known/jwks.json", "/openapi.json", "/health"})
BODY_BYTES: Final = 64 * 1024


class Inside:
    """ASGI middleware; leaves `Origin` in the scope."""

    def __init__(self, app: ASGIApp, *, secret: str) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Told(scope, send)
        try:
            self._let_in(scope)
        except ApiError as error:
            with told:
                await (await api_error(Request(scope), error))(scope, receive, told.send)
            return
        with structlog.contextvars.bound_contextvars(request_id=_request_id(scope)), told:
            await self._app(scope, _Bounded(receive).receive, told.send)

    def _let_in(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN:
            scope["brigade.origin"] = tokens.checked(headers.get(HEADER, b"").decode("latin-1"), self._secret)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_BYTES:
            raise TooLargeError


class _Bounded:
    """A body without a declared length is counted while it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._bytes = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > BODY_BYTES:
            raise HTTPException(TooLargeError.status)  # FastAPI makes a 400 of whatever else happens here
        return message


def _request_id(scope: Scope) -> str:
    origin: Any = scope.get("brigade.origin")
    return origin.request_id if origin else ""
