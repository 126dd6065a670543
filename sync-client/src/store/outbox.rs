//! The one frozen bundle in flight. It never changes once it was sent, until the server proved that
//! it did not commit (ARCHITECTURE.md, "One outbox").

use rusqlite::OptionalExtension as _;
use sync_core::engine::departure::Departure;
use sync_core::hash::Digest;
use sync_core::protocol::Op;

use super::{Meta, Store};
use crate::error::Error;

/// Where the outbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutboxState {
    /// Numbered and durable; no commit was sent.
    Frozen,
    /// A commit was sent; its outcome may be unknown.
    Sent,
    /// The server committed it; pull will confirm it.
    Committed,
}

/// The head of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outbox {
    pub(crate) state: OutboxState,
    pub(crate) source_id: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) rows: i64,
    pub(crate) request_hash: Digest,
    /// Once committed.
    pub(crate) bundle_seq: i64,
}

/// One frozen row.
#[derive(Debug)]
pub(crate) struct OutboxRow {
    pub(crate) ordinal: i64,
    pub(crate) t: i64,
    pub(crate) k: Vec<u8>,
    pub(crate) op: Op,
    pub(crate) base_version: i64,
    /// The stored row; none for DELETE.
    pub(crate) row: Option<Vec<u8>>,
    /// How the row left its table; for DELETE.
    pub(crate) departure: Departure,
}

impl OutboxState {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Sent => "sent",
            Self::Committed => "committed",
        }
    }

    fn parse(s: &str) -> Self {
        match s {
            "sent" => Self::Sent,
            "committed" => Self::Committed,
            _ => Self::Frozen,
        }
    }
}

impl Store {
    /// The outbox, where there is one.
    pub(crate) fn outbox(&self) -> Result<Option<Outbox>, Error> {
        let sql = "SELECT state, source_id, source_bundle_id, rows, request_hash, bundle_seq FROM main._sync_outbox";
        Ok(self
            .conn
            .prepare_cached(sql)?
            .query_row([], |r| {
                Ok(Outbox {
                    state: OutboxState::parse(&r.get::<_, String>(0)?),
                    source_id: r.get(1)?,
                    source_bundle_id: r.get(2)?,
                    rows: r.get(3)?,
                    request_hash: Digest::from_bytes(&r.get::<_, Vec<u8>>(4)?).unwrap_or_default(),
                    bundle_seq: r.get(5)?,
                })
            })
            .optional()?)
    }

    /// Writes the head. One statement changes one that is there, so that no crash can take it away
    /// from its rows.
    pub(crate) fn set_outbox(&self, o: &Outbox) -> Result<(), Error> {
        let values =
            (o.state.name(), &o.source_id, o.source_bundle_id, o.rows, o.request_hash.0.as_slice(), o.bundle_seq);
        let changed = self.conn.execute(
            "UPDATE main._sync_outbox SET state = ?, source_id = ?, source_bundle_id = ?, rows = ?, \
             request_hash = ?, bundle_seq = ?",
            values,
        )?;
        if changed == 0 {
            self.conn.execute(
                "INSERT INTO main._sync_outbox (state, source_id, source_bundle_id, rows, request_hash, bundle_seq) \
                 VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )?;
        }
        Ok(())
    }

    /// Reads up to `limit` rows from an ordinal on.
    pub(crate) fn outbox_rows(&self, from: i64, limit: i64) -> Result<Vec<OutboxRow>, Error> {
        let sql = "SELECT t, k, op, base_version, row, ordinal, departure FROM main._sync_out WHERE ordinal >= ? ORDER BY ordinal LIMIT ?";
        let mut s = self.conn.prepare_cached(sql)?;
        let mut rows = s.query((from, limit))?;
        let mut out = Vec::new();
        while let Some(r) = rows.next()? {
            out.push(OutboxRow {
                t: r.get(0)?,
                k: r.get(1)?,
                op: Op::from_stored(r.get(2)?).ok_or_else(|| Error::Damaged("outbox".into()))?,
                base_version: r.get(3)?,
                row: r.get(4)?,
                ordinal: r.get(5)?,
                departure: Departure::from_stored(r.get(6)?),
            });
        }
        Ok(out)
    }

    /// Whether every frozen row is of a table that still travels, with the columns that it had.
    pub(crate) fn outbox_fits(&self) -> Result<bool, Error> {
        let mut s = self.conn.prepare_cached("SELECT DISTINCT t FROM main._sync_out")?;
        let tables: Vec<i64> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
        let stored: String = Meta::OutboxColumns.get(&self.conn)?.unwrap_or_default();
        Ok(tables.iter().all(|t| self.position(*t).is_some_and(|p| !self.held_back.contains_key(&p)))
            && stored == self.columns_of(&tables))
    }

    /// The columns of these tables, as text to compare.
    pub(crate) fn columns_of(&self, tables: &[i64]) -> String {
        let mut out = String::new();
        for (t, position) in tables.iter().filter_map(|t| Some((t, self.position(*t)?))) {
            let names: Vec<&str> = self.table(position).columns.iter().map(|c| c.name.as_str()).collect();
            out.push_str(&format!("{t}:{}\n", names.join(",")));
        }
        out
    }

    /// Puts every frozen row back among the intents. An older base wins over that of a newer edit.
    /// Only after proof that the server did not commit it, or that it does not matter.
    pub(crate) fn release_outbox(&self) -> Result<(), Error> {
        self.keep_unsent()?;
        self.conn.execute(
            "INSERT INTO main._sync_dirty (t, k, since, base, departure, heir) \
             SELECT t, k, since, base, departure, heir FROM main._sync_out WHERE true \
             ON CONFLICT (t, k) DO UPDATE SET base = excluded.base, since = excluded.since",
            [],
        )?;
        self.clear_outbox()
    }

    /// Whether a row is in an outbox that the server may not have committed.
    pub(crate) fn unanswered(&self, t: i64, k: &[u8]) -> Result<bool, Error> {
        // Looked for in the whole outbox: for what happens hardly ever.
        Ok(self.outbox()?.is_some_and(|o| o.state != OutboxState::Committed)
            && self.conn.prepare_cached("SELECT 1 FROM main._sync_out WHERE t = ? AND k = ?")?.exists((t, k))?)
    }

    /// A row of a committed outbox leaves its table until the server's comes: its absence is nobody's delete, and the
    /// bundle brings it back as any other row that this file does not have.
    pub(crate) fn take_out_of_committed(&self, t: i64, k: &[u8]) -> Result<(), Error> {
        if self.conn.prepare_cached("DELETE FROM main._sync_out WHERE t = ? AND k = ?")?.execute((t, k))? > 0 {
            Meta::OutboxDisturbed.set(&self.conn, 1)?;
            Meta::Withdrawn.set(&self.conn, 1)?;
        }
        Ok(())
    }

    /// Removes the outbox. Rows that were withdrawn because of it, and that did not come with it, are fetched.
    pub(crate) fn clear_outbox(&self) -> Result<(), Error> {
        self.conn.execute_batch("DELETE FROM main._sync_out; DELETE FROM main._sync_outbox;")?;
        if Meta::Withdrawn.integer(&self.conn)? != 0 {
            Meta::Withdrawn.clear(&self.conn)?;
            if self.any_unknown()? {
                Meta::Rebuild.set(&self.conn, "a row has to be fetched again")?;
            }
        }
        Meta::PushSession.clear(&self.conn)?;
        Meta::OutboxDisturbed.clear(&self.conn)?;
        Meta::OutboxThrough.clear(&self.conn)?;
        Meta::LostCommits.clear(&self.conn)?;
        Meta::WaitingBundle.clear(&self.conn)?;
        self.forget_gone(true, None)
    }

    /// Remembers that every change noticed so far is settled, where nothing waits or is under way.
    pub(crate) fn note_settled(&self) -> Result<(), Error> {
        if Meta::Noticed.integer(&self.conn)? == Meta::SyncedThrough.integer(&self.conn)? {
            return Ok(());
        }
        let tx = self.begin_unchecked()?;
        if self.outbox()?.is_none() && !self.any_dirty(true)? {
            Meta::SyncedThrough.set(&tx, Meta::Noticed.integer(&tx)?)?;
        }
        Ok(tx.commit()?)
    }

    /// When the newest change was noticed that waits or is under way.
    pub(crate) fn newest_since(&self) -> Result<Option<i64>, Error> {
        let sql = "SELECT max(since) FROM (SELECT since FROM main._sync_dirty WHERE held IS NULL \
                   UNION ALL SELECT since FROM main._sync_out)";
        Ok(self.conn.query_row(sql, [], |r| r.get(0))?)
    }

    /// Whether nothing waits or is under way that was noticed then or before.
    pub(crate) fn none_since(&self, then: i64) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM main._sync_dirty WHERE held IS NULL AND since <= ?1 \
                   UNION ALL SELECT 1 FROM main._sync_outbox LIMIT 1";
        Ok(!self.conn.prepare_cached(sql)?.exists([then])?)
    }

    /// The source's next bundle id.
    pub(crate) fn next_source_bundle_id(&self) -> Result<i64, Error> {
        Ok(Meta::NextSourceBundleId.integer(&self.conn)?.max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::Selection;

    #[test]
    fn the_head_never_goes_away_while_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = rusqlite::Connection::open(&path).unwrap();
        app.execute_batch("CREATE TABLE t (id TEXT PRIMARY KEY)").unwrap();
        let mut store = Store::open(&path).unwrap();
        store.install("http://localhost", &Selection::All, "source", 0).unwrap();
        let mut head = Outbox {
            state: OutboxState::Frozen,
            source_id: "source".into(),
            source_bundle_id: 7,
            rows: 3,
            request_hash: Digest::default(),
            bundle_seq: 0,
        };
        store.set_outbox(&head).unwrap();
        let commits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&commits);
        store
            .conn
            .commit_hook(Some(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                false
            }))
            .unwrap();
        for (n, state) in [OutboxState::Sent, OutboxState::Committed].into_iter().enumerate() {
            head.state = state;
            store.set_outbox(&head).unwrap();
            assert_eq!(store.outbox().unwrap().as_ref(), Some(&head));
            // A write that is more than one commit could be cut in two.
            assert_eq!(commits.load(Ordering::Relaxed), n + 1);
        }
    }
}
