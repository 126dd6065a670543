//! Detaching and attaching again (cases C12, H8): what stays, what is remembered, what another user sees.

mod forgotten;
mod waking;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};
use sync_client::{Attach, Attached, Client, Detach, Error, Policy};
use sync_server::limits::Limits;

use crate::world::{Device, SCHEMA, World, converge, dump};

fn detach(d: &mut Device, how: Detach) -> sync_client::Detached {
    let detached = d.client().detach(how).unwrap();
    d.close();
    assert_eq!(d.count("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"), 0);
    assert!(matches!(Client::builder(&d.path).open(), Err(Error::NotInitialized)));
    detached
}

const ROWS: &str =
    "INSERT INTO people (id, name) VALUES ('gone', 'x'), ('kept', 'x'), ('edited', 'x'), ('deleted', 'x');
    INSERT INTO notes VALUES ('n', 'gone', 'cascades'), ('m', 'kept', 'stays')";

/// C12: others delete and edit, the app edits without being watched; nothing is resurrected, nothing lost.
#[test]
fn a_file_goes_on_where_it_was_detached() {
    for (policy, mode) in [
        (Policy::ServerWins, None),
        (Policy::ClientWins, Some(Attach::TakeRemote)),
        (Policy::ServerWins, Some(Attach::Fail)),
    ] {
        let w = World::new();
        let (mut a, b) = (w.device_with("a", policy, |_| {}), w.device("b"));
        // A mode is for the first time, and for another account.
        a.setup = Box::new(move |b| match mode {
            Some(mode) => b.attach(mode),
            None => b,
        });
        a.sql(ROWS);
        converge(&[&a, &b]);
        let source = a.client().status().unwrap().source_id;
        assert_eq!(detach(&mut a, Detach::WhenClean), sync_client::Detached::default());
        b.sql("DELETE FROM people WHERE id = 'gone'; UPDATE people SET name = 'by b' WHERE id = 'kept'");
        b.sync();
        a.sql("UPDATE people SET name = 'unwatched' WHERE id = 'edited'; DELETE FROM people WHERE id = 'deleted'; INSERT INTO people (id) VALUES ('new')");
        a.open();
        let attached = a.client().attach().unwrap();
        assert_eq!(attached, Attached::Resumed);
        let report = a.sync();
        assert!(!report.pull.rebuilt && report.pull.conflicts == 0, "{report:?}");
        assert_eq!(report.push.committed_rows, 3);
        converge(&[&a, &b]);
        let names = "SELECT group_concat(id || coalesce(name, ''), ' ') FROM (SELECT * FROM people ORDER BY id)";
        assert_eq!(b.text(names), "editedunwatched keptby b new");
        assert_eq!(b.text("SELECT group_concat(id) FROM notes"), "m");
        assert_eq!(a.client().status().unwrap().source_id, source);
        assert!(a.client().discarded().unwrap().is_empty());
    }
}

/// HTTP that, told so by a 1, loses the reply to a commit, and every request after it.
struct NoReply(Http, AtomicUsize);

impl Transport for NoReply {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if self.1.load(Ordering::Relaxed) == 2 {
            return Err(TransportError::Broken("the network is gone".into()));
        }
        let response = self.0.send(request)?;
        let commit = request.method == Method::Post && request.path.ends_with("/commit");
        if commit && self.1.compare_exchange(1, 2, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Err(TransportError::Broken("the reply was lost".into()));
        }
        Ok(response)
    }
}

/// Pending work is kept, its bases and a push in doubt too: nothing is committed twice.
#[test]
fn kept_work_goes_on_also_where_a_commit_is_in_doubt() {
    for edit_after in [false, true] {
        let w = World::new();
        let transport = Arc::new(NoReply(Http::new(w.url()).unwrap(), AtomicUsize::new(0)));
        let lossy = Arc::clone(&transport);
        let mut a = w.device_built("a", move |b| b.transport(Arc::<NoReply>::clone(&lossy)));
        let b = w.device("b");
        a.sql(ROWS);
        converge(&[&a, &b]);
        transport.1.store(1, Ordering::Relaxed);
        a.sql("INSERT INTO counters (label) VALUES ('once'); UPDATE people SET name = 'sent' WHERE id = 'kept'");
        a.client().sync().unwrap_err();
        transport.1.store(0, Ordering::Relaxed);
        a.sql("UPDATE people SET name = 'later' WHERE id = 'edited'; DELETE FROM people WHERE id = 'deleted'");
        assert!(matches!(a.client().detach(Detach::WhenClean), Err(Error::PendingWork(4))));
        assert_eq!(detach(&mut a, Detach::KeepData).kept_rows, 4);
        if edit_after {
            a.sql("DELETE FROM counters; UPDATE people SET name = 'after' WHERE id = 'kept'");
        }
        b.sync();
        a.open();
        converge(&[&a, &b]);
        assert_eq!(b.count("SELECT count(*) FROM counters"), i64::from(!edit_after));
        let names = "SELECT group_concat(id || name, ' ') FROM (SELECT * FROM people ORDER BY id)";
        let kept = if edit_after { "after" } else { "sent" };
        assert_eq!(b.text(names), format!("editedlater gonex kept{kept}"));
        assert!(a.client().discarded().unwrap().is_empty() && a.client().conflicts().unwrap().is_empty());
    }
}

/// Every edit is taken back and kept whole, also where unique values changed hands.
#[test]
fn discarding_takes_every_edit_back() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql(ROWS);
    a.sql("UPDATE people SET email = id || '@x' WHERE id IN ('kept', 'edited')");
    converge(&[&a, &b]);
    let before = dump(&a.path);
    a.sql(
        "UPDATE people SET email = NULL WHERE id = 'kept'; UPDATE people SET email = 'kept@x' WHERE id = 'edited';
         UPDATE people SET email = 'edited@x' WHERE id = 'kept';
         INSERT INTO people (id) VALUES ('own'); INSERT INTO notes VALUES ('own', 'own', 'precious');
         DELETE FROM people WHERE id = 'gone'; UPDATE people SET id = 'moved' WHERE id = 'deleted'",
    );
    // kept and edited; own and its note; gone and its note; deleted and moved.
    assert_eq!(detach(&mut a, Detach::Discard).discarded_rows, 8);
    assert_eq!(dump(&a.path), before);
    let discarded = sync_client::read_inbox(&a.path, "discarded").unwrap();
    assert_eq!(discarded.len(), 8);
    assert!(discarded.iter().all(|d| d.reason == "detached"));
    assert!(discarded.iter().any(|d| d.local_row.as_ref().is_some_and(|r| r.contains("precious"))));
    a.open();
    assert_eq!(a.client().attach().unwrap(), Attached::Resumed);
    assert_eq!(a.sync().push.bundles, 0);
    converge(&[&a, &b]);
    assert_eq!(dump(&b.path), before);
}

/// What committed already is not pending: only the edit on top of it is taken back.
#[test]
fn discarding_leaves_what_was_committed() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql(ROWS);
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'pushed'; INSERT INTO people (id, name) VALUES ('pushed', 'x'); DELETE FROM people WHERE id = 'deleted'");
    a.client().push().unwrap();
    let committed = dump(&a.path);
    a.sql("UPDATE people SET name = 'on top'; INSERT INTO people (id) VALUES ('deleted')");
    detach(&mut a, Detach::Discard);
    assert_eq!(dump(&a.path), committed);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(dump(&b.path), committed);
    assert!(a.client().conflicts().unwrap().is_empty());
}

/// `REPLACE` leaves no base: the edit stays until the next attach, which fetches the server's row.
#[test]
fn discarding_without_a_base_fetches_the_row_again() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql(ROWS);
    converge(&[&a, &b]);
    a.sql("INSERT OR REPLACE INTO people (id, name) VALUES ('kept', 'replaced')");
    detach(&mut a, Detach::Discard);
    assert_eq!(a.text("SELECT name FROM people WHERE id = 'kept'"), "replaced");
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'kept'"), "x");
}

/// Another user's token: nothing goes along unless it is said so.
#[test]
fn another_user_gets_the_rows_only_by_choice() {
    for mode in [None, Some(Attach::Fail), Some(Attach::Merge), Some(Attach::TakeRemote)] {
        for bob_has_rows in [false, true] {
            let w = World::new();
            let (mut a, ada) = (w.device("a"), w.device("ada"));
            a.sql(ROWS);
            converge(&[&a, &ada]);
            a.sql("UPDATE people SET name = 'pending' WHERE id = 'kept'");
            ada.sql("UPDATE people SET name = 'wins' WHERE id = 'kept'");
            ada.sync();
            a.sync();
            assert_eq!(a.client().discarded().unwrap().len(), 1);
            let source = a.client().status().unwrap().source_id;
            a.sql("INSERT INTO people (id) VALUES ('pending')");
            detach(&mut a, Detach::KeepData);
            let mut bob = w.device("bob");
            bob.user = "bob".into();
            bob.open();
            if bob_has_rows {
                bob.sql("INSERT INTO people (id, name) VALUES ('kept', 'of bob'), ('bob', 'of bob')");
                bob.sync();
            }
            let rows = dump(&a.path);
            a.user = "bob".into();
            a.setup = Box::new(move |b| match mode {
                Some(mode) => b.attach(mode),
                None => b,
            });
            a.open();
            match mode {
                None | Some(Attach::Fail) => {
                    assert!(matches!(a.client().sync(), Err(Error::OtherAccount { rows: 7 })), "{mode:?}");
                    assert_eq!(dump(&a.path), rows);
                    bob.sync();
                    assert_eq!(bob.count("SELECT count(*) FROM people"), if bob_has_rows { 2 } else { 0 });
                    // With the first user's token it goes on where it was.
                    a.user = "ada".into();
                    a.setup = Box::new(|b| b);
                    a.open();
                    assert_eq!(a.client().attach().unwrap(), Attached::Resumed);
                    converge(&[&a, &ada]);
                    assert_eq!(a.client().status().unwrap().source_id, source);
                }
                Some(Attach::Merge | Attach::Copy) => {
                    converge(&[&a, &bob]);
                    assert_eq!(bob.count("SELECT count(*) FROM people"), if bob_has_rows { 6 } else { 5 });
                    assert_eq!(bob.count("SELECT count(*) FROM notes"), 2);
                }
                Some(Attach::TakeRemote) => {
                    converge(&[&a, &bob]);
                    assert_eq!(bob.count("SELECT count(*) FROM people"), if bob_has_rows { 2 } else { 0 });
                    assert_eq!(bob.count("SELECT count(*) FROM notes"), 0);
                    let discarded = a.client().discarded().unwrap();
                    assert_eq!(discarded.len(), 7, "this account's inbox begins anew: {discarded:?}");
                }
            }
            if matches!(mode, Some(Attach::Merge | Attach::TakeRemote)) {
                assert_ne!(a.client().status().unwrap().source_id, source);
                assert!(a.client().discarded().unwrap().iter().all(|d| d.reason != "server_wins" || bob_has_rows));
                ada.sync();
                assert_eq!(ada.count("SELECT count(*) FROM people"), 4, "the first account is as it was");
            }
        }
    }
}

/// Another history of the same account: rows are recognised, none is taken for deleted.
#[test]
fn another_history_is_merged() {
    let mut w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql(ROWS);
    converge(&[&a, &b]);
    a.sql("DELETE FROM people WHERE id = 'deleted'");
    converge(&[&a, &b]);
    detach(&mut a, Detach::WhenClean);
    w.stop();
    std::fs::remove_dir_all(w.data()).unwrap();
    w.start();
    let c = w.device("c");
    for n in 0..5 {
        c.sql(&format!("INSERT INTO people (id, name) VALUES ('of c {n}', 'x')"));
        c.sync();
    }
    c.sql("INSERT INTO people (id, name) VALUES ('kept', 'x')");
    c.sync();
    a.open();
    assert_eq!(a.client().attach().unwrap(), Attached::Resumed);
    converge(&[&a, &c]);
    assert_eq!(c.count("SELECT count(*) FROM people"), 8);
    assert!(a.client().discarded().unwrap().is_empty());
}

/// The history was pruned meanwhile, and so was every trace of a delete.
#[test]
fn a_pruned_history_brings_nothing_back() {
    let w = World::with(SCHEMA, Limits { retained_bundles: 1, ..Limits::default() });
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql(ROWS);
    converge(&[&a, &b]);
    detach(&mut a, Detach::WhenClean);
    b.sql("DELETE FROM people WHERE id = 'gone'");
    for n in 0..4 {
        b.sql(&format!("INSERT INTO people (id) VALUES ('{n}')"));
        b.sync();
    }
    a.sql("UPDATE people SET name = 'unwatched' WHERE id = 'edited'");
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 7);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'edited'"), "unwatched");
}

/// The app gets another version while the file is detached, or before it was asked whether it may go on.
#[test]
fn a_migration_while_detached_loses_nothing() {
    for due in ["due TEXT", "due TEXT NOT NULL DEFAULT 'none'"] {
        for woken in [false, true] {
            let mut w = World::with(
                &format!("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, title TEXT, {due});"),
                Limits::default(),
            );
            let b = w.device("b");
            w.schema = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, title TEXT);".into();
            let mut a = w.device("a");
            w.schema = w.schema.replace("title TEXT", &format!("title TEXT, {due}"));
            b.sql(
                "INSERT INTO t VALUES ('1', 'one', 'monday'), ('2', 'two', 'tuesday'), ('3', 'three', 'sunday'),
                   ('4', 'four', 'sunday')",
            );
            b.sync();
            a.sync();
            detach(&mut a, Detach::WhenClean);
            if woken {
                w.stop();
                a.open();
                a.client().attach().unwrap_err();
            }
            a.sql(&format!(
                "ALTER TABLE t ADD COLUMN {due}; UPDATE t SET title = 'edited' WHERE id = '2';
                 DELETE FROM t WHERE id = '3'; UPDATE t SET due = 'friday' WHERE id = '4'"
            ));
            if woken {
                w.start();
            }
            a.open();
            converge(&[&a, &b]);
            let rows = "SELECT group_concat(title || due) FROM (SELECT * FROM t ORDER BY id)";
            assert_eq!(b.text(rows), "onemonday,editedtuesday,fourfriday", "{due}, woken: {woken}");
            assert!(a.client().conflicts().unwrap().is_empty() && a.client().discarded().unwrap().is_empty());
        }
    }
}

/// A full-text index that triggers of the app keep stays right through all of it.
#[test]
fn a_full_text_index_stays_right() {
    let w = World::new();
    let b = w.device("b");
    let mut a = w.closed_device("a", |c| {
        c.execute_batch(
            "CREATE VIRTUAL TABLE found USING fts5(body, content = 'notes');
             CREATE TRIGGER found_i AFTER INSERT ON notes BEGIN INSERT INTO found (rowid, body) VALUES (NEW.rowid, NEW.body); END;
             CREATE TRIGGER found_d AFTER DELETE ON notes BEGIN
               INSERT INTO found (found, rowid, body) VALUES ('delete', OLD.rowid, OLD.body); END;
             CREATE TRIGGER found_u AFTER UPDATE ON notes BEGIN
               INSERT INTO found (found, rowid, body) VALUES ('delete', OLD.rowid, OLD.body);
               INSERT INTO found (rowid, body) VALUES (NEW.rowid, NEW.body); END;
             INSERT INTO notes (id, body) VALUES ('mine', 'local words'), ('n', 'other words');",
        )
        .unwrap();
    });
    a.setup = Box::new(|b| b.attach(Attach::TakeRemote).keep_edits_of("tags"));
    let right = |a: &Device, when: &str| {
        let check = "INSERT INTO found (found, rank) VALUES ('integrity-check', 1)";
        a.app.execute_batch(check).unwrap_or_else(|e| panic!("{when}: {e}"));
    };
    b.sql(
        "INSERT INTO people (id) VALUES ('p'); INSERT INTO notes VALUES ('n', 'p', 'remote words'), ('o', 'p', 'more')",
    );
    b.sync();
    a.open();
    a.sync();
    right(&a, "taken");
    assert_eq!(a.count("SELECT count(*) FROM found WHERE found MATCH 'remote'"), 1);
    a.sql("INSERT INTO tags VALUES ('n', 'kept')");
    b.sql("DELETE FROM people");
    b.sync();
    a.sync();
    right(&a, "kept");
    assert_eq!(a.count("SELECT count(*) FROM found WHERE found MATCH 'remote'"), 1, "the note came back");
    a.sql("UPDATE notes SET body = 'undone'; INSERT INTO notes (id, body) VALUES ('x', 'undone')");
    let path = w.dir.path().join("export");
    a.client().detach(Detach::Export(path.clone())).unwrap();
    a.close();
    right(&a, "exported");
    a.sql("INSERT INTO notes (id, body) VALUES ('y', 'unwatched')");
    a.open();
    a.sync();
    a.client().import(&path).unwrap();
    right(&a, "imported");
    converge(&[&a, &b]);
    right(&a, "converged");
    assert_eq!(a.count("SELECT count(*) FROM found WHERE found MATCH 'undone OR unwatched'"), 3);
}
