"""What a running process holds, and how routes ask for it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import structlog
from fastapi import Depends, Request

from users.database import Database, redis_of
from users.passwords import Passwords
from users.problems import AwayError
from users.sealing import Sealer
from users.sessions import Sessions
from users.settings import UsersSettings
from users.signing import SigningKeys
from users.throttle import Throttle
from users.tokens import Origin

if TYPE_CHECKING:
    from observability.otlp import Traces

log = structlog.get_logger(__name__)


class Later:
    """Work that an answer does not wait for; it is done before the process ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._told(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def done(self) -> None:
        await asyncio.gather(*self._tasks)

    async def _told(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            log.error("later_failed", error=type(error).__name__, exc_info=error)  # noqa: TRY400


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    settings: UsersSettings
    database: Database
    redis: Any
    sealer: Sealer
    passwords: Passwords
    sessions: Sessions
    throttle: Throttle
    keys: SigningKeys
    later: Later


@asynccontextmanager
async def opened(settings: UsersSettings, traces: "Traces | None" = None) -> AsyncIterator[Resources]:
    sealer = Sealer(settings.key)
    redis = redis_of(settings)
    later = Later()
    try:
        async with (
            Database(settings, traces) as database,
            Passwords(threads=settings.hashing_threads) as passwords,
        ):
            yield Resources(
                settings=settings,
                database=database,
                redis=redis,
                sealer=sealer,
                passwords=passwords,
                sessions=Sessions(redis, sealer),
                throttle=Throttle(redis),
                keys=SigningKeys(database, sealer),
                later=later,
            )
            await later.done()
    finally:
        await redis.aclose()


async def _resources(request: Request) -> Any:
    if (resources := getattr(request.app.state, "resources", None)) is None:
        raise AwayError("users is starting or stopping; try again")
    return resources


async def _origin(request: Request) -> Any:
    return request.scope["brigade.origin"]


ResourcesOf = Annotated[Resources, Depends(_resources)]
OriginOf = Annotated[Origin, Depends(_origin)]


async def _database(resources: ResourcesOf) -> Any:
    return resources.database


async def _sessions(resources: ResourcesOf) -> Any:
    return resources.sessions


DatabaseOf = Annotated[Database, Depends(_database)]
SessionsOf = Annotated[Sessions, Depends(_sessions)]
