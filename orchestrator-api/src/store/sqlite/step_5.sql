-- Groups of jobs, each begun once. Their logs stand among the others in a namespace that no job can have.
CREATE TABLE groups (
    id BLOB PRIMARY KEY,
    log INTEGER NOT NULL REFERENCES logs,
    name TEXT NOT NULL,
    key TEXT UNIQUE,
    wanted TEXT NOT NULL,
    completed_at INTEGER,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX groups_name ON groups (name, id);
CREATE INDEX groups_completed_at ON groups (completed_at);
CREATE INDEX groups_log ON groups (log);
