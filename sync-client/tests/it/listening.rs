//! The thread that listens to the server goes on, whatever it meets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use sync_client::Client;
use sync_client::context::{Environment, System};
use sync_client::transport::{Http, Request, Response, Transport, TransportError};

use crate::world::{World, until};

/// No patience with a busy file, no jitter, and a count of how often the thread that listens has begun to.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Environment for Counting {
    fn now_ms(&self) -> i64 {
        System.now_ms()
    }
    fn new_id(&self) -> String {
        System.new_id()
    }
    fn random(&self) -> u64 {
        let listens = std::thread::current().name() == Some("sync-watch");
        self.0.fetch_add(usize::from(listens), Ordering::Relaxed);
        0
    }
    fn opened(&self, conn: &Connection) {
        conn.busy_timeout(Duration::ZERO).unwrap();
    }
}

/// HTTP whose first stream fails, and at that moment the app begins to write and keeps readers out.
struct Writing {
    http: Http,
    app: Mutex<Option<Connection>>,
    streams: AtomicUsize,
}

impl Transport for Writing {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if request.stream && self.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            self.app.lock().unwrap().as_ref().unwrap().execute_batch("BEGIN EXCLUSIVE").unwrap();
            return Err(TransportError::Broken("the stream was cut".into()));
        }
        self.http.send(request)
    }
    fn interrupt(&self) {
        self.http.interrupt();
    }
    fn resume(&self) {
        self.http.resume();
    }
}

/// Without a write-ahead log a writer keeps readers out: who cannot read the file for a moment listens later.
#[test]
fn a_file_that_cannot_be_read_for_a_moment_is_not_the_end_of_the_news() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    b.sync();
    a.sync();
    a.close();
    // A connection that has not read yet does not know of the log.
    a.count("SELECT count(*) FROM people");
    assert_eq!(a.text("PRAGMA journal_mode = DELETE"), "delete");
    let app = Connection::open(&a.path).unwrap();
    let http = Http::new(w.url()).unwrap();
    let transport = Arc::new(Writing { http, app: Mutex::new(Some(app)), streams: AtomicUsize::new(0) });
    let env = Arc::new(Counting::default());
    let client = Client::builder(&a.path)
        .token(|_| Ok("ada".into()))
        .transport(Arc::clone(&transport) as _)
        .environment(Arc::clone(&env) as _)
        .open()
        .unwrap();
    client.start().unwrap();
    // The first time it gets as far as the stream, the second time it cannot read, and then it comes again.
    until("it begins again", || env.0.load(Ordering::Relaxed) > 2);
    transport.app.lock().unwrap().take().unwrap().execute_batch("COMMIT").unwrap();
    until("it listens", || transport.streams.load(Ordering::Relaxed) > 1);
    b.sql("INSERT INTO people (id) VALUES ('p')");
    b.sync();
    until("the row is here", || a.count("SELECT count(*) FROM people") == 1);
    client.stop();
}
