"""What is read for a query, and which queries cannot be right."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gateway.answers import Format
from gateway.problems import BadQueryError
from gateway.questions import MAX_BUCKETS, ReadingsQuery, plan
from gateway.times import Bucket, count

NOW = datetime(2026, 11, 23, 4, 30, 20, tzinfo=UTC)
SEOUL = ZoneInfo("Asia/Seoul")


def planned(form=Format.JSON, **parameters):
    query = ReadingsQuery.model_validate({"device": "fridge-1", **parameters})
    return plan(query, SEOUL, now=NOW, form=form)


def test_the_last_day_is_asked_for_unless_told():
    asked = planned()
    assert (asked.bucket, asked.start, asked.end) == (
        Bucket.MINUTE,
        datetime(2026, 11, 22, 4, 30, tzinfo=UTC),
        datetime(2026, 11, 23, 4, 31, tzinfo=UTC),
    )


def test_days_are_the_sites():
    asked = planned(bucket="1d", **{"from": "-30h"})
    assert asked.start == datetime(2026, 11, 21, 15, tzinfo=UTC)
    assert asked.end == datetime(2026, 11, 23, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "most", "bucket"),
    [
        ("-1h", None, "1m"), ("-24h", None, "1m"), ("-7d", None, "1h"), ("-60d", None, "1h"), ("-90d", None, "1d"),
        ("-24h", 100, "1h"), ("-24h", 8, "1d"), ("-3650d", 8, "1d"),
    ],
)  # fmt: skip
def test_auto_is_the_finest_bucket_that_fits(since, most, bucket):
    asked = planned(max_points=most, **{"from": since})
    assert asked.bucket == bucket
    assert asked.thins == (count(asked.bucket, asked.start, asked.end) > (most or MAX_BUCKETS))


@pytest.mark.parametrize(
    ("tz", "source"), [(None, "1d"), ("Asia/Seoul", "1d"), ("Europe/Paris", "1h"), ("Asia/Kolkata", "1m")]
)
def test_days_of_another_zone_are_added_up_from_what_it_shares(tz, source):
    assert planned(bucket="1d", tz=tz, **{"from": "-10d"}).source == source


def test_a_csv_is_whole_a_json_has_pages():
    assert planned(bucket="raw", form=Format.CSV).limit is None
    assert planned(bucket="raw").limit == 10_000
    assert planned(bucket="raw", max_points=1000).limit is None


@pytest.mark.parametrize(
    ("parameters", "field", "advice"),
    [
        ({"from": "now", "to": "-1h"}, "from", "before 'to'"),
        ({"from": "-1h", "to": "-1h"}, "from", "before 'to'"),
        ({"from": "-99999w"}, "from", "1970"),
        ({"bucket": "1m", "from": "-60d"}, "bucket", "use bucket=1h"),
        ({"bucket": "1h", "from": "-3650d"}, "bucket", "use bucket=1d"),
        (
            {"bucket": "1d", "from": "1970-01-01T00:00:00Z", "to": "8999-01-01T00:00:00Z"},
            "bucket",
            "at most 50000 days",
        ),
        ({"bucket": "raw", "agg": ["avg"]}, "agg", "use bucket=1m"),
        ({"bucket": "raw", "fill": "null"}, "fill", "use bucket=1m"),
        ({"bucket": "1m", "limit": 5}, "limit", "bucket=raw"),
        ({"bucket": "1m", "cursor": "x"}, "cursor", "bucket=raw"),
        ({"bucket": "raw", "limit": 5, "max_points": 100}, "max_points", "either"),
        ({"bucket": "1m", "fill": "linear", "max_points": 100}, "fill", "bucket=1h"),
        ({"bucket": "1h", "tz": "Europe/Paris"}, "tz", "bucket=1d"),
        ({"bucket": "1d", "tz": "Mars/Base"}, "tz", "Asia/Seoul"),
        ({"bucket": "1d", "tz": "Asia/Kolkata", "from": "-60d"}, "tz", "at most 33 days"),
        ({"bucket": "1d", "tz": "Europe/Paris", "from": "-3650d"}, "tz", "five years"),
    ],
)
def test_a_query_that_cannot_be_right_is_told_what_would_be(parameters, field, advice):
    with pytest.raises(BadQueryError, match=advice) as refused:
        planned(**parameters)
    assert [wrong.field for wrong in refused.value.wrong] == [field]


def test_what_the_advice_says_is_right():
    assert planned(bucket="1h", **{"from": "-60d"}).bucket == "1h"
    assert planned(bucket="1h", fill="linear", max_points=100).fill == "linear"
    assert planned(bucket="1d", tz="Asia/Kolkata", **{"from": "-33d"}).source == "1m"
    assert planned(bucket="1d", **{"from": (NOW - timedelta(days=49_000 // 365 * 100)).isoformat()}).bucket == "1d"
