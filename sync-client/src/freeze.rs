//! Freezing: intents become one numbered, immutable bundle, in one durable transaction (hop `freeze`).
//!
//! Upserts go parents first, then deletes children first. An intent that means nothing ends here; a
//! row that cannot travel is held back, and nothing else waits for it.

use rusqlite::Connection;
use sync_core::engine::change::{Change, Known, derive};
use sync_core::hash::RequestHasher;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::protocol::capabilities::Limits;
use sync_core::record;
use sync_core::wire::{Form, key_can_travel, push_key, push_payload};

use crate::error::Error;
use crate::store::{Meta, Outbox, OutboxState, Store};

impl Store {
    /// Freezes what is pending, within the server's limits. `None` where nothing has to be pushed.
    ///
    /// A large log is folded in a transaction of its own before: the app may write between the two, and what
    /// it writes is folded in the second one.
    pub(crate) fn freeze(&self, limits: &Limits, now: i64) -> Result<Option<Outbox>, Error> {
        if self.much_logged()? {
            let tx = self.begin()?;
            self.absorb(now)?;
            tx.commit()?;
        }
        let tx = self.begin()?;
        self.absorb(now)?;
        if !self.any_dirty(true)? {
            tx.commit()?;
            return Ok(None);
        }
        let schema_name: String = Meta::WireSchema.get(&tx)?.unwrap_or_else(|| "main".into());
        let mut f = Freezer {
            store: self,
            schema_name,
            hasher: RequestHasher::default(),
            ordinal: 0,
            limit: most(limits.max_rows_per_bundle),
            max_row: most(limits.max_bytes_per_row),
            key: String::new(),
            payload: String::new(),
            holds: Vec::new(),
        };
        tx.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_deletes (t, k, since, base, v); DELETE FROM temp._sync_deletes;",
        )?;
        for position in self.schema().parents_first() {
            f.upserts(*position)?;
        }
        for position in self.schema().parents_first().iter().rev() {
            f.deletes(*position)?;
        }
        let (rows, request_hash, full) = (f.ordinal, f.hasher.finish(), f.ordinal >= f.limit);
        for (t, k, reason, message) in f.holds {
            self.hold(t, &k, reason, &message)?;
        }
        forget_frozen(&tx, full)?;
        if !self.any_dirty(true)? {
            let through = if rows == 0 { Meta::SyncedThrough } else { Meta::OutboxThrough };
            through.set(&tx, Meta::Noticed.integer(&tx)?)?;
        }
        let outbox = if rows == 0 {
            None
        } else {
            let source_id: String = Meta::SourceId.get(&tx)?.ok_or_else(|| Error::Damaged("source".into()))?;
            let outbox = Outbox {
                state: OutboxState::Frozen,
                source_id,
                source_bundle_id: self.next_source_bundle_id()?,
                rows,
                request_hash,
                bundle_seq: 0,
            };
            self.set_outbox(&outbox)?;
            let mut s = tx.prepare("SELECT DISTINCT t FROM main._sync_out")?;
            let tables: Vec<i64> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
            Meta::OutboxColumns.set(&tx, self.columns_of(&tables))?;
            Some(outbox)
        };
        tx.commit()?;
        Ok(outbox)
    }
}

/// Ends the intents that are frozen now, or that meant nothing. When the bundle is full, those that
/// did not fit stay.
fn forget_frozen(conn: &Connection, full: bool) -> Result<(), Error> {
    if full {
        conn.execute_batch("CREATE INDEX IF NOT EXISTS main._sync_out_key ON _sync_out (t, k)")?;
        conn.execute(
            "DELETE FROM main._sync_dirty WHERE EXISTS \
             (SELECT 1 FROM main._sync_out o WHERE o.t = _sync_dirty.t AND o.k = _sync_dirty.k)",
            [],
        )?;
    } else if conn.prepare("SELECT 1 FROM main._sync_dirty WHERE held IS NOT NULL")?.exists([])? {
        conn.execute("DELETE FROM main._sync_dirty WHERE held IS NULL", [])?;
    } else {
        conn.execute("DELETE FROM main._sync_dirty", [])?;
    }
    Ok(())
}

/// A limit of 0 is none.
const fn most(limit: i64) -> i64 {
    if limit > 0 { limit } else { i64::MAX }
}

struct Freezer<'a> {
    store: &'a Store,
    schema_name: String,
    hasher: RequestHasher,
    ordinal: i64,
    limit: i64,
    max_row: i64,
    key: String,
    payload: String,
    holds: Vec<(i64, Vec<u8>, &'static str, String)>,
}

impl Freezer<'_> {
    fn upserts(&mut self, position: usize) -> Result<(), Error> {
        let store = self.store;
        let m = &store.managed[position];
        let table = store.table(position);
        let mut pending = store.conn.prepare_cached(
            "SELECT d.k, d.since, d.base, r.v FROM main._sync_dirty d \
             LEFT JOIN main._sync_row r ON r.t = d.t AND r.k = d.k WHERE d.t = ? AND d.held IS NULL ORDER BY d.k",
        )?;
        let mut deletes = store
            .conn
            .prepare_cached("INSERT INTO temp._sync_deletes (t, k, since, base, v) VALUES (?, ?, ?, ?, ?)")?;
        let mut rows = pending.query([m.id])?;
        while let Some(r) = rows.next()? {
            if self.ordinal >= self.limit {
                break;
            }
            let k: Vec<u8> = r.get(0)?;
            let since: i64 = r.get(1)?;
            let base: Option<Vec<u8>> = r.get(2)?;
            let known = Known::from_stored(r.get(3)?);
            let key = Key::from_stored(k).unpack()?;
            let k: Vec<u8> = r.get(0)?;
            let live = match m.sql.read(&store.conn, &key)? {
                None => None,
                Some(Ok(row)) => Some(row),
                Some(Err(e)) => {
                    let column = &table.columns[e.0].name;
                    let message =
                        format!("column {column} holds text that is not valid UTF-8; correct it or delete the row");
                    self.holds.push((m.id, k, "not_utf8", message));
                    continue;
                }
            };
            if store.withheld.contains(&table.name) {
                let message =
                    "the server does not have this table; add it to the server's schema (see `sync-client schema`)";
                self.holds.push((m.id, k, "unknown_table", message.into()));
                continue;
            }
            let base_record = base.as_deref().map(record::decode).transpose()?;
            match derive(live.as_deref(), known, base_record.as_ref()) {
                Change::Nothing => {}
                Change::Push(Op::Delete, v) => {
                    deletes.execute((m.id, &k, since, &base, v))?;
                }
                Change::Push(op, v) => {
                    if !key_can_travel(table, &key) {
                        let message = "the key is not of the column's kind: a BLOB key has 16 bytes (a UUID), an \
                                       INTEGER key is a number, a TEXT key is text";
                        self.holds.push((m.id, k, "key_form", message.into()));
                        continue;
                    }
                    let row = live.unwrap_or_default();
                    self.payload.clear();
                    push_payload(&mut self.payload, table, &m.order, &row, Form::Exact);
                    if self.payload.len() as i64 > self.max_row {
                        let message =
                            format!("this row is larger than the {} bytes that the server takes", self.max_row);
                        self.holds.push((m.id, k, "too_large", message));
                        continue;
                    }
                    self.put(position, &k, &key, op, v, Some(&record::encode(&row)), base.as_deref(), since)?;
                }
            }
        }
        Ok(())
    }

    fn deletes(&mut self, position: usize) -> Result<(), Error> {
        let m = &self.store.managed[position];
        let mut s = self
            .store
            .conn
            .prepare_cached("SELECT k, since, base, v FROM temp._sync_deletes WHERE t = ? ORDER BY k")?;
        let mut rows = s.query([m.id])?;
        while let Some(r) = rows.next()? {
            if self.ordinal >= self.limit {
                break;
            }
            let k: Vec<u8> = r.get(0)?;
            let key = Key::from_stored(k.clone()).unpack()?;
            let base: Option<Vec<u8>> = r.get(2)?;
            self.put(position, &k, &key, Op::Delete, r.get(3)?, None, base.as_deref(), r.get(1)?)?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one call is one row of the outbox, column by column")]
    fn put(
        &mut self,
        position: usize,
        k: &[u8],
        key: &[sync_core::value::Value],
        op: Op,
        base_version: i64,
        row: Option<&[u8]>,
        base: Option<&[u8]>,
        since: i64,
    ) -> Result<(), Error> {
        let table = self.store.table(position);
        self.key.clear();
        push_key(&mut self.key, table, key, Form::Exact);
        let payload = row.map(|_| self.payload.as_str());
        self.hasher.row(&self.schema_name, &table.name, &self.key, op, base_version, payload);
        self.store
            .conn
            .prepare_cached(
                "INSERT INTO main._sync_out (ordinal, t, k, op, base_version, row, base, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute((self.ordinal, self.store.managed[position].id, k, op.stored(), base_version, row, base, since))?;
        self.ordinal += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::Selection;

    /// Between its commits the app gets the write lock.
    #[test]
    fn a_large_log_is_folded_before_the_freeze_takes_the_lock() {
        for (rows, commits) in [(100, 1), (20_001, 2)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app.db");
            let app = Connection::open(&path).unwrap();
            app.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
            let mut store = Store::open(&path).unwrap();
            store.install("http://localhost", &Selection::All, "source", 0).unwrap();
            let numbers = format!("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
            app.execute_batch(&format!("{numbers} INSERT INTO t SELECT i FROM n")).unwrap();
            let count = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&count);
            let commit = move || {
                counted.fetch_add(1, Ordering::Relaxed);
                false
            };
            store.conn.commit_hook(Some(commit)).unwrap();
            let outbox = store.freeze(&Limits::default(), 1).unwrap().unwrap();
            assert_eq!((outbox.rows, count.load(Ordering::Relaxed)), (rows, commits));
        }
    }
}
