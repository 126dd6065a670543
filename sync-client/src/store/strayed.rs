//! Capture that went along with a table which the app renamed. SQLite lets triggers follow their table, so ours watch
//! another one then than the one that they are for: its old rows under a new name, or, where two tables swapped their
//! names, each other's. What they logged is true of the rows that they watched, which were the table's until then;
//! the table that has the name now is compared.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sync_core::sqlite::capture::{log_columns, log_name};
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::RowSql;

use super::fold::{Rows, fold};
use super::names::{self, Capture};
use super::shape::Shape;
use crate::error::Error;

/// Takes what such triggers logged among the intents, and removes them: whoever looks at the table next finds it without
/// triggers.
pub(super) fn bring_back(conn: &Connection, now: i64) -> Result<(), Error> {
    let mut by_number: BTreeMap<i64, Vec<Capture>> = BTreeMap::new();
    for t in names::triggers(conn)? {
        by_number.entry(t.id).or_default().push(t);
    }
    for (id, triggers) in by_number {
        let Some((name, shape)) = Shape::numbered(conn, id)? else {
            // What is left of a table that nobody knows any more; its number will be given again.
            names::drop_all(conn, &triggers)?;
            conn.execute_batch(&format!("DROP TABLE IF EXISTS main.{}", quote(&log_name(id))))?;
            continue;
        };
        let (strayed, home): (Vec<_>, Vec<_>) =
            triggers.into_iter().partition(|t| !t.table.eq_ignore_ascii_case(&name));
        if strayed.is_empty() {
            continue;
        }
        tracing::info!("table {name} was renamed: another one that is called so now is compared");
        let followed = if home.is_empty() { watched(conn, &strayed, &shape)? } else { None };
        absorb(conn, id, &shape, followed.as_deref(), now)?;
        names::drop_all(conn, &strayed)?;
    }
    Ok(())
}

/// The table whose rows the log is about, where nothing of them went unseen: all that capture needs is on it, reads it,
/// and its columns are what they were.
fn watched(conn: &Connection, strayed: &[Capture], shape: &Shape) -> Result<Option<String>, Error> {
    let table = &strayed[0].table;
    let from = format!(" FROM {} ", quote(table));
    let has = |kind: &str| strayed.iter().any(|t| t.name.ends_with(kind));
    let whole = ["_insert", "_update", "_rekey", "_delete"].into_iter().all(has)
        && strayed.iter().all(|t| t.table == *table && (!t.name.contains("_evict_") || t.sql.contains(&from)));
    let mut s = conn.prepare("SELECT name FROM pragma_table_xinfo(?, 'main') WHERE hidden = 0 ORDER BY cid")?;
    let columns: Vec<String> = s.query_map([table], |r| r.get(0))?.collect::<Result<_, _>>()?;
    Ok((whole && columns == shape.columns).then(|| table.clone()))
}

/// Folds the log of a table into the intents of the rows that it had; their bases are kept where it is known which table
/// has these rows now.
fn absorb(conn: &Connection, id: i64, shape: &Shape, followed: Option<&str>, now: i64) -> Result<(), Error> {
    let log = log_name(id);
    let there = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?";
    if !conn.prepare_cached(there)?.exists([&log])? {
        return Ok(());
    }
    let table = shape.table(followed.unwrap_or_default());
    let names = log_columns(shape.columns.len());
    let key: Vec<&str> = table.key.iter().map(|i| names[*i].as_str()).collect();
    // A file of an older version does not say what the key is; every row is compared anyway.
    if !key.is_empty() {
        let live = followed.map(|_| RowSql::new(&table));
        fold(conn, &Rows { id, key: &key, columns: names.len(), live: live.as_ref() }, now)?;
    }
    conn.execute_batch(&format!("DELETE FROM main.{}", quote(&log)))?;
    super::dirty::notice(conn)
}
