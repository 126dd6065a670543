//! Attaching: how a file's rows meet an account's, and that a mode is for the first time only.

use sync_client::{Attach, Attached, Error};

use crate::changed::told;
use crate::world::{Device, World, converge, dump};

const SHARED: &str = "INSERT INTO people (id, name, email) VALUES ('same', 'equal', NULL), ('both', 'theirs', 'x@x')";

/// A server that has rows, and a file that has some of its own.
fn two_sides(w: &World, mode: Attach) -> (Device, Device) {
    let a = w.device("a");
    a.sql(SHARED);
    a.sql("INSERT INTO counters VALUES (1, 'theirs'); INSERT INTO marks VALUES ('m', 1, 'theirs')");
    a.sync();
    let mut b = w.closed_device("b", |c| {
        c.execute_batch(
            "INSERT INTO people (id, name, email) VALUES ('same', 'equal', NULL), ('both', 'ours', 'b@x'), ('only b', 'x', 'x@x');
             INSERT INTO notes VALUES ('n', 'only b', 'of b');
             INSERT INTO counters VALUES (1, 'ours'); INSERT INTO marks VALUES ('o', 1, 'ours');",
        )
        .unwrap();
    });
    b.setup = Box::new(move |builder| builder.attach(mode));
    b.open();
    (a, b)
}

#[test]
fn take_remote_replaces_this_files_rows_and_keeps_what_goes() {
    let w = World::new();
    let (a, b) = two_sides(&w, Attach::TakeRemote);
    told(&b, "the server's rows are taken", |b| assert_eq!(b.client().attach().unwrap(), Attached::TookRemote));
    assert_eq!(dump(&a.path), dump(&b.path));
    assert_eq!(b.client().status().unwrap().pending_rows, 0);
    let discarded = b.client().discarded().unwrap();
    let named: Vec<String> = discarded.iter().map(|d| format!("{} {}", d.table, d.key)).collect();
    assert_eq!(
        named,
        [
            r#"counters {"id":"1"}"#,
            r#"marks {"id":"o"}"#,
            r#"notes {"id":"n"}"#,
            r#"people {"id":"both"}"#,
            r#"people {"id":"only b"}"#,
        ]
    );
    assert!(discarded.iter().all(|d| d.reason == "take_remote" && d.local_row.is_some()));
    assert!(discarded[3].local_row.as_ref().unwrap().contains("ours"));
    assert!(discarded[3].server_row.as_ref().unwrap().contains("theirs"));
    assert!(b.client().rejected().unwrap().is_empty() && b.client().conflicts().unwrap().is_empty());
    // From here on it is a device like any other.
    b.sql("UPDATE people SET name = 'edited' WHERE id = 'both'");
    let report = b.sync();
    assert_eq!((report.push.committed_rows, report.push.bundles), (1, 1));
    converge(&[&a, &b]);
}

#[test]
fn fail_changes_and_sends_nothing_where_both_sides_have_rows() {
    let w = World::new();
    let (a, mut b) = two_sides(&w, Attach::Fail);
    let before = dump(&b.path);
    for _ in 0..2 {
        match b.client().sync() {
            Err(Error::BothHaveRows { local: 6, remote: 4 }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(dump(&b.path), before);
    a.sync();
    assert_eq!(a.client().status().unwrap().latest_known, 1, "nothing was sent");
    b.setup = Box::new(|builder| builder.attach(Attach::Merge));
    b.open();
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM counters"), 2);
}

#[test]
fn fail_goes_on_where_one_side_is_empty() {
    let w = World::new();
    let fail = |b: sync_client::Builder| b.attach(Attach::Fail);
    let a = w.device_built("a", fail);
    a.sql(SHARED);
    assert_eq!(a.client().attach().unwrap(), Attached::Seeding);
    a.sync();
    let b = w.device_built("b", fail);
    assert_eq!(b.client().attach().unwrap(), Attached::Merged);
    a.sql("DELETE FROM people");
    converge(&[&a, &b]);
    let c = w.device_built("c", fail);
    c.sql(SHARED);
    converge(&[&c, &a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people"), 2);
}

/// An account that was never written to has nothing to take.
#[test]
fn take_remote_fills_a_new_account() {
    let w = World::new();
    let a = w.device_built("a", |b| b.attach(Attach::TakeRemote));
    a.sql(SHARED);
    assert_eq!(a.client().attach().unwrap(), Attached::Seeding);
    let b = w.device("b");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 2);
}

/// The mode is for the first attach: a wiped server is seeded again, whatever the app says each time.
#[test]
fn a_mode_is_for_the_first_time() {
    for mode in [Attach::TakeRemote, Attach::Fail] {
        let mut w = World::new();
        let a = w.device("a");
        a.sql(SHARED);
        a.sync();
        let mut b = w.device_built("b", move |b| b.attach(mode));
        b.sync();
        b.sql("INSERT INTO people (id) VALUES ('new')");
        w.stop();
        std::fs::remove_dir_all(w.data()).unwrap();
        w.start();
        a.sync();
        b.open();
        converge(&[&b, &a]);
        assert_eq!(a.count("SELECT count(*) FROM people"), 3, "{mode:?}");
        assert!(b.client().discarded().unwrap().is_empty());
    }
}

/// C13: merging recognises equal rows, and a unique value under two keys goes to the inbox.
#[test]
fn merge_keeps_both_sides() {
    let w = World::new();
    let (a, b) = two_sides(&w, Attach::Merge);
    assert_eq!(b.client().attach().unwrap(), Attached::Merged);
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT group_concat(label) FROM (SELECT label FROM counters ORDER BY id)"), "theirs,ours");
    assert_eq!(a.text("SELECT label FROM counters JOIN marks ON counter = counters.id WHERE marks.id = 'o'"), "ours");
    assert_eq!(b.client().rejected().unwrap().len(), 2, "the row with the taken address, and its note");
}

/// Rows that an unsynced table holds stay where the account's rows are taken, also where one of the account needs a value
/// of theirs: that one waits.
#[test]
fn what_unsynced_rows_need_stays_over_unique_values() {
    for mode in [Attach::TakeRemote, Attach::Merge] {
        for (label, policy) in
            [("server", sync_client::Policy::ServerWins), ("client", sync_client::Policy::ClientWins)]
        {
            let w = World::new();
            let a = w.device("a");
            a.sql("INSERT INTO people (id, email) VALUES ('p0', 'mail 4'), ('p6', 'mail 1')");
            a.sync();
            let b = w.device_built("b", move |b| b.attach(mode).policy(policy.clone()));
            b.sql(
                "CREATE TABLE locks (note TEXT REFERENCES notes(id)); INSERT INTO people (id, email) VALUES ('p1', 'mail 4');
                 INSERT INTO notes VALUES ('n1', 'p1', 'x'); INSERT INTO locks VALUES ('n1');
                 INSERT INTO people (id, email) VALUES ('p0', 'mail 1')",
            );
            b.sync();
            assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{mode:?} {label}");
            assert_eq!(b.count("SELECT count(*) FROM notes JOIN people ON people.id = person"), 1, "{mode:?}");
        }
    }
}
