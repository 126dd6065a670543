//! Status: it waits for nobody, writes nothing, and what it says is so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Client, ErrorClass, Event};

use crate::world::{World, converge, until};

#[test]
fn status_waits_for_nobody_and_writes_nothing() {
    let w = World::new();
    let a = w.device("a");
    a.sql("INSERT INTO people (id) VALUES ('p')");
    a.sync();
    let reader = rusqlite::Connection::open(&a.path).unwrap();
    let version = || reader.query_row("PRAGMA data_version", [], |r| r.get::<_, i64>(0)).unwrap();
    a.sql("INSERT INTO people (id) VALUES ('q')");
    let before = version();
    a.sql("BEGIN IMMEDIATE; INSERT INTO people (id) VALUES ('r')");
    let status = a.client().status().unwrap();
    assert_eq!((status.pending_rows, status.pending_more), (1, false), "what is not committed does not count");
    a.client().mark().unwrap();
    a.client().pending().unwrap();
    a.client().rejected().unwrap();
    a.sql("COMMIT");
    a.client().status().unwrap();
    a.sql("UPDATE people SET age = 1");
    assert_eq!(a.client().status().unwrap().pending_rows, 3, "rows, not changes");
    let app_writes = version();
    a.client().status().unwrap();
    assert_eq!(version(), app_writes);
    assert_ne!(before, app_writes);
}

/// A status of a file that nobody else has open leaves it as it was.
#[test]
fn the_last_one_to_look_does_not_tidy_up() {
    let w = World::new();
    let mut a = w.device("a");
    a.sql("INSERT INTO people (id) VALUES ('p')");
    a.sync();
    let path = a.path.clone();
    let keep = rusqlite::Connection::open(&path).unwrap();
    keep.execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE people SET age = 9").unwrap();
    keep.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    a.close();
    a.app.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop((a, keep));
    let log = w.dir.path().join("a.db-wal");
    let size = std::fs::metadata(&log).unwrap().len();
    assert!(size > 0);
    assert_eq!(sync_client::read_status(&path).unwrap().pending_rows, 1);
    assert_eq!(std::fs::metadata(&log).unwrap().len(), size);
}

/// `mark` after a commit, `synced_through` later: at no moment does it say too much, and in the end enough.
#[test]
fn synced_through_tells_of_each_commit() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    let settled = |mark| a.client().status().unwrap().synced_through >= mark;
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    let first = a.client().mark().unwrap();
    assert!(!settled(first));
    a.sync();
    assert!(settled(first) && settled(a.client().mark().unwrap()));
    a.sql("INSERT INTO people (id, name) VALUES ('q', 'x')");
    let second = a.client().mark().unwrap();
    assert!(second > first && !settled(second) && settled(first));
    assert_eq!(a.client().mark().unwrap(), second, "nothing was committed since");
    a.client().push().unwrap();
    assert!(!settled(second), "the server has it, this file has not heard that it is history");
    a.sql("UPDATE people SET age = 1 WHERE id = 'q'");
    let third = a.client().mark().unwrap();
    a.client().pull().unwrap();
    assert!(settled(second) && !settled(third));
    a.sync();
    assert!(settled(third));
    // A conflict that is lost is settled too: the local row is in the inbox.
    b.sync();
    b.sql("UPDATE people SET name = 'b' WHERE id = 'p'");
    b.sync();
    a.sql("UPDATE people SET name = 'a' WHERE id = 'p'");
    let fourth = a.client().mark().unwrap();
    a.sync();
    assert!(settled(fourth));
    assert_eq!(a.client().status().unwrap().discarded_rows, 1);
    // A change that means nothing.
    a.sql("UPDATE people SET name = name WHERE id = 'p'");
    let fifth = a.client().mark().unwrap();
    assert!(!settled(fifth));
    a.sync();
    assert!(settled(fifth));
    converge(&[&a, &b]);
}

/// What a wiped server does not have any more is not settled any more.
#[test]
fn synced_through_goes_back_with_the_server() {
    let mut w = World::new();
    let a = w.device("a");
    a.sql("INSERT INTO people (id) VALUES ('p')");
    a.sync();
    let mark = a.client().mark().unwrap();
    w.stop();
    std::fs::remove_dir_all(w.data()).unwrap();
    w.start();
    assert!(a.client().pull().is_ok() || a.client().status().unwrap().synced_through < mark);
    let status = a.client().status().unwrap();
    assert_eq!(status.pending_rows > 0, status.synced_through < mark, "{status:?}");
    a.sync();
    assert!(a.client().status().unwrap().synced_through >= mark);
}

/// HTTP that can be turned off.
struct Switch {
    http: Http,
    off: AtomicBool,
    listening: AtomicBool,
}

impl Transport for Switch {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        // The stream goes on: what it tells must be heard while pulls fail.
        if self.off.load(Ordering::Relaxed) && !request.stream {
            return Err(TransportError::Offline("no network".into()));
        }
        let response = self.http.send(request)?;
        self.listening.fetch_or(request.stream && response.status == 200, Ordering::Relaxed);
        Ok(response)
    }
    fn interrupt(&self) {
        self.http.interrupt();
    }
    fn resume(&self) {
        self.http.resume();
    }
}

/// Offline: the error and its class, since when changes wait, and what the stream tells of the server.
/// Then a wake, and all is well at once.
#[test]
fn offline_is_told_and_a_wake_ends_it() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    b.sync();
    a.close();
    let transport = Arc::new(Switch {
        http: Http::new(w.url()).unwrap(),
        off: AtomicBool::new(false),
        listening: AtomicBool::new(false),
    });
    let (events, failed) = std::sync::mpsc::channel();
    let client = Client::builder(&a.path)
        .token(|_| Ok("ada".into()))
        .transport(Arc::clone(&transport) as _)
        .on_event(move |e| {
            if let Event::Failed { retry_in_ms, .. } = e {
                let _ = events.send(*retry_in_ms);
            }
        })
        .open()
        .unwrap();
    client.start().unwrap();
    b.sql("INSERT INTO people (id) VALUES ('heard')");
    b.sync();
    until("the stream is open", || transport.listening.load(Ordering::Relaxed));
    until("the row is here", || a.count("SELECT count(*) FROM people") == 1);
    transport.off.store(true, Ordering::Relaxed);
    a.sql("INSERT INTO people (id) VALUES ('p')");
    assert!(failed.recv().unwrap().is_some(), "it tries again by itself");
    b.sql("INSERT INTO people (id) VALUES ('more')");
    b.sync();
    let latest = b.client().status().unwrap().checkpoint;
    until("the news is heard", || client.status().unwrap().latest_known == latest);
    let status = client.status().unwrap();
    assert_eq!(status.last_error.unwrap().class, ErrorClass::Offline);
    assert!(status.oldest_pending.is_some() && status.checkpoint < latest && status.pending_rows == 1);
    let mark = client.mark().unwrap();
    transport.off.store(false, Ordering::Relaxed);
    client.wake();
    until("the wake ends it", || client.status().unwrap().synced_through >= mark);
    until("the error is over", || client.status().unwrap().last_error.is_none());
    client.stop();
}

/// An unknown host is offline, and a stop ends a worker that waits for it.
#[test]
fn an_unknown_host_is_offline() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let (events, failed) = std::sync::mpsc::channel();
    let client = Client::builder(&a.path)
        .server("http://no-such-host.invalid")
        .token(|_| Ok("ada".into()))
        .on_event(move |e| {
            if let Event::Failed { class, .. } = e {
                let _ = events.send(*class);
            }
        })
        .open()
        .unwrap();
    client.start().unwrap();
    assert_eq!(failed.recv().unwrap(), ErrorClass::Offline);
    client.stop();
    assert_eq!(client.sync().unwrap_err().class(), ErrorClass::Offline);
}

/// Counts are exact for what a person can count, and "more" beyond.
#[test]
fn large_counts_say_more() {
    let w = World::new();
    let a = w.device("a");
    a.sync();
    let fill = |from: i64, n: i64| {
        a.sql(&format!(
            "WITH n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
             INSERT INTO people (id) SELECT 'p' || i FROM n",
            from + n - 1
        ));
    };
    fill(0, 9_000);
    let status = a.client().status().unwrap();
    assert_eq!((status.pending_rows, status.pending_more), (9_000, false));
    fill(9_000, 9_000);
    let status = a.client().status().unwrap();
    assert_eq!((status.pending_rows, status.pending_more), (10_000, true));
    a.sync();
    let status = a.client().status().unwrap();
    assert_eq!((status.pending_rows, status.pending_more), (0, false));
}
