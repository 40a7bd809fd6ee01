"""What the kitchen's dashboards ask TimescaleDB.

The length of the time that is shown decides which table is read, so that no answer needs more than some tens of
thousand rows. Grafana puts it into the text, so the planner sees which parts of a UNION ALL can never be true.

Of a whole restaurant: minutes up to a day unless it is too many devices, then hours, then days. Minutes and days only
when they are over, and hours of more than a day too where many are added up: to compute what still runs of all devices
would mean to read all of its minutes. Of one device: single readings up to three hours, minutes up to two days, hours
up to two months, then days. Days are the site's own: a row of `readings_1d` begins at its midnight.

OFFSET 0 keeps each range to its device: without it the planner computes the open buckets of all devices first.
"""

from typing import Final

LENGTH: Final = "($__to - $__from)"
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

MOST_MINUTES: Final = 30 * 24 * 60
"""Thirty devices for a day; more of them, or longer, are hours."""
_FEW: Final = f"{LENGTH} / 60000 * cardinality(ARRAY[${{device:sqlstring}}]::text[]) <= {MOST_MINUTES}"
MINUTES_OF_SITE: Final = f"{LENGTH} <= {25 * HOUR_MS} AND {_FEW}"
HOURS_OF_SITE: Final = f"NOT ({MINUTES_OF_SITE}) AND {LENGTH} <= {15 * DAY_MS}"
DAYS_OF_SITE: Final = f"{LENGTH} > {15 * DAY_MS}"

A_DAY: Final = f"{LENGTH} <= {25 * HOUR_MS}"
TWO_WEEKS: Final = f"{LENGTH} > {25 * HOUR_MS} AND {LENGTH} <= {15 * DAY_MS}"

RAW_OF_DEVICE: Final = f"{LENGTH} <= {3 * HOUR_MS}"
MINUTES_OF_DEVICE: Final = f"{LENGTH} > {3 * HOUR_MS} AND {LENGTH} <= {2 * DAY_MS}"
HOURS_OF_DEVICE: Final = f"{LENGTH} > {2 * DAY_MS} AND {LENGTH} <= {62 * DAY_MS}"
DAYS_OF_DEVICE: Final = f"{LENGTH} > {62 * DAY_MS}"

NAME: Final = "CASE WHEN d.display_name IS NULL THEN d.name ELSE d.display_name || ' (' || d.name || ')' END"
"""Of a device, for people; unique."""

OF_SITE: Final = "s.name = ${site:sqlstring}"
CHOSEN: Final = "s.name = ${site:sqlstring} AND d.name = ANY(ARRAY[${device:sqlstring}]::text[])"
"""An array, for a restaurant without devices has none to choose, and `IN ()` is no SQL."""
THE_DEVICE: Final = "d.name = ${device:sqlstring}"
THE_METRIC: Final = f"{THE_DEVICE} AND m.name = ${{metric:sqlstring}}"

DEVICE_METRICS: Final = """sites s
JOIN devices d ON d.site_id = s.id
JOIN device_metrics dm ON dm.device_id = d.id
JOIN metrics m ON m.id = dm.metric_id"""

ITS: Final = "q.device_id = dm.device_id AND q.metric_id = dm.metric_id"


def devices_now(where: str) -> str:
    """Of each device: when its newest reading came, whether its own word says that it went away since, and its state.

    The newest reading of each metric is one index probe.
    """
    return f"""SELECT d.site_id, {NAME} AS device, d.name, now.received_at,
       coalesce(st.online, true) OR coalesce(now.received_at > st.received_at, false) AS online,
       coalesce(now.received_at > now() - INTERVAL '15 minutes', false) AS heard,
       now.outside, now.door_open, now.occupied, now.temperature
FROM devices d
JOIN sites s ON s.id = d.site_id
LEFT JOIN device_status st ON st.device_id = d.id
CROSS JOIN LATERAL (
    SELECT max(r.received_at) AS received_at,
           count(*) FILTER (WHERE r.value < m.lower_bound OR r.value > m.upper_bound) AS outside,
           bool_or(r.value > 0) FILTER (WHERE m.name = 'door_open') AS door_open,
           bool_or(r.value > 0) FILTER (WHERE m.name = 'occupied') AS occupied,
           min(r.value) FILTER (WHERE m.name = 'temperature_c') AS temperature
    FROM device_metrics dm
    JOIN metrics m ON m.id = dm.metric_id
    CROSS JOIN LATERAL (
        SELECT q.received_at, q.value FROM readings q WHERE {ITS} ORDER BY q.ts DESC LIMIT 1
    ) r
    WHERE dm.device_id = d.id
) now
WHERE {where}"""


def of_devices_now(what: str, where: str) -> str:
    """One number."""
    return f"WITH now AS (\n{devices_now(where)}\n)\nSELECT {what} AS value FROM now"


# The ledger's last day, by device: by index, and a second old (workers fold `ledger_pending` into it every second).
SITES: Final = f"""
WITH now AS (
{devices_now("true")}
), accounts AS (
    SELECT d.site_id, sum(l.stored) AS stored, sum(l.refused) AS refused, sum(l.late) AS late
    FROM devices d JOIN ledger l ON l.device_id = d.id AND l.hour >= now() - INTERVAL '1 day'
    GROUP BY d.site_id
)
SELECT s.name AS site, coalesce(s.display_name, s.name) AS restaurant,
       count(now.name) AS devices,
       count(*) FILTER (WHERE now.heard) AS heard,
       count(*) FILTER (WHERE NOT now.heard) AS silent,
       coalesce(sum(now.outside), 0)::bigint AS outside,
       coalesce(max(a.stored), 0)::bigint AS stored,
       coalesce(max(a.refused), 0)::bigint AS refused,
       coalesce(max(a.late), 0)::bigint AS late,
       max(now.received_at) AS newest
FROM sites s
LEFT JOIN now ON now.site_id = s.id
LEFT JOIN accounts a ON a.site_id = s.id
GROUP BY s.id ORDER BY outside DESC, silent DESC, restaurant
"""

DEVICES: Final = f"""
WITH now AS (
{devices_now(CHOSEN)}
)
SELECT name AS id, device,
       CASE WHEN NOT online THEN 'offline' WHEN heard THEN 'online' ELSE 'silent' END AS state,
       received_at AS heard, temperature, outside,
       CASE WHEN door_open THEN 'open' WHEN NOT door_open THEN 'closed' END AS door,
       CASE WHEN occupied THEN 'taken' WHEN NOT occupied THEN 'free' END AS "table"
FROM now ORDER BY outside DESC, online, heard, device
"""


def _over_time(metrics: str) -> str:
    """Averages of the chosen devices' metrics; those of minutes in steps of the panel."""
    return f"""SELECT r.time, {NAME} || CASE m.name WHEN 'temperature_c' THEN '' WHEN 'door_open' THEN ''
       ELSE ' ' || m.name END AS metric, r.value
FROM {DEVICE_METRICS}
CROSS JOIN LATERAL (
    SELECT $__timeGroup(q.bucket, $__interval) AS time, sum(q.sum) / sum(q.n)::float8 AS value
    FROM readings_1m q WHERE {MINUTES_OF_SITE} AND {ITS} AND $__timeFilter(q.bucket) GROUP BY 1
    UNION ALL
    SELECT q.bucket, q.sum / q.n FROM readings_1h_now q WHERE {HOURS_OF_SITE} AND {ITS} AND $__timeFilter(q.bucket)
    UNION ALL
    SELECT q.bucket, q.sum / q.n FROM readings_1d q WHERE {DAYS_OF_SITE} AND {ITS} AND $__timeFilter(q.bucket)
    OFFSET 0
) r
WHERE {CHOSEN} AND {metrics}"""


def over_time(metrics: str) -> str:
    return f"{_over_time(metrics)}\nORDER BY 1, 2"


TEMPERATURES: Final = over_time("m.unit = '°C' AND m.name <> 'setpoint_c'")
HUMIDITY: Final = over_time("m.unit = '%'")
DOORS: Final = over_time("m.name = 'door_open'")

TABLES: Final = f"""
WITH tables AS (
{_over_time("m.name = 'occupied'")}
)
SELECT time, sum(value) AS taken, count(*)::float8 AS tables FROM tables GROUP BY time ORDER BY time
"""

# Of the last two weeks at the most: the hours of more would be too many to read.
TABLES_BY_HOUR: Final = f"""
SELECT to_char(q.bucket AT TIME ZONE s.time_zone, 'HH24:00') AS hour, sum(q.sum) / sum(q.n)::float8 AS taken
FROM {DEVICE_METRICS}
CROSS JOIN LATERAL (
    SELECT q.bucket, q.sum, q.n FROM readings_1h_now q
    WHERE {ITS} AND $__timeFilter(q.bucket) AND q.bucket > $__timeTo()::timestamptz - INTERVAL '14 days'
    OFFSET 0
) q
WHERE {CHOSEN} AND m.name = 'occupied'
GROUP BY 1 ORDER BY 1
"""

DOORS_IN_ALL: Final = f"""
SELECT d.name AS id, {NAME} AS device, sum(r.seconds) AS open, sum(r.sum) / sum(r.n)::float8 AS share
FROM {DEVICE_METRICS}
CROSS JOIN LATERAL (
    SELECT q.sum / q.n * 3600 AS seconds, q.sum, q.n FROM readings_1h_now q
    WHERE {A_DAY} AND {ITS} AND $__timeFilter(q.bucket)
    UNION ALL
    SELECT q.sum / q.n * 3600, q.sum, q.n FROM readings_1h q
    WHERE {TWO_WEEKS} AND {ITS} AND $__timeFilter(q.bucket)
    UNION ALL
    SELECT q.sum / q.n * 86400, q.sum, q.n FROM readings_1d q
    WHERE {DAYS_OF_SITE} AND {ITS} AND $__timeFilter(q.bucket)
    OFFSET 0
) r
WHERE {CHOSEN} AND m.name = 'door_open'
GROUP BY d.id ORDER BY open DESC
"""

# Silence: from the last reading of a bucket to the first of the next one that has any. One within an hour shows as an
# hour with fewer readings than the device's fullest.
GAPS: Final = f"""
WITH buckets AS (
    SELECT d.id, d.name, {NAME} AS device, q.bucket,
           min(q.first_ts) AS first_ts, max(q.last_ts) AS last_ts, sum(q.n) AS n
    FROM {DEVICE_METRICS}
    CROSS JOIN LATERAL (
        SELECT q.bucket, q.first_ts, q.last_ts, q.n FROM readings_1h_now q
        WHERE {A_DAY} AND {ITS} AND $__timeFilter(q.bucket)
        UNION ALL
        SELECT q.bucket, q.first_ts, q.last_ts, q.n FROM readings_1h q
        WHERE {TWO_WEEKS} AND {ITS} AND $__timeFilter(q.bucket)
        UNION ALL
        SELECT q.bucket, q.first_ts, q.last_ts, q.n FROM readings_1d q
        WHERE {DAYS_OF_SITE} AND {ITS} AND $__timeFilter(q.bucket)
        OFFSET 0
    ) q
    WHERE {CHOSEN}
    GROUP BY d.id, q.bucket
), silences AS (
    SELECT name, device, last_ts, first_ts - lag(last_ts) OVER hours AS silence,
           n < 0.8 * max(n) OVER (PARTITION BY id) AND lag(n) OVER hours IS NOT NULL AND lead(n) OVER hours IS NOT NULL
               AS incomplete
    FROM buckets WINDOW hours AS (PARTITION BY id ORDER BY bucket)
)
SELECT name AS id, device, extract(epoch FROM max(silence))::float8 AS longest,
       count(*) FILTER (WHERE silence > INTERVAL '15 minutes') AS silences,
       count(*) FILTER (WHERE incomplete) AS incomplete, max(last_ts) AS newest
FROM silences GROUP BY name, device ORDER BY longest DESC NULLS LAST, device
"""


def accounts(where: str) -> str:
    """The ledger by hour of receipt; over more than two weeks, by the site's days."""
    return f"""
WITH hours AS (
    SELECT l.hour, s.time_zone, sum(l.stored) AS stored, sum(l.duplicate) AS duplicate, sum(l.refused) AS refused,
           sum(l.late) AS late
    FROM sites s JOIN devices d ON d.site_id = s.id JOIN ledger l ON l.device_id = d.id
    WHERE {where} AND $__timeFilter(l.hour)
    GROUP BY l.hour, s.time_zone
)
SELECT CASE WHEN {DAYS_OF_SITE} THEN local_day(hour, time_zone) ELSE hour END AS time,
       sum(stored)::float8 AS stored, sum(duplicate)::float8 AS duplicate, sum(refused)::float8 AS refused,
       sum(late)::float8 AS late
FROM hours GROUP BY 1 ORDER BY 1
"""


REASONS: Final = f"""
SELECT l.reason, sum(l.refused)::bigint AS refused, count(DISTINCT l.device_id) AS devices, max(l.hour) AS newest
FROM sites s JOIN devices d ON d.site_id = s.id JOIN ledger_refusals l ON l.device_id = d.id
WHERE {CHOSEN} AND $__timeFilter(l.hour)
GROUP BY l.reason ORDER BY refused DESC
"""

DEAD_LETTERS: Final = """
SELECT l.received_at AS received, split_part(l.mqtt_topic, '/', 4) AS device, l.reason, l.detail,
       l.payload_size AS size, CASE WHEN l.resolved THEN 'mended' ELSE 'open' END AS state
FROM dead_letters l
WHERE split_part(l.mqtt_topic, '/', 3) = ${site:sqlstring} AND $__timeFilter(l.received_at)
ORDER BY l.id DESC LIMIT 100
"""

# One device ---------------------------------------------------------------------------------------------

VALUES: Final = f"""
SELECT r.time, r.lowest, r.value, r.highest, m.lower_bound AS "lower bound", m.upper_bound AS "upper bound"
FROM {DEVICE_METRICS}
CROSS JOIN LATERAL (
    SELECT q.ts AS time, NULL::float8 AS lowest, q.value, NULL::float8 AS highest
    FROM readings q WHERE {RAW_OF_DEVICE} AND {ITS} AND $__timeFilter(q.ts)
    UNION ALL
    SELECT q.bucket, q.min, q.sum / q.n, q.max FROM readings_1m_now q
    WHERE {MINUTES_OF_DEVICE} AND {ITS} AND $__timeFilter(q.bucket)
    UNION ALL
    SELECT q.bucket, q.min, q.sum / q.n, q.max FROM readings_1h_now q
    WHERE {HOURS_OF_DEVICE} AND {ITS} AND $__timeFilter(q.bucket)
    UNION ALL
    SELECT q.bucket, q.min, q.sum / q.n, q.max FROM readings_1d_now q
    WHERE {DAYS_OF_DEVICE} AND {ITS} AND $__timeFilter(q.bucket)
    OFFSET 0
) r
WHERE {THE_METRIC}
ORDER BY r.time
"""

DAYS: Final = f"""
SELECT to_char(q.bucket AT TIME ZONE s.time_zone, 'YYYY-MM-DD') AS day, q.min AS lowest, q.sum / q.n AS average,
       q.max AS highest
FROM {DEVICE_METRICS}
CROSS JOIN LATERAL (
    SELECT q.bucket, q.min, q.sum, q.n, q.max FROM readings_1d_now q
    WHERE {ITS} AND q.bucket > $__timeFrom()::timestamptz - INTERVAL '1 day' AND q.bucket <= $__timeTo()::timestamptz
    OFFSET 0
) q
WHERE {THE_METRIC}
ORDER BY q.bucket
"""

_BUCKETS_OF_DEVICE: Final = f"""SELECT q.bucket, q.n, q.first_ts, q.last_ts
FROM {DEVICE_METRICS}
CROSS JOIN LATERAL (
    SELECT q.bucket, q.n, q.first_ts, q.last_ts FROM readings_1m_now q
    WHERE ({RAW_OF_DEVICE} OR {MINUTES_OF_DEVICE}) AND {ITS} AND $__timeFilter(q.bucket)
    UNION ALL
    SELECT q.bucket, q.n, q.first_ts, q.last_ts FROM readings_1h_now q
    WHERE {HOURS_OF_DEVICE} AND {ITS} AND $__timeFilter(q.bucket)
    UNION ALL
    SELECT q.bucket, q.n, q.first_ts, q.last_ts FROM readings_1d_now q
    WHERE {DAYS_OF_DEVICE} AND {ITS} AND $__timeFilter(q.bucket)
    OFFSET 0
) q
WHERE {THE_METRIC}"""

COUNTS: Final = f"""
WITH buckets AS (
{_BUCKETS_OF_DEVICE}
)
SELECT bucket AS time, n::float8 AS readings FROM buckets ORDER BY bucket
"""

SILENCES: Final = f"""
WITH buckets AS (
{_BUCKETS_OF_DEVICE}
), silences AS (
    SELECT lag(last_ts) OVER (ORDER BY bucket) AS since, first_ts AS until FROM buckets
)
SELECT since, until, extract(epoch FROM until - since)::float8 AS silence
FROM silences WHERE until - since > INTERVAL '2 minutes' ORDER BY silence DESC LIMIT 50
"""


def newest(what: str) -> str:
    return f"""
SELECT {what} AS value
FROM {DEVICE_METRICS}
CROSS JOIN LATERAL (SELECT q.value, q.received_at FROM readings q WHERE {ITS} ORDER BY q.ts DESC LIMIT 1) r
WHERE {THE_METRIC}
"""


# All of a device's, by the index dead_letters_by_device.
DEAD_LETTERS_OF_DEVICE: Final = f"""
SELECT l.received_at AS received, l.reason, l.detail, l.payload_size AS size,
       CASE WHEN l.resolved THEN 'mended' ELSE 'open' END AS state
FROM devices d JOIN dead_letters l ON l.device_id = d.id
WHERE {THE_DEVICE} AND $__timeFilter(l.received_at)
ORDER BY l.id DESC LIMIT 100
"""
