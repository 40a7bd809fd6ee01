"""50 million readings with their minutes, hours and days: a restaurant group's last weeks, made by the database."""

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg

from deploy.bench.instance import Bench
from deploy.local.say import say
from pipeline.migrate import migrate

NAME = "queries"
SITE = "seoul-1"
DEVICES = 100
METRICS = ("temperature_c", "humidity_pct", "door_open")
EVERY_SECONDS = 10
A_DAY = 86_400 // EVERY_SECONDS * DEVICES * len(METRICS)
LOADERS = 2

THINGS = """
INSERT INTO sites (name, time_zone) VALUES (%(site)s, 'Asia/Seoul');
INSERT INTO devices (name, site_id) SELECT format('fridge-%%s', to_char(n, 'FM0000')), s.id
FROM generate_series(1, %(devices)s) AS n, sites s;
INSERT INTO metrics (name, unit, lower_bound, upper_bound)
VALUES ('temperature_c', '°C', -5, 8), ('humidity_pct', '%%', NULL, NULL), ('door_open', NULL, NULL, NULL);
INSERT INTO device_metrics SELECT d.id, m.id FROM devices d, metrics m;
"""

# The dependence of one series on the others keeps the order of the key: three times as fast as any other.
READINGS = """
INSERT INTO readings (device_id, metric_id, ts, received_at, seq, value)
SELECT d.id, m.id, t.ts, t.ts + INTERVAL '0.2 s', i.n, 4 + 3 * sin(i.n / 60.0::float8 + d.id)
FROM (SELECT id FROM devices ORDER BY id) AS d, LATERAL (SELECT id FROM metrics WHERE d.id > 0 ORDER BY id) AS m,
     LATERAL generate_series(0, %(readings)s - 1 + (d.id + m.id) * 0) AS i (n),
     LATERAL (SELECT %(begin)s::timestamptz + i.n * make_interval(secs => %(every)s) AS ts) AS t"""

MINUTES = """
INSERT INTO readings_1m (device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts)
SELECT device_id, metric_id, time_bucket('1 minute', ts) AS bucket, count(*), sum(value), min(value), max(value),
       first(value, ts), last(value, ts), min(ts), max(ts)
FROM readings WHERE ts >= %(begin)s AND ts < %(end)s
GROUP BY device_id, metric_id, bucket ORDER BY device_id, metric_id, bucket"""

HOURS = """
INSERT INTO readings_1h (device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts)
SELECT device_id, metric_id, date_trunc('hour', bucket, 'UTC') AS hour, sum(n), sum(sum), min(min), max(max),
       first(first, first_ts), last(last, last_ts), min(first_ts), max(last_ts)
FROM readings_1m GROUP BY device_id, metric_id, hour"""

DAYS = """
INSERT INTO readings_1d (device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts)
SELECT device_id, metric_id, local_day(bucket, 'Asia/Seoul') AS day, sum(n), sum(sum), min(min), max(max),
       first(first, first_ts), last(last, last_ts), min(first_ts), max(last_ts)
FROM readings_1h GROUP BY device_id, metric_id, day"""

# As while readings arrive: each device's last minute, hour and day are not computed yet.
MARKS = """
INSERT INTO marks (level, partition, device_id, bucket)
SELECT level, id %% 12, id, bucket
FROM devices, (SELECT %(end)s::timestamptz - INTERVAL '1 minute' AS minute) AS last,
     LATERAL (VALUES (0, minute), (1, date_trunc('hour', minute, 'UTC')), (2, local_day(minute, 'Asia/Seoul')))
          AS open (level, bucket)"""

# Each hour of each device, as if every thousandth reading had been refused and every hundredth late.
LEDGER = """
INSERT INTO ledger (hour, device_id, received, stored, refused, late, points)
SELECT bucket, device_id, max(n), max(n) - 1, 1, max(n) / 100, sum(n) FROM readings_1h GROUP BY device_id, bucket
ON CONFLICT DO NOTHING"""

REMEMBER = "CREATE TABLE bench_dataset AS SELECT %(rows)s::bigint AS rows, %(end)s::timestamptz AS ends"
REMEMBERED = "SELECT rows, ends FROM bench_dataset"


def ready(bench: Bench, rows: int) -> tuple[int, datetime]:
    """How many readings there are, in whole days, and where they end; loaded unless that was done before."""
    days = max(1, math.ceil(rows / A_DAY))
    return days * A_DAY, _loaded(bench, days * A_DAY) or load(bench, days)


def with_accounts(bench: Bench) -> None:
    """The ledger of the readings, for who asks it too."""
    with bench.connect(NAME) as connection:
        if connection.execute("SELECT FROM ledger LIMIT 1").fetchone() is None:
            connection.execute(LEDGER)
            connection.execute("VACUUM (ANALYZE) ledger")


def _loaded(bench: Bench, rows: int) -> datetime | None:
    try:
        with bench.connect(NAME) as connection:
            found = connection.execute(REMEMBERED).fetchone()
            migrate(bench.stack.superuser_url(NAME))
    except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return None
    return found[1] if found and found[0] == rows else None


def load(bench: Bench, days: int) -> datetime:
    say(f"loading {days * A_DAY:,} readings of {DEVICES} devices and {days} days (once)")
    bench.drop(NAME)
    with bench.connect("postgres") as connection:
        connection.execute(f"CREATE DATABASE {NAME}")
    with bench.connect(NAME) as connection:
        connection.execute("CREATE EXTENSION timescaledb")
    migrate(bench.stack.superuser_url(NAME))
    ends = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with bench.connect(NAME) as connection, psycopg.ClientCursor(connection) as cursor:
        cursor.execute(THINGS, {"site": SITE, "devices": DEVICES})
    begins = [ends - timedelta(days=day) for day in range(days, 0, -1)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda share: _load_days(bench, share), (begins[i::LOADERS] for i in range(LOADERS))))
    with bench.connect(NAME) as connection:
        for statement in (HOURS, DAYS):
            connection.execute(statement)
        connection.execute(MARKS, {"end": ends})
        connection.execute("VACUUM (ANALYZE)")
        connection.execute(REMEMBER, {"rows": days * A_DAY, "end": ends})
    return ends


def _load_days(bench: Bench, begins: Iterable[datetime]) -> None:
    with bench.connect(NAME) as connection:
        connection.execute("SET synchronous_commit = off")
        for begin in begins:
            day = {"begin": begin, "end": begin + timedelta(days=1)}
            connection.execute(READINGS, day | {"readings": 86_400 // EVERY_SECONDS, "every": EVERY_SECONDS})
            connection.execute(MINUTES, day)
