//! Beside an app that commits without pause: a sync ends, and gets its turn.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use sync_client::Event;
use sync_client::context::FaultPoint;
use sync_server::limits::Limits;

use crate::world::{AtFault, Device, SCHEMA, World, converge, until};

/// A device whose app commits a row whenever a push of its file got as far as one of these.
fn restless(w: &World, name: &str, at: &'static [FaultPoint], most: i64) -> Device {
    let path = w.dir.path().join(format!("{name}.db"));
    let written = Arc::new(AtomicI64::new(0));
    let app: Arc<Mutex<Option<Connection>>> = Arc::default();
    w.device_built(name, move |b| {
        let (path, written, app) = (path.clone(), Arc::clone(&written), Arc::clone(&app));
        b.environment(Arc::new(AtFault(move |point| {
            if at.contains(&point) && written.load(Ordering::SeqCst) < most {
                let n = written.fetch_add(1, Ordering::SeqCst);
                let mut app = app.lock().unwrap();
                let app = app.get_or_insert_with(|| Connection::open(&path).unwrap());
                app.execute("INSERT INTO people (id) VALUES ('meanwhile ' || ?)", [n]).unwrap();
            }
        })))
    })
}

#[test]
fn what_the_app_writes_meanwhile_is_not_chased() {
    let w = World::new();
    let (a, b) = (restless(&w, "a", &[FaultPoint::Frozen, FaultPoint::AfterCommit], 200), w.device("b"));
    a.sync();
    b.sync();
    b.sql("INSERT INTO people (id) VALUES ('b')");
    b.sync();
    a.sql("INSERT INTO people (id) VALUES ('a')");
    let mark = a.client().mark().unwrap();
    let report = a.sync();
    assert_eq!((report.rounds, report.push.committed_rows, report.pull.applied_rows), (1, 1, 1));
    let status = a.client().status().unwrap();
    assert!(status.synced_through >= mark, "what was there is settled");
    assert_eq!(status.pending_rows, 2, "what came meanwhile waits");
    b.sync();
    assert_eq!(b.text("SELECT group_concat(id) FROM (SELECT id FROM people ORDER BY id)"), "a,b");
    let within = a.client().sync_within(std::time::Duration::from_secs(60), None).unwrap();
    assert!(within.more && within.report.rounds == 1, "{within:?}");
}

/// More than the server takes at once goes in parts, however much is written between them.
#[test]
fn what_was_there_goes_in_parts_while_the_app_writes() {
    let w = World::with(SCHEMA, Limits { max_rows_per_bundle: 10, ..Limits::default() });
    let (a, b) = (restless(&w, "a", &[FaultPoint::Frozen], 500), w.device("b"));
    a.sync();
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 35) INSERT INTO people (id) SELECT i FROM n");
    let report = a.sync();
    assert!(report.rounds < 10, "{report:?}");
    assert!(a.client().status().unwrap().pending_rows > 0, "the app went on");
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM people WHERE id NOT LIKE 'meanwhile%'"), 35);
}

/// What was written meanwhile, and noticed by the pull of the same sync, goes with the next one of the background.
#[test]
fn the_background_goes_on_with_what_was_written_meanwhile() {
    let w = World::new();
    let (a, b) = (restless(&w, "a", &[FaultPoint::Frozen], 1), w.device("b"));
    converge(&[&a, &b]);
    b.sql("INSERT INTO people (id) VALUES ('b')");
    b.sync();
    a.sql("INSERT INTO people (id) VALUES ('a')");
    a.client().start().unwrap();
    until("all of it is sent", || b.client().sync().is_ok_and(|_| b.count("SELECT count(*) FROM people") == 3));
    a.client().stop();
}

#[test]
fn who_waits_for_the_lock_says_so_and_goes_on() {
    let w = World::new();
    let a = w.device("a");
    a.sync();
    a.sql("INSERT INTO people (id) VALUES ('a')");
    a.sql("BEGIN IMMEDIATE");
    let client = a.client().clone();
    let syncing = std::thread::spawn(move || client.sync().unwrap());
    let told = || {
        let events = a.events.lock().unwrap();
        events
            .iter()
            .find_map(|e| if let Event::Waiting { message, ms } = e { Some((message.clone(), *ms)) } else { None })
    };
    until("it says that it waits", || told().is_some());
    let (message, ms) = told().unwrap();
    assert!(message.contains("a.db") && message.contains("writing") && ms.is_none(), "{message}");
    a.sql("COMMIT");
    assert_eq!(syncing.join().unwrap().push.committed_rows, 1);
    let waits = a.events.lock().unwrap().iter().filter(|e| matches!(e, Event::Waiting { .. })).count();
    assert_eq!(waits, 1, "once");
}

/// An import in a tight loop, that leaves the lock for moments only.
#[test]
fn a_writer_that_never_pauses_leaves_a_turn() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO counters (label) VALUES ('there')");
    b.sql("INSERT INTO people (id) VALUES ('b')");
    b.sync();
    let over = Arc::new(AtomicBool::new(false));
    let (path, ends) = (a.path.clone(), Arc::clone(&over));
    let (begun, began) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let app = Connection::open(path).unwrap();
        app.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
        app.pragma_update(None, "synchronous", "OFF").unwrap();
        let mut insert = app.prepare("INSERT INTO marks (id, counter) SELECT 'm' || ?, min(id) FROM counters").unwrap();
        let mut n = 0;
        while !ends.load(Ordering::Relaxed) {
            insert.execute([n]).unwrap();
            n += 1;
            begun.send(()).unwrap_or_default();
        }
    });
    began.recv().unwrap();
    let outcome = a.client().sync();
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    let report = outcome.unwrap();
    assert!(report.rounds <= 3 && report.pull.applied_rows == 1, "{report:?}");
    converge(&[&a, &b]);
}
