//! The server's history is not the one that a file knows: restored, wiped, or somebody else's for a minute. What
//! the file knows of its rows stays, so that a row is told from another with the same key, and a delete is one.

use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Attached, Detach, Error};
use sync_server::limits::Limits;

use crate::relay::Relay;
use crate::world::{Device, SCHEMA, World, converge, copy};

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

/// HTTP that says of each request which of two servers answers it, or what is answered in their place.
struct Routed {
    servers: [Http; 2],
    route: Mutex<Route>,
}

type Route = Box<dyn FnMut(&Request<'_>) -> To + Send>;

enum To {
    Server(usize),
    Answer(u16, &'static str),
}

impl Transport for Routed {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let to = (self.route.lock().unwrap())(request);
        match to {
            To::Server(n) => self.servers[n].send(request),
            To::Answer(status, body) => Ok(Response { status, retry_after: Some(1), body: Box::new(body.as_bytes()) }),
        }
    }
}

impl Routed {
    /// A device that speaks through it, to the first of both until the test says otherwise.
    fn device(w: &World, other: &World, name: &str) -> (Arc<Self>, Device) {
        let routed = Arc::new(Self {
            servers: [Http::new(w.url()).unwrap(), Http::new(other.url()).unwrap()],
            route: Mutex::new(Box::new(|_| To::Server(0))),
        });
        let through = Arc::clone(&routed);
        (routed, w.device_built(name, move |b| b.transport(Arc::<Self>::clone(&through))))
    }

    fn route(&self, route: impl FnMut(&Request<'_>) -> To + Send + 'static) {
        *self.route.lock().unwrap() = Box::new(route);
    }
}

/// Another server with a copy of this one's data of now.
fn fork(w: &mut World) -> World {
    let older = backup(w);
    let mut other = World::with(SCHEMA, w.limits.clone());
    restore(&mut other, Some(&older));
    other
}

fn is_pull(r: &Request<'_>) -> bool {
    r.path.starts_with("/sync/pull")
}

const LABELS: &str = "SELECT group_concat(id || label) FROM (SELECT * FROM counters ORDER BY id)";

/// A server that does not answer whether its history was rewritten has not said that it was not.
#[test]
fn a_rebuild_asks_again_whether_the_history_was_rewritten() {
    for status in [429, 500, 503] {
        let mut w = World::new();
        let mut other = fork(&mut w);
        let (routed, a) = Routed::device(&w, &other, "a");
        a.sql("INSERT INTO people (id) VALUES ('old')");
        a.sync();
        restore(&mut other, Some(&backup(&mut w)));
        a.sql("INSERT INTO people (id) VALUES ('new')");
        a.sync();
        let mut c = w.device("c");
        c.serve_at(other.url());
        for n in 0..3 {
            c.sql(&format!("INSERT INTO people (id) VALUES ('regrown {n}')"));
            c.sync();
        }
        routed.route(
            move |r| if is_pull(r) { To::Answer(status, r#"{"error":"storage_unavailable"}"#) } else { To::Server(1) },
        );
        a.client().rebuild().unwrap_err();
        routed.route(|_| To::Server(1));
        a.client().rebuild().unwrap();
        converge(&[&a, &c]);
        assert_eq!(c.count("SELECT count(*) FROM people"), 5, "{status}");
    }
}

/// The server is restored and grows again between two pages of one pull: nothing of two histories is mixed.
#[test]
fn pages_of_two_histories_are_not_mixed() {
    let mut w = World::with(SCHEMA, Limits { max_bundles_per_pull: 2, ..Limits::default() });
    let mut other = fork(&mut w);
    let (routed, a) = Routed::device(&w, &other, "a");
    a.sql("INSERT INTO people (id) VALUES ('shared')");
    a.sync();
    restore(&mut other, Some(&backup(&mut w)));
    let b = w.device("b");
    let mut c = w.device("c");
    c.serve_at(other.url());
    for n in 0..5 {
        for d in [&b, &c] {
            d.sql(&format!("INSERT INTO people (id) VALUES ('{n} of {}')", d.path.display()));
            d.sync();
        }
    }
    let mut pages = 0;
    routed.route(move |r| {
        pages += usize::from(is_pull(r));
        To::Server(usize::from(pages > 1))
    });
    a.sync();
    converge(&[&a, &c]);
    assert_eq!(c.count("SELECT count(*) FROM people"), 8, "two of b's were pulled before");
}

/// A push that the server confirmed, and that a snapshot of a moment before it does not show.
#[test]
fn a_snapshot_older_than_a_confirmed_push_is_made_again() {
    let mut w = World::new();
    let mut other = fork(&mut w);
    let (routed, a) = Routed::device(&w, &other, "a");
    let b = w.device("b");
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    restore(&mut other, Some(&backup(&mut w)));
    a.sql("INSERT INTO counters VALUES (5, 'first')");
    a.client().push().unwrap();
    a.sql("UPDATE counters SET label = 'second'");
    let mut snapshots = 0;
    routed.route(move |r| {
        snapshots += usize::from(r.path == "/sync/snapshot-sessions");
        To::Server(usize::from(r.path.contains("snapshot") && snapshots == 1))
    });
    a.client().rebuild().unwrap();
    converge(&[&a, &b]);
    assert_eq!(b.text(LABELS), "5second");
    assert!(a.client().discarded().unwrap().is_empty() && a.client().conflicts().unwrap().is_empty());
}

/// A push that the server confirmed, and that one pull did not show: it is asked for before it is given up.
#[test]
fn a_confirmed_push_is_given_up_only_when_the_server_lacks_it() {
    let mut w = World::new();
    let mut other = fork(&mut w);
    let (routed, a) = Routed::device(&w, &other, "a");
    let b = w.device("b");
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    restore(&mut other, Some(&backup(&mut w)));
    a.sql("INSERT INTO counters VALUES (5, 'first')");
    a.client().push().unwrap();
    a.sql("UPDATE counters SET label = 'second'");
    routed.route(|r| To::Server(usize::from(is_pull(r))));
    assert!(matches!(a.client().pull(), Err(Error::OldReply { said: 1, known: 2 })));
    assert_eq!(a.client().status().unwrap().outbox, "committed");
    routed.route(|_| To::Server(0));
    converge(&[&a, &b]);
    assert_eq!(b.text(LABELS), "5second");
    // And where it is lost, it is local work again.
    restore(&mut other, Some(&backup(&mut w)));
    a.sql("UPDATE counters SET label = 'third'");
    a.client().push().unwrap();
    restore(&mut w, Some(&backup(&mut other)));
    converge(&[&a, &b]);
    assert_eq!(b.text(LABELS), "5third");
}

/// A commit that says that its number was taken meanwhile says nothing of who took it: the push itself did.
#[test]
fn a_commit_whose_number_is_taken_is_asked_about() {
    for code in ["source_sequence_changed", "source_retired"] {
        let w = World::new();
        let (mut a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id) VALUES ('p')");
        converge(&[&a, &b]);
        let path = a.path.clone();
        let instead = move |n, response: Response| {
            if n > 1 {
                return response;
            }
            Connection::open(&path).unwrap().execute_batch("UPDATE counters SET label = 'second'").unwrap();
            let body = format!("{{\"error\":\"{code}\"}}").into_bytes();
            Response { status: 409, retry_after: None, body: Box::new(std::io::Cursor::new(body)) }
        };
        let relay = Relay::new(w.url(), Box::new(instead));
        let client = w.through(&mut a, &relay);
        a.sql("INSERT INTO counters VALUES (5, 'first')");
        client.sync().unwrap();
        drop(client);
        a.open();
        converge(&[&a, &b]);
        assert_eq!(b.text(LABELS), "5second", "{code}");
    }
}

/// What was pruned may still be known to be shared: rows that only others changed since are no conflict.
#[test]
fn a_fork_among_pruned_bundles_is_found() {
    let mut w = World::with(SCHEMA, Limits { retained_bundles: 4, ..Limits::default() });
    let a = w.device("a");
    for n in 0..6 {
        a.sql(&format!("INSERT INTO people (id, name) VALUES ('{n}', 'old')"));
        a.sync();
    }
    let older = backup(&mut w);
    a.sql("INSERT INTO people (id) VALUES ('above')");
    a.sync();
    restore(&mut w, Some(&older));
    let c = w.device("c");
    c.sync();
    for n in 0..10 {
        c.sql(&format!("UPDATE people SET name = 'new {n}'"));
        c.sync();
    }
    a.sync();
    converge(&[&a, &c]);
    assert_eq!(c.count("SELECT count(*) FROM people WHERE name = 'new 9'"), 6);
    assert_eq!(c.count("SELECT count(*) FROM people"), 7);
    assert!(a.client().discarded().unwrap().is_empty(), "{:?}", a.client().discarded().unwrap());
}

/// Two restores one after the other: what is remembered of the first history does not hide where the second parts.
#[test]
fn the_fork_of_a_second_restore_is_found() {
    let mut w = World::new();
    let (a, c) = (w.device("a"), w.device("c"));
    converge(&[&a, &c]);
    let grow = |rows: std::ops::Range<i32>| {
        for n in rows {
            c.sql(&format!("INSERT INTO people (id, name) VALUES ('{n}', 'old')"));
            c.sync();
        }
    };
    grow(0..3);
    let older = backup(&mut w);
    grow(3..9);
    a.sync();
    restore(&mut w, Some(&older));
    c.sync();
    grow(20..23);
    a.sync();
    let second = backup(&mut w);
    c.sql("INSERT INTO people (id) VALUES ('above')");
    converge(&[&a, &c]);
    restore(&mut w, Some(&second));
    let d = w.device("d");
    d.sync();
    for n in 0..4 {
        d.sql(&format!("UPDATE people SET name = 'new {n}'"));
        d.sync();
    }
    a.sync();
    converge(&[&a, &d]);
    assert!(a.client().discarded().unwrap().is_empty(), "{:?}", a.client().discarded().unwrap());
}
