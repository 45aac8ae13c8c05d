CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    meta BLOB NOT NULL,
    position INTEGER NOT NULL
) STRICT;

CREATE TABLE streams (
    key INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    category TEXT NOT NULL,
    revision INTEGER NOT NULL,
    number INTEGER NOT NULL,
    first_retained INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    last_id BLOB NOT NULL,
    last_marker BLOB,
    last_imported INTEGER,
    checksum INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX streams_by_name ON streams (namespace, name);

CREATE INDEX streams_by_category ON streams (category, namespace, name);

CREATE TABLE commits (
    position INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    number INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    count INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    id BLOB NOT NULL,
    digest BLOB NOT NULL,
    marker BLOB,
    imported INTEGER,
    grouped BLOB,
    extensions BLOB,
    events_checksum INTEGER,
    checksum INTEGER NOT NULL,
    events BLOB
) STRICT;

CREATE UNIQUE INDEX commits_by_revision ON commits (stream, revision, number);

CREATE UNIQUE INDEX commits_by_id ON commits (stream, id);

CREATE TABLE removed (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE snapshots (
    stream INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    number INTEGER NOT NULL,
    id BLOB NOT NULL,
    schema INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    taken_at INTEGER NOT NULL,
    data_checksum INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE records (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    number INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    value BLOB,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
