"""The least that answers the same questions: uvicorn and psycopg, the gateway's own SQL, and nothing else.

No names looked up, no token, no limit, no validation. `python -m deploy.bench.bare` serves it; the bench compares.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, LiteralString

import orjson
import psycopg
import uvicorn
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from gateway import devices, series, stream

OPTIONS = "-c default_transaction_read_only=on -c timezone=UTC -c jit=off -c random_page_cost=1.1"
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Bare:
    def __init__(self, database_url: str, ends: datetime, site: str, device: int, metric: int) -> None:
        self._pool = AsyncConnectionPool(
            database_url,
            min_size=4,
            max_size=8,
            open=False,
            kwargs={
                "autocommit": True,
                "prepare_threshold": None,
                "options": OPTIONS,
                "application_name": "brigade-bare",
            },
        )
        self._site = site
        every = {"device": device, "metric": metric, "lower": -5.0, "upper": 8.0, "end": ends}
        self._questions: dict[str, tuple[LiteralString, dict[str, object]]] = {
            "/latest": (devices.LATEST, {"device": None, "sites": [site], "after": "", "limit": 201}),
            "/day": (series.RAW, every | {"start": ends.fromtimestamp(ends.timestamp() - 86_400, ends.tzinfo)}),
            "/month": (
                series.HOURS,
                every | {"start": ends.fromtimestamp(ends.timestamp() - 30 * 86_400, ends.tzinfo)},
            ),
        }
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._reading: asyncio.Task[None] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        match scope:
            case {"type": "lifespan"}:
                await self._lifespan(receive, send)
            case {"path": "/stream"}:
                await self._stream(send)
            case {"path": path}:
                rows = await self._rows(*self._questions[path])
                await _start(send, b"application/json")
                await send({"type": "http.response.body", "body": orjson.dumps(rows, option=orjson.OPT_UTC_Z)})

    async def _rows(self, query: LiteralString, parameters: dict[str, object]) -> Sequence[dict[str, Any]]:
        async with (
            self._pool.connection() as connection,
            connection.cursor(row_factory=dict_row, binary=True) as cursor,
        ):
            return await (await cursor.execute(query, parameters)).fetchall()

    async def _lifespan(self, receive: Any, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._pool.open(wait=True)
            else:
                await self._pool.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _stream(self, send: Send) -> None:
        mine: asyncio.Queue[bytes] = asyncio.Queue()
        self._listeners.add(mine)
        self._reading = self._reading or asyncio.create_task(self._read())
        try:
            await _start(send, b"text/event-stream")
            while True:
                await send({"type": "http.response.body", "body": await mine.get(), "more_body": True})
        finally:
            self._listeners.discard(mine)

    async def _read(self) -> None:
        """Each second what has changed, to everyone."""
        before: dict[Any, Any] = {}
        while True:
            rows = await self._rows(stream.STREAM, {"sites": [self._site]})
            changed = [row for row in rows if before.get((row["device"], row["metric"])) != row["ts"]]
            before = {(row["device"], row["metric"]): row["ts"] for row in rows}
            if changed:
                event = b"event: change\ndata: %s\n\n" % orjson.dumps({"latest": changed}, option=orjson.OPT_UTC_Z)
                for listener in self._listeners:
                    listener.put_nowait(event)
            await asyncio.sleep(1)


async def _start(send: Send, media_type: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})


def main() -> None:
    here = os.environ
    ends = datetime.fromisoformat(here["BENCH_ENDS"])
    with psycopg.connect(here["BENCH_DATABASE_URL"]) as connection:
        device = connection.execute("SELECT id FROM devices WHERE name = %s", (here["BENCH_DEVICE"],)).fetchone()
        metric = connection.execute("SELECT id FROM metrics WHERE name = %s", (here["BENCH_METRIC"],)).fetchone()
    if device is None or metric is None:
        raise SystemExit("the data set has no such device or metric")
    app = Bare(here["BENCH_DATABASE_URL"], ends, here["BENCH_SITE"], device[0], metric[0])
    port = int(here["BENCH_PORT"])
    uvicorn.run(app, port=port, loop="uvloop", log_level="warning", access_log=False, timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
