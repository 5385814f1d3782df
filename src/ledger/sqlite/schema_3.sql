-- What a row is linked by: a hash of it and of all before it in its node's order (chain.rs). NULL: older than the chain.
ALTER TABLE records ADD COLUMN chain BLOB;
ALTER TABLE duplicates ADD COLUMN chain BLOB;

-- The link of the row at `last_seq`. Rows up to `chained_after` are older than the chain.
ALTER TABLE positions ADD COLUMN chain BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
ALTER TABLE positions ADD COLUMN chained_after INTEGER NOT NULL DEFAULT 0;
UPDATE positions SET chained_after = last_seq;

-- Which of a node's records were removed because of their age: those up to `seq`, which ended before `ended_before`.
-- The chain goes on from `chain`. The sums are those of what was removed; it stays in its buckets.
CREATE TABLE removed (
    node TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    chain BLOB NOT NULL,
    ended_before INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    priced_requests INTEGER NOT NULL,
    unpriced_tokens INTEGER NOT NULL,
    reported_tokens INTEGER NOT NULL,
    partial_tokens INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    unknown_requests INTEGER NOT NULL
) STRICT;
CREATE TRIGGER removed_goes_on BEFORE UPDATE ON removed
WHEN NEW.node <> OLD.node OR NEW.seq < OLD.seq OR NEW.ended_before < OLD.ended_before
BEGIN SELECT RAISE(ABORT, 'what was removed stays removed'); END;
CREATE TRIGGER removed_is_not_deleted BEFORE DELETE ON removed
BEGIN SELECT RAISE(ABORT, 'what was removed stays removed'); END;

DROP TRIGGER records_are_not_deleted;
CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records
WHEN OLD.seq > COALESCE((SELECT seq FROM removed WHERE node = OLD.node), 0)
BEGIN SELECT RAISE(ABORT, 'records are append-only'); END;

-- Sums of the buckets of a day in UTC, so that a month is read in a moment. The migration fills them.
CREATE TABLE days (
    day INTEGER NOT NULL,
    department TEXT NOT NULL,
    team TEXT NOT NULL,
    app TEXT NOT NULL,
    key TEXT NOT NULL,
    provider TEXT NOT NULL,
    upstream TEXT NOT NULL,
    operation TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    priced_requests INTEGER NOT NULL,
    unpriced_tokens INTEGER NOT NULL,
    reported_tokens INTEGER NOT NULL,
    partial_tokens INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    unknown_requests INTEGER NOT NULL,
    PRIMARY KEY (day, department, team, app, key, provider, upstream, operation, model)
) STRICT, WITHOUT ROWID;

-- Calls that passed unmetered while a journal could not record, each row within one bucket: how many is all that is known.
CREATE TABLE gaps (
    node TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (node, began_at)
) STRICT;
