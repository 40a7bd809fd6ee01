"""`/stream`: the latest values and who is online, as they change, for as long as the token is good."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi import Query as InQuery
from psycopg.rows import args_row
from pydantic import Field
from starlette.types import Receive, Scope, Send

from gateway.answers import client_gone
from gateway.auth import PrincipalOf
from gateway.connections import SCOPE, SLOW, Connection
from gateway.database import Database
from gateway.feed import Feed, Row
from gateway.problems import TooManyError, UnknownError, documented
from gateway.queries import PREFIX, Query, several
from gateway.roles import Permission
from gateway.tokens import Principal

RETRY: Final = b"retry: 2000\n\n"
MOST_SITES: Final = 100

# One index probe for each metric of each device, as `devices.LATEST`; and what `devices.DEVICES` judges by.
STREAM: Final = """
SELECT s.name AS site, d.name AS device, st.online AS told_online, st.received_at AS told_at,
       CASE WHEN st.online THEN false ELSE EXISTS (
           SELECT FROM ledger l WHERE l.device_id = d.id AND l.hour > st.received_at AND l.stored + l.duplicate > 0
       ) END AS came_since,
       v.metric, v.unit, v.ts, v.value, v.received_at, v.out_of_bounds
FROM sites s
JOIN devices d ON d.site_id = s.id
LEFT JOIN device_status st ON st.device_id = d.id
LEFT JOIN LATERAL (
    SELECT m.name AS metric, m.unit, r.ts, r.value, r.received_at,
           coalesce(r.value < m.lower_bound, false) OR coalesce(r.value > m.upper_bound, false) AS out_of_bounds
    FROM device_metrics dm
    JOIN metrics m ON m.id = dm.metric_id
    CROSS JOIN LATERAL (
        SELECT q.ts, q.value, q.received_at FROM readings q
        WHERE q.device_id = dm.device_id AND q.metric_id = dm.metric_id ORDER BY q.ts DESC LIMIT 1
    ) r
    WHERE dm.device_id = d.id
    OFFSET 0 -- keeps the probes to these devices
) v ON true
WHERE s.name = ANY(%(sites)s)
"""

EXAMPLE: Final = (
    "retry: 2000\n\nevent: state\n"
    'data: {"latest":[{"device":"fridge-0001","site":"seoul-1","metric":"temperature_c","unit":"°C",'
    '"ts":"2026-11-23T03:40:00Z","value":3.4,"received_at":"2026-11-23T03:40:00.2Z","out_of_bounds":false}],'
    '"status":[{"device":"fridge-0001","site":"seoul-1","online":true,"since":null}]}\n\n'
)

router = APIRouter(prefix=PREFIX)


class StreamQuery(Query):
    site: several(str) = Field(  # type: ignore[valid-type]
        default_factory=list,
        max_length=MOST_SITES,
        description="One or several sites, repeated or separated by commas; none: all of yours.",
        examples=[["seoul-1"]],
    )


def feed(database: Database) -> Feed:
    async def read(sites: Sequence[str]) -> list[Row]:
        return await database.ask_for(args_row(Row), STREAM, {"sites": list(sites)})

    return Feed(read)


class Listeners:
    """How many streams each has open; one may not open them without end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one_more(self, principal: Principal) -> Iterator[None]:
        if self._open[principal.subject] >= self._most:
            raise TooManyError(
                f"you have {self._most} streams open; close one, or ask one for several sites",
                headers={"Retry-After": "10"},
            )
        self._open[principal.subject] += 1
        try:
            yield
        finally:
            self._open[principal.subject] -= 1
            if not self._open[principal.subject]:
                del self._open[principal.subject]


class Events(Response):
    """Server-sent events to one client, who is dropped when it does not take them."""

    def __init__(self, events: AsyncGenerator[bytes], *, stalled_seconds: float) -> None:
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.background = None
        self.init_headers({"X-Accel-Buffering": "no"})
        self._events: Any = events
        self._stalled_seconds = stalled_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection | None = scope.get(SCOPE)
        leaving = asyncio.Event()
        async with aclosing(self._events) as events:
            first = await anext(events)
            if connection:
                connection.is_a_stream(self._stalled_seconds)
                connection.on_shutdown = leaving.set
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            gone = asyncio.create_task(client_gone(receive))
            try:
                await self._part(send, RETRY + first)
                async for event in events:
                    if gone.done() or leaving.is_set():
                        break
                    if event:
                        await self._part(send, event)
                await self._part(send, b"", more=False)
            except TimeoutError:
                SLOW.labels("stream").inc()
                if connection:
                    connection.abort()
            finally:
                gone.cancel()
                if connection:
                    connection.on_shutdown = None

    async def _part(self, send: Send, part: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._stalled_seconds):
            await send({"type": "http.response.body", "body": part, "more_body": more})


@router.get(
    "/stream",
    tags=["devices"],
    summary="The newest values and who is online, as they change (server-sent events)",
    description="The event `state` tells everything, then `change` each second what is new, if anything is; a comment "
    "every 15 s says that the stream is alive. It ends when the token expires: connect again with a new one, and get "
    "the state again. Who does not take the events loses the connection.",
    response_class=Response,
    responses=documented(UnknownError, TooManyError)
    | {200: {"description": "Events without end.", "content": {"text/event-stream": {"example": EXAMPLE}}}},
)
async def stream(request: Request, principal: PrincipalOf, query: Annotated[StreamQuery, InQuery()]) -> Events:
    sites = allowed(principal, query.site)
    state = request.app.state
    until = time.monotonic() + principal.expires_at - time.time()
    return Events(
        _events(state.feed, state.listeners, principal, sites, until),
        stalled_seconds=state.stalled_stream_seconds,
    )


async def _events(
    feed: Feed, listeners: Listeners, principal: Principal, sites: frozenset[str], until: float
) -> AsyncGenerator[bytes]:
    with listeners.one_more(principal):
        async with aclosing(feed.listen(sites, until=until)) as events:
            async for event in events:
                yield event


def allowed(principal: Principal, asked: Sequence[str]) -> frozenset[str]:
    mine = principal.must(Permission.READINGS_READ)
    for site in asked:
        if site not in mine:
            raise UnknownError("site", f"no site is named {site!r}; /api/v1/sites lists them")
    return frozenset(asked or mine)
