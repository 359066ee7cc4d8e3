CREATE TABLE entry (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    text       TEXT NOT NULL,
    -- The key of a photo in the bucket; NULL where there is none.
    photo      TEXT,
    written_ms INTEGER NOT NULL
);

CREATE INDEX entry_by_name ON entry (name);
