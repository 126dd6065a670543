//! What the app must not do to a synced table: it is refused with a sentence, nothing is lost, and there is a way out.

use sync_client::{Client, Detach, Error, Policy};
use sync_server::limits::Limits;

use crate::world::{Device, World, converge};

const ONE: &str = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, n INTEGER, a TEXT, b TEXT);";

/// Two devices with the rows 1 and 2.
fn two() -> (World, Device, Device) {
    let w = World::with(ONE, Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO t VALUES ('1', 1, 'a1', 'b1'), ('2', 2, 'a2', 'b2')");
    converge(&[&a, &b]);
    (w, a, b)
}

/// Makes the table anew with these columns, as an ORM would.
fn rebuilt(columns: &str, from: &str) -> String {
    format!(
        "BEGIN; CREATE TABLE n ({columns}); INSERT INTO n SELECT {from} FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT"
    )
}

fn refusal(d: &Device) -> String {
    let error = d.client().sync().unwrap_err();
    assert_eq!(d.client().status().unwrap().last_error, None, "nothing was tried");
    error.to_string()
}

/// The declared type of a column changes, with the values converted; once it is back, sync goes on.
#[test]
fn a_retyped_column_is_refused_with_a_sentence() {
    let (_w, mut a, b) = two();
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n TEXT, a TEXT, b TEXT", "id, 'n' || n, a, b"));
    a.sql("UPDATE t SET a = 'meanwhile' WHERE id = '1'");
    let sentence = refusal(&a);
    for part in ["column n of table t", "was INTEGER", "is TEXT now", "make it INTEGER again", "nothing is lost"] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    a.close();
    assert!(matches!(a.try_open(), Err(Error::RetypedColumn { .. })));
    b.sql("UPDATE t SET b = 'elsewhere' WHERE id = '2'");
    b.sync();
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n BIGINT, a VARCHAR(9), b TEXT", "id, substr(n, 2), a, b"));
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(n || a || b) FROM t"), "1meanwhileb1,2a2elsewhere");
}

/// The same by an edit of the schema table, under which the triggers live on.
#[test]
fn a_type_rewritten_in_the_schema_table_is_noticed_too() {
    let (_w, mut a, b) = two();
    let retype = |from: &str, to: &str| {
        let version: i64 = a.app.query_row("PRAGMA schema_version", [], |r| r.get(0)).unwrap();
        format!(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, 'n {from}', 'n {to}') WHERE type = 'table' AND name = 't';
             PRAGMA schema_version = {}; PRAGMA writable_schema = OFF",
            version + 1
        )
    };
    a.sql(&retype("INTEGER", "BLOB"));
    a.sql("UPDATE t SET a = 'kept' WHERE id = '1'");
    assert!(refusal(&a).contains("was INTEGER and is BLOB now"));
    a.sql(&retype("BLOB", "INTEGER"));
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT a FROM t WHERE id = '1'"), "kept");
}

/// SQLite writes the new name into the capture triggers: nothing goes unseen, and nothing is sent under a name that
/// nobody else knows.
#[test]
fn a_renamed_column_is_refused_with_a_sentence() {
    let (_w, a, b) = two();
    a.sql("UPDATE t SET a = 'before' WHERE id = '1'; ALTER TABLE t RENAME COLUMN a TO c; UPDATE t SET c = 'after' WHERE id = '2'");
    let sentence = refusal(&a);
    for part in ["column a of table t is called c now", "ALTER TABLE t RENAME COLUMN c TO a"] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    b.sql("UPDATE t SET a = 'elsewhere' WHERE id = '2'");
    b.sync();
    a.sql("ALTER TABLE t RENAME COLUMN c TO a; INSERT INTO t (id, a) VALUES ('3', 'new')");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(a) FROM t"), "before,elsewhere,new");
    let lost = a.client().discarded().unwrap();
    assert_eq!(lost.len(), 1, "the edit that lost is kept");
    assert!(lost[0].local_row.as_ref().unwrap().contains("after"));
}

#[test]
fn another_primary_key_is_refused_with_a_sentence() {
    let (_w, mut a, b) = two();
    a.sql(&rebuilt("id TEXT NOT NULL, n INTEGER PRIMARY KEY, a TEXT, b TEXT", "*"));
    assert!(refusal(&a).contains("the primary key of table t was (id) and is (n) now"));
    a.close();
    // It can be let go of; what it was is remembered, or what waited of the table told.
    a.sql("UPDATE t SET a = 'waits' WHERE id = '1'");
    Client::builder(&a.path).detach(&Detach::KeepData).unwrap();
    assert!(matches!(a.try_open(), Err(Error::ChangedKey { .. })));
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n INTEGER, a TEXT, b TEXT", "*"));
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT a FROM t WHERE id = '1'"), "waits");
    a.sql("UPDATE t SET a = 'given up' WHERE id = '1'");
    a.sql(&rebuilt("id TEXT NOT NULL, n INTEGER PRIMARY KEY, a TEXT, b TEXT", "*"));
    a.close();
    Client::builder(&a.path).detach(&Detach::Discard).unwrap();
    assert!(a.text("SELECT message FROM _sync_inbox").contains("1 changed rows of it were not on the server yet"));
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n INTEGER, a TEXT, b TEXT", "*"));
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM t"), 2);
}

/// A table that was synced and cannot be any more does not stop to be synced in silence.
#[test]
fn a_table_that_cannot_be_synced_any_more_is_told() {
    let (_w, mut a, b) = two();
    a.sql(&rebuilt("id TEXT NOT NULL, n INTEGER, a TEXT, b TEXT", "*"));
    a.sql("UPDATE t SET a = 'unseen' WHERE id = '1'");
    assert!(refusal(&a).contains("table t cannot be synced: it has no PRIMARY KEY"));
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n INTEGER, a TEXT, b TEXT", "*"));
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT a FROM t WHERE id = '1'"), "unseen");
}

/// The app drops a column (SQLite lets it only by a rebuild while we read the column): whoever means it detaches and
/// attaches again. The file goes on without the column, and erases it for nobody.
#[test]
fn a_file_with_a_removed_column_can_be_detached_and_goes_on() {
    let (w, mut a, b) = two();
    let direct = a.app.execute_batch("ALTER TABLE t DROP COLUMN b").unwrap_err().to_string();
    assert!(direct.contains("_sync_"), "SQLite itself says no: {direct}");
    a.sql("UPDATE t SET a = 'logged' WHERE id = '1'; DELETE FROM t WHERE id = '2'");
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n INTEGER, a TEXT", "id, n, a"));
    a.sql("INSERT INTO t VALUES ('3', 3, 'unseen')");
    assert!(refusal(&a).contains("column b of table t was removed"));
    a.close();
    let detached = Client::builder(&a.path).detach(&Detach::KeepData).unwrap();
    assert_eq!(detached.kept_rows, 3);
    assert_eq!(a.count("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"), 0);
    assert!(matches!(Client::builder(&a.path).detach(&Detach::KeepData), Err(Error::NotInitialized)));
    a.open();
    a.sync();
    b.sync();
    assert_eq!(b.text("SELECT group_concat(id || a || coalesce(b, '-')) FROM t"), "1loggedb1,3unseen-");
    b.sql("UPDATE t SET b = 'b3' WHERE id = '3'");
    b.sync();
    a.sync();
    a.sql("UPDATE t SET a = 'again' WHERE id = '3'");
    a.sync();
    b.sync();
    assert_eq!(b.text("SELECT a || b FROM t WHERE id = '3'"), "againb3");
    assert_eq!(a.client().discarded().unwrap(), []);
    drop(w);
}

/// Detached first, then altered: the way that the README names.
#[test]
fn detached_altered_and_attached_again() {
    let (_w, mut a, b) = two();
    a.client().detach(Detach::WhenClean).unwrap();
    a.sql("ALTER TABLE t DROP COLUMN b; UPDATE t SET a = 'edited' WHERE id = '1'");
    b.sql("UPDATE t SET b = 'elsewhere', a = 'theirs' WHERE id = '2'");
    b.sync();
    a.open();
    a.sync();
    b.sync();
    assert_eq!(b.text("SELECT group_concat(a || b) FROM t"), "editedb1,theirselsewhere");
    assert_eq!(a.text("SELECT group_concat(a) FROM t"), "edited,theirs");
    // A type is not changed like this.
    a.client().detach(Detach::WhenClean).unwrap();
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n TEXT, a TEXT", "id, n, a"));
    assert!(matches!(a.try_open(), Err(Error::RetypedColumn { .. })));
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n INTEGER, a TEXT", "id, n, a"));
    a.open();
    a.sync();
}

/// Pending work of a refused file moves to a device whose app still has the column.
#[test]
fn work_of_a_refused_file_can_be_exported() {
    let (w, mut a, b) = two();
    a.sql("UPDATE t SET a = 'renamed' WHERE id = '1'; ALTER TABLE t RENAME COLUMN b TO c; INSERT INTO t (id, a) VALUES ('3', 'new')");
    refusal(&a);
    a.close();
    let export = w.dir.path().join("work.export");
    let detached = Client::builder(&a.path).detach(&Detach::Export(export.clone())).unwrap();
    assert_eq!(detached.exported_rows, 2);
    // The renamed column is told, not dropped.
    let error = b.client().import(&export).unwrap_err().to_string();
    assert!(error.contains("the column c of table t"), "{error}");
    assert_eq!(a.count("SELECT count(*) FROM t"), 2, "the new row is taken back here");
    assert_eq!(a.text("SELECT group_concat(message) FROM _sync_inbox").matches("moved into an export").count(), 2);
}

/// Before a file was ever synced nobody else knows its tables: they may change as they like.
#[test]
fn before_the_first_sync_everything_may_change() {
    let w = World::with(ONE, Limits::default());
    let mut a = w.closed_device("a", |app| {
        app.execute_batch("DROP TABLE t; CREATE TABLE t (n TEXT, id INTEGER PRIMARY KEY, gone TEXT)").unwrap();
    });
    a.open();
    a.sql("INSERT INTO t VALUES ('1', 7, 'x')");
    a.sql(&rebuilt("id TEXT PRIMARY KEY NOT NULL, n INTEGER, a TEXT, b TEXT", "id, n, 'a', 'b'"));
    assert_eq!(a.sync().push.committed_rows, 1);
    let b = w.device("b");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT id || n || a FROM t"), "71a");
}

/// What is remembered of a row is remembered by column, whatever their order is now.
#[test]
fn columns_in_another_order_mix_up_no_values() {
    let (mut w, mut a, b) = two();
    w.stop();
    a.sql("UPDATE t SET a = 'edited' WHERE id = '1'; DELETE FROM t WHERE id = '2'");
    a.client().sync().unwrap_err();
    a.sql(&rebuilt("b TEXT, id TEXT PRIMARY KEY NOT NULL, a TEXT, n INTEGER", "b, id, a, n"));
    a.open();
    w.start();
    a.client().detach(Detach::Discard).unwrap();
    assert_eq!(a.text("SELECT group_concat(id || n || a || b) FROM t"), "11a1b1,22a2b2");
    a.open();
    a.sync();
    b.sync();
    assert_eq!(b.text("SELECT group_concat(id || n || a || b) FROM t"), "11a1b1,22a2b2");
    // The same with a push in flight, merged with another device's edit.
    let mut c = w.device_with("c", Policy::MergeColumns(sync_client::Tie::Server), |_| {});
    c.sync();
    w.stop();
    c.sql("UPDATE t SET a = 'merged' WHERE id = '1'");
    c.client().sync().unwrap_err();
    c.sql(&rebuilt("b TEXT, id TEXT PRIMARY KEY NOT NULL, a TEXT, n INTEGER", "b, id, a, n"));
    w.start();
    b.sql("UPDATE t SET b = 'theirs' WHERE id = '1'");
    b.sync();
    c.open();
    c.sync();
    b.sync();
    assert_eq!(b.text("SELECT n || a || b FROM t WHERE id = '1'"), "1mergedtheirs");
}
