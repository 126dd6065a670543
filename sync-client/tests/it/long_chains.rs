//! Rows that hang together in a long line, on a thread whose stack is small: what one row does to the next must not
//! take a call each.

use crate::world::{Device, World, converge};

const LINE: usize = 2000;

const NODES: &str = "CREATE TABLE roots (id TEXT PRIMARY KEY NOT NULL);
    CREATE TABLE nodes (id TEXT PRIMARY KEY NOT NULL, root TEXT REFERENCES roots(id), after TEXT REFERENCES nodes(id));
    CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, node TEXT REFERENCES nodes(id), body TEXT);
    CREATE INDEX nodes_after ON nodes(after); CREATE INDEX nodes_root ON nodes(root); CREATE INDEX notes_node ON notes(node);";

/// A line of nodes, the first of which is of a root.
fn line(d: &Device) {
    d.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {LINE})
         INSERT INTO nodes SELECT printf('n%04d', i), CASE i WHEN 1 THEN 'r' END,
           CASE WHEN i > 1 THEN printf('n%04d', i - 1) END FROM n"
    ));
}

/// Pulls on a thread with a small stack.
fn pull(d: &Device) {
    let client = d.client();
    std::thread::scope(|s| {
        let small = std::thread::Builder::new().stack_size(256 * 1024);
        small.spawn_scoped(s, || client.pull().unwrap()).unwrap().join().unwrap();
    });
}

#[test]
fn a_line_of_new_rows_leaves_its_table() {
    let w = World::with(NODES, Default::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO roots VALUES ('r')");
    converge(&[&a, &b]);
    a.sql("DELETE FROM roots");
    line(&b);
    a.sync();
    pull(&b);
    assert_eq!(b.count("SELECT count(*) FROM nodes"), 0);
    assert_eq!(b.client().rejected().unwrap().len(), LINE);
    converge(&[&a, &b]);
}

#[test]
fn a_line_of_unique_values_is_put_back() {
    let w = World::with("CREATE TABLE items (id INTEGER PRIMARY KEY, pos INTEGER UNIQUE)", Default::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {LINE}) INSERT INTO items SELECT i, i FROM n"
    ));
    converge(&[&a, &b]);
    a.sql(&format!("INSERT INTO items VALUES ({LINE} + 1, {LINE} + 1)"));
    b.sql("BEGIN; UPDATE items SET pos = -pos; UPDATE items SET pos = 1 - pos; COMMIT");
    a.sync();
    pull(&b);
    assert_eq!(b.client().rejected().unwrap().len(), LINE);
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM items WHERE id = pos") as usize, LINE + 1);
}

#[test]
fn a_line_of_deletes_is_undone() {
    let w = World::with(NODES, Default::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO roots VALUES ('r')");
    line(&a);
    converge(&[&a, &b]);
    a.sql(&format!("INSERT INTO notes VALUES ('new', 'n{LINE:04}', 'of the last')"));
    b.sql("PRAGMA foreign_keys = OFF; DELETE FROM nodes");
    a.sync();
    pull(&b);
    assert_eq!(b.count("SELECT count(*) FROM nodes") as usize, LINE);
    converge(&[&a, &b]);
}

#[test]
fn a_line_of_parents_comes_back() {
    let w = World::with(NODES, Default::default());
    let (a, b) = (w.device("a"), w.device_built("b", |b| b.keep_edits_of("notes")));
    a.sql("INSERT INTO roots VALUES ('r')");
    line(&a);
    converge(&[&a, &b]);
    a.sql("PRAGMA foreign_keys = OFF; DELETE FROM nodes");
    b.sql(&format!("INSERT INTO notes VALUES ('new', 'n{LINE:04}', 'of the last')"));
    a.sync();
    pull(&b);
    assert_eq!(b.count("SELECT count(*) FROM nodes") as usize, LINE);
    assert_eq!(b.client().conflicts().unwrap()[1].key, r#"{"id":"n0001"}"#, "oldest first");
    converge(&[&b, &a]);
}
