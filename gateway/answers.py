"""How answers are written: JSON whole, JSON and CSV streamed."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlencode

import orjson
import psycopg
import structlog
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from gateway.problems import NotAcceptableError

log = structlog.get_logger(__name__)

_OPTIONS: Final = orjson.OPT_UTC_Z


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"


MEDIA_TYPES: Final = {Format.JSON: "application/json", Format.CSV: "text/csv"}


def to_json(value: Any) -> bytes:
    return orjson.dumps(value, option=_OPTIONS)


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


NOT_MODIFIED: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "It is what If-None-Match names."}}

REVALIDATE: Final = "private, no-cache"
"""Kept by the client alone, and asked about each time: a late reading changes the past too."""


def tagged(
    request: Request, body: bytes, headers: Mapping[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    """The body, or 304 where the client has the same already. The tag is of the bytes themselves: it cannot lie."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
    told = {"ETag": tag, "Cache-Control": REVALIDATE, **(headers or {})}
    if tag in (request.headers.get("if-none-match") or ""):
        return Response(status_code=304, headers=told)
    return Response(body, headers=told, media_type=media_type)


class Streamed(Response):
    """A body written while it is read from the database.

    `parts` are more headers, then the body. The headers and the first part of the body are made before the status
    is sent: what goes wrong until then is a proper refusal. Later an outage can only end the connection in the
    middle, which every HTTP client tells from a whole answer. A client that went away, or takes nothing for
    `stalled_seconds`, ends the reading too.
    """

    def __init__(
        self,
        parts: AsyncGenerator[Mapping[str, str] | bytes],
        *,
        media_type: str,
        headers: Mapping[str, str],
        stalled_seconds: float,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
        self._parts: Any = parts
        self._stalled_seconds = stalled_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts) as parts:
            self.headers.update(await anext(parts))
            part = await anext(parts)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            gone = asyncio.create_task(client_gone(receive))
            try:
                while part and not gone.done():
                    async with asyncio.timeout(self._stalled_seconds):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                    part = await anext(parts, b"")
            except (psycopg.OperationalError, TimeoutError) as error:
                log.warning("answer_cut_short", path=scope["path"], error=repr(error))
                return
            finally:
                gone.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def client_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def chosen(request: Request, asked: Format | None) -> Format:
    """`format=` first, then the Accept header's order; JSON where the client takes anything."""
    if asked:
        return asked
    accept = request.headers.get("accept") or "*/*"
    for media_type in _preferred(accept):
        match media_type:
            case "application/json" | "application/*" | "*/*":
                return Format.JSON
            case "text/csv" | "text/*":
                return Format.CSV
    raise NotAcceptableError("answers come as application/json or text/csv; say which by Accept or format=")


def _preferred(accept: str) -> list[str]:
    weighed = []
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weighed.append((_weight(parameters), media_type))
    return [media_type for weight, media_type in sorted(weighed, key=lambda w: -w[0]) if weight > 0]


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(max(float(parameter[2:]), 0), 1)
            except ValueError:
                return 0
    return 1


def links(request: Request, cursor: str | None) -> dict[str, str]:
    """The Link header (RFC 8288) of the next page."""
    if cursor is None:
        return {}
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return {"Link": f'<{request.url.path}?{urlencode([*query, ("cursor", cursor)])}>; rel="next"'}
