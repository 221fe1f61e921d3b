-- Namespace and name are both empty for the fleet's log: so it comes first, and jobs in the order of their ids.
CREATE TABLE logs (
    log INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    seed INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    UNIQUE (namespace, name)
) STRICT;

-- AUTOINCREMENT: a position is never given twice, even if every entry before it is gone.
CREATE TABLE entries (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    log INTEGER NOT NULL REFERENCES logs,
    seq INTEGER NOT NULL,
    number INTEGER,
    revision INTEGER,
    at INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (log, seq)
) STRICT;
CREATE INDEX entries_of_deployment ON entries (log, number, revision, seq) WHERE number IS NOT NULL;
CREATE INDEX entries_of_none ON entries (at) WHERE number IS NULL;

CREATE TABLE snapshots (
    log INTEGER PRIMARY KEY REFERENCES logs,
    seq INTEGER NOT NULL,
    machine BLOB NOT NULL
) STRICT;

CREATE TABLE jobs (
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT;

-- Narrow on purpose: a list looks at many of these rows for each one that it shows. The records stand apart.
CREATE TABLE deployments (
    row INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    log INTEGER NOT NULL REFERENCES logs,
    number INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    job_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state TEXT NOT NULL,
    from_version INTEGER NOT NULL,
    to_version INTEGER NOT NULL,
    total_nodes INTEGER NOT NULL,
    updated_nodes INTEGER NOT NULL,
    failed_nodes INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    completed_at INTEGER
) STRICT;
CREATE UNIQUE INDEX deployments_id ON deployments (id);
CREATE INDEX deployments_job ON deployments (namespace, job_id, id);
CREATE INDEX deployments_namespace ON deployments (namespace, id);
CREATE INDEX deployments_job_id ON deployments (job_id, id);
CREATE INDEX deployments_type ON deployments (type, id);
CREATE INDEX deployments_state ON deployments (state, id);
CREATE INDEX deployments_from_version ON deployments (from_version, id);
CREATE INDEX deployments_to_version ON deployments (to_version, id);
CREATE INDEX deployments_total_nodes ON deployments (total_nodes, id);
CREATE INDEX deployments_updated_nodes ON deployments (updated_nodes, id);
CREATE INDEX deployments_failed_nodes ON deployments (failed_nodes, id);
CREATE INDEX deployments_revision ON deployments (revision, id);
CREATE INDEX deployments_created_at ON deployments (created_at, id);
CREATE INDEX deployments_updated_at ON deployments (updated_at, id);
CREATE INDEX deployments_completed_at ON deployments (completed_at, id);

CREATE TABLE records (
    row INTEGER PRIMARY KEY REFERENCES deployments ON DELETE CASCADE,
    record TEXT NOT NULL
) STRICT;

-- A hundred targets or so in each row, as one JSON array.
CREATE TABLE targets (
    deployment BLOB NOT NULL,
    chunk INTEGER NOT NULL,
    records TEXT NOT NULL,
    PRIMARY KEY (deployment, chunk)
) STRICT;

CREATE TABLE nodes (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;

CREATE TABLE tokens (id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;

CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX audit_at ON audit (at);

-- What a check writes to find out whether it can.
CREATE TABLE probe (id INTEGER PRIMARY KEY, count INTEGER NOT NULL) STRICT;
INSERT INTO probe VALUES (1, 0);
