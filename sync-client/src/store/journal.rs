//! The journal mode of the app's file. Ours is WAL, in which readers and writers do not block one another; it is part of
//! the file, so the app gets back what it had when it is let go.

use std::time::Duration;

use rusqlite::Connection;
use sync_core::sqlite::quote;

use super::{Meta, Store};
use crate::error::Error;

impl Store {
    /// Turns the write-ahead log on; what it was before. Outside a transaction by SQLite's rule.
    pub(super) fn turn_wal_on(&self) -> Result<String, Error> {
        let was: String = self.conn.query_row("PRAGMA main.journal_mode", [], |r| r.get(0))?;
        self.conn.query_row("PRAGMA main.journal_mode = WAL", [], |_| Ok(()))?;
        Ok(was)
    }

    /// What the app had, where that was not WAL.
    pub(crate) fn earlier_journal(&self) -> Option<String> {
        // Best effort: a file that lost this table of ours is let go all the same.
        Meta::JournalMode.get(&self.conn).ok().flatten()
    }

    /// Gives the file a journal mode back, where nobody else has it open: SQLite changes it for nobody's eyes only.
    pub(crate) fn give_journal_back(&self, was: &str) {
        let given = self.conn.busy_timeout(Duration::ZERO).and_then(|()| set(&self.conn, was));
        if let Err(e) = given {
            tracing::debug!("the file keeps its write-ahead log: {e}");
        }
    }
}

/// Remembers what it was, in the transaction that makes the file a synced one.
pub(super) fn remember(conn: &Connection, was: &str) -> Result<(), Error> {
    if was.eq_ignore_ascii_case("wal") { Ok(()) } else { Meta::JournalMode.set(conn, was) }
}

pub(super) fn set(conn: &Connection, mode: &str) -> rusqlite::Result<()> {
    conn.query_row(&format!("PRAGMA main.journal_mode = {}", quote(mode)), [], |_| Ok(()))
}
