-- What calls with reported usage taught each node of calls that are alike: numbers and hashes as JSON, never text.
CREATE TABLE calibration (
    node TEXT COLLATE "C" NOT NULL,
    upstream TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    operation TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL,
    observations BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (node, upstream, model, operation)
);
