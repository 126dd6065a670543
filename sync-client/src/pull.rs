//! Pulling: bundles after the checkpoint are staged, verified, and applied whole (hops `pull`, `apply`).

use std::cell::Cell;

use sync_core::hash::{Algorithm, BundleHasher, Digest, HashRow};
use sync_core::key::Key;
use sync_core::protocol::pull::{BundleHead, PullHead, PullRequest};
use sync_core::protocol::rows::{PullSink, ReadError, WireRow, read_pull};
use sync_core::protocol::{Code, Op};
use sync_core::record;
use sync_core::value::Value;
use sync_core::wire::{Form, push_key, push_payload};

use crate::api::broken;
use crate::apply::Applier;
use crate::asking::{Answers, Attempt};
use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::release::Watch;
use crate::report::{Event, PullReport};
use crate::same_bundle::identity;
use crate::stage::{Intake, Stage, StagedBundle};
use crate::store::{Meta, Outbox, OutboxState};
use crate::whole::{Finished, NOT_WHOLE};

/// How a pull ended.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// Everything up to the frozen end of the window is applied.
    Stable,
    /// The history is pruned, rewritten or broken: rebuild from a snapshot.
    Rebuild,
    /// The server does not know this scope any more.
    Reconnect,
}

/// What is known of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Whether it is history.
    Known,
    /// Not that; or nothing of it was committed, and it is to stay as it is.
    Open,
}

/// How far staged bundles were applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    /// All of them.
    Whole,
    /// A rebuild has to do it.
    NeedsRebuild,
    /// Up to one that has to wait until the fate of the outbox is known.
    Waits,
}

impl Engine {
    /// Pulls until the window that was frozen by the first page is applied.
    pub(crate) fn pull_to_stable(&mut self, report: &mut PullReport) -> Result<Pulled, Error> {
        let mut target = 0;
        let mut asked = false;
        // Why it could not be asked whether the outbox is history.
        let mut doubt = None;
        loop {
            let conn = &self.store.conn;
            let checkpoint = Meta::Checkpoint.integer(conn)?;
            let ours = self.api.is_ours();
            let small = self.small_pages();
            let request = PullRequest {
                after_bundle_seq: checkpoint,
                max_bundles: if small {
                    20
                } else if ours {
                    0
                } else {
                    200
                },
                target_bundle_seq: target,
                after_history_hash: Meta::HistoryHash.get::<String>(conn)?.filter(|_| ours),
                max_inline_rows: ours.then_some(if small { SMALL_PAGE_ROWS } else { INLINE_ROWS }),
            };
            let source = self.source_id()?;
            let response = match self.api.pull(&source, &request) {
                Ok(r) => r,
                Err(e) => match e.code() {
                    Some(Code::HistoryPruned) => {
                        return self.must_rebuild("the history after the checkpoint is no longer kept");
                    }
                    Some(Code::CheckpointAhead | Code::HistoryDiverged) => {
                        self.rewritten(0)?;
                        return Ok(Pulled::Rebuild);
                    }
                    Some(Code::ScopeUninitialized) => return Ok(Pulled::Reconnect),
                    // This device seeds the scope, and every row of its first push was refused.
                    Some(Code::ScopeInitializing) if Meta::InitializationId.get::<String>(conn)?.is_some() => {
                        return Ok(Pulled::Stable);
                    }
                    None if e.wordless() == Some(409) && Meta::InitializationId.get::<String>(conn)?.is_some() => {
                        return Ok(Pulled::Stable);
                    }
                    // What stands against it is lost on the way. A snapshot says so where it is the history, and its
                    // refusal makes this connect again.
                    None if e.wordless() == Some(409) => return self.must_rebuild("the server refuses the checkpoint"),
                    _ => return Err(e.into()),
                },
            };
            let mut stage = self.stage()?;
            stage.snapshot = None;
            match &stage.bundle {
                Some(fetched) => stage.clear_but(fetched.rows_at())?,
                None => stage.clear()?,
            }
            let told = Cell::new(target > 0);
            let tell = |head: &PullHead| {
                if !told.replace(true) && head.stable_bundle_seq > checkpoint {
                    let (target, rows) = (head.stable_bundle_seq, head.row_count.map(i64::unsigned_abs));
                    self.tell(&Event::Pulling { checkpoint, target, rows });
                }
            };
            let mut sink = Sink {
                intake: Intake::new(&self.store, self.algorithm()),
                begin: &tell,
                stage: &stage,
                expected: checkpoint + 1,
                ordinal: 0,
                seq: 0,
            };
            let head = match stage.step(|| read_pull(response.body, &mut sink).map_err(read_failed)) {
                Ok(head) => head,
                Err(Error::Protocol(why)) => {
                    tracing::warn!("a pull was refused: {why}");
                    return self.must_rebuild(&why);
                }
                Err(e) => {
                    let failed = Err(e);
                    self.keep_stage(stage, &failed);
                    return failed;
                }
            };
            tell(&head);
            // The first page said where the history ends; it does not become shorter while it is read.
            if head.stable_bundle_seq < target {
                self.stage = Some(stage);
                return Err(Error::OldReply { said: head.stable_bundle_seq, known: target });
            }
            Meta::LatestKnown
                .keep(&self.store.conn, head.stable_bundle_seq.max(Meta::LatestKnown.integer(&self.store.conn)?))?;
            if head.stable_bundle_seq < checkpoint {
                self.stage = Some(stage);
                self.rewritten(head.stable_bundle_seq)?;
                return Ok(Pulled::Rebuild);
            }
            target = head.stable_bundle_seq;
            let bundles = stage.bundles()?;
            // Nothing of this history was known, but it may be the one of before: its rows are not strange then.
            if checkpoint == 0 && !bundles.is_empty() && self.earlier_came_back(&source)?.is_some() {
                self.stage = Some(stage);
                return self.must_rebuild("the history that this file was of before is back");
            }
            let outbox = self.store.outbox()?.filter(|o| o.state != OutboxState::Frozen);
            let in_doubt = self.in_doubt()?;
            let of_others = bundles.iter().any(|b| !is_own(b, outbox.as_ref()));
            if !asked && outbox.is_some() && (of_others || in_doubt && !bundles.is_empty()) {
                asked = true;
                // Rows of others must not be written over frozen ones that this history does not have.
                match self.confirm_committed() {
                    Ok(Some(seq)) if seq > 0 => doubt = None,
                    Err(e) if e.lets_pull() => doubt = Some(e),
                    other => {
                        self.stage = Some(stage);
                        match other? {
                            Some(_) => return Ok(Pulled::Rebuild),
                            None => self.fresh_source()?,
                        }
                        continue;
                    }
                }
            }
            let frozen = self.store.outbox()?.is_some_and(|o| o.state == OutboxState::Frozen);
            let done = if frozen || doubt.is_some() {
                self.apply_untouched(&mut stage, &bundles, report)
            } else {
                self.apply_bundles(&mut stage, &bundles, report)
            };
            self.keep_stage(stage, &done);
            // A bundle whose rows are not what its head says: a snapshot may do what it cannot.
            if let Err(Error::Protocol(why)) = &done {
                tracing::warn!("a bundle was refused: {why}");
                return self.must_rebuild(why);
            }
            match done? {
                Applied::Whole => {}
                Applied::NeedsRebuild => return self.must_rebuild(NOT_WHOLE),
                Applied::Waits => match doubt {
                    Some(e) => return Err(e),
                    // Nothing of it was committed: its rows are settled with what comes.
                    None => {
                        self.thaw()?;
                        continue;
                    }
                },
            }
            let now_at = Meta::Checkpoint.integer(&self.store.conn)?;
            report.checkpoint = now_at;
            if !head.has_more || now_at >= target {
                if now_at < target && bundles.is_empty() {
                    return self.must_rebuild("the server's history has a gap");
                }
                if now_at >= target {
                    return Ok(Pulled::Stable);
                }
            } else if bundles.is_empty() {
                return Err(Error::Protocol("a pull page made no progress".into()));
            }
        }
    }

    fn must_rebuild(&self, why: &str) -> Result<Pulled, Error> {
        Meta::Rebuild.set(&self.store.conn, why)?;
        Ok(Pulled::Rebuild)
    }

    /// Applies staged bundles in order, several small ones in one transaction.
    fn apply_bundles(
        &self,
        stage: &mut Stage,
        bundles: &[StagedBundle],
        report: &mut PullReport,
    ) -> Result<Applied, Error> {
        let mut at = 0;
        while at < bundles.len() {
            if at > 0 {
                self.check_stopped()?;
            }
            let outbox = self.store.outbox()?;
            let first = &bundles[at];
            self.notice_twin(first)?;
            if is_own(first, outbox.as_ref()) && self.confirm_by_hash(first, outbox.as_ref())? {
                report.bundles += 1;
                at += 1;
                continue;
            }
            if first.omitted {
                self.fetch_rows(stage, first)?;
            }
            let mut end = at + 1;
            let mut rows = first.rows;
            while end < bundles.len()
                && !bundles[end].omitted
                && rows + bundles[end].rows <= ROWS_PER_TRANSACTION
                && !is_own(&bundles[end], outbox.as_ref())
                && !is_own(first, outbox.as_ref())
            {
                rows += bundles[end].rows;
                end += 1;
            }
            self.env.fault(FaultPoint::Staged);
            match self.apply_together(stage, &bundles[at..end], (outbox.as_ref(), Fate::Known), report)? {
                Applied::Whole => at = end,
                other => return Ok(other),
            }
        }
        Ok(Applied::Whole)
    }

    /// The same while the outbox is half uploaded, or nobody knows whether it is history: up to the first bundle that
    /// touches a row of it.
    fn apply_untouched(
        &self,
        stage: &mut Stage,
        bundles: &[StagedBundle],
        report: &mut PullReport,
    ) -> Result<Applied, Error> {
        for b in bundles {
            self.check_stopped()?;
            let outbox = self.store.outbox()?;
            if is_own(b, outbox.as_ref()) {
                // The very rows that were frozen: that is the proof.
                if !self.confirm_by_hash(b, outbox.as_ref())? {
                    return self.waits(b);
                }
                report.bundles += 1;
                continue;
            }
            if b.omitted {
                self.fetch_rows(stage, b)?;
            }
            let applied = match outbox {
                Some(_) if self.touches_outbox(stage, b)? => Applied::Waits,
                _ => self.apply_together(stage, std::slice::from_ref(b), (outbox.as_ref(), Fate::Open), report)?,
            };
            match applied {
                Applied::Whole => {}
                Applied::Waits => return self.waits(b),
                Applied::NeedsRebuild => return Ok(Applied::NeedsRebuild),
            }
        }
        Ok(Applied::Whole)
    }

    /// This bundle waits for the fate of the outbox; `status` says so.
    fn waits(&self, b: &StagedBundle) -> Result<Applied, Error> {
        Meta::WaitingBundle.keep(&self.store.conn, b.seq)?;
        Ok(Applied::Waits)
    }

    fn touches_outbox(&self, stage: &Stage, b: &StagedBundle) -> Result<bool, Error> {
        let mut frozen = self.store.conn.prepare_cached("SELECT 1 FROM main._sync_out WHERE t = ? AND k = ?")?;
        let mut touches = false;
        stage.each_row(b.rows_at(), |row| {
            touches = touches || frozen.exists((self.store.managed[row.position].id, &row.k))?;
            Ok(())
        })?;
        Ok(touches)
    }

    fn apply_together(
        &self,
        stage: &Stage,
        bundles: &[StagedBundle],
        outbox: (Option<&Outbox>, Fate),
        report: &mut PullReport,
    ) -> Result<Applied, Error> {
        self.asking(|answers| self.try_together(stage, bundles, outbox, report, answers))
    }

    fn try_together(
        &self,
        stage: &Stage,
        bundles: &[StagedBundle],
        (outbox, fate): (Option<&Outbox>, Fate),
        report: &mut PullReport,
        answers: &Answers,
    ) -> Result<Attempt<Applied>, Error> {
        let tx = self.store.begin()?;
        let disturbed = Meta::OutboxDisturbed.integer(&tx)?;
        if !mutant::on(Mutant::StaleCheck) {
            self.store.absorb(self.env.now_ms())?;
        }
        let mut applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
        applier.answers = Some(answers);
        applier.stage = Some(stage);
        applier.rounds = !self.api.is_ours();
        for b in bundles {
            let own = is_own(b, outbox);
            applier.on_its_way = outbox.is_some() && !own;
            applier.begin_bundle(&b.source_id, own)?;
            stage.each_row(b.rows_at(), |row| applier.row(row))?;
            applier.end_bundle()?;
            self.confirm(b, own)?;
        }
        if let Some(asks) = applier.asks() {
            return Ok(asks);
        }
        let Finished::Whole(whole) = applier.finish(tx)? else { return Ok(Attempt::Undone(Applied::NeedsRebuild)) };
        // A row of the outbox would have to leave for it, and may be history by now.
        if outbox.is_some() && fate == Fate::Open && Meta::OutboxDisturbed.integer(&self.store.conn)? != disturbed {
            return Ok(Attempt::Undone(Applied::Waits));
        }
        self.env.fault(FaultPoint::Applying);
        let outcome = whole.commit()?;
        report.bundles += bundles.len() as u64;
        report.applied_rows += outcome.applied;
        report.conflicts += outcome.conflicts;
        report.set_aside += outcome.set_aside;
        let checkpoint = bundles.last().map_or(0, |b| b.seq);
        self.tell(&Event::Applied { rows: report.applied_rows, checkpoint });
        outcome.events.iter().for_each(|e| self.tell(e));
        Ok(Attempt::Kept(Applied::Whole))
    }

    /// Moves the checkpoint over a bundle, in the transaction that applied it.
    fn confirm(&self, b: &StagedBundle, own: bool) -> Result<(), Error> {
        let conn = &self.store.conn;
        Meta::Checkpoint.set(conn, b.seq)?;
        match &b.history {
            Some(h) => {
                Meta::HistoryHash.set(conn, h)?;
                if let Some(d) = Digest::from_hex(h) {
                    conn.prepare_cached("INSERT OR REPLACE INTO main._sync_history (seq, hash) VALUES (?, ?)")?
                        .execute((b.seq, d.0.as_slice()))?;
                    conn.prepare_cached("DELETE FROM main._sync_history WHERE seq <= ?")?
                        .execute([b.seq - KEPT_HASHES])?;
                    // A history that has gone so far is here to stay.
                    if b.seq % KEPT_HASHES == 0 && b.seq >= KEPT_HASHES + Meta::EarlierFork.integer(conn)? {
                        self.store.forget_earlier()?;
                    }
                }
            }
            None => {
                Meta::HistoryHash.clear(conn)?;
                let hash = b.hash.as_deref().unwrap_or_default();
                Meta::CheckpointBundle.set(conn, identity(b.seq, &b.source_id, b.source_bundle_id, hash))?;
            }
        }
        if own {
            Meta::NextSourceBundleId.set(conn, b.source_bundle_id + 1)?;
            if let Some(through) = Meta::OutboxThrough.get::<i64>(conn)? {
                Meta::SyncedThrough.set(conn, through)?;
            }
            self.store.clear_outbox()?;
        }
        Ok(())
    }

    /// The usual case of an own bundle: it is exactly what was frozen, which its hash proves. Nothing is
    /// downloaded, and no row of the app is touched.
    fn confirm_by_hash(&self, b: &StagedBundle, outbox: Option<&Outbox>) -> Result<bool, Error> {
        let (Some(outbox), Some(hash)) = (outbox, &b.hash) else { return Ok(false) };
        let disturbed = Meta::OutboxDisturbed.integer(&self.store.conn)? != 0;
        if disturbed || outbox.rows != b.rows || self.frozen_hash(b.seq)? != *hash {
            return Ok(false);
        }
        let tx = self.store.begin()?;
        tx.execute(
            "INSERT OR REPLACE INTO main._sync_row (t, k, v) \
             SELECT t, k, CASE op WHEN 3 THEN -?1 ELSE ?1 END FROM main._sync_out",
            [b.seq],
        )?;
        // A newer edit that nobody watched stands on what was frozen.
        tx.execute(
            "UPDATE main._sync_dirty SET base = o.row FROM main._sync_out o \
             WHERE o.t = _sync_dirty.t AND o.k = _sync_dirty.k AND _sync_dirty.base IS NULL AND o.row IS NOT NULL",
            [],
        )?;
        // What was refused because of a row that is on the server now, may pass.
        if let Some(mut watch) = Watch::new(&self.store)? {
            let mut s = tx.prepare_cached("SELECT t, k, op FROM main._sync_out")?;
            let mut rows = s.query([])?;
            while let Some(r) = rows.next()? {
                watch.touch(r.get(0)?, &r.get::<_, Vec<u8>>(1)?, Op::from_stored(r.get(2)?));
            }
            watch.release(&self.store)?;
        }
        if Meta::SetAside.integer(&tx)? != 0 {
            let mut s = tx.prepare_cached("SELECT DISTINCT t FROM main._sync_out WHERE op <> 1")?;
            let tables: Vec<i64> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
            let tables = tables.into_iter().filter_map(|t| self.store.position(t));
            let mut applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
            applier.committed_beside_absent()?;
            applier.try_aside(tables)?;
        }
        self.confirm(b, true)?;
        tx.commit()?;
        self.tell(&Event::Applied { rows: b.rows.unsigned_abs(), checkpoint: b.seq });
        Ok(true)
    }

    /// The hash that the outbox would have as this bundle.
    fn frozen_hash(&self, seq: i64) -> Result<String, Error> {
        let form = match self.algorithm() {
            Algorithm::Blake3 => Form::Exact,
            Algorithm::Sha256 => Form::Reference,
        };
        let schema_name = self.wire_schema()?;
        let mut hasher = BundleHasher::new(self.algorithm());
        let (mut key, mut payload) = (String::new(), String::new());
        let mut from = 0;
        loop {
            let rows = self.store.outbox_rows(from, 500)?;
            if rows.is_empty() {
                return Ok(hasher.finish().hex());
            }
            from += rows.len() as i64;
            for r in rows {
                let Some(position) = self.store.position(r.t) else { return Ok(String::new()) };
                let table = self.store.table(position);
                key.clear();
                push_key(&mut key, table, &Key::from_stored(r.k).unpack()?, form);
                payload.clear();
                if let Some(stored) = &r.row {
                    // A row that was sent in part comes back whole.
                    let row: Vec<Value> = record::decode(stored)?.into_iter().map_while(|v| v).collect();
                    if row.len() != table.columns.len() {
                        return Ok(String::new());
                    }
                    push_payload(&mut payload, table, &self.store.managed[position].order, &row, form);
                }
                hasher.row(HashRow {
                    schema: &schema_name,
                    table: &table.name,
                    key: &key,
                    op: r.op,
                    row_version: seq,
                    payload: r.row.is_some().then_some(&payload),
                });
            }
        }
    }

    /// P3: our source wrote a bundle that this file did not freeze: a copy of the file uses it too.
    fn notice_twin(&self, b: &StagedBundle) -> Result<(), Error> {
        let conn = &self.store.conn;
        if b.source_id != self.source_id()? || b.source_bundle_id < self.store.next_source_bundle_id()? {
            return Ok(());
        }
        let outbox = self.store.outbox()?;
        let ours = outbox.as_ref().is_some_and(|o| {
            o.source_bundle_id == b.source_bundle_id && o.source_id == b.source_id && o.state != OutboxState::Frozen
        });
        if !ours {
            let tx = self.store.begin()?;
            self.store.remember_sent_rows()?;
            self.store.leave_source()?;
            self.store.release_outbox()?;
            Meta::SourceId.set(conn, self.env.new_id())?;
            Meta::NextSourceBundleId.set(conn, 1)?;
            tx.commit()?;
        }
        Ok(())
    }
}

fn is_own(b: &StagedBundle, outbox: Option<&Outbox>) -> bool {
    outbox.is_some_and(|o| {
        o.source_id == b.source_id && o.source_bundle_id == b.source_bundle_id && o.state != OutboxState::Frozen
    })
}

pub(crate) fn read_failed(e: ReadError<Error>) -> Error {
    match e {
        ReadError::Json(e) => {
            Error::Offline { message: format!("the reply is not whole: {e}"), retry_after: None, lost: true }
        }
        ReadError::Io(e) => broken(e),
        ReadError::Stopped(e) => e,
    }
}

struct Sink<'a> {
    intake: Intake<'a>,
    begin: &'a dyn Fn(&PullHead),
    stage: &'a Stage,
    /// The only sequence that may come next.
    expected: i64,
    ordinal: i64,
    seq: i64,
}

impl PullSink for Sink<'_> {
    type Error = Error;

    fn begin(&mut self, head: PullHead) {
        (self.begin)(&head);
    }

    fn row(&mut self, w: WireRow) -> Result<(), Error> {
        if let Some(row) = self.intake.row(&w)? {
            // The head follows its rows: until then they stand under the sequence that must come.
            self.stage.put_row(self.expected, self.ordinal, &row)?;
            self.ordinal += 1;
        }
        Ok(())
    }

    fn bundle(&mut self, head: BundleHead) -> Result<(), Error> {
        if head.bundle_seq != self.expected && !mutant::on(Mutant::Unverified) {
            return Err(Error::Protocol(format!("bundle {} came where {} was due", head.bundle_seq, self.expected)));
        }
        self.seq = head.bundle_seq;
        let rows = if head.rows_omitted {
            head.row_count.unwrap_or(0)
        } else {
            let rows = self.intake.rows();
            self.intake.finish(&head)?;
            rows
        };
        self.stage.put_bundle(&StagedBundle {
            seq: head.bundle_seq,
            source_id: head.source_id,
            source_bundle_id: head.source_bundle_id,
            rows,
            hash: head.bundle_hash,
            history: head.history_hash,
            omitted: head.rows_omitted,
        })?;
        self.expected += 1;
        self.ordinal = 0;
        Ok(())
    }
}

/// A bundle with more rows comes without them and is fetched page by page.
const INLINE_ROWS: i64 = 2000;
/// The same where a call may only use so many bytes.
const SMALL_PAGE_ROWS: i64 = 200;
/// Small bundles are applied together up to this many rows, so that locks stay short.
const ROWS_PER_TRANSACTION: i64 = 2000;
/// History hashes that are kept to find a fork.
const KEPT_HASHES: i64 = 1000;
