//! A server that names no row (case P6): the refused ones are found, an outage is not taken for a refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sync_client::Client;
use sync_client::report::ErrorClass;
use sync_client::transport::{Response, Transport as _};
use sync_server::limits::Limits;

use crate::relay::{Relay, bare, through};
use crate::world::{Device, SCHEMA, World, converge};

fn ages() -> World {
    let mut w = World::with(&SCHEMA.replace("age INTEGER", "age INTEGER CHECK (age < 100)"), Limits::default());
    w.schema = SCHEMA.to_owned();
    w
}

fn fill(a: &Device, n: usize, bad: &[usize]) {
    a.sql("BEGIN");
    for i in 0..n {
        let age = if bad.contains(&i) { 200 } else { 1 };
        a.sql(&format!("INSERT INTO people (id, age) VALUES ('p{i:04}', {age}); INSERT INTO notes VALUES ('n{i:04}', 'p{i:04}', '')"));
    }
    a.sql("COMMIT");
}

/// A commit that our server refuses fails without a word.
fn wordless(url: &str) -> Arc<Relay> {
    Relay::new(url, Box::new(|_, r| if r.status == 422 { bare(500) } else { r }))
}

#[test]
fn refused_rows_are_found_in_few_bundles() {
    for bad in [vec![37], vec![0], vec![3, 40, 99]] {
        let w = ages();
        let mut a = w.device("a");
        fill(&a, 100, &bad);
        let relay = wordless(w.url());
        let client = w.through(&mut a, &relay);
        let report = client.sync().unwrap();
        assert_eq!(report.push.committed_rows as usize, 200 - 2 * bad.len());
        let bound = 2 * bad.len() * 8 + 6;
        assert!(relay.commits() <= bound, "{} commits for {bad:?}", relay.commits());
        let mut waiting: Vec<(String, String)> =
            client.rejected().unwrap().into_iter().map(|r| (r.key, r.reason)).collect();
        waiting.sort();
        let mut expected: Vec<(String, String)> = Vec::new();
        for i in &bad {
            expected.push((format!(r#"{{"id":"n{i:04}"}}"#), "waits_for".into()));
            expected.push((format!(r#"{{"id":"p{i:04}"}}"#), "refused".into()));
        }
        expected.sort();
        assert_eq!(waiting, expected);
        a.sql("UPDATE people SET age = 5");
        client.sync().unwrap();
        assert!(client.rejected().unwrap().is_empty());
        drop(client);
        a.open();
        let b = w.device("b");
        converge(&[&a, &b]);
    }
}

/// While everything fails nobody is refused and little is sent; afterwards all goes.
#[test]
fn an_outage_is_not_taken_for_a_refusal() {
    let w = ages();
    let mut a = w.device("a");
    fill(&a, 50, &[]);
    let down = Arc::new(AtomicBool::new(true));
    let relay = {
        let down = Arc::clone(&down);
        Relay::failing(w.url(), Box::new(|_, r| r), move |_| down.load(Ordering::Relaxed))
    };
    let client = w.through(&mut a, &relay);
    for _ in 0..20 {
        client.sync().unwrap_err();
    }
    assert!(relay.commits() < 20 + 30, "{} commits", relay.commits());
    assert!(client.rejected().unwrap().is_empty());
    a.sql("UPDATE people SET name = 'edited' WHERE id = 'p0003'");
    down.store(false, Ordering::Relaxed);
    client.sync().unwrap();
    assert!(client.rejected().unwrap().is_empty());
    drop(client);
    a.open();
    let b = w.device("b");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 50);
}

/// The search is in the file: a process that is killed after every bundle goes on where it was.
#[test]
fn a_killed_process_goes_on_where_it_was() {
    let w = ages();
    let mut a = w.device("a");
    fill(&a, 64, &[20]);
    let relay = wordless(w.url());
    for _ in 0..60 {
        let client = w.through(&mut a, &relay);
        let before = relay.commits();
        let _ = client.push();
        drop(client);
        if relay.commits() == before {
            break;
        }
    }
    assert!(relay.commits() <= 24, "{} commits", relay.commits());
    let client = w.through(&mut a, &relay);
    client.sync().unwrap();
    assert_eq!(client.rejected().unwrap().len(), 2);
    assert_eq!(client.status().unwrap().pending_rows, 0);
}

/// Now and then the server also fails for reasons of its own.
#[test]
fn failures_now_and_then_only_cost_time() {
    for every in [4, 5, 7, 11] {
        let w = ages();
        let mut a = w.device("a");
        fill(&a, 40, &[7, 30]);
        let wordless = Box::new(|_, r: Response| if r.status == 422 { bare(500) } else { r });
        let relay = Relay::failing(w.url(), wordless, move |n| n % every == 0);
        let client = w.through(&mut a, &relay);
        for i in 0..30 {
            let _ = client.sync();
            a.sql(&format!("INSERT INTO counters VALUES ({i}, 'more')"));
        }
        let _ = client.sync();
        assert!(client.status().unwrap().pending_rows <= 2, "{every}: {:?}", client.pending().unwrap());
        let refused: Vec<String> =
            client.rejected().unwrap().into_iter().filter(|r| r.reason == "refused").map(|r| r.key).collect();
        assert_eq!(refused, [r#"{"id":"p0007"}"#, r#"{"id":"p0030"}"#]);
    }
}

/// A server that names a row which was never sent has named none.
#[test]
fn a_row_that_was_not_sent_is_no_name() {
    let w = World::new();
    let mut a = w.device("a");
    a.sync();
    fill(&a, 4, &[]);
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    let client = through(&w, &mut a, move |http, r| {
        if !r.path.ends_with("/commit") {
            return http.send(r);
        }
        counted.fetch_add(1, Ordering::Relaxed);
        let body = r#"{"error":"push_rejected","message":"no","rejections":[{"row_ordinal":0,"schema":"main","table":"people","key":{"id":"ghost"},"kind":"check","message":"no"}]}"#;
        Ok(Response { status: 422, retry_after: None, body: Box::new(body.as_bytes()) })
    });
    client.sync().unwrap_err();
    assert!(commits.load(Ordering::Relaxed) < 20, "{commits:?}");
    assert!(client.rejected().unwrap().is_empty(), "while everything fails, no row is to blame");
    drop(client);
    a.open();
    a.sync();
    assert_eq!(a.client().status().unwrap().pending_rows, 0);
}

/// One row alone, and nothing to compare it with: it waits and is named, and everything else goes on.
#[test]
fn a_lone_refused_row_holds_no_pull_back() {
    let w = ages();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sync();
    b.sync();
    let relay = wordless(w.url());
    let client = w.through(&mut a, &relay);
    a.sql("INSERT INTO people (id, age) VALUES ('bad', 200)");
    for n in 0..3 {
        b.sql(&format!("INSERT INTO people (id) VALUES ('of b {n}')"));
        b.sync();
        let e = client.sync().unwrap_err();
        assert_ne!(e.class(), ErrorClass::Offline, "{e}");
        assert_eq!(a.count("SELECT count(*) FROM people WHERE id LIKE 'of b%'"), n + 1);
    }
    let pending = client.pending().unwrap();
    assert!(pending.len() == 1 && pending[0].why.contains("alone it failed"), "{pending:?}");
    a.sql("DELETE FROM people WHERE id = 'bad'");
    client.sync().unwrap();
    assert!(client.pending().unwrap().is_empty());
}

/// Has the server in front of it refuse a chunk or a commit in words that name no row.
fn refusing(w: &World, a: &mut Device, status: u16, body: &'static str) -> Client {
    through(w, a, move |http, r| {
        let text = String::from_utf8_lossy(r.body.unwrap_or_default()).into_owned();
        if r.path.ends_with("/chunks") && text.contains("bad") {
            return Ok(Response { status, retry_after: None, body: Box::new(body.as_bytes()) });
        }
        http.send(r)
    })
}

/// Some answers are no outage's: a chunk of one row that is called invalid shows which one it is.
#[test]
fn what_is_said_of_one_row_is_proof_and_is_kept() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    for bad in [&["bad"][..], &["a bad", "c bad", "z bad"]] {
        fill(&a, 20, &[]);
        for id in bad {
            a.sql(&format!("INSERT INTO people (id) VALUES ('{id}')"));
        }
        let body = r#"{"error":"push_chunk_invalid","message":"bad is no word"}"#;
        let client = refusing(&w, &mut a, 400, body);
        client.sync().unwrap();
        let mut rejected = client.rejected().unwrap();
        rejected.sort_by(|a, b| a.key.cmp(&b.key));
        let keys: Vec<String> = bad.iter().map(|id| format!(r#"{{"id":"{id}"}}"#)).collect();
        assert_eq!(rejected.iter().map(|r| r.key.clone()).collect::<Vec<_>>(), keys);
        assert!(rejected.iter().all(|r| r.message == "bad is no word"), "{rejected:?}");
        assert_eq!(client.status().unwrap().pending_rows, 0);
        drop(client);
        a.open();
        a.client().retry("people", bad[0]).unwrap();
        a.sql("DELETE FROM people; DELETE FROM notes");
        a.sync();
    }
    converge(&[&a, &b]);
}

/// The same where the commit says it: of one row there is nothing to search for.
#[test]
fn a_refused_commit_of_one_row_is_proof() {
    let w = ages();
    let mut a = w.device("a");
    a.sync();
    a.sql("INSERT INTO people (id, age) VALUES ('bad', 200)");
    let client = through(&w, &mut a, |http, r| {
        let reply = http.send(r)?;
        let body = r#"{"error":"push_rejected","message":"too old"}"#;
        Ok(match reply.status {
            422 => Response { status: 422, retry_after: None, body: Box::new(body.as_bytes()) },
            _ => reply,
        })
    });
    client.sync().unwrap();
    let rejected = client.rejected().unwrap();
    assert!(rejected.len() == 1 && rejected[0].message == "too old", "{rejected:?}");
}

/// A server that tells no columns, and that lacks one: every row fails, and the pulls go on. Some row is named with
/// what the server said.
#[test]
fn where_every_row_fails_one_is_named_all_the_same() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sync();
    fill(&a, 30, &[]);
    let client = through(&w, &mut a, |http, r| {
        if r.path.ends_with("/commit") {
            let body = r#"{"error":"push_session_commit_failed","message":"no column nickname"}"#;
            return Ok(Response { status: 500, retry_after: None, body: Box::new(body.as_bytes()) });
        }
        http.send(r)
    });
    b.sql("INSERT INTO people (id) VALUES ('of b')");
    b.sync();
    for _ in 0..3 {
        assert_eq!(client.sync().unwrap_err().class(), ErrorClass::Failing);
    }
    assert_eq!(a.count("SELECT count(*) FROM people WHERE id = 'of b'"), 1);
    let named = client.pending().unwrap().into_iter().filter(|p| p.why.contains("no column nickname")).count();
    assert!(named > 0 && client.rejected().unwrap().is_empty(), "{named}");
    drop(client);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 31);
}

/// What a search keeps back is more than one bundle takes by now, and nothing else waits: each group is tried by itself.
#[test]
fn kept_groups_need_no_parting() {
    let mut w = World::with(SCHEMA, Limits::default());
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sync();
    fill(&a, 12, &[]);
    let client = through(&w, &mut a, |http, r| if r.path.ends_with("/commit") { Ok(bare(500)) } else { http.send(r) });
    for _ in 0..12 {
        client.sync().unwrap_err();
    }
    drop(client);
    w.stop();
    w.limits = Limits { max_rows_per_bundle: 2, ..Limits::default() };
    w.start();
    let client = through(&w, &mut a, |http, r| if r.path.ends_with("/commit") { Ok(bare(500)) } else { http.send(r) });
    for _ in 0..12 {
        client.sync().unwrap_err();
    }
    drop(client);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 12);
}
