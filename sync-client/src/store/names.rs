//! Which tables and triggers of a file are ours. Nothing else is dropped, whatever it is called.

use std::collections::BTreeSet;

use rusqlite::Connection;
use sync_core::sqlite::capture::log_name;
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

/// The triggers of ours.
pub(super) fn triggers(conn: &Connection) -> Result<Vec<String>, Error> {
    let ours: Vec<String> = numbers(conn)?.into_iter().map(|id| format!("_sync_{id}_")).collect();
    let there = list(conn, "trigger")?;
    Ok(there.into_iter().filter(|name| ours.iter().any(|o| name.starts_with(o))).collect())
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
    let mut numbers = BTreeSet::new();
    let mut s = conn.prepare("SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger'")?;
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        let (name, sql): (String, String) = (r.get(0)?, r.get(1)?);
        let number = name.strip_prefix("_sync_").and_then(|rest| rest.split('_').next()).and_then(|n| n.parse().ok());
        numbers.extend(number.filter(|n| sql.contains(&quote(&log_name(*n)))));
    }
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
