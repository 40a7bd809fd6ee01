"""Rate limits, in Redis and without it."""

import random
import secrets
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import CountedAlone
from tests.gateway import people
from tests.gateway.conftest import REDIS_SECONDS, gateway_url, serving, until_ready
from tests.gateway.people import bearing

PATH = "/api/v1/sites"
LOGIN = "/api/v1/auth/login"


@pytest.fixture(scope="module")
def database_url(postgres, restaurant, role):
    return gateway_url(postgres, urlsplit(restaurant).path[1:], role)


@pytest.fixture(scope="module")
def limited(database_url):
    with serving(
        database_url, rate_people=5, rate_machines=7, rate_login=3, trusted_hops=1, users_url=people.everyday().url
    ) as api:
        until_ready(api)
        yield api


def statuses(api, headers, times, path=PATH):
    return [api.get(path, headers=headers).status_code for _ in range(times)]


def test_a_person_may_so_many_requests_a_minute(limited):
    headers = bearing(people.everyday().token())
    assert statuses(limited, headers, 8) == [200] * 5 + [429] * 3


def test_the_limit_is_a_persons_not_a_tokens_and_not_anothers(limited):
    subject = "c3b1d7a8-0000-4000-8000-" + secrets.token_hex(6)
    tokens = [people.everyday().token(sub=subject) for _ in range(6)]
    assert [limited.get(PATH, headers=bearing(token)).status_code for token in tokens] == [200] * 5 + [429]
    assert statuses(limited, bearing(people.everyday().token()), 1) == [200]


def test_machines_have_their_own_limit(limited):
    assert statuses(limited, bearing(people.everyday().api_key()), 9) == [200] * 7 + [429] * 2


def test_headers_say_what_is_left_and_when_to_try_again(limited):
    headers = bearing(people.everyday().token())
    first = limited.get(PATH, headers=headers).headers
    assert (first["ratelimit-limit"], first["ratelimit-remaining"]) == ("5", "4")
    assert 1 <= int(first["ratelimit-reset"]) <= 60
    statuses(limited, headers, 4)
    refused = limited.get(PATH, headers=headers)
    assert refused.json()["type"] == "urn:brigade:problem:too-many-requests"
    assert refused.headers["ratelimit-remaining"] == "0"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_log_ins_are_counted_by_address(limited):
    def log_in(address):
        return limited.post(LOGIN, json={}, headers={"X-Forwarded-For": address}).status_code

    one, other = (f"198.51.{random.randrange(256)}.{random.randrange(256)}" for _ in range(2))
    assert [log_in(f"10.0.0.1, {one}") for _ in range(5)][3:] == [429, 429]
    assert log_in(f"{one}, {other}") != 429  # what the client wrote itself is not believed
    network = f"2001:db8:{random.randrange(65536):x}:{random.randrange(65536):x}"
    assert [log_in(f"{network}::{n:x}") for n in range(1, 6)][3:] == [429, 429]  # one customer's network


def test_a_hundred_at_once_are_not_more_than_one_after_the_other(database_url):
    with serving(database_url, rate_people=100) as api:
        until_ready(api)
        token = people.everyday().token()
        found = []

        def ask():
            found.extend(statuses(api, bearing(token), 20))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found.count(200) == 100
        assert found.count(429) == 60


def test_health_and_pages_are_not_counted(limited):
    assert statuses(limited, {}, 10, "/health") == [200] * 10
    assert statuses(limited, {}, 10, "/api/v1/openapi.json") == [200] * 10


@pytest.fixture
def nothing_there():
    return "redis://127.0.0.1:1/0"


@pytest.fixture
def silent():
    """A Redis that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.mark.usefixtures("impatient_with_redis")
@pytest.mark.parametrize("redis_url", ["nothing_there", "silent"])
def test_without_redis_people_are_counted_by_the_process_and_log_ins_refused(database_url, request, redis_url):
    url = request.getfixturevalue(redis_url)
    with serving(database_url, redis_url=url, rate_people=5, rate_machines=2) as api:
        until_ready(api)
        assert statuses(api, bearing(people.everyday().token()), 7) == [200] * 5 + [429] * 2
        assert statuses(api, bearing(people.everyday().api_key()), 3) == [200] * 2 + [429]
        answer = api.post(LOGIN, json={})
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:brigade:problem:limits-away"
        assert int(answer.headers["retry-after"]) > 0
        began = time.monotonic()
        statuses(api, bearing(people.everyday().token()), 40)
        assert time.monotonic() - began < 40 * REDIS_SECONDS / 2  # it is not waited for each time


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 10))
def test_in_no_minute_more_than_the_limit(gaps, limit):
    alone, now, allowed = CountedAlone(), 0.0, []
    for gap in gaps:
        now += gap
        taken = alone.take("who", limit, now)
        assert taken.allowed == (sum(then > now - 60 for then in allowed) < limit)
        if taken.allowed:
            allowed.append(now)
        else:
            assert 1 <= taken.reset_seconds <= 60
