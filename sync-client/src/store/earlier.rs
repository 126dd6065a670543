//! The history that this file was of before the server had another one, or none: it may come back, as where the server
//! ran for a while without its data (case H3). Then what was known of its rows counts again, and whatever was written
//! since, on whichever history, is local work on top of it.

use rusqlite::OptionalExtension as _;
use sync_core::key::Key;
use sync_core::record::{self, Record};
use sync_core::sqlite::rows::read_values;

use super::asleep::hash;
use super::{Meta, Store};
use crate::error::Error;
use crate::mutant::{self, Mutant};

impl Store {
    /// Keeps what is known of the rows, before it is forgotten or begins to count for another history, which is the same
    /// up to this bundle: versions, the bases of what is pending, a hash of each other row. What was kept of an older
    /// history still says which rows were here once. In a transaction of the caller.
    pub(crate) fn set_history_aside(&self, fork: i64) -> Result<(), Error> {
        let conn = &self.conn;
        if mutant::on(Mutant::EarlierForgotten) {
            return Ok(());
        }
        let parted = Meta::EarlierFork.integer(conn)?;
        // Nothing of it could be told from another history; what this file pushed into it was here all the same.
        if Meta::Checkpoint.integer(conn)? == 0 {
            return self.remember_rows_here(fork);
        }
        // What was set aside before was lost before this: it is the one to come back. It shares no more with what is left.
        if fork > 0 && self.earlier()?.is_some() {
            Meta::EarlierFork.set(conn, parted.min(fork))?;
            return self.remember_rows_here(fork);
        }
        conn.execute("DELETE FROM main._sync_earlier WHERE v < 0 OR v > 0 AND v <= ?", [parted])?;
        Meta::EarlierFork.set(conn, fork)?;
        conn.execute_batch(
            "UPDATE main._sync_earlier SET v = 0, base = NULL, hash = NULL; \
             INSERT OR REPLACE INTO main._sync_earlier (t, k, v, base) \
               SELECT r.t, r.k, r.v, coalesce(o.base, d.base) FROM main._sync_row r \
               LEFT JOIN main._sync_dirty d ON d.t = r.t AND d.k = r.k \
               LEFT JOIN main._sync_out o ON o.t = r.t AND o.k = r.k WHERE r.v <> 0; \
             DELETE FROM main._sync_earlier_history; \
             INSERT INTO main._sync_earlier_history SELECT seq, hash FROM main._sync_history;",
        )?;
        self.remember_sent_rows()?;
        for (position, m) in self.managed.iter().enumerate() {
            let clean = "SELECT r.k FROM main._sync_row r WHERE r.t = ?1 AND r.v > 0 \
                         AND NOT EXISTS (SELECT 1 FROM main._sync_dirty d WHERE d.t = r.t AND d.k = r.k) \
                         AND NOT EXISTS (SELECT 1 FROM main._sync_out o WHERE o.t = r.t AND o.k = r.k)";
            let mut s = conn.prepare(clean)?;
            let mut keep = conn.prepare("UPDATE main._sync_earlier SET hash = ? WHERE t = ? AND k = ?")?;
            let mut rows = s.query([m.id])?;
            while let Some(r) = rows.next()? {
                let k: Vec<u8> = r.get(0)?;
                if let Some(hash) = self.hash_of(position, &k)? {
                    keep.execute((hash, m.id, k))?;
                }
            }
        }
        Ok(())
    }

    /// Rows of the history that goes now were here once, as far as it has them above the fork.
    fn remember_rows_here(&self, fork: i64) -> Result<(), Error> {
        self.remember_sent_rows()?;
        self.conn.execute(
            "INSERT OR IGNORE INTO main._sync_earlier (t, k, v) SELECT t, k, 0 FROM main._sync_row WHERE abs(v) > ?",
            [fork],
        )?;
        Ok(())
    }

    /// The same of rows that a commit was sent for: they may be with others, whatever this server says of them now.
    pub(crate) fn remember_sent_rows(&self) -> Result<(), Error> {
        Ok(self.conn.execute_batch(
            "INSERT OR IGNORE INTO main._sync_earlier (t, k, v) \
               SELECT t, k, 0 FROM main._sync_out WHERE row IS NOT NULL \
               AND EXISTS (SELECT 1 FROM main._sync_outbox WHERE state <> 'frozen')",
        )?)
    }

    /// What was known in the earlier history is known again. Every row that is not what it was then is an intent: of one
    /// that was pending on the base that it had, of the others a rebuild finds it. In a transaction of the caller, in
    /// which that rebuild is. Above the fork, if there is one, it is as gone as the other.
    pub(crate) fn take_up_earlier(&self, now: i64, fork: Option<i64>) -> Result<(), Error> {
        let conn = &self.conn;
        let parted = Meta::EarlierFork.integer(conn)?;
        self.remember_rows_here(parted)?;
        // Those of both histories are told from others now: their versions go below.
        conn.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_of_both (t INTEGER, k BLOB, PRIMARY KEY (t, k)) WITHOUT ROWID; \
             DELETE FROM temp._sync_of_both",
        )?;
        conn.execute(
            "INSERT INTO temp._sync_of_both SELECT t, k FROM main._sync_earlier e WHERE abs(v) > ? \
               AND (EXISTS (SELECT 1 FROM main._sync_row r WHERE r.t = e.t AND r.k = e.k AND r.v <> 0) \
                    OR EXISTS (SELECT 1 FROM main._sync_outbox WHERE state <> 'frozen') \
                       AND (t, k) IN (SELECT t, k FROM main._sync_out WHERE row IS NOT NULL))",
            [parted],
        )?;
        self.reopen_above(-1, now)?;
        conn.execute_batch(
            "DELETE FROM main._sync_row; \
             INSERT INTO main._sync_row (t, k, v) SELECT t, k, v FROM main._sync_earlier WHERE v <> 0;",
        )?;
        for (position, m) in self.managed.iter().enumerate() {
            let mut s = conn.prepare("SELECT k, base, hash FROM main._sync_earlier WHERE t = ? AND v > 0")?;
            let mut rows = s.query([m.id])?;
            while let Some(r) = rows.next()? {
                let (k, base, was): (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>) = (r.get(0)?, r.get(1)?, r.get(2)?);
                if was.is_some() && was == self.hash_of(position, &k)? {
                    self.drop_dirty(m.id, &k)?;
                    continue;
                }
                let base = base.map(|b| record::decode(&b)).transpose()?;
                let since = self.dirty(m.id, &k)?.map_or(now, |d| d.since);
                self.put_dirty(m.id, &k, since, base.as_ref())?;
            }
        }
        conn.execute_batch(
            "DELETE FROM main._sync_history; \
             INSERT INTO main._sync_history SELECT seq, hash FROM main._sync_earlier_history;",
        )?;
        Meta::Checkpoint.set(conn, self.earlier()?.map_or(0, |(seq, _)| seq))?;
        Meta::SyncedThrough.clear(conn)?;
        Meta::EarlierFork.clear(conn)?;
        // Rows of the history that goes now may come again by another device that was of it.
        conn.execute(
            "UPDATE main._sync_earlier SET v = 0, base = NULL, hash = NULL \
             WHERE (t, k) IN temp._sync_of_both OR abs(v) > ?",
            [fork.unwrap_or(i64::MAX)],
        )?;
        Ok(conn.execute_batch(
            "DELETE FROM main._sync_earlier WHERE v <> 0; DELETE FROM main._sync_earlier_history; \
             DELETE FROM temp._sync_of_both",
        )?)
    }

    /// The newest bundle of the earlier history, and its hash: nothing where it cannot be told from others.
    pub(crate) fn earlier(&self) -> Result<Option<(i64, Vec<u8>)>, Error> {
        let newest = "SELECT seq, hash FROM main._sync_earlier_history ORDER BY seq DESC LIMIT 1";
        Ok(self.conn.prepare_cached(newest)?.query_row([], |r| Ok((r.get(0)?, r.get(1)?))).optional()?)
    }

    pub(crate) fn forget_earlier(&self) -> Result<(), Error> {
        Meta::EarlierFork.clear(&self.conn)?;
        Ok(self.conn.execute_batch("DELETE FROM main._sync_earlier; DELETE FROM main._sync_earlier_history")?)
    }

    /// Whether anything is kept of an earlier history.
    pub(crate) fn any_earlier(&self) -> Result<bool, Error> {
        Ok(self.conn.prepare_cached("SELECT 1 FROM main._sync_earlier LIMIT 1")?.exists([])?)
    }

    /// Whether a row was here in an earlier history, and not in what that shares with the one of today.
    pub(crate) fn was_here(&self, t: i64, k: &[u8]) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM main._sync_earlier WHERE t = ? AND k = ? AND (v = 0 OR abs(v) > ?)";
        Ok(self.conn.prepare_cached(sql)?.exists((t, k, Meta::EarlierFork.integer(&self.conn)?))?)
    }

    /// It was told of a row that was here in an earlier history: from now on it is as any other.
    pub(crate) fn was_told_of(&self, t: i64, k: &[u8]) -> Result<(), Error> {
        self.conn.prepare_cached("DELETE FROM main._sync_earlier WHERE t = ? AND k = ? AND v = 0")?.execute((t, k))?;
        Ok(())
    }

    /// What a pending edit stood on in the history that was set aside.
    pub(crate) fn earlier_base(&self, t: i64, k: &[u8]) -> Result<Option<Record>, Error> {
        let sql = "SELECT base FROM main._sync_earlier WHERE t = ? AND k = ?";
        let base: Option<Option<Vec<u8>>> =
            self.conn.prepare_cached(sql)?.query_row((t, k), |r| r.get(0)).optional()?;
        Ok(base.flatten().map(|b| record::decode(&b)).transpose()?)
    }

    fn hash_of(&self, position: usize, k: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let mut s = self.conn.prepare_cached(&self.managed[position].sql.select)?;
        let mut rows = s.query(rusqlite::params_from_iter(&key))?;
        let Some(r) = rows.next()? else { return Ok(None) };
        Ok(read_values(r, 0, self.table(position).columns.len()).ok().map(|row| hash(&row)))
    }
}
