//! A detached file is synced again (`wake_up`): whole, or not at all.

use sync_client::{Attached, Client, Detach, Error};
use sync_server::limits::Limits;

use super::{ROWS, detach};
use crate::world::{Device, World, converge};

/// A file that woke up only half, as it could by an earlier version: the next start goes on, and sees what was written in
/// between.
#[test]
fn a_cut_return_is_taken_up_again() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql(ROWS);
    converge(&[&a, &b]);
    detach(&mut a, Detach::WhenClean);
    a.sql("UPDATE people SET name = 'before' WHERE id = 'kept'");
    a.sql(HALF_AWAKE);
    a.sql("UPDATE people SET name = 'between' WHERE id = 'edited'; DELETE FROM people WHERE id = 'deleted'");
    a.open();
    assert_eq!(a.client().status().unwrap().pending_rows, 3);
    assert_eq!(a.client().attach().unwrap(), Attached::Resumed);
    converge(&[&a, &b]);
    let names = "SELECT group_concat(id || name, ' ') FROM (SELECT * FROM people ORDER BY id)";
    assert_eq!(b.text(names), "editedbetween gonex keptbefore");
}

/// What the first of two transactions left.
const HALF_AWAKE: &str = "DELETE FROM _sync_meta WHERE name = 'detached'; INSERT INTO _sync_meta VALUES ('resume', 1)";

/// The table with another type, and back. No trigger is in the way.
fn retype(a: &Device, to: &str) {
    a.sql(&format!(
        "CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, n {to}); INSERT INTO n SELECT * FROM t; DROP TABLE t; \
         ALTER TABLE n RENAME TO t"
    ));
}

/// A detached file that cannot be synced as it is stays a detached one, and goes on where it was once it can.
#[test]
fn a_file_that_is_refused_when_it_wakes_up_sleeps_on() {
    let w = World::with("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, n INTEGER);", Limits::default());
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO t VALUES ('1', 1), ('2', 2)");
    converge(&[&a, &b]);
    detach(&mut a, Detach::WhenClean);
    let told = |a: &Device| {
        let sql =
            "SELECT group_concat(name || coalesce(value, '-'), ' ') FROM (SELECT * FROM _sync_meta ORDER BY name)";
        a.text(sql) + &a.text("SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema ORDER BY name)")
    };
    let asleep = told(&a);
    retype(&a, "TEXT");
    for _ in 0..2 {
        assert!(matches!(a.try_open(), Err(Error::RetypedColumn { .. })));
        assert_eq!(told(&a), asleep);
        assert!(matches!(sync_client::read_status(&a.path), Err(Error::NotInitialized)));
        assert!(matches!(Client::builder(&a.path).detach(&Detach::WhenClean), Err(Error::NotInitialized)));
    }
    retype(&a, "INTEGER");
    a.sql("UPDATE t SET n = 11 WHERE id = '1'");
    b.sql("DELETE FROM t WHERE id = '2'");
    b.sync();
    a.open();
    assert_eq!(a.client().status().unwrap().pending_rows, 1);
    assert_eq!(a.client().attach().unwrap(), Attached::Resumed);
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id || n) FROM t"), "111");
}

/// A file that an earlier version left half awake, since its schema was refused: it is told of, and detached, and goes on
/// once the schema is right.
#[test]
fn a_file_that_was_left_half_awake_can_be_detached() {
    let w = World::with("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, n INTEGER);", Limits::default());
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO t VALUES ('1', 1), ('2', 2)");
    converge(&[&a, &b]);
    for (round, keep) in [Detach::WhenClean, Detach::KeepData].into_iter().enumerate() {
        detach(&mut a, Detach::WhenClean);
        a.sql(HALF_AWAKE);
        a.sql(&format!("UPDATE t SET n = {round} + 10 WHERE id = '1'"));
        retype(&a, "TEXT");
        assert_eq!(sync_client::read_status(&a.path).unwrap().pending_rows, 0);
        assert!(matches!(a.try_open(), Err(Error::RetypedColumn { .. })));
        Client::builder(&a.path).detach(&keep).unwrap();
        retype(&a, "INTEGER");
        a.open();
        assert_eq!(a.client().attach().unwrap(), Attached::Resumed);
        converge(&[&a, &b]);
        assert_eq!(b.text("SELECT group_concat(id || n) FROM t"), format!("11{round},22"));
    }
}

/// The first time that a file is to be synced, likewise: nothing of ours is left in one that is refused.
#[test]
fn a_file_that_is_refused_has_nothing_of_ours() {
    let w = World::new();
    let mut a = w.closed_device("a", |c| {
        let sql = "CREATE TABLE local (x); CREATE TRIGGER both AFTER INSERT ON people BEGIN \
                   INSERT INTO local VALUES (NEW.id); INSERT INTO marks VALUES (NEW.id, 1, 'x'); END";
        c.execute_batch(sql).unwrap();
    });
    a.setup = Box::new(|b| b.tables(&["people", "notes", "tags", "counters", "marks"]));
    let before = a.count("SELECT count(*) FROM sqlite_schema");
    assert!(
        matches!(a.try_open(), Err(Error::Schema(refused)) if refused.iter().any(|r| r.reason.contains("trigger both")))
    );
    assert_eq!(a.count("SELECT count(*) FROM sqlite_schema"), before);
    assert_eq!(a.text("PRAGMA journal_mode"), "delete");
    assert!(matches!(sync_client::read_status(&a.path), Err(Error::NotInitialized)));
    a.sql("DROP TRIGGER both");
    a.open();
    a.sql("INSERT INTO people (id) VALUES ('p')");
    assert_eq!(a.text("PRAGMA journal_mode"), "wal");
    assert_eq!(a.sync().push.committed_rows, 1);
}
