use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::store::Selection;

/// A synced file of this schema, and the count of the steps that SQLite's machine takes in it.
fn file(dir: &tempfile::TempDir, schema: &str) -> (Store, Arc<AtomicU64>) {
    let path = dir.path().join("app.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(schema).unwrap();
    let mut store = Store::open(&path).unwrap();
    store.install("http://localhost", &Selection::All, "source", 0).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let step = move || counted.fetch_add(1, Ordering::Relaxed) == u64::MAX;
    store.conn.progress_handler(1, Some(step)).unwrap();
    (store, count)
}

/// Applies rows of the first table as one bundle.
fn apply(store: &Store, version: i64, rows: impl IntoIterator<Item = Record>) -> Outcome {
    let tx = store.begin().unwrap();
    let policies = Policies::default();
    let mut applier = Applier::new(store, &policies, 1).unwrap();
    applier.begin_bundle("other", false).unwrap();
    for row in rows {
        let k = Key::pack(&[row[0].clone().unwrap()]).unwrap().as_bytes().to_vec();
        let row = Some(record::encode_partial(&row));
        applier.row(StagedRow { position: 0, k, op: Op::Update, version, row }).unwrap();
    }
    applier.end_bundle().unwrap();
    let outcome = applier.finish_here().unwrap();
    tx.commit().unwrap();
    outcome
}

/// Each row takes the UNIQUE value of the next one: in this order a pass over those that wait frees one of them.
#[test]
fn unique_values_that_shift_cost_by_the_row() {
    let shift = |n: i64| {
        let dir = tempfile::tempdir().unwrap();
        let (store, count) = file(&dir, "CREATE TABLE items (id INTEGER PRIMARY KEY, pos INTEGER UNIQUE)");
        let row = |id: i64, pos: i64| vec![Some(Value::from(id)), Some(Value::from(pos))];
        apply(&store, 1, (0..n).map(|i| row(i, i)));
        let before = count.load(Ordering::Relaxed);
        let outcome = apply(&store, 2, (0..n).map(|i| row(i, i + 1)));
        assert_eq!((outcome.applied, outcome.conflicts, outcome.set_aside), (n as u64, 0, 0));
        let shifted = "SELECT count(*) FROM items WHERE pos = id + 1";
        assert_eq!(store.conn.query_row(shifted, [], |r| r.get::<_, i64>(0)).unwrap(), n);
        count.load(Ordering::Relaxed) - before
    };
    let (few, many) = (shift(50), shift(400));
    assert!(many <= 10 * few, "{many} steps for 400 rows, {few} for 50");
}

/// A ring is taken out and put in again; what the server does not mention of its rows stays.
#[test]
fn a_ring_keeps_what_the_server_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = file(&dir, "CREATE TABLE items (id INTEGER PRIMARY KEY, pos INTEGER UNIQUE, mine TEXT)");
    let row = |id: i64, pos: i64| vec![Some(Value::from(id)), Some(Value::from(pos)), None];
    apply(&store, 1, [row(1, 1), row(2, 2)]);
    store.conn.execute_batch("UPDATE items SET mine = 'of ' || id").unwrap();
    apply(&store, 2, [row(1, 2), row(2, 1)]);
    let all = "SELECT group_concat(id || pos || mine) FROM (SELECT * FROM items ORDER BY id)";
    assert_eq!(store.conn.query_row(all, [], |r| r.get::<_, String>(0)).unwrap(), "12of 1,21of 2");
}

/// What is set aside is looked up for each row that comes, by its key.
#[test]
fn a_row_costs_no_more_beside_many_that_are_set_aside() {
    let one = |aside: i64| {
        let dir = tempfile::tempdir().unwrap();
        let schema = "CREATE TABLE items (id INTEGER PRIMARY KEY, kind INTEGER CHECK (kind = 1), \
                      parent INTEGER REFERENCES items(id)); CREATE INDEX items_parent ON items(parent)";
        let (store, count) = file(&dir, schema);
        let row = |id: i64, kind: i64, parent| vec![Some(Value::from(id)), Some(Value::from(kind)), Some(parent)];
        assert_eq!(apply(&store, 1, (1..=aside).map(|i| row(i, 2, Value::Null))).set_aside, aside as u64);
        let before = count.load(Ordering::Relaxed);
        // One comes alone, one fits now, one refers to a row that is not here.
        let rows = [row(-1, 1, Value::Null), row(1, 1, Value::Null), row(-2, 1, Value::from(2))];
        assert_eq!(apply(&store, 2, rows).set_aside, 1);
        count.load(Ordering::Relaxed) - before
    };
    let (few, many) = (one(10), one(1000));
    assert!(many <= few + few / 4, "{many} steps beside 1000 rows, {few} beside 10");
}

/// A row whose many children have to be fetched again with it: they are told apart by their keys.
#[test]
fn many_children_are_withdrawn_at_once() {
    const MANY: i64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let schema = "CREATE TABLE nodes (id INTEGER PRIMARY KEY, up INTEGER REFERENCES nodes(id), text TEXT); \
                  CREATE INDEX nodes_up ON nodes(up)";
    let (store, _) = file(&dir, schema);
    let tree = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= {MANY}) \
         INSERT INTO nodes SELECT i, CASE WHEN i > 1 THEN 1 END, 'text' FROM n"
    );
    let tx = store.begin().unwrap();
    store.conn.execute_batch(&tree).unwrap();
    let policies = Policies::default();
    let mut applier = Applier::new(&store, &policies, 1).unwrap();
    store.conn.execute("DELETE FROM nodes WHERE id = 1", []).unwrap();
    applier.withdraw_children(0, vec![Value::from(1), Value::Null, Value::Null]);
    assert!(applier.finish_here().unwrap().away);
    assert_eq!(store.conn.query_row("SELECT count(*) FROM nodes", [], |r| r.get::<_, i64>(0)).unwrap(), 0);
    tx.commit().unwrap();
}
