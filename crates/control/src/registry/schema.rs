//! The registry's tables. Every row that belongs to a tenant carries its name.

/// What [`minnow_store::Database::open`] runs, in order. Entries are appended, never changed: the number of those that have
/// run is the schema's version.
pub const MIGRATIONS: &[&str] = &["
CREATE TABLE tenant (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
INSERT INTO tenant (name) VALUES ('default');

-- A token itself is never stored, only its sha256. `sequence` is the order of creation.
CREATE TABLE token (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    tenant     TEXT NOT NULL REFERENCES tenant,
    name       TEXT NOT NULL,
    hash       BLOB NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE app (
    tenant     TEXT NOT NULL REFERENCES tenant,
    name       TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

-- `sequence` is the order of publishing, also within one millisecond.
CREATE TABLE version (
    sequence     INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant       TEXT NOT NULL,
    app          TEXT NOT NULL,
    version      TEXT NOT NULL,
    digest       TEXT NOT NULL,
    config       TEXT NOT NULL,
    published_ms INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    UNIQUE (tenant, app, version),
    FOREIGN KEY (tenant, app) REFERENCES app (tenant, name) ON DELETE CASCADE
) STRICT;

-- Which blobs a version needs: its manifest, its config and its layers.
CREATE TABLE version_layer (
    tenant  TEXT NOT NULL,
    app     TEXT NOT NULL,
    version TEXT NOT NULL,
    digest  TEXT NOT NULL,
    PRIMARY KEY (tenant, app, version, digest),
    FOREIGN KEY (tenant, app, version) REFERENCES version (tenant, app, version) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX version_layer_digest ON version_layer (digest);

-- Code that was given to the compiler. `kind` is NULL until it compiled. Content belongs to no tenant.
CREATE TABLE code (
    digest     TEXT PRIMARY KEY,
    kind       TEXT,
    touched_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The newest revision of an app is live. A rollback names the revision whose shares it brought back.
CREATE TABLE deployment (
    tenant   TEXT NOT NULL,
    app      TEXT NOT NULL,
    revision INTEGER NOT NULL,
    time_ms  INTEGER NOT NULL,
    cause    TEXT NOT NULL,
    restores INTEGER,
    shares   TEXT NOT NULL,
    PRIMARY KEY (tenant, app, revision),
    FOREIGN KEY (tenant, app) REFERENCES app (tenant, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
", "
-- What each share's version was, by the digest of its manifest: a number whose version was deleted can be published again
-- with other content. Empty for deployments that were made before this column.
ALTER TABLE deployment ADD COLUMN digests TEXT NOT NULL DEFAULT '[]';
", "
-- Variables of an app's functions, as they are now. `revision` is the change that set it.
CREATE TABLE variable (
    tenant   TEXT NOT NULL,
    app      TEXT NOT NULL,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    revision INTEGER NOT NULL,
    time_ms  INTEGER NOT NULL,
    PRIMARY KEY (tenant, app, name),
    FOREIGN KEY (tenant, app) REFERENCES app (tenant, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- What was changed of them, as JSON: names with their values, or null for those that went.
CREATE TABLE variable_change (
    tenant   TEXT NOT NULL,
    app      TEXT NOT NULL,
    revision INTEGER NOT NULL,
    time_ms  INTEGER NOT NULL,
    changes  TEXT NOT NULL,
    PRIMARY KEY (tenant, app, revision),
    FOREIGN KEY (tenant, app) REFERENCES app (tenant, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Secrets, sealed with the key `key_id` of the node's key file (minnow-store, `Vault`).
CREATE TABLE secret (
    tenant     TEXT NOT NULL,
    app        TEXT NOT NULL,
    name       TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    nonce      BLOB NOT NULL,
    sealed     BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, app, name),
    FOREIGN KEY (tenant, app) REFERENCES app (tenant, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
", "
-- Apps that are deleted and whose data is still there, with what is to become of it: `keep` or `purge`. None of them is in `app`.
CREATE TABLE deletion (
    tenant TEXT NOT NULL REFERENCES tenant,
    app    TEXT NOT NULL,
    fate   TEXT NOT NULL,
    PRIMARY KEY (tenant, app)
) STRICT, WITHOUT ROWID;
"];
