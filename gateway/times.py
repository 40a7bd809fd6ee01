"""Times as a query names them, and the buckets they are counted in. Pure: no I/O, no clock."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""Well inside what Python and PostgreSQL can hold in any time zone."""

OUTSIDE: Final = "must lie between the years 1970 and 9000"

SPELLINGS: Final = "ISO 8601 with a zone (2026-11-23T03:40:00Z), 'now', or relative to now (-90s, -15m, -24h, -7d, -2w)"

_RELATIVE: Final = re.compile(r"([ +-])(\d{1,9})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LOST_PLUS: Final = re.compile(r"(T\S+) (\d\d:?\d\d)$", re.ASCII)
_ZONE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}", re.ASCII)


class Bucket(StrEnum):
    RAW = "raw"
    MINUTE = "1m"
    HOUR = "1h"
    DAY = "1d"
    AUTO = "auto"

    @property
    def width(self) -> timedelta:
        return WIDTHS[self]


WIDTHS: Final = {
    Bucket.MINUTE: timedelta(minutes=1),
    Bucket.HOUR: timedelta(hours=1),
    Bucket.DAY: timedelta(days=1),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time that may be relative to a now yet to be told."""

    offset: timedelta
    base: datetime | None = None

    def at(self, now: datetime) -> datetime:
        """`ValueError` when it lies outside of what can be asked for."""
        try:
            time = (self.base or now) + self.offset
        except OverflowError:
            time = EARLIEST - timedelta(days=1)
        if not EARLIEST <= time < LATEST:
            raise ValueError(OUTSIDE)
        return time


def moment(text: str) -> Moment:
    if text == "now":
        return Moment(timedelta())
    if relative := _RELATIVE.fullmatch(text):
        return Moment(_distance(*relative.groups()))
    return Moment(timedelta(), _iso(text))


def _distance(sign: str, number: str, unit: str) -> timedelta:
    try:
        return timedelta(**{_UNITS[unit]: int(number)}) * (-1 if sign == "-" else 1)
    except OverflowError:
        raise ValueError(OUTSIDE) from None


def _iso(text: str) -> datetime:
    try:
        # "+09:00" not percent-encoded arrives as " 09:00": what was meant is beyond doubt
        time = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
    except ValueError:
        raise ValueError(f"must be {SPELLINGS}") from None
    if time.tzinfo is None:
        raise ValueError(f"has no zone: add Z or an offset. It must be {SPELLINGS}")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(OUTSIDE) from None


def zone(name: str) -> ZoneInfo:
    """`ValueError` when there is no such time zone."""
    try:
        if _ZONE_NAME.fullmatch(name):
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a folder of the time zone database is an OSError
        pass
    raise ValueError("must be the name of a time zone, such as Asia/Seoul")


def whole_hours(zone: tzinfo, start: datetime, end: datetime) -> bool:
    """Whether the zone's days begin at UTC hours all along: only then hours add up to days."""
    days = (end - start) // timedelta(days=1) + 2
    offsets = (zone.utcoffset((start + timedelta(days=n)).astimezone(zone)) for n in range(days))
    return all(offset is not None and offset.total_seconds() % 3600 == 0 for offset in offsets)


def floor(bucket: Bucket, time: datetime, zone: tzinfo) -> datetime:
    """The beginning of the bucket that holds `time`; days are the zone's."""
    match bucket:
        case Bucket.MINUTE:
            return time.replace(second=0, microsecond=0)
        case Bucket.HOUR:
            return time.replace(minute=0, second=0, microsecond=0)
        case Bucket.DAY:
            return _midnight(time.astimezone(zone), zone)
        case _:
            return time


def ceiling(bucket: Bucket, time: datetime, zone: tzinfo) -> datetime:
    """The end of the bucket that holds the instant before `time`."""
    if bucket is Bucket.RAW:
        return time
    begun = floor(bucket, time, zone)
    return time if begun == time else following(bucket, begun, zone)


def starts(bucket: Bucket, start: datetime, end: datetime, zone: tzinfo) -> Iterator[datetime]:
    """The beginnings of all buckets from the one that begins at `start` to before `end`, each once."""
    while start < end:
        yield start
        start = following(bucket, start, zone)


def following(bucket: Bucket, start: datetime, zone: tzinfo) -> datetime:
    if bucket is not Bucket.DAY:
        return start + bucket.width
    return _midnight(start.astimezone(zone) + timedelta(days=1), zone)


def _midnight(local: datetime, zone: tzinfo) -> datetime:
    """The first instant of the local date: 01:00 where clocks skip midnight, the first of two where it comes twice."""
    return datetime(local.year, local.month, local.day, tzinfo=zone).astimezone(UTC)


def count(bucket: Bucket, start: datetime, end: datetime) -> int:
    """Buckets of a range that begins and ends with one; days are taken for 24 hours."""
    return -((start - end) // bucket.width)
