//! Whether the triggers of ours are as we left them. One that somebody dropped or changed may have let writes pass
//! unseen; one that an older version of ours wrote has not.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _};
use sync_core::hash::Digest;

use super::names::Capture;
use crate::error::Error;

/// Remembers what we wrote: name and statement of each trigger.
pub(super) fn remember(conn: &Connection, id: i64, written: &[(String, String)]) -> Result<(), Error> {
    let digests: BTreeMap<&str, String> = written.iter().map(|(name, sql)| (name.as_str(), digest(sql))).collect();
    let text = serde_json::to_string(&digests).map_err(|e| Error::Damaged(e.to_string()))?;
    let same = "UPDATE main._sync_table SET triggers = ?1 WHERE id = ?2 AND triggers IS NOT ?1";
    conn.execute(same, (text, id))?;
    Ok(())
}

/// Whether nobody else touched a table's triggers, of which some are there. Where they are what we would write now, that is
/// known already: SQLite itself rewrites them so where the app renames a column.
pub(super) fn intact(conn: &Connection, id: i64, present: &[&Capture]) -> Result<bool, Error> {
    let written: Option<Option<String>> = conn
        .prepare_cached("SELECT triggers FROM main._sync_table WHERE id = ?")?
        .query_row([id], |r| r.get(0))
        .optional()?;
    let Some(written) = written.flatten() else {
        // An older version wrote them, and did not say what: it had all of these, whatever the schema.
        let there = |part: &str| present.iter().any(|t| t.name == format!("_sync_{id}_{part}"));
        return Ok(ALWAYS.iter().all(|part| there(part)));
    };
    let written: BTreeMap<String, String> =
        serde_json::from_str(&written).map_err(|_| Error::Damaged("triggers".into()))?;
    let as_it_was = |(name, was): (&String, &String)| present.iter().any(|t| t.name == *name && digest(&t.sql) == *was);
    Ok(written.iter().all(as_it_was))
}

fn digest(sql: &str) -> String {
    Digest::of(sql.as_bytes()).hex()
}

/// The triggers that every version makes on every table.
const ALWAYS: [&str; 5] = ["insert", "update", "rekey", "delete", "evict_update"];
