//! Two files side by side, without a server.

use std::path::Path;

use rusqlite::Connection;
use sync_client::{Kind, compare_files};

use super::two;
use crate::world::{World, unseen};

#[test]
fn two_files_offline() {
    let mut w = World::new();
    let (a, b) = two(&w);
    w.stop();
    let compare = || compare_files(&a.path, &b.path).unwrap();
    assert!(compare().is_same() && compare().compared_rows == 9);
    a.sql("UPDATE people SET name = 'pending' WHERE id = 'a'");
    b.sql("DELETE FROM counters WHERE id = 5");
    let r = compare();
    assert_eq!((r.differing_rows, r.left_out_rows), (0, 2));
    unseen(
        &b.path,
        "DELETE FROM tags WHERE tag = 'x'; UPDATE notes SET body = 'b' WHERE id = 'n2'; INSERT INTO counters VALUES (9, '')",
    );
    let r = compare();
    let named: Vec<_> = r.differences.iter().map(|d| (d.kind, d.table.as_str())).collect();
    assert_eq!(named, [(Kind::Missing, "counters"), (Kind::Different, "notes"), (Kind::Extra, "tags")]);
    assert_eq!((r.differences[1].columns.as_slice(), r.left_out_rows), (["body".to_owned()].as_slice(), 2));
    // A file that is not synced, with other tables and another order of columns.
    let plain = w.dir.path().join("plain.db");
    let conn = Connection::open(&plain).unwrap();
    conn.execute_batch(
        "CREATE TABLE notes (body TEXT, more TEXT, id TEXT PRIMARY KEY NOT NULL); CREATE TABLE mine (id TEXT PRIMARY KEY NOT NULL);
         CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL);
         INSERT INTO notes VALUES ('one', 'x', 'n1'), ('two', 'y', 'n2')",
    )
    .unwrap();
    let r = compare_files(&a.path, &plain).unwrap();
    assert_eq!((r.differing_rows, r.compared_rows, r.is_same()), (0, 2, false));
    assert_eq!(
        (r.only_in_first, r.only_in_second),
        (vec!["counters".into(), "marks".into(), "people".into()], vec!["mine".to_owned()])
    );
    assert_eq!(r.other_keys, ["tags"]);
    assert!(compare_files(&a.path, Path::new("/nowhere/x.db")).is_err());
}

/// The app may have rebuilt a table since its changes were logged.
#[test]
fn a_pending_change_is_known_by_the_columns_of_its_day() {
    let w = World::new();
    let (mut a, b) = two(&w);
    a.close();
    a.sql(
        "UPDATE notes SET body = 'pending' WHERE id = 'n1'; PRAGMA foreign_keys = OFF;
         CREATE TABLE n (person TEXT REFERENCES people(id) ON DELETE CASCADE, body TEXT, id TEXT PRIMARY KEY NOT NULL);
         INSERT INTO n SELECT person, body, id FROM notes; DROP TABLE notes; ALTER TABLE n RENAME TO notes;",
    );
    let r = compare_files(&a.path, &b.path).unwrap();
    assert_eq!((r.differing_rows, r.left_out_rows), (0, 1));
}

/// A file that is behind has not lost anything.
#[test]
fn two_files_at_different_bundles() {
    let w = World::new();
    let (a, b) = two(&w);
    b.sql("UPDATE people SET name = 'newer' WHERE id = 'b'; DELETE FROM tags WHERE tag = 'y'; INSERT INTO counters VALUES (100, 'new')");
    b.sync();
    let r = compare_files(&a.path, &b.path).unwrap();
    assert_eq!((r.differing_rows, r.left_out_rows), (0, 3));
}
