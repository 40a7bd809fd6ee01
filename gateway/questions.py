"""A query on readings, and what exactly is to be read for it. Pure: no I/O, no clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from gateway import times
from gateway.answers import Format
from gateway.points import Aggregate, AsItIs, Fill, Filled, Point, Shape, Thinned
from gateway.problems import BadQueryError
from gateway.queries import From, Query, To, several
from gateway.times import Bucket, Moment

DAY: Final = timedelta(days=1)
MAX_BUCKETS: Final = 50_000
"""Of one series: a month of minutes, five years of hours."""
AUTO_POINTS: Final = 1_500
PAGE: Final = 10_000
DEFAULT_AGGREGATES: Final = (Aggregate.AVG, Aggregate.MIN, Aggregate.MAX)
LADDER: Final = (Bucket.MINUTE, Bucket.HOUR, Bucket.DAY)


class ReadingsQuery(Query):
    device: str = Field(description="The device's name.", examples=["fridge-0001"])
    metric: several(str) = Field(  # type: ignore[valid-type]
        default_factory=list,
        description="One or several, repeated or separated by commas; none: all of the device's.",
        examples=[["temperature_c"]],
    )
    start: From | None = Field(
        None, alias="from", description=f"Where the range begins: {times.SPELLINGS}. Default: 24 h before `to`."
    )
    end: To = Field(
        Moment(timedelta()), alias="to", description="Where it ends, itself excluded; spelled as `from`. Default: now."
    )
    bucket: Bucket = Field(
        Bucket.AUTO,
        description="raw: the readings themselves. auto: the finest of 1m, 1h, 1d that gives at most `max_points` "
        f"(or {AUTO_POINTS}) points. Days are the site's.",
    )
    agg: several(Aggregate) = Field(  # type: ignore[valid-type]
        default_factory=list, description="Aggregates of the buckets, in this order. Default: avg, min, max."
    )
    fill: Fill = Field(
        Fill.NONE,
        description="Buckets without readings: left out, null, the value before, or on the line between neighbours.",
    )
    tz: str | None = Field(
        None,
        description="Count days in this time zone instead of the site's (with bucket=1d).",
        examples=["Europe/Paris"],
    )
    max_points: Annotated[int, Field(ge=8, le=MAX_BUCKETS)] | None = Field(
        None,
        description="Points of a series at the most; what is too much is thinned, keeping first, lowest, highest and "
        "last of each stretch of time, so that no spike is lost.",
    )
    limit: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description=f"Raw readings of a page. Default: {PAGE} in JSON; a CSV is whole unless this is given."
    )
    cursor: str | None = Field(None, max_length=1000, description="`next` of the page before; opaque.")
    format: Format | None = Field(None, description="json or csv; goes before the Accept header.")

    @field_validator("metric", "agg")
    @classmethod
    def _each_once(cls, values: list[str]) -> list[str]:
        return list(dict.fromkeys(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    bucket: Bucket
    start: datetime
    end: datetime
    zone: ZoneInfo
    now: datetime
    aggregates: Sequence[Aggregate]
    fill: Fill
    max_points: int | None
    limit: int | None
    source: Bucket
    """The bucket itself; days of another zone than the site's are added up from hours, or else from minutes."""

    @property
    def thins(self) -> bool:
        """Whether buckets may be too many; of raw readings only a count tells."""
        return (
            self.bucket is not Bucket.RAW
            and self.max_points is not None
            and times.count(self.bucket, self.start, self.end) > self.max_points
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a point, in order."""
        match self:
            case Plan(bucket=Bucket.RAW, max_points=None):
                return ("ts", "value", "received_at", "seq", "out_of_bounds")
            case Plan(bucket=Bucket.RAW):
                return ("ts", "value", "out_of_bounds")
            case Plan(fill=Fill.NONE):
                return ("ts", *map(str, self.aggregates), "out_of_bounds")
            case _:
                return ("ts", *map(str, self.aggregates), "out_of_bounds", "filled")

    def shown(self, rows: Iterable[Point]) -> list[Point]:
        """The rows with what was asked for; days begin at a local midnight and bear the zone's offset."""
        columns = self.columns
        points = [{column: row[column] for column in columns} for row in rows]
        if self.bucket is Bucket.DAY:
            for point in points:
                point["ts"] = point["ts"].astimezone(self.zone)
        return points

    def shape(self) -> Shape:
        if self.fill is not Fill.NONE:
            return Filled(
                self.fill,
                self.aggregates,
                bucket=self.bucket,
                start=self.start,
                end=self.end,
                zone=self.zone,
                now=self.now,
            )
        if self.thins and self.max_points:
            return Thinned(self.max_points, start=self.start, end=self.end)
        return AsItIs()


def plan(query: ReadingsQuery, site_zone: ZoneInfo, *, now: datetime, form: Format) -> Plan:
    """What to read; `BadQueryError` says what would be right."""
    start, end = span(query.start, query.end, now)
    bucket = query.bucket
    if bucket is Bucket.AUTO:
        bucket = finest(start, end, query.max_points or AUTO_POINTS)
    zone = _zone(query, bucket, site_zone)
    if bucket is Bucket.RAW:
        _refuse_what_needs_buckets(query)
    elif query.limit is not None or query.cursor is not None:
        field = "limit" if query.limit is not None else "cursor"
        raise BadQueryError(field, f"pages are for bucket=raw; with bucket={bucket} the range is the bound")
    if query.max_points is not None and (query.limit is not None or query.cursor is not None):
        raise BadQueryError("max_points", "either pages (limit, cursor) or one thinned answer (max_points)")
    start, end = times.floor(bucket, start, zone), times.ceiling(bucket, end, zone)
    source = _source(bucket, zone, site_zone, start, end)
    if bucket is not Bucket.RAW:
        _refuse_too_many(source, bucket, start, end)
    found = Plan(
        bucket=bucket,
        start=start,
        end=end,
        zone=zone,
        now=now,
        aggregates=tuple(query.agg) or DEFAULT_AGGREGATES,
        fill=query.fill,
        max_points=query.max_points,
        limit=query.limit or (PAGE if form is Format.JSON and query.max_points is None else None),
        source=source,
    )
    if found.fill is not Fill.NONE and found.thins:
        coarser = finest(start, end, query.max_points or AUTO_POINTS)
        raise BadQueryError(
            "fill", f"a thinned series has no gaps to fill: use bucket={coarser}, or a greater max_points"
        )
    return found


def span(start: Moment | None, end: Moment, now: datetime) -> tuple[datetime, datetime]:
    """The range in UTC; `from` is 24 hours before `to` unless told."""
    until = _at("to", end, now)
    since = _at("from", start, now) if start else max(until - DAY, times.EARLIEST)
    if since >= until:
        raise BadQueryError("from", f"must be before 'to'; they are {since.isoformat()} and {until.isoformat()}")
    return since, until


def _at(field: str, moment: Moment, now: datetime) -> datetime:
    try:
        return moment.at(now)
    except ValueError as error:
        raise BadQueryError(field, str(error)) from error


def finest(start: datetime, end: datetime, points: int) -> Bucket:
    """The finest bucket with so many points at the most, wherever in a bucket the range begins and ends."""
    return next((b for b in LADDER if times.count(b, start, end) + 1 <= points), Bucket.DAY)


def _zone(query: ReadingsQuery, bucket: Bucket, site_zone: ZoneInfo) -> ZoneInfo:
    if query.tz is None:
        return site_zone
    if bucket is not Bucket.DAY and query.bucket is not Bucket.AUTO:
        raise BadQueryError("tz", f"is for bucket=1d: with bucket={bucket} times are UTC")
    try:
        return times.zone(query.tz)
    except ValueError as error:
        raise BadQueryError("tz", str(error)) from error


def _source(bucket: Bucket, zone: ZoneInfo, site_zone: ZoneInfo, start: datetime, end: datetime) -> Bucket:
    if bucket is not Bucket.DAY or zone.key == site_zone.key:
        return bucket
    if times.count(Bucket.HOUR, start, end) > MAX_BUCKETS:
        raise BadQueryError(
            "tz", "days of another zone than the site's are added up from hours: ask for at most five years"
        )
    return Bucket.HOUR if times.whole_hours(zone, start, end) else Bucket.MINUTE


def _refuse_what_needs_buckets(query: ReadingsQuery) -> None:
    if query.agg:
        raise BadQueryError("agg", "raw readings have no aggregates: use bucket=1m, 1h, 1d or auto")
    if query.fill is not Fill.NONE:
        raise BadQueryError("fill", "raw readings have no gaps: use bucket=1m, 1h, 1d or auto")


def _refuse_too_many(source: Bucket, bucket: Bucket, start: datetime, end: datetime) -> None:
    if (many := times.count(source, start, end)) <= MAX_BUCKETS:
        return
    if source is not bucket:
        raise BadQueryError(
            "tz",
            "days of this zone do not begin at a full UTC hour and are added up from minutes: ask for at most 33 days",
        )
    coarser = next((b for b in LADDER if times.count(b, start, end) <= MAX_BUCKETS), None)
    advice = f"use bucket={coarser}" if coarser else f"ask for at most {MAX_BUCKETS} days"
    raise BadQueryError("bucket", f"{bucket} over this range gives {many} points, more than {MAX_BUCKETS}: {advice}")
