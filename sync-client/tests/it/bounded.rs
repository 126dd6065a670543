//! Replies that take a sync no further: kept by a cache, or by a server that goes in circles. Every verb ends soon, says
//! why, and goes on once they are what they should be.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sync_client::transport::{Http, Method, Request, Response, Transport as _, TransportError};

use sync_client::{Client, Error, Repair};
use sync_server::limits::Limits;

use crate::relay::through;
use crate::world::{Device, SCHEMA, World, converge, dump};

/// More than any verb below needs, and far fewer than one that runs in circles sends.
const FEW: usize = 120;

/// Requests that a client sent, and whether something still stands between it and the server.
#[derive(Default)]
struct Between {
    there: AtomicBool,
    sent: AtomicUsize,
}

impl Between {
    fn leaves(&self) {
        self.there.store(false, Ordering::Relaxed);
    }

    fn sent(&self) -> usize {
        self.sent.swap(0, Ordering::Relaxed)
    }
}

/// A client whose requests meet this while it is there.
fn meets(
    w: &World,
    d: &mut Device,
    f: impl Fn(&Http, &Request<'_>) -> Result<Response, TransportError> + Send + Sync + 'static,
) -> (Client, Arc<Between>) {
    let between = Arc::new(Between { there: true.into(), sent: 0.into() });
    let shared = Arc::clone(&between);
    let client = through(w, d, move |http, r| {
        shared.sent.fetch_add(1, Ordering::Relaxed);
        if shared.there.load(Ordering::Relaxed) { f(http, r) } else { http.send(r) }
    });
    (client, between)
}

fn text(response: &mut Response) -> String {
    let mut text = String::new();
    response.body.read_to_string(&mut text).unwrap();
    text
}

fn with_text(response: Response, text: String) -> Response {
    Response { body: Box::new(Cursor::new(text)), ..response }
}

fn answer(status: u16, body: &'static str) -> Result<Response, TransportError> {
    let server = Response { status, retry_after: None, body: Box::new(body.as_bytes()) };
    Ok(server)
}

/// Keeps the first reply to each pull, whatever it says of being kept.
fn cache() -> impl Fn(&Http, &Request<'_>) -> Result<Response, TransportError> {
    let kept: Mutex<BTreeMap<String, String>> = Mutex::default();
    move |http, r| {
        if r.method != Method::Get || !r.path.starts_with("/sync/pull") {
            return http.send(r);
        }
        let mut kept = kept.lock().unwrap();
        if let Some(old) = kept.get(r.path) {
            return Ok(Response { status: 200, retry_after: None, body: Box::new(Cursor::new(old.clone())) });
        }
        let mut response = http.send(r)?;
        let fresh = text(&mut response);
        kept.insert(r.path.to_owned(), fresh.clone());
        Ok(with_text(response, fresh))
    }
}

#[test]
fn an_old_pull_from_a_cache_ends_each_verb() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    let (client, between) = meets(&w, &mut a, cache());
    client.sync().unwrap();
    b.sql("INSERT INTO people (id) VALUES ('b')");
    b.sync();
    a.sql("INSERT INTO people (id) VALUES ('a')");
    between.sent();
    for verb in [
        (|c| c.sync().map(drop)) as fn(&Client) -> Result<(), Error>,
        |c| c.pull().map(drop),
        |c| c.verify(Repair::No).map(drop),
        |c| c.sync().map(drop),
    ] {
        let error = verb(&client).unwrap_err();
        assert!(matches!(error, Error::OldReply { said: 0, known: 2 }), "{error}");
        assert!(between.sent() < 20, "it does not ask again and again");
    }
    let status = client.status().unwrap();
    assert_eq!((status.pending_rows, status.outbox.as_str()), (1, "committed"), "nothing is lost");
    assert!(status.last_error.unwrap().message.contains("an old reply"));
    // A snapshot is made anew for whoever asks.
    client.rebuild().unwrap();
    assert_eq!((a.count("SELECT count(*) FROM people"), client.status().unwrap().pending_rows), (2, 0));
    between.leaves();
    assert_eq!(client.sync().unwrap().push.committed_rows, 0, "what was committed is not counted again");
    drop(client);
    a.open();
    converge(&[&a, &b]);
}

/// The page after the first one is an old one, of a time when there was less.
#[test]
fn a_history_does_not_get_shorter_between_two_pages() {
    let w = World::with(SCHEMA, Limits { max_bytes_per_pull: 1, ..Limits::default() });
    let (a, mut b) = (w.device("a"), w.device("b"));
    for i in 0..3 {
        a.sql(&format!("INSERT INTO people (id) VALUES ('{i}')"));
        a.sync();
    }
    b.sync();
    for i in 3..6 {
        a.sql(&format!("INSERT INTO people (id) VALUES ('{i}')"));
        a.sync();
    }
    let pages = AtomicUsize::new(0);
    let (client, between) = meets(&w, &mut b, move |http, r| {
        let second = r.path.starts_with("/sync/pull") && pages.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let old = r#"{"stable_bundle_seq":4,"bundles":[],"has_more":false}"#;
        if second { answer(200, old) } else { http.send(r) }
    });
    let error = client.sync().unwrap_err();
    assert!(matches!(error, Error::OldReply { said: 4, known: 6 }), "{error}");
    between.leaves();
    client.sync().unwrap();
    drop(client);
    assert_eq!(dump(&a.path), dump(&b.path));
}

/// Whatever a push is answered, time after time: it ends.
#[test]
fn a_push_that_never_gets_anywhere_ends() {
    let path = |r: &Request<'_>, end: &str| r.method == Method::Post && r.path.ends_with(end);
    for (end, status, body) in [
        ("/commit", 409, r#"{"error":"push_conflict","message":"a row changed"}"#),
        ("/commit", 409, r#"{"error":"source_sequence_changed","message":"moved on"}"#),
        ("/commit", 410, r#"{"error":"initialization_expired","message":"lapsed"}"#),
        ("/commit", 404, r#"{"error":"push_session_not_found","message":"gone"}"#),
        ("/commit", 409, r#"{"error":"history_diverged","message":"another"}"#),
        ("/chunks", 409, r#"{"error":"push_chunk_out_of_order","message":"no","next_expected_row_ordinal":0}"#),
        ("/chunks", 410, r#"{"error":"push_session_expired","message":"gone"}"#),
        ("/chunks", 413, r#"{"error":"payload_too_large","message":"large"}"#),
        ("/push-sessions", 409, r#"{"error":"scope_uninitialized","message":"no"}"#),
        ("/push-sessions", 409, r#"{"error":"source_retired","message":"no"}"#),
        ("/push-sessions", 409, r#"{"error":"source_sequence_out_of_order","message":"no"}"#),
        ("/push-sessions", 413, r#"{"error":"bundle_too_large","message":"large"}"#),
    ] {
        let w = World::new();
        let mut a = w.device("a");
        a.sync();
        let (client, between) =
            meets(&w, &mut a, move |http, r| if path(r, end) { answer(status, body) } else { http.send(r) });
        a.sql("INSERT INTO people (id) VALUES ('p'), ('q')");
        let outcome = client.sync();
        let sent = between.sent();
        assert!(sent < FEW, "{end} {body}: {sent} requests, {outcome:?}");
        between.leaves();
        // What was held as too large is tried again once somebody says so.
        for key in ["p", "q"] {
            client.retry("people", key).unwrap();
        }
        client.sync().unwrap_or_else(|e| panic!("{end} {body}: {e}"));
        drop(client);
        a.open();
        converge(&[&a, &w.device("b")]);
        assert_eq!(a.count("SELECT count(*) FROM people"), 2);
    }
}

/// A server takes a chunk, then says that it never had it, and so on.
#[test]
fn an_upload_that_goes_in_circles_ends() {
    let w = World::with(SCHEMA, Limits { max_rows_per_push_chunk: 10, ..Limits::default() });
    let mut a = w.device("a");
    a.sync();
    let (client, between) = meets(&w, &mut a, |http, r| {
        let later = |body: &[u8]| !body.starts_with(b"{\"start_row_ordinal\":0,");
        match r.path.ends_with("/chunks") {
            true if r.body.is_some_and(later) => {
                answer(409, r#"{"error":"push_chunk_out_of_order","message":"no","next_expected_row_ordinal":0}"#)
            }
            true => answer(200, r#"{"push_id":"x","next_expected_row_ordinal":10}"#),
            false => http.send(r),
        }
    });
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30) INSERT INTO people (id) SELECT i FROM n");
    let error = client.sync().unwrap_err();
    assert!(matches!(error, Error::Offline { .. }), "{error}");
    let sent = between.sent();
    assert!(sent < FEW, "{sent} requests");
    between.leaves();
    assert_eq!(client.sync().unwrap().push.committed_rows, 30);
}

/// The pages of a large bundle have no end: their place goes to and fro, or nothing is in them. A snapshot can do
/// what they cannot.
#[test]
fn pages_without_an_end_are_given_up() {
    for circle in ["to and fro", "empty"] {
        let w = World::new();
        let (a, mut b) = (w.device("a"), w.device("b"));
        converge(&[&a, &b]);
        a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) INSERT INTO people (id) SELECT i FROM n");
        a.sync();
        let asked = AtomicUsize::new(0);
        let (client, between) = meets(&w, &mut b, move |http, r| {
            let mut response = http.send(r)?;
            if !r.path.contains("/committed-bundles/") {
                return Ok(response);
            }
            let n = asked.fetch_add(1, Ordering::Relaxed);
            let mut page: serde_json::Value = serde_json::from_str(&text(&mut response)).unwrap();
            page["has_more"] = true.into();
            if circle == "empty" {
                page["rows"] = serde_json::json!([]);
                page["next_row_ordinal"] = (n + 1).into();
            } else {
                page["next_row_ordinal"] = (n % 2).into();
            }
            Ok(with_text(response, page.to_string()))
        });
        assert!(client.sync().unwrap().pull.rebuilt, "{circle}");
        let sent = between.sent();
        assert!(sent < FEW, "{circle}: {sent} requests");
        drop(client);
        assert_eq!(dump(&a.path), dump(&b.path));
    }
}

/// Replies to the first request of a kind, given again from the moment that this is told to.
#[derive(Default)]
struct Kept {
    on: AtomicBool,
    replies: Mutex<BTreeMap<String, (u16, String)>>,
}

impl Kept {
    fn send(&self, http: &Http, r: &Request<'_>) -> Result<Response, TransportError> {
        let key = format!("{:?} {}", r.method, r.path);
        let kept = self.replies.lock().unwrap().get(&key).cloned().filter(|_| self.on.load(Ordering::Relaxed));
        if let Some((status, body)) = kept {
            return Ok(Response { status, retry_after: None, body: Box::new(Cursor::new(body)) });
        }
        let mut response = http.send(r)?;
        let body = text(&mut response);
        self.replies.lock().unwrap().entry(key).or_insert_with(|| (response.status, body.clone()));
        Ok(with_text(response, body))
    }
}

/// A snapshot that is older than what this file has seen of the same history says nothing of what is newer: neither what
/// was added since is gone, nor did anybody else decide what became of it.
#[test]
fn an_old_snapshot_takes_nothing_back() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    let kept = Arc::new(Kept::default());
    let of_snapshots = Arc::clone(&kept);
    let (client, between) = meets(&w, &mut a, move |http, r| match r.method {
        // The session outlives whoever made it.
        Method::Delete if r.path.starts_with("/sync/snapshot-sessions") => answer(204, ""),
        Method::Post if r.path == "/sync/snapshot-sessions" => of_snapshots.send(http, r),
        _ => http.send(r),
    });
    a.sql("INSERT INTO people (id) VALUES ('0')");
    client.sync().unwrap();
    client.rebuild().unwrap();
    a.sql("INSERT INTO people (id) VALUES ('deleted'), ('edited')");
    client.sync().unwrap();
    kept.on.store(true, Ordering::Relaxed);
    a.sql("DELETE FROM people WHERE id = 'deleted'; UPDATE people SET name = 'x' WHERE id = 'edited'");
    for verb in
        [(|c| c.rebuild().map(drop)) as fn(&Client) -> Result<(), Error>, |c| c.verify(Repair::FromServer).map(drop)]
    {
        // A verb that pushes first knows one bundle more.
        let error = verb(&client).unwrap_err();
        assert!(matches!(error, Error::OldReply { said: 1, known: 2.. }), "{error}");
        assert!(between.sent() < FEW);
        assert_eq!(a.text("SELECT group_concat(id || coalesce(name, '')) FROM people"), "0,editedx");
    }
    between.leaves();
    client.sync().unwrap();
    for entries in [client.discarded(), client.conflicts(), client.rejected()] {
        assert_eq!(entries.unwrap(), []);
    }
    drop(client);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id || coalesce(name, '')) FROM people"), "0,editedx");
}

/// What repeats an old answer to a push: the bundle that it names is not the one that was sent.
#[test]
fn an_old_confirmation_is_of_another_push() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    let kept = Arc::new(Kept::default());
    let of_pushes = Arc::clone(&kept);
    let (client, between) = meets(&w, &mut a, move |http, r| match r.method {
        Method::Post if r.path.starts_with("/sync/push-sessions") => of_pushes.send(http, r),
        _ => http.send(r),
    });
    a.sql("INSERT INTO people (id) VALUES ('0')");
    client.sync().unwrap();
    kept.on.store(true, Ordering::Relaxed);
    a.sql("INSERT INTO people (id) VALUES ('1')");
    for verb in
        [(|c| c.sync().map(drop)) as fn(&Client) -> Result<(), Error>, |c| c.push().map(drop), |c| c.sync().map(drop)]
    {
        between.sent();
        let error = verb(&client).unwrap_err();
        assert!(matches!(error, Error::OldReply { .. }), "{error}");
        assert!(between.sent() < 30, "it does not ask again and again");
    }
    assert_eq!(a.count("SELECT count(*) FROM people"), 2);
    between.leaves();
    client.sync().unwrap();
    assert_eq!(client.status().unwrap().outbox, "none");
    drop(client);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 2);
}
