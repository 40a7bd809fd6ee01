"""Clients that are slow on purpose or by misfortune: a connection is bounded in time and size at every step.

uvicorn waits for a request's head for as long as a byte comes now and then; here it waits 10 seconds. What a client
does not take is given up by the kernel, which counts the time that bytes wait in the socket.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import orjson
from prometheus_client import Counter
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES: Final = 16_384
"""Of a request: its line and headers together."""

STREAM_SOCKET_BYTES: Final = 65_536
"""What a live stream's client may have left to take in the kernel; as much again here."""

SCOPE: Final = "brigade.connection"

SLOW: Final = Counter("gateway_connections_slow_total", "Connections ended because the client was too slow.", ["step"])


class Connection(H11Protocol):
    """One client's; the ASGI scope has it under `SCOPE`."""

    slow_request_seconds = 10.0
    stalled_seconds = 60.0
    _deadline: asyncio.TimerHandle | None = None
    on_shutdown: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.give_up_after(self.stalled_seconds)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()
        else:
            self._expect_nothing()

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            self.scope[SCOPE] = self  # type: ignore[typeddict-unknown-key]

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002, uvicorn's name for what h11 says
        detail = f"this is no HTTP request, or its head has more than {HEAD_BYTES} bytes"
        self._refuse(400, "bad-request", "Bad Request", detail)

    def shutdown(self) -> None:
        super().shutdown()
        if self.on_shutdown:
            self.on_shutdown()

    def give_up_after(self, seconds: float) -> None:
        """The kernel ends the connection when bytes wait so long for the client to take them."""
        self._set(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))

    def is_a_stream(self, seconds: float) -> None:
        """Little is kept for a client that does not take it, and not for long."""
        self.give_up_after(seconds)
        self._set(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_SOCKET_BYTES)

    def _set(self, level: int, option: int, value: int) -> None:
        if not self.transport.is_closing():  # the client has left: its socket is none any more
            self.transport.get_extra_info("socket").setsockopt(level, option, value)

    def abort(self) -> None:
        """End it at once, leaving what waits to be sent."""
        self.transport.abort()

    def _expect_head(self) -> None:
        """It must be complete in time, however its bytes trickle in."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.slow_request_seconds, self._too_slow)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        SLOW.labels("request").inc()
        if self.cycle is None and self.conn.trailing_data[0]:
            detail = f"a request's head must be here within {self.slow_request_seconds:g} s"
            self._refuse(408, "slow-request", "Request Timeout", detail)
        else:
            self.transport.close()

    def _refuse(self, status: int, kind: str, title: str, detail: str) -> None:
        """A problem document, for what never became a request."""
        body = orjson.dumps(
            {
                "type": f"urn:brigade:problem:{kind}",
                "title": title,
                "status": status,
                "detail": detail,
                "instance": "",
                "errors": [],
            }
        )
        head = (
            f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def bounded(*, slow_request_seconds: float, stalled_seconds: float) -> type[Connection]:
    """The protocol with these times, as uvicorn takes it."""
    times = {"slow_request_seconds": slow_request_seconds, "stalled_seconds": stalled_seconds}
    return type("Connection", (Connection,), times)
