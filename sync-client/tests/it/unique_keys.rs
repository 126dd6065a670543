//! Tables without a primary key, whose rows are known by a UNIQUE constraint.

use sync_client::{Policy, Repair};
use sync_server::limits::Limits;

use crate::world::{Device, World, converge};

const SCHEMA: &str = "
    CREATE TABLE tagged (note TEXT NOT NULL, tag TEXT NOT NULL, weight INTEGER, UNIQUE (note, tag));
    CREATE TABLE setting (name TEXT UNIQUE, value TEXT);
    CREATE TABLE year (n INTEGER NOT NULL UNIQUE, label TEXT, code TEXT UNIQUE);
    CREATE TABLE event (id TEXT PRIMARY KEY NOT NULL, year INTEGER REFERENCES year(n) ON DELETE CASCADE);";

fn rows(d: &Device) -> String {
    d.text(
        "SELECT (SELECT coalesce(group_concat(note || tag || coalesce(weight, '')), '') FROM (SELECT * FROM tagged ORDER BY note, tag))
         || ' ' || (SELECT coalesce(group_concat(name || value), '') FROM (SELECT * FROM setting WHERE name IS NOT NULL ORDER BY name))
         || ' ' || (SELECT coalesce(group_concat(n || coalesce(label, '')), '') FROM (SELECT * FROM year ORDER BY n))
         || ' ' || (SELECT count(*) FROM event)",
    )
}

#[test]
fn rows_travel_by_what_is_unique() {
    let w = World::with(SCHEMA, Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(
        "INSERT INTO tagged VALUES ('n', 'x', 1), ('n', 'y', 2); INSERT INTO setting VALUES ('s', '1');
         INSERT INTO year VALUES (2024, 'leap', 'l'), (2025, NULL, NULL); INSERT INTO event VALUES ('e', 2024), ('f', 2025);",
    );
    converge(&[&a, &b]);
    assert_eq!(rows(&b), "nx1,ny2 s1 2024leap,2025 2");
    b.sql(
        "UPDATE tagged SET weight = 9 WHERE tag = 'x'; UPDATE tagged SET tag = 'z' WHERE tag = 'y';
         INSERT OR REPLACE INTO setting VALUES ('s', '2'); DELETE FROM year WHERE n = 2025;
         INSERT INTO tagged VALUES ('n', 'x', 10) ON CONFLICT (note, tag) DO UPDATE SET weight = excluded.weight;",
    );
    converge(&[&a, &b]);
    assert_eq!(rows(&a), "nx10,nz2 s2 2024leap 1");
    assert_eq!(rows(&a), rows(&b));
    assert_eq!(a.client().verify(Repair::No).unwrap().differing_rows, 0);
}

#[test]
fn rows_with_null_stay_local() {
    let w = World::with(SCHEMA, Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO setting VALUES ('s', '1'), (NULL, 'local'), (NULL, 'local, too')");
    a.sync();
    b.sync();
    assert_eq!(b.text("SELECT group_concat(name || value) FROM setting"), "s1");
    a.sql("UPDATE setting SET name = 'named' WHERE value = 'local'; UPDATE setting SET name = NULL WHERE name = 's'");
    a.sync();
    b.sync();
    assert_eq!(
        b.text("SELECT group_concat(name || value) FROM setting"),
        "namedlocal",
        "they come and go with their key"
    );
    assert_eq!(a.count("SELECT count(*) FROM setting"), 3);
}

/// A number that is only UNIQUE says something: the same one on two devices is the same row, not another.
#[test]
fn a_unique_number_is_not_given_anew() {
    let w = World::with(SCHEMA, Limits::default());
    let (a, b) = (w.device_with("a", Policy::ServerWins, |_| {}), w.device("b"));
    a.sql("INSERT INTO year VALUES (2026, 'from a', NULL)");
    b.sql("INSERT INTO year VALUES (2026, 'from b', NULL); INSERT INTO event VALUES ('e', 2026)");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(rows(&b), "  2026from a 1");
    assert_eq!(rows(&a), rows(&b));
    assert_eq!(b.client().discarded().unwrap().len(), 1, "what lost is kept whole");
}

/// The server's choice wins where this file would have chosen another; one that this file lacks holds the table back.
#[test]
fn the_servers_choice_wins_and_stays() {
    let mut w = World::with(
        "CREATE TABLE t (a TEXT NOT NULL, b TEXT NOT NULL, v TEXT, UNIQUE (a), UNIQUE (b));",
        Limits::default(),
    );
    let a = w.device("a");
    a.sql("INSERT INTO t VALUES ('a1', 'b1', 'one')");
    a.sync();
    // Another order of the columns chooses nothing anew on the server.
    w.stop();
    w.schema = "CREATE TABLE t (b TEXT NOT NULL, a TEXT NOT NULL, v TEXT, UNIQUE (a), UNIQUE (b));".into();
    w.start();
    // A device whose own rule says b.
    let mut b = w.closed_device("b", |c| c.execute_batch("INSERT INTO t VALUES ('b2', 'a2', 'two')").unwrap());
    b.open();
    in_turn(&[&a, &b]);
    for d in [&a, &b] {
        assert_eq!(d.text("SELECT group_concat(a || b || v) FROM (SELECT * FROM t ORDER BY a)"), "a1b1one,a2b2two");
    }
    a.sql("UPDATE t SET b = 'other' WHERE a = 'a1'");
    in_turn(&[&a, &b]);
    assert_eq!(b.text("SELECT b FROM t WHERE a = 'a1'"), "other", "one row, known by a");
    b.sql("DELETE FROM t WHERE b = 'other'");
    in_turn(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM t"), 1);
    b.open();
    b.sql("CREATE UNIQUE INDEX more ON t(v); UPDATE t SET v = 'three'");
    in_turn(&[&a, &b]);
    assert_eq!(a.text("SELECT v FROM t"), "three");
}

/// Files whose columns stand in another order are not compared as text.
fn in_turn(devices: &[&Device]) {
    for _ in 0..3 {
        for d in devices {
            d.sync();
        }
    }
    for d in devices {
        assert_eq!(d.client().status().unwrap().pending_rows, 0);
        assert!(d.client().rejected().unwrap().is_empty() && d.client().discarded().unwrap().is_empty());
    }
}
