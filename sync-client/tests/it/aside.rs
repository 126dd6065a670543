//! Rows that only this file's schema refuses: how they are told of once each, come back by themselves, and are done with.

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
