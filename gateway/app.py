"""The gateway: REST queries on what the pipeline stored. `python -m gateway.app` serves it.

Read `app`, then `door` → `auth` → `tokens`: who is let in. Then `readings` → `questions` → `series` → `points` →
`writing`: how a query becomes an answer; `stream` → `feed`: how a reading becomes an event; `accounts` →
`user_service`: how a call goes through to users.
"""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway import (
    connections,
    dead_letters,
    devices,
    health,
    ledger,
    openapi,
    problems,
    readings,
    recent,
    stream,
    system,
)
from gateway.accounts import Accounts
from gateway.auth import Authentication
from gateway.database import Database
from gateway.directory import Directory
from gateway.door import Door
from gateway.health import Health
from gateway.key_set import KeySet
from gateway.limits import Limits
from gateway.page_files import PageFiles
from gateway.queries import PREFIX, Once
from gateway.settings import GatewaySettings
from gateway.system import Prometheus
from gateway.user_service import UserService
from observability import logs, tracing, web
from observability.measuring import Measured
from observability.settings import load

if TYPE_CHECKING:
    from observability.otlp import Traces

log = structlog.get_logger(__name__)

DESCRIPTION: Final = """
What the sensors measured, what became of every message they sent, and the accounts of those who ask. Times are
ISO 8601; where the API tells one it is in UTC, except that days begin at a local midnight and bear its offset.
Refusals are problem documents (RFC 9457) whose `errors` name the fields. What belongs to a site that is not yours
does not exist.
"""

SHOWN_TO_OTHER_ORIGINS: Final = (
    "ETag", "Link", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After", "X-Request-Id",
)  # fmt: skip


def create(settings: GatewaySettings, traces: "Traces | None" = None) -> FastAPI:
    users = UserService(settings, traces)
    keys = KeySet(users.key_set)
    limits = Limits(settings)
    authentication = Authentication(users, keys, limits, secret=settings.internal_secret.get_secret_value())
    app = FastAPI(
        title="Brigade",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan(settings, users, keys, limits, traces),
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Once],
    )
    for part in (devices, recent, readings, stream, ledger, dead_letters, system, health):
        app.include_router(part.router)
    Accounts(settings, users, authentication.tokens).install(app)
    app.router.default = PageFiles(settings.pages)
    problems.install(app)
    app.add_middleware(Door, settings=settings, authentication=authentication, limits=limits)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-None-Match", "X-Request-Id", "traceparent"],
            expose_headers=SHOWN_TO_OTHER_ORIGINS,
        )
    app.add_middleware(Measured)
    if traces:
        app.add_middleware(traces.answering)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


def _lifespan(
    settings: GatewaySettings, users: UserService, keys: KeySet, limits: Limits, traces: "Traces | None"
) -> Any:
    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(users)
            await stack.enter_async_context(limits)
            app.state.prometheus = await stack.enter_async_context(Prometheus(settings.prometheus_url))
            database = app.state.database = await stack.enter_async_context(Database(settings, traces))
            app.state.health = Health(database)
            app.state.directory = Directory(database)
            app.state.feed = stream.feed(database)
            app.state.listeners = stream.Listeners(settings.streams)
            app.state.stalled_stream_seconds = settings.stalled_stream_seconds
            for task in (app.state.health.watch(), keys.watch(), app.state.feed.run()):
                await stack.enter_async_context(_meanwhile(task))
            server = stack.enter_context(
                web.serve(
                    settings.metrics_port,
                    host=settings.metrics_host,
                    healthy=app.state.health.alive,
                    ready=app.state.health.ready,
                )
            )
            app.state.metrics_port = server.port
            yield

    return opened


@asynccontextmanager
async def _meanwhile(work: Any) -> AsyncIterator[None]:
    """It runs as long as the context; a fault in it ends the process, so that it is seen and started again."""
    task = asyncio.create_task(work)
    task.add_done_callback(_fail)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _fail(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("background_work_failed", error=repr(error), exc_info=error)
        signal.raise_signal(signal.SIGTERM)


def server(app: FastAPI, settings: GatewaySettings) -> uvicorn.Server:
    """As it runs: what it does not trust, and how patient it is, belongs to its safety."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http=connections.bounded(
                slow_request_seconds=settings.slow_request_seconds, stalled_seconds=settings.stalled_client_seconds
            ),
            ws="none",
            h11_max_incomplete_event_size=connections.HEAD_BYTES,
            proxy_headers=False,  # `addresses` counts hops
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )


def main() -> None:
    settings = load(GatewaySettings)
    logs.configure("gateway", settings.log_level)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # each attempt a line; health tells the outage once
    app = create(settings, tracing.start("gateway"))
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # an answer is thousands of small objects that die at once: 5 % less CPU
    server(app, settings).run()


if __name__ == "__main__":
    main()
