//! A user's own file: copied, looked at, and edited a little on both sides without knowing what it means.

use std::path::Path;
use std::time::Duration;

use examples::Result;
use rusqlite::backup::Backup;
use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use sync_core::schema::{Affinity, Schema, Table};
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::RowSql;

/// Copies a SQLite file, with what its write-ahead log holds. The file itself is only read.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let explain = |e: rusqlite::Error| format!("{} cannot be read as a SQLite file: {e}", from.display());
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(explain)?;
    let mut target = Connection::open(to)?;
    Backup::new(&source, &mut target)?.run_to_completion(1024, Duration::ZERO, None).map_err(explain)?;
    Ok(())
}

/// What was done to the rows of a file.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) updated: u64,
    pub(crate) duplicated: u64,
    pub(crate) deleted: u64,
    /// Attempts that the schema refused; nothing of them stays.
    pub(crate) refused: u64,
}

/// Edits a few rows of each table: updates some (the same ones on every device), and, where `more`,
/// duplicates one and deletes one.
pub(crate) fn edit(path: &Path, schema: &Schema, device: &str, more: bool) -> Result<Edits> {
    let conn = Connection::open(path)?;
    conn.pragma_update(None, "foreign_keys", true)?;
    let mut edits = Edits::default();
    for t in schema.tables() {
        let keys = keys(&conn, t)?;
        let mut attempt = |sql: &str, values: &[SqlValue], counter: fn(&mut Edits) -> &mut u64| -> Result<()> {
            conn.execute_batch("SAVEPOINT edit")?;
            let done = conn.execute(sql, params_from_iter(values));
            let broken = conn.prepare("PRAGMA foreign_key_check")?.exists([])?;
            match done {
                Ok(0) => {}
                Ok(_) if !broken => *counter(&mut edits) += 1,
                _ => {
                    edits.refused += 1;
                    conn.execute_batch("ROLLBACK TO edit")?;
                }
            }
            conn.execute_batch("RELEASE edit")?;
            Ok(())
        };
        let by_key = RowSql::new(t).by_key;
        let table = format!("main.{}", quote(&t.sql_name));
        if let Some(column) = editable(t) {
            for key in keys.iter().take(3) {
                let mut values = vec![SqlValue::Text(format!(" (edited on {device})"))];
                values.extend(key.iter().cloned());
                let sql = format!("UPDATE {table} SET {column} = coalesce({column}, '') || ? WHERE {by_key}");
                attempt(&sql, &values, |e| &mut e.updated)?;
            }
        }
        if !more {
            continue;
        }
        if let (Some(key), [only]) = (keys.first(), t.key.as_slice()) {
            let names: Vec<String> = t.columns.iter().map(|c| quote(&c.sql_name)).collect();
            let fresh = match t.columns[*only].affinity {
                Affinity::Integer => format!("(SELECT max({}) + 1 FROM {table})", names[*only]),
                Affinity::Blob => "randomblob(16)".to_owned(),
                _ => format!("{} || '-copy'", names[*only]),
            };
            let picked: Vec<&str> =
                (0..names.len()).map(|i| if i == *only { fresh.as_str() } else { names[i].as_str() }).collect();
            let (into, picked) = (names.join(", "), picked.join(", "));
            let sql = format!("INSERT INTO {table} ({into}) SELECT {picked} FROM {table} WHERE {by_key}");
            attempt(&sql, key, |e| &mut e.duplicated)?;
        }
        if let Some(key) = keys.last().filter(|_| keys.len() > 3) {
            attempt(&format!("DELETE FROM {table} WHERE {by_key}"), key, |e| &mut e.deleted)?;
        }
    }
    Ok(edits)
}

/// A text column whose change means nothing to keys, references and uniqueness.
fn editable(t: &Table) -> Option<String> {
    let bound = |i: usize| {
        t.key.contains(&i)
            || t.foreign_keys.iter().any(|f| f.columns.contains(&i))
            || t.uniques.iter().any(|u| u.columns.contains(&i))
    };
    let found = (0..t.columns.len()).find(|i| !bound(*i) && t.columns[*i].affinity == Affinity::Text)?;
    Some(quote(&t.columns[found].sql_name))
}

/// The first few keys that have no NULL in them.
fn keys(conn: &Connection, t: &Table) -> Result<Vec<Vec<SqlValue>>> {
    let columns: Vec<String> = t.key.iter().map(|i| quote(&t.columns[*i].sql_name)).collect();
    let present = columns.iter().map(|c| format!("{c} IS NOT NULL")).collect::<Vec<_>>().join(" AND ");
    let columns = columns.join(", ");
    let sql = format!("SELECT {columns} FROM main.{} WHERE {present} ORDER BY {columns} LIMIT 8", quote(&t.sql_name));
    let mut s = conn.prepare(&sql)?;
    let rows = s.query_map([], |r| (0..t.key.len()).map(|i| r.get(i)).collect())?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}
