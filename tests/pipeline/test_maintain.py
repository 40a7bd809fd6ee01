import os
import subprocess
import sys
import threading
import time

import psycopg
import pytest
import structlog

from pipeline import maintain
from pipeline.maintain import Keeper, Maintenance, connect, locked
from pipeline.settings import MaintainSettings

FILL = """
INSERT INTO readings (ts, received_at, value, device_id, metric_id)
SELECT now() - days * INTERVAL '1 day', now(), days, 1, 1 FROM unnest(%(days)s::int[]) AS days;
"""
FILL_MINUTES = """
INSERT INTO readings_1m (bucket, n, sum, min, max, first, last, first_ts, last_ts, device_id, metric_id)
SELECT now() - days * INTERVAL '1 day', 1, 1, 1, 1, 1, 1, now(), now(), 1, 1 FROM unnest(%(days)s::int[]) AS days
"""
KEEP_FOR_GOOD = """
INSERT INTO readings_1h (bucket, n, sum, min, max, first, last, first_ts, last_ts, device_id, metric_id)
SELECT now() - INTERVAL '9 years', 1, 1, 1, 1, 1, 1, now(), now(), 1, 1;
INSERT INTO readings_1d SELECT * FROM readings_1h;
INSERT INTO ledger (hour, device_id, received, stored) VALUES (now() - INTERVAL '9 years', 1, 1, 1);
INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, kafka_partition,
                          kafka_offset, position)
VALUES (now() - INTERVAL '9 years', 'empty_payload', '', '', '', 0, 0, 0, 0)
"""


@pytest.fixture
def settings(database):
    return MaintainSettings(database_url=database, maintain_port=0, maintain_every_seconds=0.05)


@pytest.fixture
def connection(settings):
    with connect(settings.database_url.get_secret_value()) as connection:
        yield connection


def values(connection, query):
    return [value for (value,) in connection.execute(query)]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_what_is_older_than_its_retention_is_dropped_and_nothing_else(settings, connection):
    connection.execute(FILL, {"days": [0, 10, 88, 93, 400]})
    connection.execute(FILL_MINUTES, {"days": [0, 400, 720, 745, 2000]})
    connection.execute(KEEP_FOR_GOOD)
    with structlog.testing.capture_logs() as logged:
        Maintenance(settings).run(connection)
    assert values(connection, "SELECT value FROM readings ORDER BY value") == [0, 10, 88]
    assert values(connection, "SELECT (now()::date - bucket::date) FROM readings_1m ORDER BY 1") == [0, 400, 720]
    for table in ("readings_1h", "readings_1d", "ledger", "dead_letters"):
        assert values(connection, f"SELECT count(*) FROM {table}") == [1], table
    assert [(line["table"], line["chunks"]) for line in logged if line["event"] == "chunks_dropped"] == [
        ("readings", 2),
        ("readings_1m", 2),
    ]


def test_the_apache_edition_is_told_once_that_it_cannot_compress(settings, connection):
    if values(connection, "SHOW timescaledb.license") != ["apache"]:
        pytest.skip("this is the community edition")
    connection.execute(FILL, {"days": [50]})
    maintenance = Maintenance(settings)
    with structlog.testing.capture_logs() as logged:
        maintenance.run(connection)
        maintenance.run(connection)
    assert [(line["event"], line["log_level"]) for line in logged] == [("compression_skipped", "info")]
    assert values(connection, "SELECT value FROM readings") == [50]


def test_a_second_process_waits_until_the_first_is_gone(settings):
    url = settings.database_url.get_secret_value()
    keeper = Keeper(settings)
    runs = maintain.RUNS._value.get()
    with structlog.testing.capture_logs() as logged:
        with connect(url) as first:
            assert locked(first)
            thread = threading.Thread(target=keeper.keep)
            keeper._pause = lambda _: time.sleep(0.02)
            thread.start()
            until(lambda: logged)
            assert keeper.ready() is True
            assert maintain.RUNS._value.get() == runs
        until(lambda: maintain.RUNS._value.get() >= runs + 2)
        keeper.stop()
        thread.join()
    assert logged[0]["event"] == "waiting"


def test_an_outage_is_waited_out_and_said_once(settings, postgres):
    keeper = Keeper(settings)
    keeper._pause = lambda _: time.sleep(0.02)
    thread = threading.Thread(target=keeper.keep)
    runs, failures = maintain.RUNS._value.get(), maintain.FAILURES._value.get()
    with structlog.testing.capture_logs() as logged, psycopg.connect(postgres, autocommit=True) as admin:
        thread.start()
        until(lambda: maintain.RUNS._value.get() > runs)
        name = psycopg.conninfo.conninfo_to_dict(settings.database_url.get_secret_value())["dbname"]
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'brigade-maintain'"
            " AND datname = %s",
            (name,),
        )
        until(lambda: maintain.FAILURES._value.get() >= failures + 4)
        assert isinstance(keeper.ready(), str)
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        runs = maintain.RUNS._value.get()
        until(lambda: maintain.RUNS._value.get() > runs)
        assert keeper.ready() is True
        keeper.stop()
        thread.join()
    assert 1 <= len([line for line in logged if line["event"] == "database_away"]) <= 2  # the cut, then the refusal


def run_once(url, **environment):
    return subprocess.run(
        [sys.executable, "-m", "pipeline.maintain", "--once"],
        env={**os.environ, "BRIGADE_DATABASE_URL": url, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_once_runs_and_ends(settings, connection):
    connection.execute(FILL, {"days": [0, 100]})
    done = run_once(settings.database_url.get_secret_value())
    assert done.returncode == 0, done.stderr
    assert values(connection, "SELECT value FROM readings") == [0]


def test_once_says_when_another_process_has_the_lock(settings, connection):
    assert locked(connection)
    done = run_once(settings.database_url.get_secret_value())
    assert (done.returncode, done.stderr) == (1, "another process maintains this database: nothing was done\n")


def test_a_database_without_tables_is_told_what_it_lacks(empty_database):
    done = run_once(empty_database)
    assert done.returncode == 1
    assert "brigade migrate" in done.stderr


def test_a_retention_that_forgets_late_rows_is_refused(settings):
    done = run_once(settings.database_url.get_secret_value(), BRIGADE_RAW_RETENTION_DAYS="30")
    assert done.returncode == 2
    assert "BRIGADE_PAST_LIMIT_DAYS must be less than BRIGADE_RAW_RETENTION_DAYS" in done.stderr
