//! What a repair does with each kind of row, and what it leaves alone.

use std::collections::BTreeSet;

use sync_client::{Policy, Remedy, Repair, Tie};
use sync_server::limits::Limits;

use super::{PEOPLE, counts, named, two, verify};
use crate::world::{SCHEMA, World, converge, dump, unseen};

#[test]
fn what_differs_again_is_reported_and_not_repaired_again() {
    let w = World::new();
    let (a, b) = two(&w);
    let rewrite = "UPDATE people SET name = 'again' WHERE id = 'c'";
    unseen(&a.path, rewrite);
    assert_eq!(counts(&verify(&a, Repair::FromServer)), (1, 1, 0));
    unseen(&a.path, rewrite);
    for repair in [Repair::No, Repair::FromServer, Repair::FromServer] {
        let r = verify(&a, repair);
        assert_eq!((counts(&r), r.differences[0].remedy), ((1, 0, 0), Remedy::Again));
    }
    assert_eq!(a.client().discarded().unwrap().len(), 1);
    // The other way is another decision.
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (1, 1, 0));
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'c'"), "again");
    // Found equal, it is forgotten.
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    unseen(&a.path, "UPDATE people SET name = 'once more' WHERE id = 'c'");
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (1, 1, 0));
}

/// S1: a partial index through which `REPLACE` evicts a row that capture does not see.
#[test]
fn a_row_evicted_through_a_partial_index() {
    let w = World::with(
        "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, slot INTEGER, live INTEGER);
         CREATE UNIQUE INDEX one_live ON t(slot) WHERE live;",
        Limits::default(),
    );
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO t VALUES ('old', 1, 1)");
    converge(&[&a, &b]);
    a.sql("INSERT OR REPLACE INTO t VALUES ('new', 1, 1)");
    a.sync();
    assert_eq!(a.client().rejected().unwrap().len(), 1, "the server still has the other one");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), named(&r)), ((1, 0, 1), vec![r#"missing t {"id":"old"}"#.to_owned()]));
    assert_eq!(r.differences[0].remedy, Remedy::Refused);
    assert_eq!(a.text("SELECT group_concat(id) FROM t"), "new", "nothing is touched where it does not fit");
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (1, 1, 1));
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id) FROM t"), "new");
    assert_eq!(a.client().rejected().unwrap().len(), 0);
}

#[test]
fn unique_values_and_references_come_back_in_any_order() {
    let w = World::new();
    let (a, b) = two(&w);
    // A ring of UNIQUE values, a value taken by a row that nobody else has, children without parents.
    unseen(
        &a.path,
        "UPDATE people SET email = 'tmp' WHERE id = 'a'; UPDATE people SET email = 'ann@x' WHERE id = 'c';
         UPDATE people SET email = 'cy@x' WHERE id = 'a'; DELETE FROM notes WHERE id = 'n1';",
    );
    let r = verify(&a, Repair::FromServer);
    assert_eq!(counts(&r), (5, 5, 0), "the note's tags went along");
    assert_eq!(dump(&a.path), dump(&b.path));
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    unseen(&a.path, "UPDATE people SET email = NULL WHERE id = 'a'");
    a.sql("INSERT INTO people (id, email) VALUES ('mine', 'ann@x')");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), r.differences[0].remedy), ((1, 1, 1), Remedy::FromServer));
    let rejected = a.client().rejected().unwrap();
    assert!(rejected[0].local_row.as_ref().unwrap().contains("mine"), "the server's rows win the table");
    converge(&[&a, &b]);
}

/// A row that this file should have got and did not: pushing what it has would undo somebody's edit.
#[test]
fn a_stale_row_goes_by_the_policy() {
    for policy in [Policy::ServerWins, Policy::MergeColumns(Tie::Server)] {
        a_stale_row_goes_by(policy);
    }
}

fn a_stale_row_goes_by(policy: Policy) {
    let w = World::new();
    let (a, b) = (w.device_with("a", policy, |_| {}), w.device("b"));
    a.sql(PEOPLE);
    converge(&[&a, &b]);
    b.sql("UPDATE people SET name = 'newer' WHERE id = 'a'");
    converge(&[&a, &b]);
    unseen(
        &a.path,
        "UPDATE people SET name = 'Ann' WHERE id = 'a';
         UPDATE _sync_row SET v = 1 WHERE k = (SELECT k FROM _sync_row WHERE v = 2);
         DELETE FROM counters WHERE id = 5;
         DELETE FROM _sync_row WHERE t = (SELECT id FROM _sync_table WHERE name = 'counters');",
    );
    let r = verify(&a, Repair::FromFile);
    assert_eq!(counts(&r), (2, 2, 0));
    let remedies: Vec<Remedy> = r.differences.iter().map(|d| d.remedy).collect();
    assert_eq!(remedies, [Remedy::FromServer, Remedy::FromFile], "a row that was never here is no deletion");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "newer");
    assert_eq!(b.count("SELECT count(*) FROM counters"), 2);
    assert!(a.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("Ann"));
}

#[test]
fn text_that_is_not_utf8_is_named_and_left_alone() {
    let w = World::new();
    let (a, b) = two(&w);
    unseen(&a.path, "UPDATE notes SET body = CAST(x'ff' AS TEXT) WHERE id = 'n1'");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), named(&r)), ((1, 0, 0), vec![r#"different notes {"id":"n1"} body"#.to_owned()]));
    assert_eq!(r.differences[0].remedy, Remedy::Refused);
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (1, 1, 0));
    a.sync();
    assert_eq!(a.client().rejected().unwrap()[0].reason, "not_utf8");
    a.sql("UPDATE notes SET body = 'text' WHERE id = 'n1'");
    converge(&[&a, &b]);
}

#[test]
fn rows_that_this_schema_refuses_are_left_out() {
    let strict = SCHEMA.replace("label TEXT NOT NULL", "label TEXT NOT NULL CHECK (length(label) < 5)");
    let mut w = World::new();
    let b = w.device("b");
    w.schema = strict;
    let a = w.device("a");
    b.sql("INSERT INTO counters VALUES (1, 'ok'), (2, 'far too long'), (3, 'ok')");
    b.sync();
    assert_eq!(a.sync().pull.set_aside, 1);
    let entries = a.client().conflicts().unwrap().len();
    assert_eq!(counts(&verify(&a, Repair::FromServer)), (0, 0, 1));
    assert_eq!(a.client().conflicts().unwrap().len(), entries);
    // Once it fits it is a row like any other.
    b.sql("UPDATE counters SET label = 'fits' WHERE id = 2");
    b.sync();
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    unseen(&a.path, "DELETE FROM counters WHERE id = 2");
    assert_eq!(counts(&verify(&a, Repair::FromServer)), (1, 1, 0));
    assert_eq!(a.text("SELECT label FROM counters WHERE id = 2"), "fits");
}

/// What refers to a row that only this file has goes to the inbox with it, and says so.
#[test]
fn a_change_under_a_row_that_the_server_lacks_is_kept() {
    let w = World::new();
    let (a, b) = two(&w);
    unseen(&a.path, "INSERT INTO people (id, name) VALUES ('ghost', 'nobody')");
    a.sql("INSERT INTO notes VALUES ('mine', 'ghost', 'written')");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), r.differences[0].remedy), ((1, 1, 1), Remedy::FromServer));
    let rejected = a.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "parent_deleted"));
    assert!(rejected[0].local_row.as_ref().unwrap().contains("written"));
    assert!(a.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("nobody"));
    converge(&[&a, &b]);
}

/// Whatever is done to a file unseen, the comparison names exactly that, and both repairs end in step.
#[test]
fn any_unseen_damage_is_found_exactly() {
    let w = World::new();
    let (a, b) = two(&w);
    let mut state = 7u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for round in 0..6 {
        a.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO people (id, name, score) SELECT '{round}-' || i, 'x', i * 0.1 FROM n;
             INSERT INTO counters (label) SELECT 'c' FROM people WHERE id LIKE '{round}-%';"
        ));
        converge(&[&a, &b]);
        let seen = dump(&b.path);
        for _ in 0..random(30) {
            let (r, key) = (random(round + 1), random(220));
            unseen(
                &a.path,
                &match random(5) {
                    0 => format!("DELETE FROM people WHERE id = '{r}-{key}'"),
                    1 => format!("UPDATE people SET score = score + 0.1 WHERE id = '{r}-{key}'"),
                    2 => format!("INSERT OR IGNORE INTO people (id) VALUES ('{r}-{key}')"),
                    3 => format!("UPDATE counters SET label = 'd' WHERE id % 211 = {key}"),
                    _ => format!("DELETE FROM counters WHERE id % 211 = {key}"),
                },
            );
        }
        let now = dump(&a.path);
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (seen.iter().collect(), now.iter().collect());
        let key_of = |line: &str| line.split(',').next().unwrap().to_owned();
        let differing: BTreeSet<String> = old.symmetric_difference(&new).map(|l| key_of(l)).collect();
        let repair = if round % 2 == 0 { Repair::FromServer } else { Repair::FromFile };
        let r = verify(&a, repair);
        assert_eq!(r.differing_rows, differing.len() as u64, "round {round}: {:?}", named(&r));
        assert_eq!(r.unrepaired_rows(), 0, "round {round}: {:?}", r.differences);
        assert_eq!(dump(&a.path), if repair == Repair::FromFile { now } else { seen });
        converge(&[&a, &b]);
        assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    }
}
