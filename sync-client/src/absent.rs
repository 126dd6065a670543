//! What refers to a remote row that is set aside (case C14) waits with it.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record;
use sync_core::value::Value;

use crate::apply::{Applier, fit, is_constraint};
use crate::aside::{IS_ASIDE, Why};
use crate::error::Error;
use crate::inbox::key_json;
use crate::orphans::parent_key;
use crate::rekey::NUMBER_STAYS;
use crate::settle::over;
use crate::stage::StagedRow;
use crate::store::Meta;

impl Applier<'_> {
    /// What refers to a row that is set aside is set aside too; a local edit leaves its table for the inbox.
    pub(crate) fn settle_absent(&mut self) -> Result<(), Error> {
        for (position, k) in std::mem::take(&mut self.aside.waiting) {
            let key = Key::from_stored(k).unpack()?;
            let Some(Ok(row)) = self.store.managed[position].sql.read(&self.store.conn, &key)? else { continue };
            if self.refers_to_absent(position, &row)? {
                self.follow(position, &key)?;
            }
        }
        while let Some((position, row)) = self.aside.absent.pop_front() {
            let table = self.store.table(position);
            let key: Vec<Value> = table.key.iter().map(|i| row[*i].clone()).collect();
            if self.store.managed[position].sql.exists(&self.store.conn, &key)? {
                continue;
            }
            for (child, fk) in self.store.schema().references_to(position) {
                for child_key in self.store.children(child, fk, table, &row)? {
                    self.follow(child, &child_key)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the row that a remote one refers to is set aside; one of this file's may keep its number meanwhile.
    pub(crate) fn refers_to_absent(&self, position: usize, row: &[Value]) -> Result<bool, Error> {
        let store = self.store;
        for fk in &store.table(position).foreign_keys {
            let Some(parent) = store.schema().position(&fk.parent) else { continue };
            let Some(key) = parent_key(fk, store.table(parent), row) else { continue };
            if store.refers_to_a_row(fk, parent, row)? {
                let Ok(k) = Key::pack(&key) else { continue };
                let here = store.dirty(store.managed[parent].id, k.as_bytes())?;
                if here.is_none_or(|d| d.held.as_deref() != Some(NUMBER_STAYS)) {
                    continue;
                }
            }
            let table = store.table(parent);
            if store.conn.prepare_cached(IS_ASIDE)?.exists((&table.name, key_json(table, &key)))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn follow(&mut self, position: usize, key: &[Value]) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let k = Key::pack(key)?;
        if store.dirty(m.id, k.as_bytes())?.is_some() {
            return self.displace(position, key, "parent_set_aside", PARENT_ASIDE, None);
        }
        let Some(Ok(row)) = m.sql.read(&store.conn, key)? else { return Ok(()) };
        // One that is on its way to the server is not confirmed unseen, as a row that is here.
        let sent = "SELECT 1 FROM main._sync_out WHERE t = ? AND k = ?";
        if Meta::OutboxDisturbed.integer(&store.conn)? == 0
            && store.conn.prepare_cached(sent)?.exists((m.id, k.as_bytes()))?
        {
            Meta::OutboxDisturbed.set(&store.conn, 1)?;
        }
        if self.stay_as_it_was(position, key, &row)? {
            return Ok(());
        }
        self.note_aside(position, key, "INSERT", (Why::Parent, PARENT_ASIDE), Some(&row))?;
        m.sql.delete(&store.conn, key)?;
        store.set_known(m.id, k.as_bytes(), Known::Never)?;
        self.changed(position, k.as_bytes(), true);
        self.aside.absent.push_back((position, row));
        Ok(())
    }

    /// Remembers a row that is about to get another parent, where rows of an unsynced table refer to it: should that
    /// parent be set aside, it is not to leave those behind.
    pub(crate) fn note_move(&mut self, r: &StagedRow, known: Known) -> Result<(), Error> {
        let (store, table) = (self.store, self.store.table(r.position));
        let Some(stored) = r.row.as_deref().filter(|_| !store.locals.targets.is_empty()) else { return Ok(()) };
        if table.foreign_keys.is_empty()
            || matches!(known, Known::Never | Known::Gone(_))
            || !store.leads_to_local(r.position)
        {
            return Ok(());
        }
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let Some(live) = store.managed[r.position].sql.read_bytes(&store.conn, &key)? else { return Ok(()) };
        let new = over(fit(record::decode(stored)?, table), Some(&live));
        let moves = table.foreign_keys.iter().flat_map(|fk| &fk.columns).any(|i| live[*i] != new[*i]);
        if moves && store.local_along(r.position, &key)?.is_some() {
            self.aside.moved.entry((r.position, r.k.clone())).or_insert((live, known));
        }
        Ok(())
    }

    /// A row that was moved under one that is set aside goes back to where it was, so that rows of an unsynced table which
    /// refer to it stand, and is moved again with that one. False where it cannot.
    fn stay_as_it_was(&mut self, position: usize, key: &[Value], row: &[Value]) -> Result<bool, Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let k = Key::pack(key)?.as_bytes().to_vec();
        let Some((was, known)) = self.aside.moved.get(&(position, k.clone())).cloned() else { return Ok(false) };
        if !self.parents_exist(store.table(position), &was)? {
            return Ok(false);
        }
        let before = self.before(position, &k)?;
        match m.sql.update(&store.conn, key, &was) {
            Ok(_) => {}
            Err(e) if is_constraint(&e) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        self.written(before)?;
        self.note_aside(position, key, "UPDATE", (Why::Parent, PARENT_ASIDE), Some(row))?;
        store.set_known(m.id, &k, known)?;
        Ok(true)
    }
}

const PARENT_ASIDE: &str = "the row that this one refers to is set aside: this file's schema refuses it";
