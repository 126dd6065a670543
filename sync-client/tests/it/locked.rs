//! Commits that another connection keeps from ending: nothing is left open, and the next try goes on.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use sync_client::{Detach, Error};

use crate::world::{Device, Impatient, World, converge};

/// A device whose file has no write-ahead log: there, who reads keeps a commit from ending.
fn without_wal(w: &World, name: &str) -> Device {
    let mut d = w.device_built(name, |b| b.environment(Arc::new(Impatient)));
    d.sync();
    d.close();
    // A connection that has not read yet does not know of the log.
    d.count("SELECT count(*) FROM people");
    assert_eq!(d.text("PRAGMA journal_mode = DELETE"), "delete");
    d.open();
    d.sync();
    assert_eq!(d.text("PRAGMA journal_mode"), "delete");
    d
}

/// A connection in the middle of a read.
fn reader(d: &Device) -> Connection {
    let conn = Connection::open(&d.path).unwrap();
    conn.execute_batch("BEGIN").unwrap();
    conn.query_row("SELECT count(*) FROM people", [], |r| r.get::<_, i64>(0)).unwrap();
    conn
}

#[test]
fn a_reader_in_the_way_of_a_commit_costs_one_try() {
    let w = World::new();
    let (a, b) = (without_wal(&w, "a"), w.device("b"));
    a.app.busy_timeout(Duration::ZERO).unwrap();
    // A migration: its capture is a write of ours.
    a.sql("CREATE INDEX people_name ON people(name)");
    let reading = reader(&a);
    let failed = a.client().sync().unwrap_err();
    assert!(matches!(failed, Error::Sqlite(_)), "{failed:?}");
    drop(reading);
    // The app is not locked out, and what it writes is captured.
    a.sql("INSERT INTO people (id) VALUES ('p')");
    let reading = reader(&a);
    assert!(matches!(a.client().detach(Detach::KeepData), Err(Error::Sqlite(_))));
    drop(reading);
    a.sql("UPDATE people SET name = 'y'");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people"), "y");
    assert_eq!(a.client().detach(Detach::WhenClean).unwrap().kept_rows, 0);
}
