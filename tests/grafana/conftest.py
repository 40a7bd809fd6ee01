"""Three restaurants with a hundred days of everything that the kitchen's panels show, and the role that panels have."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.conftest import drop, execute, with_database
from tests.gateway.conftest import ROLL_UPS

SEOUL = "Asia/Seoul"


@cache
def now() -> datetime:
    """When a test asked first: what is shown as heard lately depends on the database's own clock, too."""
    return datetime.now(UTC).replace(second=30, microsecond=0)


# Every ten minutes, and every 30 seconds in the last hours; nothing from fridge-1 two days ago, for five hours.
RESTAURANTS = """
INSERT INTO sites (name, display_name, time_zone) VALUES
    ('seoul-1', 'Joe''s', 'Asia/Seoul'), ('paris-1', NULL, 'Europe/Paris'), ('empty-1', NULL, 'UTC');
INSERT INTO devices (name, display_name, site_id) VALUES
    ('fridge-1', 'Fridge', 1), ('fridge-2', 'Fridge', 1), ('table-1', NULL, 1), ('table-2', NULL, 1),
    ('oven-1', NULL, 2), ('new-1', NULL, 1);
INSERT INTO metrics (name, unit, lower_bound, upper_bound) VALUES
    ('temperature_c', '°C', -5, 8), ('humidity_pct', '%%', NULL, NULL), ('door_open', NULL, NULL, NULL),
    ('occupied', NULL, NULL, NULL), ('setpoint_c', '°C', NULL, NULL);
INSERT INTO device_metrics VALUES (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 4), (4, 4), (5, 1), (5, 5);
INSERT INTO readings (ts, received_at, value, seq, device_id, metric_id)
SELECT t.ts, t.ts + INTERVAL '0.2 s',
       CASE m.name WHEN 'temperature_c' THEN CASE d WHEN 5 THEN 200 ELSE 4 + sin(extract(epoch FROM ts) / 600) END
                   WHEN 'door_open' THEN CASE WHEN d = 1 AND extract(minute FROM ts) < 30 THEN 1 ELSE 0 END
                   WHEN 'occupied' THEN
                       CASE WHEN extract(hour FROM ts AT TIME ZONE 'Asia/Seoul') BETWEEN 12 AND 14 THEN 1 ELSE 0 END
                   ELSE 50 END,
       1, dm.device_id, dm.metric_id
FROM device_metrics dm JOIN metrics m ON m.id = dm.metric_id, LATERAL (SELECT dm.device_id AS d) AS of_device,
     LATERAL (SELECT generate_series(%(now)s - INTERVAL '100 days', %(now)s - INTERVAL '4 hours', INTERVAL '10 min')
              UNION ALL
              SELECT generate_series(%(now)s - INTERVAL '4 hours' + INTERVAL '30 s', %(now)s, INTERVAL '30 s')
     ) AS t (ts)
WHERE NOT (d = 1 AND ts > %(now)s - INTERVAL '53 hours' AND ts < %(now)s - INTERVAL '48 hours')
  AND NOT (d = 1 AND ts > %(now)s - INTERVAL '40 min' AND ts < %(now)s - INTERVAL '20 min')
  AND NOT (d = 2 AND ts > %(now)s - INTERVAL '3 hours');
INSERT INTO device_status VALUES (2, false, %(now)s - INTERVAL '2 hours'), (1, false, %(now)s - INTERVAL '5 hours');
INSERT INTO ledger (hour, device_id, received, stored, duplicate, refused, late, points)
SELECT h, d, 10, 7, 1, 2, 3, 21
FROM generate_series(1, 5) d, LATERAL (SELECT date_trunc('hour', %(now)s) AS hour) AS last,
    generate_series(last.hour - INTERVAL '100 days', last.hour, INTERVAL '1 hour') h;
INSERT INTO ledger_refusals (hour, device_id, reason, refused)
SELECT hour, device_id, reason, 1 FROM ledger, unnest(ARRAY['ts_invalid', 'wrong_site']) AS reason;
INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, device_id, kafka_partition,
                          kafka_offset, position, resolved)
SELECT %(now)s - n * INTERVAL '20 min', 'ts_invalid', 'no moment', 'brigade/v1/seoul-1/fridge-1/readings', 'secret',
       6, 1, 0, n, 0, n %% 3 = 0
FROM generate_series(1, 200) n;
"""

# What the writer leaves open: the last minute, hour and day are not computed yet.
OPEN = """
INSERT INTO marks (level, partition, device_id, bucket)
SELECT level, 0, d.id, bucket FROM devices d JOIN sites s ON s.id = d.site_id, LATERAL (VALUES
    (0, date_trunc('minute', %(now)s::timestamptz)), (1, date_trunc('hour', %(now)s::timestamptz, 'UTC')),
    (2, local_day(%(now)s, s.time_zone))) AS open (level, bucket);
DELETE FROM readings_1m r USING marks m WHERE m.level = 0 AND r.device_id = m.device_id AND r.bucket = m.bucket;
DELETE FROM readings_1h r USING marks m WHERE m.level = 1 AND r.device_id = m.device_id AND r.bucket = m.bucket;
DELETE FROM readings_1d r USING marks m WHERE m.level = 2 AND r.device_id = m.device_id AND r.bucket = m.bucket;
"""


@pytest.fixture(scope="session")
def panels_role(postgres: str, migrated: str) -> str:
    """As a deployment does: the role of the migration may log in."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("ALTER ROLE brigade_grafana LOGIN PASSWORD 'secret'")
    return "brigade_grafana"


@pytest.fixture(scope="session")
def full(postgres: str, migrated: str, panels_role: str) -> Iterator[psycopg.Connection]:
    """As Grafana is connected to a database with restaurants."""
    name = f"{migrated}_full"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    with psycopg.connect(with_database(postgres, name), autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(RESTAURANTS, {"now": now()})
        connection.execute(ROLL_UPS)
        cursor.execute(OPEN, {"now": now()})
        connection.execute("VACUUM ANALYZE")
    with as_panels(postgres, name, panels_role) as connection:
        yield connection
    drop(postgres, name)


@pytest.fixture(scope="session")
def empty(postgres: str, migrated: str, panels_role: str) -> Iterator[psycopg.Connection]:
    """As Grafana is connected to a database without a site."""
    name = f"{migrated}_empty"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    with as_panels(postgres, name, panels_role) as connection:
        yield connection
    drop(postgres, name)


def as_panels(postgres: str, name: str, role: str) -> psycopg.Connection:
    parts = urlsplit(with_database(postgres, name))
    url = urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.hostname}:{parts.port}"))
    return psycopg.connect(url, autocommit=True, prepare_threshold=None)


RANGES = {
    "1 h": timedelta(hours=1),
    "24 h": timedelta(hours=24),
    "7 d": timedelta(days=7),
    "90 d": timedelta(days=90),
}
"""Of one device these are single readings, minutes, hours and days; of a restaurant minutes twice, hours, days."""
