"""The gateway's connections: read-only, bounded in time, back by themselves after an outage."""

import asyncio
import select
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, LiteralString, Protocol, Self, TypeVar

from fastapi import Depends, Request
from prometheus_client import Gauge
from psycopg import AsyncConnection, AsyncCursor, AsyncServerCursor
from psycopg.rows import AsyncRowFactory, DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from gateway.problems import DatabaseAwayError
from gateway.settings import GatewaySettings
from observability import pools

if TYPE_CHECKING:
    from observability.otlp import Traces

Connection = AsyncConnection[DictRow]
R = TypeVar("R")

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

CONNECTIONS: Final = Gauge("gateway_database_pool_connections", "Connections to the database.", ["state"])
LIMIT: Final = Gauge("gateway_database_pool_size_limit", "So many there may be.")
WAITING: Final = Gauge("gateway_database_pool_requests_waiting", "Requests that wait for one.")


class Database:
    """A pool; opened with `async with`, whether the database is there yet or not."""

    def __init__(self, settings: GatewaySettings, traces: "Traces | None" = None) -> None:
        self.stalled_client_seconds = settings.stalled_client_seconds
        self._seconds = settings.statement_timeout_seconds + GRACE_SECONDS
        self._wait_seconds = settings.pool_wait_seconds
        self._streams = asyncio.Semaphore(settings.pool_size - 1)
        self._pool = AsyncConnectionPool(
            settings.database_url.get_secret_value(),
            connection_class=traces.connection if traces else Connection,
            kwargs={
                "row_factory": dict_row,
                "application_name": "brigade-gateway",
                "connect_timeout": 2,
                "autocommit": True,  # a single statement needs no transaction around it: two round trips less
                "prepare_threshold": None,  # plans that know the values exclude chunks
                "options": _options(settings),
            },
            min_size=1,
            max_size=settings.pool_size,
            open=False,
            check=_still_there,
            reconnect_timeout=2,  # then on demand: its own back-off grows to minutes
            timeout=settings.pool_wait_seconds,
            max_idle=60,
            name="gateway",
        )

    async def __aenter__(self) -> Self:
        await self._pool.open(wait=False)
        pools.measure(self._pool, connections=CONNECTIONS, limit=LIMIT, waiting=WAITING)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close(timeout=5)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A read-only transaction; `TimeoutError` where the server is there but silent."""
        async with (
            within(self._seconds + self._wait_seconds),
            self._pool.connection() as connection,
            connection.transaction(),
        ):
            yield connection

    async def ask(self, query: LiteralString, parameters: Mapping[str, object]) -> list[DictRow]:
        """The rows of one statement, which needs no transaction."""
        return await self.ask_for(dict_row, query, parameters)

    async def ask_for(self, row: AsyncRowFactory[R], query: LiteralString, parameters: Mapping[str, object]) -> list[R]:
        """As `ask`, with rows of another kind."""
        async with within(self._seconds + self._wait_seconds), self._pool.connection() as connection:
            cursor = connection.cursor(binary=True, row_factory=row)
            return await (await cursor.execute(query, parameters)).fetchall()

    @asynccontextmanager
    async def fetching(self, *, statements: int) -> AsyncIterator["Whole"]:
        """For answers that are in memory whole; several statements see the same data."""
        async with (
            within(self._seconds + self._wait_seconds),
            self._pool.connection() as connection,
            connection.transaction() if statements > 1 else nullcontext(),
        ):
            yield Whole(connection)

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
                stream = Stream(connection, self._seconds)
                stack.push_async_callback(stream.close)  # after the transaction, which takes its cursor along
                await stack.enter_async_context(connection.transaction())
            yield stream

    async def check(self) -> None:
        """Raise unless the database answers."""
        async with within(self._wait_seconds), self._pool.connection() as connection:
            await connection.execute("SELECT FROM readings LIMIT 0")


class Rows(Protocol):
    def rows(
        self, query: LiteralString, parameters: Mapping[str, object], row: AsyncRowFactory[DictRow] = dict_row
    ) -> AsyncIterator[Sequence[DictRow]]: ...


def only(columns: Sequence[str]) -> AsyncRowFactory[DictRow]:
    """Rows as dicts of these columns, in this order: what else the query tells is left out where that costs least."""

    def factory(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], DictRow]:
        names = [column.name for column in cursor.description or ()]
        picks = [(column, names.index(column)) for column in columns] if names else []
        return lambda row: {column: row[index] for column, index in picks}

    return factory


class Whole:
    """Few rows, all at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rows(
        self, query: LiteralString, parameters: Mapping[str, object], row: AsyncRowFactory[DictRow] = dict_row
    ) -> AsyncIterator[Sequence[DictRow]]:
        cursor = self._connection.cursor(binary=True, row_factory=row)
        if found := await (await cursor.execute(query, parameters)).fetchall():
            yield found


class Stream:
    """A connection whose every step is bounded in time, while the whole is not."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._cursor: AsyncServerCursor[Any] | None = None

    async def close(self) -> None:
        """End the cursor of a reader who left in the middle; else its end would meet the connection's next user."""
        if self._cursor:
            await self._cursor.close()

    async def rows(
        self, query: LiteralString, parameters: Mapping[str, object], row: AsyncRowFactory[DictRow] = dict_row
    ) -> AsyncIterator[Sequence[DictRow]]:
        """The query's rows by a server-side cursor, `FETCH_ROWS` at a time; never an empty batch."""
        async with self._connection.cursor("rows", binary=True, row_factory=row) as cursor:
            self._cursor = cursor
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


async def _still_there(connection: Connection) -> None:
    """Raise where the server has ended an idle connection: then there is something to read. Else no round trip."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        await AsyncConnectionPool.check_connection(connection)


async def _opened(request: Request) -> Any:
    database: Database | None = getattr(request.app.state, "database", None)
    if database is None:
        raise DatabaseAwayError("the gateway is starting or stopping; try again")
    return database


DatabaseOf = Annotated[Database, Depends(_opened)]
