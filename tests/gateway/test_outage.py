"""The database away, slow, silent, and back."""

import asyncio
import threading
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest

from gateway import series
from tests.conftest import disconnect, execute
from tests.gateway.conftest import gateway_url, serving, until_ready

QUERY = "/api/v1/readings?device=fridge-1"


def away(answer):
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"] == "urn:brigade:problem:database-away"
    assert int(answer.headers["retry-after"]) > 0


def test_without_a_database_it_starts_and_says_so():
    with serving("postgresql://nobody@127.0.0.1:1/none", pool_wait_seconds=0.3) as api:
        away(api.get("/health"))
        away(api.get(QUERY))
        away(api.get("/api/v1/devices"))
        away(api.post("/api/v1/dead-letters/1/replay"))
        assert api.get("/api/v1/openapi.json").status_code == 200


def test_a_database_without_tables_is_said_so(postgres, empty_database):
    with serving(empty_database) as api:
        answer = api.get("/api/v1/devices")
        away(answer)
        assert "brigade migrate" in answer.json()["detail"]


def test_it_comes_back_by_itself(postgres, database, role):
    name = urlsplit(database).path[1:]
    with serving(gateway_url(postgres, name, role), pool_wait_seconds=0.5) as api:
        until_ready(api)
        execute(postgres, "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
        disconnect(postgres, name)
        away(api.get("/api/v1/devices"))
        execute(postgres, "ALTER DATABASE {} ALLOW_CONNECTIONS true", name)
        until_ready(api)
        assert api.get("/api/v1/devices").status_code == 200


def test_connections_that_died_are_not_the_next_requests_fault(postgres, database, role):
    name = urlsplit(database).path[1:]
    with serving(gateway_url(postgres, name, role)) as api:
        until_ready(api)
        disconnect(postgres, name)
        assert api.get("/api/v1/devices").status_code == 200


def test_a_query_beyond_the_timeout_says_how_to_ask_for_less(postgres, restaurant, role, monkeypatch):
    monkeypatch.setitem(series.BUCKETS, ("1h", "1h"), "SELECT pg_sleep(30)")
    with serving(gateway_url(postgres, urlsplit(restaurant).path[1:], role), statement_timeout_seconds=0.2) as api:
        until_ready(api)
        answer = api.get(QUERY + "&bucket=1h")
        assert answer.status_code == 504
        assert "coarser bucket" in answer.json()["detail"]
        assert api.get(QUERY).status_code == 200


class Proxy:
    """Passes bytes to the database until it is told to be silent."""

    def __init__(self, host, port):
        self._target = host, port
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self.flow(True)
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def flow(self, flows):
        self._loop.call_soon_threadsafe(self._flowing.set if flows else self._flowing.clear)

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _stop(self):
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader, writer):
        there, back = await asyncio.open_connection(*self._target)
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        except OSError:
            pass
        finally:
            writer.close()
            back.close()

    async def _pass(self, reader, writer):
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@contextmanager
def behind_a_proxy(postgres, restaurant, role):
    url = urlsplit(gateway_url(postgres, urlsplit(restaurant).path[1:], role))
    with Proxy(url.hostname, url.port) as proxy:
        through = urlunsplit(url._replace(netloc=f"{role}:secret@127.0.0.1:{proxy.port}"))
        with serving(through, pool_wait_seconds=0.5, statement_timeout_seconds=0.5) as api:
            until_ready(api)
            yield proxy, api


@pytest.mark.parametrize("path", [QUERY, "/api/v1/devices"])
def test_a_silent_database_is_an_answer_too(postgres, restaurant, role, path):
    with behind_a_proxy(postgres, restaurant, role) as (proxy, api):
        proxy.flow(False)
        away(api.get(path))
        proxy.flow(True)
        until_ready(api)
        assert api.get(path).status_code == 200


LONG = "/api/v1/readings?device=fridge-1&bucket=raw&format=csv&from=2000-01-01T00:00:00Z"


@pytest.fixture
def long_series(scratch):
    """More than the sockets between server and client hold: a stream that is still being read."""
    scratch.execute("INSERT INTO sites (name) VALUES ('seoul-1')")
    scratch.execute("INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1)")
    scratch.execute("INSERT INTO metrics (name) VALUES ('temperature_c')")
    scratch.execute("INSERT INTO device_metrics VALUES (1, 1)")
    scratch.execute(
        "INSERT INTO readings SELECT ts, ts, 5, NULL, 1, 1 "
        "FROM generate_series(now() - INTERVAL '2 days', now(), INTERVAL '1 s') ts"
    )


def test_a_stream_the_database_leaves_ends_in_the_middle(long_series, scratch_database, scratch_api):
    name = urlsplit(scratch_database).path[1:]
    with scratch_api.stream("GET", LONG) as answer:
        assert answer.status_code == 200
        parts = answer.iter_raw()
        next(parts)
        with psycopg.connect(scratch_database, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = %s AND pid <> pg_backend_pid()",
                (name,),
            )
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)
    until_ready(scratch_api)


def test_clients_that_take_nothing_lose_their_answer_and_leave_room_for_others(
    long_series, postgres, scratch_database, role
):
    name = urlsplit(scratch_database).path[1:]
    with (
        serving(gateway_url(postgres, name, role), pool_size=2, pool_wait_seconds=0.5, stalled_client_seconds=1) as api,
        ExitStack() as stack,
    ):
        until_ready(api)
        stalled = stack.enter_context(api.stream("GET", LONG))
        assert api.get("/api/v1/devices").status_code == 200  # one connection is left to short queries
        away(api.get(LONG))  # streams have no room
        until_streams(api)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):  # or the kernel ended it first
            stalled.read()


def until_streams(api):
    deadline = time.monotonic() + 60
    while api.get(f"{QUERY}&bucket=raw&limit=1").status_code != 200:
        assert time.monotonic() < deadline


def test_the_gateway_may_write_nothing_but_replays_names_and_moves(postgres, restaurant, role):
    with psycopg.connect(gateway_url(postgres, urlsplit(restaurant).path[1:], role), autocommit=True) as connection:
        for statement in (
            "DELETE FROM readings", "UPDATE sites SET name = 'x'", "UPDATE devices SET name = 'x'",
            "DELETE FROM sites", "UPDATE dead_letters SET resolved = true",
            "DELETE FROM dead_letters", "UPDATE ledger SET late = 0", "CREATE TABLE x ()", "DELETE FROM marks",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
