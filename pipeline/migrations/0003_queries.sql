-- What queries need. Safe to run twice.

-- As in 0002, but the marks are looked up for the asked-for devices only, not collected for all of them first.
CREATE OR REPLACE VIEW readings_1d_now AS
WITH dirty AS NOT MATERIALIZED (
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

-- Dead letters by what a person asks for: a reason, a time, those nobody has seen to.
CREATE INDEX IF NOT EXISTS dead_letters_by_reason ON dead_letters (reason, id);
CREATE INDEX IF NOT EXISTS dead_letters_by_time ON dead_letters (received_at);
CREATE INDEX IF NOT EXISTS dead_letters_unresolved ON dead_letters (id) WHERE NOT resolved;
