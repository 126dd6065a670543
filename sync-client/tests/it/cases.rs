//! Hard cases by their letters, where no other test is about them.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use sync_client::context::{Environment, System};
use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};
use sync_client::{Client, Error, Policy, Resolution};
use sync_server::limits::Limits;

use crate::world::{Clock, Device, SCHEMA, World, converge, copy, dump};

/// HTTP that has no network for the requests that a test names.
struct Cut {
    http: Http,
    cut: Box<dyn Fn(&Request<'_>) -> bool + Send + Sync>,
}

impl Transport for Cut {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if (self.cut)(request) {
            return Err(TransportError::Offline("no network".into()));
        }
        self.http.send(request)
    }
}

/// A client for a device's file, cut off where `cut` says so. The device's own is closed.
fn cut(w: &World, a: &mut Device, cut: impl Fn(&Request<'_>) -> bool + Send + Sync + 'static) -> Client {
    a.close();
    let transport = Arc::new(Cut { http: Http::new(w.url()).unwrap(), cut: Box::new(cut) });
    Client::builder(&a.path).token(|_| Ok("ada".into())).transport(transport).open().unwrap()
}

fn is_commit(r: &Request<'_>) -> bool {
    r.method == Method::Post && r.path.ends_with("/commit")
}

/// Another server than the world's, with rules of its own.
fn ruled(rules: &str) -> (tempfile::TempDir, sync_server::Server) {
    let data = tempfile::tempdir().unwrap();
    let mut config = sync_server::service::ServiceConfig::new(data.path(), SCHEMA);
    config.rules_sql = Some(rules.into());
    let service = sync_server::service::Service::open(config, Arc::new(Clock::default())).unwrap();
    let router = sync_server::router(service, sync_server::auth::DevAuth);
    (data, sync_server::Server::start("127.0.0.1:0", router).unwrap())
}

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

/// C4, C5: nobody is asked where there is nothing to decide.
#[test]
fn c4_c5_what_is_no_conflict_is_none() {
    let w = World::new();
    let a = w.device("a");
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'), ('q', 'x'), ('r', 'x'); INSERT INTO notes (id) VALUES ('n'); INSERT INTO tags VALUES ('n', 'red')");
    a.sync();
    a.sql("DELETE FROM tags");
    a.sync();
    let asked = Policy::Custom(Arc::new(|c| panic!("asked about {c:?}")));
    let b = w.device_with("b", asked, |_| {});
    b.sync();
    // A tombstone that this file never saw; the same edit, the same row, and two deletes of one row.
    b.sql("INSERT INTO tags VALUES ('n', 'red'); UPDATE people SET name = 'same' WHERE id = 'p'; DELETE FROM people WHERE id = 'q'; INSERT INTO people (id) VALUES ('both')");
    a.sql("UPDATE people SET name = 'same' WHERE id = 'p'; DELETE FROM people WHERE id = 'q'; INSERT INTO people (id) VALUES ('both')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT tag FROM tags"), "red");
    let inbox = [b.client().conflicts(), b.client().discarded(), b.client().rejected()];
    assert!(inbox.into_iter().all(|rows| rows.unwrap().is_empty()));
}

/// C10: a bundle is uploaded in part when another device's edit of its row comes. It is not edited: its fate
/// is settled first.
#[test]
fn c10_a_half_uploaded_bundle_is_settled_before_a_pull_edits_its_rows() {
    for committed in [false, true] {
        let w = World::new();
        let (mut a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id, name, age) VALUES ('p', 'x', 1)");
        converge(&[&a, &b]);
        a.sql("UPDATE people SET name = 'of a'");
        let seen = AtomicBool::new(false);
        let client = cut(&w, &mut a, move |r| {
            if committed { seen.fetch_or(is_commit(r), Ordering::Relaxed) && !is_commit(r) } else { is_commit(r) }
        });
        let first = client.sync();
        assert!(first.is_err());
        drop(client);
        b.sql("UPDATE people SET name = 'of b'");
        b.sync();
        a.open();
        a.client().pull().unwrap();
        converge(&[&a, &b]);
        let (winner, loser) = if committed { ("of a", &b) } else { ("of b", &a) };
        assert_eq!(a.text("SELECT name FROM people"), winner);
        assert_eq!(loser.client().discarded().unwrap().len(), 1, "committed: {committed}");
    }
}

/// C11: a function that touches its own file while this is written gets an error at once, also from each verb.
#[test]
fn c11_a_conflict_function_that_touches_the_file_gets_an_error() {
    let w = World::new();
    let a = w.device("a");
    let said = Arc::new(Mutex::new(Vec::new()));
    let of_itself: Arc<Mutex<Option<Client>>> = Arc::default();
    let (told, inner) = (Arc::clone(&said), Arc::clone(&of_itself));
    let path = w.dir.path().join("b.db");
    let b = w.device_with(
        "b",
        Policy::Custom(Arc::new(move |_| {
            let app = Connection::open(&path).unwrap();
            app.busy_timeout(std::time::Duration::ZERO).unwrap();
            let mut said = told.lock().unwrap();
            said.push(app.execute("UPDATE people SET age = 9", []).unwrap_err().to_string());
            let client = inner.lock().unwrap().clone().unwrap();
            said.push(client.sync().unwrap_err().to_string());
            said.push(client.detach(sync_client::Detach::KeepData).unwrap_err().to_string());
            client.stop();
            client.status().unwrap();
            Resolution::KeepLocal
        })),
        |_| {},
    );
    *of_itself.lock().unwrap() = Some(b.client().clone());
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'of a'");
    a.sync();
    b.sql("UPDATE people SET name = 'of b'");
    b.sync();
    *of_itself.lock().unwrap() = None;
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 3);
    assert!(said[0].contains("locked") && said[1..].iter().all(|s| s.contains("values")), "{said:?}");
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT name || coalesce(age, '-') FROM people"), "of b-");
}

/// S5: what the app's DDL says of conflicts does not act on our writes: nothing is replaced or left out silently.
#[test]
fn s5_conflict_clauses_of_the_ddl_do_not_act() {
    for clause in ["REPLACE", "IGNORE", "ROLLBACK", "FAIL"] {
        let mut w = World::new();
        let a = w.device("a");
        w.schema = SCHEMA.replace("email TEXT UNIQUE", &format!("email TEXT UNIQUE ON CONFLICT {clause}"));
        assert_ne!(w.schema, SCHEMA);
        let b = w.device("b");
        converge(&[&a, &b]);
        a.sql("INSERT INTO people (id, email) VALUES ('of a', 'same'), ('x', '1'), ('y', '2')");
        b.sql("INSERT INTO people (id, email) VALUES ('of b', 'same')");
        a.sync();
        b.sync();
        converge(&[&a, &b]);
        assert_eq!(b.count("SELECT count(*) FROM people"), 3, "{clause}");
        let rejected = b.client().rejected().unwrap();
        assert_eq!((rejected.len(), rejected[0].key.as_str()), (1, r#"{"id":"of b"}"#), "{clause}");
        a.sql("UPDATE people SET email = 't' WHERE id = 'x'; UPDATE people SET email = '1' WHERE id = 'y'; UPDATE people SET email = '2' WHERE id = 'x'");
        converge(&[&a, &b]);
    }
}

/// A file that may not grow, until it may.
#[derive(Default)]
struct Room {
    system: System,
    pages: AtomicI64,
    settings: Mutex<Vec<(i64, i64, i64)>>,
}

impl Environment for Room {
    fn now_ms(&self) -> i64 {
        self.system.now_ms()
    }
    fn new_id(&self) -> String {
        self.system.new_id()
    }
    fn random(&self) -> u64 {
        self.system.random()
    }
    fn opened(&self, conn: &Connection) {
        let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |r| r.get(0)).unwrap();
        self.settings.lock().unwrap().push((
            pragma("synchronous"),
            pragma("foreign_keys"),
            pragma("recursive_triggers"),
        ));
        let used: i64 = pragma("page_count");
        let room = self.pages.load(Ordering::Relaxed);
        conn.query_row(&format!("PRAGMA max_page_count = {}", used + room), [], |_| Ok(())).unwrap();
    }
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

/// P5, S7: our commits are durable, and one that fails (here: no room) leaves nothing open and nothing half
/// done: the app goes on, and so do we once there is room.
#[test]
fn p5_s7_a_commit_that_fails_leaves_nothing_open() {
    let w = World::new();
    let (a, mut b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql(
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
         INSERT INTO people (id, photo) SELECT 'p' || i, randomblob(2000) FROM n",
    );
    a.sync();
    b.close();
    b.sql("INSERT INTO people (id) VALUES ('of b')");
    for room in [3, 20, 60, 100, 100_000] {
        let env = Arc::new(Room { pages: AtomicI64::new(room), ..Room::default() });
        let client = Client::builder(&b.path)
            .server(w.url())
            .token(|_| Ok("ada".into()))
            .environment(Arc::clone(&env) as _)
            .open()
            .unwrap();
        let outcome = client.sync();
        assert_eq!(outcome.is_ok(), room == 100_000, "{room}: {outcome:?}");
        let rows = b.count("SELECT count(*) FROM people");
        // The app's write lock is free, and reads are a prefix of history.
        b.sql("UPDATE people SET age = coalesce(age, 0) + 1 WHERE id = 'of b'");
        assert!([1, 301].contains(&rows), "{rows} rows");
        assert_eq!(b.text("PRAGMA integrity_check"), "ok");
        assert!(env.settings.lock().unwrap().iter().all(|s| *s == (2, 0, 0)), "{:?}", env.settings);
    }
    b.open();
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people"), 301);
}

/// S6: an orphan that the app made long ago hides no orphan that a pull would make.
#[test]
fn s6_an_old_orphan_hides_no_new_one() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    b.sql("PRAGMA foreign_keys = OFF; INSERT INTO notes VALUES ('old', 'later', 'x'); PRAGMA foreign_keys = ON");
    b.sync();
    b.sql("INSERT INTO notes VALUES ('new', 'p', 'precious')");
    // The old orphan gets its parent, the new child loses its.
    a.sql("DELETE FROM people WHERE id = 'p'; INSERT INTO people (id) VALUES ('later')");
    a.sync();
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    converge(&[&a, &b]);
    let rejected = b.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "parent_deleted"));
    assert_eq!(a.text("SELECT group_concat(id) FROM notes"), "old");
}

/// S13: a `.db` that was copied without its `-wal` is an older state, and is treated as one.
#[test]
fn s13_a_copy_without_its_wal_loses_nothing_of_others() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    converge(&[&a, &b]);
    a.sql("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_autocheckpoint = 0; DELETE FROM people; INSERT INTO people (id) VALUES ('in the log')");
    a.sync();
    let path = w.dir.path().join("bare.db");
    std::fs::copy(&a.path, &path).unwrap();
    let app = Connection::open(&path).unwrap();
    app.execute("INSERT INTO people (id) VALUES ('of the copy')", []).unwrap();
    let bare = Client::builder(&path).server(w.url()).token(|_| Ok("ada".into())).open().unwrap();
    bare.sync().unwrap();
    converge(&[&a, &b]);
    bare.sync().unwrap();
    assert_eq!(dump(&a.path), dump(&path));
    assert_eq!(a.text("SELECT group_concat(id) FROM (SELECT id FROM people ORDER BY id)"), "in the log,of the copy");
}

/// S16: nobody syncs, and the log stays small.
#[test]
fn s16_the_log_is_folded_at_every_start() {
    let mut w = World::new();
    let mut a = w.device("a");
    a.sql("INSERT INTO people (id, age) VALUES ('p', 0)");
    a.sync();
    w.stop();
    let logged = |a: &Device| {
        let sql = "SELECT name FROM sqlite_schema WHERE name LIKE '\\_sync\\_log%' ESCAPE '\\' AND type = 'table'";
        let mut s = a.app.prepare(sql).unwrap();
        let names: Vec<String> = s.query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(!names.is_empty());
        names.iter().map(|n| a.count(&format!("SELECT count(*) FROM {n}"))).sum::<i64>()
    };
    a.close();
    for _ in 0..3 {
        a.sql("BEGIN");
        for _ in 0..500 {
            a.sql("UPDATE people SET age = age + 1");
        }
        a.sql("COMMIT");
        assert!(logged(&a) >= 500);
        a.open();
        let _ = a.client().sync().unwrap_err();
        assert_eq!(logged(&a), 0);
        a.close();
    }
    w.start();
    a.open();
    assert_eq!(a.sync().push.committed_rows, 1);
}

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
