//! What the client keeps in the app's file: the `_sync_*` tables, and the synced tables as statements.

mod asleep;
pub(crate) mod busy;
mod dirty;
mod earlier;
mod endless;
mod fold;
mod gone;
mod grown;
mod install;
mod intact;
mod journal;
mod meta;
mod migrate;
mod names;
mod outbox;
pub(crate) mod references;
mod shape;
mod strayed;
mod versions;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use sync_core::engine::alike::Unlike;
use sync_core::schema::{Schema, Table};
use sync_core::sqlite::connection::{self, Settings};
use sync_core::sqlite::introspect::Found;
use sync_core::sqlite::locals::Locals;
use sync_core::sqlite::rows::RowSql;

use endless::Work;

pub(crate) use dirty::{Dirty, WAITS_FOR};
pub(crate) use grown::Grown;
pub(crate) use install::{Selection, known, look, tables_of};
pub(crate) use meta::Meta;
pub(crate) use outbox::{Outbox, OutboxRow, OutboxState};

use crate::error::Error;
use crate::offered::Offered;

/// The app's file, opened for syncing: triggers off, foreign keys off, durable commits.
pub(crate) struct Store {
    pub(crate) conn: Connection,
    pub(crate) found: Found,
    /// Parallel to `schema().tables()`.
    pub(crate) managed: Vec<Managed>,
    by_id: BTreeMap<i64, usize>,
    schema_version: i64,
    /// Unsynced tables that refer to synced ones.
    pub(crate) locals: Locals,
    /// The server's tables, as it last told of them.
    pub(crate) offered: Offered,
    /// The tables that are others there, by position.
    pub(crate) held_back: BTreeMap<usize, Unlike>,
    work: Work,
}

/// One synced table's number in this file, and its statements.
#[derive(Debug)]
pub(crate) struct Managed {
    /// Its number in the `_sync_*` tables.
    pub(crate) id: i64,
    pub(crate) sql: RowSql,
    /// [`Table::canonical_order`].
    pub(crate) order: Vec<usize>,
}

impl Store {
    /// Opens a file that exists.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut conn = connection::open(path, false, SETTINGS)?;
        busy::wait_patiently(&mut conn)?;
        Ok(Self::of(conn))
    }

    /// No file: whatever is asked of it fails.
    pub(crate) fn nowhere() -> Result<Self, Error> {
        Ok(Self::of(Connection::open_in_memory()?))
    }

    fn of(conn: Connection) -> Self {
        Self {
            conn,
            found: Found::default(),
            managed: Vec::new(),
            by_id: BTreeMap::new(),
            schema_version: -1,
            locals: Locals::default(),
            offered: Offered::default(),
            held_back: BTreeMap::new(),
            work: Work::default(),
        }
    }

    /// Begins a write of ours. No network call happens inside it.
    ///
    /// What this knows of the schema is checked inside: a migration of the app may have come between
    /// ([`Error::SchemaMoved`]; case S2).
    pub(crate) fn begin(&self) -> Result<Transaction<'_>, Error> {
        let tx = self.begin_unchecked()?;
        if self.read_schema_version()? != self.schema_version {
            return Err(Error::SchemaMoved);
        }
        self.forget_left()?;
        Ok(tx)
    }

    /// The same where no synced table is touched.
    pub(crate) fn begin_unchecked(&self) -> Result<Transaction<'_>, Error> {
        Ok(Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?)
    }

    /// Takes back what was done since a savepoint; what came of it is handed on. What ended the whole transaction, as a
    /// full disk and `ON CONFLICT ROLLBACK` do, took the savepoint along: that is an error, whatever came.
    pub(crate) fn take_back<T>(&self, savepoint: &str, came: Result<T, Error>) -> Result<T, Error> {
        if self.conn.is_autocommit() {
            let ended = rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT_ROLLBACK),
                Some("the transaction was rolled back".into()),
            );
            return came.and(Err(ended.into()));
        }
        self.conn.execute_batch(&format!("ROLLBACK TO {savepoint}; RELEASE {savepoint}"))?;
        came
    }

    /// SQLite's number of the schema that this knows.
    pub(crate) const fn schema_version(&self) -> i64 {
        self.schema_version
    }

    /// Begins a read of one moment, under the schema that this knows.
    pub(crate) fn begin_read(&self) -> Result<Transaction<'_>, Error> {
        let tx = Transaction::new_unchecked(&self.conn, TransactionBehavior::Deferred)?;
        if self.read_schema_version()? != self.schema_version {
            return Err(Error::SchemaMoved);
        }
        Ok(tx)
    }

    fn read_schema_version(&self) -> Result<i64, Error> {
        Ok(self.conn.prepare_cached("PRAGMA main.schema_version")?.query_row([], |r| r.get(0))?)
    }

    pub(crate) const fn schema(&self) -> &Schema {
        &self.found.schema
    }

    /// The position of a table whose rows travel, by its wire name.
    pub(crate) fn travelling(&self, name: &str) -> Option<usize> {
        self.schema().position(name).filter(|p| !self.held_back.contains_key(p))
    }

    pub(crate) fn table(&self, position: usize) -> &Table {
        &self.found.schema.tables()[position]
    }

    /// The position of the table with this number; `None` for a table that is no longer synced.
    pub(crate) fn position(&self, id: i64) -> Option<usize> {
        self.by_id.get(&id).copied()
    }
}

/// How our connections to the app's file are set.
pub(crate) const SETTINGS: Settings =
    Settings { foreign_keys: false, triggers: false, durable: true, busy: Duration::from_secs(15), cache_kib: 4096 };

/// Milliseconds since the epoch as RFC 3339.
pub(crate) fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default()
}
