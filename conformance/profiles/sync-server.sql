-- The tables that the suite is run on: one of each kind that a check asks for.
CREATE TABLE notes(
    id TEXT PRIMARY KEY NOT NULL,
    title TEXT NOT NULL,
    body TEXT,
    pinned INTEGER DEFAULT 3
);
CREATE TABLE users(id BLOB PRIMARY KEY NOT NULL, name TEXT NOT NULL, email TEXT UNIQUE);
CREATE TABLE typed_rows(
    id BLOB PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    note TEXT,
    count_value INTEGER,
    rating REAL,
    data BLOB,
    stars INTEGER CHECK (stars >= 0)
);
CREATE TABLE posts(
    id TEXT PRIMARY KEY NOT NULL,
    title TEXT NOT NULL,
    author_id BLOB REFERENCES users(id)
);
CREATE TABLE files(id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL);
CREATE TABLE file_reviews(
    id TEXT PRIMARY KEY NOT NULL,
    review TEXT NOT NULL,
    file_id TEXT NOT NULL REFERENCES files(id) ON DELETE CASCADE
);
CREATE TABLE file_tags(
    id TEXT PRIMARY KEY NOT NULL,
    tag TEXT NOT NULL,
    file_id TEXT REFERENCES files(id) ON DELETE SET NULL
);
CREATE TABLE categories(
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    parent_id TEXT REFERENCES categories(id) ON DELETE CASCADE
);
CREATE TABLE teams(
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    captain_id TEXT REFERENCES members(id)
);
CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, team_id TEXT REFERENCES teams(id));
CREATE TABLE counters(id INTEGER PRIMARY KEY NOT NULL, label TEXT NOT NULL);
CREATE TABLE labels(
    note_id TEXT NOT NULL,
    label TEXT NOT NULL,
    comment TEXT,
    PRIMARY KEY (note_id, label)
) WITHOUT ROWID;
