//! The server's history is not the one that a file knows: restored, wiped, or somebody else's for a minute. What
//! the file knows of its rows stays, so that a row is told from another with the same key, and a delete is one.

use sync_client::{Attached, Detach, Error};

use crate::world::{Device, World, converge, copy};

/// A backup of the server's data, taken while it is stopped.
fn backup(w: &mut World) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    w.stop();
    copy(&w.data(), dir.path());
    w.start();
    dir
}

/// The server comes back with this data, or with none.
fn restore(w: &mut World, backup: Option<&tempfile::TempDir>) {
    w.stop();
    std::fs::remove_dir_all(w.data()).unwrap();
    std::fs::create_dir_all(w.data()).unwrap();
    if let Some(backup) = backup {
        copy(backup.path(), &w.data());
    }
    w.start();
}

const KNOWN: &str = "INSERT INTO counters VALUES (3, 'three'), (5, 'oat'); INSERT INTO marks VALUES ('m', 5, 'a mark')";
const OTHERS: &str = "INSERT INTO counters VALUES (3, 'three'), (5, 'milk')";

/// No row was doubled, and what gave way is recorded: the other name of row 5, and the delete of row 3.
fn nothing_was_taken_for_new(d: &Device) {
    let labels = "SELECT group_concat(id || label) FROM (SELECT * FROM counters ORDER BY id)";
    assert_eq!(d.text(labels), "3three,5milk");
    assert_eq!(d.count("SELECT counter FROM marks"), 5);
    let mut gave_way: Vec<String> =
        d.client().discarded().unwrap().iter().map(|e| format!("{} {}", e.op, e.key)).collect();
    gave_way.sort();
    assert_eq!(gave_way, ["DELETE {\"id\":\"3\"}", "UPDATE {\"id\":\"5\"}"]);
}

/// H3: another device has begun to seed a wiped server; what this file knows is still needed then.
#[test]
fn a_device_that_waits_for_a_seed_forgets_nothing() {
    for pending in [true, false] {
        let mut w = World::new();
        let a = w.device("a");
        a.sql(KNOWN);
        a.sync();
        restore(&mut w, None);
        let c = w.device("c");
        c.sql(OTHERS);
        assert_eq!(c.client().attach().unwrap(), Attached::Seeding);
        if pending {
            a.sql("DELETE FROM counters WHERE id = 3");
        }
        assert!(matches!(a.client().sync(), Err(Error::RetryLater { .. })));
        if !pending {
            a.sql("DELETE FROM counters WHERE id = 3");
        }
        c.sync();
        converge(&[&a, &c]);
        nothing_was_taken_for_new(&a);
    }
}

/// The same for a file that was detached with work that waits, and whose account has another history by now.
#[test]
fn a_detached_file_meets_another_history_of_its_account() {
    for wiped in [true, false] {
        let mut w = World::new();
        let mut a = w.device("a");
        a.sql("INSERT INTO people (id) VALUES ('p')");
        a.sync();
        let older = backup(&mut w);
        a.sql(KNOWN);
        a.sync();
        a.sql("DELETE FROM counters WHERE id = 3");
        assert_eq!(a.client().detach(Detach::KeepData).unwrap().kept_rows, 1);
        a.close();
        restore(&mut w, (!wiped).then_some(&older));
        let c = w.device("c");
        c.sync();
        c.sql(OTHERS);
        c.sync();
        a.sql("INSERT INTO people (id) VALUES ('unwatched')");
        a.open();
        assert_eq!(a.client().attach().unwrap(), Attached::Resumed);
        converge(&[&a, &c]);
        nothing_was_taken_for_new(&a);
        assert_eq!(c.count("SELECT count(*) FROM people"), 2);
    }
}

/// The server answered from an empty directory for a minute, and nobody wrote there.
#[test]
fn an_account_that_was_away_for_a_minute_changes_nothing() {
    let mut w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(KNOWN);
    converge(&[&a, &b]);
    let whole = backup(&mut w);
    restore(&mut w, None);
    let c = w.device("c");
    c.sql(OTHERS);
    assert_eq!(c.client().attach().unwrap(), Attached::Seeding);
    a.sql("DELETE FROM counters WHERE id = 3");
    let source = a.client().status().unwrap().source_id;
    assert!(matches!(a.client().sync(), Err(Error::RetryLater { .. })));
    restore(&mut w, Some(&whole));
    let report = a.sync();
    assert_eq!((report.pull.rebuilt, report.push.committed_rows), (false, 1));
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id) FROM counters"), "5");
    assert!(a.client().discarded().unwrap().is_empty());
    assert_eq!(a.client().status().unwrap().source_id, source);
}
