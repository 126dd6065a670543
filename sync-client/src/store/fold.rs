//! Folding a log into intents: one entry a key, with the row as it was before the first change.
//!
//! Entries are read by key, so that intents are written in their order and a large log costs no
//! scattered writes. An UPDATE left out the texts that it did not change
//! ([`sync_core::sqlite::capture`]): a later entry of the key has them, or else the row itself, since every
//! change in between would have left an entry.

use rusqlite::Connection;
use rusqlite::params_from_iter;
use sync_core::engine::departure::Trail;
use sync_core::key::Key;
use sync_core::record::{self, Record};
use sync_core::sqlite::capture::{REKEYED, log_columns, log_name, old_row, trace};
use sync_core::sqlite::rows::RowSql;
use sync_core::sqlite::{quote, value};

use crate::error::Error;

/// A log, and how to read it.
pub(super) struct Rows<'a> {
    /// The table's number.
    pub(super) id: i64,
    /// The columns of the log that hold the key, in key order.
    pub(super) key: &'a [&'a str],
    /// How many columns of the table the log has: the first ones.
    pub(super) columns: usize,
    /// Reads the rows as they are now. `None` where bases are not kept.
    pub(super) live: Option<&'a RowSql>,
}

/// What a log says of one key.
struct Told {
    k: Vec<u8>,
    base: Option<Record>,
    trail: Trail,
    /// The key under which it went on.
    heir: Option<Vec<u8>>,
}

/// Adds an intent for each key of a log; one that is there already keeps its base, and is tried again
/// if it was held. True where keys were passed over that have no stored form.
pub(super) fn fold(conn: &Connection, log: &Rows<'_>, now: i64) -> Result<bool, Error> {
    let name = quote(&log_name(log.id));
    let key = |of: &str| log.key.iter().map(|c| format!("{of}.{c}")).collect::<Vec<_>>().join(", ");
    // The key that a row got stands in the entry after it.
    let mut s = conn.prepare_cached(&format!(
        "SELECT _sync_key({}) AS k, l.op, CASE WHEN l.op = {REKEYED} THEN \
         (SELECT _sync_key({}) FROM main.{name} n WHERE n.rowid = l.rowid + 1) END, {} \
         FROM main.{name} l ORDER BY k, l.rowid",
        key("l"),
        key("n"),
        log_columns(log.columns).join(", "),
    ))?;
    let mut add = conn.prepare_cached(
        "INSERT INTO main._sync_dirty (t, k, since, base, departure, heir) VALUES (?, ?, ?, ?, ?, ?) \
         ON CONFLICT (t, k) DO UPDATE SET held = NULL, message = NULL, departure = excluded.departure, \
         heir = excluded.heir",
    )?;
    let mut add = |told: Told| -> Result<(), Error> {
        let base = told.base.map(|b| complete(conn, log, &told.k, b)).transpose()?.flatten();
        let base = base.map(|b| record::encode_partial(&b));
        add.execute((log.id, &told.k, now, base, told.trail.departure().stored(), told.heir))?;
        Ok(())
    };
    let mut rows = s.query([])?;
    let mut passed_over = false;
    let mut of_key: Option<Told> = None;
    while let Some(r) = rows.next()? {
        let Some(k) = r.get_ref_unwrap(0).as_blob_or_null().map_err(rusqlite::Error::from)? else {
            passed_over = true;
            continue;
        };
        let op: i64 = r.get(1)?;
        let heir: Option<Vec<u8>> = r.get(2)?;
        let entry = || if log.live.is_some() { old_row(op, r, 3, log.columns).ok().flatten() } else { None };
        match &mut of_key {
            Some(told) if told.k == k => {
                if told.base.as_ref().is_some_and(|b| b.iter().any(Option::is_none)) {
                    told.base = told.base.take().zip(entry()).map(|(b, e)| fill(b, e));
                }
                told.trail = told.trail.then(trace(op));
                if heir.is_some() {
                    told.heir = heir;
                }
            }
            _ => {
                let next = Told { k: k.to_vec(), base: entry(), trail: Trail::default().then(trace(op)), heir };
                if let Some(told) = of_key.replace(next) {
                    add(told)?;
                }
            }
        }
    }
    if let Some(told) = of_key {
        add(told)?;
    }
    Ok(passed_over)
}

/// What a base lacks, a later entry may say. A row that came to be anew (by REPLACE) says nothing of
/// the one before it: then there is no base.
fn fill(base: Record, later: Record) -> Record {
    base.into_iter().zip(later).map(|(b, l)| b.or(l)).collect()
}

/// What no entry says did not change: the row has it.
fn complete(conn: &Connection, log: &Rows<'_>, k: &[u8], mut base: Record) -> Result<Option<Record>, Error> {
    let Some(live) = log.live.filter(|_| base.iter().any(Option::is_none)) else { return Ok(Some(base)) };
    let key = Key::from_stored(k.to_vec()).unpack()?;
    let mut s = conn.prepare_cached(&live.select)?;
    let mut rows = s.query(params_from_iter(&key))?;
    let Some(r) = rows.next()? else { return Ok(None) };
    for (i, b) in base.iter_mut().enumerate().filter(|(_, b)| b.is_none()) {
        match value(r.get_ref_unwrap(i), i) {
            Ok(v) => *b = Some(v),
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(base))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use sync_core::value::Value;

    use super::*;
    use crate::store::{Selection, Store};

    /// A file with rows that are known, and no intents. The directory goes when it is dropped.
    fn file(ddl: &str) -> (tempfile::TempDir, Connection, Store) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
        app.execute_batch(ddl).unwrap();
        let mut store = Store::open(&path).unwrap();
        store.conn.pragma_update(None, "synchronous", "OFF").unwrap();
        store.install("http://localhost", &Selection::All, "source", 0).unwrap();
        store.conn.execute("DELETE FROM _sync_dirty", []).unwrap();
        (dir, app, store)
    }

    fn absorb(store: &Store) {
        let tx = store.begin().unwrap();
        store.absorb(1).unwrap();
        tx.commit().unwrap();
    }

    fn table(conn: &Connection) -> BTreeMap<Vec<u8>, Vec<Value>> {
        let mut s = conn.prepare("SELECT * FROM t").unwrap();
        let n = s.column_count();
        let mut rows = s.query([]).unwrap();
        let mut out = BTreeMap::new();
        while let Some(r) = rows.next().unwrap() {
            let row: Vec<Value> = (0..n).map(|i| value(r.get_ref_unwrap(i), i).unwrap()).collect();
            out.insert(Key::pack(&row[..1]).unwrap().as_bytes().to_vec(), row);
        }
        out
    }

    fn bases(store: &Store) -> BTreeMap<Vec<u8>, Option<Record>> {
        let mut s = store.conn.prepare("SELECT k, base FROM _sync_dirty").unwrap();
        s.query_map([], |r| Ok((r.get(0)?, r.get::<_, Option<Vec<u8>>>(1)?)))
            .unwrap()
            .map(|r| r.map(|(k, b)| (k, b.map(|b| record::decode(&b).unwrap()))).unwrap())
            .collect()
    }

    fn literal() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["NULL", "'a'", "'A'", "''", "x''", "x'61'", "1", "'1'", "1.0", "NULL", "'long text'"])
    }

    /// A statement, and the key of which it may replace a row unseen.
    fn statement() -> impl Strategy<Value = (String, Option<i64>)> {
        let id = 0..5i64;
        prop_oneof![
            8 => (prop::sample::select(vec!["a", "b", "n", "x", "r"]), literal(), id.clone())
                .prop_map(|(c, v, id)| (format!("UPDATE t SET {c} = {v} WHERE id = {id}"), None)),
            2 => (literal(), literal()).prop_map(|(a, b)| (format!("UPDATE t SET a = {a}, x = {b}"), None)),
            2 => (id.clone(), id.clone()).prop_map(|(a, b)| (format!("UPDATE t SET id = {b} WHERE id = {a}"), None)),
            1 => (id.clone(), id.clone())
                .prop_map(|(a, b)| (format!("UPDATE OR REPLACE t SET id = {b}, a = 'moved' WHERE id = {a}"), None)),
            2 => id.clone().prop_map(|id| (format!("DELETE FROM t WHERE id = {id}"), None)),
            2 => (id.clone(), literal()).prop_map(|(id, a)| (format!("INSERT INTO t (id, a) VALUES ({id}, {a})"), None)),
            1 => (id.clone(), literal())
                .prop_map(|(id, a)| (format!("INSERT OR REPLACE INTO t (id, a) VALUES ({id}, {a})"), Some(id))),
            1 => (id, literal()).prop_map(|(id, a)| (
                format!("INSERT INTO t (id, a) VALUES ({id}, {a}) ON CONFLICT (id) DO UPDATE SET b = {a}"),
                None
            )),
            2 => Just((String::new(), None)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

        /// Whatever the app does, and whenever its log is folded, the base of each changed key is the row
        /// before its first change, in value and storage class.
        #[test]
        fn bases_are_exact(
            integer in any::<bool>(),
            statements in proptest::collection::vec(statement(), 1..25),
        ) {
            let id = if integer { "INTEGER" } else { "TEXT" };
            let (_dir, app, store) = file(&format!(
                "CREATE TABLE t (id {id} PRIMARY KEY NOT NULL, a TEXT, b VARCHAR(9) COLLATE NOCASE, n INTEGER, x, r REAL);
                 INSERT INTO t VALUES (1, 'a', 'b', 1, x'00', 0.5), (2, NULL, NULL, NULL, NULL, NULL), (3, 'a', x'', 7, 1.0, 1)"
            ));
            let mut first: BTreeMap<Vec<u8>, Option<Record>> = BTreeMap::new();
            let mut replaced = BTreeSet::new();
            for (sql, may_replace) in &statements {
                if sql.is_empty() {
                    absorb(&store);
                    continue;
                }
                let before = table(&app);
                let done = app.execute_batch(sql).is_ok();
                let after = table(&app);
                for (k, row) in &before {
                    if after.get(k) != Some(row) {
                        first.entry(k.clone()).or_insert_with(|| Some(row.iter().cloned().map(Some).collect()));
                    }
                }
                for k in after.keys().filter(|k| !before.contains_key(*k)) {
                    first.entry(k.clone()).or_insert(None);
                }
                if let Some(id) = may_replace.filter(|_| done) {
                    let key = if integer { Value::Integer(id) } else { Value::Text(id.to_string()) };
                    replaced.insert(Key::pack(&[key]).unwrap().as_bytes().to_vec());
                }
            }
            absorb(&store);
            let (found, live) = (bases(&store), table(&app));
            for (k, base) in &first {
                let Some(got) = found.get(k) else { return Err(TestCaseError::fail(format!("{k:?} is not an intent"))) };
                prop_assert!(got == base || got.is_none() && replaced.contains(k), "{k:?}: {got:?}, was {base:?}");
            }
            for (k, got) in found.iter().filter(|(k, _)| !first.contains_key(*k)) {
                let row = live.get(k).map(|r| r.iter().cloned().map(Some).collect::<Record>());
                prop_assert!(got.is_none() || *got == row, "{k:?} did not change: {got:?}, is {row:?}");
            }
        }
    }

    #[test]
    fn a_log_of_the_first_format_is_folded() {
        let (dir, app, store) =
            file("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a TEXT); INSERT INTO t VALUES ('k', 'old')");
        drop(store);
        // What version 1 left in a file: other triggers, a log that counts its entries, whole rows in it.
        app.execute_batch(
            "DROP TRIGGER _sync_1_update;
             DROP TABLE _sync_log_1;
             CREATE TABLE _sync_log_1 (n INTEGER PRIMARY KEY, op, c0, c1);
             CREATE TRIGGER _sync_1_update AFTER UPDATE ON t BEGIN
               INSERT INTO _sync_log_1 (op, c0, c1) VALUES (2, OLD.id, OLD.a); END;
             ALTER TABLE _sync_inbox DROP COLUMN merged_row; ALTER TABLE _sync_table DROP COLUMN shape;
             ALTER TABLE _sync_table DROP COLUMN triggers; DROP INDEX _sync_dirty_followed;
             ALTER TABLE _sync_dirty DROP COLUMN departure; ALTER TABLE _sync_dirty DROP COLUMN heir;
             ALTER TABLE _sync_out DROP COLUMN departure; ALTER TABLE _sync_out DROP COLUMN heir; ALTER TABLE _sync_suspect DROP COLUMN message;
             UPDATE _sync_meta SET value = 1 WHERE name = 'format';
             UPDATE t SET a = 'new'",
        )
        .unwrap();
        let mut store = Store::open(&dir.path().join("app.db")).unwrap();
        store.refresh(0).unwrap();
        app.execute_batch("UPDATE t SET a = 'newer'").unwrap();
        absorb(&store);
        let old = vec![Some(Value::Text("k".into())), Some(Value::Text("old".into()))];
        assert_eq!(bases(&store).into_values().collect::<Vec<_>>(), [Some(old)]);
        assert_eq!(crate::store::Meta::Format.integer(&store.conn).unwrap(), crate::store::migrate::FORMAT);
    }

    #[test]
    fn an_update_logs_no_text_that_it_left_alone() {
        let (_dir, app, _store) = file(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, n INTEGER); INSERT INTO t VALUES (1, 'text', 0), (2, NULL, 0)",
        );
        app.execute_batch(
            "UPDATE t SET n = 1; UPDATE t SET a = 'other' WHERE id = 2; UPDATE t SET a = 'x' WHERE id = 1",
        )
        .unwrap();
        let mut s = app.prepare("SELECT c0 || ' ' || quote(c1) || ' ' || c2 FROM _sync_log_1 ORDER BY rowid").unwrap();
        let log: Vec<String> = s.query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(log, ["1 NULL 0", "2 NULL 0", "2 1 1", "1 'text' 1"]);
    }

    #[test]
    fn added_and_renamed_columns_keep_what_the_log_says() {
        let (_dir, app, mut store) = file(
            "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a TEXT); INSERT INTO t VALUES ('k', 'old'), ('l', 'old')",
        );
        app.execute_batch(
            "UPDATE t SET id = id; ALTER TABLE t ADD COLUMN b TEXT DEFAULT 'b'; UPDATE t SET a = 'new' WHERE id = 'k'",
        )
        .unwrap();
        store.refresh(0).unwrap();
        let text = |s: &str| Some(Value::Text(s.into()));
        let expected = [Some(vec![text("k"), text("old")]), Some(vec![text("l"), text("old")])];
        assert_eq!(bases(&store).into_values().collect::<Vec<_>>(), expected);
        store.conn.execute("DELETE FROM _sync_dirty", []).unwrap();
        app.execute_batch("ALTER TABLE t RENAME COLUMN a TO c; UPDATE t SET c = 'newer' WHERE id = 'k'").unwrap();
        store.refresh(0).unwrap();
        assert_eq!(bases(&store).len(), 1);
    }
}
