-- One row a call. Instants are microseconds since 1970; absent counts are NULL, never 0.
CREATE TABLE records (
    node TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id BLOB NOT NULL UNIQUE,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    department TEXT NOT NULL,
    team TEXT NOT NULL,
    app TEXT,
    key TEXT,
    attributed_by TEXT NOT NULL,
    tags TEXT,
    upstream TEXT NOT NULL,
    wire TEXT NOT NULL,
    provider TEXT NOT NULL,
    operation TEXT NOT NULL,
    model_requested TEXT,
    model TEXT,
    stream INTEGER NOT NULL,
    status INTEGER,
    outcome TEXT NOT NULL,
    provenance TEXT NOT NULL,
    input INTEGER,
    cache_read INTEGER,
    cache_write INTEGER,
    output INTEGER,
    reasoning INTEGER,
    cache_write_1h INTEGER,
    audio_input INTEGER,
    audio_output INTEGER,
    image_input INTEGER,
    image_output INTEGER,
    units TEXT,
    usage_raw TEXT,
    service_tier TEXT,
    estimate TEXT,
    delivered_output INTEGER,
    anomaly TEXT,
    cost_nanousd INTEGER,
    cost_input_nanousd INTEGER,
    cost_cache_read_nanousd INTEGER,
    cost_cache_write_nanousd INTEGER,
    cost_output_nanousd INTEGER,
    price TEXT,
    time_to_first_byte_ms INTEGER,
    duration_ms INTEGER NOT NULL,
    UNIQUE (node, seq)
) STRICT;

CREATE INDEX records_by_end ON records (ended_at, node, seq);
CREATE INDEX records_by_team ON records (team, ended_at);

CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records
BEGIN SELECT RAISE(ABORT, 'records are append-only'); END;
CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records
BEGIN SELECT RAISE(ABORT, 'records are append-only'); END;

-- A call that the journal ends twice: the machine lost power between a record and its being lasting. The place in the
-- node's order is taken by it, the consumption is counted once.
CREATE TABLE duplicates (
    node TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id BLOB NOT NULL,
    PRIMARY KEY (node, seq)
) STRICT;

-- Sums of the records that ended within a bucket of fifteen minutes. What a record has not is ''.
CREATE TABLE buckets (
    bucket INTEGER NOT NULL,
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
    PRIMARY KEY (bucket, department, team, app, key, provider, upstream, operation, model)
) STRICT, WITHOUT ROWID;

-- Up to where the journal is applied, and the last seq of every node ever seen.
CREATE TABLE positions (
    node TEXT PRIMARY KEY,
    segment INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    last_seq INTEGER NOT NULL
) STRICT;

-- Virtual keys: the secret itself is nowhere.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    sha256 BLOB NOT NULL UNIQUE,
    team TEXT NOT NULL,
    app TEXT,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

-- Moves with every change of a key, so that a server can ask cheaply and often.
CREATE TABLE keys_version (version INTEGER NOT NULL) STRICT;
INSERT INTO keys_version VALUES (0);
CREATE TRIGGER keys_version_moves_on_insert AFTER INSERT ON keys
BEGIN UPDATE keys_version SET version = version + 1; END;
CREATE TRIGGER keys_version_moves_on_update AFTER UPDATE ON keys
BEGIN UPDATE keys_version SET version = version + 1; END;
CREATE TRIGGER keys_version_moves_on_delete AFTER DELETE ON keys
BEGIN UPDATE keys_version SET version = version + 1; END;
