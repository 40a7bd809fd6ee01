"""How answers are written: JSON whole, JSON and CSV streamed."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlencode

import orjson
import psycopg
import structlog
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
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


class Streamed(StreamingResponse):
    """A body written while it is read from the database.

    `parts` are more headers, then the body. The headers and the first part of the body are made before the status
    is sent: what goes wrong until then is a proper refusal. Later an outage can only end the connection in the
    middle, which every HTTP client tells from a whole answer.
    """

    def __init__(
        self, parts: AsyncGenerator[Mapping[str, str] | bytes], *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__((), media_type=media_type, headers=headers)
        self._parts: Any = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts) as parts:
            self.headers.update(await anext(parts))
            self.body_iterator = _joined(await anext(parts), parts)
            try:
                await super().__call__(scope, receive, send)
            except (psycopg.OperationalError, TimeoutError) as error:
                log.warning("answer_cut_short", path=scope["path"], error=repr(error))


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


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
