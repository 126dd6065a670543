//! A server of the June dialect, as the public one is described: none of our additions, numbers that go
//! through doubles, booleans and times in PostgreSQL's spelling, 500 for what the schema refuses. It is our
//! server behind a transport that takes away and changes; the public one itself is not at hand here.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Error, Policy, Repair, Tie};
use sync_core::hash::{Algorithm, BundleHasher, HashRow};
use sync_core::protocol::Op;
use sync_core::protocol::rows::WireRow;
use sync_core::wire::{Form, push_members};
use sync_dialect::{bundles_of, plain, round, rows_of};
use sync_server::limits::Limits;

use crate::world::{Device, World, converge, dump};

const TYPED: &str = "
CREATE TABLE typed (id TEXT PRIMARY KEY NOT NULL, name TEXT, n INTEGER CHECK (n IS NOT 13), flag BOOLEAN, at TIMESTAMP, data BLOB);
CREATE TABLE parts (id TEXT PRIMARY KEY NOT NULL, typed TEXT REFERENCES typed(id) ON DELETE CASCADE);
CREATE TABLE files (id BLOB PRIMARY KEY NOT NULL, up BLOB REFERENCES files(id), data BLOB, n INTEGER);
";

struct June {
    http: Http,
    /// Pulls that were asked for.
    pulls: AtomicUsize,
    /// The reply to the next commit gets lost.
    lose_commit: AtomicBool,
    /// The hashes of the bundles as they are sent.
    hashes: Mutex<BTreeMap<i64, String>>,
}

impl June {
    fn new(w: &World) -> Arc<Self> {
        let http = Http::new(w.url()).unwrap();
        Arc::new(Self {
            http,
            pulls: AtomicUsize::new(0),
            lose_commit: AtomicBool::new(false),
            hashes: Mutex::default(),
        })
    }

    /// Sends a request, whatever the caller knows of our additions; its reply as JSON.
    fn ask(&self, request: &Request<'_>, path: &str, body: Option<&[u8]>) -> Result<(u16, Value), TransportError> {
        let mut reply = self.http.send(&Request { path, body, exact: false, compress: false, ..*request })?;
        let mut text = String::new();
        reply.body.read_to_string(&mut text).map_err(|e| TransportError::Broken(e.to_string()))?;
        Ok((reply.status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// History at the floor counts as pruned, and a pull from 0 leaves it out without a word.
    fn pull(&self, request: &Request<'_>) -> Result<(u16, Value), TransportError> {
        self.pulls.fetch_add(1, Ordering::Relaxed);
        let after: i64 = parameter(request.path, "after_bundle_seq");
        let from =
            |n: i64| request.path.replace(&format!("after_bundle_seq={after}"), &format!("after_bundle_seq={n}"));
        if after > 0 {
            let before = self.ask(request, &from(after - 1), None)?;
            return if before.1["error"] == "history_pruned" {
                Ok(before)
            } else {
                self.ask(request, request.path, None)
            };
        }
        for n in 0..1000 {
            let reply = self.ask(request, &from(n), None)?;
            if reply.1["error"] != "history_pruned" {
                return Ok(reply);
            }
        }
        panic!("nothing is retained");
    }
}

impl Transport for June {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if request.stream {
            return self.http.send(request);
        }
        let mut body: Option<Value> = request.body.map(|b| serde_json::from_slice(b).unwrap());
        let at = request.path.split('?').next().unwrap();
        for row in body.iter_mut().flat_map(rows_of).filter_map(|r| r.get_mut("payload")?.as_object_mut()) {
            for (name, value) in row {
                stored(name, value);
            }
        }
        let sent = body.as_ref().map(|b| b.to_string().into_bytes());
        let (mut status, mut reply) = match at {
            "/sync/pull" => self.pull(request)?,
            _ => self.ask(request, request.path, sent.as_deref())?,
        };
        let lease = body.as_ref().is_some_and(|b| b.get("initialization_id").is_some());
        if at == "/sync/push-sessions" && lease && reply["status"] == "already_committed" {
            (status, reply) = (400, serde_json::json!({"error": "push_session_invalid", "message": "must be absent"}));
        }
        if at.ends_with("/commit") {
            if status == 422 {
                (status, reply) =
                    (500, serde_json::json!({"error": "push_session_commit_failed", "message": "failed"}));
            }
            if self.lose_commit.swap(false, Ordering::Relaxed) {
                return Err(TransportError::Broken("the reply got lost".into()));
            }
        }
        plain(&mut reply);
        // Only bundles went through doubles.
        for bundle in bundles_of(&mut reply) {
            rows_of(bundle).for_each(|r| emitted(r, true));
            let hash = hash(bundle);
            self.hashes.lock().unwrap().insert(bundle["bundle_seq"].as_i64().unwrap(), hash.clone());
            bundle["bundle_hash"] = hash.into();
        }
        if at.starts_with("/sync/committed-bundles/") && status == 200 {
            let seq = reply["bundle_seq"].as_i64().unwrap();
            if let Some(hash) = self.hashes.lock().unwrap().get(&seq) {
                reply["bundle_hash"] = hash.clone().into();
            }
        }
        // As bundles are: committed rows by themselves, and a row of a snapshot that has a BLOB.
        let committed = at.starts_with("/sync/committed-bundles/");
        rows_of(&mut reply).for_each(|r| {
            let blob = r["payload"].get("data").is_some_and(|d| !d.is_null());
            emitted(r, committed || blob);
        });
        let text = if reply.is_null() { String::new() } else { reply.to_string() };
        Ok(Response { status, retry_after: None, body: Box::new(Cursor::new(text)) })
    }
}

fn parameter(path: &str, name: &str) -> i64 {
    let query = path.split_once('?').map_or("", |(_, q)| q);
    query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=')).map_or(0, |v| v.parse().unwrap())
}

/// What PostgreSQL makes of a value that was pushed.
fn stored(name: &str, value: &mut Value) {
    if let Some(i) = value.as_i64() {
        *value = (i as f64 as i64).into();
    }
    if let ("at", Some(text)) = (name, value.as_str()) {
        // Nanoseconds are cut to microseconds.
        let (head, nanos) = text.trim_end_matches('Z').split_at(text.trim_end_matches('Z').len().min(26));
        *value = format!("{head}{}", if text.ends_with('Z') { "+00:00" } else { nanos }).into();
    }
}

/// What comes back of a row.
fn emitted(row: &mut Value, rounds: bool) {
    let flag = row.get_mut("payload").and_then(|p| p.get_mut("flag"));
    if let Some((flag, i)) = flag.and_then(|flag| flag.as_i64().map(|i| (flag, i))) {
        *flag = (i != 0).into();
    }
    if rounds {
        round(row);
    }
}

fn hash(bundle: &Value) -> String {
    let mut hasher = BundleHasher::new(Algorithm::Sha256);
    for row in bundle["rows"].as_array().unwrap() {
        let row: WireRow = serde_json::from_value(row.clone()).unwrap();
        let (mut key, mut payload) = (String::new(), String::new());
        push_members(&mut key, &row.key, Form::Reference);
        row.payload.iter().for_each(|p| push_members(&mut payload, p, Form::Reference));
        hasher.row(HashRow {
            schema: &row.schema,
            table: &row.table,
            key: &key,
            op: Op::parse(&row.op).unwrap(),
            row_version: row.version,
            payload: row.payload.is_some().then_some(&payload),
        });
    }
    hasher.finish().hex()
}

fn june(w: &World, name: &str) -> Device {
    let transport = June::new(w);
    w.device_built(name, move |b| b.transport(Arc::clone(&transport) as _))
}

fn world() -> World {
    World::with(TYPED, Limits::default())
}

/// H7: integers that a double cannot hold.
#[test]
fn an_exact_integer_is_never_replaced_by_its_rounding() {
    let w = world();
    let a = june(&w, "a");
    a.sql(
        "INSERT INTO typed (id, name, n, at) VALUES ('x', 'one', 9007199254740993, '2026-03-24T18:02:00Z');
         INSERT INTO typed (id, name, n) VALUES ('y', 'one', 9223372036854775807), ('z', 'one', -1152921504606846977);",
    );
    let exact = "9007199254740993|9223372036854775807|-1152921504606846977";
    let numbers = "SELECT group_concat(n, '|') FROM (SELECT n FROM typed ORDER BY id)";
    a.sync();
    assert_eq!(a.text(numbers), exact, "an own bundle came back changed");
    // This device speaks to the server without the doubles between.
    let auditor = w.device("auditor");
    auditor.sync();
    assert_eq!(auditor.text(numbers), exact, "the server has them exactly");
    // One that was there before gets them rounded, and must not send that back.
    let b = june(&w, "b");
    b.sync();
    a.sql("UPDATE typed SET name = 'two', n = n - 2 WHERE id = 'x'; INSERT INTO typed (id, n) VALUES ('w', 9007199254740995)");
    a.sync();
    b.sync();
    b.sql("UPDATE typed SET name = 'three'");
    b.sync();
    a.sync();
    auditor.sync();
    let exact = "9007199254740995|9007199254740991|9223372036854775807|-1152921504606846977";
    assert_eq!(auditor.text(numbers), exact, "the other device's edit of another column");
    assert_eq!(a.text(numbers), exact);
    assert_eq!(a.count("SELECT count(*) FROM typed WHERE name = 'three'"), 4);
    // Its own edit of the number travels.
    b.sql("UPDATE typed SET n = 9007199254740997 WHERE id = 'w'");
    b.sync();
    a.sync();
    auditor.sync();
    let w = "SELECT CAST(n AS TEXT) FROM typed WHERE id = 'w'";
    assert_eq!(auditor.text(w), "9007199254740997");
    for d in [&a, &b, &auditor] {
        assert_eq!(d.client().status().unwrap().pending_rows, 0);
        assert_eq!(d.count("SELECT count(*) FROM _sync_inbox"), 0);
    }
}

/// What came rounded is not what the server has: verify tells it, and a rebuild brings the exact number, without taking
/// the rounded one for an edit.
#[test]
fn an_exact_number_wins_over_its_rounding() {
    let w = world();
    let (a, b, c) = (june(&w, "a"), june(&w, "b"), june(&w, "c"));
    converge(&[&a, &b, &c]);
    let number = 9_007_199_254_740_993_i64;
    a.sql(&format!("INSERT INTO typed (id, name, n, at) VALUES ('x', 'one', {number}, '2026-03-24T18:02:00.123456789Z'), ('y', 'one', 9223372036854775807, NULL)"));
    for d in [&a, &b, &c] {
        d.sync();
    }
    let read = "SELECT group_concat(n) FROM (SELECT n FROM typed ORDER BY id)";
    let exact = format!("{number},9223372036854775807");
    assert_eq!(a.text(read), exact);
    assert_ne!(b.text(read), exact, "it came rounded");
    let status = a.client().status().unwrap();
    assert!(status.server_rounds && status.server_respells, "{status:?}");
    assert!(!b.client().status().unwrap().server_rounds, "nothing here tells it");
    assert_eq!(b.client().verify(Repair::No).unwrap().differing_rows, 2);
    assert_eq!(a.client().verify(Repair::No).unwrap().differing_rows, 0);
    // One has edits of its own meanwhile, of another column and of the number.
    c.sql("UPDATE typed SET name = 'edited'");
    c.sql("UPDATE typed SET n = 5 WHERE id = 'y'");
    b.client().rebuild().unwrap();
    assert_eq!(b.text(read), exact);
    assert!(b.client().status().unwrap().server_rounds);
    assert_eq!(b.client().verify(Repair::No).unwrap().differing_rows, 0);
    c.client().rebuild().unwrap();
    assert_eq!(c.text(read), format!("{number},5"));
    c.sync();
    let auditor = w.device("auditor");
    auditor.sync();
    assert_eq!(
        auditor.text("SELECT group_concat(n || name) FROM (SELECT * FROM typed ORDER BY id)"),
        format!("{number}edited,5edited")
    );
    for d in [&a, &b, &c] {
        d.sync();
        assert_eq!(d.count("SELECT count(*) FROM _sync_inbox"), 0);
    }
}

/// The same by a repair, which keeps the rounded one.
#[test]
fn a_repair_brings_the_exact_number() {
    let w = world();
    let (a, b) = (june(&w, "a"), june(&w, "b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO typed (id, n) VALUES ('x', 9007199254740993)");
    a.sync();
    b.sync();
    assert_eq!(b.client().verify(Repair::FromServer).unwrap().repaired_rows, 1);
    assert_eq!(b.text("SELECT CAST(n AS TEXT) FROM typed"), "9007199254740993");
}

/// The same where the file's row is to count: what it has is no number of its own.
#[test]
fn a_repair_from_the_file_pushes_no_rounded_number() {
    let w = world();
    let (a, b) = (june(&w, "a"), june(&w, "b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO typed (id, name, n) VALUES ('x', 'one', 9007199254740993)");
    a.sync();
    b.sync();
    assert_eq!(b.client().verify(Repair::FromFile).unwrap().repaired_rows, 1);
    b.sync();
    a.sync();
    let auditor = w.device("auditor");
    auditor.sync();
    for d in [&auditor, &a, &b] {
        assert_eq!(d.text("SELECT CAST(n AS TEXT) FROM typed"), "9007199254740993");
    }
}

/// One conflict is named at a time: each that is learned is a step ahead, and no standstill.
#[test]
fn many_conflicts_are_learned_one_by_one() {
    let w = world();
    let (a, b) = (june(&w, "a"), june(&w, "b"));
    let rows = "WITH RECURSIVE c(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM c WHERE i < 29)
                INSERT INTO typed (id, name) SELECT 'x' || i, 'of one' FROM c";
    a.sql(rows);
    a.sync();
    a.sql("DELETE FROM typed");
    a.sync();
    // What was deleted before it came is not known here.
    b.sql(rows);
    b.sync();
    a.sync();
    assert_eq!(a.count("SELECT count(*) FROM typed"), 30);
    assert_eq!(b.client().status().unwrap().pending_rows, 0);
}

/// Times come back as `+00:00`, booleans as `true`.
#[test]
fn another_spelling_is_no_conflict() {
    let w = world();
    let (a, b) = (june(&w, "a"), june(&w, "b"));
    a.sql(
        "INSERT INTO typed (id, flag, at, data) VALUES ('x', 1, '2026-03-24T18:02:00Z', x'00ff'), ('y', 0, '2026-03-24', NULL);
         INSERT INTO parts VALUES ('p', 'x'), ('q', 'y');",
    );
    converge(&[&a, &b]);
    assert_eq!(
        a.text("SELECT at || typeof(flag) || flag FROM typed WHERE id = 'x'"),
        "2026-03-24T18:02:00+00:00integer1"
    );
    b.sql("UPDATE typed SET name = '<&>' || char(0x2028) || char(0x1F600), flag = 0 WHERE id = 'x'; DELETE FROM typed WHERE id = 'y'");
    a.sql("UPDATE typed SET at = '2026-03-25T18:02:00Z' WHERE id = 'x'");
    converge(&[&b, &a]);
    assert_eq!(dump(&a.path).len(), 2, "the cascade reached both");
    let pulls = June::new(&w);
    let c = {
        let pulls = Arc::clone(&pulls);
        w.device_built("c", move |b| b.transport(Arc::clone(&pulls) as _))
    };
    converge(&[&a, &c]);
    let before = pulls.pulls.load(Ordering::Relaxed);
    c.sync();
    assert!(pulls.pulls.load(Ordering::Relaxed) <= before + 1, "nothing is left to do");
}

/// The public server serves a pull from 0 although it pruned what comes first.
#[test]
fn a_silent_gap_is_noticed_and_repaired() {
    let w = World::with(TYPED, Limits { retained_bundles: 2, ..Default::default() });
    let (a, b) = (june(&w, "a"), june(&w, "b"));
    b.sync();
    b.sql("INSERT INTO typed (id, name) VALUES ('mine', 'offline')");
    for i in 0..6 {
        a.sql(&format!("INSERT INTO typed (id, n) VALUES ('{i}', {i})"));
        a.sync();
    }
    converge(&[&b, &a]);
    assert_eq!(b.count("SELECT count(*) FROM typed"), 7);
}

/// A refused row ends in the inbox, alone with what needs it; the reply to the first push got lost.
#[test]
fn a_lost_seed_and_a_refused_row_hold_nobody_up() {
    let w = world();
    let server = June::new(&w);
    let a = {
        let server = Arc::clone(&server);
        w.device_built("a", move |b| b.transport(Arc::clone(&server) as _))
    };
    a.sql("INSERT INTO typed (id, n) VALUES ('x', 1)");
    server.lose_commit.store(true, Ordering::Relaxed);
    let _ = a.client().sync();
    a.sync();
    // The app's own schema allows it, the server's does not.
    a.sql("PRAGMA ignore_check_constraints = 1; INSERT INTO typed (id, n) VALUES ('bad', 13), ('good', 14); INSERT INTO parts VALUES ('p', 'bad'), ('q', 'good')");
    for _ in 0..4 {
        let _ = a.client().sync();
    }
    let mut waiting: Vec<(String, String)> =
        a.client().rejected().unwrap().into_iter().map(|r| (r.key, r.reason)).collect();
    waiting.sort();
    assert_eq!(
        waiting,
        [(r#"{"id":"bad"}"#.to_owned(), "refused".to_owned()), (r#"{"id":"p"}"#.to_owned(), "waits_for".to_owned())]
    );
    let b = june(&w, "b");
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM typed"), 2);
    assert_eq!(b.count("SELECT count(*) FROM parts"), 1);
}

/// One conflict is named at a time; every policy comes to an end.
#[test]
fn every_policy_settles_conflicts_that_are_named_one_by_one() {
    for policy in [Policy::ServerWins, Policy::ClientWins, Policy::MergeColumns(Tie::Server)] {
        let w = world();
        let a = june(&w, "a");
        let policy_of_b = policy.clone();
        let transport = June::new(&w);
        let b = w.device_built("b", move |b| b.policy(policy_of_b.clone()).transport(Arc::clone(&transport) as _));
        a.sql("INSERT INTO typed (id, name, at) SELECT value, 'a', '2026-03-24T18:02:00Z' FROM json_each('[1,2,3,4,5,6,7]')");
        converge(&[&a, &b]);
        a.sql("UPDATE typed SET name = 'from a' WHERE id < '6'; DELETE FROM typed WHERE id = '6'");
        a.sync();
        b.sql("UPDATE typed SET name = 'from b', data = x'68656c6c6f21'");
        b.sync();
        converge(&[&b, &a]);
        let from_b = a.count("SELECT count(*) FROM typed WHERE name = 'from b'");
        assert_eq!(from_b, if matches!(policy, Policy::ClientWins) { 7 } else { 1 });
        assert_eq!(a.count("SELECT count(*) FROM typed WHERE data NOT IN (x'68656c6c6f21')"), 0);
    }
}

/// H2, H8: another account, or another history under the same numbers, is told by the bundle at the checkpoint.
#[test]
fn another_users_token_is_noticed_before_a_row_is_sent() {
    let w = world();
    let (mut a, c) = (june(&w, "a"), june(&w, "c"));
    a.sql("INSERT INTO typed (id) VALUES ('private')");
    converge(&[&a, &c]);
    let mut joined = june(&w, "joined");
    joined.sync();
    let mut bob = june(&w, "bob");
    bob.user = "bob".into();
    bob.open();
    for id in 1..4 {
        bob.sql(&format!("INSERT INTO typed (id) VALUES ('bob{id}')"));
        bob.sync();
    }
    for d in [&mut a, &mut joined] {
        d.sql("INSERT INTO typed (id) VALUES ('more ' || (SELECT count(*) FROM pragma_database_list WHERE file LIKE '%joined%'))");
        d.user = "bob".into();
        d.open();
        assert!(matches!(d.client().sync(), Err(Error::WrongScope)));
        d.user = "ada".into();
        d.open();
    }
    bob.sync();
    assert_eq!(bob.count("SELECT count(*) FROM typed"), 3);
    converge(&[&a, &joined, &c]);
    assert_eq!(c.count("SELECT count(*) FROM typed"), 3);
}

/// H4: pruned behind a device with work of its own, which keeps it, exact numbers and UUID keys included.
#[test]
fn a_rebuild_keeps_local_work() {
    let w = World::with(TYPED, Limits { retained_bundles: 2, ..Default::default() });
    let (a, b) = (june(&w, "a"), june(&w, "b"));
    let id = |n: u8| format!("x'{}'", format!("{n:02x}").repeat(16));
    for n in 1..4 {
        let up = if n == 1 { "NULL".to_owned() } else { id(n - 1) };
        a.sql(&format!("INSERT INTO files VALUES ({}, {up}, x'00ff{n:02x}', 9007199254740993)", id(n)));
    }
    converge_but_numbers(&[&a, &b]);
    a.sql("UPDATE files SET n = n + 4, data = x''");
    b.sql(&format!("INSERT INTO files VALUES ({}, {}, x'07', 9007199254740995)", id(7), id(3)));
    b.sql(&format!("UPDATE files SET data = x'77' WHERE id = {}", id(2)));
    for n in 20..26 {
        a.sql(&format!("INSERT INTO files (id, up) VALUES ({}, {})", id(n), id(1)));
        a.sync();
    }
    let report = b.sync();
    assert!(report.pull.rebuilt, "{report:?}");
    converge_but_numbers(&[&b, &a]);
    let c = w.device("c");
    c.sync();
    assert_eq!(c.count("SELECT count(*) FROM files WHERE n = 9007199254740997"), 3, "the edit of each number");
    assert_eq!(c.count("SELECT n FROM files WHERE data = x'07'"), 9_007_199_254_740_995);
    // Both changed it, and the server's row won: the local one is in the inbox.
    assert_eq!(b.count("SELECT count(*) FROM _sync_inbox WHERE kind = 'discarded'"), 1);
}

/// Devices may have a number rounded that another has exactly.
fn converge_but_numbers(devices: &[&Device]) {
    for _ in 0..3 {
        for d in devices {
            d.sync();
        }
    }
    let rows = "SELECT group_concat(quote(id) || quote(up) || quote(data), ' ') FROM (SELECT * FROM files ORDER BY id)";
    for d in devices {
        assert_eq!(d.text(rows), devices[0].text(rows));
        assert_eq!(d.client().status().unwrap().pending_rows, 0);
    }
}
