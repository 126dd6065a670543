//! How a remote row that was set aside (case C14) is done with.

use sync_core::key::Key;

use crate::apply::Applier;
use crate::aside::{IS_ASIDE, RETURNED};
use crate::error::Error;
use crate::inbox::key_json;
use crate::stage::StagedRow;
use crate::store::Meta;

impl Applier<'_> {
    /// A row came while others are set aside: one of those may be its parent, or it may be one that was and fits now.
    pub(crate) fn came_beside_absent(&mut self, r: &StagedRow) -> Result<(), Error> {
        let (store, table) = (self.store, self.store.table(r.position));
        if r.row.is_none() {
            return Ok(());
        }
        let key = Key::from_stored(r.k.clone()).unpack()?;
        if store.conn.prepare_cached(IS_ASIDE)?.exists((&table.name, key_json(table, &key)))? {
            self.aside.returned.insert((r.position, r.k.clone()));
        }
        if table.foreign_keys.is_empty() {
            return Ok(());
        }
        let Some(Ok(row)) = store.managed[r.position].sql.read(&store.conn, &key)? else { return Ok(()) };
        if !self.parents_exist(table, &row)? {
            self.aside.waiting.push((r.position, r.k.clone()));
        }
        Ok(())
    }

    /// At the end, when it is known which rows stay that came: one whose parent turned out to be set aside is so again,
    /// and nothing that refers to it may come.
    pub(crate) fn settle_returned(&mut self) -> Result<(), Error> {
        let store = self.store;
        for (position, k) in std::mem::take(&mut self.aside.returned) {
            let (table, key) = (store.table(position), Key::from_stored(k).unpack()?);
            let returned = store.conn.prepare_cached(RETURNED)?.execute((&table.name, key_json(table, &key)))?;
            // A rebuild looks at every row that is not here itself.
            if returned > 0 && !self.rebuilding && store.schema().references_to(position).next().is_some() {
                Meta::Rebuild.set(&store.conn, "rows whose parent was set aside may fit now")?;
            }
        }
        Ok(())
    }
}
