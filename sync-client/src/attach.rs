//! Attaching: a file becomes part of a scope, or goes on where it was detached (cases C12, C13, H8).

use std::str::FromStr;

use sync_core::protocol::Code;
use sync_core::protocol::connect::Resolution;

use crate::engine::Engine;
use crate::error::Error;
use crate::lineage::Lineage;
use crate::mutant::{self, Mutant};
use crate::pull::Pulled;
use crate::report::{Attached, PullReport};
use crate::store::{Meta, OutboxState};

/// What happens to this file's rows when it is attached for the first time, or to another account.
/// A file that was detached and meets the same account again goes on where it was, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attach {
    /// Both sides' rows are kept: equal ones are recognised, others are pushed, and where both have another
    /// row under one key, the policy decides.
    ///
    /// Of a table with INTEGER keys another row under one number gets another number, and what refers to it follows.
    #[default]
    Merge,
    /// The file is a copy of one that is part of the account. In tables with INTEGER keys the same number is the same
    /// row, up to the highest number under which both sides have equal rows, or to which equal rows refer; where they
    /// differ the policy decides, and the row that loses is kept whole. Above it, and everywhere else, as with `Merge`.
    Copy,
    /// This file's rows give way: afterwards it holds what the server holds. Every row that the server
    /// does not have, or has otherwise, is kept whole in `discarded`; one that rows of an unsynced table refer to, for
    /// which nothing is declared, stays as a new row, under another number where the server has its own. An account that was never written to
    /// has nothing to take: this file's rows fill it, unless they are another account's.
    TakeRemote,
    /// Where both sides have rows, nothing is changed and nothing is sent: [`Error::BothHaveRows`].
    Fail,
}

impl Attach {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Copy => "copy",
            Self::TakeRemote => "take-remote",
            Self::Fail => "fail",
        }
    }
}

/// Reads `merge`, `copy`, `take-remote` or `fail`.
impl FromStr for Attach {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Merge, Self::Copy, Self::TakeRemote, Self::Fail]
            .into_iter()
            .find(|a| a.name() == s)
            .ok_or_else(|| "a file is attached with merge, copy, take-remote or fail".into())
    }
}

impl Engine {
    /// Connects the file to its scope, where it is not yet.
    pub(crate) fn attach(&mut self, report: &mut PullReport) -> Result<Attached, Error> {
        self.store.refresh(self.env.now_ms())?;
        if Meta::Attached.integer(&self.store.conn)? != 0 {
            return Ok(Attached::Resumed);
        }
        self.connect(report)
    }

    /// Asks the server what becomes of this file: at first, after a detach, and where the scope that it was
    /// attached to is not there any more. What it knows of its rows stays until the server has said so.
    pub(crate) fn connect(&mut self, report: &mut PullReport) -> Result<Attached, Error> {
        self.greet()?;
        let mode = self.attach_mode()?;
        self.known_account(mode)?;
        let tx = self.store.begin()?;
        self.store.absorb(self.env.now_ms())?;
        tx.commit()?;
        let gives_way = mode == Some(Attach::TakeRemote) && Meta::Switched.integer(&self.store.conn)? != 0;
        let pending = !gives_way && self.could_seed()?;
        let source = self.joining_source()?;
        let reply = self.api.connect(&source, pending).map_err(Error::from)?;
        self.same_scope(reply.scope_id.as_deref())?;
        match reply.resolution {
            Resolution::RetryLater => {
                let seconds = reply.retry_after_seconds.unwrap_or(1).max(1).unsigned_abs();
                Meta::RetryAfter.set(&self.store.conn, seconds.cast_signed())?;
                Ok(Attached::RetryLater)
            }
            Resolution::InitializeLocal => {
                let id = reply
                    .initialization_id
                    .ok_or_else(|| Error::Protocol("initialize_local came without an initialization_id".into()))?;
                self.begin_anew(&source)?;
                self.joined(Some(&id))?;
                Ok(Attached::Seeding)
            }
            Resolution::InitializeEmpty => {
                self.begin_anew(&source)?;
                if gives_way {
                    self.give_way_to_nothing(report)?;
                }
                self.joined(None)?;
                Ok(Attached::Empty)
            }
            Resolution::RemoteAuthoritative if self.go_on(&source)? => Ok(Attached::Resumed),
            Resolution::RemoteAuthoritative => self.join(mode, report),
        }
    }

    /// The source to connect under. One that has pushed may find that its history is gone, and would number bundles of
    /// the next one as it did those: were the first to come back, each would pass for the other. It is kept until the
    /// server has said what becomes of the file, so that a lease that was granted to it is found again.
    fn joining_source(&self) -> Result<String, Error> {
        let conn = &self.store.conn;
        let sent = self.store.outbox()?.is_some_and(|o| o.state != OutboxState::Frozen);
        let wrote = sent || self.store.next_source_bundle_id()? > 1;
        // While it seeds, the lease is its own.
        if !wrote || Meta::InitializationId.get::<String>(conn)?.is_some() {
            return self.source_id();
        }
        if let Some(next) = Meta::NextSourceId.get(conn)? {
            return Ok(next);
        }
        let next = self.env.new_id();
        Meta::NextSourceId.keep(conn, next.clone())?;
        Ok(next)
    }

    /// Whether there is anything that a new scope could get from this file. Rows that are held back would
    /// seed nothing.
    fn could_seed(&self) -> Result<bool, Error> {
        let store = &self.store;
        Ok(store.any_dirty(true)? || store.outbox()?.is_some() || store.knows_rows()?)
    }

    /// The scope has no history, not even one that it lost (H3): every row is local work, and nothing is known
    /// of any in this one. It has not begun yet: what was known of the one before is kept, and counts again where that
    /// comes back.
    fn begin_anew(&self, source: &str) -> Result<(), Error> {
        let tx = self.store.begin()?;
        self.store.absorb(self.env.now_ms())?;
        self.store.set_history_aside(0)?;
        self.store.release_outbox()?;
        self.store.reopen_above(-1, self.env.now_ms())?;
        tx.execute_batch(
            "DELETE FROM main._sync_row; DELETE FROM main._sync_history; UPDATE main._sync_table SET grown_from = NULL;",
        )?;
        for m in [Meta::Checkpoint, Meta::LatestKnown] {
            m.set(&tx, 0)?;
        }
        for m in [Meta::HistoryHash, Meta::CheckpointBundle, Meta::Rebuild, Meta::Fork] {
            m.clear(&tx)?;
        }
        // A lease that was granted is this source's, and there no source has written yet.
        Meta::SourceId.set(&tx, source)?;
        Meta::NextSourceId.clear(&tx)?;
        Meta::NextSourceBundleId.set(&tx, 1)?;
        Ok(tx.commit()?)
    }

    /// Goes on from where the file was, in the history of then or in another of the same account: then by the
    /// rebuild that puts what both do not share on top. False where the file never was in a history of it.
    fn go_on(&self, source: &str) -> Result<bool, Error> {
        let conn = &self.store.conn;
        let woken = Meta::Resume.integer(conn)? != 0;
        if woken && (!self.api.is_ours() || Meta::ScopeId.get::<String>(conn)?.is_none()) {
            // It may be another account: nothing says that it is not.
            let tx = self.store.begin()?;
            self.store.forget_history(Some(&self.env.new_id()), self.env.now_ms())?;
            tx.commit()?;
            return Ok(false);
        }
        let checkpoint = Meta::Checkpoint.integer(conn)?;
        if checkpoint == 0 {
            // Every history begins the same; with a push in it, or in doubt, a detached file has a part in this one.
            let part = woken && self.store.outbox()?.is_some_and(|o| o.state != OutboxState::Frozen);
            if part {
                self.joined(None)?;
            }
            return Ok(part);
        }
        // What is pruned below the checkpoint counts as the same: the rebuild that follows compares every row.
        let hash: Option<String> = Meta::HistoryHash.get(conn)?;
        let comparable = self.api.is_ours() && hash.is_some();
        if !comparable || self.lineage_at(source, checkpoint, hash)? == Lineage::Other {
            self.rewritten(0)?;
        }
        self.joined(None)?;
        Ok(true)
    }

    /// The scope has rows, and this file is not of its history: both sides' rows meet.
    fn join(&mut self, mode: Option<Attach>, report: &mut PullReport) -> Result<Attached, Error> {
        let conn = &self.store.conn;
        Meta::InitializationId.clear(conn)?;
        if mode == Some(Attach::Fail) {
            self.refuse_two_sides()?;
        }
        if mutant::on(Mutant::AttachDiscards) {
            conn.execute_batch("DELETE FROM main._sync_dirty")?;
        }
        Meta::Rebuild.set(conn, "this file joins an existing scope")?;
        match self.past_endless(|e| e.rebuild_once(report))? {
            Pulled::Stable => self.joined(None)?,
            _ => {
                return Err(Error::Refused {
                    code: Code::ScopeUninitialized.as_str().to_owned(),
                    message: "the account changed while it was joined".into(),
                });
            }
        }
        Ok(if mode == Some(Attach::TakeRemote) { Attached::TookRemote } else { Attached::Merged })
    }

    /// Says how the file is attached, while that still matters.
    pub(crate) fn attach_as(&self, mode: Attach) -> Result<(), Error> {
        match Meta::Joined.integer(&self.store.conn)? {
            0 => Meta::AttachMode.keep(&self.store.conn, mode.name().to_owned()),
            _ => Ok(()),
        }
    }

    /// The mode, while it still matters.
    pub(crate) fn attach_mode(&self) -> Result<Option<Attach>, Error> {
        if Meta::Joined.integer(&self.store.conn)? != 0 {
            return Ok(None);
        }
        let stored: Option<String> = Meta::AttachMode.get(&self.store.conn)?;
        stored.map(|s| s.parse().map_err(|_| Error::Damaged("attach".into()))).transpose()
    }

    fn joined(&self, initialization_id: Option<&str>) -> Result<(), Error> {
        let tx = self.store.begin()?;
        match initialization_id {
            Some(id) => Meta::InitializationId.set(&tx, id)?,
            None => Meta::InitializationId.clear(&tx)?,
        }
        for m in [Meta::Attached, Meta::Joined] {
            m.set(&tx, 1)?;
        }
        for m in [Meta::AttachMode, Meta::Resume, Meta::Switched, Meta::RetryAfter, Meta::NextSourceId] {
            m.clear(&tx)?;
        }
        Ok(tx.commit()?)
    }

    /// H8: a token of another user must not mix two users' rows. A file that was detached may go to
    /// another account, where it was said what becomes of its rows; nothing else goes along.
    pub(crate) fn same_scope(&self, scope: Option<&str>) -> Result<(), Error> {
        let Some(scope) = scope else { return Ok(()) };
        let conn = &self.store.conn;
        match Meta::ScopeId.get::<String>(conn)? {
            Some(known) if known == scope => Ok(()),
            Some(_) if Meta::Attached.integer(conn)? != 0 => Err(Error::WrongScope),
            Some(_) if Meta::Resume.integer(conn)? != 0 => {
                let rows = self.store.count_rows()?;
                if rows > 0 && !matches!(self.attach_mode()?, Some(Attach::Merge | Attach::Copy | Attach::TakeRemote)) {
                    return Err(Error::OtherAccount { rows });
                }
                let tx = self.store.begin()?;
                self.store.forget_account(&self.env.new_id(), self.env.now_ms())?;
                Meta::Switched.set(&tx, 1)?;
                Meta::ScopeId.set(&tx, scope)?;
                Ok(tx.commit()?)
            }
            _ => Meta::ScopeId.set(conn, scope),
        }
    }

    /// A server that does not name its scopes could be another account's: then it has to be said what
    /// becomes of rows that were an account's before.
    fn known_account(&self, mode: Option<Attach>) -> Result<(), Error> {
        let conn = &self.store.conn;
        let told = Meta::ScopeId.get::<String>(conn)?.is_some() || mode.is_some();
        if told || Meta::Resume.integer(conn)? == 0 || Meta::Checkpoint.integer(conn)? == 0 {
            return Ok(());
        }
        match self.store.count_rows()? {
            0 => Ok(()),
            rows => Err(Error::OtherAccount { rows }),
        }
    }

    fn refuse_two_sides(&self) -> Result<(), Error> {
        let local = self.store.count_rows()?;
        if local == 0 {
            return Ok(());
        }
        let source = self.source_id()?;
        let session = self.api.create_snapshot(&source).map_err(Error::from)?;
        self.api.delete_snapshot(&source, &session.snapshot_id);
        match session.row_count.unsigned_abs() {
            0 => Ok(()),
            remote => Err(Error::BothHaveRows { local, remote }),
        }
    }
}
