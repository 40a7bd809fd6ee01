"""`/recent`: the last hours of a whole site in one answer, for the lines on its cards."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any, Final

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import Field

from gateway.answers import Json
from gateway.auth import PrincipalOf
from gateway.database import DatabaseOf
from gateway.devices import Model, sites_asked
from gateway.problems import UnknownError, documented
from gateway.queries import PREFIX, Query

STEP: Final = timedelta(minutes=5)
STEPS: Final = 36

# Of minutes that are computed: the one that runs, and late readings for a moment, are left out. One index range for
# each metric of each device.
RECENT: Final = """
SELECT d.name AS device, m.name AS metric, r.step, r.value
FROM sites s
JOIN devices d ON d.site_id = s.id
JOIN device_metrics dm ON dm.device_id = d.id
JOIN metrics m ON m.id = dm.metric_id
CROSS JOIN LATERAL (
    SELECT floor(extract(epoch FROM q.bucket - %(start)s) / %(step)s)::int AS step,
           sum(q.sum) / sum(q.n)::float8 AS value
    FROM readings_1m q
    WHERE q.device_id = dm.device_id AND q.metric_id = dm.metric_id AND q.bucket >= %(start)s AND q.bucket < %(end)s
    GROUP BY step
    OFFSET 0 -- keeps the ranges to these devices
) r
WHERE s.name = ANY(%(sites)s)
ORDER BY d.name, m.name, r.step
"""

router = APIRouter(prefix=PREFIX)


class RecentOfDevice(Model):
    device: str
    metrics: dict[str, list[float | None]] = Field(
        description="Of each metric the average of each step; null where nothing was measured.",
        examples=[{"temperature_c": [3.4, None, 3.6]}],
    )


class Recent(Model):
    from_: datetime = Field(alias="from", description="Where the first step begins.")
    step_seconds: int
    devices: list[RecentOfDevice] = Field(description="Those that measured something in this time.")


class RecentQuery(Query):
    site: str = Field(description="The site.", examples=["seoul-1"])


@router.get(
    "/recent",
    tags=["devices"],
    summary="The last three hours of all sensors of a site, by five minutes",
    response_model=Recent,
    responses=documented(UnknownError),
)
async def recent(database: DatabaseOf, principal: PrincipalOf, query: Annotated[RecentQuery, InQuery()]) -> Json:
    sites = sites_asked(principal, query.site)
    start, end = span(datetime.now(UTC))
    rows = await database.ask(RECENT, {"sites": sites, "start": start, "end": end, "step": STEP.total_seconds()})
    return Json({"from": start, "step_seconds": int(STEP.total_seconds()), "devices": by_device(rows)})


def span(now: datetime) -> tuple[datetime, datetime]:
    """Whole steps, the last one the step that runs."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    end = epoch + ((now - epoch) // STEP + 1) * STEP
    return end - STEPS * STEP, end


def by_device(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order of device, metric and step, as lists with a place for each step."""
    found = []
    for device, of_device in groupby(rows, key=lambda row: row["device"]):
        metrics: dict[str, list[float | None]] = {}
        for row in of_device:
            metrics.setdefault(row["metric"], [None] * STEPS)[row["step"]] = row["value"]
        found.append({"device": device, "metrics": metrics})
    return found
