-- Which of a node's records were removed because of their age: those up to `seq`, which ended before `ended_before`.
-- The chain goes on from `chain`. The sums are those of what was removed; it stays in its buckets.
CREATE TABLE removed (
    node TEXT COLLATE "C" PRIMARY KEY,
    seq BIGINT NOT NULL,
    chain BYTEA NOT NULL,
    ended_before TIMESTAMPTZ NOT NULL,
    requests BIGINT NOT NULL,
    input BIGINT NOT NULL,
    cache_read BIGINT NOT NULL,
    cache_write BIGINT NOT NULL,
    output BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    cost_nanousd BIGINT NOT NULL,
    priced_requests BIGINT NOT NULL,
    unpriced_tokens BIGINT NOT NULL,
    reported_tokens BIGINT NOT NULL,
    partial_tokens BIGINT NOT NULL,
    estimated_tokens BIGINT NOT NULL,
    unknown_requests BIGINT NOT NULL
);

CREATE FUNCTION what_was_removed_stays_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what was removed stays removed';
END
$$;
CREATE TRIGGER removed_goes_on BEFORE UPDATE ON removed FOR EACH ROW
    WHEN (NEW.node <> OLD.node OR NEW.seq < OLD.seq OR NEW.ended_before < OLD.ended_before)
    EXECUTE FUNCTION what_was_removed_stays_removed();
CREATE TRIGGER removed_is_not_deleted BEFORE DELETE ON removed
    FOR EACH ROW EXECUTE FUNCTION what_was_removed_stays_removed();
CREATE TRIGGER removed_is_not_emptied BEFORE TRUNCATE ON removed
    FOR EACH STATEMENT EXECUTE FUNCTION what_was_removed_stays_removed();

-- The triggers stay as they are, on every month's table: what they run is all that changes, and nobody waits for that.
CREATE OR REPLACE FUNCTION records_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.seq <= (SELECT seq FROM tokenmeter.removed WHERE node = OLD.node) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'records are append-only';
END
$$;
