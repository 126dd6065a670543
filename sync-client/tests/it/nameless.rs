//! A server that names no row (case P6): the refused ones are found, an outage is not taken for a refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
