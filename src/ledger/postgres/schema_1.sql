-- One row a call. Absent counts are NULL, never 0. Texts are kept as they came: usage_raw verbatim, tags, units and
-- estimate as JSON. Texts sort by their bytes, as everything that reads them does.
CREATE TABLE records (
    node TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    id UUID NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    ended_at TIMESTAMPTZ NOT NULL,
    department TEXT COLLATE "C" NOT NULL,
    team TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C",
    key TEXT COLLATE "C",
    attributed_by TEXT COLLATE "C" NOT NULL,
    tags TEXT COLLATE "C",
    upstream TEXT COLLATE "C" NOT NULL,
    wire TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    operation TEXT COLLATE "C" NOT NULL,
    model_requested TEXT COLLATE "C",
    model TEXT COLLATE "C",
    stream BOOLEAN NOT NULL,
    status INTEGER,
    outcome TEXT COLLATE "C" NOT NULL,
    provenance TEXT COLLATE "C" NOT NULL,
    input BIGINT,
    cache_read BIGINT,
    cache_write BIGINT,
    output BIGINT,
    reasoning BIGINT,
    cache_write_1h BIGINT,
    audio_input BIGINT,
    audio_output BIGINT,
    image_input BIGINT,
    image_output BIGINT,
    units TEXT COLLATE "C",
    usage_raw TEXT COLLATE "C",
    service_tier TEXT COLLATE "C",
    estimate TEXT COLLATE "C",
    delivered_output BIGINT,
    anomaly TEXT COLLATE "C",
    cost_nanousd BIGINT,
    cost_input_nanousd BIGINT,
    cost_cache_read_nanousd BIGINT,
    cost_cache_write_nanousd BIGINT,
    cost_output_nanousd BIGINT,
    price TEXT COLLATE "C",
    time_to_first_byte_ms BIGINT,
    duration_ms BIGINT NOT NULL,
    job TEXT COLLATE "C",
    chain BYTEA NOT NULL
) PARTITION BY RANGE (ended_at);

CREATE INDEX records_by_end ON records (ended_at, node, seq);
CREATE INDEX records_by_team ON records (team, ended_at);
CREATE INDEX records_by_id ON records (id);
-- What a server must know of jobs: those begun and those counted, the newest first.
CREATE INDEX records_of_jobs ON records (ended_at, node, seq) WHERE job IS NOT NULL AND provenance <> 'none';

-- What no month has room for is taken all the same.
CREATE TABLE records_of_other_months PARTITION OF records DEFAULT;
CREATE UNIQUE INDEX records_of_other_months_by_place ON records_of_other_months (node, seq);

CREATE FUNCTION records_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'records are append-only';
END
$$;
CREATE TRIGGER records_are_not_changed BEFORE UPDATE OR DELETE ON records
    FOR EACH ROW EXECUTE FUNCTION records_are_append_only();
CREATE TRIGGER records_are_not_emptied BEFORE TRUNCATE ON records
    FOR EACH STATEMENT EXECUTE FUNCTION records_are_append_only();

-- A call that a journal ends twice: the machine lost power between a record and its being lasting. The place in the
-- node's order is taken by it, the consumption is counted once.
CREATE TABLE duplicates (
    node TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    id UUID NOT NULL,
    chain BYTEA NOT NULL,
    PRIMARY KEY (node, seq)
);

-- Sums of the records of a node that ended within a bucket of fifteen minutes; a report sums over nodes, so that no two
-- nodes ever wait for the same row. What a record has not is ''. A name may be longer than an index takes: rows are
-- known by a hash of the names.
CREATE TABLE buckets (
    bucket BIGINT NOT NULL,
    node TEXT COLLATE "C" NOT NULL,
    names_hash BYTEA NOT NULL,
    department TEXT COLLATE "C" NOT NULL,
    team TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    upstream TEXT COLLATE "C" NOT NULL,
    operation TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
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
    unknown_requests BIGINT NOT NULL,
    PRIMARY KEY (bucket, node, names_hash)
) WITH (fillfactor = 70);

-- A sum past 2⁶³ is that: a count beyond reason must not stop the records behind it.
CREATE FUNCTION sum_within_bigint(one BIGINT, other BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE AS $$
    SELECT GREATEST(LEAST(one::NUMERIC + other, 9223372036854775807), -9223372036854775808)::BIGINT
$$;

-- Up to where each node's journal is applied, and the end of the node's chain.
CREATE TABLE positions (
    node TEXT COLLATE "C" PRIMARY KEY,
    segment BIGINT NOT NULL,
    "offset" BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    chain BYTEA NOT NULL
);

-- Calls that passed unmetered while a journal could not record: how many is all that is known.
CREATE TABLE gaps (
    node TEXT COLLATE "C" NOT NULL,
    began_at TIMESTAMPTZ NOT NULL,
    ended_at TIMESTAMPTZ NOT NULL,
    requests BIGINT NOT NULL,
    PRIMARY KEY (node, began_at)
);
CREATE INDEX gaps_by_begin ON gaps (began_at);

-- Virtual keys: the secret itself is nowhere.
CREATE TABLE keys (
    id TEXT COLLATE "C" PRIMARY KEY,
    sha256 BYTEA NOT NULL UNIQUE,
    team TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C",
    created_at TIMESTAMPTZ NOT NULL,
    revoked_at TIMESTAMPTZ
);

-- Moves with every change of a key, so that a server can ask cheaply and often.
CREATE TABLE keys_version (version BIGINT NOT NULL);
INSERT INTO keys_version VALUES (0);
CREATE FUNCTION keys_version_moves() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE keys_version SET version = version + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER keys_version_moves AFTER INSERT OR UPDATE OR DELETE ON keys
    FOR EACH STATEMENT EXECUTE FUNCTION keys_version_moves();
