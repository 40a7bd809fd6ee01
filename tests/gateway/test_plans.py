"""Queries find their rows by index in the chunks of their range, and leave other devices' marks alone."""

import re
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest

from gateway import dead_letters, devices, ledger, recent, series, stream
from gateway.database import OPTIONS
from tests.conftest import drop, execute, with_database
from tests.gateway.conftest import NOW, ROLL_UPS

MANY = """
INSERT INTO sites (name, time_zone) VALUES ('seoul-1', 'Asia/Seoul');
INSERT INTO devices (name, site_id) SELECT 'fridge-' || lpad(g::text, 4, '0'), 1 FROM generate_series(1, 300) g;
INSERT INTO metrics (name) VALUES ('temperature_c'), ('humidity_pct');
INSERT INTO device_metrics SELECT d.id, m.id FROM devices d, metrics m;
INSERT INTO readings (ts, received_at, value, device_id, metric_id)
SELECT ts, ts, 4, d, m FROM generate_series(now() - INTERVAL '20 days', now(), INTERVAL '2 h') ts,
    generate_series(1, 300) d, generate_series(1, 2) m;
INSERT INTO marks (bucket, partition, device_id, level)
SELECT DISTINCT date_trunc('minute', ts), device_id % 12, device_id, 0 FROM readings WHERE ts > now() - INTERVAL '3 h';
INSERT INTO marks (bucket, partition, device_id, level)
SELECT local_day(now(), 'Asia/Seoul'), d % 12, d, 2 FROM generate_series(1, 300) d;
INSERT INTO ledger (hour, device_id, received, stored)
SELECT h, d, 1, 1 FROM generate_series(now() - INTERVAL '20 days', now(), INTERVAL '2 h') h, generate_series(1, 300) d;
INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, device_id, kafka_partition,
                          kafka_offset, position, resolved)
SELECT now() - n * INTERVAL '1 min', CASE WHEN n % 1000 = 0 THEN 'oversized' ELSE 'ts_invalid' END, 'x',
       'brigade/v1/' || CASE WHEN n % 2000 = 0 THEN 'rare' ELSE 'seoul-1' END || '/x/readings', '', 0,
       n % 300, 0, n, 0, n % 1000 <> 1
FROM generate_series(1, 20000) n;
"""


@pytest.fixture(scope="module")
def crowd(postgres, migrated):
    """300 devices over 20 days: 145,000 readings."""
    name = f"test_{urlsplit(migrated).path[-8:]}_crowd"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    url = with_database(postgres, name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(MANY)
        connection.execute(ROLL_UPS)
        connection.execute("VACUUM ANALYZE")
    options = " ".join(f"-c {setting}={value}" for setting, value in OPTIONS.items())
    with psycopg.connect(url, options=options, prepare_threshold=None) as connection:
        yield connection
    drop(postgres, name)


def plan(connection, query, **parameters):
    return [line for (line,) in connection.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {query}", parameters)]


def chunks(lines):
    """The chunks looked into."""
    executed = "\n".join(line for line in lines if "never executed" not in line)
    return set(re.findall(r"\b_hyper_\d+_\d+_chunk", executed))


SERIES = {"device": 7, "metric": 1, "lower": -5.0, "upper": 8.0, "zone": "Asia/Kolkata", "pixel": timedelta(hours=1),
          "limit": 10_001, "end": NOW}  # fmt: skip


@pytest.mark.parametrize(
    ("query", "days", "most_chunks"),
    [
        (series.RAW, 1, 2), (series.EXTENT, 1, 2), (series.RAW_THINNED, 1, 2),
        (series.MINUTES, 1, 4), (series.HOURS, 20, 8), (series.DAYS, 20, 8), (series.DAYS_FROM_HOURS, 20, 8),
        (series.DAYS_FROM_MINUTES, 20, 9),
    ],
)  # fmt: skip
def test_a_range_is_read_by_index_in_its_chunks(crowd, query, days, most_chunks):
    lines = plan(crowd, query, **SERIES, start=NOW - timedelta(days=days))
    assert not [line for line in lines if "Seq Scan on _hyper" in line or "Seq Scan on readings" in line]
    assert len(chunks(lines)) <= most_chunks, chunks(lines)


@pytest.mark.parametrize("query", [series.MINUTES, series.HOURS, series.DAYS, series.DAYS_FROM_HOURS])
def test_other_devices_marks_are_left_alone(crowd, query):
    lines = plan(crowd, query, **SERIES, start=NOW - timedelta(days=20))
    on_marks = [n for n, line in enumerate(lines) if " on marks" in line]
    assert on_marks
    for n in on_marks:
        assert "Index" in lines[n], lines[n]
        assert "device_id = " in lines[n + 1], lines[n + 1]
        assert rows(lines[n]) <= 4, lines[n]


def test_the_last_hours_of_a_site_are_one_index_range_each(crowd):
    start, end = recent.span(NOW)
    asked = {"sites": ["seoul-1"], "start": start, "end": end, "step": recent.STEP.total_seconds()}
    lines = plan(crowd, recent.RECENT, **asked)
    assert not [line for line in lines if "Seq Scan on _hyper" in line or "Seq Scan on readings" in line]
    assert len(chunks(lines)) <= 2, chunks(lines)


def rows(line):
    return float(line.rpartition("actual rows=")[2].split()[0]) if "actual rows=" in line else 0


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (devices.LATEST, {"device": None, "sites": ["seoul-1"], "after": "", "limit": 200}),
        (devices.LATEST, {"device": "fridge-0007", "sites": ["paris-1", "seoul-1"], "after": "", "limit": 1}),
        (devices.DEVICES, {"device": None, "sites": ["seoul-1"], "online": None, "after": "", "limit": 101}),
        (stream.STREAM, {"sites": ["seoul-1"], "limit": 300}),
    ],
)
def test_latest_values_are_one_index_probe_each(crowd, query, parameters):
    lines = plan(crowd, query, **parameters)
    assert not [line for line in lines if "Seq Scan on _hyper" in line]
    probes = [line for line in lines if "Index Scan Backward" in line and "never executed" not in line]
    looked = sum(rows(line) * int(line.rpartition("loops=")[2].rstrip(")")) for line in probes)
    assert 0 < looked <= 2 * parameters["limit"]


def test_the_ledger_is_read_by_index(crowd):
    lines = plan(crowd, ledger.HOURS, device=7, start=NOW - timedelta(days=1), end=NOW)
    assert not [line for line in lines if "Seq Scan on ledger " in line]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"before": 500},
        {"device": "fridge-0007"},
        {"reason": "oversized"},
        {"resolved": False},
        {"start": NOW - timedelta(hours=1)},
        {"sites": ["rare"]},
        {"sites": ["nowhere"]},
        {"sites": ["rare", "seoul-1"]},
    ],
)
def test_dead_letters_are_found_by_index(crowd, parameters):
    everything = {
        "device": None,
        "sites": ["seoul-1"],
        "reason": None,
        "resolved": None,
        "start": None,
        "end": None,
        "before": None,
    }
    lines = plan(crowd, dead_letters.LIST, **{**everything, "limit": 21, **parameters})
    assert not [line for line in lines if "Seq Scan on dead_letters" in line]


@pytest.mark.parametrize("sites", [["rare"], ["nowhere"], ["rare", "nowhere"]])
def test_a_site_with_few_dead_letters_does_not_read_the_others(crowd, sites):
    everything = dict.fromkeys(("device", "reason", "resolved", "start", "end", "before"))
    lines = plan(crowd, dead_letters.LIST, **everything, limit=21, sites=sites)
    removed = sum(int(line.rpartition(": ")[2]) for line in lines if "Rows Removed" in line)
    assert removed < 1000, lines


def test_a_month_of_hours_is_one_indexed_query(crowd):
    lines = plan(crowd, series.HOURS, **SERIES, start=NOW - timedelta(days=30))
    assert not [line for line in lines if "Seq Scan on _hyper" in line]
    scans = [line for line in lines if re.search(r"Scan.* on _hyper", line) and "never executed" not in line]
    assert sum(rows(line) for line in scans) <= 2 * 30 * 24


def test_a_device_is_found_by_its_name(crowd):
    lines = plan(crowd, devices.DEVICE, device="fridge-0007", sites=["seoul-1"])
    assert not [line for line in lines if "Seq Scan on devices" in line or "Seq Scan on device_metrics" in line]
