//! Which tables and triggers of a file are ours. Nothing else is dropped, whatever it is called.

use std::collections::BTreeSet;

use rusqlite::Connection;
use sync_core::sqlite::capture::{captures, log_name};
use sync_core::sqlite::quote;

use crate::error::Error;

/// Our tables, but for the logs: one of each in a file.
const TABLES: &[&str] = &[
    "_sync_meta",
    "_sync_table",
    "_sync_dirty",
    "_sync_row",
    "_sync_outbox",
    "_sync_out",
    "_sync_inbox",
    "_sync_history",
    "_sync_earlier",
    "_sync_earlier_history",
    "_sync_refusal",
    "_sync_part",
    "_sync_suspect",
    "_sync_repaired",
    "_sync_kept",
];

/// The tables of ours in a synced or a detached file.
pub(super) fn tables(conn: &Connection) -> Result<Vec<String>, Error> {
    let logs = numbers(conn)?.into_iter().map(log_name);
    let ours: Vec<String> = TABLES.iter().map(|t| (*t).to_owned()).chain(logs).collect();
    let there = list(conn, "table")?;
    Ok(there.into_iter().filter(|name| ours.contains(name)).collect())
}

/// A trigger of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capture {
    /// The number of the table that it is for.
    pub(super) id: i64,
    pub(super) name: String,
    /// The table that it watches.
    pub(super) table: String,
    pub(super) sql: String,
}

/// The triggers of ours, whichever tables they watch.
pub(super) fn triggers(conn: &Connection) -> Result<Vec<Capture>, Error> {
    let mut s = conn.prepare("SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger'")?;
    let mut rows = s.query([])?;
    let mut found = Vec::new();
    while let Some(r) = rows.next()? {
        let (name, table, sql): (String, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
        if let Some(id) = captures(&name, &sql) {
            found.push(Capture { id, name, table, sql });
        }
    }
    Ok(found)
}

/// Removes triggers.
pub(super) fn drop_all<'a>(conn: &Connection, list: impl IntoIterator<Item = &'a Capture>) -> Result<(), Error> {
    for t in list {
        conn.execute_batch(&format!("DROP TRIGGER main.{}", quote(&t.name)))?;
    }
    Ok(())
}

/// Refuses a file that is not synced yet and has something of its own under a name that we need.
pub(super) fn free(conn: &Connection) -> Result<(), Error> {
    let sql = "SELECT type, name FROM main.sqlite_schema WHERE type <> 'index'";
    let mut s = conn.prepare(sql)?;
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        let (kind, name): (String, String) = (r.get(0)?, r.get(1)?);
        let lower = name.to_ascii_lowercase();
        let rest = lower.strip_prefix("_sync_").unwrap_or_default();
        let numbered = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        let taken = match kind.as_str() {
            "trigger" => numbered(rest),
            _ => TABLES.contains(&lower.as_str()) || rest.strip_prefix("log_").is_some_and(numbered),
        };
        if taken {
            return Err(Error::Argument(format!(
                "this file has a {kind} {name} of its own, and sync needs that name: give it another one first"
            )));
        }
    }
    Ok(())
}

/// The numbers of the synced tables: those that are known, and in a damaged file also those whose triggers are there.
fn numbers(conn: &Connection) -> Result<BTreeSet<i64>, Error> {
    let mut numbers: BTreeSet<i64> = triggers(conn)?.into_iter().map(|t| t.id).collect();
    if list(conn, "table")?.iter().any(|t| t == "_sync_table") {
        let mut s = conn.prepare("SELECT id FROM main._sync_table")?;
        let known: Vec<i64> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
        numbers.extend(known);
    }
    Ok(numbers)
}

fn list(conn: &Connection, kind: &str) -> Result<Vec<String>, Error> {
    let mut s = conn.prepare("SELECT name FROM main.sqlite_schema WHERE type = ?")?;
    Ok(s.query_map([kind], |r| r.get(0))?.collect::<Result<_, _>>()?)
}
