-- What the pipeline stores. Safe to run twice. docs/architecture.md tells the story; here are the facts.

CREATE EXTENSION IF NOT EXISTS timescaledb;

-- Login roles belong to the deployment; these say what each service may do.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'brigade_ingest') THEN
        CREATE ROLE brigade_ingest NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'brigade_read') THEN
        CREATE ROLE brigade_read NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'brigade_gateway') THEN
        CREATE ROLE brigade_gateway NOLOGIN IN ROLE brigade_read;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- another database of the cluster was quicker
END $$;

-- Names become numbers at a thing's first reading -------------------------------------------------------

CREATE TABLE IF NOT EXISTS sites (
    id           int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE,                  -- as in the MQTT topic
    display_name text,
    time_zone    text NOT NULL DEFAULT 'UTC',           -- IANA name: readings_1d counts its days
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS devices (
    id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             text NOT NULL UNIQUE,              -- unique in the installation
    display_name     text,
    site_id          int NOT NULL REFERENCES sites,
    previous_site_id int REFERENCES sites,              -- backlog under the old topic stays welcome for the past limit
    moved_at         timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS devices_site ON devices (site_id);

CREATE TABLE IF NOT EXISTS metrics (
    id          smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    unit        text,                                   -- from the name's suffix; NULL when it has none
    lower_bound double precision,                       -- bounds mark a value, they never refuse it
    upper_bound double precision
);

CREATE TABLE IF NOT EXISTS device_metrics (
    device_id int NOT NULL,
    metric_id smallint NOT NULL,
    PRIMARY KEY (device_id, metric_id)
);

-- The readings: one row a point -------------------------------------------------------------------------
-- No foreign keys here: the worker writes only numbers it took from the tables above.

CREATE TABLE IF NOT EXISTS readings (
    ts          timestamptz NOT NULL,                   -- the device's time
    received_at timestamptz NOT NULL,                   -- the bridge's time
    value       double precision NOT NULL,
    seq         bigint,                                 -- as the device counts, for gap detection
    device_id   int NOT NULL,
    metric_id   smallint NOT NULL,
    PRIMARY KEY (device_id, metric_id, ts)
);
SELECT create_hypertable('readings', by_range('ts', INTERVAL '1 day'), create_default_indexes => false, if_not_exists => true);

-- Roll-ups: computed from the rows of marked minutes, never added up on the side --------------------------

CREATE TABLE IF NOT EXISTS readings_1m (
    bucket    timestamptz NOT NULL,
    n         bigint NOT NULL,
    sum       double precision NOT NULL,
    min       double precision NOT NULL,
    max       double precision NOT NULL,
    first     double precision NOT NULL,
    last      double precision NOT NULL,
    first_ts  timestamptz NOT NULL,
    last_ts   timestamptz NOT NULL,
    device_id int NOT NULL,
    metric_id smallint NOT NULL,
    PRIMARY KEY (device_id, metric_id, bucket)
);
CREATE TABLE IF NOT EXISTS readings_1h (LIKE readings_1m INCLUDING ALL);   -- UTC hours
CREATE TABLE IF NOT EXISTS readings_1d (LIKE readings_1m INCLUDING ALL);   -- bucket = the site's local midnight
SELECT create_hypertable('readings_1m', by_range('bucket', INTERVAL '7 days'), create_default_indexes => false, if_not_exists => true);
SELECT create_hypertable('readings_1h', by_range('bucket', INTERVAL '90 days'), create_default_indexes => false, if_not_exists => true);

-- A mark says: this bucket of this device must be computed (again). Only the partition's owner clears it.
CREATE TABLE IF NOT EXISTS marks (
    bucket    timestamptz NOT NULL,
    partition int NOT NULL,
    device_id int NOT NULL,
    level     smallint NOT NULL,                        -- 0 minute, 1 hour, 2 local day
    PRIMARY KEY (level, device_id, bucket)
);
CREATE INDEX IF NOT EXISTS marks_by_partition ON marks (partition, level, bucket);
ALTER TABLE marks SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

-- What happened to every reading ------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS ledger (
    hour      timestamptz NOT NULL,                     -- of receipt, UTC
    device_id int NOT NULL,                             -- 0: no device could be told
    received  bigint NOT NULL DEFAULT 0,
    stored    bigint NOT NULL DEFAULT 0,                -- at least one point was new
    duplicate bigint NOT NULL DEFAULT 0,                -- none was
    refused   bigint NOT NULL DEFAULT 0,                -- became a dead letter
    late      bigint NOT NULL DEFAULT 0,                -- part of stored: came after its minute had been closed
    points    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, hour),
    CONSTRAINT received_is_stored_or_duplicate_or_refused CHECK (received = stored + duplicate + refused)
);
CREATE TABLE IF NOT EXISTS ledger_refusals (
    hour      timestamptz NOT NULL,
    device_id int NOT NULL,
    reason    text NOT NULL,
    refused   bigint NOT NULL,
    PRIMARY KEY (device_id, hour, reason)
);
-- A batch appends one row here instead of updating one ledger row per device; workers fold it in every few seconds.
CREATE TABLE IF NOT EXISTS ledger_pending (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hour       timestamptz NOT NULL,
    device_ids int[] NOT NULL,
    received   int[] NOT NULL,                          -- beside device_ids; these may be negative: a replay corrects
    stored     int[] NOT NULL,
    duplicate  int[] NOT NULL,                          -- these three may be shorter than device_ids: zeros are left out
    refused    int[] NOT NULL,
    late       int[] NOT NULL,
    points     int[] NOT NULL
);
ALTER TABLE ledger_pending SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);

-- The ledger as anyone should read it: folded and not yet folded, exact at every moment.
CREATE OR REPLACE VIEW ledger_now AS
SELECT device_id, hour, sum(received)::bigint AS received, sum(stored)::bigint AS stored,
       sum(duplicate)::bigint AS duplicate, sum(refused)::bigint AS refused,
       sum(late)::bigint AS late, sum(points)::bigint AS points
FROM (
    SELECT device_id, hour, received, stored, duplicate, refused, late, points FROM ledger
    UNION ALL
    SELECT u.device_id, p.hour, u.received, u.stored, coalesce(u.duplicate, 0), coalesce(u.refused, 0),
           coalesce(u.late, 0), u.points
    FROM ledger_pending p,
         unnest(p.device_ids, p.received, p.stored, p.duplicate, p.refused, p.late, p.points)
             AS u (device_id, received, stored, duplicate, refused, late, points)
) AS both_parts
GROUP BY device_id, hour;

CREATE TABLE IF NOT EXISTS dead_letters (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at          timestamptz NOT NULL DEFAULT now(),
    received_at         timestamptz NOT NULL,           -- by the bridge; a replay keeps it
    reason              text NOT NULL,                  -- pipeline.readings.Reason
    detail              text NOT NULL,                  -- for a person
    mqtt_topic          text NOT NULL,                  -- '' when the Kafka record itself could not be read
    payload             bytea NOT NULL,                 -- the original bytes: of the message, or of one element of an array
    payload_size        bigint NOT NULL,                -- of the original, also when cut
    payload_sha256      text,                           -- of the original, when cut
    element             int,                            -- index in the array it came in; NULL: the whole message
    device_id           int NOT NULL DEFAULT 0,         -- 0: none could be told
    kafka_partition     int NOT NULL,
    kafka_offset        bigint NOT NULL,
    position            int NOT NULL,                   -- of the message in its record
    replay_requested_at timestamptz,
    replay_published_at timestamptz,
    replayed_at         timestamptz,                    -- set with the outcome
    outcome             text,                           -- stored, duplicate, or the reason it was refused again
    resolved            boolean NOT NULL DEFAULT false  -- true once a replay was stored or found a duplicate
);
CREATE INDEX IF NOT EXISTS dead_letters_by_device ON dead_letters (device_id, id);
CREATE INDEX IF NOT EXISTS dead_letters_by_reason ON dead_letters (reason, id);
CREATE INDEX IF NOT EXISTS dead_letters_by_time ON dead_letters (received_at);
CREATE INDEX IF NOT EXISTS dead_letters_unresolved ON dead_letters (id) WHERE NOT resolved;
CREATE INDEX IF NOT EXISTS dead_letters_to_replay ON dead_letters (kafka_partition, id)
    WHERE replay_requested_at IS NOT NULL AND replay_published_at IS NULL;

CREATE TABLE IF NOT EXISTS device_status (
    device_id   int PRIMARY KEY,
    online      boolean NOT NULL,
    received_at timestamptz NOT NULL                    -- of the status message
);

-- Kafka messages that belong to a transaction: inserted in it, published after it, deleted after Kafka's ack.
CREATE TABLE IF NOT EXISTS outbox (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition int NOT NULL,                             -- of readings.raw: its owner publishes
    topic     text NOT NULL,
    key       text NOT NULL,
    value     bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS outbox_by_partition ON outbox (partition, id);
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

-- Where each partition stands: compared and swapped in the transaction that writes its rows.
CREATE TABLE IF NOT EXISTS ingest_offsets (
    consumer_group text NOT NULL,
    topic          text NOT NULL,
    partition      int NOT NULL,
    topic_id       text NOT NULL,
    next_offset    bigint NOT NULL,
    closings       bigint NOT NULL DEFAULT 0,           -- transactions that cleared marks of this partition
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);

-- Buckets as they are now: computed ones, and marked ones from one level below ----------------------------

CREATE OR REPLACE VIEW readings_1m_now AS
SELECT device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts
FROM readings_1m c
WHERE NOT EXISTS (SELECT FROM marks m WHERE m.level = 0 AND m.device_id = c.device_id AND m.bucket = c.bucket)
UNION ALL
SELECT m.device_id, r.metric_id, m.bucket, r.n, r.sum, r.min, r.max, r.first, r.last, r.first_ts, r.last_ts
FROM marks m, LATERAL (
    SELECT metric_id, count(*) AS n, sum(value) AS sum, min(value) AS min, max(value) AS max,
           first(value, ts) AS first, last(value, ts) AS last, min(ts) AS first_ts, max(ts) AS last_ts
    FROM readings q
    WHERE q.device_id = m.device_id AND q.ts >= m.bucket AND q.ts < m.bucket + INTERVAL '1 minute'
    GROUP BY metric_id
) r
WHERE m.level = 0;

CREATE OR REPLACE VIEW readings_1h_now AS
WITH dirty AS (
    SELECT device_id, bucket FROM marks WHERE level = 1
    UNION
    SELECT device_id, date_trunc('hour', bucket, 'UTC') FROM marks WHERE level = 0
)
SELECT device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts
FROM readings_1h c
WHERE NOT EXISTS (SELECT FROM marks m WHERE m.level = 1 AND m.device_id = c.device_id AND m.bucket = c.bucket)
  AND NOT EXISTS (SELECT FROM marks m WHERE m.level = 0 AND m.device_id = c.device_id
                  AND m.bucket >= c.bucket AND m.bucket < c.bucket + INTERVAL '1 hour')
UNION ALL
SELECT d.device_id, r.metric_id, d.bucket, r.n, r.sum, r.min, r.max, r.first, r.last, r.first_ts, r.last_ts
FROM dirty d, LATERAL (
    SELECT metric_id, sum(n)::bigint AS n, sum(sum) AS sum, min(min) AS min, max(max) AS max,
           first(first, first_ts) AS first, last(last, last_ts) AS last, min(first_ts) AS first_ts, max(last_ts) AS last_ts
    FROM readings_1m_now q
    WHERE q.device_id = d.device_id AND q.bucket >= d.bucket AND q.bucket < d.bucket + INTERVAL '1 hour'
    GROUP BY metric_id
) r;

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

-- NOT MATERIALIZED: marks are looked up for the asked-for devices only, not collected for all of them first.
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

-- Rights ------------------------------------------------------------------------------------------------

GRANT USAGE ON SCHEMA public TO brigade_ingest, brigade_read;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO brigade_ingest;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO brigade_ingest;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO brigade_read;
GRANT UPDATE (replay_requested_at, replay_published_at) ON dead_letters TO brigade_gateway; -- all it may write
