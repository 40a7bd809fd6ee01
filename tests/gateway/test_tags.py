"""Asking again costs little, and never shows what is no longer so."""

import pytest

from gateway import devices

FLOOR = """
INSERT INTO sites (name) VALUES ('seoul-1');
INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1);
INSERT INTO metrics (name) VALUES ('temperature_c');
INSERT INTO device_metrics VALUES (1, 1);
INSERT INTO readings
SELECT ts, ts, 4, NULL, 1, 1
FROM generate_series(now() - INTERVAL '40 days', now() - INTERVAL '1 min', INTERVAL '1 h') ts;
INSERT INTO marks (bucket, partition, device_id, level)
SELECT date_trunc('minute', ts), 0, 1, 0 FROM readings;
"""
LATE = """
INSERT INTO readings VALUES (now() - INTERVAL '20 days', now(), 99, NULL, 1, 1);
INSERT INTO marks (bucket, partition, device_id, level)
VALUES (date_trunc('minute', now() - INTERVAL '20 days'), 0, 1, 0) ON CONFLICT DO NOTHING
"""
NEW = "INSERT INTO readings VALUES (clock_timestamp(), clock_timestamp(), 5, NULL, 1, 1)"

A_PAST_MONTH = "/api/v1/readings?device=fridge-1&metric=temperature_c&bucket=1h&from=-35d&to=-5d"


@pytest.fixture
def api(scratch, scratch_api):
    scratch.execute(FLOOR)
    return scratch_api


def again(api, path, tag, **headers):
    return api.get(path, headers={"If-None-Match": tag, **headers})


@pytest.mark.parametrize("path", ["/api/v1/latest?site=seoul-1", "/api/v1/devices/fridge-1/latest"])
def test_the_latest_are_told_again_when_a_reading_came(api, scratch, path):
    first = api.get(path)
    same = again(api, path, first.headers["etag"])
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    assert same.headers["cache-control"] == "private, no-cache"
    scratch.execute(NEW)
    changed = again(api, path, first.headers["etag"])
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


def fixed(api):
    """The month's path with the times that its answer names: a relative range begins later each time."""
    told = api.get(A_PAST_MONTH).json()
    return f"{A_PAST_MONTH.partition('&from')[0]}&from={told['from']}&to={told['to']}"


def test_a_month_that_has_passed_is_told_again_only_when_a_late_reading_came(api, scratch):
    path = fixed(api)
    tag = api.get(path).headers["etag"]
    scratch.execute(NEW)
    assert again(api, path, tag).status_code == 304
    scratch.execute(LATE)
    changed = again(api, path, tag)
    assert changed.status_code == 200
    assert max(point["max"] for point in changed.json()["series"][0]["points"]) == 99


def test_a_table_and_a_document_are_two_things(api):
    path = fixed(api)
    document = api.get(path)
    table = again(api, path, document.headers["etag"], Accept="text/csv")
    assert table.status_code == 200
    assert document.headers["vary"] == table.headers["vary"] == "Accept"


def test_one_of_several_tags_is_enough_and_another_is_not(api):
    path = "/api/v1/latest?site=seoul-1"
    tag = api.get(path).headers["etag"]
    assert again(api, path, f'"other", {tag}').status_code == 304
    assert again(api, path, f"W/{tag}").status_code == 304
    assert again(api, path, '"other"').status_code == 200
    assert again(api, path, tag.strip('"')).status_code == 200
    assert devices.LatestPage.model_validate_json(api.get(path).content)


def test_who_may_not_is_not_told_that_nothing_changed(api):
    path = "/api/v1/latest?site=seoul-1"
    tag = api.get(path).headers["etag"]
    assert again(api, path, tag, Authorization="Bearer x.y.z").status_code == 401
