//! Taking the server's rows in place of this file's ([`crate::Attach::TakeRemote`]): what is here only, or
//! otherwise, is recorded whole and goes, but for what rows of unsynced tables refer to.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record;

use crate::apply::{Applier, Outcome, fit};
use crate::detach::Intents;
use crate::engine::Engine;
use crate::error::Error;
use crate::inbox::Entry;
use crate::report::{Event, PullReport};
use crate::settle::{is_new, lacks, op_of};
use crate::stage::Stage;

impl Engine {
    /// The account has no rows: this file's go.
    pub(crate) fn give_way_to_nothing(&self, report: &mut PullReport) -> Result<(), Error> {
        let tx = self.store.begin()?;
        self.store.absorb(self.env.now_ms())?;
        let mut applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
        applier.give_way(None)?;
        let Outcome { conflicts, events, .. } = applier.finish_displacing(tx)?.commit()?;
        report.conflicts += conflicts;
        events.iter().for_each(|e: &Event| self.tell(e));
        Ok(())
    }
}

impl Applier<'_> {
    /// Ends every local intent, before the rows of a snapshot are written. Rows that cannot be read as text
    /// stay, and wait in the inbox as ever: nothing could record them.
    pub(crate) fn give_way(&mut self, stage: Option<&Stage>) -> Result<(), Error> {
        let store = self.store;
        self.gives_way("take_remote", Intents::new());
        // What the server has of a table that is held back is not known.
        for (position, m) in store.managed.iter().enumerate().filter(|(p, _)| !store.held_back.contains_key(p)) {
            let table = store.table(position);
            let mut after: Vec<u8> = Vec::new();
            loop {
                let mut s = store
                    .conn
                    .prepare_cached("SELECT k FROM main._sync_dirty WHERE t = ? AND k > ? ORDER BY k LIMIT 1000")?;
                let keys: Vec<Vec<u8>> = s.query_map((m.id, &after), |r| r.get(0))?.collect::<Result<_, _>>()?;
                let Some(last) = keys.last() else { break };
                after.clone_from(last);
                for k in &keys {
                    let key = Key::from_stored(k.clone()).unpack()?;
                    let live = match m.sql.read(&store.conn, &key)? {
                        Some(Err(_)) => continue,
                        Some(Ok(row)) => Some(row),
                        None => None,
                    };
                    let theirs = stage.map(|s| s.snapshot_row(position, k)).transpose()?.flatten();
                    let server = match &theirs {
                        Some((_, stored)) => Some(fit(record::decode(stored)?, table)),
                        None => None,
                    };
                    // Rows of an unsynced table refer to it, and nothing else is declared for them: it stays an intent.
                    if theirs.is_none() && store.kept_by_local(position, &key)?.is_some() {
                        continue;
                    }
                    let dirty = store.dirty(m.id, k)?;
                    // The same where the server has another row under its number: what refers to it goes on with it.
                    if let (Some(row), Some(theirs), Some(dirty)) = (&live, &server, &dirty)
                        && !record::agrees(row, theirs)
                        && is_new(store.known(m.id, k)?, dirty)
                        && store.locals_refer(position, row)?
                        && let Some((position, key)) = self.minted(position, &key, row)?
                    {
                        self.rekey(position, &key)?;
                        continue;
                    }
                    let base = dirty.and_then(|d| d.base);
                    store.drop_dirty(m.id, k)?;
                    let known = store.known(m.id, k)?;
                    if live.is_none() && !(theirs.is_some() && matches!(known, Known::Live(_))) {
                        continue;
                    }
                    if let (Some(live), Some(server), Some((version, _))) = (&live, &server, &theirs)
                        && record::agrees(live, server)
                        && !lacks(server, Some(live))
                    {
                        store.set_known(m.id, k, Known::Live(*version))?;
                        continue;
                    }
                    self.record(&Entry {
                        kind: "discarded",
                        at: self.now,
                        table,
                        key: &key,
                        op: op_of(live.as_deref(), known, base.as_ref()),
                        reason: "take_remote",
                        message: "the server's rows were taken in place of this file's when it was attached",
                        local: live.as_deref(),
                        base: base.as_ref(),
                        server: server.map(crate::apply::full).as_deref(),
                    })?;
                    self.outcome.conflicts += 1;
                    store.set_known(m.id, k, Known::Never)?;
                    // Also where the server's row comes: what it does not mention is not to stay behind.
                    m.sql.delete(&store.conn, &key)?;
                    if theirs.is_none() {
                        self.changed(position, k, true);
                    }
                }
            }
        }
        self.any_dirty = store.any_dirty(false)?;
        Ok(())
    }
}
