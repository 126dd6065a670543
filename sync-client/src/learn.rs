//! What a push in conflict teaches that no pull does.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::protocol::error::ConflictReply;
use sync_core::record;
use sync_core::wire::{decode_key, decode_payload};

use crate::apply::Applier;
use crate::asking::{Answers, Attempt};
use crate::engine::Engine;
use crate::error::Error;
use crate::report::PullReport;
use crate::stage::StagedRow;
use crate::store::Meta;
use crate::whole::{Finished, NOT_WHOLE};

impl Engine {
    /// What a conflict reply says that no pull will: a tombstone from before this file's snapshot, or a
    /// row that this file set aside.
    pub(crate) fn learn(&self, conflicts: &[ConflictReply], report: &mut PullReport) -> Result<(), Error> {
        self.asking(|answers| self.try_to_learn(conflicts, report, answers))
    }

    fn try_to_learn(
        &self,
        conflicts: &[ConflictReply],
        report: &mut PullReport,
        answers: &Answers,
    ) -> Result<Attempt<()>, Error> {
        let tx = self.store.begin()?;
        self.store.absorb(self.env.now_ms())?;
        let mut applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
        applier.answers = Some(answers);
        applier.rounds = !self.api.is_ours();
        applier.begin_bundle("", false)?;
        let mut learned = 0;
        let checkpoint = Meta::Checkpoint.integer(&tx)?;
        // The pull that came between would have brought a newer version, unless the history is another one now.
        for c in conflicts.iter().filter(|c| c.server_row_version <= checkpoint) {
            let Some(position) = self.store.travelling(&c.table) else { continue };
            let table = self.store.table(position);
            let wrong = |e: sync_core::wire::WireError| Error::Protocol(e.to_string());
            let key = decode_key(table, &c.key).map_err(wrong)?;
            let k = Key::pack(&key)?.as_bytes().to_vec();
            let t = self.store.managed[position].id;
            let server = match (c.server_row_version, c.server_row_deleted) {
                (0, _) => Known::Never,
                (v, true) => Known::Gone(v),
                (v, false) => Known::Live(v),
            };
            let known = self.store.known(t, &k)?;
            // The reply is older than the pull that came between: only what is newer than that counts.
            if known == server || (server != Known::Never && known.version() >= c.server_row_version) {
                continue;
            }
            if self.store.dirty(t, &k)?.is_none() {
                continue;
            }
            learned += u64::from(server != Known::Never);
            let row = match &c.server_row {
                Some(row) if !c.server_row_deleted => {
                    Some(record::encode_partial(&decode_payload(table, &key, row).map_err(wrong)?.values))
                }
                _ => None,
            };
            let op = if row.is_some() { Op::Update } else { Op::Delete };
            let staged = StagedRow { position, k: k.clone(), op, version: c.server_row_version, row };
            let staged = applier.unrounded(staged)?;
            applier.sharpen(&staged)?;
            let Some(dirty) = self.store.dirty(t, &k)? else { continue };
            applier.meet_now(staged, known, &dirty)?;
            if server == Known::Never {
                self.store.set_known(t, &k, Known::Never)?;
            }
        }
        applier.end_bundle()?;
        if let Some(asks) = applier.asks() {
            return Ok(asks);
        }
        let Finished::Whole(whole) = applier.finish(tx)? else {
            return Meta::Rebuild.set(&self.store.conn, NOT_WHOLE).map(Attempt::Undone);
        };
        let outcome = whole.commit()?;
        self.learned.set(self.learned.get() + learned);
        report.conflicts += outcome.conflicts;
        outcome.events.iter().for_each(|e| self.tell(e));
        Ok(Attempt::Kept(()))
    }
}
