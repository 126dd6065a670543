//! Comparing a synced file with its server, or with another file, and repairing what differs.
//!
//! Capture sees every write that SQLite tells triggers of. What it cannot see (a row that `REPLACE` evicts
//! through a partial index, a write by a program that turns triggers off, a damaged disk) is found here: both
//! ends are compared at one bundle, by digests of ranges where the server has them, else row by row.

mod compare;
mod descend;
mod differ;
mod fetch;
mod memory;
mod merge;
mod pending;
mod repair;
mod report;
mod scratch;

use rusqlite::OptionalExtension as _;
use sync_core::hash::Digest;
use sync_core::protocol::capabilities::Capabilities;
use sync_core::protocol::digest::FEATURE;
use sync_core::protocol::snapshot::SnapshotSession;

pub use self::compare::compare_files;
pub(crate) use self::memory::REPAIRED;
pub use self::report::{CompareReport, Difference, Kind, Remedy, Repair, VerifyReport};
use self::scratch::{Reach, Scratch};
use crate::client::Client;
use crate::engine::Engine;
use crate::error::Error;
use crate::rebuild::not_older;
use crate::report::{PullReport, PushReport};
use crate::stage::Stage;
use crate::store::Meta;

impl Client {
    /// Compares every row of the file with the server's, at one bundle, and repairs what differs as asked.
    /// Pulls first. Rows that are changed here and not confirmed yet are left out, and so are those that the
    /// server or this file refuses.
    ///
    /// Where a row that was repaired is found to differ again, it is named and not repaired again that way,
    /// until it was found equal once.
    ///
    /// # Errors
    /// The network's and the server's. Nothing was repaired then.
    pub fn verify(&self, repair: Repair) -> Result<VerifyReport, Error> {
        self.patiently(|e| {
            let outcome = e.again(|e| e.verify(repair));
            e.noted(outcome)
        })
    }
}

impl Engine {
    fn verify(&mut self, repair: Repair) -> Result<VerifyReport, Error> {
        let (mut push, mut pull) = (PushReport::default(), PullReport::default());
        if repair != Repair::No {
            self.store.remember_repairs(self.env.now_ms())?;
        }
        self.connected(&mut pull)?;
        if Meta::InitializationId.get::<String>(&self.store.conn)?.is_some() {
            return Err(Error::Argument("the server has none of these rows yet; sync first".into()));
        }
        self.settle_doubt(&mut push, &mut pull)?;
        self.pull_part(&mut pull)?;
        let source = self.source_id()?;
        let server = self.api.capabilities(&source).map_err(Error::from)?;
        let known = Meta::Checkpoint.integer(&self.store.conn)?;
        let session = self.api.create_snapshot(&source).map_err(Error::from)?;
        let outcome = self
            .shares_history(&session)
            .and_then(|shared| if shared { not_older(&session, known) } else { Ok(()) })
            .and_then(|()| self.verify_at(&source, &session, &server, repair));
        self.api.delete_snapshot(&source, &session.snapshot_id);
        let report = outcome?;
        // What a repair could not bring by itself.
        if Meta::Rebuild.get::<String>(&self.store.conn)?.is_some() {
            self.pull_part(&mut pull)?;
        }
        Ok(report)
    }

    fn verify_at(
        &mut self,
        source: &str,
        session: &SnapshotSession,
        server: &Capabilities,
        repair: Repair,
    ) -> Result<VerifyReport, Error> {
        let seq = session.snapshot_bundle_seq;
        if seq > Meta::Checkpoint.integer(&self.store.conn)? {
            self.pull_part(&mut PullReport::default())?;
        }
        let pulled = Meta::Checkpoint.integer(&self.store.conn)?;
        if seq > pulled {
            return Err(Error::OldReply { said: pulled, known: seq });
        }
        if !self.shares_history(session)? {
            return Err(Error::Protocol("its history changed while it was compared; try again".into()));
        }
        let mut stage = self.stage()?;
        // What was kept there of a download that was cut makes way.
        (stage.snapshot, stage.bundle) = (None, None);
        let outcome = self.verify_staged(&stage, (source, session), server, repair);
        self.keep_stage(stage, &outcome);
        outcome
    }

    /// Whether the snapshot is one of the history that this file pulled, as far as both know: a server that was
    /// restored meanwhile has other rows at the same bundle.
    fn shares_history(&self, session: &SnapshotSession) -> Result<bool, Error> {
        let Some(theirs) = session.history_hash.as_deref().and_then(Digest::from_hex) else { return Ok(true) };
        let sql = "SELECT hash FROM main._sync_history WHERE seq = ?";
        let mine: Option<Vec<u8>> =
            self.store.conn.query_row(sql, [session.snapshot_bundle_seq], |r| r.get(0)).optional()?;
        Ok(mine.is_none_or(|mine| mine == theirs.0))
    }

    fn verify_staged(
        &self,
        stage: &Stage,
        (source, session): (&str, &SnapshotSession),
        server: &Capabilities,
        repair: Repair,
    ) -> Result<VerifyReport, Error> {
        let scratch = Scratch::new(stage)?;
        let schema = self.store.schema().tables();
        let (skipped, tables): (Vec<usize>, Vec<usize>) = (0..schema.len())
            .partition(|i| self.store.held_back.contains_key(i) || self.store.offered.lacks(&schema[*i]));
        let mut report = VerifyReport {
            bundle_seq: session.snapshot_bundle_seq,
            skipped_tables: skipped.iter().map(|i| schema[*i].name.clone()).collect(),
            ..VerifyReport::default()
        };
        if server.has(FEATURE) && (session.row_count == 0 || !session.tables.is_empty()) {
            let (equal, downloaded) = descend::compare_tables(self, &scratch, (session, source), server, &tables)?;
            report.compared_rows = equal;
            report.downloaded_rows = downloaded;
        } else {
            self.fetch(stage, source, session, 0..session.row_count)?;
            report.downloaded_rows = session.row_count.unsigned_abs();
            for position in &tables {
                scratch.put_reach(&Reach { position: *position, lower: None, upper: None })?;
            }
        }
        self.find_differences(&scratch, &mut report)?;
        self.forget_repairs(&scratch, &tables)?;
        if repair != Repair::No && report.differing_rows > 0 {
            self.repair(&scratch, repair, &mut report)?;
        }
        scratch.end()?;
        Ok(report)
    }
}
