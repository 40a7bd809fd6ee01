"""The gateway's connections: read-only, bounded in time, back by themselves after an outage."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Annotated, Any, Final, LiteralString, Self

from fastapi import Depends, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from gateway.problems import DatabaseAwayError
from gateway.settings import GatewaySettings

Connection = AsyncConnection[DictRow]

FETCH_ROWS: Final = 2_000
"""Rows of a streamed answer in memory at once: about 10 ms of work, so that others are not kept waiting."""

GRACE_SECONDS: Final = 1
"""Beyond the statement timeout the server itself does not answer."""

WRITING: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"

OPTIONS: Final = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": r"repeatable\ read",  # one answer, one view of the data
    "timezone": "UTC",
    "jit": "off",  # hundreds of chunk scans compile slower than they run
    "random_page_cost": "1.1",  # an index is worth it
    "cursor_tuple_fraction": "1",  # streams are read to their end
}


class Database:
    """A pool; opened with `async with`, whether the database is there yet or not."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.stalled_client_seconds = settings.stalled_client_seconds
        self._seconds = settings.statement_timeout_seconds + GRACE_SECONDS
        self._wait_seconds = settings.pool_wait_seconds
        self._streams = asyncio.Semaphore(settings.pool_size - 1)
        self._pool = AsyncConnectionPool(
            settings.database_url.get_secret_value(),
            connection_class=Connection,
            kwargs={
                "row_factory": dict_row,
                "application_name": "brigade-gateway",
                "connect_timeout": 2,
                "prepare_threshold": None,  # plans that know the values exclude chunks
                "options": _options(settings),
            },
            min_size=1,
            max_size=settings.pool_size,
            open=False,
            check=AsyncConnectionPool.check_connection,
            reconnect_timeout=2,  # then on demand: its own back-off grows to minutes
            timeout=settings.pool_wait_seconds,
            max_idle=60,
            name="gateway",
        )

    async def __aenter__(self) -> Self:
        await self._pool.open(wait=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close(timeout=5)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A read-only transaction; `TimeoutError` where the server is there but silent."""
        async with within(self._seconds + self._wait_seconds), self._pool.connection() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        async with self.reading() as connection:
            await connection.execute(WRITING)
            yield connection

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator["Stream"]:
        """A read-only transaction that lasts as long as its reader does; one connection is always left to others."""
        async with AsyncExitStack() as stack:
            async with within(self._wait_seconds):
                await self._streams.acquire()
            stack.callback(self._streams.release)
            async with within(self._seconds + self._wait_seconds):
                connection = await stack.enter_async_context(self._pool.connection())
            yield Stream(connection, self._seconds)

    async def check(self) -> None:
        """Raise unless the database answers."""
        async with within(self._wait_seconds), self._pool.connection() as connection:
            await connection.execute("SELECT FROM readings LIMIT 0")


class Stream:
    """A connection whose every step is bounded in time, while the whole is not."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    async def rows(self, query: LiteralString, parameters: Mapping[str, object]) -> AsyncIterator[Sequence[DictRow]]:
        """The query's rows by a server-side cursor, `FETCH_ROWS` at a time; never an empty batch."""
        async with self._connection.cursor("rows", binary=True) as cursor:
            async with self.bounded():
                await cursor.execute(query, parameters)
            while True:
                async with self.bounded():
                    batch = await cursor.fetchmany(FETCH_ROWS)
                if not batch:
                    return
                yield batch

    async def one(self, query: LiteralString, parameters: Mapping[str, object]) -> DictRow:
        async with self.bounded() as connection:
            row = await (await connection.execute(query, parameters)).fetchone()
        if row is None:
            raise LookupError("an aggregate has one row")
        return row

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[Connection]:
        """The connection, for one step of a bounded time."""
        async with within(self._seconds):
            yield self._connection


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """`TimeoutError` after so long.

    A cancelled psycopg asks the server to cancel too, and waits 10 s for a silent one; cancelled once more, it drops
    the connection.
    """
    async with asyncio.timeout(seconds + 0.1), asyncio.timeout(seconds):
        yield


def _options(settings: GatewaySettings) -> str:
    bounds = {
        "statement_timeout": f"{settings.statement_timeout_seconds * 1000:.0f}",
        "idle_in_transaction_session_timeout": f"{settings.stalled_client_seconds * 1000:.0f}",
    }
    return " ".join(f"-c {name}={value}" for name, value in (OPTIONS | bounds).items())


async def _opened(request: Request) -> Any:
    database: Database | None = getattr(request.app.state, "database", None)
    if database is None:
        raise DatabaseAwayError("the gateway is starting or stopping; try again")
    return database


DatabaseOf = Annotated[Database, Depends(_opened)]
