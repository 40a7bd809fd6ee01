"""Sites, devices and their latest values."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Request
from fastapi import Query as InQuery
from pydantic import BaseModel, ConfigDict, Field

from gateway import cursors
from gateway.answers import Json, links
from gateway.database import Connection, DatabaseOf
from gateway.points import Point
from gateway.problems import UnknownError, documented
from gateway.queries import DEVICE_PATTERN, PREFIX, SITE_PATTERN, DeviceName, Nothing, Page

SITES: Final = """
SELECT s.name, s.display_name, s.time_zone, count(d.id) AS devices
FROM sites s LEFT JOIN devices d ON d.site_id = s.id
WHERE s.name > %(after)s
GROUP BY s.id ORDER BY s.name LIMIT %(limit)s
"""

SITE: Final = "SELECT id FROM sites WHERE name = %(site)s"

# Online: only a status that says so makes a device offline, and a reading received after it makes it online again.
# The newest reading of each metric tells; late ones that came since are told by the ledger's later hours.
DEVICES: Final = """
SELECT d.name, d.display_name, s.name AS site, s.time_zone, now.online, now.last_seen
FROM devices d
JOIN sites s ON s.id = d.site_id
LEFT JOIN device_status st ON st.device_id = d.id
CROSS JOIN LATERAL (
    SELECT max(r.received_at) AS received_at
    FROM device_metrics dm
    CROSS JOIN LATERAL (
        SELECT q.received_at FROM readings q
        WHERE q.device_id = dm.device_id AND q.metric_id = dm.metric_id ORDER BY q.ts DESC LIMIT 1
    ) r
    WHERE dm.device_id = d.id
) newest
CROSS JOIN LATERAL (
    SELECT coalesce(st.online, true) OR coalesce(newest.received_at > st.received_at, false) OR EXISTS (
               SELECT FROM ledger l
               WHERE l.device_id = d.id AND l.hour > st.received_at AND l.stored + l.duplicate > 0
           ) AS online,
           greatest(newest.received_at, CASE WHEN st.online THEN st.received_at END) AS last_seen
) now
WHERE d.name > %(after)s
  AND (%(device)s::text IS NULL OR d.name = %(device)s)
  AND (%(site)s::int IS NULL OR d.site_id = %(site)s)
  AND (%(online)s::bool IS NULL OR now.online = %(online)s)
ORDER BY d.name LIMIT %(limit)s
"""

METRICS: Final = """
SELECT m.id, m.name, m.unit, m.lower_bound, m.upper_bound
FROM device_metrics dm JOIN metrics m ON m.id = dm.metric_id
WHERE dm.device_id = %(device)s ORDER BY m.name
"""

DEVICE: Final = """
SELECT d.id, d.name, s.name AS site, s.time_zone
FROM devices d JOIN sites s ON s.id = d.site_id WHERE d.name = %(device)s
"""

# One index probe for each metric of each device on the page.
LATEST: Final = """
SELECT d.name AS device, v.*
FROM (
    SELECT id, name FROM devices
    WHERE (%(device)s::int IS NULL OR id = %(device)s) AND (%(site)s::int IS NULL OR site_id = %(site)s)
      AND name > %(after)s
    ORDER BY name LIMIT %(limit)s
) d
LEFT JOIN LATERAL (
    SELECT m.name AS metric, m.unit, r.ts, r.value, r.received_at, r.seq,
           coalesce(r.value < m.lower_bound, false) OR coalesce(r.value > m.upper_bound, false) AS out_of_bounds
    FROM device_metrics dm
    JOIN metrics m ON m.id = dm.metric_id
    CROSS JOIN LATERAL (
        SELECT q.ts, q.value, q.received_at, q.seq FROM readings q
        WHERE q.device_id = dm.device_id AND q.metric_id = dm.metric_id ORDER BY q.ts DESC LIMIT 1
    ) r
    WHERE dm.device_id = d.id
    OFFSET 0 -- keeps the probes to these devices
) v ON true
ORDER BY d.name, v.metric
"""

_NAME: Final = re.compile(DEVICE_PATTERN, re.ASCII)

router = APIRouter(prefix=PREFIX)


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Site(Model):
    name: str = Field(examples=["seoul-1"])
    display_name: str | None
    time_zone: str = Field(examples=["Asia/Seoul"])
    devices: int


class Sites(Model):
    sites: list[Site]
    next: str | None


class ListedDevice(Model):
    name: str = Field(examples=["fridge-0001"])
    display_name: str | None
    site: str = Field(examples=["seoul-1"])
    time_zone: str = Field(examples=["Asia/Seoul"])
    online: bool = Field(description="False only if its last will said so and no reading came since.")
    last_seen: datetime | None = Field(description="When its newest reading, or its word that it is online, came.")


class Devices(Model):
    devices: list[ListedDevice]
    next: str | None


class DescribedMetric(Model):
    name: str = Field(examples=["temperature_c"])
    unit: str | None = Field(examples=["°C"])
    lower_bound: float | None
    upper_bound: float | None


class OneDevice(ListedDevice):
    metrics: list[DescribedMetric]


class Value(Model):
    metric: str = Field(examples=["temperature_c"])
    unit: str | None = Field(examples=["°C"])
    ts: datetime = Field(description="The device's time.")
    value: float
    received_at: datetime = Field(description="When it came.")
    seq: int | None = Field(description="The device's own count, where it sends one.")
    out_of_bounds: bool


class Latest(Model):
    device: str
    values: list[Value]


class LatestPage(Model):
    devices: list[Latest]
    next: str | None


class After(msgspec.Struct, forbid_unknown_fields=True):
    """A page of things ordered by name begins after this one."""

    after: Annotated[str, msgspec.Meta(pattern=DEVICE_PATTERN)]


class DevicesQuery(Page):
    site: str | None = Field(None, description="Only this site's.", examples=["seoul-1"])
    online: bool | None = Field(None, description="Only those that are online, or only those that are not.")


class LatestQuery(Page):
    site: str = Field(description="The site.", examples=["seoul-1"])
    limit: int = Field(200, ge=1, le=1000, description="Devices of a page.")


@dataclass(frozen=True, slots=True)
class Device:
    id: int
    name: str
    site: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class Metric:
    id: int
    name: str
    unit: str | None
    lower_bound: float | None
    upper_bound: float | None

    def judged(self, point: Point) -> Point:
        """The point, and whether its value is out of the metric's bounds."""
        below = self.lower_bound is not None and point["value"] < self.lower_bound
        above = self.upper_bound is not None and point["value"] > self.upper_bound
        return {**point, "out_of_bounds": below or above}

    def described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "lower_bound": self.lower_bound,
            "upper_bound": self.upper_bound,
        }


async def find_device(connection: Connection, name: str) -> Device:
    row = None
    if _NAME.fullmatch(name):
        row = await (await connection.execute(DEVICE, {"device": name})).fetchone()
    if row is None:
        raise UnknownError("device", f"no device is named {name!r}; /api/v1/devices lists them")
    return Device(**row)


async def find_site(connection: Connection, name: str) -> int:
    row = None
    if re.fullmatch(SITE_PATTERN, name, re.ASCII):
        row = await (await connection.execute(SITE, {"site": name})).fetchone()
    if row is None:
        raise UnknownError("site", f"no site is named {name!r}; /api/v1/sites lists them")
    return int(row["id"])


async def find_metrics(connection: Connection, device: Device) -> list[Metric]:
    found = await connection.execute(METRICS, {"device": device.id})
    return [Metric(**row) async for row in found]


@router.get("/sites", tags=["devices"], summary="The restaurants", response_model=Sites, responses=documented())
async def sites(request: Request, database: DatabaseOf, query: Annotated[Page, InQuery()]) -> Json:
    async with database.reading() as connection:
        rows = await (await connection.execute(SITES, {"after": _after(query), "limit": query.limit + 1})).fetchall()
    rows, following = _page(rows, query.limit, "name")
    return Json({"sites": rows, "next": following}, headers=links(request, following))


@router.get(
    "/devices",
    tags=["devices"],
    summary="The sensors, by name",
    response_model=Devices,
    responses=documented(UnknownError),
)
async def devices(request: Request, database: DatabaseOf, query: Annotated[DevicesQuery, InQuery()]) -> Json:
    async with database.reading() as connection:
        site = None if query.site is None else await find_site(connection, query.site)
        found = await connection.execute(
            DEVICES,
            {
                "device": None,
                "site": site,
                "online": query.online,
                "after": _after(query),
                "limit": query.limit + 1,
            },
        )
        rows, following = _page(await found.fetchall(), query.limit, "name")
    return Json({"devices": rows, "next": following}, headers=links(request, following))


@router.get(
    "/devices/{device}",
    tags=["devices"],
    summary="One sensor, with its metrics and their units",
    response_model=OneDevice,
    responses=documented(UnknownError),
)
async def device(database: DatabaseOf, device: DeviceName, _: Annotated[Nothing, InQuery()]) -> Json:
    async with database.reading() as connection:
        found = await find_device(connection, device)
        about = await connection.execute(
            DEVICES, {"device": found.name, "site": None, "online": None, "after": "", "limit": 1}
        )
        row = await about.fetchone()
        metrics = await find_metrics(connection, found)
    return Json({**(row or {}), "metrics": [metric.described() for metric in metrics]})


@router.get(
    "/devices/{device}/latest",
    tags=["devices"],
    summary="The newest value of each metric of a sensor",
    response_model=Latest,
    responses=documented(UnknownError),
)
async def latest_of_device(database: DatabaseOf, device: DeviceName, _: Annotated[Nothing, InQuery()]) -> Json:
    async with database.reading() as connection:
        found = await find_device(connection, device)
        rows = await _latest(connection, device=found.id, site=None, after="", limit=1)
    return Json(_by_device(rows)[0])


@router.get(
    "/latest",
    tags=["devices"],
    summary="The newest values of all sensors of a site",
    response_model=LatestPage,
    responses=documented(UnknownError),
)
async def latest_of_site(request: Request, database: DatabaseOf, query: Annotated[LatestQuery, InQuery()]) -> Json:
    async with database.reading() as connection:
        site = await find_site(connection, query.site)
        rows = await _latest(connection, device=None, site=site, after=_after(query), limit=query.limit + 1)
    found, following = _page(_by_device(rows), query.limit, "device")
    return Json({"devices": found, "next": following}, headers=links(request, following))


async def _latest(
    connection: Connection, *, device: int | None, site: int | None, after: str, limit: int
) -> list[dict[str, Any]]:
    found = await connection.execute(LATEST, {"device": device, "site": site, "after": after, "limit": limit})
    return await found.fetchall()


def _by_device(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order of device; one without values has a single row of nulls."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        values = found.setdefault(row.pop("device"), [])
        if row["metric"] is not None:
            values.append(row)
    return [{"device": name, "values": values} for name, values in found.items()]


def _after(page: Page) -> str:
    return cursors.decode(page.cursor, After).after if page.cursor else ""


def _page(rows: list[dict[str, Any]], limit: int, name: str) -> tuple[list[dict[str, Any]], str | None]:
    """The page, of rows one more than it holds, and the cursor of the next one if there is one."""
    following = cursors.encode(After(after=rows[limit - 1][name])) if len(rows) > limit else None
    return rows[:limit], following
