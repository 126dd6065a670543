//! A detached file: an ordinary one, but for tables of ours that say where it was (case C12). No trigger
//! is left; which rows changed meanwhile is told by a hash of each when the file is synced again.

use std::collections::BTreeMap;

use rusqlite::params_from_iter;
use sync_core::hash::Digest;
use sync_core::key::Key;
use sync_core::record;
use sync_core::sqlite::capture::log_name;
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::read_values;
use sync_core::value::Value;

use super::install::{look, suspect_all};
use super::{Meta, Selection, Store, journal, names};
use crate::error::Error;

impl Store {
    /// Whether the file was detached and remembers where it was.
    pub(crate) fn asleep(&self) -> Result<bool, Error> {
        Ok(self.installed()? && Meta::Detached.get::<i64>(&self.conn)?.is_some())
    }

    /// Ends the capture and keeps the rest: versions, history, what is pending, the inbox. In a transaction
    /// of the caller, in which the logs were absorbed.
    pub(crate) fn fall_asleep(&self, now: i64) -> Result<(), Error> {
        let conn = &self.conn;
        conn.execute_batch(
            "CREATE TABLE main._sync_kept (t INTEGER NOT NULL, k BLOB NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (t, k)) \
             WITHOUT ROWID",
        )?;
        let mut columns = BTreeMap::new();
        for (position, m) in self.managed.iter().enumerate() {
            let table = self.table(position);
            columns.insert(m.id, table.columns.iter().map(|c| c.sql_name.clone()).collect::<Vec<_>>());
            // No subquery: SQLite would want a collation that only the app has.
            let mut s = conn.prepare(&format!(
                "SELECT _sync_key({}), {} FROM main.{}",
                m.sql.key,
                m.sql.columns,
                quote(&table.sql_name)
            ))?;
            let mut dirty = conn.prepare("SELECT 1 FROM main._sync_dirty WHERE t = ? AND k = ?")?;
            let mut keep = conn.prepare("INSERT INTO main._sync_kept (t, k, hash) VALUES (?, ?, ?)")?;
            let mut rows = s.query([])?;
            while let Some(r) = rows.next()? {
                let Some(k) = r.get::<_, Option<Vec<u8>>>(0)? else { continue };
                if !dirty.exists((m.id, &k))?
                    && let Ok(row) = read_values(r, 1, table.columns.len())
                {
                    keep.execute((m.id, k, hash(&row)))?;
                }
            }
        }
        let columns = serde_json::to_string(&columns).map_err(|e| Error::Damaged(e.to_string()))?;
        Meta::KeptColumns.set(conn, columns)?;
        names::drop_all(conn, &names::triggers(conn)?)?;
        for m in &self.managed {
            conn.execute_batch(&format!("DROP TABLE IF EXISTS main.{}", quote(&log_name(m.id))))?;
        }
        Meta::Detached.set(conn, now)?;
        for m in [Meta::Attached, Meta::Joined] {
            m.set(conn, 0)?;
        }
        for m in [Meta::AttachMode, Meta::InitializationId, Meta::Resume, Meta::RetryAfter] {
            m.clear(conn)?;
        }
        Ok(())
    }

    /// Makes a detached file a synced one again. Whether it goes on from where it was is decided when it
    /// is attached.
    pub(crate) fn wake_up(&mut self, server: &str, selection: &Selection, now: i64) -> Result<(), Error> {
        look(&mut self.conn, selection)?;
        // The app had its own again since the file was let go.
        let was = self.turn_wal_on()?;
        self.refresh_after(now, |conn| {
            Meta::JournalMode.clear(conn)?;
            journal::remember(conn, &was)?;
            Meta::Server.set(conn, server)?;
            Meta::Tables.set(conn, selection.stored())?;
            Meta::Resume.set(conn, 1)?;
            Meta::Detached.clear(conn)
        })
    }

    /// After the capture is back: the rows that are what they were are no intents, and those that went
    /// are. Everything was made an intent, since nobody watched.
    pub(super) fn wake_rows(&self, now: i64) -> Result<(), Error> {
        let conn = &self.conn;
        let Some(columns) = Meta::KeptColumns.get::<String>(conn)? else { return Ok(()) };
        let columns: BTreeMap<i64, Vec<String>> =
            serde_json::from_str(&columns).map_err(|_| Error::Damaged("columns".into()))?;
        for (position, m) in self.managed.iter().enumerate() {
            let table = self.table(position);
            let today: Vec<&str> = table.columns.iter().map(|c| c.sql_name.as_str()).collect();
            let old = columns.get(&m.id);
            if old.is_none_or(|old| *old != today) {
                Meta::Rebuild.set(conn, "the tables of this file changed")?;
            }
            let Some(old) = old.filter(|old| old.iter().all(|c| today.contains(&c.as_str()))) else { continue };
            let mut selected: Vec<String> = old.iter().map(|c| quote(c)).collect();
            for (column, name) in today.iter().enumerate() {
                if !old.iter().any(|o| o == name) {
                    selected.push(self.unset(position, column)?);
                }
            }
            let mut read = conn.prepare(&format!(
                "SELECT {} FROM main.{} WHERE {}",
                selected.join(", "),
                quote(&table.sql_name),
                m.sql.by_key
            ))?;
            let mut kept = conn.prepare("SELECT k, hash FROM main._sync_kept WHERE t = ? ORDER BY k")?;
            let mut rows = kept.query([m.id])?;
            while let Some(r) = rows.next()? {
                let (k, was): (Vec<u8>, Vec<u8>) = (r.get(0)?, r.get(1)?);
                let key = Key::from_stored(k.clone()).unpack()?;
                let mut found = read.query(params_from_iter(&key))?;
                match found.next()? {
                    Some(r) => {
                        let mut unset = true;
                        for i in old.len()..selected.len() {
                            unset &= r.get::<_, bool>(i)?;
                        }
                        if unset && read_values(r, 0, old.len()).is_ok_and(|row| hash(&row) == was) {
                            self.drop_dirty(m.id, &k)?;
                        }
                    }
                    None => {
                        conn.prepare_cached("INSERT OR IGNORE INTO main._sync_dirty (t, k, since) VALUES (?, ?, ?)")?
                            .execute((m.id, &k, now))?;
                    }
                }
            }
        }
        // What was on its way may have been deleted, and no version of it is known yet.
        conn.execute("INSERT OR IGNORE INTO main._sync_dirty (t, k, since) SELECT t, k, ? FROM main._sync_out", [now])?;
        Meta::KeptColumns.clear(conn)?;
        Ok(conn.execute_batch("DROP TABLE IF EXISTS main._sync_kept")?)
    }

    /// Forgets which history the rows are of: every row is local work, nothing else is known. In a
    /// transaction of the caller. With a source id, the file writes under that one from now on.
    pub(crate) fn forget_history(&self, source_id: Option<&str>, now: i64) -> Result<(), Error> {
        let conn = &self.conn;
        self.absorb(now)?;
        self.clear_outbox()?;
        conn.execute_batch(
            "DELETE FROM main._sync_dirty; DELETE FROM main._sync_row; DELETE FROM main._sync_history;
             DELETE FROM main._sync_refusal; DELETE FROM main._sync_part; DELETE FROM main._sync_suspect;
             UPDATE main._sync_table SET grown_from = NULL;",
        )?;
        for (position, m) in self.managed.iter().enumerate() {
            suspect_all(conn, m, self.table(position), now)?;
        }
        self.forget_earlier()?;
        for m in [Meta::Checkpoint, Meta::LatestKnown, Meta::Attached] {
            m.set(conn, 0)?;
        }
        for m in [
            Meta::HistoryHash,
            Meta::Rebuild,
            Meta::Fork,
            Meta::OutboxColumns,
            Meta::InitializationId,
            Meta::SetAside,
            Meta::SyncedThrough,
            Meta::RetryAfter,
            Meta::Search,
            Meta::Part,
            Meta::ServerTables,
            Meta::Resume,
        ] {
            m.clear(conn)?;
        }
        Meta::NextSourceBundleId.set(conn, 1)?;
        if let Some(source_id) = source_id {
            Meta::SourceId.set(conn, source_id)?;
        }
        Ok(())
    }

    /// Forgets the account that the file was of, and what it had to say to its owner.
    pub(crate) fn forget_account(&self, source_id: &str, now: i64) -> Result<(), Error> {
        self.forget_history(Some(source_id), now)?;
        for m in
            [Meta::ScopeId, Meta::LastSuccess, Meta::LastError, Meta::LastErrorAt, Meta::LastErrorClass, Meta::Imported]
        {
            m.clear(&self.conn)?;
        }
        self.conn.execute("DELETE FROM main._sync_inbox", [])?;
        Ok(())
    }

    /// How many rows the synced tables have.
    pub(crate) fn count_rows(&self) -> Result<u64, Error> {
        let mut n = 0i64;
        for t in self.schema().tables() {
            let sql = format!("SELECT count(*) FROM main.{}", quote(&t.sql_name));
            n += self.conn.query_row(&sql, [], |r| r.get::<_, i64>(0))?;
        }
        Ok(n.unsigned_abs())
    }
}

/// Half a digest: enough to tell whether a row is what it was.
pub(super) fn hash(row: &[Value]) -> Vec<u8> {
    Digest::of(&record::encode(row)).0[..16].to_vec()
}
