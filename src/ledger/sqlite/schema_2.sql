-- The provider's id of the work that a call began, ended or asked for.
ALTER TABLE records ADD COLUMN job TEXT;

-- What a server must know of jobs when it starts: those begun and those counted, the newest first. Asking for one
-- again and again adds nothing.
CREATE INDEX records_of_jobs ON records (ended_at, node, seq) WHERE job IS NOT NULL AND provenance <> 'none';
