"""Whether the gateway can answer: the same at /health, in public, and at /readyz."""

import asyncio
import time
from typing import Annotated, Final

import psycopg
import structlog
from fastapi import APIRouter, Request
from fastapi import Query as InQuery
from prometheus_client import Gauge

from gateway.answers import Json
from gateway.database import Database
from gateway.devices import Model
from gateway.problems import DatabaseAwayError, documented
from gateway.queries import Nothing

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 2
STALE_SECONDS: Final = 15
"""An answer older than this is none: then the event loop hangs."""

DATABASE_UP: Final = Gauge("gateway_database_up", "1 if the database answered when last asked, else 0.")

router = APIRouter()


class Healthy(Model):
    status: str


class Health:
    """What the last look at the database showed. `watch` looks; anyone may ask, from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wrong = "the database has not answered yet"
        self._looked = time.monotonic()

    async def watch(self) -> None:
        while True:
            self._tell(await self._look())
            await asyncio.sleep(EVERY_SECONDS)

    def alive(self) -> bool | str:
        return True if self._age() < STALE_SECONDS else f"the event loop hangs since {self._age():.0f} s"

    def ready(self) -> bool | str:
        return self._wrong or self.alive()

    def _age(self) -> float:
        return time.monotonic() - self._looked

    async def _look(self) -> str:
        try:
            await self._database.check()
        except (psycopg.Error, TimeoutError) as error:
            return f"the database does not answer: {type(error).__name__}"
        return ""

    def _tell(self, wrong: str) -> None:
        if wrong and not self._wrong:
            log.warning("database_away", reason=wrong)
        if self._wrong and not wrong:
            log.info("database_there")
        self._wrong = wrong
        DATABASE_UP.set(not wrong)
        self._looked = time.monotonic()


@router.get(
    "/health",
    tags=["health"],
    summary="Whether queries can be answered",
    response_model=Healthy,
    responses=documented(),
)
async def health(request: Request, _: Annotated[Nothing, InQuery()]) -> Json:
    answer = request.app.state.health.ready()
    if answer is not True:
        raise DatabaseAwayError(str(answer))
    return Json({"status": "ok"})
