//! Hard cases that a careful reader found: each once lost a write, brought one back, or stood still.

use sync_client::{Detach, Policy};
use sync_server::limits::Limits;

use crate::world::{SCHEMA, World, converge, copy, dump};

/// A bundle that was frozen and never sent must not hide its rows from a pull.
#[test]
fn a_pull_sees_the_edits_of_an_unsent_outbox() {
    let mut w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'first')");
    converge(&[&a, &b]);
    w.stop();
    a.sql("UPDATE people SET name = 'from a'");
    a.client().push().unwrap_err();
    w.start();
    b.sql("UPDATE people SET name = 'from b'");
    b.sync();
    a.client().pull().unwrap();
    let discarded = a.client().discarded().unwrap();
    assert_eq!(discarded.len(), 1);
    assert!(discarded[0].local_row.as_ref().unwrap().contains("from a"));
    converge(&[&a, &b]);
}

/// `INSERT OR REPLACE` of a row over itself leaves no base; when it has to leave the table, the
/// server's row comes back.
#[test]
fn a_displaced_row_without_a_base_is_fetched_again() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, email) VALUES ('a', 'x')");
    converge(&[&a, &b]);
    a.sql("INSERT OR REPLACE INTO people (id, email) VALUES ('a', 'y')");
    b.sql("INSERT INTO people (id, email) VALUES ('b', 'y')");
    b.sync();
    a.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT group_concat(id || email) FROM (SELECT * FROM people ORDER BY id)"), "ax,by");
    assert!(a.client().rejected().unwrap()[0].local_row.as_ref().unwrap().contains("\"email\":\"y\""));
}

/// A row that this file's schema refused is not taken for deleted when a migration lets it in.
#[test]
fn a_row_set_aside_returns_when_the_schema_takes_it() {
    let strict = SCHEMA.replace("label TEXT NOT NULL", "label TEXT NOT NULL CHECK (length(label) < 5)");
    let mut w = World::new();
    let b = w.device("b");
    w.schema = strict;
    let mut a = w.device("a");
    b.sql("INSERT INTO counters VALUES (1, 'ok'), (2, 'far too long')");
    b.sync();
    assert_eq!(a.sync().pull.set_aside, 1);
    a.close();
    a.sql(
        "PRAGMA foreign_keys = OFF;
         CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL);
         INSERT INTO n SELECT * FROM counters; DROP TABLE counters; ALTER TABLE n RENAME TO counters;",
    );
    a.open();
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM counters"), 2);
}

/// The same for an index that the app adds, and takes away again; one that rows of the app stand against cannot be made.
#[test]
fn a_row_that_an_index_of_the_app_refuses_is_set_aside_and_returns() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'Ann')");
    converge(&[&a, &b]);
    a.sql("CREATE UNIQUE INDEX one_name ON people(lower(name))");
    b.sql("INSERT INTO people (id, name, email) VALUES ('q', 'ANN', 'q@x'), ('r', 'Bob', 'r@x'); INSERT INTO notes VALUES ('n', 'q', 'of q')");
    b.sync();
    let report = a.sync();
    assert!(report.pull.set_aside > 0, "{report:?}");
    assert_eq!(a.text("SELECT group_concat(id) FROM people"), "p,r");
    assert_eq!(a.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    // The app's own row stays its own, and nobody else's row is touched.
    a.sql("UPDATE people SET age = 7 WHERE id = 'p'");
    a.sync();
    b.sync();
    assert_eq!(b.text("SELECT group_concat(id || coalesce(age, '')) FROM people"), "p7,q,r");
    a.sql("DROP INDEX one_name");
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT body FROM notes WHERE person = 'q'"), "of q");
    // A row that is here already has to go, and what refers to it with it, edited or not; all of it is kept.
    a.sql("CREATE UNIQUE INDEX one_age ON people(age)");
    a.sql("INSERT INTO notes VALUES ('m', 'q', 'by a')");
    b.sql("UPDATE people SET age = 8 WHERE id IN ('q', 'r')");
    b.sync();
    a.sync();
    assert_eq!(a.count("SELECT count(*) FROM people WHERE age = 8"), 1);
    assert_eq!(a.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    b.sync();
    assert_eq!(
        b.text("SELECT group_concat(id) FROM (SELECT id FROM notes ORDER BY id)"),
        "m,n",
        "nothing of it is deleted elsewhere"
    );
    a.sql("DROP INDEX one_age");
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people WHERE age = 8"), 2);
}

/// What only an index of this file refuses comes back once the value is free, whoever freed it.
#[test]
fn a_row_set_aside_for_a_unique_value_returns_once_it_is_free() {
    for (here, sql) in [
        (true, "UPDATE people SET name = 'Other' WHERE id = 'p'"),
        (true, "DELETE FROM people WHERE id = 'p'"),
        (false, "UPDATE people SET name = 'Other' WHERE id = 'p'"),
        (false, "DELETE FROM people WHERE id = 'p'"),
    ] {
        let w = World::new();
        let (a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id, name) VALUES ('p', 'Ann'), ('s', 'Sam')");
        converge(&[&a, &b]);
        a.sql("CREATE UNIQUE INDEX one_name ON people(lower(name))");
        b.sql("INSERT INTO people (id, name) VALUES ('q', 'ANN'); INSERT INTO notes VALUES ('n', 'q', 'of q')");
        b.sync();
        assert_eq!(a.sync().pull.set_aside, 2);
        // Nothing is free yet: no rebuild for that.
        a.sql("UPDATE people SET age = 1");
        assert!(!a.sync().pull.rebuilt);
        b.sync();
        if here { &a } else { &b }.sql(sql);
        converge(&[&b, &a]);
        assert_eq!(a.text("SELECT body FROM notes JOIN people ON people.id = person"), "of q", "{here} {sql}");
        let open = "SELECT count(*) FROM _sync_inbox WHERE reason LIKE 'set_aside%'";
        assert_eq!(a.count(open), 0, "{here} {sql}");
        assert!(!a.sync().pull.rebuilt);
    }
}

/// A device whose app gets a column later must not erase what others wrote in it.
#[test]
fn a_column_added_later_is_filled_before_anything_is_pushed() {
    for due in ["due TEXT", "due TEXT NOT NULL DEFAULT 'none'", "due TEXT DEFAULT \"none\""] {
        let mut w = World::with(
            &format!("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, title TEXT, {due});"),
            Limits::default(),
        );
        let b = w.device("b");
        w.schema = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, title TEXT);".into();
        let mut a = w.device("a");
        b.sql("INSERT INTO t VALUES ('1', 'one', 'monday'), ('2', 'two', 'tuesday'), ('3', 'three', 'sunday')");
        b.sync();
        a.sync();
        a.sql("UPDATE t SET title = 'edited before' WHERE id = '1'");
        a.close();
        a.sql(&format!(
            "ALTER TABLE t ADD COLUMN {due}; UPDATE t SET title = 'edited after' WHERE id = '2';
             UPDATE t SET due = 'friday' WHERE id = '3'"
        ));
        a.open();
        converge(&[&a, &b]);
        assert_eq!(
            b.text("SELECT group_concat(title || due) FROM (SELECT * FROM t ORDER BY id)"),
            "edited beforemonday,edited aftertuesday,threefriday",
            "{due}"
        );
        a.sql("UPDATE t SET due = 'never' WHERE id = '1'");
        converge(&[&a, &b]);
        assert_eq!(b.text("SELECT due FROM t WHERE id = '1'"), "never");
    }
}

/// H1, by a rebuild that was asked for: what a restored server never had is not taken for deleted.
#[test]
fn a_rebuild_against_a_restored_server_keeps_what_it_lacks() {
    let mut w = World::new();
    let a = w.device("a");
    a.sql("INSERT INTO people (id) VALUES ('old')");
    a.sync();
    w.stop();
    let backup = tempfile::tempdir().unwrap();
    copy(&w.data(), backup.path());
    w.start();
    a.sql("INSERT INTO people (id) VALUES ('new')");
    a.sync();
    w.stop();
    std::fs::remove_dir_all(w.data()).unwrap();
    std::fs::create_dir_all(w.data()).unwrap();
    copy(backup.path(), &w.data());
    w.start();
    a.client().rebuild().unwrap();
    assert_eq!(a.count("SELECT count(*) FROM people"), 2);
    let b = w.device("b");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 2);
}

/// A trigger of the app that writes the same row again, made after capture: SQLite runs it first.
#[test]
fn a_trigger_that_touches_the_same_row_hides_no_edit() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name, age) VALUES ('p', 'old', 1)");
    converge(&[&a, &b]);
    a.sql("CREATE TRIGGER touch AFTER UPDATE OF name ON people BEGIN UPDATE people SET age = 1 WHERE id = NEW.id; END");
    a.sql("UPDATE people SET name = 'new' WHERE id = 'p'");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people"), "new");
}

/// A rebuild between a commit and its confirmation neither doubles the row nor loses a newer edit.
#[test]
fn a_rebuild_knows_what_had_committed() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO counters VALUES (5, 'first')");
    a.client().push().unwrap();
    a.sql("UPDATE counters SET label = 'second'");
    a.client().rebuild().unwrap();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id || label) FROM counters"), "5second");
    assert!(a.client().conflicts().unwrap().is_empty() && a.client().discarded().unwrap().is_empty());
}

/// The key of a row also changes through `rowid`.
#[test]
fn a_key_changed_through_rowid_is_captured() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO counters VALUES (3, 'x')");
    converge(&[&a, &b]);
    a.sql("UPDATE counters SET rowid = 7 WHERE rowid = 3");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id || label) FROM counters"), "7x");
}

/// A child that was refused for its parent goes along once the parent is right, by this device's own push.
#[test]
fn a_refused_child_follows_its_parent() {
    let mut w = World::with(&SCHEMA.replace("age INTEGER", "age INTEGER CHECK (age < 100)"), Limits::default());
    w.schema = SCHEMA.to_owned();
    let a = w.device("a");
    a.sql("INSERT INTO people (id, age) VALUES ('p', 200); INSERT INTO notes VALUES ('n', 'p', 'body')");
    a.sync();
    assert_eq!(a.client().rejected().unwrap().len(), 2);
    a.sql("UPDATE people SET age = 20");
    a.sync();
    assert!(a.client().rejected().unwrap().is_empty(), "{:?}", a.client().rejected().unwrap());
    let b = w.device_with("b", Policy::ServerWins, |_| {});
    converge(&[&a, &b]);
}

/// H3 again: the devices are started anew after the server was wiped and one of them seeded it.
#[test]
fn a_wiped_server_is_known_again_after_a_restart() {
    let mut w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    let expected = dump(&a.path);
    w.stop();
    std::fs::remove_dir_all(w.data()).unwrap();
    w.start();
    b.sync();
    a.open();
    converge(&[&a, &b]);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(dump(&a.path), expected);
}

/// A migration of the app in the middle of everything: verbs read the schema again and go on.
#[test]
fn migrations_between_verbs_are_noticed() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    for i in 0..4 {
        a.sql(&format!("CREATE INDEX i{i} ON people(age, name); INSERT INTO people (id, age) VALUES ('p{i}', {i})"));
        a.client().push().unwrap();
        a.sql(&format!("DROP INDEX i{i}"));
        a.client().pull().unwrap();
    }
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 4);
    a.sql("CREATE TABLE scratch (x)");
    a.client().detach(Detach::WhenClean).unwrap();
    assert_eq!(a.count("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"), 0);
    a.close();
    sync_client::forget(&a.path).unwrap();
    assert_eq!(a.count("SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'"), 0);
    assert_eq!(a.count("SELECT count(*) FROM people"), 4);
}

/// A key that no other device could name is said, before and after the file is synced.
#[test]
fn rows_that_nobody_else_could_name_are_listed() {
    let w = World::with("CREATE TABLE d (id NUMERIC PRIMARY KEY, v TEXT);", Limits::default());
    let a = w.device_with("a", Policy::ServerWins, |c| c.execute_batch("INSERT INTO d VALUES (1.5, 'x')").unwrap());
    let b = w.device("b");
    assert_eq!(a.client().rejected().unwrap()[0].reason, "unnameable");
    a.sql("INSERT INTO d VALUES (2, 'fine'), (2.5, 'y'), ('day', 'text')");
    assert_eq!(a.sync().push.committed_rows, 2);
    assert_eq!(a.client().rejected().unwrap().len(), 1);
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM d"), 2);
}
