-- A research notebook: the schema of an app, as the app itself runs it on each device.
CREATE TABLE notebooks (
    id    BLOB PRIMARY KEY NOT NULL, -- a UUID, 16 bytes
    title TEXT NOT NULL
);
CREATE TABLE notes (
    id          TEXT PRIMARY KEY NOT NULL,
    notebook_id BLOB NOT NULL REFERENCES notebooks (id) ON DELETE CASCADE,
    title       TEXT NOT NULL,
    body        TEXT,
    written_ns  INTEGER NOT NULL, -- nanoseconds since 1970: beyond 2^53
    pinned      INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1))
);
CREATE INDEX notes_by_notebook ON notes (notebook_id);
CREATE TABLE tags (
    id   INTEGER PRIMARY KEY, -- minted by each device
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE note_tags (
    note_id TEXT NOT NULL REFERENCES notes (id) ON DELETE CASCADE ON UPDATE CASCADE,
    tag_id  INTEGER NOT NULL REFERENCES tags (id) ON DELETE CASCADE ON UPDATE CASCADE,
    PRIMARY KEY (note_id, tag_id)
) WITHOUT ROWID;
CREATE INDEX note_tags_by_tag ON note_tags (tag_id);
CREATE TABLE attachments (
    id      TEXT PRIMARY KEY NOT NULL,
    note_id TEXT NOT NULL REFERENCES notes (id) ON DELETE CASCADE ON UPDATE CASCADE,
    mime    TEXT,
    bytes   BLOB NOT NULL
);
CREATE INDEX attachments_by_note ON attachments (note_id);
CREATE TABLE readings (
    id      TEXT PRIMARY KEY NOT NULL,
    note_id TEXT REFERENCES notes (id) ON DELETE SET NULL ON UPDATE CASCADE,
    value   REAL -- infinity where the sensor saturated, NULL where it was silent
);
CREATE INDEX readings_by_note ON readings (note_id);
CREATE TABLE settings (
    name  TEXT PRIMARY KEY NOT NULL,
    value -- of any type
) WITHOUT ROWID;

-- Each device keeps its own full-text index; it is not synced, its triggers follow what is.
CREATE VIRTUAL TABLE notes_fts USING fts5 (title, body, content = 'notes', content_rowid = 'rowid');
CREATE TRIGGER notes_fts_insert AFTER INSERT ON notes BEGIN
    INSERT INTO notes_fts (rowid, title, body) VALUES (new.rowid, new.title, new.body);
END;
CREATE TRIGGER notes_fts_delete AFTER DELETE ON notes BEGIN
    INSERT INTO notes_fts (notes_fts, rowid, title, body) VALUES ('delete', old.rowid, old.title, old.body);
END;
CREATE TRIGGER notes_fts_update AFTER UPDATE ON notes BEGIN
    INSERT INTO notes_fts (notes_fts, rowid, title, body) VALUES ('delete', old.rowid, old.title, old.body);
    INSERT INTO notes_fts (rowid, title, body) VALUES (new.rowid, new.title, new.body);
END;
