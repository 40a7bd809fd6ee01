-- A site in a zone that PostgreSQL does not know would stop the workers at its first day. NOT VALID: what is there already
-- is looked at when it changes.
DO $$
BEGIN
    ALTER TABLE sites ADD CONSTRAINT sites_time_zone_known
        CHECK ((timestamptz '2000-01-01 00:00+00' AT TIME ZONE time_zone) IS NOT NULL) NOT VALID;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
