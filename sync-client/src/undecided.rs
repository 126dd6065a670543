//! What waits for a person, opened by itself: also while another process, or a client of this one, syncs the file.

use crate::calling;
use crate::engine::Engine;
use crate::error::Error;

/// The inbox of a file, to decide about its entries. [`crate::Client`] has the same verbs; this one needs neither the
/// network nor to be the only one that has the file: each verb is one transaction. Made by [`crate::Builder::inbox`].
pub struct Inbox {
    /// Without a place where somebody else syncs the file.
    engine: Engine,
}

impl Inbox {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// As [`crate::Client::retry`].
    ///
    /// # Errors
    /// As there.
    pub fn retry(&mut self, table: &str, key: &str) -> Result<bool, Error> {
        self.with(|e| e.retry(table, key))
    }

    /// As [`crate::Client::retry_entry`].
    ///
    /// # Errors
    /// As there.
    pub fn retry_entry(&mut self, id: i64) -> Result<bool, Error> {
        self.with(|e| e.retry_entry(id))
    }

    /// As [`crate::Client::drop_row`].
    ///
    /// # Errors
    /// As there.
    pub fn drop_row(&mut self, table: &str, key: &str) -> Result<bool, Error> {
        self.with(|e| e.drop_row(table, key))
    }

    /// As [`crate::Client::drop_entry`].
    ///
    /// # Errors
    /// As there.
    pub fn drop_entry(&mut self, id: i64) -> Result<bool, Error> {
        self.with(|e| e.drop_entry(id))
    }

    /// As [`crate::Client::clear_entry`].
    ///
    /// # Errors
    /// As there.
    pub fn clear_entry(&mut self, id: i64) -> Result<bool, Error> {
        self.with(|e| e.clear_entry(id))
    }

    /// As [`crate::Client::clear_all`].
    ///
    /// # Errors
    /// As there.
    pub fn clear_all(&mut self, kind: &str) -> Result<u64, Error> {
        self.with(|e| e.clear_all(kind))
    }

    fn with<T>(&mut self, mut f: impl FnMut(&Engine) -> Result<T, Error>) -> Result<T, Error> {
        calling::not_inside()?;
        loop {
            self.engine.store.refresh(self.engine.env.now_ms())?;
            match f(&self.engine) {
                Err(Error::SchemaMoved) => {}
                other => return other,
            }
        }
    }
}
