//! What SQLite does (S), and durability.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use sync_client::Client;
use sync_client::context::{Environment, System};

use crate::world::{Device, SCHEMA, World, converge, dump};

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
