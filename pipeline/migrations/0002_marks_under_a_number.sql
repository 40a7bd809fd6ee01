-- A mark bears the number of closings under which it was set last: one that is set again while its minute is being
-- computed outlives that.
ALTER TABLE marks ADD COLUMN IF NOT EXISTS closings bigint NOT NULL DEFAULT 0;
