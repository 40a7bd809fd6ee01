"""How many requests of which kind took how long. /metrics is on its own port, never on that of the API."""

import time
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNMATCHED: Final = "unmatched"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

DURATION: Final = Histogram(
    "http_request_duration_seconds",
    "From a request's head to the last byte of its answer.",
    ["method", "route", "code"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_FLIGHT: Final = Gauge("http_requests_in_flight", "Requests being answered.")
RESPONSE_BYTES: Final = Counter("http_response_bytes_total", "Bytes of answers, without their heads.")


class Measured:
    """ASGI middleware around everything else, the handling of bugs included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        began = time.perf_counter()
        with IN_FLIGHT.track_inprogress():
            try:
                await self._app(scope, receive, answer.send)
            finally:
                seconds = time.perf_counter() - began
                DURATION.labels(_method(scope), _route(scope), str(answer.status)).observe(seconds)
                RESPONSE_BYTES.inc(answer.sent)


class _Answer:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500
        self.sent = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "other"


def _route(scope: Scope) -> str:
    route: Any = scope.get("route")
    return getattr(route, "path", None) or UNMATCHED
