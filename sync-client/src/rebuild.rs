//! Rebuilding from a snapshot: what the server has replaces what it was known to have, and every
//! local intent survives or is settled like in a pull. Only rows that differ are written.

use std::collections::BTreeMap;

use sync_core::engine::change::Known;
use sync_core::hash::Digest;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::protocol::snapshot::SnapshotSession;
use sync_core::record::{self, Record};

use crate::apply::{Applier, Outcome, fit, is_constraint};
use crate::asking::{Answers, Attempt};
use crate::attach::Attach;
use crate::context::FaultPoint;
use crate::detach::Intents;
use crate::engine::Engine;
use crate::error::Error;
use crate::lineage::Lineage;
use crate::mutant::{self, Mutant};
use crate::pull::Pulled;
use crate::report::{Event, PullReport};
use crate::settle::lacks;
use crate::stage::{Stage, StagedRow};
use crate::store::{Grown, Meta, OutboxState, Store};

/// What was asked about a snapshot.
struct Asked {
    /// The highest bundle that its history shares with this file's, where they are not the same.
    fork: Option<i64>,
    /// This file's is the one that it was of before.
    earlier: bool,
    /// The bundle of the outbox in it: see [`Engine::confirm_committed`].
    committed: Option<i64>,
    /// What the server deleted with it.
    removed: Intents,
    /// Its newest bundle: see [`Engine::bundle_of`].
    bundle: Option<String>,
}

/// What the server made of a row that was sent.
struct Effect {
    position: usize,
    k: Vec<u8>,
    sent: Record,
    made: Record,
}

impl Engine {
    /// Downloads a snapshot and merges it with the file.
    pub(crate) fn rebuild_once(&mut self, report: &mut PullReport) -> Result<Pulled, Error> {
        let source = self.source_id()?;
        let mut stage = self.stage()?;
        let resumed = stage.snapshot.is_some();
        let downloaded = self.download_snapshot(&mut stage, &source);
        let session = match downloaded {
            Ok(Some(session)) => session,
            // This device seeds the scope: there is nothing yet that a rebuild could bring.
            Err(Error::RetryLater { .. }) if Meta::InitializationId.get::<String>(&self.store.conn)?.is_some() => {
                self.stage = Some(stage);
                Meta::Rebuild.clear(&self.store.conn)?;
                return Ok(Pulled::Stable);
            }
            other => {
                self.keep_stage(stage, &other);
                return other.map(|_| Pulled::Reconnect);
            }
        };
        let asked = match self.ask_after_snapshot(&source, &session, &stage) {
            Ok(Some(asked)) => asked,
            other => return other.map(|_| Pulled::Rebuild),
        };
        // What is newer than it is neither gone nor decided. One that was begun before is made anew.
        if asked.fork.is_none() && !asked.earlier {
            match not_older(&session, Meta::Checkpoint.integer(&self.store.conn)?) {
                Err(Error::OldReply { .. }) if resumed => return Ok(Pulled::Rebuild),
                other => other?,
            }
        }
        let outcome = self.asking(|answers| self.apply_snapshot(&stage, &session, &asked, answers))?;
        let cleared = stage.clear();
        self.keep_stage(stage, &cleared);
        match asked.bundle {
            Some(bundle) => Meta::CheckpointBundle.set(&self.store.conn, bundle)?,
            None => Meta::CheckpointBundle.clear(&self.store.conn)?,
        }
        report.rebuilt = true;
        report.applied_rows += outcome.applied;
        report.conflicts += outcome.conflicts;
        report.set_aside += outcome.set_aside;
        report.checkpoint = session.snapshot_bundle_seq;
        self.tell(&Event::Applied { rows: outcome.applied, checkpoint: session.snapshot_bundle_seq });
        outcome.events.iter().for_each(|e| self.tell(e));
        Ok(Pulled::Stable)
    }

    /// What the server has to say once a snapshot was made, so that what it shows is judged by its own history.
    /// `None` where it cannot be: it is older than a push of this file, or of a history that is gone by now.
    fn ask_after_snapshot(
        &self,
        source: &str,
        session: &SnapshotSession,
        stage: &Stage,
    ) -> Result<Option<Asked>, Error> {
        let conn = &self.store.conn;
        let seq = session.snapshot_bundle_seq;
        let judged = Meta::Checkpoint.integer(conn)? > 0 || self.store.outbox()?.is_some();
        let fork = self.fork(source, seq)?;
        let anew = fork.is_some() || Meta::Checkpoint.integer(conn)? == 0;
        let earlier = if anew { self.earlier_came_back(source)? } else { None };
        // Of two histories that begin alike, the server's is the one that goes along with it further.
        let earlier = earlier.filter(|e| e.shared > fork.unwrap_or(0));
        let committed = self.confirm_committed()?;
        let asked = Asked {
            fork: earlier.map_or(fork, |e| e.fork),
            earlier: earlier.is_some(),
            committed,
            removed: match committed {
                Some(bundle) if bundle > 0 && self.store.any_missing_from(stage)? => self.deleted_by(source, bundle)?,
                _ => Intents::new(),
            },
            bundle: self.bundle_of(seq)?,
        };
        let history = session.history_hash.clone().filter(|_| judged || earlier.is_some());
        let stale = asked.committed.is_some_and(|committed| committed > seq)
            || history.is_some() && self.lineage_at(source, seq, history)? == Lineage::Other;
        Ok((!stale).then_some(asked))
    }

    fn apply_snapshot(
        &self,
        stage: &Stage,
        session: &SnapshotSession,
        asked: &Asked,
        answers: &Answers,
    ) -> Result<Attempt<Outcome>, Error> {
        let &Asked { fork, earlier, committed, .. } = asked;
        let seq = session.snapshot_bundle_seq;
        let tx = self.store.begin()?;
        // First: what happens below may ask for another one.
        for m in [Meta::Rebuild, Meta::Fork, Meta::Withdrawn] {
            m.clear(&tx)?;
        }
        self.store.absorb(self.env.now_ms())?;
        if earlier {
            self.store.take_up_earlier(self.env.now_ms(), fork)?;
        } else if let Some(fork) = fork {
            self.store.set_history_aside(fork)?;
        }
        if let Some(fork) = fork {
            self.store.reopen_above(fork, self.env.now_ms())?;
        }
        if mutant::on(Mutant::RebuildForgets) {
            tx.execute_batch(
                "DELETE FROM main._sync_dirty; DELETE FROM main._sync_out; DELETE FROM main._sync_outbox",
            )?;
        }
        let mut effects = Vec::new();
        if let Some(outbox) = self.store.outbox()? {
            if committed.is_some() {
                self.store.remember_frozen()?;
            }
            if outbox.state != OutboxState::Frozen {
                effects = self.store.settle_by_snapshot(stage, committed)?;
            }
            self.store.release_outbox()?;
            if committed.is_some() {
                Meta::NextSourceBundleId.set(&tx, outbox.source_bundle_id + 1)?;
            }
        }
        self.store.settle_marks(stage, fork.is_none())?;
        let mut applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
        applier.answers = Some(answers);
        applier.stage = Some(stage);
        applier.rebuilding = true;
        applier.pushed = committed;
        applier.removed = asked.removed.clone();
        applier.rounds = !self.api.is_ours();
        applier.begin_bundle("", false)?;
        match self.attach_mode()? {
            Some(Attach::TakeRemote) => {
                applier.give_way(Some(stage))?;
                // What the app writes from here on is an edit like any other.
                Meta::Joined.set(&tx, 1)?;
            }
            Some(Attach::Copy) if !mutant::on(Mutant::CopiesMerged) => {
                applier.same_up_to = applier.likeness(stage)?.same_up_to()
            }
            None if Meta::Joined.integer(&tx)? == 0 => {
                if let Some(question) = applier.likeness(stage)?.question(self.store.schema()) {
                    return Err(question);
                }
            }
            _ => {}
        }
        for e in effects {
            applier.take_effect(e.position, &e.k, &e.sent, &e.made, seq)?;
        }
        let grown = self.store.grown_tables()?;
        stage.each_snapshot_row(self.store.schema().parents_first(), |r| applier.snapshot_row(r, fork, &grown))?;
        applier.missing_from(stage, seq, fork)?;
        if let Some(fork) = fork {
            // Tombstones of the history that is no more would hide what has the same versions in this one.
            tx.execute("DELETE FROM main._sync_row WHERE v < 0 AND -v > ?", [fork])?;
        }
        applier.end_bundle()?;
        if let Some(asks) = applier.asks() {
            return Ok(asks);
        }
        let whole = applier.finish_displacing(tx)?;
        let conn = &self.store.conn;
        Meta::Checkpoint.set(conn, seq)?;
        Meta::LatestKnown.set(conn, seq)?;
        // Hashes of a history that is no more would hide where the next one parts.
        conn.execute("DELETE FROM main._sync_history WHERE seq >= ?1 OR seq > ?2", (seq, fork.unwrap_or(seq)))?;
        match session.history_hash.as_deref().and_then(Digest::from_hex) {
            Some(h) => {
                Meta::HistoryHash.set(conn, h.hex())?;
                conn.execute("INSERT INTO main._sync_history (seq, hash) VALUES (?, ?)", (seq, h.0.as_slice()))?;
            }
            None => Meta::HistoryHash.clear(conn)?,
        }
        self.store.rebuilt_but_held_back()?;
        self.env.fault(FaultPoint::Rebuilding);
        whole.commit().map(Attempt::Kept)
    }
}

/// A snapshot of the history that this file has pulled is at least as new as what was pulled when it was asked for.
pub(crate) fn not_older(session: &SnapshotSession, known: i64) -> Result<(), Error> {
    let said = session.snapshot_bundle_seq;
    if said < known { Err(Error::OldReply { said, known }) } else { Ok(()) }
}

impl Store {
    /// Whether a snapshot lacks a row that the server had.
    fn any_missing_from(&self, stage: &Stage) -> Result<bool, Error> {
        for (position, m) in self.managed.iter().enumerate() {
            let mut s = self.conn.prepare("SELECT k FROM main._sync_row WHERE t = ? AND v > 0")?;
            let mut rows = s.query([m.id])?;
            while let Some(row) = rows.next()? {
                if !stage.in_snapshot(position, &row.get::<_, Vec<u8>>(0)?)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What a snapshot says of the outbox. `committed` is its bundle, 0 where only that it committed is known:
    /// then every frozen row is settled, a newer edit of it stands on it, and what others did since is seen
    /// against it. Otherwise a row that is in the snapshot as it was sent had committed. Returns what the server made
    /// of rows that the app has changed since.
    fn settle_by_snapshot(&self, stage: &Stage, committed: Option<i64>) -> Result<Vec<Effect>, Error> {
        let mut s = self.conn.prepare("SELECT ordinal, t, k, row FROM main._sync_out")?;
        let mut rows = s.query([])?;
        let (mut settled, mut effects) = (Vec::new(), Vec::new());
        while let Some(r) = rows.next()? {
            let (t, k, row): (i64, Vec<u8>, Option<Vec<u8>>) = (r.get(1)?, r.get(2)?, r.get(3)?);
            let Some(position) = self.position(t).filter(|p| !self.held_back.contains_key(p)) else { continue };
            let sent = row.as_deref().map(record::decode).transpose()?;
            let there = stage.snapshot_row(position, &k)?;
            let there = there.map(|(v, row)| Ok::<_, Error>((v, record::decode(&row)?))).transpose()?;
            let known = match (&there, &sent, committed) {
                // Another history may bring the row again, and then this delete has to be known.
                (None, None, Some(b)) if b > 0 => Known::Gone(b),
                (None, None, _) => Known::Never,
                (Some((v, there)), Some(sent), _) if same(there, sent) => Known::Live(*v),
                (_, Some(_), Some(b)) if b > 0 => Known::Live(b),
                (_, None, Some(b)) if b > 0 => Known::Gone(b),
                // Changed by others since, in a version before the one that it has now.
                (Some((v, _)), Some(_), Some(_)) if *v > 1 => Known::Live(v - 1),
                (Some((v, _)), None, Some(_)) if *v > 1 => Known::Gone(v - 1),
                (None, Some(_), Some(_)) => Known::Live(1),
                _ => continue,
            };
            self.set_known(t, &k, known)?;
            // What the server made of the row while it committed it.
            let effect = match (&there, &sent, committed) {
                (Some((v, there)), Some(sent), Some(b)) if *v == b && !same(there, sent) => Some(there),
                _ => None,
            };
            if let Some(newer) = self.dirty(t, &k)? {
                self.put_dirty(t, &k, newer.since, effect.or(sent.as_ref()))?;
                if let (Some(made), Some(sent)) = (effect, &sent) {
                    effects.push(Effect { position, k, sent: sent.clone(), made: made.clone() });
                }
            } else if effect.is_some()
                || sent.is_some()
                    && !self.managed[position].sql.exists(&self.conn, &Key::from_stored(k.clone()).unpack()?)?
            {
                // It is not in its table as it was sent, or left it: the snapshot brings it back.
                self.set_known(t, &k, Known::Never)?;
            }
            settled.push(r.get::<_, i64>(0)?);
        }
        drop(rows);
        for ordinal in settled {
            self.conn.prepare_cached("DELETE FROM main._sync_out WHERE ordinal = ?")?.execute([ordinal])?;
        }
        Ok(effects)
    }

    /// Every row and tombstone above the fork is local work again. An edit of such a row stands on no row of this
    /// history: seen from the row before it, one that changed nothing would give way in silence.
    pub(crate) fn reopen_above(&self, fork: i64, now: i64) -> Result<(), Error> {
        let reopened = self.conn.execute(
            "INSERT OR IGNORE INTO main._sync_dirty (t, k, since) SELECT t, k, ? FROM main._sync_row WHERE abs(v) > ?",
            (now, fork),
        )?;
        self.conn.execute(
            "UPDATE main._sync_dirty SET base = NULL WHERE base IS NOT NULL AND EXISTS \
             (SELECT 1 FROM main._sync_row r WHERE r.t = _sync_dirty.t AND r.k = _sync_dirty.k AND abs(r.v) > ?)",
            [fork],
        )?;
        if reopened > 0 { Meta::SyncedThrough.clear(&self.conn) } else { Ok(()) }
    }
}

/// Whether two records say the same of every column that both mention.
fn same(a: &Record, b: &Record) -> bool {
    a.iter().zip(b).all(|(a, b)| a.is_none() || b.is_none() || a == b)
}

impl Applier<'_> {
    /// A row of the snapshot. Where it has the version that this file knows, there is no conflict: an
    /// intent for it stays, on this row as its base.
    pub(crate) fn snapshot_row(
        &mut self,
        r: StagedRow,
        fork: Option<i64>,
        grown: &BTreeMap<usize, Grown>,
    ) -> Result<(), Error> {
        let r = self.unrounded(r)?;
        self.sharpen(&r)?;
        let (store, m) = (self.store, &self.store.managed[r.position]);
        let known = store.known(m.id, &r.k)?;
        let mut dirty = if self.any_dirty { store.dirty(m.id, &r.k)? } else { None };
        if self.let_go.contains(&r.position) && known == Known::Live(r.version) && fork.is_none() {
            // Under one version both ends may have values of their own: then it is a conflict like any other.
            if dirty.is_none() && !self.is_as_here(&r)? {
                store.put_dirty(m.id, &r.k, self.now, None)?;
                dirty = store.dirty(m.id, &r.k)?;
            }
            if let Some(dirty) = dirty.as_ref().filter(|d| d.base.is_none()) {
                return self.meet(r, known, dirty);
            }
        }
        let Some(dirty) = dirty else {
            if known == Known::Live(r.version) && fork.is_none() && !grown.contains_key(&r.position) {
                return Ok(());
            }
            self.note_effect_in_snapshot(&r)?;
            self.note_undone_delete(&r, known)?;
            return self.write_or_defer(r, known);
        };
        // With a rewritten history, what this file has above the fork is put on top of what both share. Where the
        // server's row changed above the fork as well, it is a conflict like any other.
        let met = match fork {
            None => known.version() != r.version,
            Some(f) => r.version > f || known.version() <= f && known.version() != r.version,
        };
        if met && !(fork == Some(0) && self.stands_on(&r)?) {
            let known = match known {
                Known::Gone(v) if fork.is_some() => Known::Live(v),
                other => other,
            };
            return self.meet(r, known, &dirty);
        }
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let remote = r.row.as_deref().map(record::decode).transpose()?.map(|row| fit(row, store.table(r.position)));
        store.set_known(m.id, &r.k, Known::Live(r.version))?;
        let mut live = m.sql.read(&store.conn, &key)?;
        if let (Some(Ok(row)), Some(remote), Some(grown)) = (&mut live, &remote, grown.get(&r.position)) {
            // A column that is new here has the server's value, unless the app has given it one since.
            let mut filled = row.clone();
            for column in store.unset_columns(grown, &key)? {
                if let Some(theirs) = &remote[column] {
                    filled[column].clone_from(theirs);
                }
            }
            if filled != *row {
                match m.sql.update(&store.conn, &key, &filled) {
                    Ok(_) => {
                        *row = filled;
                        self.changed(r.position, &r.k, false);
                    }
                    // The schema here does not take it beside what the app wrote: that is an edit as it stands.
                    Err(e) if is_constraint(&e) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        match (live, &remote) {
            // Values in columns that the server lacks are an edit still.
            (Some(Ok(live)), Some(remote)) if record::agrees(&live, remote) && !lacks(remote, Some(&live)) => {
                store.drop_dirty(m.id, &r.k)?;
                Ok(())
            }
            _ => store.put_dirty(m.id, &r.k, dirty.since, remote.as_ref()),
        }
    }

    /// Whether this file has the row as it came.
    fn is_as_here(&self, r: &StagedRow) -> Result<bool, Error> {
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let live = self.store.managed[r.position].sql.read(&self.store.conn, &key)?;
        Ok(match (live, r.row.as_deref().map(record::decode).transpose()?) {
            (Some(Ok(live)), Some(remote)) => record::agrees(&live, &remote),
            (None, None) => true,
            _ => false,
        })
    }

    /// Rows that the server was known to have and that the snapshot lacks were deleted there.
    pub(crate) fn missing_from(&mut self, stage: &Stage, seq: i64, fork: Option<i64>) -> Result<(), Error> {
        let store = self.store;
        // Parents first: what an own delete took along is told by them.
        for position in store.schema().parents_first().iter().copied().filter(|p| !store.held_back.contains_key(p)) {
            let m = &store.managed[position];
            let mut s = store.conn.prepare("SELECT k FROM main._sync_row WHERE t = ? AND v >= 0 ORDER BY k")?;
            let mut rows = s.query([m.id])?;
            let mut gone = Vec::new();
            while let Some(row) = rows.next()? {
                let k: Vec<u8> = row.get(0)?;
                if !stage.in_snapshot(position, &k)? {
                    gone.push(k);
                }
            }
            drop(rows);
            self.note_taken_along(position, &gone)?;
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
                        // The tombstone's own version is not known: the server names it if it matters. Of a row that
                        // waits for the end, or was left alone, what was known says what its edit meant.
                        if !self.keep.table(position) && store.known(m.id, &k)? != known {
                            store.set_known(m.id, &k, Known::Never)?;
                        }
                    }
                    None => {
                        let k = r.k.clone();
                        self.write_or_defer(r, known)?;
                        // One that could not go is looked at again by the next snapshot.
                        if !m.sql.exists(&store.conn, &Key::from_stored(k.clone()).unpack()?)? {
                            store.set_known(m.id, &k, Known::Never)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
