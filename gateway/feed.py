"""The latest values and who is online, read once a second for all who listen. Pure but for `Feed.run`'s reading.

A listener is never queued for: it has seen the state as of some tick, and gets what has changed since then in one
event, be that one second or five.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import psycopg
import structlog
from prometheus_client import Counter, Gauge, Histogram

from gateway.answers import to_json

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 1.0
SOON_SECONDS: Final = 0.05
"""A site that nobody listened to before is read so soon, together with others that come meanwhile."""
ALIVE_SECONDS: Final = 15
ALIVE: Final = b": alive\n\n"

LISTENERS: Final = Gauge("gateway_stream_listeners", "Clients of the live stream.")
READ: Final = Histogram(
    "gateway_stream_read_seconds",
    "Time to read the latest values for all listeners.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
FAILED: Final = Counter("gateway_stream_reads_failed_total", "Reads of the latest values that the database refused.")


class Row(NamedTuple):
    """A metric of a device with its newest reading, beside the device's own word; nulls where there is none."""

    site: str
    device: str
    told_online: bool | None
    told_at: datetime | None
    came_since: bool
    metric: str | None
    unit: str | None
    ts: datetime | None
    value: float | None
    received_at: datetime | None
    out_of_bounds: bool | None


class Status(NamedTuple):
    online: bool
    since: datetime | None


@dataclass(slots=True)
class Entry:
    """Something with a value, the tick at which it last changed, and its JSON."""

    value: Any
    tick: int
    json: bytes


@dataclass(slots=True)
class Site:
    latest: dict[tuple[str, str], Entry] = field(default_factory=dict)
    status: dict[str, Entry] = field(default_factory=dict)
    changed: int = 0


class Board:
    """What is known of the sites that somebody listens to. Pure."""

    def __init__(self) -> None:
        self.tick = 0
        self.sites: dict[str, Site] = {}
        self._events: dict[tuple[frozenset[str], int], bytes] = {}

    def take(self, sites: Sequence[str], rows: Sequence[Row]) -> None:
        """What was read of these sites is how they are now."""
        self.tick += 1
        self._events.clear()
        there: dict[str, dict[str, datetime | None]] = {name: {} for name in sites}
        words: dict[tuple[str, str], Row] = {}
        for row in rows:
            site = self.sites.setdefault(row.site, Site())
            newest = there[row.site]
            if row.metric is not None and row.received_at is not None:
                self._latest(site, row)
                newest[row.device] = max(filter(None, (newest.get(row.device), row.received_at)))
            else:
                newest.setdefault(row.device, None)
            words[row.site, row.device] = row
        for (name, device), row in words.items():
            self._status(self.sites[name], name, device, _status(row, there[name][device]))
        for name, devices in there.items():
            self._forget(self.sites.setdefault(name, Site()), devices)

    def drop(self, site: str) -> None:
        self.sites.pop(site, None)

    def knows(self, sites: frozenset[str]) -> bool:
        return all(site in self.sites for site in sites)

    def event(self, sites: frozenset[str], since: int) -> bytes:
        """`state` with everything, since 0; else `change` with what changed after that tick, or nothing at all."""
        if since and all(self.sites[name].changed <= since for name in sites):
            return b""
        if (found := self._events.get((sites, since))) is None:
            found = self._events[sites, since] = self._event(sites, since)
        return found

    def _event(self, sites: frozenset[str], since: int) -> bytes:
        latest = b",".join(e.json for name in sorted(sites) for e in self.sites[name].latest.values() if e.tick > since)
        status = b",".join(e.json for name in sorted(sites) for e in self.sites[name].status.values() if e.tick > since)
        kind = b"change" if since else b"state"
        return b'event: %s\ndata: {"latest":[%s],"status":[%s]}\n\n' % (kind, latest, status)

    def _latest(self, site: Site, row: Row) -> None:
        value = (row.ts, row.value, row.received_at)
        entry = site.latest.get((row.device, row.metric or ""))
        if entry is None or entry.value != value:
            told = {
                "device": row.device,
                "site": row.site,
                "metric": row.metric,
                "unit": row.unit,
                "ts": row.ts,
                "value": row.value,
                "received_at": row.received_at,
                "out_of_bounds": row.out_of_bounds,
            }
            site.latest[row.device, row.metric or ""] = Entry(value, self.tick, to_json(told))
            site.changed = self.tick

    def _status(self, site: Site, name: str, device: str, status: Status) -> None:
        entry = site.status.get(device)
        if entry is None or entry.value.online != status.online or (not status.online and entry.value != status):
            told = {"device": device, "site": name, "online": status.online, "since": status.since}
            site.status[device] = Entry(status, self.tick, to_json(told))
            site.changed = self.tick

    def _forget(self, site: Site, devices: Mapping[str, object]) -> None:
        """Devices that have moved away are not told of any more."""
        for gone in site.status.keys() - devices.keys():
            del site.status[gone]
        for key in [key for key in site.latest if key[0] not in devices]:
            del site.latest[key]


def _status(row: Row, newest: datetime | None) -> Status:
    """Only its own word makes a device offline, and a reading that came after it makes it online again."""
    if row.told_online is None or row.told_at is None:
        return Status(online=True, since=None)
    if row.told_online:
        return Status(online=True, since=row.told_at)
    if row.came_since or (newest is not None and newest > row.told_at):
        return Status(online=True, since=newest)
    return Status(online=False, since=row.told_at)


Read = Callable[[Sequence[str]], Awaitable[Sequence[Row]]]


class Feed:
    """One reader for all listeners; without any it rests."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._board = Board()
        self._counts: dict[str, int] = {}
        self._wanted = asyncio.Event()
        self._new = asyncio.Event()
        self._ticked: asyncio.Future[None] | None = None
        self.error: Exception | None = None
        """Of the last read, if it failed."""

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            began = time.monotonic()
            self._new.clear()
            await self._look(sorted(self._counts))
            self._tell()
            await self._pause(began + EVERY_SECONDS)

    async def listen(self, sites: frozenset[str], *, until: float) -> AsyncGenerator[bytes]:
        """Events, each with all that changed since the one before; ends at `until` (monotonic).

        Nothing, once a second without news: whoever passes them on can look whether its client is still there.
        """
        with self._listening(sites):
            while not self._board.knows(sites):
                await self._tick()
                if self.error is not None and not self._board.knows(sites):
                    raise self.error
            seen, sent = 0, time.monotonic()
            while (now := time.monotonic()) < until:
                if event := self._board.event(sites, seen):
                    seen, sent = self._board.tick, now
                    yield event
                    continue
                is_due = now - sent >= ALIVE_SECONDS
                sent = now if is_due else sent
                yield ALIVE if is_due else b""
                await self._tick()

    @contextmanager
    def _listening(self, sites: frozenset[str]) -> Iterator[None]:
        for site in sites:
            self._counts[site] = self._counts.get(site, 0) + 1
        if not self._board.knows(sites):
            self._new.set()
        self._wanted.set()
        LISTENERS.inc()
        try:
            yield
        finally:
            LISTENERS.dec()
            for site in sites:
                self._counts[site] -= 1
                if not self._counts[site]:
                    del self._counts[site]
                    self._board.drop(site)
            if not self._counts:
                self._wanted.clear()

    async def _look(self, sites: Sequence[str]) -> None:
        try:
            with READ.time():
                rows = await self._read(sites)
        except (psycopg.Error, TimeoutError) as error:
            FAILED.inc()
            if self.error is None:
                log.warning("stream_reads_nothing", error=repr(error))
            self.error = error
            return
        self.error = None
        self._board.take([site for site in sites if site in self._counts], [r for r in rows if r.site in self._counts])

    async def _tick(self) -> None:
        """Return after the next look, whatever it showed."""
        if self._ticked is None:
            self._ticked = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._ticked)

    def _tell(self) -> None:
        if self._ticked is not None:
            self._ticked.set_result(None)
            self._ticked = None

    async def _pause(self, until: float) -> None:
        """Until the next second, or until somebody wants a site that has not been read."""
        try:
            async with asyncio.timeout(max(0, until - time.monotonic())):
                await self._new.wait()
        except TimeoutError:
            return
        await asyncio.sleep(SOON_SECONDS)
