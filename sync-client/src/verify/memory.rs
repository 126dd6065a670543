//! Which rows were repaired and not seen equal since: what differs again after a repair is reported, not
//! repaired again the same way.

use rusqlite::OptionalExtension as _;

use super::report::Repair;
use crate::error::Error;
use crate::store::{Meta, Store};

/// Rows that were repaired: how, and at which bundle.
pub(crate) const REPAIRED: &str = "CREATE TABLE main._sync_repaired (t INTEGER NOT NULL, k BLOB NOT NULL, \
    way INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (t, k)) WITHOUT ROWID";

impl Store {
    fn remembers_repairs(&self) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_sync_repaired'";
        Ok(self.conn.prepare_cached(sql)?.exists([])?)
    }

    /// How a row was repaired last, where it was not seen equal since: [`Repair::stored`].
    pub(super) fn repaired(&self, t: i64, k: &[u8]) -> Result<Option<i64>, Error> {
        if !self.remembers_repairs()? {
            return Ok(None);
        }
        let sql = "SELECT way FROM main._sync_repaired WHERE t = ? AND k = ?";
        Ok(self.conn.prepare_cached(sql)?.query_row((t, k), |r| r.get(0)).optional()?)
    }

    pub(super) fn each_repaired(&self, mut each: impl FnMut(i64, Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
        if !self.remembers_repairs()? {
            return Ok(());
        }
        let mut s = self.conn.prepare("SELECT t, k FROM main._sync_repaired ORDER BY t, k")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            each(r.get(0)?, r.get(1)?)?;
        }
        Ok(())
    }

    /// Makes the place for it in a file of an older version. Before the transaction that repairs, since this
    /// changes the schema.
    pub(super) fn remember_repairs(&mut self, now: i64) -> Result<(), Error> {
        if self.remembers_repairs()? {
            return Ok(());
        }
        let tx = self.begin()?;
        tx.execute_batch(REPAIRED)?;
        // It is not the app's schema that changed: what that refused it refuses still.
        let version: i64 = tx.query_row("PRAGMA main.schema_version", [], |r| r.get(0))?;
        Meta::SchemaSeen.set(&tx, version)?;
        tx.commit()?;
        self.refresh(now)
    }

    pub(super) fn put_repaired(&self, t: i64, k: &[u8], way: Repair, seq: i64) -> Result<(), Error> {
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO main._sync_repaired (t, k, way, seq) VALUES (?, ?, ?, ?)")?
            .execute((t, k, way.stored(), seq))?;
        Ok(())
    }

    pub(super) fn forget_repaired(&self, t: i64, k: &[u8]) -> Result<(), Error> {
        self.conn.prepare_cached("DELETE FROM main._sync_repaired WHERE t = ? AND k = ?")?.execute((t, k))?;
        Ok(())
    }
}
