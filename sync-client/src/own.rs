//! An own bundle that is not exactly what was frozen: the server's rules and defaults show here.

use sync_core::engine::change::Known;
use sync_core::engine::merge::{Tie, merge_columns};
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::{self, Record};

use rusqlite::OptionalExtension as _;

use crate::apply::{Applier, fit, full, is_constraint, version_of};
use crate::error::Error;
use crate::inbox::Entry;
use crate::settle::over;
use crate::stage::StagedRow;

impl Applier<'_> {
    /// A row of it.
    pub(crate) fn own_row(&mut self, r: StagedRow, t: i64) -> Result<(), Error> {
        self.store
            .conn
            .prepare_cached("INSERT OR IGNORE INTO temp._sync_came (t, k) VALUES (?, ?)")?
            .execute((t, &r.k))?;
        let known = self.store.known(t, &r.k)?;
        if let Some(dirty) = self.store.dirty(t, &r.k)? {
            // A row that a rule of the server wrote beside those that were sent.
            let Some(sent) = self.frozen_row(t, &r.k)? else { return self.meet(r, known, &dirty) };
            if let Some(w) = &mut self.watch {
                w.touch(t, &r.k, Some(r.op));
            }
            // A newer edit stays; what was committed is its base now.
            let base = r.row.as_deref().map(record::decode).transpose()?;
            self.store.put_dirty(t, &r.k, dirty.since, base.as_ref())?;
            self.store.set_known(t, &r.k, version_of(&r))?;
            return match (&sent, &base) {
                (Some(sent), Some(made)) => self.take_effect(r.position, &r.k, sent, made, r.version),
                _ => Ok(()),
            };
        }
        // Most rows of it are as they were sent: nothing is written, and nobody is told.
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let live = self.store.managed[r.position].sql.read(&self.store.conn, &key)?;
        let remote = r.row.as_deref().map(record::decode).transpose()?;
        let same = match (&live, &remote) {
            (None, None) => true,
            (Some(Ok(live)), Some(remote)) => record::agrees(live, remote),
            _ => false,
        };
        if same {
            self.store.set_known(t, &r.k, version_of(&r))?;
            return self.came(&r);
        }
        self.note_effect(r.position, &r.k, remote.as_ref())?;
        if let (Some(Ok(live)), Some(remote)) = (&live, &remote) {
            self.note_respelling(live, remote)?;
        }
        self.write_or_defer(r, known)
    }

    /// P9: a frozen row that the committed bundle does not contain was removed by the server.
    pub(crate) fn own_rows_gone(&mut self) -> Result<(), Error> {
        let sql = "SELECT t, k, op, row FROM main._sync_out o \
                   WHERE NOT EXISTS (SELECT 1 FROM temp._sync_came c WHERE c.t = o.t AND c.k = o.k)";
        let mut s = self.store.conn.prepare_cached(sql)?;
        let mut rows = s.query([])?;
        while let Some(row) = rows.next()? {
            let t: i64 = row.get(0)?;
            let k: Vec<u8> = row.get(1)?;
            let op = Op::from_stored(row.get(2)?);
            let Some(position) = self.store.position(t) else { continue };
            if self.store.held_back.contains_key(&position) {
                // What came of it was passed over: it meets the server's row once the table travels again.
                if self.store.dirty(t, &k)?.is_none() {
                    self.store.put_dirty(t, &k, self.now, None)?;
                }
                continue;
            }
            if op == Some(Op::Delete) {
                continue;
            }
            let table = self.store.table(position);
            let key = Key::from_stored(k.clone()).unpack()?;
            let sent = row.get::<_, Option<Vec<u8>>>(3)?.map(|b| record::decode(&b)).transpose()?;
            if self.store.dirty(t, &k)?.is_some() {
                // What is noted may mean nothing: set back by the app, or on its way when the file was detached.
                let live = self.store.managed[position].sql.read_bytes(&self.store.conn, &key)?;
                if !live.is_some_and(|live| sent.as_ref().is_some_and(|sent| record::agrees(&live, sent))) {
                    continue;
                }
                self.store.drop_dirty(t, &k)?;
            }
            let sent = sent.map(full);
            self.record(&Entry {
                kind: "discarded",
                at: self.now,
                table,
                key: &key,
                op: op.map_or("UPDATE", Op::name),
                reason: "removed_by_server",
                message: "the server removed this row while it committed the push that contained it",
                local: sent.as_deref(),
                base: None,
                server: None,
            })?;
            if self.store.managed[position].sql.delete(&self.store.conn, &key)? > 0 {
                self.changed(position, &k, true);
            }
            self.store.set_known(t, &k, Known::Never)?;
        }
        Ok(())
    }

    /// The row as it was frozen, `Some(None)` where it was deleted; `None` where it is not in the outbox.
    fn frozen_row(&self, t: i64, k: &[u8]) -> Result<Option<Option<Record>>, Error> {
        let sql = "SELECT o.row FROM temp._sync_frozen f JOIN main._sync_out o ON o.ordinal = f.ordinal \
                   WHERE f.t = ? AND f.k = ?";
        let row: Option<Option<Vec<u8>>> =
            self.store.conn.prepare_cached(sql)?.query_row((t, k), |r| r.get(0)).optional()?;
        Ok(row.map(|row| row.map(|b| record::decode(&b)).transpose()).transpose()?)
    }

    /// The server made something else of a row than what was sent, and the app has changed it since: each column
    /// that it left alone has the server's value.
    pub(crate) fn take_effect(
        &mut self,
        position: usize,
        k: &[u8],
        sent: &Record,
        made: &Record,
        version: i64,
    ) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let Some(Ok(live)) = m.sql.read(&store.conn, &key)? else { return Ok(()) };
        let made = over(fit(made.clone(), store.table(position)), Some(&live));
        let merged = merge_columns(&live, Known::Live(version), Some(sent), &made, Tie::Client).row;
        if merged == live {
            return Ok(());
        }
        match m.sql.update(&store.conn, &key, &merged) {
            Ok(_) => {}
            // The schema here does not take it beside what the app wrote: that stays as it is.
            Err(e) if is_constraint(&e) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        self.note_change(position, &key, &live, &merged)?;
        self.changed(position, k, false);
        self.came(&StagedRow { position, k: k.to_vec(), op: Op::Update, version, row: Some(record::encode(&merged)) })
    }
}
