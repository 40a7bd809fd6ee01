"""The questions, in SQL. An answer's rows are what is wrong: how many in all, and an example in words."""

from dataclasses import dataclass
from typing import Final, LiteralString

# What is asked about: devices, and for each the whole local days around the times in question.
SPAN: Final = """
CREATE TEMP TABLE span ON COMMIT DROP AS
SELECT d.id AS device_id, d.name, s.time_zone, local_day(%(first)s, s.time_zone) AS since,
       local_day_end(local_day(%(last)s, s.time_zone), s.time_zone) AS until
FROM devices d JOIN sites s ON s.id = d.site_id
WHERE %(devices)s::int[] IS NULL OR d.id = ANY(%(devices)s::int[])
"""

RECOUNT: Final = """
CREATE TEMP TABLE recount ON COMMIT DROP AS
SELECT r.device_id, r.metric_id, s.time_zone, date_trunc('minute', r.ts) AS bucket,
       count(*) AS n, sum(r.value) AS sum, min(r.value) AS min, max(r.value) AS max,
       first(r.value, r.ts) AS first, last(r.value, r.ts) AS last, min(r.ts) AS first_ts, max(r.ts) AS last_ts
FROM span s JOIN readings r ON r.device_id = s.device_id AND r.ts >= s.since AND r.ts < s.until
WHERE r.ts >= %(first)s::timestamptz - INTERVAL '26 hours' AND r.ts < %(last)s::timestamptz + INTERVAL '26 hours'
GROUP BY r.device_id, r.metric_id, s.time_zone, date_trunc('minute', r.ts)
"""

KNOW_DEVICES: Final = "UPDATE sent_device s SET id = d.id FROM devices d WHERE d.name = s.name AND s.id IS NULL"
KNOW_METRICS: Final = "UPDATE sent_metric s SET id = m.id FROM metrics m WHERE m.name = s.name AND s.id IS NULL"
TIMES: Final = "SELECT min(ts), max(ts) FROM sent_point"
DEVICES: Final = "SELECT coalesce(array_agg(id), '{}') FROM sent_device WHERE id IS NOT NULL"

MARKS: Final = """
SELECT count(*) FILTER (WHERE ended < now() - INTERVAL '10 seconds'), count(*)
FROM (
    SELECT CASE m.level WHEN 0 THEN m.bucket + INTERVAL '1 minute' WHEN 1 THEN m.bucket + INTERVAL '1 hour'
                        ELSE local_day_end(m.bucket, s.time_zone) END AS ended
    FROM marks m JOIN span s USING (device_id)
    WHERE m.bucket >= s.since AND m.bucket < s.until
) AS open
"""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    sql: LiteralString
    meaning: str


NOT_STORED: Final = Check(
    "acknowledged and not stored",
    """
    SELECT count(*) OVER (), format('%%s %%s at %%s = %%s', d.name, m.name, p.ts, p.value)
    FROM sent_point p
    JOIN sent_device d ON d.number = p.device
    JOIN sent_metric m ON m.number = p.metric
    WHERE p.acknowledged AND NOT EXISTS (
        SELECT FROM readings r
        WHERE r.device_id = d.id AND r.metric_id = m.id AND r.ts = p.ts
          AND r.ts >= %(first)s AND r.ts <= %(last)s
    )
    LIMIT 5
    """,
    "The broker accepted these points and they are not in the table. Just sent: try --wait 60. Otherwise look at the"
    " worker's lag, at `brigade dead-letters list`, and at what the broker dropped.",
)
NOT_REFUSED: Final = Check(
    "malformed and not a dead letter",
    """
    SELECT count(*) OVER (), format('%%s, SHA-256 %%s…, %%s sent, %%s dead letters', b.topic, left(b.sha256, 12),
                                    b.n, coalesce(l.n, 0))
    FROM (SELECT topic, sha256, count(*) AS n FROM sent_bad WHERE acknowledged GROUP BY topic, sha256) AS b
    LEFT JOIN (
        SELECT mqtt_topic AS topic, coalesce(payload_sha256, encode(sha256(payload), 'hex')) AS sha256, count(*) AS n
        FROM dead_letters WHERE received_at >= %(sent_from)s::timestamptz - INTERVAL '1 minute'
        GROUP BY 1, 2
    ) AS l USING (topic, sha256)
    WHERE b.n > coalesce(l.n, 0)
    LIMIT 5
    """,
    "The broker accepted these messages, no one can read them, and no dead letter tells of them.",
)
OTHER_VALUE: Final = Check(
    "stored with another value",
    """
    SELECT count(*) OVER (), format('%%s %%s at %%s: sent %%s, stored %%s', d.name, m.name, p.ts, p.value, r.value)
    FROM sent_point p
    JOIN sent_device d ON d.number = p.device
    JOIN sent_metric m ON m.number = p.metric
    JOIN readings r ON r.device_id = d.id AND r.metric_id = m.id AND r.ts = p.ts
                   AND r.ts >= %(first)s AND r.ts <= %(last)s
    WHERE r.value <> p.value AND NOT EXISTS (
        SELECT FROM sent_point o
        WHERE o.device = p.device AND o.metric = p.metric AND o.ts = p.ts AND o.value = r.value
    )
    LIMIT 5
    """,
    "Someone changed these rows, or another sender used the same device names at the same time.",
)
NOT_SENT: Final = Check(
    "stored and not sent",
    """
    SELECT count(*) OVER (), format('%%s %%s at %%s = %%s, received %%s', d.name, m.name, r.ts, r.value, r.received_at)
    FROM sent_device d
    JOIN readings r ON r.device_id = d.id
    JOIN metrics m ON m.id = r.metric_id
    WHERE r.ts >= %(first)s AND r.ts <= %(last)s
      AND r.received_at >= %(sent_from)s::timestamptz - INTERVAL '2 seconds'
      AND r.received_at <= %(sent_until)s::timestamptz + INTERVAL '60 seconds'
      AND NOT EXISTS (
          SELECT FROM sent_point p JOIN sent_metric n ON n.number = p.metric
          WHERE p.device = d.number AND n.id = r.metric_id AND p.ts = r.ts
      )
    LIMIT 5
    """,
    "Rows of these devices, received while the file was written, that the file does not know: another sender with the"
    " same device names, or another run's file.",
)
CONFLICTS: Final = Check(
    "conflicts",
    """
    SELECT count(*) OVER (), format('%%s: %%s', l.mqtt_topic, l.detail)
    FROM sent_device d JOIN dead_letters l ON l.mqtt_topic = 'brigade/v1/' || d.site || '/' || d.name || '/readings'
    WHERE l.received_at >= %(sent_from)s AND NOT l.resolved AND l.reason = 'conflicts_with_stored'
    LIMIT 5
    """,
    "These readings came twice with different values under one time: two senders with one name, or a clock that stood.",
)
GOOD_REFUSED: Final = Check(
    "well-formed and refused",
    """
    SELECT count(*) OVER (), format('%%s: %%s, %%s', l.mqtt_topic, l.reason, l.detail)
    FROM sent_device d JOIN dead_letters l ON l.mqtt_topic = 'brigade/v1/' || d.site || '/' || d.name || '/readings'
    WHERE l.received_at >= %(sent_from)s AND NOT l.resolved AND l.reason <> 'conflicts_with_stored'
      AND NOT EXISTS (
          SELECT FROM sent_bad b
          WHERE b.topic = l.mqtt_topic AND b.sha256 = coalesce(l.payload_sha256, encode(sha256(l.payload), 'hex'))
      )
    LIMIT 5
    """,
    "These messages were sent well-formed and became dead letters; the reason says why: limits, clocks, sites.",
)
LEDGER_SHORT: Final = Check(
    "ledger short of what was sent",
    """
    SELECT count(*) OVER (), format('%%s: %%s readings acknowledged, %%s received; %%s different ones, %%s stored',
                                    d.name, c.acknowledged, coalesce(l.received, 0), p.n, coalesce(l.stored, 0))
    FROM sent_device d
    JOIN sent_count c ON c.device = d.number
    JOIN (SELECT device, count(DISTINCT ts) AS n FROM sent_point WHERE acknowledged GROUP BY device) AS p
      ON p.device = d.number
    LEFT JOIN (
        SELECT device_id, sum(received) AS received, sum(stored) AS stored
        FROM ledger_now WHERE hour >= %(received_from)s GROUP BY device_id
    ) AS l ON l.device_id = d.id
    WHERE coalesce(l.received, 0) < c.acknowledged OR coalesce(l.stored, 0) < p.n
    LIMIT 5
    """,
    "The ledger counted fewer readings of these devices than the broker acknowledged.",
)
IMBALANCE: Final = Check(
    "ledger out of balance",
    """
    SELECT count(*) OVER (), format('%%s, hour of %%s: received %%s, stored %%s, duplicate %%s, refused %%s',
                                    coalesce(d.name, 'no device'), hour, received, stored, duplicate, refused)
    FROM ledger_now LEFT JOIN devices d ON d.id = device_id
    WHERE hour >= %(received_from)s AND (
        received <> stored + duplicate + refused OR late > stored
        OR least(received, stored, duplicate, refused, late, points) < 0)
    LIMIT 5
    """,
    "Received is not stored + duplicate + refused: a defect of the worker, or a changed table. Please report it.",
)
POINTS: Final = Check(
    "ledger's points against rows",
    """
    WITH counted AS (
        SELECT r.device_id, date_trunc('hour', r.received_at, 'UTC') AS hour, count(*) AS n
        FROM span s JOIN readings r USING (device_id)
        WHERE r.received_at >= %(received_from)s AND r.ts >= %(received_from)s::timestamptz - INTERVAL '90 days'
        GROUP BY 1, 2
    ), told AS (
        SELECT l.device_id, l.hour, l.points FROM ledger_now l JOIN span USING (device_id)
        WHERE l.hour >= %(received_from)s AND l.points <> 0
    )
    SELECT count(*) OVER (), format('%%s, hour of %%s: the ledger has %%s points, the table %%s', s.name, hour,
                                    coalesce(told.points, 0), coalesce(counted.n, 0))
    FROM told FULL JOIN counted USING (device_id, hour) JOIN span s USING (device_id)
    WHERE told.points IS DISTINCT FROM counted.n
    LIMIT 5
    """,
    "Rows were removed or added beside the worker, or it counted wrong.",
)
REFUSALS: Final = Check(
    "ledger's refusals against dead letters",
    """
    WITH counted AS (
        SELECT device_id, date_trunc('hour', received_at, 'UTC') AS hour, count(*) AS n
        FROM dead_letters
        WHERE received_at >= %(received_from)s AND NOT resolved
          AND mqtt_topic !~ '^brigade/v1/[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._:-]{1,128}/status$'
        GROUP BY 1, 2
    ), told AS (
        SELECT device_id, hour, refused FROM ledger_now WHERE hour >= %(received_from)s AND refused <> 0
    )
    SELECT count(*) OVER (), format('%%s, hour of %%s: the ledger has %%s refused, there are %%s dead letters',
                                    coalesce(d.name, 'no device'), hour, coalesce(told.refused, 0),
                                    coalesce(counted.n, 0))
    FROM told FULL JOIN counted USING (device_id, hour) LEFT JOIN devices d ON d.id = device_id
    WHERE told.refused IS DISTINCT FROM counted.n
    LIMIT 5
    """,
    "Each refused reading is a dead letter until a replay of it was stored; here they differ.",
)
MINUTES: Final = Check(
    "minutes against their rows",
    """
    WITH expected AS (
        SELECT device_id, metric_id, bucket AS bucket, sum(n)::bigint AS n, sum(sum) AS sum,
               min(min) AS min, max(max) AS max, first(first, first_ts) AS first, last(last, last_ts) AS last,
               min(first_ts) AS first_ts, max(last_ts) AS last_ts
        FROM recount GROUP BY 1, 2, 3
    ), actual AS (
        SELECT c.* FROM readings_1m_now c JOIN span s USING (device_id)
        WHERE c.bucket >= s.since AND c.bucket < s.until
    )
    SELECT count(*) OVER (), format('%%s %%s, %%s: rows give n %%s, sum %%s; stored is n %%s, sum %%s', s.name, m.name,
                                    bucket, e.n, e.sum, a.n, a.sum)
    FROM expected e FULL JOIN actual a USING (device_id, metric_id, bucket)
    JOIN span s USING (device_id) JOIN metrics m ON m.id = metric_id
    WHERE (e.n, e.min, e.max, e.first, e.last, e.first_ts, e.last_ts)
          IS DISTINCT FROM (a.n, a.min, a.max, a.first, a.last, a.first_ts, a.last_ts)
       OR abs(e.sum - a.sum) > 1e-9 * e.n * greatest(abs(e.min), abs(e.max))
    LIMIT 5
    """,
    "Computed again from the rows, these differ: a change of rows that left no mark.",
)
HOURS: Final = Check(
    "hours against their rows",
    MINUTES.sql.replace("bucket AS bucket", "date_trunc('hour', bucket, 'UTC') AS bucket").replace(
        "readings_1m_now", "readings_1h_now"
    ),
    MINUTES.meaning,
)
DAYS: Final = Check(
    "days against their rows",
    MINUTES.sql.replace("bucket AS bucket", "local_day(bucket, time_zone) AS bucket").replace(
        "readings_1m_now", "readings_1d_now"
    ),
    MINUTES.meaning,
)

OF_A_FILE: Final = (NOT_STORED, OTHER_VALUE, NOT_SENT, NOT_REFUSED, CONFLICTS, GOOD_REFUSED, LEDGER_SHORT)
OF_THE_TABLES: Final = (IMBALANCE, POINTS, REFUSALS, MINUTES, HOURS, DAYS)
