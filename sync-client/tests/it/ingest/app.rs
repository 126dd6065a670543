//! The outbox in an app's own file: its transactions, its tables, and row sync beside it.

use rusqlite::Connection;
use sync_client::ingest::{append, contract};

use super::{FULL, Producer, SINCE_LAST, event, source};
use crate::world::{World, converge};

#[test]
fn a_record_is_part_of_the_apps_transaction() {
    let p = Producer::new();
    let mut app = Connection::open(p.path("app.db")).unwrap();
    app.execute_batch("CREATE TABLE work (id INTEGER PRIMARY KEY, what TEXT)").unwrap();
    for (id, commits) in [("e1", true), ("e2", false)] {
        let tx = app.transaction().unwrap();
        tx.execute("INSERT INTO work (what) VALUES (?)", [id]).unwrap();
        append(&tx, "statsai", "events", &event(id, "2026-06-08T09:30:00Z").to_string()).unwrap();
        if commits {
            tx.commit().unwrap();
        }
    }
    p.pushed(&FULL);
    assert_eq!(p.peer.last_ids("events", "event_id"), ["e1"]);
    // Any language can do so, once the outbox is there.
    let record = event("e3", "2026-06-08T09:31:00Z").to_string();
    let sql = "INSERT INTO _sync_ingest_outbox (stream, kind, record) VALUES ('statsai', 'events', ?)";
    app.execute(sql, [record]).unwrap();
    p.pushed(&SINCE_LAST);
    assert_eq!(p.peer.last_ids("events", "event_id"), ["e3"]);
}

/// What is no record stays in the outbox and is told, and holds nothing up.
#[test]
fn what_is_no_record_is_kept_and_told() {
    let p = Producer::new();
    let app = Connection::open(p.path("app.db")).unwrap();
    assert!(append(&app, "statsai", "events", "{").is_ok());
    let raw = "INSERT INTO _sync_ingest_outbox (stream, kind, record) VALUES ('statsai', ";
    app.execute(&format!("{raw} 'events', CAST(x'7b22ff227d' AS TEXT))"), []).unwrap();
    app.execute(&format!("{raw} CAST(x'ff' AS TEXT), '{{}}')"), []).unwrap();
    for wrong in ["'events', x'7b7d'", "x'00', '{}'", "'events', NULL"] {
        assert!(app.execute(&format!("{raw} {wrong})"), []).is_err(), "{wrong}");
    }
    for (kind, record) in [("events", "["), ("events", "{\"a\":1}"), ("dances", "{}")] {
        append(&app, "statsai", kind, record).unwrap();
    }
    p.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
    for _ in 0..2 {
        let pushed = p.pushed(&FULL);
        assert_eq!((pushed.counts["events"], pushed.invalid.len()), (1, 6));
    }
    let invalid = p.status().invalid;
    assert!(invalid.iter().all(|f| f.id.is_none()) && invalid[2].reason.contains("no such kind"), "{invalid:?}");
    let kept: i64 = app.query_row("SELECT count(*) FROM _sync_ingest_outbox", [], |r| r.get(0)).unwrap();
    assert_eq!(kept, 6);
    assert!(contract("dance").is_err());
}

/// A file that row sync has goes on as it was, and its records go to no other device.
#[test]
fn row_sync_and_ingest_share_a_file() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    converge(&[&a, &b]);
    let p = Producer::new();
    let app = Connection::open(&a.path).unwrap();
    app.execute_batch("BEGIN").unwrap();
    app.execute_batch("INSERT INTO people (id, name) VALUES ('q', 'x')").unwrap();
    append(&app, "statsai", "sources", &source("s1").to_string()).unwrap();
    app.execute_batch("COMMIT").unwrap();
    converge(&[&a, &b]);
    let stream = sync_client::ingest::Stream::open(&a.path, "statsai").unwrap();
    let pushed = stream.push(&mut sync_client::ingest::Sink::Http(&p.remote()), &FULL).unwrap();
    assert_eq!((pushed.stop, pushed.counts["sources"]), (None, 1));
    a.sql("UPDATE people SET name = 'y' WHERE id = 'q'");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id || name) FROM (SELECT * FROM people ORDER BY id)"), "px,qy");
    let there = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_ingest%' ESCAPE '\\'";
    assert_eq!(
        (b.text(&format!("SELECT ({there}) || ''")), a.client().status().unwrap().tables.len()),
        ("0".into(), b.client().status().unwrap().tables.len())
    );
    // Whoever ends row sync keeps the records.
    a.client().detach(sync_client::Detach::KeepData).unwrap();
    drop(stream);
    let stream = sync_client::ingest::Stream::open(&a.path, "statsai").unwrap();
    assert_eq!(stream.status().unwrap().records["sources"], 1);
}
