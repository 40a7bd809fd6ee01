"""Range queries, on a restaurant of three days."""

import csv
import io
from datetime import datetime, timedelta
from itertools import pairwise

import psycopg
import pytest

from gateway import readings as route
from tests.gateway.conftest import HOUR, NOW, START

RANGE = {"from": START.isoformat(), "to": NOW.isoformat()}


def ask(api, **parameters):
    answer = api.get("/api/v1/readings", params={"device": "fridge-1", **RANGE, **parameters})
    assert answer.status_code == 200, answer.text
    route.Readings.model_validate_json(answer.content)  # the documented form
    return answer.json()


def points(api, **parameters):
    (series,) = ask(api, metric="temperature_c", **parameters)["series"]
    return series["points"]


def time(point):
    return datetime.fromisoformat(point["ts"])


@pytest.fixture
def stored(restaurant):
    with psycopg.connect(restaurant) as connection:
        yield connection


def test_raw_readings_are_what_was_stored(api, stored):
    rows = stored.execute(
        "SELECT ts, value, received_at, seq FROM readings WHERE device_id = 1 AND metric_id = 1 ORDER BY ts"
    )
    expected = [(ts, value, received_at, seq, value > 8) for ts, value, received_at, seq in rows if ts < NOW]
    got = [
        (time(p), p["value"], datetime.fromisoformat(p["received_at"]), p["seq"], p["out_of_bounds"])
        for p in points(api, bucket="raw")
    ]
    assert got == expected


def test_pages_are_the_whole_in_order_and_none_comes_twice(api):
    whole = [(s["metric"], p["ts"]) for s in ask(api, bucket="raw")["series"] for p in s["points"]]
    paged, path, page = [], "/api/v1/readings", None
    while path:
        page = api.get(path, params=None if page else {"device": "fridge-1", **RANGE, "bucket": "raw", "limit": 997})
        assert page.status_code == 200, page.text
        rows = [(s["metric"], p["ts"]) for s in page.json()["series"] for p in s["points"]]
        assert len(rows) <= 997
        paged += rows
        path = page.links.get("next", {}).get("url")
        assert (page.json()["next"] is None) == (path is None)
    assert paged == whole


def test_pages_of_a_moving_range_do_not_move(api):
    first = ask(api, bucket="raw", limit=10, **{"from": "-30h", "to": "now"})
    second = ask(api, bucket="raw", limit=10, cursor=first["next"], **{"from": "-30h", "to": "now"})
    assert (first["from"], first["to"]) == (second["from"], second["to"])


def test_a_page_that_ends_with_a_metric_has_no_empty_series_behind_it(api):
    every = len(ask(api, bucket="raw", metric="humidity_pct")["series"][0]["points"])
    page = ask(api, bucket="raw", metric="humidity_pct,temperature_c", limit=every)
    assert [len(s["points"]) for s in page["series"]] == [every]
    rest = ask(api, bucket="raw", metric="humidity_pct,temperature_c", cursor=page["next"])
    assert [s["metric"] for s in rest["series"]] == ["temperature_c"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"bucket": "raw"}, {"bucket": "raw", "max_points": 100}, {"bucket": "1h"}, {"bucket": "1d", "agg": "count,sum"},
        {"bucket": "1m", "fill": "linear", "agg": ["avg", "count"]}, {"bucket": "1m", "max_points": 64},
    ],
)  # fmt: skip
def test_csv_and_json_say_the_same(api, parameters):
    answer = api.get("/api/v1/readings", params={"device": "fridge-1", **RANGE, **parameters, "format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    document = ask(api, **parameters)
    flat = [
        {"device": "fridge-1", "metric": s["metric"], "unit": s["unit"], **p}
        for s in document["series"]
        for p in s["points"]
    ]
    assert [{name: row[name] for name in table[0]} for row in flat] == [
        {name: typed(name, text) for name, text in row.items()} for row in table
    ]


def typed(name, text):
    match name:
        case "device" | "metric" | "unit" | "ts" | "received_at":
            return text or None
        case "out_of_bounds" | "filled":
            return text == "true"
        case _:
            return float(text) if text else None


@pytest.mark.parametrize(
    ("parameters", "trunc"),
    [
        ({"bucket": "1m"}, "date_trunc('minute', ts)"),
        ({"bucket": "1h"}, "date_trunc('hour', ts, 'UTC')"),
        ({"bucket": "1d"}, "date_trunc('day', ts, 'Asia/Seoul')"),
        ({"bucket": "1d", "tz": "Europe/Paris"}, "date_trunc('day', ts, 'Europe/Paris')"),
        ({"bucket": "1d", "tz": "Asia/Kolkata"}, "date_trunc('day', ts, 'Asia/Kolkata')"),
    ],
)
def test_buckets_are_a_recount_of_the_readings(api, stored, parameters, trunc):
    rows = stored.execute(
        f"""SELECT {trunc} AS ts, avg(value), min(value), max(value), sum(value), count(*),
            first(value, ts), last(value, ts)
        FROM readings WHERE device_id = 1 AND metric_id = 1 GROUP BY 1 ORDER BY 1"""
    ).fetchall()
    got = points(api, agg="avg,min,max,sum,count,first,last", **parameters)
    assert [time(p) for p in got] == [row[0] for row in rows]
    for point, row in zip(got, rows, strict=True):
        assert list(point.values())[1:8] == pytest.approx(row[1:])
        assert point["out_of_bounds"] == (row[3] > 8)


def test_days_bear_the_offset_of_their_zone(api):
    assert all(p["ts"].endswith("T00:00:00+09:00") for p in points(api, bucket="1d"))
    assert all("T00:00:00+0" in p["ts"] for p in points(api, bucket="1d", tz="Europe/Paris"))


def test_a_bucket_that_is_marked_is_told_as_it_is_now(scratch, scratch_api):
    minute = HOUR - timedelta(hours=1)
    scratch.execute("INSERT INTO sites (name) VALUES ('seoul-1')")
    scratch.execute("INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1)")
    scratch.execute("INSERT INTO metrics (name) VALUES ('temperature_c')")
    scratch.execute("INSERT INTO device_metrics VALUES (1, 1)")
    scratch.execute("INSERT INTO readings VALUES (%s, now(), 5, NULL, 1, 1)", (minute,))
    scratch.execute("INSERT INTO marks (bucket, partition, device_id, level) VALUES (%s, 0, 1, 0)", (minute,))
    for bucket in ("1m", "1h", "1d"):
        (point,) = points(scratch_api, bucket=bucket, agg="avg,count")
        assert (point["avg"], point["count"]) == (5, 1)


def test_values_too_large_to_add_up_are_told_so(scratch, scratch_api):
    scratch.execute("INSERT INTO sites (name) VALUES ('seoul-1')")
    scratch.execute("INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1)")
    scratch.execute("INSERT INTO metrics (name) VALUES ('temperature_c')")
    scratch.execute("INSERT INTO device_metrics VALUES (1, 1)")
    minute = HOUR - timedelta(hours=1)
    for second in range(2):
        ts = minute + timedelta(seconds=second)
        scratch.execute("INSERT INTO readings VALUES (%s, now(), 1.7e308, NULL, 1, 1)", (ts,))
    scratch.execute("INSERT INTO marks (bucket, partition, device_id, level) VALUES (%s, 0, 1, 0)", (minute,))
    answer = scratch_api.get("/api/v1/readings", params={"device": "fridge-1", "bucket": "1m"})
    assert answer.status_code == 422, answer.text
    assert "bucket=raw" in answer.json()["detail"]
    assert len(points(scratch_api, bucket="raw")) == 2


def test_fill_leaves_no_bucket_out(api):
    filled = ask(api, metric="humidity_pct", bucket="1h", fill="linear", agg="avg,count")["series"][0]["points"]
    assert [time(p) for p in filled] == [START + n * timedelta(hours=1) for n in range(61)]
    gap = [p for p in filled if p["filled"]]
    assert [time(p) for p in gap] == [START + n * timedelta(hours=1) for n in range(20, 25)]
    assert all(p["avg"] is not None and p["count"] == 0 for p in gap)
    left_out = ask(api, metric="humidity_pct", bucket="1h", fill="none", agg="avg,count")["series"][0]["points"]
    assert [p["ts"] for p in left_out] == [p["ts"] for p in filled if not p["filled"]]


@pytest.mark.parametrize("bucket", ["raw", "1m"])
@pytest.mark.parametrize("most", [8, 50, 1000])
def test_thinning_keeps_the_spike(api, bucket, most):
    (series,) = ask(api, metric="temperature_c", bucket=bucket, max_points=most)["series"]
    assert series["thinned"]
    assert 4 <= len(series["points"]) <= most
    highest = max(series["points"], key=lambda p: p.get("value") or p.get("max"))
    assert highest["out_of_bounds"]
    assert abs(time(highest) - (START + timedelta(hours=30))) < timedelta(minutes=1)
    assert all(a["ts"] < b["ts"] for a, b in pairwise(series["points"]))


def test_what_fits_is_not_thinned(api):
    (series,) = ask(api, metric="temperature_c", bucket="raw", max_points=50_000)["series"]
    assert not series["thinned"]
    assert series["points"] == points(api, bucket="raw")


def test_series_come_in_the_order_asked_for(api):
    metrics = [s["metric"] for s in ask(api, metric=["temperature_c", "door_open,humidity_pct"])["series"]]
    assert metrics == ["temperature_c", "door_open", "humidity_pct"]


def test_a_device_without_readings_has_no_series(api):
    assert ask(api, device="new-1")["series"] == []


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "application/json"), ("*/*", "application/json"), ("text/csv", "text/csv; charset=utf-8"),
        ("text/html, text/csv;q=0.5", "text/csv; charset=utf-8"),
        ("text/csv;q=0.1, application/json", "application/json"),
        ("text/csv;q=x, application/json;q=0.1", "application/json"),
    ],
)  # fmt: skip
def test_the_accept_header_chooses_the_form(api, accept, form):
    headers = {"Accept": accept} if accept else {}
    answer = api.get("/api/v1/readings", params={"device": "fridge-1"}, headers=headers)
    assert (answer.headers["content-type"], answer.headers["vary"]) == (form, "Accept")


def test_format_goes_before_the_accept_header(api):
    answer = api.get("/api/v1/readings?device=fridge-1&format=json", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "application/json"


def test_another_form_is_not_acceptable(api):
    answer = api.get("/api/v1/readings?device=fridge-1", headers={"Accept": "image/png"})
    assert answer.status_code == 406
    assert "text/csv" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("parameters", "status", "field", "advice"),
    [
        ({"device": "nobody"}, 404, "device", "/api/v1/devices"),
        ({"device": "fridge\0"}, 404, "device", "/api/v1/devices"),
        ({"metric": "volts_v"}, 422, "metric", "door_open, humidity_pct, temperature_c"),
        ({"device": "new-1", "metric": "volts_v"}, 422, "metric", "none yet"),
        ({"agg": "median"}, 422, "agg", "'avg'"),
        ({"bucket": "5m"}, 422, "bucket", "'1m'"),
        ({"cursor": "AAAA", "bucket": "raw"}, 422, "cursor", "next"),
        ({"cursor": "e30", "bucket": "raw"}, 422, "cursor", "next"),
        ({"limit": "0", "bucket": "raw"}, 422, "limit", "greater"),
        ({"limit": "9" * 5000, "bucket": "raw"}, 422, "limit", ""),
        ({"max_points": "-1"}, 422, "max_points", "greater"),
        ({"from": "now", "to": "-1h"}, 422, "from", "before 'to'"),
    ],
)
def test_what_is_wrong_is_named(api, parameters, status, field, advice):
    answer = api.get("/api/v1/readings", params={"device": "fridge-1", **parameters})
    assert answer.status_code == status
    (wrong,) = answer.json()["errors"]
    assert wrong["field"] == field
    assert advice in wrong["reason"]


def test_a_cursor_of_another_query_is_refused(api):
    first = ask(api, bucket="raw", limit=5, metric="temperature_c")
    answer = api.get(
        "/api/v1/readings",
        params={"device": "fridge-1", "bucket": "raw", "metric": "humidity_pct", "cursor": first["next"]},
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "cursor"


def test_a_client_that_goes_away_gives_its_connection_back(api):
    """More of them than there are connections."""
    for _ in range(12):
        with api.stream("GET", "/api/v1/readings?device=fridge-1&bucket=raw&format=csv&from=-60h") as answer:
            next(answer.iter_bytes(10))
    assert ask(api)["series"]
