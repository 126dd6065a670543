//! What was last heard of each row from the server: a version, or a tombstone's.

use rusqlite::OptionalExtension as _;
use sync_core::engine::change::Known;

use super::{Meta, Store};
use crate::error::Error;

impl Store {
    /// What is known of a key.
    pub(crate) fn known(&self, t: i64, k: &[u8]) -> Result<Known, Error> {
        let v = self
            .conn
            .prepare_cached("SELECT v FROM main._sync_row WHERE t = ? AND k = ?")?
            .query_row((t, k), |r| r.get(0))
            .optional()?;
        Ok(Known::from_stored(v))
    }

    /// Whether the server was ever known to have a row that this file has.
    pub(crate) fn knows_rows(&self) -> Result<bool, Error> {
        Ok(self.conn.prepare_cached("SELECT 1 FROM main._sync_row WHERE v >= 0 LIMIT 1")?.exists([])?)
    }

    /// Whether the server had any row of which nobody here knows more.
    pub(crate) fn any_unknown(&self) -> Result<bool, Error> {
        Ok(self.conn.prepare_cached("SELECT 1 FROM main._sync_row WHERE v = 0 LIMIT 1")?.exists([])?)
    }

    /// The server's state of a row is not known here any more: the next pull rebuilds.
    pub(crate) fn fetch_again(&self, t: i64, k: &[u8]) -> Result<(), Error> {
        self.set_known(t, k, Known::Live(0))?;
        Meta::Rebuild.set(&self.conn, "a row has to be fetched again")
    }

    /// Remembers what was heard. [`Known::Live`] of 0 says that the server had this row, in a state that nobody here
    /// knows: whatever a snapshot says of it is true, also that it is gone.
    pub(crate) fn set_known(&self, t: i64, k: &[u8], known: Known) -> Result<(), Error> {
        let v = match known {
            Known::Never => {
                self.conn.prepare_cached("DELETE FROM main._sync_row WHERE t = ? AND k = ?")?.execute((t, k))?;
                return Ok(());
            }
            Known::Live(v) => v,
            Known::Gone(v) => -v,
        };
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO main._sync_row (t, k, v) VALUES (?, ?, ?)")?
            .execute((t, k, v))?;
        Ok(())
    }
}
