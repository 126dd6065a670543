//! `quickstart --input`: files as they are found in the field.

use std::path::Path;

use rusqlite::Connection;

use crate::{QUICKSTART, printed, run};

/// Makes a file, runs the quickstart on it, and checks that the file itself is as it was.
fn quickstart(sql: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.db");
    let conn = Connection::open(&file).unwrap();
    conn.execute_batch(sql).unwrap();
    drop(conn);
    let before = std::fs::read(&file).unwrap();
    let text = printed(QUICKSTART, &["--input", file.to_str().unwrap()]);
    assert_eq!(before, std::fs::read(&file).unwrap(), "the file is only read");
    assert!(text.ends_with("Both devices and the server hold the same rows.\n"), "{text}");
    text
}

#[test]
fn as_an_orm_makes_it() {
    let text = quickstart(
        r#"
        CREATE TABLE "auth_user" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "email" varchar(254) NOT NULL UNIQUE,
            "is_active" bool NOT NULL, "joined" datetime NOT NULL DEFAULT CURRENT_TIMESTAMP, "balance" decimal(10, 2));
        CREATE TABLE "blog_Post" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "title" varchar(200) NOT NULL,
            "author_id" integer NOT NULL REFERENCES "auth_user" ("id") ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
            "slug" varchar(50) GENERATED ALWAYS AS (lower(title)) VIRTUAL);
        CREATE INDEX "blog_post_author" ON "blog_Post" ("author_id");
        CREATE TABLE "order items" ("post" integer NOT NULL REFERENCES "blog_Post", "no" integer NOT NULL, "note" text,
            PRIMARY KEY ("post", "no"));
        CREATE UNIQUE INDEX "lower_email" ON "auth_user" (lower("email"));
        INSERT INTO "auth_user" ("email", "is_active", "balance")
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
            SELECT 'user' || i || '@example.org', i % 2, i * 1.25 FROM n;
        INSERT INTO "blog_Post" ("title", "author_id") SELECT 'Post of ' || email, id FROM "auth_user";
        INSERT INTO "order items" SELECT id, 1, 'größer' FROM "blog_Post" WHERE id % 3 = 0;
        DELETE FROM "auth_user" WHERE id = 298;
        "#,
    );
    assert!(text.contains("synced    auth_user (299 rows)"), "{text}");
    assert!(text.contains("Edits that lost on B"), "{text}");
}

#[test]
fn with_full_text_search_and_triggers() {
    let text = quickstart(
        r"
        PRAGMA journal_mode = WAL;
        CREATE TABLE docs (id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL, body TEXT, revised INTEGER) STRICT;
        CREATE TABLE audit (id INTEGER PRIMARY KEY, doc TEXT, what TEXT);
        CREATE TABLE stats (name TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL) WITHOUT ROWID;
        INSERT INTO stats VALUES ('docs', 0);
        CREATE VIRTUAL TABLE docs_fts USING fts5 (title, body, content = 'docs');
        CREATE VIEW recent AS SELECT * FROM docs ORDER BY revised DESC;
        CREATE TRIGGER docs_ai AFTER INSERT ON docs BEGIN
            INSERT INTO docs_fts (rowid, title, body) VALUES (new.rowid, new.title, new.body);
        END;
        CREATE TRIGGER docs_count AFTER INSERT ON docs BEGIN
            UPDATE stats SET n = n + 1 WHERE name = 'docs';
        END;
        CREATE TRIGGER docs_ad AFTER DELETE ON docs BEGIN
            INSERT INTO docs_fts (docs_fts, rowid, title, body) VALUES ('delete', old.rowid, old.title, old.body);
        END;
        CREATE TRIGGER docs_discount AFTER DELETE ON docs BEGIN
            UPDATE stats SET n = n - 1 WHERE name = 'docs';
        END;
        CREATE TRIGGER docs_au AFTER UPDATE ON docs BEGIN
            INSERT INTO docs_fts (docs_fts, rowid, title, body) VALUES ('delete', old.rowid, old.title, old.body);
            INSERT INTO docs_fts (rowid, title, body) VALUES (new.rowid, new.title, new.body);
        END;
        CREATE TRIGGER docs_audit AFTER UPDATE ON docs BEGIN
            INSERT INTO audit (doc, what) VALUES (new.id, 'updated');
        END;
        INSERT INTO docs WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
            SELECT printf('doc-%04d', i), 'Title ' || i, iif(i % 5, 'Body ' || i, NULL), 9007199254740992 + i FROM n;
        ",
    );
    assert!(text.contains("docs_fts: it is a virtual table"), "{text}");
    assert!(text.contains("agree with their tables: 1 of 1"), "{text}");
}

#[test]
fn with_tables_and_rows_that_cannot_travel() {
    let text = quickstart(
        r"
        CREATE TABLE log (at INTEGER, line TEXT);
        CREATE TABLE words (word TEXT COLLATE NOCASE PRIMARY KEY);
        CREATE TABLE uses (word TEXT REFERENCES words, n INTEGER PRIMARY KEY);
        CREATE TABLE loose (k TEXT PRIMARY KEY, v);
        CREATE TABLE pairs (a INTEGER, b TEXT, v BLOB, PRIMARY KEY (a, b));
        INSERT INTO log VALUES (1, 'x'), (1, 'x');
        INSERT INTO words VALUES ('a');
        INSERT INTO loose VALUES ('a', 1), (NULL, 'no key'), (NULL, 'no key either'), ('b', CAST(x'fffe' AS TEXT)),
            ('', 2.5), ('e', x''), ('i', 9e999), ('🦀', NULL);
        INSERT INTO pairs VALUES (1, 'x', x'00'), (1, 'y', 'text in a blob column'), (NULL, 'z', 5), (-9223372036854775808, '', 1e-300);
        ",
    );
    assert!(text.contains("log: it has no PRIMARY KEY"), "{text}");
    assert!(text.contains("words: key column word has collation NOCASE"), "{text}");
    assert!(text.contains("uses: it refers to words, which is not synced"), "{text}");
    assert!(text.contains("4 rows local only"), "{text}");
}

#[test]
fn with_rows_whose_parents_cannot_travel() {
    let text = quickstart(
        "CREATE TABLE u (id BLOB PRIMARY KEY, ref BLOB REFERENCES u, v TEXT);
         INSERT INTO u VALUES (x'00', NULL, 'a short key'), (zeroblob(16), x'00', 'its child'), (x'000102030405060708090a0b0c0d0e0f', NULL, 'b');",
    );
    assert!(text.contains("Rows that wait for a person on A") && text.contains("1 row left to a person"), "{text}");
}

#[test]
fn without_rows() {
    assert!(quickstart("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)").contains("seeded it with 0 rows"));
}

#[test]
fn a_file_that_is_synced_already_stays_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.db");
    let lab = examples::lab::Lab::start("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);").unwrap();
    Connection::open(&file)
        .unwrap()
        .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t (v) VALUES ('a'), ('b');")
        .unwrap();
    let client = lab.device(&file).open().unwrap();
    client.sync().unwrap();
    let status = client.status().unwrap();
    printed(QUICKSTART, &["--input", file.to_str().unwrap()]);
    assert_eq!(client.status().unwrap(), status);
}

#[test]
fn what_cannot_be_used_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |file: &Path| {
        let out = run(QUICKSTART, &["--input", file.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(fails(&dir.path().join("missing.db")).contains("cannot be read as a SQLite file"));
    let text = dir.path().join("text.db");
    std::fs::write(&text, "not a database, and long enough to be looked at as if it were one: ".repeat(20)).unwrap();
    assert!(fails(&text).contains("cannot be read as a SQLite file"));
    let keyless = dir.path().join("keyless.db");
    Connection::open(&keyless).unwrap().execute_batch("CREATE TABLE log (line TEXT)").unwrap();
    assert!(fails(&keyless).contains("no table of this file can be synced"));
    let mixed = dir.path().join("mixed.db");
    Connection::open(&mixed)
        .unwrap()
        .execute_batch(
            "CREATE TABLE docs (id TEXT PRIMARY KEY NOT NULL, n INTEGER); CREATE TABLE log (line TEXT);
             CREATE TRIGGER both AFTER INSERT ON docs BEGIN
                 INSERT INTO log VALUES (new.id); UPDATE docs SET n = n + 1;
             END;",
        )
        .unwrap();
    assert!(fails(&mixed).contains("its trigger both writes both synced and unsynced tables"));
}
