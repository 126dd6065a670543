//! Rows that only this file's schema refuses: how they are told of once each, come back by themselves, and are done with.

use sync_client::Policy;
use sync_server::limits::Limits;

use crate::world::{Device, World, converge};

const LINE: &str = "CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, v);
    CREATE TABLE k (id TEXT PRIMARY KEY NOT NULL, c TEXT REFERENCES c(id), v);
    CREATE TABLE kk (id TEXT PRIMARY KEY NOT NULL, k TEXT REFERENCES k(id), v);";

/// Two devices with a row, its child and its grandchild; at `b` an index of its own refuses what `a` makes of the row.
fn a_line_that_is_refused(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    b.sql(
        "CREATE UNIQUE INDEX only_here ON c(v); INSERT INTO c VALUES ('c1', 1), ('c2', 2);
         INSERT INTO k VALUES ('k1', 'c1', 'k'); INSERT INTO kk VALUES ('kk1', 'k1', 'kk')",
    );
    converge(&[&b, &a]);
    a.sql("UPDATE c SET v = 2 WHERE id = 'c1'");
    a.sync();
    (a, b)
}

/// The rows that are set aside, and how many entries tell of them.
fn aside(d: &Device) -> (u64, i64) {
    let told = d.count("SELECT count(*) FROM _sync_inbox WHERE kind = 'conflict'");
    (d.client().status().unwrap().set_aside_rows, told)
}

fn whole(d: &Device) {
    assert_eq!(d.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{} is broken", d.path.display());
}

#[test]
fn a_grandchild_waits_as_quietly_as_a_child() {
    let w = World::with(LINE, Limits::default());
    let (a, b) = a_line_that_is_refused(&w);
    b.sync();
    assert_eq!(aside(&b), (3, 3));
    b.client().rebuild().unwrap();
    assert_eq!(aside(&b), (3, 3));
    for edit in ["UPDATE k SET v = 'edited'", "UPDATE kk SET v = 'edited'"] {
        a.sql(edit);
        a.sync();
        assert!(!b.sync().pull.rebuilt, "{edit}: nothing fits that did not");
        assert_eq!(aside(&b), (3, 3), "{edit}");
        whole(&b);
    }
    b.sql("DROP INDEX only_here");
    converge(&[&b, &a]);
    assert_eq!(b.text("SELECT c.v || k.v || kk.v FROM c, k, kk WHERE k.c = c.id AND kk.k = k.id"), "2editededited");
    assert_eq!(aside(&b).0, 0);
    assert!(!b.sync().pull.rebuilt);
}

#[test]
fn a_row_that_is_gone_is_set_aside_no_more() {
    // It was here already and is to become what is refused, or is new; the delete comes by itself, or by a snapshot; or
    // an older version left its mark.
    for refused in ["UPDATE c SET v = 2 WHERE id = 'c1'", "INSERT INTO c VALUES ('c9', 2)"] {
        for way in ["pull", "rebuild", "older", "older rebuild"] {
            let w = World::with(LINE, Limits::default());
            let (a, b) = (w.device("a"), w.device("b"));
            b.sql("CREATE UNIQUE INDEX only_here ON c(v); INSERT INTO c VALUES ('c1', 1), ('c2', 2)");
            converge(&[&b, &a]);
            let id = if refused.starts_with("UPDATE") { "c1" } else { "c9" };
            a.sql(refused);
            a.sql(&format!("INSERT INTO k VALUES ('k1', '{id}', 'k'); INSERT INTO kk VALUES ('kk1', 'k1', 'kk')"));
            a.sync();
            b.sync();
            assert_eq!(aside(&b), (3, 3), "{refused}");
            a.sql(&format!("DELETE FROM kk; DELETE FROM k; DELETE FROM c WHERE id = '{id}'"));
            a.sync();
            if way == "rebuild" {
                b.client().rebuild().unwrap();
            } else {
                assert!(!b.sync().pull.rebuilt);
            }
            if way.starts_with("older") {
                b.sql("UPDATE _sync_inbox SET reason = 'set_aside_unique'");
                if way == "older rebuild" {
                    b.sql("UPDATE _sync_inbox SET reason = 'set_aside_unique'; DELETE FROM _sync_row WHERE v < 0");
                    assert!(b.client().retry("c", id).unwrap());
                }
                b.sql("INSERT OR REPLACE INTO _sync_meta (name, value) VALUES ('set_aside', 2)");
                b.sync();
            }
            assert_eq!(b.client().status().unwrap().set_aside_rows, 0, "{refused} {way}");
            assert!(!b.sync().pull.rebuilt, "{refused} {way}");
            converge(&[&a, &b]);
            assert!(b.client().clear_all("conflict").unwrap() > 0);
        }
    }
}

/// A row of this file's own under the same key, and its way to the server.
#[test]
fn a_row_that_this_file_decides_is_set_aside_no_more() {
    let w = World::with(LINE, Limits::default());
    let a = w.device("a");
    let b = w.device_with("b", Policy::ClientWins, |app| {
        app.execute_batch("CREATE UNIQUE INDEX only_here ON c(v); INSERT INTO c VALUES ('c2', 2)").unwrap();
    });
    converge(&[&b, &a]);
    a.sql("INSERT INTO c VALUES ('c9', 2); INSERT INTO k VALUES ('k1', 'c9', 'k')");
    a.sync();
    b.sync();
    assert_eq!(aside(&b), (2, 2));
    b.sql("INSERT INTO c VALUES ('c9', 9)");
    converge(&[&b, &a]);
    assert_eq!((a.text("SELECT v || '' FROM c WHERE id = 'c9'"), aside(&b).0), ("9".into(), 0));
}

/// What this file has under the very version of the server needs nothing, whatever was said of it before.
#[test]
fn a_row_that_is_here_is_set_aside_no_more() {
    let w = World::with(LINE, Limits::default());
    let (a, b) = a_line_that_is_refused(&w);
    b.sync();
    b.sql("DROP INDEX only_here");
    converge(&[&b, &a]);
    b.sql(
        "UPDATE _sync_inbox SET reason = 'set_aside';
         INSERT OR REPLACE INTO _sync_meta (name, value) VALUES ('set_aside', 1)",
    );
    assert!(b.client().retry("c", "c1").unwrap());
    b.sync();
    assert_eq!(aside(&b).0, 0);
}

#[test]
fn a_child_that_was_pushed_meanwhile_returns_with_its_parent() {
    for (at_a, at_b) in [("UPDATE c SET v = 5 WHERE id = 'c1'", ""), ("", "DROP INDEX only_here")] {
        let w = World::with(LINE, Limits::default());
        let (a, b) = a_line_that_is_refused(&w);
        b.sql("UPDATE k SET v = 'edited on b'");
        b.sync();
        assert_eq!(aside(&b), (3, 3));
        whole(&b);
        a.sql(at_a);
        a.sync();
        b.sql(at_b);
        converge(&[&b, &a]);
        assert_eq!(
            (b.text("SELECT v FROM k"), a.text("SELECT v FROM k")),
            ("edited on b".into(), "edited on b".into())
        );
        assert_eq!(aside(&b).0, 0);
    }
}

/// The same in a file that such a push has passed through already.
#[test]
fn a_child_that_was_taken_for_here_returns() {
    let w = World::with(LINE, Limits::default());
    let (a, b) = a_line_that_is_refused(&w);
    b.sql("CREATE TEMP TABLE was AS SELECT * FROM _sync_row WHERE t = (SELECT id FROM _sync_table WHERE name = 'k')");
    b.sync();
    b.sql("INSERT INTO _sync_row SELECT * FROM was");
    a.sql("UPDATE c SET v = 5 WHERE id = 'c1'");
    converge(&[&a, &b]);
}
