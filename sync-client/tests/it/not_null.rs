//! NOT NULL columns without a default, as ORMs add and remove them.

use sync_server::limits::Limits;
use tempfile::TempDir;

use crate::cli::{file, run};
use crate::support::serve;
use crate::world::{World, converge};

const OLD: &str = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT, old TEXT NOT NULL);";
const NEW: &str = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT);";

/// This file went on without the column: the refusal says the line to write, and once it is there, also later, the rows
/// go by themselves.
#[test]
fn rows_without_a_column_that_was_removed_go_once_it_has_a_default() {
    let mut w = World::with(OLD, Limits::default());
    let b = w.device("b");
    b.sql("INSERT INTO notes VALUES ('1', 'a', 'o')");
    b.sync();
    w.schema = NEW.into();
    let mut a = w.device("a");
    a.sync();
    a.sql("INSERT INTO notes VALUES ('2', 'new'); UPDATE notes SET body = 'edited' WHERE id = '1'");
    a.sync();
    let rejected = a.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "not_null"));
    assert!(rejected[0].message.contains("old TEXT NOT NULL DEFAULT ''"), "{}", rejected[0].message);
    w.stop();
    w.schema = OLD.replace("old TEXT NOT NULL", "old TEXT NOT NULL DEFAULT ''");
    w.start();
    a.open();
    a.sync();
    b.sync();
    assert_eq!(a.client().status().unwrap().rejected_rows, 0);
    assert_eq!(
        b.text("SELECT group_concat(id || body || old) FROM (SELECT * FROM notes ORDER BY id)"),
        "1editedo,2new"
    );
}

/// The app's table lacks the default that the server's has: both its rows and those of an older version of the app.
#[test]
fn a_column_that_was_added_needs_its_default_on_the_server_only() {
    let mut w = World::with(NEW, Limits::default());
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO notes VALUES ('1', 'a'), ('2', 'b')");
    converge(&[&a, &b]);
    a.sql("BEGIN; CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, body TEXT, old TEXT NOT NULL); INSERT INTO n SELECT id, body, 'seven' FROM notes; \
           DROP TABLE notes; ALTER TABLE n RENAME TO notes; COMMIT");
    a.sync();
    let held = a.client().rejected().unwrap();
    assert!(held.iter().all(|r| r.message.contains("old TEXT NOT NULL DEFAULT ''")), "{held:?}");
    w.stop();
    w.schema = OLD.replace("old TEXT NOT NULL", "old TEXT NOT NULL DEFAULT 'none'");
    w.start();
    a.open();
    a.sync();
    b.sql("INSERT INTO notes VALUES ('3', 'older app')");
    b.sync();
    a.sync();
    assert_eq!(a.client().status().unwrap().rejected_rows, 0);
    assert_eq!(a.text("SELECT group_concat(id || old) FROM (SELECT * FROM notes ORDER BY id)"), "1seven,2seven,3none");
}

/// `init` says it before the first row is refused.
#[test]
fn init_says_which_column_its_rows_will_lack() {
    let (dir, server) = (TempDir::new().unwrap(), serve(OLD));
    file(&dir, "a.db", NEW);
    let ran = run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    for part in ["Table notes", "a column old", "old TEXT NOT NULL DEFAULT ''"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let given = serve(&OLD.replace("old TEXT NOT NULL", "old TEXT NOT NULL DEFAULT ''"));
    file(&dir, "b.db", NEW);
    let ran = run(&dir, &["init", "b.db", "--server", &given.url(), "--all", "--token", "ann"]).ends(0);
    assert!(!ran.stderr.contains("column old"), "{}", ran.stderr);
}
