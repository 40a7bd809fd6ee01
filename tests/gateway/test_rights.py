"""Every route of the gateway by every role by one's own site and another's."""

import httpx
import pytest

from tests.gateway import people
from tests.gateway.people import bearing

EVERYTHING = """
INSERT INTO sites (name, time_zone) VALUES ('mine', 'Asia/Seoul'), ('yours', 'UTC');
INSERT INTO devices (name, site_id) VALUES ('mine.1', 1), ('yours.1', 2);
INSERT INTO metrics (name, unit) VALUES ('temperature_c', '°C');
INSERT INTO device_metrics VALUES (1, 1), (2, 1);
INSERT INTO readings SELECT now() - INTERVAL '1 min', now(), 4, NULL, d, 1 FROM generate_series(1, 2) d;
INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, device_id,
                          kafka_partition, kafka_offset, position)
SELECT now(), 'ts_invalid', 'x', topic, '{}', 2, device, 0, n, 0
FROM (VALUES (1, 'brigade/v1/mine/mine.1/readings', 1), (2, 'brigade/v1/yours/yours.1/readings', 2),
             (3, '', 0), (4, 'brigade/v1/mine/new/readings', 0), (5, 'brigade/v1/yours/mine.1/readings', 1))
    AS letters (n, topic, device);
"""

ALL = ("owner", "manager", "technician", "auditor", "staff", "reader")
LETTERS = ("owner", "manager", "technician", "auditor", "reader")
REPLAY = ("owner", "manager", "technician")
SYSTEM = ("owner", "manager", "technician", "auditor")

# method, path of one's own, path of another's, who may, what the others get for their own
ROUTES = [
    ("GET", "/devices/mine.1", "/devices/yours.1", ALL, None),
    ("GET", "/devices/mine.1/latest", "/devices/yours.1/latest", ALL, None),
    ("GET", "/devices/mine.1/ledger", "/devices/yours.1/ledger", ALL, None),
    ("GET", "/devices?site=mine", "/devices?site=yours", ALL, None),
    ("GET", "/latest?site=mine", "/latest?site=yours", ALL, None),
    ("GET", "/recent?site=mine", "/recent?site=yours", ALL, None),
    ("GET", "/readings?device=mine.1", "/readings?device=yours.1", ALL, None),
    ("GET", "/readings?device=mine.1&bucket=raw", "/readings?device=yours.1&bucket=raw", ALL, None),
    ("GET", "/dead-letters/1", "/dead-letters/2", LETTERS, 403),
    ("POST", "/dead-letters/1/replay", "/dead-letters/2/replay", REPLAY, 403),
]


@pytest.fixture
def everything(scratch, scratch_api):
    scratch.execute(EVERYTHING)
    return scratch_api


def ask(api, method, path, sites):
    return api.request(method, f"/api/v1{path}", headers=bearing(people.everyday().token(sites)))


@pytest.mark.parametrize("who_as", ALL)
@pytest.mark.parametrize(("method", "own", "other", "who", "else_"), ROUTES, ids=[f"{r[0]} {r[1]}" for r in ROUTES])
def test_a_role_may_what_it_may_and_another_site_does_not_exist(everything, who_as, method, own, other, who, else_):
    sites = {"mine": who_as}
    mine = ask(everything, method, own, sites)
    if who_as in who:
        assert mine.status_code in (200, 202), mine.text
    else:
        assert mine.status_code == else_
        assert mine.json()["type"] == "urn:brigade:problem:not-allowed"
    theirs = ask(everything, method, other, sites)
    assert theirs.status_code == (404 if who_as in who or (who_as in LETTERS and else_) else 403), theirs.text


@pytest.mark.parametrize("who_as", ["cook", "Owner", ""])
def test_a_role_that_nobody_knows_may_nothing(everything, who_as):
    for method, own, _, _, _ in ROUTES:
        assert ask(everything, method, own, {"mine": who_as}).status_code == 403


def test_without_a_site_there_is_nothing(everything):
    for method, own, _, _, _ in ROUTES:
        assert ask(everything, method, own, {}).status_code == 403


def names(answer, of, name="name"):
    assert answer.status_code == 200, answer.text
    return [thing[name] for thing in answer.json()[of]]


@pytest.mark.parametrize("sites", [{"mine": "staff"}, {"yours": "owner"}, {"mine": "auditor", "yours": "staff"}])
def test_lists_have_what_is_ones_own(everything, sites):
    assert names(ask(everything, "GET", "/sites", sites), "sites") == sorted(sites)
    assert names(ask(everything, "GET", "/devices", sites), "devices") == sorted(f"{site}.1" for site in sites)


@pytest.mark.parametrize(
    ("sites", "query", "ids"),
    [
        ({"mine": "auditor"}, "", [4, 1]),
        ({"yours": "auditor"}, "", [5, 2]),
        ({"mine": "auditor", "yours": "staff"}, "", [4, 1]),
        ({"mine": "auditor", "yours": "owner"}, "", [5, 4, 2, 1]),
        ({"mine": "auditor"}, "?site=yours", []),
        ({"mine": "auditor"}, "?device=yours.1", []),
        ({"mine": "auditor"}, "?device=mine.1", [1]),
        ({"mine": "auditor"}, "?device=new", [4]),
    ],
)
def test_dead_letters_are_of_the_site_that_their_topic_names(everything, sites, query, ids):
    assert names(ask(everything, "GET", f"/dead-letters{query}", sites), "dead_letters", "id") == ids


def test_a_site_where_one_may_less_says_so(everything):
    sites = {"mine": "owner", "yours": "staff"}
    assert ask(everything, "GET", "/dead-letters?site=yours", sites).status_code == 403
    assert ask(everything, "GET", "/dead-letters/2", sites).status_code == 404
    sites = {"mine": "owner", "yours": "auditor"}
    assert ask(everything, "POST", "/dead-letters/2/replay", sites).status_code == 403
    assert ask(everything, "POST", "/dead-letters/replay?site=yours", sites).status_code == 403


@pytest.mark.parametrize(
    ("sites", "query", "requested"),
    [
        ({"mine": "technician"}, "from=1970-01-01T00:00:00Z", {1, 4}),
        ({"mine": "owner", "yours": "auditor"}, "from=1970-01-01T00:00:00Z", {1, 4}),
        ({"mine": "owner"}, "site=yours", set()),
        ({"mine": "owner"}, "device=yours.1", set()),
        ({"mine": "owner", "yours": "owner"}, "reason=ts_invalid", {1, 2, 4, 5}),
    ],
)
def test_replays_are_requested_in_ones_own_sites(everything, scratch, sites, query, requested):
    answer = ask(everything, "POST", f"/dead-letters/replay?{query}", sites)
    assert answer.json() == {"requested": len(requested), "more": False}
    found = scratch.execute("SELECT id FROM dead_letters WHERE replay_requested_at IS NOT NULL").fetchall()
    assert {row[0] for row in found} == requested


@pytest.mark.parametrize("who_as", ALL)
def test_replaying_many_needs_the_right(everything, who_as):
    answer = ask(everything, "POST", "/dead-letters/replay?reason=ts_invalid", {"mine": who_as})
    assert answer.status_code == (202 if who_as in REPLAY else 403)


@pytest.mark.parametrize("who_as", ALL)
def test_system_is_for_those_who_run_it(everything, who_as):
    assert ask(everything, "GET", "/system", {"mine": who_as}).status_code == (200 if who_as in SYSTEM else 403)


def test_a_device_that_moved_is_its_new_sites(everything, scratch):
    assert ask(everything, "GET", "/readings?device=mine.1", {"mine": "owner"}).status_code == 200
    assert ask(everything, "GET", "/readings?device=mine.1", {"yours": "owner"}).status_code == 404  # though remembered
    scratch.execute("UPDATE devices SET site_id = 2, previous_site_id = 1 WHERE name = 'mine.1'")
    assert ask(everything, "GET", "/readings?device=mine.1", {"yours": "owner"}).status_code == 200  # at once
    everything.app.state.directory.forget()  # as five seconds do
    assert ask(everything, "GET", "/readings?device=mine.1", {"mine": "owner"}).status_code == 404
    assert ask(everything, "GET", "/readings?device=mine.1", {"yours": "owner"}).status_code == 200


@pytest.mark.parametrize(
    "name", ["mine'; DROP TABLE readings; --", "%", "_", 'mine.1" OR 1=1', "mine.1%27%20OR%201=1", "{mine}", "\\"]
)
def test_sql_in_names_is_a_name(everything, name):
    assert ask(everything, "GET", f"/devices?{httpx_query('site', name)}", {"mine": "owner"}).status_code == 404
    answer = ask(everything, "GET", f"/readings?{httpx_query('device', name)}", {"mine": "owner"})
    assert answer.status_code == 404
    assert ask(everything, "GET", "/devices/mine.1", {"mine": "owner", name: "owner"}).status_code == 200


def httpx_query(name, value):
    return str(httpx.QueryParams({name: value}))
