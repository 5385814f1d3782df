-- Calls that passed unmetered while a journal could not record, each row within one bucket: how many is all that is known.
CREATE TABLE gaps (
    node TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (node, began_at)
) STRICT;
