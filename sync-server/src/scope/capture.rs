//! Capture of everything that a commit does, by TEMP triggers: also what foreign-key actions and
//! rules do to other rows.
//!
//! An entry says which key was touched while which staged row was applied. Values are read from the
//! table afterwards, so the order in which triggers fire does not matter; only the old values of
//! columns that foreign keys refer to are kept, to find the rows that they leave behind.

use rusqlite::Connection;
use sync_core::sqlite::quote;

use super::schema::{Loaded, TableInfo};

/// The row is there after the change.
pub(crate) const CAME: i64 = 1;
/// The old key, or an old value that foreign keys refer to, is no longer there.
pub(crate) const WENT: i64 = 2;

/// Makes the TEMP tables of a writer.
pub(crate) fn prepare(conn: &Connection, loaded: &Loaded) -> rusqlite::Result<()> {
    let width = loaded.tables.iter().map(|t| t.table.columns.len()).max().unwrap_or(0);
    let columns: String = (0..width).map(|i| format!(", c{i}")).collect();
    conn.execute_batch(&format!(
        "CREATE TEMP TABLE _sync_captured (n INTEGER PRIMARY KEY, ordinal, tab, op{columns});
         CREATE TEMP TABLE _sync_effect (tab, key, n, PRIMARY KEY (tab, key)) WITHOUT ROWID;"
    ))
}

/// Installs the triggers and empties the log.
pub(crate) fn start(conn: &Connection, tables: &[TableInfo], id: impl Fn(usize) -> i64) -> rusqlite::Result<()> {
    conn.execute_batch("DELETE FROM temp._sync_captured; DELETE FROM temp._sync_effect;")?;
    for (at, t) in tables.iter().enumerate() {
        for sql in triggers(at, id(at), t) {
            conn.execute_batch(&sql)?;
        }
    }
    Ok(())
}

/// Drops the triggers and what they logged.
pub(crate) fn stop(conn: &Connection, tables: usize) -> rusqlite::Result<()> {
    for at in 0..tables {
        for suffix in SUFFIXES {
            conn.execute_batch(&format!("DROP TRIGGER IF EXISTS temp._sync_{at}_{suffix}"))?;
        }
    }
    conn.execute_batch("DELETE FROM temp._sync_captured; DELETE FROM temp._sync_effect;")
}

const SUFFIXES: [&str; 4] = ["insert", "update", "rekey", "delete"];

fn triggers(at: usize, id: i64, t: &TableInfo) -> Vec<String> {
    let on = format!("main.{}", quote(&t.table.sql_name));
    let name = |i: usize| quote(&t.table.columns[i].sql_name);
    let mut left: Vec<usize> = t.table.key.clone();
    left.extend(t.referenced.iter().filter(|i| !t.table.key.contains(i)));
    let entry = |op: i64, columns: &[usize], side: &str| {
        let names: String = columns.iter().map(|i| format!(", c{i}")).collect();
        let values: String = columns.iter().map(|i| format!(", {side}.{}", name(*i))).collect();
        format!("INSERT INTO _sync_captured (ordinal, tab, op{names}) VALUES (_sync_ordinal(), {id}, {op}{values});")
    };
    let came = entry(CAME, &t.table.key, "NEW");
    let went = entry(WENT, &left, "OLD");
    let changed: Vec<String> = left.iter().map(|i| format!("OLD.{0} IS NOT NEW.{0}", name(*i))).collect();
    let of: Vec<String> = left.iter().map(|i| name(*i)).collect();
    let trigger = |suffix: &str, head: String, body: &str| {
        format!("CREATE TEMP TRIGGER IF NOT EXISTS _sync_{at}_{suffix} {head} BEGIN {body} END")
    };
    vec![
        trigger(SUFFIXES[0], format!("AFTER INSERT ON {on}"), &came),
        trigger(SUFFIXES[1], format!("AFTER UPDATE ON {on}"), &came),
        trigger(SUFFIXES[2], format!("AFTER UPDATE OF {} ON {on} WHEN {}", of.join(", "), changed.join(" OR ")), &went),
        trigger(SUFFIXES[3], format!("AFTER DELETE ON {on}"), &went),
    ]
}
