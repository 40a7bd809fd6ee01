"""The database or Redis away, silent, and back."""

import secrets
import time
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.rows import dict_row

from deploy.local.ready import wait_until
from tests.conftest import disconnect, execute
from tests.gateway.test_outage import Proxy
from tests.users.conftest import Who, World, refused, serving
from users.migrate import migrate

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def users_database(postgres, empty_database):
    """Of one test alone: everybody who is connected loses it."""
    migrate(empty_database)
    return empty_database


@pytest.fixture
def world(users_database):
    with psycopg.connect(users_database, autocommit=True, row_factory=dict_row) as connection:
        yield World(connection)


def nobody():
    return f"{secrets.token_hex(6)}@example.com"


def away(answer, kind):
    refused(answer, 503, kind)
    assert int(answer.headers["retry-after"]) > 0


def test_without_a_database_it_starts_and_says_so(redis_url, mails):
    with serving(NOWHERE, redis_url, mails, pool_wait_seconds=0.3) as api:
        away(api.http.get("/health"), "away")
        away(api.http.get("/.well-known/jwks.json"), "database-away")
        away(api.log_in(nobody(), "x"), "database-away")
        away(api("POST", "/auth/password/forgot", json={"email": nobody()}), "database-away")
        away(api("POST", "/internal/keys/exchange", json={"key": "bk_AAAAAAAA_" + "A" * 43}), "database-away")
        assert api.http.get("/openapi.json").status_code == 200


def test_without_redis_nobody_gets_in_but_keys_do(users_database, mails, world, person, organisation, site):
    _, secret = world.key(organisation, "read", site)
    with serving(users_database, "redis://127.0.0.1:1/0", mails) as api:
        away(api.http.get("/health"), "away")
        away(api.log_in(person["email"]), "sessions-away")
        away(api("POST", "/auth/password/forgot", json={"email": nobody()}), "sessions-away")
        who = Who.of(api("POST", "/internal/keys/exchange", json={"key": secret}))
        assert api("GET", "/sites", who).status_code == 200
        assert api.http.get("/.well-known/jwks.json").status_code == 200


def test_a_database_without_tables_is_said_so(empty_database, redis_url, mails):
    with serving(empty_database, redis_url, mails) as api:
        answer = api.log_in(nobody(), "x")
        away(answer, "database-away")
        assert "brigade users migrate" in answer.json()["detail"]


def test_it_comes_back_by_itself_and_the_refresh_token_is_still_good(
    postgres, users_database, redis_url, mails, person, monkeypatch
):
    name = urlsplit(users_database).path[1:]
    with serving(users_database, redis_url, mails, pool_wait_seconds=0.5) as api:
        api.until_ready()
        monkeypatch.setattr(api.app.state.resources.sessions, "_grace", timedelta(milliseconds=-1))
        who = Who.of(api.log_in(person["email"]))
        execute(postgres, "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
        try:
            disconnect(postgres, name)
            away(api.refresh(who.refresh_token), "database-away")
            away(api("GET", "/me", who), "database-away")
            assert api.http.get("/.well-known/jwks.json").status_code == 200
        finally:
            execute(postgres, "ALTER DATABASE {} ALLOW_CONNECTIONS true", name)
        api.until_ready()
        answers = []

        def heard():  # the pool's other connections may need a moment longer than the one that `/health` took
            answers.append(api.refresh(who.refresh_token))
            return answers[-1].status_code != 503

        assert wait_until(heard, 60)
        assert answers[-1].status_code == 200


def test_connections_that_died_are_not_the_next_calls_fault(postgres, users_database, redis_url, mails, person):
    with serving(users_database, redis_url, mails, pool_wait_seconds=10) as api:  # how quickly is not asked here
        api.until_ready()
        disconnect(postgres, urlsplit(users_database).path[1:])
        assert api.log_in(person["email"]).status_code == 200


@pytest.mark.parametrize("silent", ["database", "redis"])
def test_a_silent_server_is_an_answer_within_three_seconds(users_database, redis_url, mails, person, silent):
    addresses = {"database": urlsplit(users_database), "redis": urlsplit(redis_url)}
    there = addresses[silent]
    with Proxy(there.hostname, there.port) as proxy:
        through = there._replace(netloc=there.netloc.replace(f":{there.port}", f":{proxy.port}")).geturl()
        urls = {"database": users_database, "redis": redis_url} | {silent: through}
        with serving(urls["database"], urls["redis"], mails) as api:
            api.until_ready()
            who = Who.of(api.log_in(person["email"]))
            proxy.flow(False)
            began = time.monotonic()
            answer = api("GET", "/me", who)
            assert time.monotonic() - began < 3
            away(answer, "database-away" if silent == "database" else "sessions-away")
            proxy.flow(True)
            api.until_ready()
            assert api("GET", "/me", who).status_code == 200
