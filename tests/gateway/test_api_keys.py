"""API keys: exchanged at users, remembered a short while, and missed only when it cannot be helped."""

import random
import secrets
from urllib.parse import urlsplit

import pytest

from gateway import api_keys
from gateway.tokens import LEEWAY_SECONDS
from tests.gateway import people
from tests.gateway.conftest import gateway_url, serving, until_ready
from tests.gateway.people import bearing

PATH = "/api/v1/devices"


@pytest.fixture
def users():
    with people.FakeUsers() as users:
        yield users


@pytest.fixture
def guarded(postgres, restaurant, role, users):
    with serving(
        gateway_url(postgres, urlsplit(restaurant).path[1:], role), users, rate_login=3, trusted_hops=1
    ) as api:
        until_ready(api)
        api.headers["X-Forwarded-For"] = f"198.51.{random.randrange(256)}.{random.randrange(256)}"
        yield api


def asked(api, key):
    return api.get(PATH, headers=bearing(key))


def exchanges(users):
    return sum(call["path"] == "/internal/keys/exchange" for call in users.calls)


def made_up():
    return f"bk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


def test_a_key_opens_its_sites(guarded, users):
    answer = asked(guarded, users.api_key({"paris-1": "reader"}))
    assert answer.status_code == 200
    assert {device["site"] for device in answer.json()["devices"]} == {"paris-1"}


def test_a_key_is_exchanged_once_in_half_a_minute(guarded, users):
    key = users.api_key()
    for _ in range(5):
        assert asked(guarded, key).status_code == 200
    assert exchanges(users) == 1


def test_a_revoked_key_is_refused_when_it_is_asked_for_again(guarded, users, monkeypatch):
    monkeypatch.setattr(api_keys, "FRESH_SECONDS", 0)
    key = users.api_key()
    assert asked(guarded, key).status_code == 200
    del users.api_keys[key]
    assert asked(guarded, key).status_code == 401


def test_a_known_key_goes_on_while_users_is_away(guarded, users, monkeypatch):
    monkeypatch.setattr(api_keys, "FRESH_SECONDS", 0)
    key = users.api_key()
    assert asked(guarded, key).status_code == 200
    users.stop()
    for _ in range(3):
        assert asked(guarded, key).status_code == 200
    answer = asked(guarded, made_up())
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:brigade:problem:users-away"


def test_what_was_remembered_ends_when_it_expires(guarded, users, monkeypatch, clock):
    monkeypatch.setattr(api_keys, "FRESH_SECONDS", 0)
    key = users.api_key()
    users.api_keys[key]["exp"] = int(clock.now) + 60
    assert asked(guarded, key).status_code == 200
    users.stop()
    assert asked(guarded, key).status_code == 200
    clock.now += 60 + LEEWAY_SECONDS
    assert asked(guarded, key).status_code in (401, 503)


def test_guessing_keys_ends_after_a_few(guarded, users):
    answers = [asked(guarded, made_up()).status_code for _ in range(6)]
    assert answers == [401, 401, 401, 429, 429, 429]
    assert exchanges(users) == 4
    assert asked(guarded, users.token()).status_code == 200  # tokens of the same address go on


@pytest.mark.parametrize("key", ["bk_", 'bk_12345678_"},{"x":"' + "y" * 30, "bk_" + "x" * 5000])
def test_what_has_not_the_form_of_a_key_is_not_asked_about(guarded, users, key):
    assert asked(guarded, key).status_code == 401
    assert exchanges(users) == 0
