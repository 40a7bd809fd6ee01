"""API keys: shown once, kept hashed, exchanged for a token that says what they may."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest

from tests.users.conftest import Who, refused


@pytest.fixture
def made(api, owner, site):
    def make(**more):
        answer = api("POST", "/keys", owner, json={"name": "till", "scope": "read", "sites": [site]} | more)
        assert answer.status_code == 201, answer.text
        return answer.json()

    return make


def exchange(api, key):
    return api("POST", "/internal/keys/exchange", json={"key": key})


def said(answer):
    return jwt.decode(answer.json()["access_token"], options={"verify_signature": False})


@pytest.mark.parametrize(("scope", "role"), [("read", "reader"), ("write", "technician")])
def test_a_key_is_exchanged_for_a_token(api, organisation, site, made, scope, role):
    key = made(scope=scope)
    answer = exchange(api, key["key"])
    claims = said(answer)
    assert (claims["kind"], claims["sub"], claims["org"]) == ("key", key["id"], str(organisation))
    assert claims["sites"] == {site: role}
    assert "sid" not in claims
    assert answer.json()["expires_in"] == 600


def test_it_is_shown_once_and_kept_hashed(api, world, owner, made):
    key = made()
    assert key["key"].startswith(key["prefix"] + "_")
    [listed] = api("GET", "/keys", owner).json()["keys"]
    assert "key" not in listed
    assert key["key"] not in str(world.one("SELECT * FROM api_keys WHERE id = %s", key["id"]))


def test_its_last_use_is_known(api, world, owner, made):
    key = made()
    assert key["last_used_at"] is None
    exchange(api, key["key"])
    [listed] = api("GET", "/keys", owner).json()["keys"]
    assert datetime.now(UTC) - datetime.fromisoformat(listed["last_used_at"]) < timedelta(minutes=1)


def test_a_revoked_one_is_none(api, owner, made):
    key = made()
    who = Who.of(exchange(api, key["key"]))
    assert api("GET", "/sites", who).status_code == 200
    assert api("DELETE", f"/keys/{key['id']}", owner).status_code == 204
    refused(exchange(api, key["key"]), 401, "bad-key")
    refused(api("GET", "/sites", who), 401, "session-ended")
    refused(api("DELETE", f"/keys/{key['id']}", owner), 404, "unknown")


def test_it_ends_when_it_says(api, world, made):
    key = made(expires_at=(datetime.now(UTC) + timedelta(seconds=300)).isoformat())
    answer = exchange(api, key["key"])
    assert 200 < answer.json()["expires_in"] <= 300
    world.connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", (key["id"],))
    refused(exchange(api, key["key"]), 401, "bad-key")


@pytest.mark.parametrize(
    "expires_at", ["2020-01-01T00:00:00Z", "tomorrow", "2099-01-01T00:00:00", "9999-12-31T23:59:59-23:00", 1e300]
)
def test_it_cannot_end_in_the_past_or_at_no_time(api, owner, site, expires_at):
    body = {"name": "till", "scope": "read", "sites": [site], "expires_at": expires_at}
    answer = api("POST", "/keys", owner, json=body)
    assert refused(answer, 422, "bad-request").json()["errors"][0]["field"] == "expires_at"


@pytest.mark.parametrize("change", ["secret", "prefix", "nothing", "shape", "sql"])
def test_a_wrong_one_is_none(api, made, change):
    key = made()["key"]
    wrong = {
        "secret": key[:-1] + ("A" if key[-1] != "A" else "B"), "prefix": "bk_AAAAAAAA" + key[11:], "nothing": "",
        "shape": key[3:], "sql": "bk_' OR 1=1_",
    }[change]  # fmt: skip
    refused(exchange(api, wrong), 401, "bad-key")


def test_nobody_makes_a_key_to_anothers_site(api, world, owner, organisation, site):
    body = {"name": "till", "scope": "read", "sites": [site, world.site(organisation)]}
    refused(api("POST", "/keys", owner, json=body), 404, "unknown")
    assert api("GET", "/keys", owner).json()["keys"] == []


def test_both_its_making_and_its_end_are_written_down(api, world, owner, site, made):
    key = made()
    api("DELETE", f"/keys/{key['id']}", owner)
    assert [len(world.events(what, site=site, email=owner.email)) for what in ("key.created", "key.revoked")] == [1, 1]
    assert key["key"] not in str(world.events("key.created", site=site))
