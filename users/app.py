"""`python -m users.app` serves users, to the gateway alone."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from observability import logs, tracing, web
from observability.measuring import Measured
from observability.settings import load
from users import api_keys, audit, credentials, health, invitations, key_set, me, people, problems, signing_in, sites
from users.health import Health
from users.inside import Inside
from users.mails import Postman
from users.resources import Resources, opened
from users.sealing import SealError
from users.settings import UsersSettings
from users.tidying import tidy

if TYPE_CHECKING:
    from observability.otlp import Traces

log = structlog.get_logger(__name__)

ROUTERS: Final = (
    signing_in.router,
    me.router,
    people.router,
    invitations.router,
    sites.router,
    api_keys.router,
    credentials.router,
    audit.router,
    key_set.router,
    health.router,
)

DESCRIPTION: Final = """
Accounts, sessions, roles and API keys. Refusals are problem documents (RFC 9457) whose `errors` name the fields. What
belongs to another site does not exist: 404, never 403.
"""


def create(settings: UsersSettings, traces: "Traces | None" = None) -> FastAPI:
    app = FastAPI(
        title="Brigade users",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan(settings, traces),
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    app.add_middleware(Inside, secret=settings.internal_secret.get_secret_value())
    app.add_middleware(Measured)
    if traces:
        app.add_middleware(traces.answering)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _lifespan(settings: UsersSettings, traces: "Traces | None") -> Any:
    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        async with opened(settings, traces) as resources:
            await _check_secret(resources)
            app.state.resources = resources
            app.state.health = Health(resources)
            with web.serve(
                settings.metrics_port,
                host=settings.metrics_host,
                healthy=app.state.health.alive,
                ready=app.state.health.ready,
            ) as server:
                app.state.metrics_port = server.port
                async with _beside(*_work(app, resources)):
                    yield

    return running


async def _check_secret(resources: Resources) -> None:
    """Refuse to start with a secret that does not fit; a database that is away is waited for later."""
    try:
        await resources.keys.signer()
    except SealError as error:
        log.error("wrong_secret", reason=str(error))  # noqa: TRY400, the reason is all there is to say
        raise
    except (psycopg.Error, TimeoutError):
        return


def _work(app: FastAPI, resources: Resources) -> list[Coroutine[Any, Any, None]]:
    return [
        app.state.health.watch(),
        _postman(resources).carry(),
        tidy(resources.database, audit_days=resources.settings.audit_days),
    ]


def _postman(resources: Resources) -> Postman:
    settings = resources.settings
    return Postman(
        resources.database, resources.sealer, url=settings.mail_url.get_secret_value(), sender=settings.mail_from
    )


@asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """What goes on for as long as the process does; when one ends by itself, it is a bug, and the log has it."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    for task in tasks:
        task.add_done_callback(_told)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("background_work_ended", error=type(error).__name__, exc_info=error)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the problem that every refusal is."""
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= schema.pop("$defs") | {"Problem": schema}
        app.openapi_schema = document
    return app.openapi_schema


def main() -> None:
    settings = load(UsersSettings)
    logs.configure("users", settings.log_level)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # each attempt a line; health tells the outage once
    gc.freeze()
    uvicorn.run(
        create(settings, tracing.start("users")),
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
