-- Days as people at the site count them. Safe to run twice.

-- When the local day of `t` began. Midnight may not exist (Santiago, Beirut: the day begins at 01:00) or come twice
-- (the Azores, Havana: it begins at the first); a second after 23:59:59 is right where midnight alone is not.
CREATE OR REPLACE FUNCTION local_day(t timestamptz, zone text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(
    date_trunc('day', t AT TIME ZONE zone) AT TIME ZONE zone,
    (date_trunc('day', t AT TIME ZONE zone) - INTERVAL '1 second') AT TIME ZONE zone + INTERVAL '1 second'
);

-- When the local day that began at `day` ends: 23 or 25 hours later where clocks change.
CREATE OR REPLACE FUNCTION local_day_end(day timestamptz, zone text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(
    (date_trunc('day', day AT TIME ZONE zone) + INTERVAL '1 day') AT TIME ZONE zone,
    (date_trunc('day', day AT TIME ZONE zone) + INTERVAL '1 day' - INTERVAL '1 second') AT TIME ZONE zone + INTERVAL '1 second'
);

CREATE OR REPLACE VIEW readings_1d_now AS
WITH dirty AS (
    SELECT m.device_id, m.bucket, local_day_end(m.bucket, s.time_zone) AS until
    FROM marks m JOIN devices d ON d.id = m.device_id JOIN sites s ON s.id = d.site_id WHERE m.level = 2
    UNION
    SELECT m.device_id, local_day(m.bucket, s.time_zone), local_day_end(m.bucket, s.time_zone)
    FROM marks m JOIN devices d ON d.id = m.device_id JOIN sites s ON s.id = d.site_id WHERE m.level = 0
)
SELECT device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts
FROM readings_1d c
WHERE NOT EXISTS (SELECT FROM dirty m WHERE m.device_id = c.device_id AND m.bucket = c.bucket)
UNION ALL
SELECT d.device_id, r.metric_id, d.bucket, r.n, r.sum, r.min, r.max, r.first, r.last, r.first_ts, r.last_ts
FROM dirty d, LATERAL (
    SELECT metric_id, sum(n)::bigint AS n, sum(sum) AS sum, min(min) AS min, max(max) AS max,
           first(first, first_ts) AS first, last(last, last_ts) AS last, min(first_ts) AS first_ts, max(last_ts) AS last_ts
    FROM readings_1m_now q
    WHERE q.device_id = d.device_id AND q.bucket >= d.bucket AND q.bucket < d.until
    GROUP BY metric_id
) r;
