//! Rebuilding from a snapshot: what the server has replaces what it was known to have, and every
//! local intent survives or is settled like in a pull. Only rows that differ are written.

use sync_core::engine::change::Known;
use sync_core::hash::Digest;
use sync_core::key::Key;
use sync_core::protocol::rows::{WireRow, read_page};
use sync_core::protocol::{Code, Op};
use sync_core::record;

use crate::apply::{Applier, fit};
use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::Error;
use crate::pull::{Pulled, read_failed};
use crate::report::{Event, PullReport};
use crate::stage::{Intake, Stage, StagedRow};
use crate::store::{Meta, Store};

impl Engine {
    /// Downloads a snapshot and merges it with the file.
    pub(crate) fn rebuild_once(&mut self, report: &mut PullReport) -> Result<Pulled, Error> {
        let source = self.source_id()?;
        let session = match self.api.create_snapshot(&source) {
            Ok(s) => s,
            Err(e) if e.code() == Some(Code::ScopeUninitialized) => return Ok(Pulled::Reconnect),
            Err(e) => return Err(e.into()),
        };
        let stage = self.stage()?;
        stage.clear()?;
        let downloaded = self.download(&stage, &source, &session.snapshot_id, session.row_count);
        self.api.delete_snapshot(&source, &session.snapshot_id);
        if let Err(e) = downloaded {
            self.stage = Some(stage);
            return Err(e);
        }
        let outcome = self.apply_snapshot(&stage, session.snapshot_bundle_seq, session.history_hash.as_deref());
        stage.clear()?;
        self.stage = Some(stage);
        let outcome = outcome?;
        report.rebuilt = true;
        report.applied_rows += outcome.applied;
        report.conflicts += outcome.conflicts;
        report.set_aside += outcome.set_aside;
        report.checkpoint = session.snapshot_bundle_seq;
        self.tell(&Event::Applied { rows: outcome.applied, checkpoint: session.snapshot_bundle_seq });
        outcome.events.iter().for_each(|e| self.tell(e));
        Ok(Pulled::Stable)
    }

    fn download(&self, stage: &Stage, source: &str, id: &str, total: i64) -> Result<(), Error> {
        let most = match self.limits.max_rows_per_snapshot_chunk {
            n if n > 0 => n,
            _ => 1000,
        };
        let mut intake = Intake::new(self.store.schema(), self.algorithm());
        let mut after = 0;
        loop {
            let response = self.api.snapshot_page(source, id, after, most).map_err(Error::from)?;
            let mut rows = 0;
            stage.begin()?;
            let page = read_page(response.body, |w: WireRow| {
                rows += 1;
                match intake.snapshot_row(&w)? {
                    Some(row) => stage.put_snapshot_row(&row),
                    None => Ok(()),
                }
            });
            stage.end()?;
            let page = page.map_err(read_failed)?;
            if page.next_row_ordinal != after + rows {
                return Err(Error::Protocol("a snapshot page does not have the rows that it announces".into()));
            }
            after = page.next_row_ordinal;
            self.tell(&Event::Downloaded { rows: after.unsigned_abs(), total: Some(total.unsigned_abs()) });
            self.env.fault(FaultPoint::Downloading);
            if !page.has_more {
                break;
            }
            if rows == 0 {
                return Err(Error::Protocol("a snapshot page made no progress".into()));
            }
        }
        if after != total {
            return Err(Error::Protocol(format!("the snapshot has {after} rows where {total} were announced")));
        }
        Ok(())
    }

    fn apply_snapshot(
        &mut self,
        stage: &Stage,
        seq: i64,
        history: Option<&str>,
    ) -> Result<crate::apply::Outcome, Error> {
        self.store.refresh(self.env.now_ms())?;
        let fork = Meta::Fork.get::<i64>(&self.store.conn)?;
        let tx = self.store.begin()?;
        self.store.absorb(self.env.now_ms())?;
        if let Some(fork) = fork {
            self.store.reopen_above(fork, self.env.now_ms())?;
        }
        // What is in flight is in doubt no more: a row that had committed is equal to the snapshot's.
        if self.store.outbox()?.is_some() {
            self.store.release_outbox()?;
        }
        let mut applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
        applier.begin_bundle("", false);
        stage.each_snapshot_row(|r| applier.snapshot_row(r, fork.is_some()))?;
        applier.missing_from(stage, seq, fork)?;
        applier.end_bundle()?;
        let outcome = applier.finish()?;
        Meta::Checkpoint.set(&tx, seq)?;
        Meta::LatestKnown.set(&tx, seq)?;
        tx.execute("DELETE FROM main._sync_history WHERE seq >= ?", [seq])?;
        match history.and_then(Digest::from_hex) {
            Some(h) => {
                Meta::HistoryHash.set(&tx, h.hex())?;
                tx.execute("INSERT INTO main._sync_history (seq, hash) VALUES (?, ?)", (seq, h.0.as_slice()))?;
            }
            None => Meta::HistoryHash.clear(&tx)?,
        }
        Meta::Rebuild.clear(&tx)?;
        Meta::Fork.clear(&tx)?;
        self.env.fault(FaultPoint::Rebuilding);
        tx.commit()?;
        Ok(outcome)
    }
}

impl Store {
    /// Every row and tombstone above the fork is local work again.
    fn reopen_above(&self, fork: i64, now: i64) -> Result<(), Error> {
        self.conn.execute(
            "INSERT OR IGNORE INTO main._sync_dirty (t, k, since) SELECT t, k, ? FROM main._sync_row WHERE abs(v) > ?",
            (now, fork),
        )?;
        self.conn.execute("DELETE FROM main._sync_row WHERE v < 0 AND -v > ?", [fork])?;
        Ok(())
    }
}

impl Applier<'_> {
    /// A row of the snapshot. Where it has the version that this file knows, there is no conflict: an
    /// intent for it stays, on this row as its base.
    pub(crate) fn snapshot_row(&mut self, r: StagedRow, rewritten: bool) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[r.position]);
        let known = store.known(m.id, &r.k)?;
        let dirty = if self.any_dirty { store.dirty(m.id, &r.k)? } else { None };
        let Some(dirty) = dirty else {
            if known == Known::Live(r.version) && !rewritten {
                return Ok(());
            }
            return self.write_or_defer(r, known);
        };
        if known.version() != r.version && !rewritten {
            return self.meet(r, known, &dirty);
        }
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let remote = r.row.as_deref().map(record::decode).transpose()?.map(|row| fit(row, store.table(r.position)));
        store.set_known(m.id, &r.k, Known::Live(r.version))?;
        let live = m.sql.read(&store.conn, &key)?;
        match (live, &remote) {
            (Some(Ok(live)), Some(remote))
                if live.iter().zip(remote).all(|(l, r)| r.as_ref().is_none_or(|r| r == l)) =>
            {
                store.drop_dirty(m.id, &r.k)?;
                Ok(())
            }
            _ => store.put_dirty(m.id, &r.k, dirty.since, remote.as_ref()),
        }
    }

    /// Rows that the server was known to have and that the snapshot lacks were deleted there.
    pub(crate) fn missing_from(&mut self, stage: &Stage, seq: i64, fork: Option<i64>) -> Result<(), Error> {
        let store = self.store;
        for (position, m) in store.managed.iter().enumerate() {
            let mut s = store.conn.prepare("SELECT k FROM main._sync_row WHERE t = ? AND v > 0 ORDER BY k")?;
            let mut rows = s.query([m.id])?;
            let mut gone = Vec::new();
            while let Some(row) = rows.next()? {
                let k: Vec<u8> = row.get(0)?;
                if !stage.in_snapshot(position, &k)? {
                    gone.push(k);
                }
            }
            drop(rows);
            for k in gone {
                if self.any_dirty {
                    self.missing.insert((position, k.clone()));
                }
                let known = store.known(m.id, &k)?;
                let r = StagedRow { position, k, op: Op::Delete, version: seq, row: None };
                match if self.any_dirty { store.dirty(m.id, &r.k)? } else { None } {
                    // Rewritten history: what this file has above the fork is local work.
                    Some(_) if fork.is_some_and(|f| known.version() > f) => {
                        store.set_known(m.id, &r.k, Known::Never)?;
                    }
                    Some(dirty) => {
                        let k = r.k.clone();
                        self.meet(r, known, &dirty)?;
                        // The tombstone's own version is not known: the server names it if it matters.
                        store.set_known(m.id, &k, Known::Never)?;
                    }
                    None => {
                        let k = r.k.clone();
                        self.write_or_defer(r, known)?;
                        store.set_known(m.id, &k, Known::Never)?;
                    }
                }
            }
        }
        Ok(())
    }
}
