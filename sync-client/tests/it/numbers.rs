//! Case C7: devices mint the same INTEGER keys. The row that no server has takes another number, and
//! whatever refers to it in this file goes along, however far down.

use sync_client::transport::{Transport as _, TransportError};
use sync_client::{Event, Policy};
use sync_server::limits::Limits;

use crate::relay::through;
use crate::world::{Device, World, converge};

/// Children sort before their parents by name, so that no order of names helps.
const ORDERS: &str = "
CREATE TABLE z_orders (id INTEGER PRIMARY KEY, label TEXT);
CREATE TABLE b_lines (ord INTEGER NOT NULL REFERENCES z_orders(id), n INTEGER NOT NULL, what TEXT, PRIMARY KEY (ord, n));
CREATE TABLE a_parts (id TEXT PRIMARY KEY NOT NULL, ord INTEGER, n INTEGER, what TEXT,
  FOREIGN KEY (ord, n) REFERENCES b_lines(ord, n));
CREATE TABLE c_notes (id INTEGER PRIMARY KEY REFERENCES z_orders(id), note TEXT);
CREATE TABLE d_tree (id INTEGER PRIMARY KEY, up INTEGER REFERENCES d_tree(id), label TEXT);
";

fn fill(d: &Device, who: &str) {
    d.sql(&format!(
        "INSERT INTO z_orders VALUES (1, '{who}1'), (2, '{who}2');
         INSERT INTO b_lines VALUES (1, 1, '{who}1'), (1, 2, '{who}1'), (2, 1, '{who}2');
         INSERT INTO a_parts VALUES ('{who}x', 1, 1, '{who}1'), ('{who}y', 2, 1, '{who}2');
         INSERT INTO c_notes VALUES (2, '{who}2');
         INSERT INTO d_tree VALUES (1, NULL, '{who}1'), (2, 1, '{who}2'), (3, 3, '{who}3');"
    ));
}

/// Every reference of each device's rows leads to a row of the same device.
fn check(d: &Device) {
    assert_eq!(d.count("SELECT count(*) FROM z_orders"), 4);
    assert_eq!(d.count("SELECT count(*) FROM b_lines l JOIN z_orders o ON o.id = l.ord AND o.label = l.what"), 6);
    assert_eq!(d.count("SELECT count(*) FROM a_parts p JOIN b_lines l USING (ord, n) WHERE l.what = p.what"), 4);
    assert_eq!(d.count("SELECT count(*) FROM c_notes n JOIN z_orders o USING (id) WHERE o.label = n.note"), 2);
    assert_eq!(
        d.count("SELECT count(*) FROM d_tree t JOIN d_tree u ON u.id = t.up WHERE substr(t.label, 1, 1) = substr(u.label, 1, 1)"),
        4
    );
    assert_eq!(d.count("SELECT count(*) FROM d_tree WHERE id = up"), 2, "a row that refers to itself still does");
    assert_eq!(d.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
}

#[test]
fn references_follow_however_far_down() {
    for joined in [false, true] {
        let w = World::with(ORDERS, Limits::default());
        let (a, b) = (w.device("a"), w.device("b"));
        if joined {
            converge(&[&a, &b]);
        }
        fill(&a, "a");
        fill(&b, "b");
        a.sync();
        b.sync();
        converge(&[&a, &b]);
        check(&a);
        check(&b);
        assert!(b.client().discarded().unwrap().is_empty() && b.client().rejected().unwrap().is_empty());
        let told: Vec<(String, String, String)> = b
            .events
            .lock()
            .unwrap()
            .iter()
            .filter_map(|e| match e {
                Event::Rekeyed { table, old_key, new_key } => Some((table.clone(), old_key.clone(), new_key.clone())),
                _ => None,
            })
            .collect();
        for (table, old, new) in [
            ("z_orders", r#"{"id":"1"}"#, r#"{"id":"3"}"#),
            ("b_lines", r#"{"n":"2","ord":"1"}"#, r#"{"n":"2","ord":"3"}"#),
            ("c_notes", r#"{"id":"2"}"#, r#"{"id":"4"}"#),
        ] {
            assert!(told.iter().any(|t| *t == (table.into(), old.into(), new.into())), "{table} {old} {new}: {told:?}");
        }
        // Two orders, three lines, one note, three nodes: each moved once.
        assert_eq!(told.len(), 9, "{told:?}");
        assert_eq!(b.client().conflicts().unwrap().iter().filter(|c| c.reason == "rekeyed").count(), 9);
    }
}

/// Both devices wrote the note of the same order: that is one row and a conflict, not a number minted twice.
#[test]
fn a_number_that_is_a_reference_is_not_minted() {
    let w = World::with(ORDERS, Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO z_orders VALUES (1, 'shared')");
    converge(&[&a, &b]);
    a.sql("INSERT INTO c_notes VALUES (1, 'from a')");
    b.sql("INSERT INTO c_notes VALUES (1, 'from b')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id || note) FROM c_notes"), "1from a");
    assert!(b.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("from b"));
}

/// A child that came from the server means the server's row, also where this device edited it since.
#[test]
fn an_edited_child_of_the_server_stays_with_the_servers_row() {
    let w = World::with(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, label TEXT);
         CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, p INTEGER REFERENCES p(id), text TEXT);",
        Limits::default(),
    );
    let a = w.device("a");
    let b = w.device_with("b", Policy::MergeColumns(Default::default()), |_| {});
    a.sql("INSERT INTO p VALUES (5, 'five'); INSERT INTO c VALUES ('shared', 5, 'x')");
    converge(&[&a, &b]);
    a.sql("INSERT INTO p VALUES (1, 'of a'); UPDATE c SET p = 1");
    b.sql("INSERT INTO p VALUES (1, 'of b'); INSERT INTO c VALUES ('own', 1, 'of b'); UPDATE c SET text = 'edited' WHERE id = 'shared'");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    let sql = "SELECT group_concat(c.id || ' ' || label || ' ' || text, ';') FROM (SELECT * FROM c ORDER BY id) c JOIN p ON p.id = c.p";
    assert_eq!(a.text(sql), "own of b of b;shared of a edited");
}

/// The highest number is taken: a free one is found below.
#[test]
fn the_highest_number_of_all_is_no_end() {
    let w = World::with("CREATE TABLE t (id INTEGER PRIMARY KEY, label TEXT);", Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    let rows = |who: &str| format!("INSERT INTO t VALUES (1, '{who}1'), (2, '{who}2'), (9223372036854775807, '{who}')");
    a.sql(&rows("a"));
    b.sql(&rows("b"));
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT group_concat(label) FROM (SELECT label FROM t ORDER BY label)"), "a,a1,a2,b,b1,b2");
}

/// A new number may be taken in a table that shares it: the next one is tried.
#[test]
fn a_number_that_a_stray_child_holds_is_passed_over() {
    let w = World::with(ORDERS, Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO z_orders VALUES (1, 'a')");
    // An app without foreign keys left a note of an order that is not there.
    b.sql("PRAGMA foreign_keys = OFF; INSERT INTO z_orders VALUES (1, 'b'); INSERT INTO c_notes VALUES (1, 'b'), (2, 'stray')");
    a.sync();
    b.sync();
    assert_eq!(b.text("SELECT group_concat(id || label) FROM z_orders"), "1a,3b");
    assert_eq!(b.text("SELECT group_concat(id || note) FROM c_notes"), "2stray,3b");
}

/// Thousands at once: each row moves once, over everything that came.
#[test]
fn each_row_moves_once() {
    let w = World::with("CREATE TABLE t (id INTEGER PRIMARY KEY, label TEXT);", Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    let rows = |who: &str, n: i64| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n}) INSERT INTO t SELECT i, '{who}' || i FROM n"
        )
    };
    a.sql(&rows("a", 3000));
    b.sql(&rows("b", 1000));
    a.sync();
    let report = b.sync();
    assert_eq!(report.pull.conflicts, 1000);
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM t"), 4000);
    assert_eq!(a.count("SELECT count(*) FROM t WHERE label = 'b' || (id - 3000)"), 1000);
}

const LISTS: &str = "
CREATE TABLE lists (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, list INTEGER REFERENCES lists(id) ON DELETE CASCADE, text TEXT);
";

/// Without AUTOINCREMENT, SQLite gives the number of a deleted row to the next one, on each device to another.
#[test]
fn a_number_that_came_free_is_minted_like_any_other() {
    for policy in [Policy::ServerWins, Policy::ClientWins] {
        let w = World::with(LISTS, Limits::default());
        let (a, b) = (w.device("a"), w.device_with("b", policy, |_| {}));
        a.sql("INSERT INTO lists VALUES (1, 'one'), (2, 'two')");
        converge(&[&a, &b]);
        a.sql("DELETE FROM lists WHERE id = 2");
        converge(&[&a, &b]);
        a.sql("INSERT INTO lists (name) VALUES ('holidays'); INSERT INTO items VALUES ('a', 2, 'sun cream')");
        b.sql("INSERT INTO lists (name) VALUES ('divorce'); INSERT INTO items VALUES ('b', 2, 'lawyer')");
        a.sync();
        converge(&[&b, &a]);
        for d in [&a, &b] {
            let of = |text: &str| {
                d.text(&format!("SELECT name FROM lists JOIN items ON list = lists.id WHERE text = '{text}'"))
            };
            assert_eq!((of("sun cream").as_str(), of("lawyer").as_str()), ("holidays", "divorce"));
        }
        assert!(b.client().discarded().unwrap().is_empty());
    }
}

/// A row that a device brought back over the delete of another is no new one: where it meets a row of its number
/// again, both mean the same.
#[test]
fn a_row_that_was_brought_back_keeps_its_number() {
    let w = World::with(LISTS, Limits::default());
    let (a, b) = (w.device_with("a", Policy::ClientWins, |_| {}), w.device_with("b", Policy::ClientWins, |_| {}));
    a.sql("INSERT INTO lists VALUES (1, 'one')");
    converge(&[&a, &b]);
    // Both edited it while a third deleted it.
    let c = w.device("c");
    c.sync();
    c.sql("DELETE FROM lists");
    a.sql("UPDATE lists SET name = 'of a'");
    b.sql("UPDATE lists SET name = 'of b'");
    c.sync();
    a.client().pull().unwrap();
    b.client().pull().unwrap();
    a.sync();
    b.sync();
    converge(&[&a, &b, &c]);
    assert_eq!(a.text("SELECT group_concat(id || name) FROM lists"), "1of b");
}

/// A row whose state has to be fetched again, since nobody here knows it, is one of the server's all the same.
#[test]
fn a_row_that_is_fetched_again_is_not_minted() {
    let w = World::with(LISTS, Limits::default());
    let (a, mut b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO lists VALUES (7, 'x')");
    converge(&[&a, &b]);
    // REPLACE leaves no base; the name clashes, so the row goes and is fetched again.
    b.sql("REPLACE INTO lists VALUES (7, 'z')");
    a.sql("INSERT INTO lists VALUES (8, 'z')");
    a.sync();
    let client = through(&w, &mut b, |http, r| {
        if r.path.contains("snapshot") { Err(TransportError::Offline("no network".into())) } else { http.send(r) }
    });
    client.sync().unwrap_err();
    drop(client);
    b.sql("INSERT OR REPLACE INTO lists VALUES (7, 'y')");
    b.open();
    converge(&[&b, &a]);
    assert_eq!(b.count("SELECT count(*) FROM lists"), 2, "{}", b.text("SELECT group_concat(id || name) FROM lists"));
}
