"""The expander does what Grafana does."""

from datetime import UTC, datetime, timedelta

import pytest

from grafana import expanding
from grafana.expanding import Chosen, ExpandingError, Shown

END = datetime(2026, 11, 25, 9, 0, 0, 500_000, tzinfo=UTC)
DAY = Shown(END - timedelta(days=1), END, {"site": Chosen("Joe's"), "device": Chosen(["a", "b'c"], multi=True)})


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$__timeFilter(ts)", "ts BETWEEN '2026-11-24T09:00:00.5Z' AND '2026-11-25T09:00:00.5Z'"),
        ("$__timeFrom() $__timeTo()", "'2026-11-24T09:00:00.5Z' '2026-11-25T09:00:00.5Z'"),
        ("$__timeGroup(ts, '5m') x", "time_bucket('300.000s',ts) x"),
        ("$__timeGroupAlias(ts, $__interval)", "time_bucket('60.000s',ts) AS \"time\""),
        ("$__time(ts)", 'ts AS "time"'),
        ("$__interval_ms", "60000"),
        ("$__to - ${__from}", "1795597200500 - 1795510800500"),
        ("= ${site:sqlstring}", "= 'Joe''s'"),
        ("= '$site'", "= 'Joe''s'"),
        ("IN ($device)", "IN ('a','b''c')"),
        ("IN (${device:sqlstring})", "IN ('a','b''c')"),
        ("[[device:pipe]]", "a|b'c"),
        ("$unknown ${unknown:csv}", "$unknown ${unknown:csv}"),
    ],
)
def test_sql(text, expanded):
    assert expanding.sql(text, DAY) == expanded


def test_an_unknown_macro_is_an_error():
    with pytest.raises(ExpandingError, match="__timeFiltr"):
        expanding.sql("$__timeFiltr(ts)", DAY)


def test_arguments_end_at_the_first_bracket():
    assert expanding.sql("$__timeFilter(f(ts))", DAY).startswith("f(ts BETWEEN ")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("rate(x[$__rate_interval])", "rate(x[75s])"),
        ("x[$__range]", "x[86400s]"),
        ("x[$__interval]", "x[1m]"),
        ('{job=~"$job"}', '{job=~"(a|b\\\\.c)"}'),
        ('{job=~"${job:regex}"}', '{job=~"(a|b\\.c)"}'),
        ('{job="$one"}', '{job="o.k"}'),
    ],
)
def test_promql(text, expanded):
    shown = Shown(DAY.start, DAY.end, {"job": Chosen(["a", "b.c"], multi=True), "one": Chosen("o.k")})
    assert expanding.promql(text, shown) == expanded


@pytest.mark.parametrize(
    ("back", "points", "least", "interval"),
    [
        (timedelta(hours=1), 1000, "1s", "5s"),
        (timedelta(hours=24), 300, "1m", "5m"),
        (timedelta(days=7), 1000, "1m", "10m"),
        (timedelta(days=90), 1000, "1m", "2h"),
        (timedelta(minutes=5), 1000, "1m", "1m"),
    ],
)
def test_a_step_is_the_time_over_the_points_rounded(back, points, least, interval):
    shown = Shown(END - back, END, points=points, least_ms=expanding.milliseconds(least))
    assert expanding.duration(shown.interval_ms) == interval


def test_the_rate_interval_is_never_below_four_scrapes():
    assert expanding.promql("$__rate_interval", Shown(END - timedelta(minutes=5), END)) == "60s"
