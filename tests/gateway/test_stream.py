"""The live stream over HTTP: what comes, to whom, for how long."""

import asyncio
import json
import socket
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from structlog.testing import CapturingLogger

from deploy.local.ready import wait_until
from gateway import problems
from tests.gateway import people
from tests.gateway.conftest import gateway_url, serving, until_ready
from tests.gateway.people import bearing

PATH = "/api/v1/stream"

FLOOR = """
INSERT INTO sites (name) VALUES ('mine'), ('yours'), ('empty');
INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1), ('fridge-2', 1), ('oven-1', 2);
INSERT INTO metrics (name, unit, upper_bound) VALUES ('temperature_c', '°C', 8);
INSERT INTO device_metrics SELECT d, 1 FROM generate_series(1, 3) d;
INSERT INTO readings SELECT now() - INTERVAL '1 min', now(), 4, NULL, d, 1 FROM generate_series(1, 3) d;
"""
READING = "INSERT INTO readings VALUES (clock_timestamp(), clock_timestamp(), %s, NULL, %s, 1)"


@pytest.fixture
def floor(scratch):
    scratch.execute(FLOOR)
    return scratch


class Listening:
    def __init__(self, answer):
        self.answer = answer
        self._lines = answer.iter_lines()

    def event(self):
        kind, data = "", ""
        for line in self._lines:
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = line.removeprefix("data: ")
            elif line == "" and data:
                return kind, json.loads(data)
        return None


@contextmanager
def listening(api, sites, query="", **claims):
    headers = bearing(people.everyday().token(sites, **claims))
    with api.stream("GET", f"{PATH}{query}", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield Listening(answer)


def devices(event):
    return {value["device"] for value in event[1]["latest"]}


def test_the_state_first_then_what_changes(floor, scratch_api):
    with listening(scratch_api, {"mine": "staff"}) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        assert stream.answer.headers["cache-control"] == "no-store"
        kind, state = stream.event()
        assert kind == "state"
        assert {value["device"] for value in state["latest"]} == {"fridge-1", "fridge-2"}
        assert {status["device"]: status["online"] for status in state["status"]} == {
            "fridge-1": True,
            "fridge-2": True,
        }
        assert set(state["latest"][0]) == {
            "device", "site", "metric", "unit", "ts", "value", "received_at", "out_of_bounds",
        }  # fmt: skip
        published = time.monotonic()
        floor.execute(READING, (9.5, 1))
        kind, change = stream.event()
        assert time.monotonic() - published < 2
        assert kind == "change"
        assert [(v["device"], v["value"], v["out_of_bounds"]) for v in change["latest"]] == [("fridge-1", 9.5, True)]
        floor.execute("INSERT INTO device_status VALUES (2, false, clock_timestamp())")
        change = stream.event()[1]
        assert change["latest"] == []
        assert [(s["device"], s["online"]) for s in change["status"]] == [("fridge-2", False)]


@pytest.mark.parametrize(
    ("sites", "query", "told"),
    [
        ({"mine": "staff"}, "?site=mine", {"fridge-1", "fridge-2"}),
        ({"mine": "staff", "yours": "reader"}, "", {"fridge-1", "fridge-2", "oven-1"}),
        ({"mine": "staff", "yours": "reader"}, "?site=mine&site=yours", {"fridge-1", "fridge-2", "oven-1"}),
        ({"mine": "staff", "yours": "reader"}, "?site=mine,yours", {"fridge-1", "fridge-2", "oven-1"}),
        ({"mine": "staff", "yours": "reader"}, "?site=yours", {"oven-1"}),
        ({"empty": "owner"}, "", set()),
        ({"not-there-yet": "owner"}, "", set()),
    ],
)
def test_the_sites_that_are_asked_for_and_ones_own(floor, scratch_api, sites, query, told):
    with listening(scratch_api, sites, query) as stream:
        assert devices(stream.event()) == told


@pytest.mark.parametrize(
    ("sites", "query", "status"),
    [
        ({"mine": "staff"}, "?site=yours", 404),
        ({"mine": "staff"}, "?site=mine&site=yours", 404),
        ({}, "", 403),
        ({"mine": "cook"}, "", 403),
        ({"mine": "staff"}, "?sites=mine", 422),
        ({"mine": "staff"}, "?site=" + "x," * 200, 422),
    ],
)
def test_what_is_not_ones_own_is_refused(floor, scratch_api, sites, query, status):
    answer = scratch_api.get(f"{PATH}{query}", headers=bearing(people.everyday().token(sites)))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_it_ends_when_the_token_expires(floor, scratch_api):
    expires = int(time.time()) + 4
    with listening(scratch_api, {"mine": "staff"}, exp=expires) as stream:
        assert stream.event()
        assert stream.event() is None
        assert expires - 0.5 < time.time() < expires + 3


def test_one_person_has_so_many_streams_and_gets_them_back(postgres, floor, scratch_database, role):
    with serving(gateway_url(postgres, urlsplit(scratch_database).path[1:], role), streams=2) as api:
        until_ready(api)
        headers = bearing(people.everyday().token({"mine": "staff"}, sub="one"))
        with listening(api, {"mine": "staff"}, sub="one") as first, listening(api, {"mine": "staff"}, sub="one"):
            assert first.event()
            assert api.get(PATH, headers=headers).status_code == 429
            with listening(api, {"mine": "staff"}, sub="another") as other:
                assert other.event()
        deadline = time.monotonic() + 5
        while True:
            with api.stream("GET", PATH, headers=headers) as answer:
                if answer.status_code == 200:
                    break
            assert time.monotonic() < deadline


def test_the_database_away_is_told_at_the_beginning(scratch_database):
    with serving("postgresql://nobody@127.0.0.1:1/none", pool_wait_seconds=0.3) as api:
        answer = api.get(PATH)
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:brigade:problem:database-away"


def test_a_stream_outlives_the_database(postgres, floor, scratch_database, scratch_api):
    with listening(scratch_api, {"mine": "staff"}) as stream:
        assert stream.event()
        with psycopg.connect(scratch_database, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND usename LIKE 'test_gateway%'"
            )
        floor.execute(READING, (5.5, 1))
        assert stream.event()[1]["latest"][0]["value"] == 5.5


def test_a_server_that_ends_lets_its_streams_go(postgres, floor, scratch_database, role):
    with serving(gateway_url(postgres, urlsplit(scratch_database).path[1:], role)) as api:
        until_ready(api)
        with listening(api, {"mine": "staff"}) as stream:
            assert stream.event()
            began = time.monotonic()
            api.server.should_exit = True
            assert stream.event() is None
            assert time.monotonic() - began < 3


def test_who_leaves_before_the_first_event_is_no_fault_of_ours(
    postgres, floor, scratch_database, scratch_api, monkeypatch
):
    faults = CapturingLogger()
    monkeypatch.setattr(problems, "log", faults)
    token = people.everyday().token({"mine": "staff"})
    base = urlsplit(str(scratch_api.base_url))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(scratch_database) as blocker:
        blocker.execute("LOCK TABLE device_status IN ACCESS EXCLUSIVE MODE")
        with socket.create_connection((base.hostname, base.port)) as leaving:
            leaving.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            assert wait_until(lambda: floor.execute(waiting).fetchone() == (1,), 30)
        assert scratch_api.get("/api/v1/openapi.json").status_code == 200  # by now it has seen the client leave
    assert wait_until(lambda: listeners(scratch_api) == 0, 30)
    assert scratch_api.get("/health").status_code == 200
    assert faults.calls == []


CROWD = """
INSERT INTO sites (name) VALUES ('mine');
INSERT INTO devices (name, site_id) SELECT 'fridge-' || g, 1 FROM generate_series(1, 300) g;
INSERT INTO metrics (name) VALUES ('temperature_c'), ('humidity_pct');
INSERT INTO device_metrics SELECT d, m FROM generate_series(1, 300) d, generate_series(1, 2) m;
INSERT INTO readings SELECT now() - INTERVAL '1 min', now(), 4, NULL, d, m
FROM generate_series(1, 300) d, generate_series(1, 2) m;
"""


def test_a_client_that_takes_nothing_is_dropped_and_the_others_are_not(postgres, scratch, scratch_database, role):
    scratch.execute(CROWD)
    with serving(gateway_url(postgres, urlsplit(scratch_database).path[1:], role), stalled_stream_seconds=2) as api:
        until_ready(api)
        token = people.everyday().token({"mine": "staff"})
        base = urlsplit(str(api.base_url))
        with socket.socket() as deaf, listening(api, {"mine": "staff"}) as well:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((base.hostname, base.port))
            deaf.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            assert well.event()
            deadline = time.monotonic() + 30
            while True:
                scratch.execute("UPDATE readings SET received_at = clock_timestamp()")
                assert well.event()
                if listeners(api) == 1:
                    break
                assert time.monotonic() < deadline


def listeners(api):
    text = httpx.get(f"http://127.0.0.1:{api.app.state.metrics_port}/metrics").text
    return sum(api.app.state.feed._counts.values()) if text else 0


@pytest.mark.slow
def test_five_hundred_listen_at_once(postgres, floor, scratch_database, role):
    with serving(gateway_url(postgres, urlsplit(scratch_database).path[1:], role), streams=500) as api:
        until_ready(api)
        assert asyncio.run(_crowd(api, floor)) == 500


async def _crowd(api, floor):
    base = urlsplit(str(api.base_url))
    token = people.everyday().token({"mine": "staff"})
    request = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()

    async def listen(everyone):
        reader, writer = await asyncio.open_connection(base.hostname, base.port)
        writer.write(request)
        await reader.readuntil(b"event: state")
        await everyone.wait()
        await reader.readuntil(b'"value":7.25')
        writer.close()
        return 1

    everyone = asyncio.Barrier(501)
    async with asyncio.timeout(60):
        crowd = [asyncio.create_task(listen(everyone)) for _ in range(500)]
        await everyone.wait()
        began = time.monotonic()
        floor.execute(READING, (7.25, 1))
        heard = sum(await asyncio.gather(*crowd))
        assert time.monotonic() - began < 4
        return heard
