from datetime import UTC, datetime

import psycopg
import pytest

from pipeline.packs import partition_of
from pipeline.sites import change_zone, count_days_again, must_count_days

PARTITIONS = 3
HOUR = """
INSERT INTO {} (bucket, n, sum, min, max, first, last, first_ts, last_ts, device_id, metric_id)
VALUES (%s, 1, 1, 1, 1, 1, 1, now(), now(), %s, 1)
"""


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


@pytest.fixture
def connection(database):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute("INSERT INTO sites (name, time_zone) VALUES ('seoul-1', 'UTC'), ('busan', 'Asia/Seoul')")
        connection.execute("INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1), ('oven-2', 1), ('door-3', 2)")
        yield connection


def closed(connection, table, bucket, device=1):
    connection.execute(psycopg.sql.SQL(HOUR).format(psycopg.sql.Identifier(table)), (bucket, device))


def days(connection):
    return [bucket for (bucket,) in connection.execute("SELECT bucket FROM readings_1d ORDER BY bucket")]


def marked(connection):
    return connection.execute("SELECT device_id, bucket, partition, level FROM marks ORDER BY 1, 2").fetchall()


def count_again(connection, zone):
    with connection.transaction():
        change_zone(connection, 1, zone)
        return count_days_again(connection, [(1, "fridge-1"), (2, "oven-2")], zone, partitions=PARTITIONS)


def test_days_are_counted_again_as_the_new_zone_begins_them(connection):
    closed(connection, "readings_1d", utc(2026, 5, 2))
    assert count_again(connection, "Asia/Seoul") == 2
    fridge = partition_of("fridge-1", PARTITIONS)
    assert days(connection) == []
    assert marked(connection) == [
        (1, utc(2026, 5, 1, 15), fridge, 2),
        (1, utc(2026, 5, 2, 15), fridge, 2),
    ]


def test_a_day_marked_under_the_old_zone_is_marked_under_the_new_one(connection):
    connection.execute("INSERT INTO marks VALUES (%s, 2, 2, 2)", (utc(2026, 5, 2),))
    count_again(connection, "Asia/Seoul")
    oven = partition_of("oven-2", PARTITIONS)
    assert marked(connection) == [(2, utc(2026, 5, 1, 15), oven, 2), (2, utc(2026, 5, 2, 15), oven, 2)]


def test_a_zone_that_the_database_does_not_know_is_refused(connection):
    must_count_days(connection, "Asia/Seoul")
    with pytest.raises(SystemExit, match="does not know the time zone US/Nowhere"):
        must_count_days(connection, "US/Nowhere")


def test_no_site_has_a_zone_in_which_the_workers_could_not_count(connection):
    for statement in ("UPDATE sites SET time_zone = %s", "INSERT INTO sites (name, time_zone) VALUES ('x', %s)"):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            connection.execute(statement, ("Mars/Olympus",))


def test_minutes_and_hours_to_be_closed_stay_marked(connection):
    connection.execute("INSERT INTO marks VALUES (%s, 2, 1, 0), (%s, 2, 1, 1)", (utc(2026, 5, 2), utc(2026, 5, 2)))
    count_again(connection, "Asia/Seoul")
    assert marked(connection) == [(1, utc(2026, 5, 2), 2, 0), (1, utc(2026, 5, 2), 2, 1)]


def test_another_sites_days_stay(connection):
    closed(connection, "readings_1d", utc(2026, 5, 1, 15), device=3)
    count_again(connection, "Asia/Tokyo")
    assert days(connection) == [utc(2026, 5, 1, 15)]
    assert marked(connection) == []


def test_a_day_of_25_hours_becomes_all_the_days_it_touched(connection):
    closed(connection, "readings_1d", utc(2026, 10, 24, 22))  # Berlin's, when its clocks went back
    connection.execute("UPDATE sites SET time_zone = 'Europe/Berlin' WHERE id = 1")
    count_again(connection, "UTC")
    assert [bucket for _, bucket, _, _ in marked(connection)] == [utc(2026, 10, 24), utc(2026, 10, 25)]


def test_days_whose_minutes_retention_dropped_stay_as_they_were_counted(connection):
    """The hours tell: they are kept for good."""
    closed(connection, "readings_1h", utc(2020, 1, 1))
    closed(connection, "readings_1d", utc(2020, 1, 1))
    closed(connection, "readings_1m", utc(2026, 5, 20))
    closed(connection, "readings_1d", utc(2026, 5, 20))
    count_again(connection, "Asia/Seoul")
    assert days(connection) == [utc(2020, 1, 1)]
    assert {bucket.year for _, bucket, _, _ in marked(connection)} == {2026}


def settings(topics, database):
    return {
        "BRIGADE_DATABASE_URL": database,
        "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": topics.settings.kafka_bootstrap_servers,
        "BRIGADE_TOPIC_PREFIX": topics.settings.topic_prefix,
    }


def test_the_command_asks_kafka_for_the_partitions(connection, brigade, topics, database):
    closed(connection, "readings_1d", utc(2026, 5, 2))
    done = brigade("sites", "set", "seoul-1", "--time-zone", "Asia/Seoul", **settings(topics, database))
    assert (done.returncode, done.stdout) == (0, "2 days of 2 devices are being counted again\n"), done.stderr
    assert {partition for _, _, partition, _ in marked(connection)} == {partition_of("fridge-1", 3)}
    assert connection.execute("SELECT time_zone FROM sites WHERE name = 'seoul-1'").fetchone() == ("Asia/Seoul",)


def test_without_kafka_the_zone_stays(connection, brigade, database, monkeypatch):
    monkeypatch.setattr("pipeline.topics._SECONDS", 0.5)
    done = brigade(
        *("sites", "set", "seoul-1", "--time-zone", "Asia/Seoul"),
        BRIGADE_DATABASE_URL=database,
        BRIGADE_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
    )
    assert done.returncode == 1
    assert "Kafka does not answer" in done.stderr
    assert connection.execute("SELECT time_zone FROM sites WHERE name = 'seoul-1'").fetchone() == ("UTC",)


def test_a_device_moves_and_its_days_follow_the_new_sites_zone(connection, brigade, topics, database):
    closed(connection, "readings_1d", utc(2026, 5, 2))
    done = brigade("devices", "move", "fridge-1", "busan", **settings(topics, database))
    assert (done.returncode, done.stdout) == (0, "fridge-1 is at busan now\n"), done.stderr
    assert connection.execute(
        "SELECT site_id, previous_site_id, moved_at > now() - INTERVAL '1 minute' FROM devices WHERE id = 1"
    ).fetchone() == (2, 1, True)
    assert len(marked(connection)) == 2
    done = brigade("devices", "move", "fridge-1", "busan", **settings(topics, database))
    assert (done.returncode, done.stderr) == (1, "brigade: fridge-1 is at busan already\n")
    done = brigade("devices", "list", "--site", "busan", **settings(topics, database))
    assert [line.split("  ")[0].strip() for line in done.stdout.splitlines()[1:]] == ["door-3", "fridge-1"]
