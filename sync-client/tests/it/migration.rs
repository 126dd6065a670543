//! The app's schema and our own tables change; nothing is lost, and what cannot be is said.

use sync_client::{Client, Error};
use sync_server::limits::Limits;

use crate::world::{SCHEMA, World, converge};

const ONE: &str = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, title TEXT);";

/// A file of the first version of our tables is brought up to date when it is opened, pending changes and inbox
/// included; one of a version to come is left alone.
#[test]
fn a_file_of_an_older_version_is_brought_up_to_date() {
    let w = World::with(ONE, Limits::default());
    let path = w.dir.path().join("old.db");
    let app = rusqlite::Connection::open(&path).unwrap();
    app.execute_batch(include_str!("format1.sql")).unwrap();
    app.execute_batch("INSERT INTO t VALUES ('a', 'x'), ('b', 'y'); UPDATE t SET title = 'z' WHERE id = 'b'").unwrap();
    let open = || Client::builder(&path).server(w.url()).token(|_| Ok("ada".into())).open();
    let client = open().unwrap();
    assert_eq!(client.sync().unwrap().push.committed_rows, 2);
    assert_eq!(client.discarded().unwrap()[0].key, r#"{"id":"gone"}"#);
    let b = w.device("b");
    b.sync();
    assert_eq!(b.text("SELECT group_concat(id || title) FROM t"), "ax,bz");
    app.execute_batch("UPDATE t SET title = 'again' WHERE id = 'a'").unwrap();
    assert_eq!(client.sync().unwrap().push.committed_rows, 1);
    drop(client);
    app.execute_batch("UPDATE _sync_meta SET value = 99 WHERE name = 'format'").unwrap();
    assert!(matches!(open(), Err(Error::NewerFormat(99))));
}

/// Tables, columns and indexes that the app adds are picked up between two syncs of an open client.
#[test]
fn what_the_app_adds_is_picked_up() {
    let mut w = World::with(ONE, Limits::default());
    let (mut a, mut b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO t VALUES ('1', 'one')");
    converge(&[&a, &b]);
    let added = "ALTER TABLE t ADD COLUMN due TEXT; CREATE INDEX by_due ON t(due);
                 CREATE TABLE more (id TEXT PRIMARY KEY NOT NULL, t TEXT REFERENCES t(id))";
    w.stop();
    w.schema = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, title TEXT, due TEXT);
                CREATE TABLE more (id TEXT PRIMARY KEY NOT NULL, t TEXT REFERENCES t(id));"
        .into();
    w.start();
    a.sql(added);
    a.sql("INSERT INTO more VALUES ('m', '1'); UPDATE t SET due = 'monday'");
    b.sql("UPDATE t SET title = 'by an older app'");
    a.open();
    a.sync();
    b.sync();
    a.sync();
    b.sql(added);
    b.open();
    converge(&[&a, &b]);
    assert_eq!(
        b.text("SELECT title || due || (SELECT t FROM more) FROM t"),
        a.text("SELECT title || due || '1' FROM t")
    );
    assert!(b.text("SELECT due FROM t").starts_with("monday"));
}

/// A column that is removed is refused with a sentence, and syncs on once it is there again.
#[test]
fn a_removed_column_is_refused_with_a_sentence() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, score) VALUES ('p', 1.5)");
    converge(&[&a, &b]);
    let direct = a.app.execute_batch("ALTER TABLE people DROP COLUMN score").unwrap_err().to_string();
    assert!(direct.contains("_sync_"), "SQLite itself says no while we read the column: {direct}");
    a.close();
    a.sql(
        "PRAGMA foreign_keys = OFF; BEGIN;
         CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, name TEXT, email TEXT UNIQUE, age INTEGER, photo BLOB);
         INSERT INTO n SELECT id, name, email, age, photo FROM people;
         DROP TABLE people; ALTER TABLE n RENAME TO people; UPDATE people SET age = 9; COMMIT",
    );
    let open = || Client::builder(&a.path).token(|_| Ok("ada".into())).open();
    let refused = open().map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("people") && refused.contains("score"), "{refused}");
    a.sql("ALTER TABLE people ADD COLUMN score REAL");
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT age FROM people"), 9);
}

/// A table that is dropped while rows of it are pending: the others go on.
#[test]
fn a_dropped_table_holds_nobody_up() {
    let w = World::with(SCHEMA, Limits::default());
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p'); INSERT INTO notes VALUES ('n', 'p', 'x'); INSERT INTO tags VALUES ('n', 'red')");
    a.close();
    a.sql("DROP TABLE tags");
    a.open();
    assert_eq!(a.sync().push.committed_rows, 2);
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM notes"), 1);
}

/// A row whose value waits for a column that the server lacks is given up while the server's row is not known here: the
/// value goes too, since no row of the server's could take it away.
#[test]
fn a_given_up_value_of_a_column_that_the_server_lacks_goes() {
    let w = World::with(ONE, Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO t VALUES ('1', 'one')");
    a.sync();
    a.sql("ALTER TABLE t ADD COLUMN due TEXT; UPDATE t SET due = 'monday', title = 'two'");
    a.sync();
    assert_eq!(a.client().rejected().unwrap()[0].reason, "unknown_column");
    // Its base is not known any more.
    a.sql("UPDATE _sync_dirty SET base = NULL; UPDATE _sync_row SET v = 0");
    assert!(a.client().drop_row("t", r#"{"id":"1"}"#).unwrap());
    a.sync();
    assert_eq!(a.text("SELECT title || ifnull(due, ' and nothing') FROM t"), "one and nothing");
    assert!(a.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("monday"));
    b.sync();
    assert_eq!(b.text("SELECT title FROM t"), "one");
}
