"""Whether users can answer: the same at /health and at /readyz."""

import asyncio
import time
from typing import Any, Final

import psycopg
import structlog
from fastapi import APIRouter, Request
from prometheus_client import Gauge
from redis.exceptions import RedisError

from users.pages import Model
from users.problems import AwayError, documented
from users.resources import Resources
from users.sealing import SealError

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 2
STALE_SECONDS: Final = 20
"""An answer older than this is none: then the event loop hangs."""

DATABASE_UP: Final = Gauge("users_database_up", "1 if the database answered when last asked, else 0.")
REDIS_UP: Final = Gauge("users_redis_up", "1 if Redis answered when last asked, else 0.")
REDIS_DURABLE: Final = Gauge("users_redis_durable", "1 if Redis keeps an append-only file: sessions outlive it.")

router = APIRouter(tags=["health"])


class Healthy(Model):
    status: str


class Health:
    """What the last look showed. `watch` looks; anyone may ask, from any thread."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._wrong = "nothing has answered yet"
        self._looked = time.monotonic()
        self._durable: bool | None = None

    async def watch(self) -> None:
        while True:
            self._tell(await self._database() or await self._redis())
            await asyncio.sleep(EVERY_SECONDS)

    def alive(self) -> bool | str:
        return True if self._age() < STALE_SECONDS else f"the event loop hangs since {self._age():.0f} s"

    def ready(self) -> bool | str:
        return self._wrong or self.alive()

    def _age(self) -> float:
        return time.monotonic() - self._looked

    async def _database(self) -> str:
        wrong = ""
        try:
            await self._resources.database.check()
            await self._resources.keys.signer()
        except (psycopg.Error, TimeoutError) as error:
            wrong = f"the database does not answer: {type(error).__name__}"
        except SealError as error:
            wrong = str(error)
        DATABASE_UP.set(not wrong)
        return wrong

    async def _redis(self) -> str:
        try:
            about: dict[str, Any] = await self._resources.redis.info("persistence")
        except (RedisError, OSError) as error:
            REDIS_UP.set(0)
            return f"Redis does not answer: {type(error).__name__}"
        REDIS_UP.set(1)
        self._tell_durable(durable=about.get("aof_enabled") == 1)
        return ""

    def _tell_durable(self, *, durable: bool) -> None:
        if not durable and self._durable is not durable:
            log.warning("redis_not_durable", advice="set appendonly yes: a restart of Redis ends every session now")
        self._durable = durable
        REDIS_DURABLE.set(durable)

    def _tell(self, wrong: str) -> None:
        if wrong and wrong != self._wrong:
            log.warning("not_ready", reason=wrong)
        if self._wrong and not wrong:
            log.info("ready")
        self._wrong = wrong
        self._looked = time.monotonic()


@router.get("/health", summary="Whether calls can be answered", responses=documented())
async def health(request: Request) -> Healthy:
    answer = request.app.state.health.ready()
    if answer is not True:
        raise AwayError(str(answer))
    return Healthy(status="ok")
