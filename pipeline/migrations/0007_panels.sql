-- Grafana's panels read with a role of their own: whoever may see a dashboard may send any SQL through it, so the role
-- sees what panels show, and no bytes of dead letters; it writes nothing and ends what takes too long. What is set here
-- holds for who logs in as this role, so the deployment gives it LOGIN and a password, instead of a member of it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'brigade_grafana') THEN
        CREATE ROLE brigade_grafana NOLOGIN CONNECTION LIMIT 20;
        ALTER ROLE brigade_grafana SET default_transaction_read_only = on;
        ALTER ROLE brigade_grafana SET statement_timeout = '10s';
        ALTER ROLE brigade_grafana SET lock_timeout = '1s';
        ALTER ROLE brigade_grafana SET idle_in_transaction_session_timeout = '10s';
        ALTER ROLE brigade_grafana SET jit = off; -- compiling takes longer than any panel's answer
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- another database of the cluster was quicker
END $$;

GRANT USAGE ON SCHEMA public TO brigade_grafana;
GRANT SELECT ON sites, devices, metrics, device_metrics, device_status, readings, readings_1m, readings_1h, readings_1d,
    readings_1m_now, readings_1h_now, readings_1d_now, ledger, ledger_refusals, ledger_now TO brigade_grafana;
GRANT SELECT (id, created_at, received_at, reason, detail, mqtt_topic, payload_size, element, device_id, replayed_at,
    outcome, resolved) ON dead_letters TO brigade_grafana;
