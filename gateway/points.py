"""What becomes of a series between the database and the answer: gaps filled, or thinned. Pure.

Rows come one by one in order of `ts`; `push` gives back the points that are settled, `finish` the rest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from gateway import times
from gateway.times import Bucket

Point: TypeAlias = dict[str, Any]


class Aggregate(StrEnum):
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    COUNT = "count"
    FIRST = "first"
    LAST = "last"


class Fill(StrEnum):
    NONE = "none"
    NULL = "null"
    PREVIOUS = "previous"
    LINEAR = "linear"


class Shape(Protocol):
    def push(self, row: Point) -> Iterable[Point]: ...
    def finish(self) -> Iterable[Point]: ...


class AsItIs:
    def push(self, row: Point) -> Iterable[Point]:
        return (row,)

    def finish(self) -> Iterable[Point]:
        return ()


class Filled:
    """Every bucket of [start, end) has a point; those without readings are marked `filled`.

    Their count is 0 and their sum is null whatever the fill: no reading was made up. `previous` does not reach
    beyond `now`: nobody knows the future.
    """

    def __init__(
        self,
        fill: Fill,
        aggregates: Sequence[Aggregate],
        *,
        bucket: Bucket,
        start: datetime,
        end: datetime,
        zone: tzinfo,
        now: datetime,
    ) -> None:
        self._fill = fill
        self._aggregates = aggregates
        self._bucket = bucket
        self._expected = start
        self._end = end
        self._zone = zone
        self._now = now
        self._before: Point | None = None

    def push(self, row: Point) -> Iterator[Point]:
        yield from self._gap(row["ts"], row)
        yield {**row, "filled": False}
        self._before = row
        self._expected = times.following(self._bucket, row["ts"], self._zone)

    def finish(self) -> Iterator[Point]:
        yield from self._gap(self._end, None)

    def _gap(self, end: datetime, after: Point | None) -> Iterator[Point]:
        for ts in times.starts(self._bucket, self._expected, end, self._zone):
            values = {a.value: self._value(a, ts, after) for a in self._aggregates}
            yield {"ts": ts, **values, "out_of_bounds": False, "filled": True}

    def _value(self, aggregate: Aggregate, ts: datetime, after: Point | None) -> float | int | None:
        match aggregate, self._fill:
            case Aggregate.COUNT, _:
                return 0
            case (Aggregate.SUM, _) | (_, Fill.NULL | Fill.NONE):
                return None
            case _, Fill.PREVIOUS:
                return self._before[aggregate] if self._before and ts <= self._now else None
            case _:
                return between(self._before, after, ts, aggregate)


def between(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, ts: datetime, key: str) -> float | None:
    """The straight line from one point to the next, at `ts`; none without both."""
    if before is None or after is None:
        return None
    share = (ts - before["ts"]) / (after["ts"] - before["ts"])
    return float(before[key] * (1 - share) + after[key] * share)


class Thinned:
    """At most `points` points, equal stretches of time each keeping its first, lowest, highest and last row.

    Buckets are compared by their own lowest and highest reading, so that the bucket of a spike stays.
    """

    def __init__(self, points: int, *, start: datetime, end: datetime) -> None:
        self._start = start
        self._width = pixel(points, start, end)
        self._at = -1
        self._kept: list[Point] = []

    def push(self, row: Point) -> Iterable[Point]:
        at = (row["ts"] - self._start) // self._width
        if at != self._at:
            settled, self._kept, self._at = self.finish(), [row] * 4, at
            return settled
        first, lowest, highest, _ = self._kept
        self._kept = [
            first,
            row if row["min"] < lowest["min"] else lowest,
            row if row["max"] > highest["max"] else highest,
            row,
        ]
        return ()

    def finish(self) -> Iterable[Point]:
        return distinct(self._kept)


def pixel(points: int, start: datetime, end: datetime) -> timedelta:
    """The stretch of time that gets four points, so that all of [start, end) gets `points` at the most."""
    stretches = points // 4
    return -((start - end) // stretches)  # rounded up


def distinct(points: Iterable[Point]) -> list[Point]:
    """In order of time, each once."""
    by_time = {point["ts"]: point for point in points}
    return [by_time[ts] for ts in sorted(by_time)]


def extremes(row: Mapping[str, Any]) -> list[Point]:
    """The points of one row of the query that thins raw readings."""
    return distinct({"ts": row[f"{name}_ts"], "value": row[name]} for name in ("first", "min", "max", "last"))
