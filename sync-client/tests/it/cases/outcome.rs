//! Outcome of a push (P): leases, sources, rules, and files that are put back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rusqlite::Connection;
use sync_client::Client;
use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};
use sync_server::limits::Limits;

use super::{cut, is_commit, ruled};
use crate::world::{SCHEMA, World, converge, copy};

/// P3: the app's file is put back from a backup that knows nothing of later pushes. What it wrote before goes
/// on under a name of its own, what was written since comes.
#[test]
fn p3_a_file_restored_from_a_backup_goes_on() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'first')");
    converge(&[&a, &b]);
    a.sql("INSERT INTO people (id) VALUES ('in the backup')");
    let backup = w.dir.path().join("backup");
    a.app.execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    let source = a.client().status().unwrap().source_id;
    for n in 0..3 {
        a.sql(&format!("INSERT INTO people (id) VALUES ('later{n}')"));
        a.sync();
    }
    a.close();
    a.app = Connection::open_in_memory().unwrap();
    for suffix in ["-wal", "-shm", ""] {
        let _ = std::fs::remove_file(w.dir.path().join(format!("a.db{suffix}")));
    }
    std::fs::copy(&backup, &a.path).unwrap();
    a.app = Connection::open(&a.path).unwrap();
    a.sql("INSERT INTO people (id) VALUES ('after')");
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 6);
    assert_ne!(a.client().status().unwrap().source_id, source);
}

/// P8: rows of which a rule leaves nothing are refused, and are not sent again and again.
#[test]
fn p8_rows_without_effect_wait() {
    let (_data, server) = ruled(
        "CREATE TRIGGER eat AFTER INSERT ON people WHEN NEW.name = 'eat' BEGIN DELETE FROM people WHERE id = NEW.id; END;",
    );
    let w = World::new();
    let mut a = w.device("a");
    a.serve_at(&server.url());
    a.sync();
    a.sql("INSERT INTO people (id, name) VALUES ('e', 'eat')");
    a.sync();
    let rejected = a.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "no_effect"));
    let report = a.sync();
    assert_eq!((report.push.bundles, report.push.rejected_rows), (0, 0), "not tried again");
    a.sql("UPDATE people SET name = 'edited'");
    assert_eq!(a.sync().push.committed_rows, 1);
    assert!(a.client().rejected().unwrap().is_empty());
}

/// P9: what the server's rules took out of a committed bundle goes here too, and is kept whole.
#[test]
fn p9_a_row_that_the_server_took_out_is_kept_in_discarded() {
    let (_data, server) = ruled(
        "CREATE TRIGGER eat AFTER INSERT ON people WHEN NEW.name = 'eat' BEGIN DELETE FROM people WHERE id = NEW.id; END;",
    );
    let w = World::new();
    let mut a = w.device("a");
    a.serve_at(&server.url());
    a.sql("INSERT INTO people (id, name, email) VALUES ('e', 'eat', 'e@x'), ('p', 'plain', NULL)");
    a.sync();
    assert_eq!(a.text("SELECT group_concat(id) FROM people"), "p");
    let discarded = a.client().discarded().unwrap();
    assert_eq!(discarded.len(), 1);
    assert!(discarded[0].local_row.as_ref().unwrap().contains("e@x"));
}

/// P10: the lease lapses in the middle of the first upload, with and without somebody who takes over.
#[test]
fn p10_a_lapsed_lease_is_got_over() {
    for taken in [false, true] {
        let w = World::new();
        let (mut a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id, name) VALUES ('p', 'of a'), ('q', 'of a')");
        let client = cut(&w, &mut a, is_commit);
        client.sync().unwrap_err();
        drop(client);
        w.clock.0.fetch_add(3_600_000, Ordering::Relaxed);
        if taken {
            b.sql("INSERT INTO people (id, name) VALUES ('p', 'of b')");
            b.sync();
        }
        a.open();
        converge(&[&a, &b]);
        assert_eq!(a.count("SELECT count(*) FROM people"), 2);
        assert_eq!(a.client().discarded().unwrap().len(), usize::from(taken));
    }
}

/// Keeps the server's side files of pushes as they are before a commit, and loses the commit's reply.
struct Killed {
    http: Http,
    pushes: std::path::PathBuf,
    kept: std::path::PathBuf,
    gone: AtomicBool,
}

impl Transport for Killed {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if is_commit(request) && !self.gone.swap(true, Ordering::Relaxed) {
            copy(&self.pushes, &self.kept);
            self.http.send(request)?;
        }
        if self.gone.load(Ordering::Relaxed) {
            return Err(TransportError::Offline("no network".into()));
        }
        self.http.send(request)
    }
}

/// P10: the first bundle of all was committed, and the server died before it let the session go. The upload is
/// not taken for one whose lease lapsed: what the app deleted since stays deleted, and the source stays.
#[test]
fn p10_a_seed_that_committed_is_known_though_its_session_is_still_there() {
    let mut w = World::with(SCHEMA, Limits { max_rows_per_push_chunk: 10, ..Limits::default() });
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25) INSERT INTO people (id) SELECT 'p' || i FROM n");
    let source = a.client().status().unwrap().source_id;
    a.close();
    let kept = tempfile::tempdir().unwrap();
    let transport = Arc::new(Killed {
        http: Http::new(w.url()).unwrap(),
        pushes: w.data().join("pushes"),
        kept: kept.path().to_owned(),
        gone: AtomicBool::new(false),
    });
    let client = Client::builder(&a.path).token(|_| Ok("ada".into())).transport(transport).open().unwrap();
    client.sync().unwrap_err();
    drop(client);
    a.sql("DELETE FROM people WHERE id <> 'p7'");
    w.stop();
    assert!(std::fs::read_dir(kept.path()).unwrap().next().is_some());
    copy(kept.path(), &w.data().join("pushes"));
    w.start();
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id) FROM people"), "p7");
    assert_eq!(a.client().status().unwrap().source_id, source);
}

/// P4: somebody else (a copy that was told to) retired this file's source. It takes one of its own, not the one
/// that the server names, since every other copy would take that too.
#[test]
fn p4_a_source_that_others_retired_is_replaced_by_an_own_one() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    let source = a.client().status().unwrap().source_id;
    let body = format!(
        r#"{{"source_replacement":{{"previous_source_id":"{source}","new_source_id":"theirs","reason":"history_pruned"}}}}"#
    );
    let request = Request {
        method: Method::Post,
        path: "/sync/snapshot-sessions",
        source_id: &source,
        token: "ada",
        body: Some(body.as_bytes()),
        exact: true,
        compress: false,
        stream: false,
        timeout: None,
    };
    assert!(Http::new(w.url()).unwrap().send(&request).unwrap().status < 300);
    a.sql("INSERT INTO people (id) VALUES ('q'); DELETE FROM people WHERE id = 'p'");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id) FROM people"), "q");
    let own = a.client().status().unwrap().source_id;
    assert!(own != source && own != "theirs", "{own}");
}

/// Another device's row refers to what a push of this file deletes. It comes before that push's own bundle, which takes
/// it away: at no moment is there a reference to nothing, wherever the pull is cut.
#[test]
fn a_row_that_the_own_push_takes_away_is_not_shown_before() {
    for (rule, left) in [("ON DELETE CASCADE", 0), ("ON DELETE SET NULL", 1)] {
        let schema =
            SCHEMA.replace("REFERENCES people(id) ON DELETE CASCADE", &format!("REFERENCES people(id) {rule}"));
        let w = World::with(&schema, Limits { max_bundles_per_pull: 1, ..Limits::default() });
        let (mut a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id) VALUES ('p')");
        converge(&[&a, &b]);
        b.sql("INSERT INTO notes VALUES ('n', 'p', 'text'); INSERT INTO tags VALUES ('n', 'tag')");
        b.sync();
        a.sql("DELETE FROM people");
        a.client().push().unwrap();
        let pulls = AtomicUsize::new(0);
        let client = cut(&w, &mut a, move |r| r.path.contains("/pull?") && pulls.fetch_add(1, Ordering::Relaxed) > 0);
        client.sync().unwrap_err();
        assert_eq!(client.status().unwrap().checkpoint, 2, "the note came, the own push not yet");
        assert_eq!(a.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
        drop(client);
        a.open();
        converge(&[&a, &b]);
        assert_eq!(a.count("SELECT count(*) FROM notes"), left);
        assert_eq!(a.count("SELECT count(*) FROM tags"), left);
    }
}
