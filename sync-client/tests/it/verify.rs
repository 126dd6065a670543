//! Files in which something changed that no trigger saw, against their server and against one another.

mod digests;
mod meanwhile;
mod offline;
mod repairs;

use sync_client::{Kind, Policy, Remedy, Repair, VerifyReport};

use crate::world::{Device, World, converge, dump, unseen};

/// `kind table key columns` of each difference.
fn named(r: &VerifyReport) -> Vec<String> {
    let one = |d: &sync_client::Difference| {
        let kind = match d.kind {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Different => "different",
        };
        format!("{kind} {} {} {}", d.table, d.key, d.columns.join(",")).trim_end().to_owned()
    };
    r.differences.iter().map(one).collect()
}

fn verify(d: &Device, repair: Repair) -> VerifyReport {
    d.client().verify(repair).unwrap_or_else(|e| panic!("verify: {e}"))
}

/// Counts of differing, repaired and left-out rows.
fn counts(r: &VerifyReport) -> (u64, u64, u64) {
    (r.differing_rows, r.repaired_rows, r.left_out_rows)
}

const PEOPLE: &str = "INSERT INTO people (id, name, email, age, score, photo) VALUES
    ('a', 'Ann', 'ann@x', 30, 1.5, x'00ff'), ('b', 'Bob', NULL, 9007199254740993, NULL, NULL), ('c', 'Cy', 'cy@x', 1, 0.1, NULL);
    INSERT INTO notes VALUES ('n1', 'a', 'one'), ('n2', 'b', 'two'); INSERT INTO tags VALUES ('n1', 'x'), ('n1', 'y');
    INSERT INTO counters VALUES (5, 'five'), (70000, 'many');";

const DAMAGE: &str = "UPDATE people SET name = 'Eve', age = 31 WHERE id = 'a'; DELETE FROM tags WHERE tag = 'x';
    INSERT INTO counters VALUES (6, 'unseen');";

const DAMAGED: [&str; 3] = [
    r#"extra counters {"id":"6"}"#,
    r#"different people {"id":"a"} name,age"#,
    r#"missing tags {"note":"n1","tag":"x"}"#,
];

fn two(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(PEOPLE);
    converge(&[&a, &b]);
    (a, b)
}

#[test]
fn files_in_step_have_no_difference() {
    let w = World::new();
    let (a, b) = two(&w);
    b.sql("UPDATE people SET name = 'Bobby' WHERE id = 'b'");
    b.sync();
    let r = verify(&a, Repair::No);
    assert_eq!((counts(&r), r.compared_rows, r.bundle_seq), ((0, 0, 0), 9, 2), "it pulls first");
    assert_eq!(dump(&a.path), dump(&b.path));
    assert_eq!(verify(&b, Repair::FromServer).compared_rows, 9);
    let empty = World::new();
    let d = empty.device("d");
    assert_eq!(verify(&d, Repair::No), VerifyReport::default());
}

#[test]
fn a_device_that_seeds_syncs_first() {
    let w = World::new();
    let a = w.device_with("a", Policy::ServerWins, |app| app.execute_batch(PEOPLE).unwrap());
    let e = a.client().verify(Repair::No).unwrap_err();
    assert!(e.to_string().contains("sync first"), "{e}");
    a.sync();
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
}

#[test]
fn unseen_writes_are_named_and_taken_back_from_the_server() {
    let w = World::new();
    let (a, b) = two(&w);
    a.sql("DROP TABLE _sync_repaired"); // A file of an older version.
    unseen(&a.path, DAMAGE);
    let before = dump(&a.path);
    let r = verify(&a, Repair::No);
    assert_eq!((counts(&r), named(&r)), ((3, 0, 0), DAMAGED.map(str::to_owned).to_vec()));
    assert!(r.differences.iter().all(|d| d.remedy == Remedy::None));
    assert_eq!((dump(&a.path), a.client().discarded().unwrap().len()), (before, 0));
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), r.unrepaired_rows()), ((3, 3, 0), 0));
    assert!(r.differences.iter().all(|d| d.remedy == Remedy::FromServer));
    assert_eq!(dump(&a.path), dump(&b.path));
    let kept = a.client().discarded().unwrap();
    let of = |table: &str| kept.iter().find(|e| e.table == table).unwrap();
    assert_eq!(kept.len(), 3);
    assert!(of("people").local_row.as_ref().unwrap().contains("Eve"));
    assert!(of("people").server_row.as_ref().unwrap().contains("Ann"));
    assert!(of("counters").local_row.as_ref().unwrap().contains("unseen"));
    assert_eq!((of("tags").op.as_str(), &of("tags").local_row), ("DELETE", &None));
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "Ann");
    // And what was overwritten can be put back.
    assert!(a.client().retry_entry(of("people").id).unwrap());
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "Eve");
}

#[test]
fn unseen_writes_become_changes_of_the_file() {
    let w = World::new();
    let (a, b) = two(&w);
    unseen(&a.path, DAMAGE);
    let r = verify(&a, Repair::FromFile);
    assert_eq!(counts(&r), (3, 3, 0));
    assert!(r.differences.iter().all(|d| d.remedy == Remedy::FromFile));
    assert_eq!(a.client().pending().unwrap().len(), 3);
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (0, 0, 3), "they wait to be pushed");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name || age FROM people WHERE id = 'a'"), "Eve31");
    assert_eq!(b.count("SELECT count(*) FROM tags WHERE tag = 'x'"), 0);
    assert_eq!(b.text("SELECT label FROM counters WHERE id = 6"), "unseen");
    assert_eq!(a.client().discarded().unwrap().len() + a.client().rejected().unwrap().len(), 0);
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
}

/// Case S2's neighbour: the triggers are away while something is written, and back before anybody looks.
#[test]
fn writes_between_two_lives_of_the_triggers_are_found() {
    let w = World::new();
    let (mut a, b) = two(&w);
    a.close();
    let triggers: Vec<(String, String)> = a
        .app
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_sync\\_%' ESCAPE '\\'")
        .unwrap()
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    triggers.iter().for_each(|(name, _)| a.sql(&format!("DROP TRIGGER {name}")));
    a.sql(DAMAGE);
    triggers.iter().for_each(|(_, sql)| a.sql(sql));
    a.open();
    assert_eq!(a.sync().push.committed_rows, 0, "sync sees nothing");
    assert_eq!(named(&verify(&a, Repair::FromFile)), DAMAGED);
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "Eve");
}
