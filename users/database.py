"""The connections of users: PostgreSQL bounded in time and back by itself after an outage, and Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from prometheus_client import Gauge
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from observability import pools
from users.settings import CommandSettings, UsersSettings

if TYPE_CHECKING:
    from observability.otlp import Traces

Connection = AsyncConnection[DictRow]

STATEMENT_SECONDS: Final = 1.5
REDIS_SECONDS: Final = 0.7
"""With the wait for a connection: an answer within the gateway's three seconds, be it that something is away."""

OPTIONS: Final = (
    f"-c statement_timeout={STATEMENT_SECONDS * 1000:.0f} -c lock_timeout=1s "
    "-c idle_in_transaction_session_timeout=60s "
    "-c timezone=UTC -c jit=off"
)

CONNECTIONS: Final = Gauge("users_database_pool_connections", "Connections to the database.", ["state"])
LIMIT: Final = Gauge("users_database_pool_size_limit", "So many there may be.")
WAITING: Final = Gauge("users_database_pool_requests_waiting", "Requests that wait for one.")


class Database:
    """A pool; opened with `async with`, whether the database is there yet or not."""

    def __init__(self, settings: UsersSettings, traces: "Traces | None" = None) -> None:
        self._seconds = settings.pool_wait_seconds + STATEMENT_SECONDS
        self._pool = AsyncConnectionPool(
            settings.database_url.get_secret_value(),
            connection_class=traces.connection if traces else Connection,
            kwargs={
                "row_factory": dict_row,
                "application_name": "brigade-users",
                "connect_timeout": 2,
                "options": OPTIONS,
            },
            min_size=1,
            max_size=settings.pool_size,
            open=False,
            check=AsyncConnectionPool.check_connection,
            reconnect_timeout=2,  # then on demand: its own back-off grows to minutes
            timeout=settings.pool_wait_seconds,
            max_idle=60,
            name="users",
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
    async def transaction(self) -> AsyncIterator[Connection]:
        """Committed at the end; `TimeoutError` where the server is there but silent."""
        async with within(self._seconds), self._pool.connection() as connection:
            yield connection

    @asynccontextmanager
    async def patient_transaction(self) -> AsyncIterator[Connection]:
        """For what waits for others, such as a mail server: only the connection's own steps are bounded."""
        async with self._pool.connection() as connection:
            yield connection

    async def check(self) -> None:
        """Raise unless the database answers and has our tables."""
        async with self.transaction() as connection:
            await connection.execute("SELECT FROM people LIMIT 0")


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """`TimeoutError` after so long.

    A cancelled psycopg asks the server to cancel too, and waits 10 s for a silent one; cancelled once more, it drops
    the connection.
    """
    async with asyncio.timeout(seconds + 0.1), asyncio.timeout(seconds):
        yield


def redis_of(settings: CommandSettings) -> Any:
    """A client, to be closed by `aclose`. One retry, at once: a connection that a restart of Redis left dead."""
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=0.5,
        retry=Retry(NoBackoff(), 1),
        client_name="brigade-users",
    )
