"""What the database alone knows, as series."""

import time

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from pipeline import fleet
from pipeline.fleet import MISSED_LOOKS, Fleet, connect, look, watching
from pipeline.settings import MaintainSettings

DEVICES = """
INSERT INTO sites (name) VALUES ('seoul'), ('busan');
INSERT INTO devices (name, site_id) SELECT 'd' || n, CASE WHEN n < 6 THEN 1 ELSE 2 END FROM generate_series(1, 7) n;
INSERT INTO metrics (name) VALUES ('temperature_c');
INSERT INTO device_metrics SELECT id, 1 FROM devices;
INSERT INTO ledger (hour, device_id, received, stored)
SELECT date_trunc('hour', now(), 'UTC') - CASE id WHEN 2 THEN INTERVAL '2 hours' ELSE INTERVAL '1 hour' END, id, 1, 1
FROM devices WHERE id < 7;
INSERT INTO device_status (device_id, online, received_at)
VALUES (3, false, now() - INTERVAL '1 minute'), (4, false, now() - INTERVAL '1 minute'), (5, true, now());
INSERT INTO readings (ts, received_at, value, device_id, metric_id)
VALUES (now(), now(), 1, 4, 1), (now() - INTERVAL '2 minutes', now(), 1, 3, 1)"""
LETTERS = """
INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, kafka_partition, kafka_offset,
                          position, device_id, resolved)
VALUES (now(), 'r', '', '', '', 0, 0, 0, 0, 1, false), (now(), 'r', '', '', '', 0, 0, 0, 0, 0, false),
       (now(), 'r', '', '', '', 0, 0, 0, 0, 6, true)"""
WAITING = """
INSERT INTO outbox (partition, topic, key, value) VALUES (0, 't', 'k', ''), (0, 't', 'k', '');
INSERT INTO marks (level, partition, device_id, bucket)
VALUES (0, 0, 1, now() - INTERVAL '9 minutes'), (0, 0, 1, now() - INTERVAL '11 minutes'),
       (2, 0, 1, now() - INTERVAL '2 days'), (2, 0, 1, now() - INTERVAL '4 days')"""


@pytest.fixture
def settings(database):
    return MaintainSettings(database_url=database, fleet_every_seconds=0.05)


def series(collector):
    registry = CollectorRegistry()
    registry.register(collector)
    return {
        (sample.name.removeprefix("pipeline_fleet_"), *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_devices_letters_and_what_waits_are_counted(settings, database):
    with psycopg.connect(database, autocommit=True) as owner:
        for statement in (DEVICES, LETTERS, WAITING):
            owner.execute(statement)
    told = Fleet(every_seconds=60)
    with connect(database) as connection:
        told.tell(look(connection))
    assert series(told) == {
        ("devices", "seoul", "online"): 3,  # one of them said that it is offline, and sent a reading since
        ("devices", "seoul", "offline"): 1,
        ("devices", "seoul", "silent"): 1,
        ("devices", "seoul", "unheard"): 0,
        ("devices", "busan", "online"): 1,
        ("devices", "busan", "offline"): 0,
        ("devices", "busan", "silent"): 0,
        ("devices", "busan", "unheard"): 1,
        ("dead_letters_unresolved", "seoul"): 1,
        ("dead_letters_unresolved", ""): 1,
        ("marks_overdue", "minute"): 1,
        ("marks_overdue", "hour"): 0,
        ("marks_overdue", "day"): 1,
        ("outbox_rows",): 2,
        ("ledger_pending_rows",): 0,
    }


def test_it_changes_nothing(database):
    with connect(database) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("DELETE FROM outbox")


def test_numbers_that_are_old_are_not_told(database):
    told = Fleet(every_seconds=60)
    with connect(database) as connection:
        told.tell(look(connection))
    assert series(told)
    told._looked_at -= 60 * MISSED_LOOKS
    assert not series(told)


def test_an_outage_is_waited_out(settings, monkeypatch):
    tries = []

    def away_at_first(url):
        tries.append(url)
        if len(tries) == 1:
            raise psycopg.OperationalError("away")
        return connect(url)

    monkeypatch.setattr(fleet, "connect", away_at_first)
    before = time.time()
    with watching(settings):
        deadline = time.monotonic() + 60
        while fleet.LAST_LOOK._value.get() < before:
            assert time.monotonic() < deadline, "it never looked"
            time.sleep(0.02)
    assert len(tries) > 1
