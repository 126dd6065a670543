//! A history that this file was of before, and that may come back (case H3): whether the server has it again, and what
//! of it still counts where it does not.

use sync_core::engine::change::Known;
use sync_core::hash::Digest;
use sync_core::key::Key;
use sync_core::record;
use sync_core::value::Value;

use crate::apply::{Applier, fit, full};
use crate::engine::Engine;
use crate::error::Error;
use crate::inbox::Entry;
use crate::lineage::Lineage;
use crate::stage::StagedRow;

/// The history that this file was of before is the server's again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CameBack {
    /// Where both part, if they do.
    pub(crate) fork: Option<i64>,
    /// The last bundle that this file remembers of both.
    pub(crate) shared: i64,
}

impl Engine {
    /// Whether it is.
    pub(crate) fn earlier_came_back(&self, source: &str) -> Result<Option<CameBack>, Error> {
        let Some((seq, hash)) = self.store.earlier()?.filter(|_| self.api.is_ours()) else { return Ok(None) };
        Ok(match self.lineage_at(source, seq, Digest::from_bytes(&hash).map(|d| d.hex()))? {
            Lineage::Same => Some(CameBack { fork: None, shared: seq }),
            Lineage::Other => match self.find_fork(source, "_sync_earlier_history")? {
                0 => None,
                fork => Some(CameBack { fork: Some(fork), shared: fork }),
            },
            Lineage::Unknown => None,
        })
    }
}

impl Applier<'_> {
    /// Whether a pending edit of this row, in a history that has gone, stood on just what the server has of it in this
    /// one: then nobody else touched it. Of a delete that is not enough: somebody brought the row here anew.
    pub(crate) fn stands_on(&self, r: &StagedRow) -> Result<bool, Error> {
        let m = &self.store.managed[r.position];
        let (Some(base), Some(row)) = (self.store.earlier_base(m.id, &r.k)?, r.row.as_deref()) else {
            return Ok(false);
        };
        let table = self.store.table(r.position);
        let key = Key::from_stored(r.k.clone()).unpack()?;
        Ok(fit(base, table) == fit(record::decode(row)?, table) && m.sql.exists(&self.store.conn, &key)?)
    }

    /// A row comes that this file does not have in this history, and had in the one before: it was deleted since. In
    /// this history that cannot be said to the server, or was, before a device that had the row from the other history
    /// came to this one: so it is said to the person.
    pub(crate) fn note_undone_delete(&mut self, r: &StagedRow, known: Known) -> Result<(), Error> {
        let (store, table) = (self.store, self.store.table(r.position));
        let m = &store.managed[r.position];
        let message = match known {
            Known::Never => "this row was deleted here, in a history that the server has lost since; it is there again",
            Known::Gone(_) => {
                "this row was deleted; a device that had it from a history which the server has lost brought it again"
            }
            Known::Live(_) => return Ok(()),
        };
        let Some(row) = r.row.as_deref().filter(|_| self.earlier) else { return Ok(()) };
        let key = Key::from_stored(r.k.clone()).unpack()?;
        if !store.was_here(m.id, &r.k)? || m.sql.exists(&store.conn, &key)? {
            return Ok(());
        }
        store.was_told_of(m.id, &r.k)?;
        self.tell_of_undone_delete(r.position, &key, &full(fit(record::decode(row)?, table)), message)
    }

    /// A delete comes to nothing, since what is known of one history does not count in the other.
    pub(crate) fn tell_of_undone_delete(
        &mut self,
        position: usize,
        key: &[Value],
        row: &[Value],
        message: &str,
    ) -> Result<(), Error> {
        self.outcome.conflicts += 1;
        self.record(&Entry {
            kind: "discarded",
            at: self.now,
            table: self.store.table(position),
            key,
            op: "DELETE",
            reason: "history_lost",
            message,
            local: None,
            base: None,
            server: Some(row),
        })
    }
}
