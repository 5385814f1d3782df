-- What calls with reported usage taught of calls that are alike: numbers and hashes as JSON, never text.
CREATE TABLE calibration (
    upstream TEXT NOT NULL,
    model TEXT NOT NULL,
    operation TEXT NOT NULL,
    state TEXT NOT NULL,
    observations INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (upstream, model, operation)
) STRICT, WITHOUT ROWID;
