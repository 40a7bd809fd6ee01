"""What happened to every reading a device sent: received = stored + duplicate + refused."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import Field

from gateway import times
from gateway.answers import Json
from gateway.auth import PrincipalOf
from gateway.database import DatabaseOf
from gateway.devices import Model, find_device
from gateway.problems import BadQueryError, UnknownError, documented
from gateway.queries import PREFIX, DeviceName, From, Query, To
from gateway.questions import span
from gateway.roles import Permission
from gateway.times import Bucket, Moment

HOURS: Final = """
SELECT hour, received, stored, duplicate, refused, late, points FROM ledger_now
WHERE device_id = %(device)s AND hour >= %(start)s AND hour < %(end)s ORDER BY hour
"""

REFUSALS: Final = """
SELECT hour, reason, refused FROM ledger_refusals
WHERE device_id = %(device)s AND hour >= %(start)s AND hour < %(end)s AND refused > 0 ORDER BY hour, reason
"""

COUNTS: Final = ("received", "stored", "duplicate", "refused", "late", "points")
LONGEST: Final = timedelta(days=366)

router = APIRouter(prefix=PREFIX)


class Counts(Model):
    received: int = Field(description="Readings that came: always stored + duplicate + refused.")
    stored: int = Field(description="At least one of its points was new.")
    duplicate: int = Field(description="None was.")
    refused: int = Field(description="Became a dead letter.")
    late: int = Field(description="Part of stored: came after its minute had been computed.")
    points: int = Field(description="Points stored: a reading has one for each metric.")
    refused_by_reason: dict[str, int] = Field(examples=[{"ts_invalid": 2}])


class Hour(Counts):
    hour: datetime = Field(description="Of receipt, UTC.")


class Ledger(Model):
    device: str
    from_: datetime = Field(alias="from")
    to: datetime
    totals: Counts
    hours: list[Hour] = Field(description="Those in which something came.")


class LedgerQuery(Query):
    start: From | None = Field(
        None, alias="from", description=f"Where the range begins: {times.SPELLINGS}. Default: 24 h before `to`."
    )
    end: To = Field(Moment(timedelta()), alias="to", description="Where it ends; spelled as `from`. Default: now.")


@router.get(
    "/devices/{device}/ledger",
    tags=["ledger"],
    summary="What became of a sensor's readings, by hour of receipt",
    response_model=Ledger,
    responses=documented(UnknownError),
)
async def ledger(
    database: DatabaseOf, principal: PrincipalOf, device: DeviceName, query: Annotated[LedgerQuery, InQuery()]
) -> Json:
    mine = principal.must(Permission.READINGS_READ)
    start, end = span(query.start, query.end, datetime.now(UTC))
    start, end = times.floor(Bucket.HOUR, start, UTC), times.ceiling(Bucket.HOUR, end, UTC)
    if end - start > LONGEST:
        raise BadQueryError("from", f"the ledger answers at most {LONGEST.days} days at once")
    async with database.reading() as connection:
        found, _ = await find_device(connection, device, mine)
        asked = {"device": found.id, "start": start, "end": end}
        hours = await (await connection.execute(HOURS, asked)).fetchall()
        refusals = await (await connection.execute(REFUSALS, asked)).fetchall()
    _tell_reasons(hours, refusals)
    return Json({"device": found.name, "from": start, "to": end, "totals": _totals(hours, refusals), "hours": hours})


def _tell_reasons(hours: list[dict[str, Any]], refusals: list[dict[str, Any]]) -> None:
    reasons: dict[datetime, dict[str, int]] = {}
    for refusal in refusals:
        reasons.setdefault(refusal["hour"], {})[refusal["reason"]] = refusal["refused"]
    for hour in hours:
        hour["refused_by_reason"] = reasons.get(hour["hour"], {})


def _totals(hours: list[dict[str, Any]], refusals: list[dict[str, Any]]) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for refusal in refusals:
        reasons[refusal["reason"]] = reasons.get(refusal["reason"], 0) + refusal["refused"]
    counts = {count: sum(hour[count] for hour in hours) for count in COUNTS}
    return {**counts, "refused_by_reason": reasons}
