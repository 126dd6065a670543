//! Servers and history (H).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sync_client::Error;
use sync_client::transport::{Method, Request, Response, Transport as _};
use sync_server::limits::Limits;

use super::cut;
use crate::relay::through;
use crate::world::{SCHEMA, World, converge, copy};

/// H5: the server is restarted during the download of a snapshot, and in the second round it has forgotten it.
#[test]
fn h5_a_snapshot_download_survives_a_restart_of_the_server() {
    for forgotten in [false, true] {
        let mut w = World::with(SCHEMA, Limits { max_rows_per_snapshot_chunk: 10, ..Limits::default() });
        let a = w.device("a");
        a.sql(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 95) \
             INSERT INTO people (id) SELECT printf('p%03d', i) FROM n",
        );
        a.sync();
        let mut b = w.device("b");
        let pages = AtomicI64::new(0);
        let is_page = |r: &Request<'_>| r.method == Method::Get && r.path.contains("/snapshot-sessions/");
        let client = cut(&w, &mut b, move |r| is_page(r) && pages.fetch_add(1, Ordering::Relaxed) >= 4);
        b.sql("INSERT INTO people (id) VALUES ('of b')");
        client.sync().unwrap_err();
        drop(client);
        w.stop();
        if forgotten {
            w.clock.0.fetch_add(7 * 86_400_000, Ordering::Relaxed);
        }
        w.start();
        b.open();
        converge(&[&b, &a]);
        assert_eq!(a.count("SELECT count(*) FROM people"), 96);
    }
}

/// H9: one user's file is damaged; its device is told, keeps its work, and goes on when the file is back.
/// Nobody else notices.
#[test]
fn h9_a_damaged_scope_is_that_users_alone() {
    let mut w = World::new();
    let a = w.device("a");
    let mut bob = w.device("bob");
    bob.user = "bob".into();
    bob.open();
    for d in [&a, &bob] {
        d.sql("INSERT INTO people (id) VALUES ('p')");
        d.sync();
    }
    w.stop();
    let backup = tempfile::tempdir().unwrap();
    copy(&w.data(), backup.path());
    let scope = w.data().join("scopes").join(format!("{}.db", sync_core::hash::Digest::of(b"ada").hex()));
    std::fs::write(&scope, vec![7u8; 8192]).unwrap();
    w.start();
    a.sql("INSERT INTO people (id) VALUES ('q')");
    bob.sql("INSERT INTO people (id) VALUES ('q')");
    let e = a.client().sync().unwrap_err();
    assert!(matches!(e, Error::Offline { .. } | Error::Refused { .. }) && e.to_string().contains("damaged"), "{e}");
    assert_eq!(bob.sync().push.committed_rows, 1);
    assert_eq!(a.client().status().unwrap().pending_rows, 1);
    w.stop();
    std::fs::remove_dir_all(w.data()).unwrap();
    std::fs::create_dir_all(w.data()).unwrap();
    copy(backup.path(), &w.data());
    w.start();
    a.sync();
    assert_eq!(a.client().status().unwrap().pending_rows, 0);
}

/// A server that connects the file and then takes no push of it is given up, and asked again with the next sync.
#[test]
fn a_server_that_takes_no_push_is_given_up() {
    let w = World::new();
    let mut a = w.device("a");
    a.sync();
    let creates = Arc::new(AtomicI64::new(0));
    let counted = Arc::clone(&creates);
    let client = through(&w, &mut a, move |http, r| {
        if r.method == Method::Post && r.path == "/sync/push-sessions" {
            counted.fetch_add(1, Ordering::Relaxed);
            let body = r#"{"error":"push_session_invalid","message":"no"}"#;
            return Ok(Response { status: 400, retry_after: None, body: Box::new(body.as_bytes()) });
        }
        http.send(r)
    });
    a.sql("INSERT INTO people (id) VALUES ('p')");
    let error = client.sync().unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    assert!(creates.load(Ordering::Relaxed) < 20, "{creates:?}");
    drop(client);
    a.open();
    a.sync();
    assert_eq!(a.client().status().unwrap().pending_rows, 0);
}
