//! Rows that come and refer to one that this file has deleted, in a push which is on its way back. What the server made
//! of them is in that push's own bundle: until it comes, they are not shown.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::protocol::Op;

use crate::apply::Applier;
use crate::error::Error;
use crate::orphans::{by_key, parent_key};
use crate::stage::StagedRow;
use crate::store::Meta;

impl Applier<'_> {
    /// Notes a row that came where what it refers to is leaving.
    pub(crate) fn note_leaving(&mut self, r: &StagedRow) -> Result<(), Error> {
        let (store, m, table) = (self.store, &self.store.managed[r.position], self.store.table(r.position));
        if table.foreign_keys.is_empty() {
            return Ok(());
        }
        let Some(Ok(row)) = m.sql.read(&store.conn, &Key::from_stored(r.k.clone()).unpack()?)? else { return Ok(()) };
        for fk in &table.foreign_keys {
            let Some(parent) = store.schema().position(&fk.parent).filter(|p| by_key(fk, store.table(*p))) else {
                continue;
            };
            if self.store.refers_to_a_row(fk, parent, &row)? {
                continue;
            }
            let Some(key) = parent_key(fk, store.table(parent), &row) else { continue };
            let (t, k) = (store.managed[parent].id, Key::pack(&key)?);
            // Looked for in the whole outbox: a parent is missing hardly ever.
            let deleted = "SELECT 1 FROM main._sync_out WHERE t = ? AND k = ? AND op = ?";
            if store.known(t, k.as_bytes())? == Known::Live(0)
                || store.conn.prepare_cached(deleted)?.exists((t, k.as_bytes(), Op::Delete.stored()))?
            {
                self.leaving.extend([(r.position, r.k.clone())]);
                return Ok(());
            }
        }
        Ok(())
    }

    /// What refers to a row that leaves goes, and what refers to that.
    pub(crate) fn withdraw_leaving(&mut self) -> Result<(), Error> {
        let store = self.store;
        for (position, k) in std::mem::take(&mut self.leaving) {
            let (m, key) = (&store.managed[position], Key::from_stored(k.clone()).unpack()?);
            let Some(Ok(row)) = m.sql.read(&store.conn, &key)? else { continue };
            if self.parents_exist(store.table(position), &row)? {
                continue;
            }
            if store.dirty(m.id, &k)?.is_some() {
                self.cannot_follow(position, key);
                continue;
            }
            m.sql.delete(&store.conn, &key)?;
            store.set_known(m.id, &k, Known::Live(0))?;
            self.changed(position, &k, true);
            self.withdraw_children(position, row);
            Meta::Withdrawn.set(&store.conn, 1)?;
        }
        Ok(())
    }
}
