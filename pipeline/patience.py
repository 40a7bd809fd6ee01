"""Outage or bug? And a database connection that outlasts the outages.

    async for attempt in connection.attempts():
        async with attempt as database, database.transaction():
            await database.execute(…)

The body runs until it succeeds once: outages are waited out, anything else is raised from it.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from types import TracebackType
from typing import Final, Self

import psycopg
import structlog
from prometheus_client import Counter, Gauge
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from pipeline.settings import WorkerSettings

APPLICATION: Final = "brigade-worker"
FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 2.0
LOCK_TIMEOUTS: Final = 2
"""After so many in a row the holder of the lock is taken for frozen, and ended."""

RETRIES = Counter("pipeline_worker_database_retries_total", "Transactions tried again after an outage.", ["part"])
UP = Gauge("pipeline_worker_database_up", "1 while the last transaction or connection worked.", ["part"])
FROZEN = Counter("pipeline_worker_frozen_ended_total", "Database sessions of frozen workers that were ended.")
log = structlog.get_logger()

BLOCKERS = """
SELECT pid, pg_terminate_backend(pid) AS ended FROM pg_stat_activity
WHERE pid = ANY (pg_blocking_pids(%(waiting)s)) AND pid NOT IN (%(waiting)s, pg_backend_pid())
  AND usename = current_user AND datname = current_database() AND application_name = %(application)s
  AND xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
  AND cardinality(pg_blocking_pids(pid)) = 0
"""


class Answer(Enum):
    """What to do about an error."""

    WAIT = "the same again, later"
    SPLIT = "something in it cannot be stored, or it was too much: in smaller parts"
    BUG = "raise"


_WAIT_CLASSES = ("08", "53")
_WAIT = {
    "57P01", "57P02", "57P03",  # the server is going down, or not up yet
    "40001", "40P01",  # serialization, deadlock
    "55P03",  # lock_timeout
    "25P03",  # idle_in_transaction_session_timeout
    "25006",  # read-only: the server was demoted under us
}  # fmt: skip
_SPLIT_CLASSES = ("22", "23", "54")
_STATEMENT_TIMEOUT = "57014"
_LOCK_TIMEOUT = "55P03"
_NEVER_THE_BATCH = {_LOCK_TIMEOUT, "57P01", "57P03", "25P03", "25006", "53100", "53300"}
"""Waits that a smaller batch would not shorten: other sessions, restarts, a full disk."""


def judge(error: BaseException) -> Answer:
    match error:
        case psycopg.Error(sqlstate=str(state)):
            if state in _WAIT or state.startswith(_WAIT_CLASSES):
                return Answer.WAIT
            if state == _STATEMENT_TIMEOUT or state.startswith(_SPLIT_CLASSES):
                return Answer.SPLIT
            return Answer.BUG
        case psycopg.OperationalError() | OSError():  # lost, refused, unreachable, timed out while connecting
            return Answer.WAIT
        case psycopg.InterfaceError() if "closed" in str(error):
            return Answer.WAIT
        case _:
            return Answer.BUG


def _kind(error: BaseException) -> str:
    """What makes two errors "the same": the SQLSTATE, or for lost connections the class."""
    return getattr(error, "sqlstate", None) or type(error).__name__


async def _nothing(_: AsyncConnection) -> None:
    pass


class Connection:
    """One database connection, for one task at a time; it dials when it is needed and dials again when lost.

    Without a pool: its back-off came back in 8 to 13 s after a restart of the server, ours in under 1 s.
    `part` names its owner in metrics and logs. `prepare` runs on each new connection; `retrying` is called
    before each wait.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        part: str,
        *,
        prepare: Callable[[AsyncConnection], Awaitable[None]] = _nothing,
        retrying: Callable[[], None] = lambda: None,
    ) -> None:
        self.part = part
        self.retrying = retrying
        self.conninfo = conninfo(settings)
        self.lock_timeout_seconds = settings.lock_timeout_seconds
        self._prepare = prepare
        self._connection: AsyncConnection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop()

    async def get(self) -> AsyncConnection:
        """The open connection, or a new one."""
        if self._connection is None or self._connection.closed:
            connection = await AsyncConnection.connect(self.conninfo, autocommit=True)
            try:
                await self._prepare(connection)
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
        return self._connection

    async def drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def attempts(self, *, same_error: int | None = None) -> "Attempts":
        """Until the body succeeds once.

        Without `same_error`, outages are waited out for ever and `SPLIT` errors raised at once. With it, an
        error that could lie in the batch (or a statement timeout) is raised when it came so often in a row
        although the database answered: the caller should try a smaller batch.
        """
        return Attempts(self, same_error)


def conninfo(settings: WorkerSettings) -> str:
    url = settings.database_url.get_secret_value()
    milliseconds = {
        "statement_timeout": settings.statement_timeout_seconds,
        "lock_timeout": settings.lock_timeout_seconds,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_seconds,
    }
    options = [f"-c {name}={seconds * 1000:.0f}" for name, seconds in milliseconds.items()]
    return make_conninfo(
        url,
        application_name=APPLICATION,
        options=" ".join([str(conninfo_to_dict(url).get("options") or ""), *options, "-c timezone=UTC", "-c jit=off"]),
        connect_timeout=3,
        tcp_user_timeout=10_000,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
    )


class Attempts:
    """Iterates over attempts at one transaction; it is itself the context of each attempt."""

    def __init__(self, owner: Connection, same_error: int | None) -> None:
        self.number = 0
        self._owner = owner
        self._same_error = same_error
        self._done = False
        self._began = 0.0  # of the outage; 0: there is none
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._last_kind = ""
        self._in_a_row = 0
        self._connection: AsyncConnection
        self._watch: asyncio.Task[None] | None = None
        self._waited = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        """Return when there is a connection."""
        if self._done:
            raise StopAsyncIteration
        self.number += 1
        while True:
            try:
                self._connection = await self._owner.get()
            except Exception as error:
                if judge(error) is not Answer.WAIT:
                    raise
                await self._wait(error)
            else:
                return self

    async def __aenter__(self) -> AsyncConnection:
        if self._last_kind == _LOCK_TIMEOUT and self._in_a_row >= LOCK_TIMEOUTS:
            self._waited.clear()
            self._watch = asyncio.create_task(self._end_who_blocks(self._connection.info.backend_pid))
        return self._connection

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> bool:
        if self._watch:
            self._waited.set()  # not cancelled: whom it has just ended, it shall tell
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        if error is None:
            self._succeeded()
            return False
        await self._drop_unless_usable(error)
        if not self._again(error):
            return False
        await self._wait(error)
        return True

    def _succeeded(self) -> None:
        self._done = True
        UP.labels(self._owner.part).set(1)
        if self._began:
            seconds = round(time.monotonic() - self._began, 1)
            log.info("database_back", part=self._owner.part, after_seconds=seconds, attempts=self.number)

    def _again(self, error: BaseException) -> bool:
        answer = judge(error)
        timed_out = getattr(error, "sqlstate", None) == _STATEMENT_TIMEOUT
        if answer is Answer.BUG or (answer is Answer.SPLIT and not (timed_out and self._same_error)):
            return False
        kind = _kind(error)
        self._in_a_row = self._in_a_row + 1 if kind == self._last_kind else 1
        self._last_kind = kind
        return self._same_error is None or kind in _NEVER_THE_BATCH or self._in_a_row < self._same_error

    async def _drop_unless_usable(self, error: BaseException) -> None:
        """A lost or cancelled statement, a commit whose outcome is unknown: not on that connection again."""
        demoted = getattr(error, "sqlstate", None) == "25006"
        if demoted or self._connection.info.transaction_status != TransactionStatus.IDLE:
            await self._owner.drop()

    async def _wait(self, error: BaseException) -> None:
        RETRIES.labels(self._owner.part).inc()
        UP.labels(self._owner.part).set(0)
        if not self._began:
            self._began = time.monotonic()
            log.warning("database_away", part=self._owner.part, why=str(error).strip(), state=_kind(error))
        self._owner.retrying()
        await asyncio.sleep(self._wait_seconds * random.uniform(0.5, 1))
        self._wait_seconds = min(self._wait_seconds * 2, LONGEST_WAIT_SECONDS)

    async def _end_who_blocks(self, waiting: int) -> None:
        """End the session of a worker that was frozen inside a transaction and holds what we wait for.

        No timeout of PostgreSQL's ends a session frozen inside COPY. Asked from a second connection while the
        first one waits: afterwards `pg_blocking_pids` knows nothing.
        """
        parameters = {
            "waiting": waiting,
            "application": APPLICATION,
            "seconds": LOCK_TIMEOUTS * self._owner.lock_timeout_seconds,
        }
        async with await AsyncConnection.connect(self._owner.conninfo, autocommit=True) as watcher:
            while not self._waited.is_set():
                await asyncio.sleep(0.1)
                for pid, ended in await (await watcher.execute(BLOCKERS, parameters)).fetchall():
                    FROZEN.inc()
                    log.warning("frozen_worker_ended", backend_pid=pid, ended=ended)
