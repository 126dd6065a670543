//! Comparing by digests: what it costs, and servers that withhold them, lose replies, or have another history.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync_client::Repair;
use sync_client::transport::{Response, Transport, TransportError};
use sync_server::limits::Limits;

use super::{DAMAGE, counts, named, two, verify};
use crate::relay::through;
use crate::world::{Device, SCHEMA, World, converge, dump, unseen};

fn many(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)
         INSERT INTO people (id, name, age) SELECT printf('p%05d', i), 'name ' || i, i FROM n;",
    );
    converge(&[&a, &b]);
    (a, b)
}

const FEW: &str = "UPDATE people SET age = -1 WHERE id IN ('p00001', 'p04000', 'p08000');
    INSERT INTO people (id) VALUES ('p04000a'), ('z'), ('a'); DELETE FROM people WHERE id = 'p06000'";

#[test]
fn a_few_differences_in_many_rows_cost_a_few_rows() {
    let w = World::new();
    let (a, b) = many(&w);
    let r = verify(&a, Repair::No);
    assert_eq!((counts(&r), r.compared_rows, r.downloaded_rows), ((0, 0, 0), 8000, 0));
    unseen(&a.path, FEW);
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), r.compared_rows), ((7, 7, 0), 8003));
    assert!(r.downloaded_rows <= 7 * 64, "{} rows", r.downloaded_rows);
    assert_eq!(dump(&a.path), dump(&b.path));
}

/// A reply with something in its text replaced.
fn replaced(mut response: Response, replace: impl Fn(String) -> String) -> Response {
    let mut text = String::new();
    response.body.read_to_string(&mut text).unwrap();
    response.body = Box::new(std::io::Cursor::new(replace(text).into_bytes()));
    response
}

#[test]
fn servers_that_withhold_digests_are_read_row_by_row() {
    type Case = (&'static str, Limits, Vec<(&'static str, &'static str)>, bool, usize);
    let cases: [Case; 5] = [
        ("an older server", Limits::default(), vec![(r#""range_digest":true"#, r#""range_digest":false"#)], false, 0),
        ("a proxy that does not know the path", Limits::default(), vec![], true, 1),
        ("a spent budget", Limits { max_digest_rows_per_minute: 1, ..Limits::default() }, vec![], false, 3),
        ("small requests", Limits { max_rows_per_digest: 1000, ..Limits::default() }, vec![], false, 8),
        ("somebody else's server", Limits::default(), vec![(r#","blake3""#, "")], false, 3),
    ];
    for (what, limits, replace, no_digest, at_least) in cases {
        let w = World::with(SCHEMA, limits);
        let (mut a, b) = many(&w);
        unseen(&a.path, FEW);
        let digests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&digests);
        let client = through(&w, &mut a, move |http, request| {
            let is_digest = request.path.starts_with("/sync/digest");
            counted.fetch_add(usize::from(is_digest), Ordering::Relaxed);
            if is_digest && no_digest {
                return Ok(Response { status: 404, retry_after: None, body: Box::new(std::io::empty()) });
            }
            let response = http.send(request)?;
            if request.path != "/sync/capabilities" {
                return Ok(response);
            }
            Ok(replaced(response, |text| {
                replace.iter().fold(text, |text, (from, to)| {
                    assert!(text.contains(from), "{from}");
                    text.replace(from, to)
                })
            }))
        });
        let r = client.verify(Repair::FromServer).unwrap();
        assert_eq!((counts(&r), r.compared_rows), ((7, 7, 0), 8003), "{what}");
        let asked = digests.load(Ordering::Relaxed);
        assert!(asked >= at_least && (at_least > 0 || asked == 0), "{what}: {asked} digests");
        assert_eq!(dump(&a.path), dump(&b.path), "{what}");
    }
}

#[test]
fn the_reply_to_any_request_may_be_lost() {
    let w = World::new();
    let (mut a, b) = two(&w);
    let mut lost = 0;
    loop {
        unseen(&a.path, DAMAGE);
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let client = through(&w, &mut a, move |http, request| {
            let response = http.send(request)?;
            if counted.fetch_add(1, Ordering::Relaxed) == lost {
                return Err(TransportError::Broken("on purpose".into()));
            }
            Ok(response)
        });
        let r = client.verify(Repair::FromServer).unwrap_or_else(|e| panic!("reply {lost}: {e}"));
        assert_eq!(counts(&r), (3, 3, 0), "reply {lost}");
        assert_eq!(dump(&a.path), dump(&b.path));
        assert_eq!(counts(&client.verify(Repair::No).unwrap()), (0, 0, 0));
        if sent.load(Ordering::Relaxed) <= lost {
            break;
        }
        lost += 1;
    }
    assert!(lost > 5, "{lost} requests");
}

/// A server that was restored between the pull and the snapshot has other rows at the same bundle.
#[test]
fn nothing_is_repaired_where_the_history_is_another() {
    let w = World::new();
    let (mut a, _b) = two(&w);
    unseen(&a.path, DAMAGE);
    let before = dump(&a.path);
    let client = through(&w, &mut a, |http, request| {
        let response = http.send(request)?;
        if request.path != "/sync/snapshot-sessions" {
            return Ok(response);
        }
        let zeros = format!(r#""history_hash":"{}""#, "0".repeat(64));
        Ok(replaced(response, |text| {
            let at = text.find(r#""history_hash":""#).expect("a history hash");
            text.replace(&text[at..at + zeros.len()], &zeros)
        }))
    });
    for repair in [Repair::FromServer, Repair::FromFile] {
        let e = client.verify(repair).unwrap_err();
        assert!(e.to_string().contains("history changed"), "{e}");
    }
    assert_eq!((dump(&a.path), client.pending().unwrap().len()), (before, 0));
}

#[test]
fn columns_that_one_end_lacks_are_not_compared() {
    let mut w = World::with("CREATE TABLE t (id UUID PRIMARY KEY NOT NULL, title TEXT, due TEXT);", Limits::default());
    let b = w.device("b");
    w.schema =
        "CREATE TABLE t (id UUID PRIMARY KEY NOT NULL, title TEXT); CREATE TABLE own (id TEXT PRIMARY KEY NOT NULL);"
            .into();
    let a = w.device("a");
    b.sql("INSERT INTO t VALUES (12, 'number', 'monday'), ('x', 'text', NULL), ('12a', 'text', NULL)");
    b.sync();
    a.sql("INSERT INTO own VALUES ('mine')");
    a.client().pull().unwrap();
    let r = verify(&a, Repair::No);
    assert_eq!((counts(&r), r.compared_rows, r.skipped_tables), ((0, 0, 0), 3, vec!["own".to_owned()]));
    unseen(&a.path, "UPDATE t SET title = 'unseen' WHERE id = 'x'");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), named(&r)), ((1, 1, 0), vec![r#"different t {"id":"x"} title"#.to_owned()]));
    assert_eq!(a.text("SELECT title FROM t WHERE id = 'x'"), "text");
}
