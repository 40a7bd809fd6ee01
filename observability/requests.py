"""One log line for each request, when it is answered: which route, how it ended, how long it took.

The route is the template, never the path: paths and queries may hold what is nobody's business.
"""

import time
from typing import Any, Final, Self

import structlog
from starlette.types import Message, Scope, Send

log = structlog.get_logger()

UNMATCHED: Final = "unmatched"
QUIET: Final = frozenset({"/health", UNMATCHED})
"""Probes and files of the pages: DEBUG, while they go well."""
REFUSED: Final = 400
FAILED: Final = 500


class Told:
    """A context around the answering of a request; `send` in place of the one that was given."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._status: int | None = None
        self._began = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._send(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        route: Any = self._scope.get("route")
        name = getattr(route, "path", None) or UNMATCHED
        seconds = round(time.perf_counter() - self._began, 4)
        tell = self._level(name)
        tell("request", method=self._scope["method"], route=name, status=self._status, seconds=seconds)

    def _level(self, route: str) -> Any:
        if self._status is None or self._status >= FAILED:  # the client left, or we could not
            return log.warning
        return log.debug if route in QUIET and self._status < REFUSED else log.info
