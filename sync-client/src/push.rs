//! Pushing: the outbox becomes a committed bundle, exactly once (hop `push`; protocol §6, §7).

use sync_core::protocol::Code;
use sync_core::protocol::error::ConflictReply;
use sync_core::protocol::push::{CommitReply, CreatePushReply, CreatePushRequest};

use crate::api::CallError;
use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::Error;
use crate::freeze::Frozen;
use crate::mutant::{self, Mutant};
use crate::report::Event;
use crate::store::{Meta, Outbox, OutboxState};
use crate::upload::Uploaded;

/// How a push ended.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// Nothing was pending.
    Nothing,
    /// The bundle is history; pull will confirm it.
    Committed,
    /// Rows changed on the server: pull, settle, freeze again.
    Conflicts(Vec<ConflictReply>),
    /// Rows were refused and are held; the rest can be frozen again.
    Rejected(u64),
    /// The scope has to be connected again first.
    Reconnect,
    /// The server's history is not the one that this file knows.
    Rebuild,
    /// This file got a fresh source; freeze again under it.
    FreshSource,
    /// The server named no row; the rows are intents again, and less is sent next.
    Narrowed,
    /// Nothing is known of the outbox's fate: its tuple is asked about again.
    Undecided,
    /// The outbox cannot be sent as it is (a limit, or the schema, changed): its rows are intents again.
    Thawed,
}

impl Engine {
    /// Takes the outbox as far as it goes, freezing one first where there is none.
    pub(crate) fn push_once(&self) -> Result<Pushed, Error> {
        let frozen = self.store.outbox()?;
        if frozen.as_ref().is_some_and(|o| o.state == OutboxState::Committed) {
            return Ok(Pushed::Committed);
        }
        if Meta::PullFirst.integer(&self.store.conn)? != 0 {
            return self.pull_first(frozen);
        }
        let outbox = match frozen {
            Some(o) => o,
            None => {
                let Frozen { outbox, events } = self.store.freeze(&self.limits, self.env.now_ms())?;
                events.iter().for_each(|e| self.tell(e));
                let Some(o) = outbox else { return Ok(Pushed::Nothing) };
                self.tell(&Event::Frozen { rows: o.rows as u64 });
                self.env.fault(FaultPoint::Frozen);
                o
            }
        };
        let sendable = self.store.outbox_fits()?;
        if !sendable && outbox.state == OutboxState::Frozen {
            let tx = self.store.begin()?;
            self.store.release_outbox()?;
            tx.commit()?;
            return Ok(Pushed::Thawed);
        }
        let mut last = None;
        // A session that was half uploaded goes on where it stands; once it is gone, another is made.
        let mut begun: Option<String> = if sendable { Meta::PushSession.get(&self.store.conn)? } else { None };
        for _ in 0..SESSIONS {
            let (push_id, resumed) = match begun.take() {
                Some(id) => (id, true),
                None => match self.create(&outbox)? {
                    Created::Session(id) if !sendable => {
                        return Ok(self.release_proven(&outbox, Some(&id))?.unwrap_or(Pushed::Thawed));
                    }
                    Created::Session(id) => (id, false),
                    Created::Committed(reply) => return self.already_committed(outbox, &reply),
                    Created::Ended(end) => return Ok(end),
                },
            };
            match self.upload(&outbox, &push_id, resumed)? {
                Uploaded::Whole => return self.commit(outbox, &push_id),
                Uploaded::Ended(end) => return Ok(end),
                Uploaded::Gone(e) => {
                    Meta::PushSession.clear(&self.store.conn)?;
                    last = Some((push_id, e));
                }
            }
        }
        match last {
            Some((push_id, e)) if e.wordless().is_some() => self.unnamed(&outbox, &push_id, e),
            _ => {
                let message = "the server keeps losing the upload".into();
                Err(Error::Offline { message, retry_after: None, lost: false })
            }
        }
    }

    /// A push met rows that changed on the server, and was cut before it could pull them: nothing is sent
    /// again before that.
    fn pull_first(&self, frozen: Option<Outbox>) -> Result<Pushed, Error> {
        if let Some(outbox) = frozen {
            let push_id: Option<String> = Meta::PushSession.get(&self.store.conn)?;
            if let Some(end) = self.release_proven(&outbox, push_id.as_deref())? {
                return Ok(end);
            }
        }
        Ok(Pushed::Conflicts(Vec::new()))
    }

    /// The session for the outbox, or what stands in its way. Every code of the failure table has its line.
    fn create(&self, outbox: &Outbox) -> Result<Created, Error> {
        match self.create_after(outbox, self.lineage()?, outbox.rows) {
            Err(e) if e.is_wordless(&[409, 410]) => self.wordless_create(outbox).map(Created::Ended),
            other => other,
        }
    }

    /// The session is refused, and the server's reason is lost on the way. A pull tells what changed; where it did, and
    /// nothing had, somebody else writes under this source.
    fn wordless_create(&self, outbox: &Outbox) -> Result<Pushed, Error> {
        if self.pulls_first()? {
            return Ok(Pushed::Conflicts(Vec::new()));
        }
        let in_doubt = outbox.state == OutboxState::Sent;
        self.fresh_source()?;
        if in_doubt {
            Meta::Rebuild.set(&self.store.conn, "the fate of an own push could not be asked")?;
        }
        Ok(Pushed::FreshSource)
    }

    /// Whether a pull may tell what a reply without words did not: true once for a place in the history.
    fn pulls_first(&self) -> Result<bool, Error> {
        let checkpoint = Meta::Checkpoint.integer(&self.store.conn)?;
        let asked = Meta::WordlessAt.get(&self.store.conn)? == Some(checkpoint);
        Meta::WordlessAt.keep(&self.store.conn, checkpoint)?;
        Ok(!asked)
    }

    /// The bundle that this file's rows stand on, and the hash of the history up to it.
    fn lineage(&self) -> Result<Option<(i64, String)>, Error> {
        let checkpoint = Meta::Checkpoint.integer(&self.store.conn)?;
        let hash = Meta::HistoryHash.get::<String>(&self.store.conn)?;
        Ok(hash.filter(|_| checkpoint > 0 && self.api.is_ours()).map(|h| (checkpoint, h)))
    }

    /// The same on the history that has this hash at this bundle, or on any. What is only asked about is asked as
    /// one row: no limit of today stands in the way of an answer, and a session that is made is proof and goes.
    fn create_after(&self, outbox: &Outbox, lineage: Option<(i64, String)>, rows: i64) -> Result<Created, Error> {
        let conn = &self.store.conn;
        let (after_bundle_seq, after_history_hash) = lineage.unzip();
        let mut request = CreatePushRequest {
            source_bundle_id: outbox.source_bundle_id,
            planned_row_count: rows,
            initialization_id: Meta::InitializationId.get(conn)?,
            request_hash: self.api.is_ours().then(|| outbox.request_hash.hex()),
            after_bundle_seq,
            after_history_hash,
        };
        loop {
            let error = match self.api.create_push(&outbox.source_id, &request) {
                Ok(reply) if reply.status == CreatePushReply::ALREADY_COMMITTED => {
                    let committed = reply.committed.ok_or_else(|| missing("already_committed"))?;
                    self.is_of(&committed, outbox)?;
                    return Ok(Created::Committed(committed));
                }
                Ok(reply) => {
                    let id = reply.push_id.filter(|_| reply.status == CreatePushReply::STAGING);
                    return id.map(Created::Session).ok_or_else(|| missing("push session"));
                }
                Err(e) => e,
            };
            let sent = outbox.state != OutboxState::Frozen;
            if matches!(error.wordless(), Some(400 | 409 | 410)) && request.initialization_id.is_some() {
                request.initialization_id = None;
                Meta::InitializationId.clear(&self.store.conn)?;
                continue;
            }
            return match error.code() {
                // P10: the lease is gone, or the scope was initialized meanwhile: once without it.
                Some(Code::PushSessionInvalid | Code::InitializationStale | Code::InitializationExpired)
                    if request.initialization_id.is_some() =>
                {
                    if mutant::on(Mutant::LeaseKept) {
                        return Err(error.into());
                    }
                    request.initialization_id = None;
                    Meta::InitializationId.clear(&self.store.conn)?;
                    continue;
                }
                Some(
                    Code::ScopeUninitialized
                    | Code::InitializationStale
                    | Code::InitializationExpired
                    | Code::PushSessionInvalid,
                ) => Ok(Created::Ended(Pushed::Reconnect)),
                // It had committed, and its bundle is no longer kept: the rebuild settles its rows.
                Some(Code::HistoryPruned) if sent => {
                    let tx = self.store.begin()?;
                    let committed = Outbox { state: OutboxState::Committed, bundle_seq: 0, ..outbox.clone() };
                    self.store.set_outbox(&committed)?;
                    Meta::Rebuild.set(&tx, "the history of an own push is no longer kept")?;
                    tx.commit()?;
                    Ok(Created::Ended(Pushed::Rebuild))
                }
                // Somebody else writes under this source: a copy of this file, or its older self.
                Some(Code::HistoryPruned | Code::SourceSequenceOutOfOrder | Code::SourceRetired) => {
                    self.fresh_source()?;
                    Ok(Created::Ended(Pushed::FreshSource))
                }
                // H2: the server was restored, and has regrown so far that its versions fit by chance.
                Some(Code::HistoryDiverged | Code::CheckpointAhead) => {
                    self.rewritten(0)?;
                    Ok(Created::Ended(Pushed::Rebuild))
                }
                // Frozen under another limit.
                Some(Code::BundleTooLarge) if sent && rows > 1 => {
                    let end = self.release_proven(outbox, None)?;
                    Ok(Created::Ended(end.unwrap_or(Pushed::Thawed)))
                }
                Some(Code::BundleTooLarge) if !sent => {
                    let tx = self.store.begin()?;
                    self.store.release_outbox()?;
                    tx.commit()?;
                    Ok(Created::Ended(Pushed::Thawed))
                }
                _ => Err(error.into()),
            };
        }
    }

    fn commit(&self, mut outbox: Outbox, push_id: &str) -> Result<Pushed, Error> {
        outbox.state = OutboxState::Sent;
        self.store.set_outbox(&outbox)?;
        self.env.fault(FaultPoint::BeforeCommit);
        match self.api.commit(&outbox.source_id, push_id) {
            Ok(reply) => {
                self.env.fault(FaultPoint::AfterCommit);
                self.is_of(&reply, &outbox)?;
                self.committed(outbox, &reply)?;
                Ok(Pushed::Committed)
            }
            Err(CallError::Reply(r)) => match r.reply.code() {
                Some(Code::PushConflict) => {
                    Meta::PullFirst.keep(&self.store.conn, 1)?;
                    let mut conflicts = r.reply.conflicts;
                    if conflicts.is_empty() {
                        conflicts.extend(r.reply.conflict);
                    }
                    Ok(self.release_proven(&outbox, Some(push_id))?.unwrap_or(Pushed::Conflicts(conflicts)))
                }
                Some(Code::PushRejected) if self.names_one_of_ours(&r.reply)? => {
                    if let Some(end) = self.release_proven(&outbox, Some(push_id))? {
                        return Ok(end);
                    }
                    self.hold_rejected(&r.reply)
                }
                // Who took the number may have been this very push: the tuple is asked about.
                Some(Code::SourceSequenceChanged | Code::SourceRetired) => {
                    Meta::PushSession.clear(&self.store.conn)?;
                    Ok(Pushed::Undecided)
                }
                // The same, without the lease.
                Some(Code::InitializationExpired | Code::InitializationStale) => {
                    let tx = self.store.begin()?;
                    Meta::InitializationId.clear(&tx)?;
                    Meta::PushSession.clear(&tx)?;
                    tx.commit()?;
                    Ok(Pushed::Undecided)
                }
                Some(Code::HistoryDiverged | Code::CheckpointAhead) => {
                    self.rewritten(0)?;
                    Ok(Pushed::Rebuild)
                }
                // What changed is told by a pull too.
                None if r.between.is_some() && r.status == 409 && self.pulls_first()? => {
                    Meta::PullFirst.keep(&self.store.conn, 1)?;
                    Ok(self.release_proven(&outbox, Some(push_id))?.unwrap_or(Pushed::Conflicts(Vec::new())))
                }
                // A session that is gone proves nothing: the next round creates again under the same tuple.
                None if matches!(r.status, 404 | 410) => Err(CallError::Reply(r).into()),
                // It took the upload and failed at the commit, without a word on which row.
                _ => {
                    let e = CallError::Reply(r);
                    if e.blames_rows() { self.unnamed(&outbox, push_id, e) } else { Err(e.into()) }
                }
            },
            // Each time? Then it may be what it commits.
            Err(CallError::Other(e @ Error::Offline { lost: true, .. })) => {
                let lost = Meta::LostCommits.integer(&self.store.conn)? + 1;
                Meta::LostCommits.set(&self.store.conn, lost)?;
                if lost < LOST_COMMITS { Err(e) } else { self.unnamed(&outbox, push_id, e.into()) }
            }
            Err(CallError::Other(e)) => Err(e),
        }
    }

    /// What confirms a bundle names it; otherwise it is of another push, which something on the way kept.
    fn is_of(&self, reply: &CommitReply, outbox: &Outbox) -> Result<(), Error> {
        if (reply.source_bundle_id, &reply.source_id) == (outbox.source_bundle_id, &outbox.source_id) {
            return Ok(());
        }
        let known = Meta::LatestKnown.integer(&self.store.conn)?.max(Meta::Checkpoint.integer(&self.store.conn)?);
        Err(Error::OldReply { said: reply.bundle_seq, known })
    }

    /// A commit's reply, or `already_committed`.
    fn committed(&self, mut outbox: Outbox, reply: &CommitReply) -> Result<(), Error> {
        outbox.state = OutboxState::Committed;
        outbox.bundle_seq = reply.bundle_seq;
        let tx = self.store.begin()?;
        self.store.set_outbox(&outbox)?;
        Meta::InitializationId.clear(&tx)?;
        let refused = self.store.search_committed()?;
        tx.commit()?;
        self.tell_refused(&refused)?;
        self.tell(&Event::Committed { bundle_seq: reply.bundle_seq, rows: reply.row_count.unsigned_abs() });
        Ok(())
    }

    /// Whether the history of today has the outbox's bundle: its number, 0 where it is no longer kept. A server
    /// that was restored or wiped may have forgotten what it had confirmed.
    pub(crate) fn confirm_committed(&self) -> Result<Option<i64>, Error> {
        let Some(outbox) = self.store.outbox()?.filter(|o| o.state != OutboxState::Frozen) else { return Ok(None) };
        let created = match self.create_after(&outbox, None, 1) {
            // What cannot be known counts as not committed: a row that had is found equal to the snapshot's, and what
            // is sent once more goes under another source.
            Err(e) if e.is_wordless(&[409, 410]) => {
                self.fresh_source()?;
                return Ok(None);
            }
            other => other?,
        };
        match created {
            Created::Committed(reply) => {
                let ours = reply.request_hash.as_ref().is_none_or(|h| *h == outbox.request_hash.hex());
                Ok(ours.then_some(reply.bundle_seq))
            }
            Created::Session(id) => {
                self.api.delete_push(&outbox.source_id, &id)?;
                Ok(None)
            }
            Created::Ended(Pushed::Rebuild) => Ok(Some(0)),
            Created::Ended(_) => Ok(None),
        }
    }

    /// P3: another request hash under our tuple means another file writes under our source.
    fn already_committed(&self, outbox: Outbox, reply: &CommitReply) -> Result<Pushed, Error> {
        let ours = outbox.request_hash.hex();
        if reply.request_hash.as_ref().is_some_and(|h| *h != ours) || outbox.state == OutboxState::Frozen {
            self.fresh_source()?;
            return Ok(Pushed::FreshSource);
        }
        if mutant::on(Mutant::PayloadProof) && (self.store.any_logged()? || self.store.any_dirty(false)?) {
            return Err(Error::Protocol("what was committed is not what this file has".into()));
        }
        self.committed(outbox, reply)?;
        Ok(Pushed::Committed)
    }

    /// Puts the outbox back among the intents once the server proved that it did not commit it. `Some`
    /// where it turned out that it had.
    pub(crate) fn release_proven(&self, outbox: &Outbox, push_id: Option<&str>) -> Result<Option<Pushed>, Error> {
        if let Some(end) = self.prove_uncommitted(outbox, push_id)? {
            return Ok(Some(end));
        }
        if mutant::on(Mutant::NeverReleased) {
            return Ok(None);
        }
        let tx = self.store.begin()?;
        self.store.release_outbox()?;
        tx.commit()?;
        Ok(None)
    }

    /// Makes the server prove that it did not commit the outbox. `Some` where it turned out that it had.
    pub(crate) fn prove_uncommitted(&self, outbox: &Outbox, push_id: Option<&str>) -> Result<Option<Pushed>, Error> {
        let gone = match push_id {
            Some(id) => self.api.delete_push(&outbox.source_id, id)?,
            None => false,
        };
        if !gone {
            match self.create_after(outbox, self.lineage()?, 1)? {
                Created::Session(id) => {
                    self.api.delete_push(&outbox.source_id, &id)?;
                }
                Created::Committed(reply) => return self.already_committed(outbox.clone(), &reply).map(Some),
                Created::Ended(end) => return Ok(Some(end)),
            }
        }
        Ok(None)
    }

    /// A source of its own for this file. Every intent is kept; what is in doubt under the old source
    /// comes back by pull as rows equal to ours.
    pub(crate) fn fresh_source(&self) -> Result<(), Error> {
        let tx = self.store.begin()?;
        self.store.remember_sent_rows()?;
        self.store.leave_source()?;
        self.store.release_outbox()?;
        Meta::SourceId.set(&tx, self.env.new_id())?;
        Meta::NextSourceBundleId.set(&tx, 1)?;
        Meta::InitializationId.clear(&tx)?;
        tx.commit()?;
        Ok(())
    }
}

enum Created {
    Session(String),
    Committed(CommitReply),
    Ended(Pushed),
}

/// Sessions that one push makes, where they go away under it.
const SESSIONS: u32 = 3;
/// Commits of one outbox whose replies are lost before its rows are looked at.
const LOST_COMMITS: i64 = 3;

fn missing(what: &str) -> Error {
    Error::Protocol(format!("the reply lacks the {what}"))
}
