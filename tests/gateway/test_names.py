"""Names that people give through users are seen in the lists of sites and devices."""

import json
from urllib.parse import urlsplit

import pytest

from tests.gateway import people
from tests.gateway.conftest import gateway_url, serving, until_ready

FLOOR = """
INSERT INTO sites (name, time_zone) VALUES ('seoul-1', 'Asia/Seoul'), ('empty-1', 'UTC'), ('other-1', 'UTC');
INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1), ('theirs-1', 3);
"""
SITES = {"seoul-1": "owner", "empty-1": "owner"}


@pytest.fixture
def users():
    with people.FakeUsers() as users:
        users.answers["GET", "/me"] = me(SITES)
        yield users


def me(sites):
    return 200, {}, {"memberships": [{"site": site, "role": role} for site, role in sites.items()]}


def changing(users):
    return [call for call in users.calls if call["method"] != "GET"]


@pytest.fixture
def front(postgres, scratch, scratch_database, role, users):
    scratch.execute(FLOOR)
    with serving(gateway_url(postgres, urlsplit(scratch_database).path[1:], role), users) as api:
        api.headers["Authorization"] = f"Bearer {users.token(SITES)}"
        until_ready(api)
        yield api


def site(scratch, name):
    return scratch.execute("SELECT display_name, time_zone FROM sites WHERE name = %s", (name,)).fetchone()


def device(scratch, name):
    return scratch.execute(
        "SELECT d.display_name, s.name FROM devices d JOIN sites s ON s.id = d.site_id WHERE d.name = %s", (name,)
    ).fetchone()


NEW = {"site": "busan-1", "name": "Busan", "time_zone": "Asia/Seoul"}


def test_a_new_site_is_known_with_its_zone(front, scratch):
    assert front.post("/api/v1/sites", json=NEW).status_code == 200
    assert site(scratch, "busan-1") == ("Busan", "Asia/Seoul")


def test_what_users_refuses_changes_nothing(front, scratch, users):
    for method, path in (("POST", "/sites"), ("PATCH", "/sites/seoul-1"), ("PATCH", "/credentials/fridge-1")):
        users.answers[method, path] = 403, {}, {"type": "x"}
        assert front.request(method, f"/api/v1{path}", json=NEW).status_code == 403
    assert site(scratch, "busan-1") is None
    assert site(scratch, "seoul-1") == (None, "Asia/Seoul")
    assert device(scratch, "fridge-1") == (None, "seoul-1")


def test_users_away_changes_nothing(front, scratch, users):
    users.stop()
    assert front.post("/api/v1/sites", json=NEW).status_code == 503
    assert site(scratch, "busan-1") is None


def test_a_site_whose_devices_were_heard_is_nobodys_for_the_asking(front, scratch, users):
    users.calls.clear()
    answer = front.post("/api/v1/sites", json={**NEW, "site": "other-1"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:brigade:problem:site-in-use")
    assert "brigade users create-owner EMAIL --site other-1" in answer.json()["detail"]
    assert changing(users) == []
    assert site(scratch, "other-1") == (None, "UTC")


def test_a_site_without_devices_is_taken_over_with_its_new_zone(front, scratch):
    assert front.post("/api/v1/sites", json={**NEW, "site": "empty-1"}).status_code == 200
    assert site(scratch, "empty-1") == ("Busan", "Asia/Seoul")


def test_a_name_is_changed(front, scratch):
    assert front.patch("/api/v1/sites/seoul-1", json={"name": "By the river"}).status_code == 200
    assert site(scratch, "seoul-1") == ("By the river", "Asia/Seoul")
    assert front.get("/api/v1/sites").json()["sites"][1]["display_name"] == "By the river"


def test_a_zone_by_which_days_are_counted_is_not_changed_here(front, scratch, users):
    users.calls.clear()
    answer = front.patch("/api/v1/sites/seoul-1", json={"time_zone": "Europe/Paris"})
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:brigade:problem:zone-in-use"
    assert "brigade sites set seoul-1 --time-zone Europe/Paris" in answer.json()["detail"]
    assert changing(users) == []
    scratch.execute("UPDATE sites SET time_zone = 'Europe/Paris' WHERE name = 'seoul-1'")
    assert front.patch("/api/v1/sites/seoul-1", json={"time_zone": "Europe/Paris"}).status_code == 200
    assert front.patch("/api/v1/sites/empty-1", json={"time_zone": "Europe/Paris"}).status_code == 200
    assert site(scratch, "empty-1")[1] == "Europe/Paris"


def test_a_device_is_known_by_its_name_from_its_enrolment_on(front, scratch):
    new = {"site": "seoul-1", "device": "fridge-9", "name": "Walk-in"}
    assert front.post("/api/v1/credentials", json=new).status_code == 200
    assert device(scratch, "fridge-9") == ("Walk-in", "seoul-1")
    assert front.post("/api/v1/credentials", json={**new, "device": "fridge-1"}).status_code == 200
    assert device(scratch, "fridge-1") == ("Walk-in", "seoul-1")
    assert front.patch("/api/v1/credentials/fridge-1", json={"name": "Cold room"}).status_code == 200
    assert device(scratch, "fridge-1") == ("Cold room", "seoul-1")
    assert front.patch("/api/v1/credentials/fridge-1", json={"name": ""}).status_code == 200
    assert device(scratch, "fridge-1") == (None, "seoul-1")


def test_a_credential_that_is_moved_moves_its_device(front, scratch, users):
    scratch.execute("UPDATE sites SET time_zone = 'Asia/Seoul' WHERE name = 'empty-1'")
    moved = {"site": "empty-1", "name": "Bar"}
    users.answers["PATCH", "/credentials/fridge-1"] = 403, {}, {"type": "x"}
    assert front.patch("/api/v1/credentials/fridge-1", json=moved).status_code == 403
    assert device(scratch, "fridge-1") == (None, "seoul-1")
    del users.answers["PATCH", "/credentials/fridge-1"]
    assert front.patch("/api/v1/credentials/fridge-1", json=moved).status_code == 200
    assert device(scratch, "fridge-1") == ("Bar", "empty-1")
    query = "SELECT s.name, moved_at <= now() FROM devices d JOIN sites s ON s.id = previous_site_id"
    assert scratch.execute(query).fetchall() == [("seoul-1", True)]


def test_a_site_is_known_before_the_token_is(front, scratch, users):
    scratch.execute("UPDATE sites SET time_zone = 'Asia/Seoul' WHERE name = 'other-1'")
    users.answers["GET", "/me"] = me({**SITES, "other-1": "owner"})
    assert front.patch("/api/v1/sites/other-1", json={"name": "Ours now"}).status_code == 200
    assert site(scratch, "other-1")[0] == "Ours now"
    new = {"site": "other-1", "device": "fridge-9", "name": "Walk-in"}
    assert front.post("/api/v1/credentials", json=new).status_code == 200
    assert device(scratch, "fridge-9") == ("Walk-in", "other-1")
    assert front.patch("/api/v1/credentials/fridge-1", json={"site": "other-1"}).status_code == 200
    assert device(scratch, "fridge-1") == (None, "other-1")
    assert front.patch("/api/v1/credentials/fridge-1", json={"site": "empty-1"}).status_code == 409


def test_a_session_that_has_ended_changes_nothing(front, scratch, users):
    ended = 401, {}, {"type": "x"}
    users.answers["GET", "/me"] = users.answers["PATCH", "/sites/seoul-1"] = ended
    assert front.patch("/api/v1/sites/seoul-1", json={"name": "By the river"}).status_code == 401
    assert site(scratch, "seoul-1") == (None, "Asia/Seoul")


def test_a_move_to_another_time_zone_is_not_made_here(front, scratch, users):
    users.calls.clear()
    answer = front.patch("/api/v1/credentials/fridge-1", json={"site": "empty-1"})
    assert answer.status_code == 409
    assert "brigade devices move fridge-1 empty-1" in answer.json()["detail"]
    assert changing(users) == []
    assert device(scratch, "fridge-1") == (None, "seoul-1")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/sites/other-1", {"name": "Mine"}),
        ("POST", "/credentials", {"site": "other-1", "device": "theirs-1", "name": "Mine"}),
        ("POST", "/credentials", {"site": "seoul-1", "device": "theirs-1", "name": "Mine"}),
        ("PATCH", "/credentials/theirs-1", {"name": "Mine"}),
        ("PATCH", "/credentials/theirs-1", {"site": "seoul-1"}),
        ("PATCH", "/credentials/fridge-1", {"site": "other-1"}),
    ],
)
def test_anothers_keep_their_names_whatever_users_says(front, scratch, method, path, body):
    assert front.request(method, f"/api/v1{path}", json=body).status_code == 200  # this users says yes to everything
    assert site(scratch, "other-1") == (None, "UTC")
    assert device(scratch, "theirs-1") == (None, "other-1")
    assert device(scratch, "fridge-1") == (None, "seoul-1")


@pytest.mark.parametrize("zone", ["US/Nowhere", "no zone", "US/Pacific-New"])
def test_a_zone_that_the_database_cannot_count_days_in_is_refused(front, scratch, users, zone):
    users.calls.clear()
    for method, path in (("POST", "/sites"), ("PATCH", "/sites/empty-1")):
        answer = front.request(method, f"/api/v1{path}", json={**NEW, "time_zone": zone})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "time_zone"
    assert changing(users) == []
    assert (site(scratch, "busan-1"), site(scratch, "empty-1")) == (None, (None, "UTC"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_what_users_would_read_and_we_would_not_is_refused(front, users, encoding):
    users.calls.clear()
    body = json.dumps(NEW).encode(encoding)
    answer = front.post("/api/v1/sites", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert changing(users) == []


def test_a_device_is_not_taken_from_a_site_where_one_only_looks(front, scratch, users):
    """With a credential of the same name in a site of one's own, which users gives for an id that has none."""
    users.answers["GET", "/me"] = me({"other-1": "staff", "empty-1": "technician"})
    for body in ({"site": "empty-1"}, {"name": "Mine"}):
        assert front.patch("/api/v1/credentials/theirs-1", json=body).status_code == 200
    assert device(scratch, "theirs-1") == (None, "other-1")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"name": 7, "site": "x"}', b'"x"', b'{"name": "a\\u0000b"}', b'{"name":' + b"[" * 30_000],
)
def test_a_body_that_is_none_is_users_business(front, users, body):
    users.calls.clear()
    answer = front.patch("/api/v1/sites/seoul-1", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 422)
    assert len(changing(users)) == (answer.status_code == 200)
