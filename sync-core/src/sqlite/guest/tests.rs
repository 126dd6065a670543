//! What a server may make on a device, and a hostile statement of each kind.

use super::*;
use crate::sqlite::introspect::introspect;

const SYNCED: &[&str] =
    &["CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, body TEXT)", "CREATE INDEX by_body ON note(body)"];

fn list(statements: &[&str]) -> Vec<String> {
    statements.iter().map(|s| (*s).to_owned()).collect()
}

/// A file as a clone makes it, but in memory.
fn clone(others: &[&str]) -> (Connection, Vec<LeftOut>) {
    let mut conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("CREATE TABLE _sync_meta (name TEXT PRIMARY KEY, value); BEGIN").unwrap();
    make_synced(&mut conn, &list(SYNCED)).unwrap();
    let schema = introspect(&conn, None).unwrap().schema;
    let left_out = make_others(&mut conn, &list(others), &schema).unwrap();
    conn.execute_batch("COMMIT").unwrap();
    (conn, left_out)
}

fn count(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |r| r.get(0)).unwrap()
}

#[test]
fn an_apps_objects_are_made() {
    let (conn, left_out) = clone(&[
        "PRAGMA application_id = -1234",
        "PRAGMA user_version = 42",
        "CREATE TABLE local (x INTEGER PRIMARY KEY AUTOINCREMENT, y TEXT UNIQUE CHECK (length(y) > 1), z AS (x + 1))",
        "CREATE UNIQUE INDEX by_y ON local(lower(y)) WHERE x > 1",
        "CREATE TABLE IF NOT EXISTS main.\"schema_migrations\" (version TEXT NOT NULL CHECK (version <> ''), n)",
        "INSERT INTO \"schema_migrations\" (\"version\", \"n\") VALUES ('it''s', -1.5)",
        "INSERT INTO schema_migrations VALUES ('1', X'00'), ('3', NULL)",
        "INSERT INTO schema_migrations VALUES ('2', NULL)",
        "CREATE VIRTUAL TABLE search USING fts5(body, content = 'note', tokenize = 'porter')",
        "CREATE VIRTUAL TABLE own USING fts5(a, b)",
        "CREATE VIRTUAL TABLE places USING rtree(id, x0, x1, +name)",
        "CREATE VIEW recent AS SELECT id, appfn(body) FROM note",
        "CREATE TRIGGER kept AFTER INSERT ON note BEGIN INSERT INTO local (y) VALUES (NEW.body); SELECT appfn(1); END",
        "CREATE TABLE odd (a TEXT COLLATE unicase); CREATE VIEW second AS SELECT 1",
    ]);
    // Rows come one by one.
    assert_eq!(left_out.iter().map(|l| l.what.as_str()).collect::<Vec<_>>(), ["a row of table schema_migrations"]);
    assert_eq!(count(&conn, "PRAGMA user_version"), 42);
    assert_eq!(count(&conn, "PRAGMA application_id"), -1234);
    assert_eq!(count(&conn, "SELECT count(*) FROM schema_migrations"), 2);
    let names = "SELECT count(*) FROM sqlite_schema WHERE name IN ('local', 'by_y', 'search', 'own', 'places', 'recent', \
                 'kept', 'odd', 'second')";
    assert_eq!(count(&conn, names), 9);
    conn.prepare("SELECT appfn(1)").unwrap_err();
}

/// A record of migrations may be made to take a gigabyte for a row of a few bytes.
#[test]
fn no_row_is_made_much_of() {
    let (conn, left_out) = clone(&[
        "CREATE TABLE schema_migrations (version TEXT NOT NULL, g AS (zeroblob(version)) STORED)",
        "INSERT INTO schema_migrations (version) VALUES ('900000000')",
        "INSERT INTO schema_migrations (version) VALUES ('1000000')",
    ]);
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert!(left_out[0].why.contains("too big"), "{left_out:?}");
    assert_eq!(count(&conn, "SELECT sum(length(g)) FROM schema_migrations"), 1_000_000);
}

#[test]
fn nothing_else_is_done() {
    let (conn, before) = clone(&[]);
    assert!(before.is_empty());
    let objects = count(&conn, "SELECT count(*) FROM sqlite_schema");
    let dir = std::env::temp_dir().join(format!("guest-{}.db", std::process::id()));
    let attach = format!("ATTACH '{}' AS x", dir.display());
    let vacuum = format!("VACUUM INTO '{}'", dir.display());
    for hostile in [
        attach.as_str(),
        vacuum.as_str(),
        "VACUUM",
        "DETACH main",
        "REINDEX",
        "ANALYZE",
        "PRAGMA writable_schema = 1",
        "PRAGMA journal_mode = OFF",
        "PRAGMA user_version",
        "PRAGMA user_version = 1, x",
        "PRAGMA temp.user_version = 1",
        "PRAGMA main.user_version = 1",
        "SELECT load_extension('evil')",
        "SELECT 1",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT * FROM n",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT x",
        "DROP TABLE note",
        "DROP TABLE IF EXISTS _sync_meta",
        "ALTER TABLE note RENAME TO gone",
        "ALTER TABLE note ADD COLUMN x",
        "DELETE FROM note",
        "UPDATE note SET body = 'x'",
        "REPLACE INTO schema_migrations VALUES (1)",
        "INSERT INTO note VALUES ('evil', 'x')",
        "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 0, 'x')",
        "INSERT INTO _sync_meta VALUES ('server', 'http://evil')",
        "INSERT INTO main._sync_meta VALUES ('server', 'http://evil')",
        "EXPLAIN CREATE VIEW v AS SELECT 1",
        "CREATE TEMP TABLE t (x)",
        "CREATE TABLE temp.t (x)",
        "CREATE TABLE other.t (x)",
        "CREATE TABLE _sync_dirty (t)",
        "CREATE TABLE \"_SYNC_row\" (t)",
        "CREATE TABLE copied AS SELECT * FROM note",
        "CREATE TABLE copied AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT * FROM n",
        "CREATE TABLE checked (x CHECK (load_extension(x)))",
        "CREATE TABLE note (id)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIEW temp.v AS SELECT 1",
        "CREATE VIEW v AS SELECT load_extension('evil')",
        "CREATE VIEW v AS SELECT \"LOAD_EXTENSION\" ('evil')",
        "CREATE VIEW v AS SELECT value FROM _sync_meta",
        "CREATE VIEW v AS SELECT value FROM \"_sync_meta\"",
        "CREATE TEMP TRIGGER g AFTER INSERT ON note BEGIN SELECT 1; END",
        "CREATE TRIGGER temp.g AFTER INSERT ON note BEGIN SELECT 1; END",
        "CREATE TRIGGER g AFTER INSERT ON note BEGIN DELETE FROM _sync_meta; END",
        "CREATE TRIGGER g AFTER INSERT ON _sync_meta BEGIN SELECT 1; END",
        "CREATE TRIGGER g AFTER INSERT ON note BEGIN SELECT writefile('/etc/x', NEW.body); END",
        "CREATE TRIGGER _sync_1_insert AFTER INSERT ON note BEGIN SELECT 1; END",
        "CREATE UNIQUE INDEX one ON note(body)",
        "CREATE INDEX one ON _sync_meta(value)",
        "CREATE VIRTUAL TABLE v USING fts4(body)",
        "CREATE VIRTUAL TABLE v USING dbstat",
        "CREATE VIRTUAL TABLE v USING csv(filename = '/etc/passwd')",
        "CREATE VIRTUAL TABLE temp.v USING fts5(body)",
        "CREATE VIRTUAL TABLE v USING fts5(body, content = '_sync_meta')",
        "CREATE VIRTUAL TABLE v USING fts5(body, content = '\"_sync_meta\"')",
        "CREATE VIRTUAL TABLE v USING fts5(body, content = [_sync_meta])",
        "CREATE VIRTUAL TABLE _sync_row USING fts5(body)",
    ] {
        let (conn, left_out) = clone(&[hostile]);
        assert_eq!(left_out.len(), 1, "{hostile}");
        assert!(!left_out[0].why.is_empty() && !left_out[0].what.is_empty());
        assert_eq!(count(&conn, "SELECT count(*) FROM sqlite_schema"), objects, "{hostile}");
        assert_eq!(count(&conn, "SELECT count(*) FROM temp.sqlite_schema"), 0, "{hostile}");
        assert_eq!(
            count(&conn, "SELECT (SELECT count(*) FROM note) + (SELECT count(*) FROM _sync_meta)"),
            0,
            "{hostile}"
        );
        assert_eq!(count(&conn, "PRAGMA user_version"), 0, "{hostile}");
        assert!(!dir.exists(), "{hostile}");
    }
}

/// Rows come into records of migrations only, written out, and one statement at a time.
#[test]
fn rows_are_written_out() {
    let table = "CREATE TABLE schema_migrations (version, n DEFAULT (abs(1)))";
    for hostile in [
        "INSERT INTO schema_migrations SELECT body, 1 FROM note",
        "INSERT INTO schema_migrations VALUES ((SELECT count(*) FROM note), 1)",
        "INSERT INTO schema_migrations VALUES (randomblob(1000000000), 1)",
        "INSERT INTO schema_migrations VALUES (1, 2) ON CONFLICT DO UPDATE SET n = 1",
        "INSERT INTO schema_migrations VALUES (1, 2) RETURNING *",
        "INSERT INTO schema_migrations DEFAULT VALUES",
        "INSERT OR REPLACE INTO schema_migrations VALUES (1, 2)",
        "INSERT INTO schema_migrations (version, n) VALUES (1, \"x\")",
    ] {
        let (conn, left_out) = clone(&[table, hostile]);
        assert_eq!(left_out.len(), 1, "{hostile}");
        assert_eq!(count(&conn, "SELECT count(*) FROM schema_migrations"), 0, "{hostile}");
    }
    let (conn, left_out) =
        clone(&[table, "INSERT INTO schema_migrations VALUES (1, 2); DELETE FROM schema_migrations"]);
    assert_eq!((left_out.len(), count(&conn, "SELECT count(*) FROM schema_migrations")), (1, 1));
}

/// What a server says that it syncs is not trusted either.
#[test]
fn synced_tables_are_tables_and_indexes() {
    for hostile in [
        "CREATE TABLE x AS SELECT 1",
        "CREATE TABLE temp.x (id)",
        "CREATE VIEW x AS SELECT 1",
        "CREATE TRIGGER x AFTER INSERT ON note BEGIN SELECT 1; END",
        "DROP TABLE note",
        "PRAGMA user_version = 4",
        "CREATE VIRTUAL TABLE x USING fts5(a)",
    ] {
        let mut conn = Connection::open_in_memory().unwrap();
        let mut statements = list(SYNCED);
        statements.push(hostile.into());
        make_synced(&mut conn, &statements).unwrap_err();
    }
}

#[test]
fn full_text_indexes_are_filled() {
    let (mut conn, left_out) = clone(&[
        "CREATE VIRTUAL TABLE search USING fts5(body, content='note', content_rowid='rowid')",
        "CREATE VIRTUAL TABLE kept USING fts5(body)",
        "CREATE VIRTUAL TABLE lone USING fts5(body)",
        "CREATE VIRTUAL TABLE bare USING fts5(body, content='')",
        "CREATE TRIGGER keeping AFTER INSERT ON note BEGIN INSERT INTO kept VALUES (NEW.body); END",
    ]);
    assert!(left_out.is_empty(), "{left_out:?}");
    conn.execute_batch("INSERT INTO note VALUES ('1', 'hello world')").unwrap();
    assert_eq!(fill(&mut conn).unwrap(), ["bare", "lone"]);
    assert_eq!(count(&conn, "SELECT count(*) FROM search WHERE search MATCH 'hello'"), 1);
    assert_eq!(count(&conn, "SELECT count(*) FROM kept WHERE kept MATCH 'hello'"), 1);
}

/// A trigger that writes to what was left out would make each write to its table fail.
#[test]
fn what_needs_something_that_was_left_out_is_left_out_too() {
    let (conn, left_out) = clone(&[
        "CREATE TABLE local (x)",
        "CREATE TABLE note_words (x)",
        "CREATE VIRTUAL TABLE Words USING FTS4(body, content=note)",
        "CREATE VIEW found AS SELECT docid FROM words",
        "CREATE VIEW first AS SELECT * FROM found",
        "CREATE VIEW fine AS SELECT id AS words FROM note",
        "CREATE TRIGGER keeps AFTER INSERT ON note BEGIN INSERT INTO words (docid) VALUES (NEW.rowid); END",
        "CREATE TRIGGER copies AFTER INSERT ON note BEGIN INSERT INTO local SELECT * FROM first; END",
        "CREATE TRIGGER further AFTER INSERT ON local BEGIN DELETE FROM \"Words\"; END",
        "CREATE TRIGGER instead INSTEAD OF INSERT ON fine BEGIN INSERT INTO words (docid) VALUES (1); END",
        "CREATE TRIGGER counts AFTER INSERT ON note BEGIN INSERT INTO local VALUES (1); SELECT 'words' AS words; END",
        "CREATE TRIGGER calls AFTER DELETE ON note BEGIN INSERT INTO local SELECT appfn(words) FROM fine; END",
    ]);
    let mut what: Vec<&str> = left_out.iter().map(|l| l.what.as_str()).collect();
    what.sort_unstable();
    let expected = [
        "trigger copies",
        "trigger further",
        "trigger instead",
        "trigger keeps",
        "view first",
        "view found",
        "virtual table Words",
    ];
    assert_eq!(what, expected, "{left_out:?}");
    let why = |what: &str| left_out.iter().find(|l| l.what == what).unwrap().why.as_str();
    assert_eq!(why("virtual table Words"), "of the modules only fts5, rtree, rtree_i32 are taken, and it is of FTS4");
    assert_eq!(why("trigger keeps"), "it needs Words, which is left out");
    assert_eq!(why("trigger copies"), "it needs first, which is left out");
    conn.execute_batch("INSERT INTO note VALUES ('1', 'hello')").unwrap();
    assert_eq!(count(&conn, "SELECT count(*) FROM local"), 1);
    assert_eq!(count(&conn, "SELECT count(*) FROM temp.sqlite_schema"), 0);
}
