"""/metrics, /healthz, /readyz and /errors of a process, from a thread: a hung event loop can still be told."""

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from socketserver import TCPServer
from types import TracebackType
from typing import Self, TypeAlias

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from observability import logs

BUILD = Gauge("brigade_build_info", "1; the version this process runs.", ["version"])
BUILD.labels(metadata.version("brigade")).set(1)

Check: TypeAlias = Callable[[], bool | str]
"""True: yes. False, or a text that says why: no. Called on the server's thread, so it must not wait."""


class Server:
    """A context: on entering it listens, on leaving it closes. `port` is the one it got."""

    def __init__(self, host: str, port: int, *, healthy: Check, ready: Check, registry: CollectorRegistry) -> None:
        self._http = _Http((host, port), _Answer, bind_and_activate=False)
        self._http.checks = {"/healthz": healthy, "/readyz": ready}
        self._http.registry = registry
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), name="web", daemon=True)

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    def __enter__(self) -> Self:
        try:
            self._http.server_bind()
            self._http.server_activate()
        except OSError as error:
            self._http.server_close()
            host, port = self._http.server_address[:2]
            raise OSError(error.errno, f"cannot listen on {host!s}:{port} for /metrics: {error.strerror}") from error
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()


def serve(
    port: int,
    *,
    healthy: Check,
    ready: Check,
    host: str = "127.0.0.1",
    registry: CollectorRegistry = REGISTRY,
) -> Server:
    """A context that serves `/metrics`, `/healthz` (200 while `healthy()`) and `/readyz` (while `ready()`).

    `/errors` has the process's last warnings and errors. Port 0 means any free one.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which nobody reads
    return Server(host, port, healthy=healthy, ready=ready, registry=registry)


class _Http(ThreadingHTTPServer):
    checks: dict[str, Check]
    registry: CollectorRegistry
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the look-up of our own name that http.server makes: it can take seconds."""
        TCPServer.server_bind(self)


class _Answer(BaseHTTPRequestHandler):
    server: _Http
    timeout = 10  # seconds for a client that connects and says nothing

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._send(HTTPStatus.OK, content_type, encode(self.server.registry))
        elif path == "/errors":
            self._send(HTTPStatus.OK, "application/json", json.dumps(list(logs.RECENT)).encode())
        elif check := self.server.checks.get(path):
            status, text = _asked(check)
            self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode())
        else:
            self._send(
                HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"try /metrics, /healthz, /readyz or /errors\n"
            )

    do_HEAD = do_GET  # noqa: N815, http.server's name

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, http.server's name
        """Say nothing: a scrape every 15 s is no event."""


def _asked(check: Check) -> tuple[HTTPStatus, str]:
    try:
        answer = check()
    except Exception as error:  # noqa: BLE001, whatever it is, it is the answer
        answer = f"the check failed: {error!r}"
    if answer is True:
        return HTTPStatus.OK, "ok"
    return HTTPStatus.SERVICE_UNAVAILABLE, answer or "no"
