"""Sites, devices and what they measured last."""

from datetime import timedelta

import psycopg
import pytest

from gateway import devices
from tests.gateway.conftest import NOW, START


def test_sites_are_listed(api):
    sites = devices.Sites.model_validate_json(api.get("/api/v1/sites").content).sites
    assert [(s.name, s.display_name, s.time_zone, s.devices) for s in sites] == [
        ("paris-1", None, "Europe/Paris", 3),
        ("seoul-1", "Seoul, the first", "Asia/Seoul", 3),
    ]


@pytest.mark.parametrize("path", ["/api/v1/devices", "/api/v1/devices?site=paris-1", "/api/v1/devices?online=true"])
def test_pages_are_the_whole(api, path):
    whole = [d["name"] for d in api.get(path).json()["devices"]]
    assert whole == sorted(whole)
    paged, page = [], api.get(path, params={**dict(p.split("=") for p in path.split("?")[1:]), "limit": 2})
    while True:
        paged += [d["name"] for d in page.json()["devices"]]
        if "next" not in page.links:
            break
        page = api.get(page.links["next"]["url"])
    assert paged == whole


def test_a_device_is_described(api):
    device = devices.OneDevice.model_validate_json(api.get("/api/v1/devices/fridge-1").content)
    assert (device.name, device.display_name, device.site, device.time_zone) == (
        "fridge-1", "Fridge by the door", "seoul-1", "Asia/Seoul",
    )  # fmt: skip
    assert [(m.name, m.unit, m.lower_bound, m.upper_bound) for m in device.metrics] == [
        ("door_open", None, None, None), ("humidity_pct", "%", None, None), ("temperature_c", "°C", -5, 8),
    ]  # fmt: skip
    assert NOW - timedelta(minutes=2) < device.last_seen <= NOW + timedelta(seconds=1)


def test_a_device_that_never_spoke_is_described(api):
    device = devices.OneDevice.model_validate_json(api.get("/api/v1/devices/new-1").content)
    assert (device.online, device.last_seen, device.metrics) == (True, None, [])
    assert api.get("/api/v1/devices/new-1/latest").json() == {"device": "new-1", "values": []}


@pytest.mark.parametrize(
    "path",
    ["/api/v1/devices/nobody", "/api/v1/devices/nobody/latest", "/api/v1/devices/a%00b", "/api/v1/latest?site=nowhere"],
)
def test_what_is_unknown_is_not_found(api, path):
    answer = api.get(path)
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["field"] in ("device", "site")


def test_the_latest_values_are_the_newest_readings(api, restaurant):
    latest = devices.Latest.model_validate_json(api.get("/api/v1/devices/fridge-1/latest").content)
    with psycopg.connect(restaurant) as connection:
        newest = connection.execute(
            "SELECT DISTINCT ON (m.name) m.name, ts, value, received_at, seq "
            "FROM readings JOIN metrics m ON m.id = metric_id WHERE device_id = 1 ORDER BY m.name, ts DESC"
        ).fetchall()
    assert [(v.metric, v.ts, v.value, v.received_at, v.seq) for v in latest.values] == newest


def test_the_latest_values_of_a_site_are_those_of_its_devices(api):
    page = devices.LatestPage.model_validate_json(api.get("/api/v1/latest?site=seoul-1").content)
    assert [d.device for d in page.devices] == ["fridge-1", "fridge-2", "new-1"]
    assert page.next is None
    for device in page.devices:
        assert device == devices.Latest.model_validate_json(api.get(f"/api/v1/devices/{device.device}/latest").content)
    first = api.get("/api/v1/latest?site=seoul-1&limit=2")
    rest = api.get(first.links["next"]["url"]).json()
    assert [d["device"] for d in rest["devices"]] == ["new-1"]


@pytest.mark.parametrize(
    ("status", "reading", "ledger_hour", "online"),
    [
        (None, None, None, True),
        (None, 5, None, True),
        (("online", 5), None, None, True),
        (("offline", 5), None, None, False),
        (("offline", 5), 4, None, False),
        (("offline", 5), 6, None, True),
        (("offline", 5), 4, 6, True),  # a late reading, received after
        (("offline", 5), 4, 5, False),
    ],
)
def test_only_its_last_will_makes_a_device_offline_until_a_reading_comes(
    scratch, scratch_api, status, reading, ledger_hour, online
):
    """Hours after the beginning of everything: when what was received."""
    scratch.execute("INSERT INTO sites (name) VALUES ('seoul-1')")
    scratch.execute("INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1)")
    scratch.execute("INSERT INTO metrics (name) VALUES ('temperature_c')")
    scratch.execute("INSERT INTO device_metrics VALUES (1, 1)")
    if status:
        scratch.execute("INSERT INTO device_status VALUES (1, %s, %s)", (status[0] == "online", at(status[1])))
    if reading:
        scratch.execute("INSERT INTO readings VALUES (%s, %s, 5, NULL, 1, 1)", (at(1), at(reading)))
    if ledger_hour:
        scratch.execute("INSERT INTO ledger VALUES (%s, 1, 1, 1, 0, 0, 1, 1)", (at(ledger_hour),))
    assert scratch_api.get("/api/v1/devices/fridge-1").json()["online"] is online
    listed = scratch_api.get("/api/v1/devices", params={"online": online}).json()["devices"]
    assert [d["name"] for d in listed] == ["fridge-1"]
    assert scratch_api.get("/api/v1/devices", params={"online": not online}).json()["devices"] == []


def at(hour):
    return START + timedelta(hours=hour)
