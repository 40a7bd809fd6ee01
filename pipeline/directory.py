"""Names into numbers: sites, devices and metrics become known by their first message, within limits.

What it remembers is thrown away after any error, like everything a worker remembers of the database.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final

from psycopg import AsyncConnection

from pipeline import packs
from pipeline.readings import LARGEST, InvalidReadingError, Kind, Reason, Refusal, Topic, parse_topic, unit_of

REFUSALS_KEPT_SECONDS: Final = 30
"""So long a refusal is remembered: an operator who raises a limit or moves a device sees it work soon after."""

Names = tuple[str, ...]

ADD_SITES = """
INSERT INTO sites (name, time_zone)
SELECT DISTINCT w.site, %(zone)s FROM unnest(%(names)s::text[], %(sites)s::text[]) AS w (name, site)
WHERE NOT EXISTS (SELECT FROM devices d WHERE d.name = w.name)
  AND NOT EXISTS (SELECT FROM sites s WHERE s.name = w.site)
ON CONFLICT DO NOTHING"""

ADD_DEVICES = """
INSERT INTO devices (name, site_id)
SELECT new.name, new.site_id
FROM (
    SELECT w.name, s.id AS site_id, row_number() OVER (PARTITION BY s.id ORDER BY w.name) AS nth,
           (SELECT count(*) FROM devices d WHERE d.site_id = s.id) AS there
    FROM unnest(%(names)s::text[], %(sites)s::text[]) AS w (name, site) JOIN sites s ON s.name = w.site
    WHERE NOT EXISTS (SELECT FROM devices d WHERE d.name = w.name)
) AS new
WHERE new.there + new.nth <= %(limit)s
ON CONFLICT DO NOTHING"""

DEVICES = """
SELECT d.name, d.id, s.name, CASE WHEN d.moved_at + %(past)s > now() THEN p.name END
FROM devices d JOIN sites s ON s.id = d.site_id LEFT JOIN sites p ON p.id = d.previous_site_id
WHERE d.name = ANY(%(names)s)"""

ADD_METRICS = """
INSERT INTO metrics (name, unit)
SELECT name, unit
FROM (
    SELECT w.name, w.unit, row_number() OVER (ORDER BY w.name) AS nth, (SELECT count(*) FROM metrics) AS there
    FROM unnest(%(names)s::text[], %(units)s::text[]) AS w (name, unit)
    WHERE NOT EXISTS (SELECT FROM metrics m WHERE m.name = w.name)
) AS new
WHERE new.there + new.nth <= %(limit)s
ON CONFLICT DO NOTHING"""

METRICS = "SELECT name, id FROM metrics WHERE name = ANY(%s)"

DEVICE_METRICS = "SELECT device_id, metric_id FROM device_metrics WHERE device_id = ANY(%s)"

ADD_DEVICE_METRICS = """
INSERT INTO device_metrics (device_id, metric_id)
SELECT * FROM unnest(%s::int[], %s::smallint[]) ON CONFLICT DO NOTHING"""


Rows = Callable[[bytes, Iterable[Any]], bytes]


class Layout:
    """The metrics of one device in the order it sends them, ready to be packed as rows of a binary COPY.

    `rows(moment, values)` are all rows of a reading without `seq`, `rows_with_seq` those of one with it; the moment is
    what `batches.MOMENT` or `MOMENT_WITH_SEQ` packed. `OverflowError`, `TypeError` or `struct.error` if a value is no
    number below `LARGEST`.
    """

    __slots__ = ("device_id", "key", "latest_us", "metric_ids", "points", "rows", "rows_with_seq")

    def __init__(self, key: int, device_id: int, metric_ids: Sequence[int]) -> None:
        self.key = key
        self.device_id = device_id
        self.latest_us = 0
        """No reading in `batches.Recent` is later."""
        self.metric_ids = tuple(metric_ids)
        self.points = len(self.metric_ids)
        prefixes = [_PREFIX(6, 4, device_id, 2, metric_id) for metric_id in metric_ids]
        self.rows = _packer(prefixes, Struct(">" + "16s32sd" * self.points).pack)
        self.rows_with_seq = _packer(prefixes, Struct(">" + "16s40sd" * self.points).pack)


_PREFIX = Struct(">hiiih").pack


def _packer(prefixes: Sequence[bytes], pack: Callable[..., bytes]) -> Rows:
    """Prefix, moment and value of each row in one call; written out up to three, which saves 0.5 µs a reading."""
    return {1: _one, 2: _two, 3: _three}.get(len(prefixes), _many)(prefixes, pack)


def _one(prefixes: Sequence[bytes], pack: Callable[..., bytes]) -> Rows:
    (a,) = prefixes

    def rows(moment: bytes, values: Iterable[Any]) -> bytes:
        (v,) = values
        if not -LARGEST < v < LARGEST:
            raise OverflowError
        return pack(a, moment, v)

    return rows


def _two(prefixes: Sequence[bytes], pack: Callable[..., bytes]) -> Rows:
    a, b = prefixes

    def rows(moment: bytes, values: Iterable[Any]) -> bytes:
        v, w = values
        if not (-LARGEST < v < LARGEST and -LARGEST < w < LARGEST):
            raise OverflowError
        return pack(a, moment, v, b, moment, w)

    return rows


def _three(prefixes: Sequence[bytes], pack: Callable[..., bytes]) -> Rows:
    a, b, c = prefixes

    def rows(moment: bytes, values: Iterable[Any]) -> bytes:
        v, w, x = values
        if not (-LARGEST < v < LARGEST and -LARGEST < w < LARGEST and -LARGEST < x < LARGEST):
            raise OverflowError
        return pack(a, moment, v, b, moment, w, c, moment, x)

    return rows


def _many(prefixes: Sequence[bytes], pack: Callable[..., bytes]) -> Rows:
    def rows(moment: bytes, values: Iterable[Any]) -> bytes:
        if not all(-LARGEST < value < LARGEST for value in values):
            raise OverflowError
        return pack(*(part for prefix, value in zip(prefixes, values, strict=True) for part in (prefix, moment, value)))

    return rows


@dataclass(slots=True)
class Device:
    id: int
    name: str
    partition: int
    layouts: dict[Names, Layout] = field(default_factory=dict)
    refused: dict[Names, Refusal] = field(default_factory=dict)
    metric_ids: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Unknown:
    """Names that must be looked up before a pack can be turned into rows; in the order they were seen."""

    topics: dict[str, None] = field(default_factory=dict)
    names: dict[str, dict[Names, None]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.topics or self.names)

    def add_topic(self, topic: str) -> None:
        self.topics[topic] = None

    def add_names(self, topic: str, names: Names) -> None:
        self.names.setdefault(topic, {})[names] = None


class Directory:
    """Whose topic is it? `sources` for readings, `announcers` for status; `refused` says why it is nobody's."""

    def __init__(
        self,
        *,
        partitions: int,
        metrics_per_device: int,
        metric_names: int,
        devices_per_site: int,
        past_limit: Any,
        site_time_zone: str,
    ) -> None:
        self.sources: dict[str, Device] = {}
        self.announcers: dict[str, Device] = {}
        self.refused: dict[str, Refusal] = {}
        self.layouts: dict[int, Layout] = {}
        self._devices: dict[str, Device] = {}
        self._metrics: dict[str, int] = {}
        self._next_layout = 0
        self._refusals_since = time.monotonic()
        self._partitions = partitions
        self._metrics_per_device = metrics_per_device
        self._metric_names = metric_names
        self._devices_per_site = devices_per_site
        self._past_limit = past_limit
        self._zone = site_time_zone

    def forget(self) -> None:
        self.sources.clear()
        self.announcers.clear()
        self.refused.clear()
        self.layouts.clear()
        self._devices.clear()
        self._metrics.clear()

    def reconsider(self) -> None:
        """Forget refusals every now and then; called before a batch."""
        if time.monotonic() - self._refusals_since < REFUSALS_KEPT_SECONDS:
            return
        self._refusals_since = time.monotonic()
        self.refused.clear()
        for device in self._devices.values():
            device.refused.clear()

    async def learn(self, connection: AsyncConnection, unknown: Unknown) -> None:
        """Return when every name in `unknown` is either known or refused."""
        await self._learn_topics(connection, unknown.topics)
        wanted = [
            (self.sources[topic], names)
            for topic, layouts in unknown.names.items()
            if topic in self.sources
            for names in layouts
        ]
        if wanted:
            await self._learn_layouts(connection, wanted)

    async def _learn_topics(self, connection: AsyncConnection, topics: Iterable[str]) -> None:
        parsed: dict[str, Topic] = {}
        for topic in topics:
            try:
                parsed[topic] = parse_topic(topic)
            except InvalidReadingError as error:
                self.refused[topic] = Refusal(reason=error.reason, detail=error.detail)
        if parsed:
            places = await self._places(connection, list(parsed.values()))
            for topic, place in parsed.items():
                self._admit(topic, place, places.get(place.device))

    async def _places(self, connection: AsyncConnection, wanted: Sequence[Topic]) -> dict[str, tuple[Any, ...]]:
        """(id, site, previous site) of each device that is there or could be added."""
        site_of = {place.device: place.site for place in reversed(wanted)}  # the first topic seen names the site
        devices = {"names": list(site_of), "sites": list(site_of.values())}
        await connection.execute(ADD_SITES, {**devices, "zone": self._zone})
        await connection.execute(ADD_DEVICES, {**devices, "limit": self._devices_per_site})
        cursor = await connection.execute(DEVICES, {**devices, "past": self._past_limit})
        return {name: place async for name, *place in cursor}  # type: ignore[misc]

    def _admit(self, topic: str, place: Topic, found: Sequence[Any] | None) -> None:
        if found is None:
            detail = (
                f"site {place.site} has its {self._devices_per_site} devices; BRIGADE_DEVICES_PER_SITE sets the limit"
            )
            self.refused[topic] = Refusal(reason=Reason.TOO_MANY_DEVICES, detail=detail)
            return
        device_id, site, previous_site = found
        if place.site not in (site, previous_site):
            detail = f"device {place.device} belongs to site {site}; `brigade devices move` changes that"
            self.refused[topic] = Refusal(reason=Reason.WRONG_SITE, detail=detail)
            return
        device = self._devices.get(place.device)
        if device is None:
            partition = packs.partition_of(place.device, self._partitions)
            device = self._devices[place.device] = Device(device_id, place.device, partition)
        (self.sources if place.kind is Kind.READINGS else self.announcers)[topic] = device

    async def _learn_layouts(self, connection: AsyncConnection, wanted: Sequence[tuple[Device, Names]]) -> None:
        devices = {device.id: device for device, _ in wanted}
        async for device_id, metric_id in await connection.execute(DEVICE_METRICS, (list(devices),)):
            devices[device_id].metric_ids.add(metric_id)
        await self._find_metrics(connection, _names(wanted))
        wanted = self._within_the_limit(wanted)
        await self._add_metrics(connection, _names(wanted))
        new = [pair for device, names in wanted for pair in self._add_layout(device, names)]
        if new:
            await connection.execute(ADD_DEVICE_METRICS, tuple(map(list, zip(*new, strict=True))))

    async def _find_metrics(self, connection: AsyncConnection, names: Iterable[str]) -> None:
        if missing := [name for name in names if name not in self._metrics]:
            async for name, metric_id in await connection.execute(METRICS, (missing,)):
                self._metrics[name] = metric_id

    async def _add_metrics(self, connection: AsyncConnection, names: Iterable[str]) -> None:
        if missing := [name for name in names if name not in self._metrics]:
            units = [unit_of(name) for name in missing]
            await connection.execute(ADD_METRICS, {"names": missing, "units": units, "limit": self._metric_names})
            await self._find_metrics(connection, missing)

    def _within_the_limit(self, wanted: Sequence[tuple[Device, Names]]) -> list[tuple[Device, Names]]:
        """Asked before names are added: a device that invents names must not use up the installation's."""
        fitting = []
        planned: dict[int, set[str]] = {}
        for device, names in wanted:
            new = {name for name in names if self._metrics.get(name) not in device.metric_ids}
            new |= planned.get(device.id, set())
            if len(device.metric_ids) + len(new) > self._metrics_per_device:
                detail = f"the device has {len(device.metric_ids)} metrics; BRIGADE_METRICS_PER_DEVICE sets the limit"
                device.refused[names] = Refusal(reason=Reason.TOO_MANY_METRICS, detail=detail)
            else:
                planned[device.id] = new
                fitting.append((device, names))
        return fitting

    def _add_layout(self, device: Device, names: Names) -> list[tuple[int, int]]:
        """Give the device a layout, or the reason why not; return its (device, metric) pairs that are new."""
        if unknown := [name for name in names if name not in self._metrics]:
            detail = f"{unknown[0]} would be one metric name too many; BRIGADE_METRIC_NAMES sets the limit"
            device.refused[names] = Refusal(reason=Reason.TOO_MANY_METRIC_NAMES, detail=detail)
            return []
        metric_ids = [self._metrics[name] for name in names]
        new = set(metric_ids) - device.metric_ids
        device.metric_ids |= new
        self._next_layout += 1
        layout = Layout(self._next_layout, device.id, metric_ids)
        self.layouts[layout.key] = device.layouts[names] = layout
        return [(device.id, metric_id) for metric_id in new]


def _names(wanted: Iterable[tuple[Device, Names]]) -> set[str]:
    return {name for _, names in wanted for name in names}
