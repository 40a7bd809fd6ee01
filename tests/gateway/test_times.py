"""Times as a query names them, and the buckets they fall into."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import times
from gateway.times import Bucket

NOW = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)
ZONES = ["UTC", "Asia/Seoul", "Asia/Kolkata", "Europe/Paris", "America/Santiago", "Asia/Beirut", "America/Havana",
         "Atlantic/Azores", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("now", NOW),
        ("-90s", NOW - timedelta(seconds=90)),
        ("-15m", NOW - timedelta(minutes=15)),
        ("-24h", NOW - timedelta(hours=24)),
        ("-7d", NOW - timedelta(days=7)),
        ("-2w", NOW - timedelta(weeks=2)),
        ("+1h", NOW + timedelta(hours=1)),
        (" 1h", NOW + timedelta(hours=1)),
        ("2026-11-23T03:40:00Z", datetime(2026, 11, 23, 3, 40, tzinfo=UTC)),
        ("2026-11-23T12:40:00+09:00", datetime(2026, 11, 23, 3, 40, tzinfo=UTC)),
        ("2026-11-23T12:40:00 09:00", datetime(2026, 11, 23, 3, 40, tzinfo=UTC)),
        ("2026-11-23T03:40:00.123456Z", datetime(2026, 11, 23, 3, 40, 0, 123456, tzinfo=UTC)),
    ],
)
def test_a_time_is_understood(text, time):
    assert times.moment(text).at(NOW) == time


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "ISO 8601"), ("yesterday", "ISO 8601"), ("24h", "ISO 8601"), ("-24y", "ISO 8601"), ("1700000000",
        "ISO 8601"),
        ("2026-11-23T03:40:00", "has no zone"), ("2026-11-23", "has no zone"), ("9999999-01-01T00:00:00Z", "ISO 8601"),
        ("-999999999d", "1970"), ("-999999999w", "1970"), ("+999999999w", "1970"),
        ("0001-01-01T00:00:00+14:00", "1970"),
        ("9999-12-31T23:59:59-14:00", "1970"), ("1969-12-31T23:59:59Z", "1970"), ("\0", "ISO 8601"), ("-٣h",
        "ISO 8601"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_told_what_would_be(text, advice):
    with pytest.raises(ValueError, match=advice):
        times.moment(text).at(NOW)


@given(st.text())
def test_any_text_is_a_time_or_refused(text):
    with suppress(ValueError):
        times.moment(text).at(NOW)


@given(st.text(max_size=80))
def test_any_text_is_a_zone_or_refused(text):
    with suppress(ValueError):
        assert times.zone(text).key == text


@pytest.mark.parametrize(
    "name", ["America", "../etc/passwd", "/etc/passwd", "Asia/", "Asia//Seoul", "asia/nowhere", "A" * 64]
)
def test_what_is_no_zone_is_refused(name):
    with pytest.raises(ValueError, match="time zone"):
        times.zone(name)


@given(
    bucket=st.sampled_from([Bucket.MINUTE, Bucket.HOUR, Bucket.DAY]),
    time=st.timedeltas(timedelta(days=-20_000), timedelta(days=20_000)).map(NOW.__add__),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
)
def test_a_bucket_holds_its_time(bucket, time, zone):
    start = times.floor(bucket, time, zone)
    end = times.following(bucket, start, zone)
    assert start <= time < end
    assert times.floor(bucket, start, zone) == start
    assert times.ceiling(bucket, time, zone) == (time if time == start else end)
    assert times.floor(bucket, end, zone) == end


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Paris", "2026-03-29", 23), ("Europe/Paris", "2026-10-25", 25), ("Australia/Lord_Howe",
        "2026-04-05", 24.5),
        ("America/Santiago", "2026-09-06", 23), ("Asia/Seoul", "2026-11-23", 24),
    ],
)  # fmt: skip
def test_a_day_is_as_long_as_its_clocks_make_it(zone, day, hours):
    there = ZoneInfo(zone)
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=there).astimezone(UTC)
    start = times.floor(Bucket.DAY, noon, there)
    assert times.following(Bucket.DAY, start, there) - start == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("zone", "whole"),
    [("Asia/Seoul", True), ("Europe/Paris", True), ("Asia/Kolkata", False), ("Australia/Lord_Howe", False)],
)
def test_whether_hours_add_up_to_days(zone, whole):
    assert times.whole_hours(ZoneInfo(zone), NOW - timedelta(days=300), NOW) is whole
