"""Gaps filled and series thinned."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.points import Aggregate, Fill, Filled, Thinned, extremes
from gateway.times import Bucket

START = datetime(2026, 11, 23, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALL = list(Aggregate)


def row(minute, value=1.0):
    return {"ts": START + minute * MINUTE, **dict.fromkeys(map(str, ALL), value), "count": 3, "out_of_bounds": False}


def fill(how, minutes, *, until=6, now=100):
    shape = Filled(
        how, ALL, bucket=Bucket.MINUTE, start=START, end=START + until * MINUTE, zone=UTC, now=START + now * MINUTE
    )
    points = [point for m, value in minutes for point in shape.push(row(m, value))]
    return [*points, *shape.finish()]


@pytest.mark.parametrize(
    ("how", "averages"),
    [
        (Fill.NULL, [None, 1.0, None, None, 4.0, None]),
        (Fill.PREVIOUS, [None, 1.0, 1.0, 1.0, 4.0, 4.0]),
        (Fill.LINEAR, [None, 1.0, 2.0, 3.0, 4.0, None]),
    ],
)
def test_gaps_are_filled(how, averages):
    points = fill(how, [(1, 1.0), (4, 4.0)])
    assert [p["avg"] for p in points] == pytest.approx(averages)
    assert [p["filled"] for p in points] == [True, False, True, True, False, True]
    assert [p["ts"] for p in points] == [START + n * MINUTE for n in range(6)]


@pytest.mark.parametrize("how", [Fill.NULL, Fill.PREVIOUS, Fill.LINEAR])
def test_no_reading_is_made_up(how):
    filled = [p for p in fill(how, [(1, 1.0), (4, 4.0)]) if p["filled"]]
    assert {p["count"] for p in filled} == {0}
    assert {p["sum"] for p in filled} == {None}


def test_the_value_before_does_not_reach_beyond_now():
    assert [p["avg"] for p in fill(Fill.PREVIOUS, [(0, 1.0)], now=2)] == [1.0, 1.0, 1.0, None, None, None]


def test_a_series_without_readings_is_all_gaps():
    assert [p["avg"] for p in fill(Fill.LINEAR, [], until=3)] == [None] * 3


series = st.lists(
    st.tuples(st.integers(0, 9_999), st.floats(-1e6, 1e6)), min_size=1, max_size=300, unique_by=lambda p: p[0]
).map(sorted)


@given(series, st.integers(8, 100))
def test_thinning_loses_no_spike(points, most):
    thinned = Thinned(most, start=START, end=START + 10_000 * MINUTE)
    rows = [row(minute, value) for minute, value in points]
    kept = [point for r in rows for point in thinned.push(r)] + list(thinned.finish())
    assert len(kept) <= most
    assert kept == sorted(kept, key=lambda p: p["ts"])
    assert all(point in rows for point in kept)
    assert kept[0] == rows[0]
    assert kept[-1] == rows[-1]
    values = [value for _, value in points]
    assert {min(values), max(values)} <= {point["max"] for point in kept}


def test_thinned_readings_are_told_once_and_in_order():
    spike = {"first_ts": 1, "first": 3.0, "min_ts": 1, "min": 3.0, "max_ts": 7, "max": 60.0, "last_ts": 9, "last": 4.0}
    assert [(p["ts"], p["value"]) for p in extremes(spike)] == [(1, 3.0), (7, 60.0), (9, 4.0)]
