"""The gateway: REST queries on what the pipeline stored. `python -m gateway.app` serves it.

Read `app`, then `readings` → `questions` → `series` → `points` → `writing`: how a query becomes an answer.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway import dead_letters, devices, health, ledger, problems, readings
from gateway.database import Database
from gateway.health import Health
from gateway.measuring import Measured
from gateway.queries import PREFIX, Once
from gateway.settings import GatewaySettings, load
from observability import logs, web

DESCRIPTION: Final = """
What the sensors measured, and what became of every message they sent. Times are ISO 8601; where the API tells
one it is in UTC, except that days begin at a local midnight and bear its offset. Refusals are problem documents
(RFC 9457) whose `errors` name the fields.
"""


def create(settings: GatewaySettings) -> FastAPI:
    app = FastAPI(
        title="Brigade",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan(settings),
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Once],
    )
    for part in (devices, readings, ledger, dead_letters, health):
        app.include_router(part.router)
    problems.install(app)
    app.add_middleware(Measured)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _lifespan(settings: GatewaySettings) -> Any:
    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with Database(settings) as database:
            app.state.database = database
            app.state.health = Health(database)
            watch = asyncio.create_task(app.state.health.watch())
            with web.serve(
                settings.metrics_port,
                host=settings.metrics_host,
                healthy=app.state.health.alive,
                ready=app.state.health.ready,
            ) as server:
                app.state.metrics_port = server.port
                yield
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    return opened


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the problem that every refusal is."""
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= schema.pop("$defs") | {"Problem": schema}
        app.openapi_schema = document
    return app.openapi_schema


def main() -> None:
    settings = load(GatewaySettings)
    logs.configure("gateway", settings.log_level)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # each attempt a line; health tells the outage once
    app = create(settings)
    gc.freeze()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
