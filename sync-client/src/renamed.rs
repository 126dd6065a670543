//! Rows that are referred to by a UNIQUE value and have another one now, or are gone, while a third row has taken the
//! old one (cases C1, C2): a local row that still says the old value would be that row's without a word.

use sync_core::key::Key;
use sync_core::record::Record;
use sync_core::schema::ForeignKey;
use sync_core::value::Value;

use crate::apply::Applier;
use crate::error::Error;
use crate::orphans::by_key;
use crate::store::Store;

/// A row as it was before it was written here.
#[derive(Debug)]
pub(crate) struct Before {
    position: usize,
    key: Vec<Value>,
    row: Vec<Value>,
}

impl Applier<'_> {
    /// A row that is about to be written, as it is: where any local row may refer to it by other values than its key.
    pub(crate) fn before(&self, position: usize, k: &[u8]) -> Result<Option<Before>, Error> {
        let store = self.store;
        if !self.any_dirty || store.schema().references_to(position).all(|(_, fk)| by_key(fk, store.table(position))) {
            return Ok(None);
        }
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let row = store.managed[position].sql.read_bytes(&store.conn, &key)?;
        Ok(row.map(|row| Before { position, key, row }))
    }

    /// The row was written. What refers to it is looked at once all rows of the transaction are here.
    pub(crate) fn written(&mut self, before: Option<Before>) -> Result<(), Error> {
        if let Some(before) = before
            && !moved(self.store, &before)?.is_empty()
        {
            self.touched.insert(before.position);
            self.renamed.push(before);
        }
        Ok(())
    }

    /// Changed local rows that refer to another row now than they did leave their table.
    pub(crate) fn settle_renamed(&mut self) -> Result<(), Error> {
        while let Some(before) = self.renamed.pop() {
            let store = self.store;
            for (child, fk) in moved(store, &before)? {
                for key in self.store.children(child, fk, store.table(before.position), &before.row)? {
                    let m = &store.managed[child];
                    let Some(dirty) = store.dirty(m.id, Key::pack(&key)?.as_bytes())? else { continue };
                    let Some(row) = m.sql.read_bytes(&store.conn, &key)? else { continue };
                    // A reference of the server means the server's row.
                    let same =
                        |b: &Record| fk.columns.iter().all(|i| b.get(*i).is_some_and(|v| v.as_ref() == Some(&row[*i])));
                    // Where no row has the value, it is an orphan like any other.
                    if !dirty.base.as_ref().is_some_and(same)
                        && self.store.refers_to_a_row(fk, before.position, &row)?
                    {
                        let message = "the row that this one refers to has another unique value on the server, and \
                                       another row has the one that this one names";
                        self.displace(child, &key, "parent_changed", message, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The foreign keys that name a row by a value which it has no more.
fn moved<'s>(store: &'s Store, before: &Before) -> Result<Vec<(usize, &'s ForeignKey)>, Error> {
    let Before { position, key, row } = before;
    let table = store.table(*position);
    let now = store.managed[*position].sql.read_bytes(&store.conn, key)?;
    let moved = |c: &String| table.column(c).is_some_and(|i| now.as_ref().is_none_or(|n| n[i] != row[i]));
    let by_value = store.schema().references_to(*position).filter(|(_, fk)| !by_key(fk, table));
    Ok(by_value.filter(|(_, fk)| fk.parent_columns.iter().any(moved)).collect())
}
