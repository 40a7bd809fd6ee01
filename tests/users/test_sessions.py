"""Refresh tokens: each good once, a copy of an old one ends the session, and no restart does."""

import base64
import os
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import jwt
import pytest
import redis

from deploy.local.ready import wait_until
from deploy.local.stack import Stack
from tests.users.conftest import Who, refused, serving


@pytest.fixture
def store(redis_url):
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def no_grace(api, monkeypatch):
    """Nothing is answered twice."""
    monkeypatch.setattr(api.app.state.resources.sessions, "_grace", timedelta(milliseconds=-1))


def test_each_token_gives_the_next(api, owner):
    first = api.refresh(owner.refresh_token)
    second = api.refresh(first.json()["refresh_token"])
    assert second.status_code == 200
    assert len({owner.refresh_token, first.json()["refresh_token"], second.json()["refresh_token"]}) == 3
    assert Who.of(second).claims["sid"] == owner.claims["sid"]
    assert api("GET", "/me", Who.of(second)).status_code == 200


def test_an_old_token_ends_the_session(api, world, owner, no_grace):
    newest = api.refresh(owner.refresh_token).json()["refresh_token"]
    refused(api.refresh(owner.refresh_token), 401, "session-ended")
    refused(api.refresh(newest), 401, "session-ended")
    refused(api("GET", "/me", owner), 401, "session-ended")
    [event] = world.events("session.ended", email=owner.email)
    assert event["detail"]["session"] == owner.claims["sid"]


def test_one_from_before_the_last_ends_it_even_within_the_grace(api, owner):
    second = api.refresh(owner.refresh_token).json()["refresh_token"]
    third = api.refresh(second).json()["refresh_token"]
    refused(api.refresh(owner.refresh_token), 401, "session-ended")
    refused(api.refresh(third), 401, "session-ended")


def test_a_lost_answer_can_be_asked_for_again(api, owner):
    answers = [api.refresh(owner.refresh_token).json()["refresh_token"] for _ in range(3)]
    assert len(set(answers)) == 1
    assert api.refresh(answers[0]).status_code == 200


def test_many_at_once_get_the_same_successor(api, owner):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.refresh(owner.refresh_token), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1


def test_the_grace_is_over_after_its_time(api, owner, monkeypatch):
    monkeypatch.setattr(api.app.state.resources.sessions, "_grace", timedelta(milliseconds=200))
    api.refresh(owner.refresh_token)
    time.sleep(0.3)
    refused(api.refresh(owner.refresh_token), 401, "session-ended")


@pytest.mark.parametrize(
    "how", ["of this session", "made up", "cut", "changed", "padded", "other spelling", "empty", "한국어"]
)
def test_a_made_up_token_ends_nothing(api, owner, how):
    token = owner.refresh_token
    of_this_session = base64.urlsafe_b64encode(uuid.UUID(owner.claims["sid"]).bytes + bytes(48)).decode().rstrip("=")
    wrong = {
        "of this session": of_this_session,
        "made up": "A" * 86, "cut": token[:-1], "changed": ("B" if token[0] == "A" else "A") + token[1:],
        "padded": token + "==", "other spelling": token[:-1] + chr(ord(token[-1]) + 1), "empty": "",
        "한국어": "한" * 86,
    }[how]  # fmt: skip
    answer = api.refresh(wrong)
    refused(answer, 422, "bad-request") if how == "empty" else refused(answer, 401, "session-ended")
    assert api.refresh(token).status_code == 200


def test_redis_has_no_token(api, store, owner):
    kept = str(store.hgetall(f"users:session:{owner.claims['sid']}"))
    assert owner.refresh_token not in kept
    assert owner.id in kept


def test_a_session_lasts_a_month_idle_and_three_in_all(api, store, owner):
    key = f"users:session:{owner.claims['sid']}"
    assert 29.9 < store.ttl(key) / 86400 <= 30
    store.hset(key, "ends", int(time.time() * 1000) + 5000)
    api.refresh(owner.refresh_token)
    assert store.pttl(key) <= 5000


def test_roles_are_those_of_the_moment(api, world, owner, site):
    world.connection.execute("UPDATE memberships SET role = 'staff' WHERE person = %s", (owner.id,))
    token = api.refresh(owner.refresh_token).json()["access_token"]
    assert jwt.decode(token, options={"verify_signature": False})["sites"] == {site: "staff"}


def test_sessions_are_listed_and_ended(api, owner, person):
    other = Who.of(api("POST", "/auth/login", json={"email": person["email"], "password": "a sentence of the tests"},
                       headers={"User-Agent": "A phone"}, ip="203.0.113.9"))  # fmt: skip
    listed = api("GET", "/me/sessions", owner).json()["sessions"]
    assert next((s["ip"], s["agent"], s["current"]) for s in listed) == ("203.0.113.9", "A phone", False)
    assert [s["id"] for s in listed if s["current"]] == [owner.claims["sid"]]
    assert api("DELETE", f"/me/sessions/{other.claims['sid']}", owner).status_code == 204
    refused(api.refresh(other.refresh_token), 401, "session-ended")
    refused(api("GET", "/me", other), 401, "session-ended")
    assert api("GET", "/me", owner).status_code == 200


def test_anothers_session_does_not_exist(api, owner, as_role):
    other = as_role("staff")
    refused(api("DELETE", f"/me/sessions/{other.claims['sid']}", owner), 404, "unknown")
    assert api("GET", "/me", other).status_code == 200


def test_nobody_has_sessions_without_end(api, person, store):
    from users.sessions import SESSIONS_OF_A_PERSON

    first = Who.of(api.log_in(person["email"]))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: api.log_in(person["email"]), range(SESSIONS_OF_A_PERSON + 5)))
    last = Who.of(api.log_in(person["email"]))
    assert len(api("GET", "/me/sessions", last).json()["sessions"]) == SESSIONS_OF_A_PERSON
    refused(api.refresh(first.refresh_token), 401, "session-ended")


def test_a_restart_of_users_loses_no_session(users_database, redis_url, mails, person):
    with serving(users_database, redis_url, mails) as api:
        who = Who.of(api.log_in(person["email"]))
    with serving(users_database, redis_url, mails) as api:
        api.until_ready()
        assert api("GET", "/me", who).status_code == 200
        assert api.refresh(who.refresh_token).status_code == 200


def test_a_killed_redis_loses_no_session(api, owner):
    name = os.environ.get("BRIGADE_TEST_INSTANCE")
    if not name:
        pytest.skip("BRIGADE_TEST_INSTANCE is not set: the running instance of the local stack")
    stack = Stack.attach(name)
    successor = api.refresh(owner.refresh_token).json()["refresh_token"]
    before = stack.pid("redis")
    stack.signal("redis", signal.SIGKILL)
    assert wait_until(lambda: stack.pid("redis") not in {0, before}, 60)
    assert stack.wait_ready("redis")
    api.until_ready()
    assert api("GET", "/me", owner).status_code == 200
    assert api.refresh(successor).status_code == 200
