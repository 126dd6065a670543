//! Deletes that are undone, since a row that came refers to what was deleted (case C3).

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record;
use sync_core::value::Value;

use crate::apply::{Applier, Written, fit, full};
use crate::error::Error;
use crate::inbox::Entry;
use crate::orphans::{UNIQUE_TAKEN, parent_key};
use crate::stage::StagedRow;
use crate::whole::only_key;

impl Applier<'_> {
    /// A pending DELETE whose row a remote row of this transaction refers to is undone from its base,
    /// and so are the deletes of the rows that this one refers to.
    pub(crate) fn undo_contradicted_delete(&mut self, position: usize, k: &[u8], key: &[Value]) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        let Some(dirty) = store.dirty(m.id, k)? else { return Ok(()) };
        let Known::Live(version) = store.known(m.id, k)? else { return Ok(()) };
        // Without a base only the key is known, which is what nearly every reference names.
        let mut row = vec![Value::Null; table.columns.len()];
        match &dirty.base {
            Some(base) => row.iter_mut().zip(base).for_each(|(v, b)| v.clone_from(b.as_ref().unwrap_or(&Value::Null))),
            None => table.key.iter().zip(key).for_each(|(i, v)| row[*i].clone_from(v)),
        }
        let mut contradicted = false;
        for (child, fk) in store.schema().references_to(position) {
            for child_key in self.store.children(child, fk, table, &row)? {
                let child_k = Key::pack(&child_key)?;
                let came = store.known(store.managed[child].id, child_k.as_bytes())?;
                // Also one that stays here over a tombstone that came.
                contradicted |= matches!(came, Known::Live(v) | Known::Gone(v) if v >= self.lowest);
            }
        }
        if contradicted {
            let message = "this row was deleted here, but a new row on the server refers to it: the delete was undone";
            // On a version that is not known, it is not what the server had.
            let back = (dirty.base.is_some() && version > 0).then_some(&row);
            self.undo_delete(position, k, key, back, message)?;
        }
        Ok(())
    }

    /// The row comes back: from its base, or where there is none by the rebuild that is owed then. The rows that it
    /// refers to do so after it, however many there are in line.
    pub(crate) fn undo_delete(
        &mut self,
        position: usize,
        k: &[u8],
        key: &[Value],
        row: Option<&Vec<Value>>,
        message: &str,
    ) -> Result<(), Error> {
        let store = self.store;
        let mut undone = vec![(position, k.to_vec(), key.to_vec(), row.cloned())];
        let mut first = true;
        while let Some((position, k, key, row)) = undone.pop() {
            // Another row that refers to it came first.
            if !std::mem::take(&mut first) && store.dirty(store.managed[position].id, &k)?.is_none() {
                continue;
            }
            let row = if row.is_none() { self.in_the_snapshot(position, &k)? } else { row };
            let at = undone.len();
            self.undo_one(position, &k, &key, row.as_deref(), message)?;
            let Some(row) = row else { continue };
            for fk in &store.table(position).foreign_keys {
                let Some(parent) = store.schema().position(&fk.parent) else { continue };
                if self.store.refers_to_a_row(fk, parent, &row)? {
                    continue;
                }
                let Some(parent_key) = parent_key(fk, store.table(parent), &row) else { continue };
                let parent_k = Key::pack(&parent_key)?.as_bytes().to_vec();
                let parent_id = store.managed[parent].id;
                if let Some(pending) = store.dirty(parent_id, &parent_k)? {
                    let version = store.known(parent_id, &parent_k)?.version();
                    let parent_row: Option<Vec<Value>> = pending.base.filter(|_| version > 0).map(full);
                    undone.push((parent, parent_k, parent_key, parent_row));
                }
            }
            undone[at..].reverse();
        }
        Ok(())
    }

    fn undo_one(
        &mut self,
        position: usize,
        k: &[u8],
        key: &[Value],
        row: Option<&[Value]>,
        message: &str,
    ) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        store.drop_dirty(m.id, k)?;
        match row {
            Some(row) => {
                if !self.put_back(position, k, row)? {
                    self.withdraw_children(position, row.to_vec());
                }
            }
            None => {
                self.fetch_again(position, k)?;
                self.withdraw_children(position, only_key(store.table(position), key));
            }
        }
        self.outcome.conflicts += 1;
        self.record(&Entry {
            kind: "discarded",
            at: self.now,
            table: store.table(position),
            key,
            op: "DELETE",
            reason: "still_referred_to",
            message,
            local: None,
            base: None,
            server: row,
        })
    }

    /// Inserts a row that the server has. Local rows that took one of its unique values since give way, as far as no rows
    /// of unsynced tables hold them.
    fn put_back(&mut self, position: usize, k: &[u8], row: &[Value]) -> Result<bool, Error> {
        for key in self.in_the_way(position, k, row)? {
            if self.store.kept_by_local(position, &key)?.is_some() {
                continue;
            }
            self.displace(position, &key, "unique", UNIQUE_TAKEN, Some(row))?;
        }
        self.write_back(position, k, row)
    }

    /// The keys of the rows that hold a UNIQUE value of a row that the server has.
    pub(crate) fn in_the_way(&self, position: usize, k: &[u8], row: &[Value]) -> Result<Vec<Vec<Value>>, Error> {
        Ok(self.blockers(&self.of_the_server(position, k, row)?)?.into_iter().map(|(_, key)| key).collect())
    }

    /// Inserts a row that the server has. Whether it is there now.
    pub(crate) fn write_back(&mut self, position: usize, k: &[u8], row: &[Value]) -> Result<bool, Error> {
        let r = self.of_the_server(position, k, row)?;
        match self.write(&r, Known::Never)? {
            Written::Yes => {
                self.changed(position, k, false);
                Ok(true)
            }
            // What is in its way is to change itself.
            Written::Blocked if self.unblocking => {
                self.blocked.push(r);
                Ok(true)
            }
            // What this file believes of the server is not what it has.
            Written::Blocked | Written::Refused(_) | Written::Referred(_) => {
                self.fetch_again(position, k)?;
                Ok(false)
            }
        }
    }

    fn of_the_server(&self, position: usize, k: &[u8], row: &[Value]) -> Result<StagedRow, Error> {
        let version = self.store.known(self.store.managed[position].id, k)?.version();
        Ok(StagedRow { position, k: k.to_vec(), op: Op::Insert, version, row: Some(record::encode(row)) })
    }

    /// The row as the snapshot has it that is being merged, where one is.
    pub(crate) fn in_the_snapshot(&self, position: usize, k: &[u8]) -> Result<Option<Vec<Value>>, Error> {
        let Some(stage) = self.stage.filter(|_| self.rebuilding) else { return Ok(None) };
        let Some((_, stored)) = stage.snapshot_row(position, k)? else { return Ok(None) };
        let table = self.store.table(position);
        let row = fit(record::decode(&stored)?, table).into_iter().zip(&table.columns);
        // A column that the server lacks: what the app had there is recorded.
        Ok(row.map(|(v, c)| v.or_else(|| (!c.not_null).then_some(Value::Null))).collect())
    }

    /// The server's state of this row is not known here any more: the next pull rebuilds.
    pub(crate) fn fetch_again(&self, position: usize, k: &[u8]) -> Result<(), Error> {
        self.store.fetch_again(self.store.managed[position].id, k)
    }
}
