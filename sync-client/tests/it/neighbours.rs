//! One file, any neighbour: apps with and without foreign keys, busy timeout, recursive triggers, full-text
//! indexes and counters, through push, pull, conflict, rebuild and swapped keys. After each step the
//! indexes are whole, the counters count, references hold, and both files say the same.

use std::time::Duration;

use rusqlite::Connection;
use sync_client::{Event, Policy};
use sync_server::limits::Limits;

use crate::world::{Device, World, converge};

const DDL: &str = "
CREATE TABLE docs (id TEXT PRIMARY KEY NOT NULL, slug TEXT UNIQUE, title TEXT, body TEXT);
CREATE TABLE parts (id INTEGER PRIMARY KEY, doc TEXT REFERENCES docs(id) ON DELETE CASCADE ON UPDATE CASCADE, text TEXT);
";

/// An external-content index over `docs`, kept by triggers as the FTS5 documentation has them.
const FTS: &str = "
CREATE VIRTUAL TABLE docs_fts USING fts5(title, body, content='docs', content_rowid='rowid');
CREATE TRIGGER docs_ai AFTER INSERT ON docs BEGIN
  INSERT INTO docs_fts(rowid, title, body) VALUES (new.rowid, new.title, new.body);
END;
CREATE TRIGGER docs_ad AFTER DELETE ON docs BEGIN
  INSERT INTO docs_fts(docs_fts, rowid, title, body) VALUES ('delete', old.rowid, old.title, old.body);
END;
CREATE TRIGGER docs_au AFTER UPDATE ON docs BEGIN
  INSERT INTO docs_fts(docs_fts, rowid, title, body) VALUES ('delete', old.rowid, old.title, old.body);
  INSERT INTO docs_fts(rowid, title, body) VALUES (new.rowid, new.title, new.body);
END;
INSERT INTO docs_fts(docs_fts) VALUES ('rebuild');
";

/// Counters without a key, so that they are not synced themselves.
const COUNTERS: &str = "
CREATE TABLE totals (docs INTEGER, letters INTEGER, parts INTEGER);
INSERT INTO totals SELECT count(*), coalesce(sum(length(title)), 0), (SELECT count(*) FROM parts) FROM docs;
CREATE TRIGGER totals_ai AFTER INSERT ON docs BEGIN
  UPDATE totals SET docs = docs + 1, letters = letters + coalesce(length(new.title), 0);
END;
CREATE TRIGGER totals_ad AFTER DELETE ON docs BEGIN
  UPDATE totals SET docs = docs - 1, letters = letters - coalesce(length(old.title), 0);
END;
CREATE TRIGGER totals_au AFTER UPDATE ON docs BEGIN
  UPDATE totals SET letters = letters + coalesce(length(new.title), 0) - coalesce(length(old.title), 0);
END;
CREATE TRIGGER parts_ai AFTER INSERT ON parts BEGIN UPDATE totals SET parts = parts + 1; END;
CREATE TRIGGER parts_ad AFTER DELETE ON parts BEGIN UPDATE totals SET parts = parts - 1; END;
";

/// A kind of app.
struct App {
    name: &'static str,
    foreign_keys: bool,
    busy_timeout: bool,
    /// Without it, REPLACE fires no DELETE trigger, and an app with an index or counters breaks these itself.
    recursive_triggers: bool,
    index: bool,
    counters: bool,
}

const APPS: &[App] = &[
    App {
        name: "plain",
        foreign_keys: true,
        busy_timeout: true,
        recursive_triggers: false,
        index: false,
        counters: false,
    },
    App {
        name: "careless",
        foreign_keys: false,
        busy_timeout: false,
        recursive_triggers: false,
        index: false,
        counters: false,
    },
    App {
        name: "searching",
        foreign_keys: true,
        busy_timeout: true,
        recursive_triggers: true,
        index: true,
        counters: false,
    },
    App {
        name: "counting",
        foreign_keys: true,
        busy_timeout: false,
        recursive_triggers: true,
        index: false,
        counters: true,
    },
    App {
        name: "everything",
        foreign_keys: false,
        busy_timeout: false,
        recursive_triggers: true,
        index: true,
        counters: true,
    },
];

/// What one device does, then the other, before both sync.
struct Step {
    name: &'static str,
    first: &'static str,
    second: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        name: "push",
        first: "INSERT INTO docs VALUES ('a', 'sa', 'alpha one', 'the first'), ('b', 'sb', 'beta', 'the second'), ('c', 'sc', 'gamma', NULL);
                INSERT INTO parts VALUES (1, 'a', 'pa'), (2, 'b', 'pb'), (3, 'c', 'pc')",
        second: "",
    },
    Step {
        name: "pull: edits, deletes, a cascade by the app",
        first: "UPDATE docs SET title = 'alpha two' WHERE id = 'a'; DELETE FROM parts WHERE doc = 'c'; DELETE FROM docs WHERE id = 'c'",
        second: "INSERT INTO docs VALUES ('d', 'sd', 'delta', 'new here')",
    },
    Step {
        name: "conflict: both edit, and one deletes what the other edits",
        first: "UPDATE docs SET title = 'from the first', body = 'x' WHERE id = 'a'; DELETE FROM parts WHERE doc = 'd'; DELETE FROM docs WHERE id = 'd'",
        second: "UPDATE docs SET title = 'from the second' WHERE id = 'a'; UPDATE docs SET body = 'edited' WHERE id = 'd'",
    },
    Step {
        name: "conflict: one deletes a parent under the other's child",
        first: "INSERT INTO docs VALUES ('e', 'se', 'epsilon', ''); DELETE FROM parts WHERE doc = 'b'; DELETE FROM docs WHERE id = 'b'",
        second: "INSERT INTO parts VALUES (20, 'b', 'too late'); UPDATE parts SET text = 'edited' WHERE id = 2",
    },
    Step {
        name: "a unique value is taken on both sides",
        first: "INSERT INTO docs VALUES ('f', 'same', 'zeta of the first', '')",
        second: "INSERT INTO docs VALUES ('g', 'same', 'eta of the second', ''); INSERT INTO parts VALUES (30, 'g', 'tied')",
    },
    Step {
        name: "numbers minted twice",
        first: "INSERT INTO parts VALUES (40, 'a', 'of the first')",
        second: "INSERT INTO parts VALUES (40, 'a', 'of the second')",
    },
    Step {
        name: "keys swapped: a ring of unique values",
        first: "UPDATE docs SET slug = NULL WHERE id IN ('a', 'e'); UPDATE docs SET slug = 'se' WHERE id = 'a'; UPDATE docs SET slug = 'sa' WHERE id = 'e'",
        second: "",
    },
    Step {
        name: "a key changes",
        first: "UPDATE docs SET id = 'z', title = 'renamed' WHERE id = 'e'",
        second: "UPDATE docs SET body = 'meanwhile' WHERE id = 'a'",
    },
    Step {
        name: "REPLACE through a secondary unique value",
        first: "INSERT OR REPLACE INTO docs VALUES ('r', 'sa', 'took a slug', 'from another row')",
        second: "INSERT INTO docs VALUES ('s', 'ss', 'sigma', '')",
    },
    Step {
        name: "REPLACE of a row by itself, on both sides",
        first: "INSERT OR REPLACE INTO docs VALUES ('s', 'ss', 'sigma again', 'one')",
        second: "INSERT OR REPLACE INTO docs VALUES ('s', 'ss', 'sigma otherwise', 'two')",
    },
];

fn device(w: &World, app: &App, name: &str) -> Device {
    let d = w.device_with(name, Policy::ServerWins, |c| {
        if app.index {
            c.execute_batch(FTS).unwrap();
        }
        if app.counters {
            c.execute_batch(COUNTERS).unwrap();
        }
    });
    d.app.pragma_update(None, "foreign_keys", app.foreign_keys).unwrap();
    d.app.pragma_update(None, "recursive_triggers", app.recursive_triggers).unwrap();
    d.app.busy_timeout(if app.busy_timeout { Duration::from_secs(10) } else { Duration::ZERO }).unwrap();
    d
}

fn check(d: &Device, app: &App, when: &str) {
    let when = format!("{}, {when}, {}", app.name, d.path.display());
    assert_eq!(d.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{when}");
    // On a connection of its own: one that read the index before judges it by what it remembers.
    let fresh = Connection::open(&d.path).unwrap();
    assert_eq!(fresh.query_row("PRAGMA integrity_check", [], |r| r.get(0)), Ok("ok".to_owned()), "{when}");
    if app.index {
        d.app
            .execute_batch("INSERT INTO docs_fts(docs_fts, rank) VALUES ('integrity-check', 1)")
            .unwrap_or_else(|e| panic!("{when}: {e}"));
        // Each word of each title finds its row, and nothing finds a row that is not there.
        let words = "SELECT count(*) FROM docs WHERE title IS NOT NULL AND NOT EXISTS \
            (SELECT 1 FROM docs_fts WHERE docs_fts MATCH 'title: \"' || docs.title || '\"' AND docs_fts.rowid = docs.rowid)";
        assert_eq!(d.count(words), 0, "{when}");
    }
    if app.counters {
        let counted = d.text("SELECT docs || ' ' || letters || ' ' || parts FROM totals");
        let there = d.text(
            "SELECT count(*) || ' ' || coalesce(sum(length(title)), 0) || ' ' || (SELECT count(*) FROM parts) FROM docs",
        );
        assert_eq!(counted, there, "{when}");
    }
}

#[test]
fn every_kind_of_app_stays_whole() {
    for app in APPS {
        let w = World::with(DDL, Limits { retained_bundles: 3, ..Limits::default() });
        let (a, b) = (device(&w, app, "a"), device(&w, app, "b"));
        for step in STEPS {
            a.sql(step.first);
            b.sql(step.second);
            check(&a, app, step.name);
            for d in [&a, &b, &a, &b] {
                d.sync();
                check(d, app, step.name);
            }
            for d in [&a, &b] {
                d.client().rebuild().unwrap();
                check(d, app, &format!("{}, rebuilt", step.name));
            }
            converge(&[&a, &b]);
        }
        // A new device, and one whose history is no longer kept.
        for i in 0..6 {
            a.sql(&format!("UPDATE docs SET body = 'round {i}'"));
            a.sync();
        }
        a.sql("DELETE FROM docs WHERE id = 's'");
        a.sync();
        assert!(b.sync().pull.rebuilt, "{}", app.name);
        check(&b, app, "pruned");
        let c = device(&w, app, "c");
        c.sync();
        check(&c, app, "new");
        converge(&[&a, &b, &c]);
    }
}

/// S15: small bundles are applied a few thousand rows at a time, so that an app without a busy timeout is
/// not kept out for long.
#[test]
fn small_bundles_are_applied_in_short_transactions() {
    let w = World::with(DDL, Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    b.sync();
    for n in 0..12 {
        a.sql(&format!(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
             INSERT INTO docs (id) SELECT {n} || '-' || i FROM n"
        ));
        a.sync();
    }
    b.sync();
    let mut at = 0;
    let mut most = 0;
    for e in b.events.lock().unwrap().iter() {
        if let Event::Applied { rows, .. } = e {
            most = most.max(rows.saturating_sub(at));
            at = *rows;
        }
    }
    assert_eq!(at, 6000);
    assert!((500..=2000).contains(&most), "{most} rows in one transaction");
}

/// S15: a rebuild writes the rows that differ, and no other. An app's own trigger counts.
#[test]
fn a_rebuild_writes_what_differs() {
    let w = World::with(DDL, Limits { retained_bundles: 2, ..Limits::default() });
    let count = |c: &Connection| {
        c.execute_batch(
            "CREATE TABLE writes (n INTEGER); INSERT INTO writes VALUES (0);
             CREATE TRIGGER writes_i AFTER INSERT ON docs BEGIN UPDATE writes SET n = n + 1; END;
             CREATE TRIGGER writes_u AFTER UPDATE ON docs BEGIN UPDATE writes SET n = n + 1; END;
             CREATE TRIGGER writes_d AFTER DELETE ON docs BEGIN UPDATE writes SET n = n + 1; END;",
        )
        .unwrap();
    };
    let (a, b) = (w.device("a"), w.device_with("b", Policy::ServerWins, count));
    a.sql("WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO docs (id) SELECT 'd' || i FROM n");
    a.sync();
    b.sync();
    assert_eq!(b.count("SELECT n FROM writes"), 500);
    b.client().rebuild().unwrap();
    assert_eq!(b.count("SELECT n FROM writes"), 500);
    for i in 0..4 {
        a.sql(&format!("UPDATE docs SET title = 't{i}' WHERE id IN ('d1', 'd2')"));
        a.sync();
    }
    a.sql("DELETE FROM docs WHERE id = 'd3'");
    a.sync();
    assert!(b.sync().pull.rebuilt);
    assert_eq!(b.count("SELECT n FROM writes"), 503);
}

/// An app without a busy timeout that keeps writing while a large pull is applied: what it could not
/// write at once it can write soon, and all of it arrives.
#[test]
fn an_app_without_a_busy_timeout_gets_its_turn() {
    let w = World::with(DDL, Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    b.sync();
    for n in 0..10 {
        a.sql(&format!(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) \
             INSERT INTO docs (id) SELECT {n} || '-' || i FROM n"
        ));
        a.sync();
    }
    b.app.busy_timeout(Duration::ZERO).unwrap();
    let client = b.client().clone();
    let syncing = std::thread::spawn(move || client.sync().unwrap());
    let (mut written, mut refused) = (0, 0);
    while !syncing.is_finished() {
        match b.app.execute("INSERT INTO docs (id) VALUES ('mine' || ?)", [written]) {
            Ok(_) => written += 1,
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => refused += 1,
            Err(e) => panic!("{e}"),
        }
        std::thread::yield_now();
    }
    syncing.join().unwrap();
    assert!(written >= 5, "{written} written, {refused} refused");
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM docs WHERE id LIKE 'mine%'"), written);
}

/// S12: while an app has the file open, no verb of ours makes it start its log anew: a forced checkpoint would.
#[test]
fn nothing_of_ours_cuts_the_log_of_a_neighbour() {
    let w = World::with(DDL, Limits::default());
    let (mut a, b) = (w.device("a"), w.device("b"));
    // A reader of one moment: what the log held then has to stay where it is.
    let reader = Connection::open(&a.path).unwrap();
    let log = a.path.with_file_name("a.db-wal");
    let mut size = 0;
    let mut grown = |after: &str| {
        let now = std::fs::metadata(&log).unwrap().len();
        assert!(now >= size && now > 0, "{after}: {size} bytes of log, then {now}");
        size = now;
    };
    a.sql("INSERT INTO docs (id, title) VALUES ('1', 'one')");
    reader.execute_batch("BEGIN; SELECT count(*) FROM docs").unwrap();
    grown("a write of the app");
    a.sync();
    grown("a push");
    b.sync();
    b.sql("UPDATE docs SET title = 'other'; INSERT INTO docs (id) VALUES ('2')");
    b.sync();
    a.sync();
    grown("a pull");
    a.client().rebuild().unwrap();
    grown("a rebuild");
    a.client().verify(sync_client::Repair::FromServer).unwrap();
    grown("a repair");
    a.close();
    grown("the client's end");
    a.open();
    a.client().detach(sync_client::Detach::WhenClean).unwrap();
    grown("a detach");
    assert_eq!(reader.query_row("SELECT title FROM docs", [], |r| r.get::<_, String>(0)).unwrap(), "one");
    reader.execute_batch("COMMIT").unwrap();
}
