"""The series of an answer, read from the database: which rows of which metric, in what shape."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final, LiteralString

import msgspec

from gateway.database import FETCH_ROWS, Rows, Stream, only
from gateway.devices import Device, Metric
from gateway.points import AsItIs, Point, extremes, pixel
from gateway.questions import Plan
from gateway.times import Bucket, count

RAW: Final = """
SELECT ts, value, received_at, seq,
       coalesce(value < %(lower)s::float8, false) OR coalesce(value > %(upper)s::float8, false) AS out_of_bounds
FROM readings
WHERE device_id = %(device)s AND metric_id = %(metric)s AND ts >= %(start)s AND ts < %(end)s
ORDER BY ts
"""

# How many of the first `limit` rows there are, and where the last of them is: the page's end.
EXTENT: Final = """
SELECT count(*) AS rows, max(ts) AS last FROM (
    SELECT ts FROM readings
    WHERE device_id = %(device)s AND metric_id = %(metric)s AND ts >= %(start)s AND ts < %(end)s
    ORDER BY ts LIMIT %(limit)s
) page
"""

RAW_THINNED: Final = """
SELECT min(ts) AS first_ts, first(value, ts) AS first, first(ts, value) AS min_ts, min(value) AS min,
       last(ts, value) AS max_ts, max(value) AS max, max(ts) AS last_ts, last(value, ts) AS last
FROM readings
WHERE device_id = %(device)s AND metric_id = %(metric)s AND ts >= %(start)s AND ts < %(end)s
GROUP BY time_bucket(%(pixel)s, ts, %(start)s::timestamptz)
ORDER BY first_ts
"""

MINUTES: Final = """
SELECT bucket AS ts, sum / n AS avg, min, max, sum, n AS count, first, last,
       coalesce(min < %(lower)s::float8, false) OR coalesce(max > %(upper)s::float8, false) AS out_of_bounds
FROM readings_1m_now
WHERE device_id = %(device)s AND metric_id = %(metric)s AND bucket >= %(start)s AND bucket < %(end)s
ORDER BY bucket
"""

HOURS: Final = """
SELECT bucket AS ts, sum / n AS avg, min, max, sum, n AS count, first, last,
       coalesce(min < %(lower)s::float8, false) OR coalesce(max > %(upper)s::float8, false) AS out_of_bounds
FROM readings_1h_now
WHERE device_id = %(device)s AND metric_id = %(metric)s AND bucket >= %(start)s AND bucket < %(end)s
ORDER BY bucket
"""

DAYS: Final = """
SELECT bucket AS ts, sum / n AS avg, min, max, sum, n AS count, first, last,
       coalesce(min < %(lower)s::float8, false) OR coalesce(max > %(upper)s::float8, false) AS out_of_bounds
FROM readings_1d_now
WHERE device_id = %(device)s AND metric_id = %(metric)s AND bucket >= %(start)s AND bucket < %(end)s
ORDER BY bucket
"""

DAYS_FROM_HOURS: Final = """
SELECT local_day(bucket, %(zone)s) AS ts, sum(sum) / sum(n)::float8 AS avg, min(min) AS min, max(max) AS max,
       sum(sum) AS sum, sum(n)::bigint AS count, first(first, first_ts) AS first, last(last, last_ts) AS last,
       coalesce(min(min) < %(lower)s::float8, false) OR coalesce(max(max) > %(upper)s::float8, false) AS out_of_bounds
FROM readings_1h_now
WHERE device_id = %(device)s AND metric_id = %(metric)s AND bucket >= %(start)s AND bucket < %(end)s
GROUP BY 1 ORDER BY 1
"""

DAYS_FROM_MINUTES: Final = """
SELECT local_day(bucket, %(zone)s) AS ts, sum(sum) / sum(n)::float8 AS avg, min(min) AS min, max(max) AS max,
       sum(sum) AS sum, sum(n)::bigint AS count, first(first, first_ts) AS first, last(last, last_ts) AS last,
       coalesce(min(min) < %(lower)s::float8, false) OR coalesce(max(max) > %(upper)s::float8, false) AS out_of_bounds
FROM readings_1m_now
WHERE device_id = %(device)s AND metric_id = %(metric)s AND bucket >= %(start)s AND bucket < %(end)s
GROUP BY 1 ORDER BY 1
"""

BUCKETS: Final[Mapping[tuple[Bucket, Bucket], LiteralString]] = {
    (Bucket.MINUTE, Bucket.MINUTE): MINUTES,
    (Bucket.HOUR, Bucket.HOUR): HOURS,
    (Bucket.DAY, Bucket.DAY): DAYS,
    (Bucket.DAY, Bucket.HOUR): DAYS_FROM_HOURS,
    (Bucket.DAY, Bucket.MINUTE): DAYS_FROM_MINUTES,
}
"""The query of a bucket, and of what it is added up from."""

SHORT_BUCKETS: Final = 5_000
"""About half a megabyte."""

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Span:
    """One metric's part of an answer."""

    metric: Metric
    start: datetime
    end: datetime
    thinned: bool

    def about(self) -> dict[str, Any]:
        metric = self.metric
        return {
            "metric": metric.name,
            "unit": metric.unit,
            "lower_bound": metric.lower_bound,
            "upper_bound": metric.upper_bound,
            "thinned": self.thinned,
        }


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page of raw readings begins at this metric and time; the range is that of the first page."""

    metric: str
    at: AwareTime
    start: AwareTime
    end: AwareTime


@dataclass(frozen=True, slots=True)
class Question:
    device: Device
    metrics: Sequence[Metric]
    plan: Plan
    place: Place | None

    @property
    def is_short(self) -> bool:
        """Whether the answer may be in memory whole."""
        asked = self.plan
        return (
            asked.bucket is not Bucket.RAW
            and count(asked.source, asked.start, asked.end) * len(self.metrics) <= SHORT_BUCKETS
        )

    def about(self, cursor: str | None) -> dict[str, Any]:
        return {
            "device": self.device.name,
            "site": self.device.site,
            "time_zone": self.plan.zone.key,
            "from": self.plan.start,
            "to": self.plan.end,
            "bucket": self.plan.bucket,
            "next": cursor,
        }


def whole_spans(question: Question) -> list[Span]:
    """Of buckets: one a metric."""
    asked = question.plan
    return [Span(metric, asked.start, asked.end, asked.thins) for metric in question.metrics]


async def spans(stream: Stream, question: Question) -> tuple[list[Span], Place | None]:
    asked = question.plan
    match asked:
        case Plan(bucket=Bucket.RAW, limit=int(limit)):
            return await _page(stream, question, limit)
        case Plan(bucket=Bucket.RAW, max_points=int(most)):
            return [await _thinned(stream, question, metric, most) for metric in question.metrics], None
        case _:
            return whole_spans(question), None


async def _page(stream: Stream, question: Question, limit: int) -> tuple[list[Span], Place | None]:
    """The spans that hold `limit` rows, and where the next page begins: known before the first row is sent."""
    found: list[Span] = []
    start = question.place.at if question.place else question.plan.start
    end = question.plan.end
    for metric in question.metrics:
        span = Span(metric, start, end, thinned=False)
        extent = await stream.one(EXTENT, _parameters(question, span) | {"limit": limit + 1})
        if extent["rows"] > limit:
            following = Place(metric.name, extent["last"], question.plan.start, end)
            return [*found, *([replace(span, end=extent["last"])] if limit else [])], following
        found.append(span)
        limit -= extent["rows"]
        start = question.plan.start
    return found, None


async def _thinned(stream: Stream, question: Question, metric: Metric, most: int) -> Span:
    span = Span(metric, question.plan.start, question.plan.end, thinned=False)
    extent = await stream.one(EXTENT, _parameters(question, span) | {"limit": most + 1})
    return replace(span, thinned=extent["rows"] > most)


async def points(stream: Rows, question: Question, span: Span) -> AsyncIterator[Sequence[Point]]:
    asked = question.plan
    parameters = _parameters(question, span)
    if asked.bucket is not Bucket.RAW:
        async for batch in _buckets(stream, asked, parameters):
            yield batch
    elif span.thinned:
        width = pixel(asked.max_points or 0, span.start, span.end)
        async for rows in stream.rows(RAW_THINNED, parameters | {"pixel": width}):
            yield [span.metric.judged(point) for row in rows for point in extremes(row)]
    else:
        async for rows in stream.rows(RAW, parameters):
            yield rows


async def _buckets(stream: Rows, asked: Plan, parameters: Mapping[str, object]) -> AsyncIterator[Sequence[Point]]:
    shape = asked.shape()
    query = BUCKETS[asked.bucket, asked.source]
    if isinstance(shape, AsItIs) and asked.bucket is not Bucket.DAY:  # rows are points: 2 µs a row less
        async for rows in stream.rows(query, parameters, only(asked.columns)):
            yield rows
        return
    async for rows in stream.rows(query, parameters):
        for batch in batches(point for row in rows for point in shape.push(row)):
            yield asked.shown(batch)
    for batch in batches(shape.finish()):
        yield asked.shown(batch)


def _parameters(question: Question, span: Span) -> dict[str, object]:
    return {
        "device": question.device.id,
        "metric": span.metric.id,
        "lower": span.metric.lower_bound,
        "upper": span.metric.upper_bound,
        "start": span.start,
        "end": span.end,
        "zone": question.plan.zone.key,
    }


def batches(points: Iterable[Point]) -> Iterator[list[Point]]:
    remaining = iter(points)
    while batch := list(islice(remaining, FETCH_ROWS)):
        yield batch
