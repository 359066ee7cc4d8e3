CREATE TABLE entry (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    text       TEXT NOT NULL,
    written_ms INTEGER NOT NULL
);
