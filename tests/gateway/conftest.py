"""A restaurant in a database of its own, and the gateway as a real server on it, with the rights it will have."""

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from jwt import api_jwt

from gateway import api_keys, redis_script, tokens
from gateway.app import create, server
from gateway.settings import GatewaySettings
from tests.conftest import drop, execute, with_database
from tests.gateway import people

REDIS_SECONDS = redis_script.TIMEOUT_SECONDS
NOW = datetime.now(UTC)
HOUR = NOW.replace(minute=0, second=0, microsecond=0)
START = HOUR - timedelta(hours=60)

ROLL_UPS = """
INSERT INTO readings_1m
SELECT date_trunc('minute', ts), count(*), sum(value), min(value), max(value), first(value, ts), last(value, ts),
       min(ts), max(ts), device_id, metric_id
FROM readings GROUP BY date_trunc('minute', ts), device_id, metric_id;
INSERT INTO readings_1h
SELECT date_trunc('hour', bucket, 'UTC'), sum(n), sum(sum), min(min), max(max), first(first, first_ts),
       last(last, last_ts), min(first_ts), max(last_ts), device_id, metric_id
FROM readings_1m GROUP BY date_trunc('hour', bucket, 'UTC'), device_id, metric_id;
INSERT INTO readings_1d
SELECT local_day(bucket, s.time_zone), sum(n), sum(sum), min(min), max(max), first(first, first_ts),
       last(last, last_ts), min(first_ts), max(last_ts), device_id, metric_id
FROM readings_1m r JOIN devices d ON d.id = r.device_id JOIN sites s ON s.id = d.site_id
GROUP BY local_day(bucket, s.time_zone), device_id, metric_id;
"""

RESTAURANT = """
INSERT INTO sites (name, display_name, time_zone) VALUES
    ('seoul-1', 'Seoul, the first', 'Asia/Seoul'), ('paris-1', NULL, 'Europe/Paris');
INSERT INTO devices (name, display_name, site_id) VALUES
    ('fridge-1', 'Fridge by the door', 1), ('fridge-2', NULL, 1), ('new-1', NULL, 1),
    ('oven-1', NULL, 2), ('oven-2', NULL, 2), ('oven-3', NULL, 2);
INSERT INTO metrics (name, unit, lower_bound, upper_bound) VALUES
    ('temperature_c', '°C', -5, 8), ('humidity_pct', '%%', NULL, NULL), ('door_open', NULL, NULL, NULL);
INSERT INTO device_metrics SELECT d, m FROM unnest(ARRAY[1, 2, 4, 5, 6]) d, generate_series(1, 2) m;
INSERT INTO device_metrics VALUES (1, 3);
INSERT INTO readings (ts, received_at, value, seq, device_id, metric_id)
SELECT ts, ts + INTERVAL '0.2 s', 4 + 3 * sin(extract(epoch FROM ts) / 600), row_number() OVER (ORDER BY ts), d, m
FROM generate_series(%(start)s::timestamptz, %(now)s, INTERVAL '90 s') ts,
    unnest(ARRAY[1, 2]) d, generate_series(1, 2) m;
UPDATE readings SET value = 60 WHERE device_id = 1 AND metric_id = 1 AND ts = %(start)s::timestamptz + INTERVAL '30 h';
DELETE FROM readings WHERE device_id = 1 AND metric_id = 2
    AND ts >= %(start)s::timestamptz + INTERVAL '20 h' AND ts < %(start)s::timestamptz + INTERVAL '25 h';
"""


EMPTY = """
TRUNCATE sites, devices, metrics, device_metrics, readings, readings_1m, readings_1h, readings_1d, marks, ledger,
    ledger_refusals, ledger_pending, dead_letters, device_status RESTART IDENTITY CASCADE
"""


def gateway_url(postgres: str, database: str, role: str) -> str:
    host = urlsplit(postgres).netloc.rpartition("@")[2]
    return with_database(urlunsplit(urlsplit(postgres)._replace(netloc=f"{role}:secret@{host}")), database)


@pytest.fixture(scope="session")
def role(migrated: str, postgres: str) -> Iterator[str]:
    """A login role that may what the gateway may."""
    name = f"test_gateway_{secrets.token_hex(4)}"
    execute(postgres, "CREATE ROLE {} LOGIN PASSWORD 'secret' IN ROLE brigade_gateway", name)
    yield name
    execute(postgres, "DROP ROLE {}", name)


@pytest.fixture(scope="session")
def restaurant(postgres: str, migrated: str) -> Iterator[str]:
    """The superuser's URL of a database with three days of readings. Tests leave it as it is."""
    name = f"test_{secrets.token_hex(4)}"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    url = with_database(postgres, name)
    with psycopg.connect(url) as connection:
        psycopg.ClientCursor(connection).execute(RESTAURANT, {"start": START, "now": NOW})
        connection.execute(ROLL_UPS)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    yield url
    drop(postgres, name)


@pytest.fixture(scope="session", autouse=True)
def patient_with_redis() -> Iterator[None]:
    """A busy machine's Redis may be late, and then log-ins are refused; that is tested where it is meant."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(redis_script, "TIMEOUT_SECONDS", 30)
        yield


@pytest.fixture
def impatient_with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_script, "TIMEOUT_SECONDS", REDIS_SECONDS)


class Clock:
    """By which the gateway judges tokens: stands still, and goes on when it is told."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(clock.now, tz)

    monkeypatch.setattr(api_jwt, "datetime", Stopped)
    monkeypatch.setattr(tokens, "time", clock)
    monkeypatch.setattr(api_keys, "time", clock)
    return clock


class Served:
    """A gateway on a port of its own, in a thread."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.app = create(settings)
        self._server = server(self.app, settings)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> httpx.Client:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the gateway did not start"
            self._thread.join(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self.client.app = self.app
        self.client.server = self._server
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()


@contextmanager
def serving(database_url: str, users: people.FakeUsers | None = None, **settings: object) -> Iterator[httpx.Client]:
    """A client that bears an owner's token, of a gateway without limits to speak of."""
    users = users or people.everyday()
    usual = {
        "metrics_port": 0,
        "port": 0,
        "users_url": users.url,
        "internal_secret": people.SECRET,
        "redis_url": f"redis://{os.environ.get('BRIGADE_TEST_REDIS', '127.0.0.1:1')}/0",
        "rate_people": 1_000_000,
        "rate_machines": 1_000_000,
        "rate_login": 1_000_000,
    }
    with Served(GatewaySettings(database_url=database_url, **{**usual, **settings})) as client:
        client.headers.update(people.bearing(users.token()))
        yield client


@pytest.fixture(scope="session")
def api(postgres: str, restaurant: str, role: str) -> Iterator[httpx.Client]:
    """The gateway of the restaurant, ready."""
    with serving(gateway_url(postgres, urlsplit(restaurant).path[1:], role)) as client:
        until_ready(client)
        yield client


@pytest.fixture(scope="session")
def scratch_database(postgres: str, migrated: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(4)}"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    yield with_database(postgres, name)
    drop(postgres, name)


@pytest.fixture(scope="session")
def scratch_api(postgres: str, scratch_database: str, role: str) -> Iterator[httpx.Client]:
    with serving(gateway_url(postgres, urlsplit(scratch_database).path[1:], role)) as client:
        until_ready(client)
        yield client


@pytest.fixture
def scratch(scratch_database: str, scratch_api: httpx.Client) -> Iterator[psycopg.Connection]:
    """The superuser's connection to empty tables, for a test to fill; `scratch_api` answers from them."""
    with psycopg.connect(scratch_database, autocommit=True) as connection:
        connection.execute(EMPTY)
        scratch_api.app.state.directory.forget()
        yield connection


def until_ready(client: httpx.Client) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    while (answer := client.get("/health")).status_code != 200:
        assert datetime.now(UTC) < deadline, answer.text
