//! Lost replies, restarts, rewritten histories and copies: nothing is lost, nothing is doubled, nothing wedges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};
use sync_client::{Client, Error, Policy};
use sync_server::limits::Limits;

use crate::world::{SCHEMA, World, converge, copy, dump};

/// HTTP that loses the reply of one request, after the server did what it said, and then has no network
/// until it is allowed again.
struct Lossy {
    http: Http,
    /// Counts requests that change something.
    seen: AtomicUsize,
    lose: usize,
    down: AtomicBool,
}

impl Transport for Lossy {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(TransportError::Offline("no network".into()));
        }
        let response = self.http.send(request)?;
        if request.method != Method::Get && self.seen.fetch_add(1, Ordering::Relaxed) == self.lose {
            self.down.store(true, Ordering::Relaxed);
            return Err(TransportError::Broken("the reply was lost".into()));
        }
        Ok(response)
    }
}

#[test]
fn the_reply_to_any_request_may_be_lost() {
    let w = World::new();
    let mut lost = 0;
    for lose in 0..40 {
        let user = format!("user-{lose}");
        let mut a = w.device_with(&format!("a{lose}"), Policy::ServerWins, |_| {});
        let mut b = w.device_with(&format!("b{lose}"), Policy::ServerWins, |_| {});
        (a.user, b.user) = (user.clone(), user.clone());
        a.close();
        b.open();
        let transport = Arc::new(Lossy {
            http: Http::new(w.url()).unwrap(),
            seen: AtomicUsize::new(0),
            lose,
            down: AtomicBool::new(false),
        });
        let token = user.clone();
        let client = Client::builder(&a.path)
            .token(move |_| Ok(token.clone()))
            .transport(Arc::clone(&transport) as _)
            .open()
            .unwrap();
        a.sql("INSERT INTO people (id, name) VALUES ('p1', 'one'), ('p2', 'two')");
        let mut failed = 0;
        let mut sync = || {
            if client.sync().is_err() {
                failed += 1;
                transport.down.store(false, Ordering::Relaxed);
                a.sql("UPDATE people SET age = coalesce(age, 0) + 1 WHERE id = 'p1'");
                client.sync().unwrap();
            }
        };
        for round in 0..3 {
            sync();
            a.sql(&format!("INSERT INTO people (id) VALUES ('r{round}'); DELETE FROM people WHERE id = 'p2'"));
        }
        sync();
        drop(client);
        a.open();
        converge(&[&a, &b]);
        assert_eq!(a.count("SELECT count(*) FROM people"), 4);
        assert!(a.client().discarded().unwrap().is_empty() && a.client().rejected().unwrap().is_empty());
        lost += failed;
        if transport.seen.load(Ordering::Relaxed) <= lose {
            break;
        }
    }
    assert!(lost >= 8, "only {lost} replies were lost");
}

#[test]
fn a_restarted_server_goes_on() {
    let mut w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    a.sync();
    w.stop();
    a.sql("INSERT INTO people (id) VALUES ('q')");
    assert!(matches!(a.client().sync(), Err(Error::Offline { .. })));
    let status = a.client().status().unwrap();
    assert_eq!((status.pending_rows, status.last_error.is_some()), (1, true));
    w.start();
    converge(&[&a, &b]);
    assert!(a.client().status().unwrap().last_error.is_none());
}

/// H1, H2: the server is restored to an older state, and in the second round it has grown again since.
#[test]
fn a_restored_server_gets_back_what_it_lost() {
    for regrown in [false, true] {
        let mut w = World::new();
        let (a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id, name) VALUES ('old', 'x'), ('changed', 'before'), ('deleted', 'x')");
        converge(&[&a, &b]);
        w.stop();
        let backup = tempfile::tempdir().unwrap();
        copy(&w.data(), backup.path());
        w.start();
        a.sql("INSERT INTO people (id, name) VALUES ('new', 'y'); UPDATE people SET name = 'after' WHERE id = 'changed'; DELETE FROM people WHERE id = 'deleted'");
        converge(&[&a, &b]);
        let expected = dump(&a.path);
        w.stop();
        std::fs::remove_dir_all(w.data()).unwrap();
        std::fs::create_dir_all(w.data()).unwrap();
        copy(backup.path(), &w.data());
        w.start();
        if regrown {
            let c = w.device("c");
            for i in 0..4 {
                c.sql(&format!("INSERT INTO counters VALUES ({i}, 'regrown')"));
                c.sync();
            }
            converge(&[&a, &b, &c]);
            assert_eq!(a.count("SELECT count(*) FROM counters"), 4);
            a.sql("DELETE FROM counters");
        }
        converge(&[&a, &b]);
        assert_eq!(dump(&a.path), expected, "regrown: {regrown}");
    }
}

/// H3: the server is wiped; the devices hold the data.
#[test]
fn a_wiped_server_is_seeded_again() {
    let mut w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'); INSERT INTO notes VALUES ('n', 'p', 'body')");
    converge(&[&a, &b]);
    let expected = dump(&a.path);
    w.stop();
    std::fs::remove_dir_all(w.data()).unwrap();
    w.start();
    converge(&[&b, &a]);
    assert_eq!(dump(&a.path), expected);
}

/// H4: the checkpoint is older than what is kept.
#[test]
fn pruned_history_is_rebuilt_with_local_work() {
    let w = World::with(SCHEMA, Limits { retained_bundles: 2, ..Limits::default() });
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    for i in 0..6 {
        a.sql(&format!("INSERT INTO people (id) VALUES ('p{i}')"));
        a.sync();
    }
    a.sql("DELETE FROM people WHERE id = 'p0'");
    a.sync();
    b.sql("INSERT INTO people (id) VALUES ('local')");
    let report = b.sync();
    assert!(report.pull.rebuilt);
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people"), 6);
}

/// P3: the app's file is copied to a second device, source id and all.
#[test]
fn a_copied_file_gets_a_source_of_its_own() {
    let w = World::new();
    let mut a = w.device("a");
    a.sql("INSERT INTO people (id) VALUES ('p')");
    a.sync();
    a.close();
    a.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(&a.path, w.dir.path().join("twin.db")).unwrap();
    a.open();
    let path = w.dir.path().join("twin.db");
    let twin = Client::builder(&path).token(|_| Ok("ada".into())).open().unwrap();
    let app = rusqlite::Connection::open(&path).unwrap();
    app.execute_batch("INSERT INTO people (id) VALUES ('of the twin')").unwrap();
    a.sql("INSERT INTO people (id) VALUES ('of a')");
    a.sync();
    twin.sync().unwrap();
    a.sql("INSERT INTO people (id) VALUES ('of a again')");
    a.sync();
    twin.sync().unwrap();
    assert_eq!(dump(&a.path), dump(&path));
    assert_eq!(a.count("SELECT count(*) FROM people"), 4);
    assert_ne!(a.client().status().unwrap().source_id, twin.status().unwrap().source_id);
}

/// H8: a token of another user must not mix two users' rows.
#[test]
fn another_users_token_is_noticed_before_a_row_is_sent() {
    let w = World::new();
    let mut a = w.device("a");
    a.sql("INSERT INTO people (id) VALUES ('private')");
    a.sync();
    let other = w.device_with("other", Policy::ServerWins, |_| {});
    drop(other);
    a.user = "bob".into();
    a.open();
    let mut bob = w.device("bob");
    bob.user = "bob".into();
    bob.open();
    bob.sync();
    a.sql("INSERT INTO people (id) VALUES ('more')");
    assert!(matches!(a.client().sync(), Err(Error::WrongScope)));
    bob.sync();
    assert_eq!(bob.count("SELECT count(*) FROM people"), 0);
}

/// S2: a migration rebuilds a table while nobody syncs, and the app goes on writing.
#[test]
fn a_table_rebuilt_by_a_migration_loses_nothing() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO counters VALUES (1, 'one'), (2, 'two')");
    converge(&[&a, &b]);
    a.close();
    a.sql(
        "PRAGMA foreign_keys = OFF;
         CREATE TABLE new_counters (id INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL);
         INSERT INTO new_counters SELECT * FROM counters; DROP TABLE counters; ALTER TABLE new_counters RENAME TO counters;
         UPDATE counters SET label = 'unseen' WHERE id = 1; DELETE FROM counters WHERE id = 2; INSERT INTO counters VALUES (3, 'three');",
    );
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id || label) FROM counters"), "1unseen,3three");
}

/// The token is asked for again once after it was refused.
#[test]
fn a_refused_token_is_renewed_once() {
    let w = World::new();
    let a = w.device("a");
    let renewed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&renewed);
    drop(a);
    let path = w.dir.path().join("a.db");
    let client = Client::builder(&path)
        .token(move |r| {
            if r.renew {
                flag.store(true, Ordering::Relaxed);
                Ok("ada".into())
            } else {
                Ok(String::new())
            }
        })
        .open()
        .unwrap();
    client.sync().unwrap();
    assert!(renewed.load(Ordering::Relaxed));
    let other = Client::builder(&path).token(|_| Ok("x".into())).open();
    assert!(matches!(other, Err(Error::Owned { .. })), "one owner at a time");
}

/// The background worker carries local commits over, and stops at once.
#[test]
fn the_worker_carries_commits_and_stops() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.client().start().unwrap();
    b.client().start().unwrap();
    for i in 0..5 {
        a.sql(&format!("INSERT INTO people (id) VALUES ('p{i}')"));
        let begun = std::time::Instant::now();
        while b.count(&format!("SELECT count(*) FROM people WHERE id = 'p{i}'")) == 0 {
            assert!(begun.elapsed().as_secs() < 30, "the row never came");
            std::thread::yield_now();
        }
    }
    for d in [&a, &b] {
        let begun = std::time::Instant::now();
        d.client().stop();
        assert!(begun.elapsed().as_secs() < 5, "stop is prompt");
    }
    converge(&[&a, &b]);
}

/// A host that accepts and never answers does not hold a stop up.
#[test]
fn a_silent_host_does_not_hold_a_stop_up() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", host.local_addr().unwrap());
    let client = Client::builder(&a.path).server(&url).token(|_| Ok("ada".into())).open().unwrap();
    client.start().unwrap();
    let (connection, _) = host.accept().unwrap();
    let begun = std::time::Instant::now();
    client.stop();
    // The promise is a second; a loaded machine gets more.
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    drop(connection);
    drop(client);
    a.open();
    a.sync();
}
