//! How a transaction of remote rows ends: no reference that was whole is left broken. What refers to a row that only a
//! rebuild can bring is withdrawn until then. Where the app has changed any of that, either nothing of the transaction
//! is kept, and the rebuild brings all of it at once ([`Applier::finish`]), or, where no other transaction follows that
//! could do better, the changed row leaves for the inbox, whole ([`Applier::finish_displacing`]).

use std::collections::BTreeSet;

use rusqlite::Transaction;
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::schema::Table;
use sync_core::value::Value;

use crate::apply::{Applier, Outcome};
use crate::detach::Intents;
use crate::error::Error;

/// What a transaction of remote rows came to. Only one that leaves every reference whole can be committed.
#[must_use = "a transaction that is not whole is undone: a rebuild, or another way, has to do what it was for"]
pub(crate) enum Finished<'t> {
    Whole(Whole<'t>),
    /// A row that the app has changed refers to one that only a rebuild can bring: nothing was kept.
    Undone,
}

/// A transaction that leaves every reference whole.
pub(crate) struct Whole<'t> {
    tx: Transaction<'t>,
    outcome: Outcome,
}

impl Whole<'_> {
    /// What it did.
    pub(crate) const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    pub(crate) fn commit(self) -> Result<Outcome, Error> {
        self.tx.commit()?;
        Ok(self.outcome)
    }
}

/// Rows whose references a transaction has to look at before it ends.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    /// Rows that are not here and come back by a rebuild only, as far as they are known.
    away: Vec<(usize, Vec<Value>)>,
    /// Changed rows that refer to a row which is leaving.
    changed: Vec<(usize, Vec<Value>)>,
    /// Rows went because this file's side gives way as a whole: an intent that could not is looked at.
    gave_way: Option<(&'static str, Intents)>,
}

impl<'a> Applier<'a> {
    /// Ends the transaction's work: orphans are settled, and refused rows whose cause may be gone are tried again.
    pub(crate) fn finish(mut self, tx: Transaction<'a>) -> Result<Finished<'a>, Error> {
        self.settle()?;
        if !self.holes.changed.is_empty() {
            return Ok(Finished::Undone);
        }
        while let Some((position, row)) = self.holes.away.pop() {
            let found = self.refer_to(position, row)?;
            if found.local || !found.changed.is_empty() {
                return Ok(Finished::Undone);
            }
            self.withdraw(found)?;
        }
        Ok(Finished::Whole(Whole { tx, outcome: self.ended()? }))
    }

    /// The same where no transaction that follows could do better: a changed row that refers to one which is away leaves
    /// for the inbox.
    pub(crate) fn finish_displacing(self, tx: Transaction<'a>) -> Result<Whole<'a>, Error> {
        Ok(Whole { tx, outcome: self.finish_here()? })
    }

    /// The same in a transaction of the caller.
    pub(crate) fn finish_here(mut self) -> Result<Outcome, Error> {
        self.settle()?;
        if let Some((reason, stays)) = self.holes.gave_way.take() {
            self.displace_orphans(reason, &stays)?;
        }
        loop {
            while let Some((position, key)) = self.holes.changed.pop() {
                self.displace(position, &key, "parent_away", AWAY, None)?;
            }
            let Some((position, row)) = self.holes.away.pop() else { return self.ended() };
            let found = self.refer_to(position, row.clone())?;
            if found.changed.is_empty() {
                self.withdraw(found)?;
            } else {
                self.holes.changed = found.changed;
                self.holes.away.push((position, row));
            }
        }
    }

    fn settle(&mut self) -> Result<(), Error> {
        assert!(self.questions.is_empty(), "invariant: whoever gives answers looks for questions first");
        if self.aside.any {
            self.settle_absent()?;
        }
        self.withdraw_leaving()?;
        if self.any_dirty || !self.store.held_back.is_empty() { self.settle_orphans() } else { Ok(()) }
    }

    fn ended(mut self) -> Result<Outcome, Error> {
        if self.aside.any {
            self.settle_returned()?;
            self.try_aside(self.touched.iter().copied())?;
        }
        if let Some(w) = self.watch.take() {
            w.release(self.store)?;
        }
        self.store.settle_left(self.now)?;
        self.tell_changes()?;
        Ok(self.outcome)
    }

    /// What refers to a row that is not here and comes back by a rebuild only goes as well, at the end. Of the row at
    /// least the key is known.
    pub(crate) fn withdraw_children(&mut self, position: usize, row: Vec<Value>) {
        self.holes.away.push((position, row));
    }

    /// A changed row refers to one that is leaving: it cannot go with it.
    pub(crate) fn cannot_follow(&mut self, position: usize, key: Vec<Value>) {
        self.holes.changed.push((position, key));
    }

    /// This file's rows give way as a whole: intents that stay, since they cannot be compared, may not stand any more.
    /// Those that are to stay do, as do those that rows of unsynced tables hold.
    pub(crate) fn gives_way(&mut self, reason: &'static str, stays: Intents) {
        self.holes.gave_way = Some((reason, stays));
    }

    /// Whatever refers to a row that is away, directly or not, as far as it is not changed.
    fn refer_to(&self, position: usize, row: Vec<Value>) -> Result<Found, Error> {
        let store = self.store;
        let mut out = Found::default();
        let key = key_of(store.table(position), &row);
        if store.managed[position].sql.exists(&store.conn, &key)? {
            // It came meanwhile.
            return Ok(out);
        }
        out.away = true;
        let mut seen = BTreeSet::from([(position, Key::pack(&key)?.as_bytes().to_vec())]);
        let (mut found, mut at) = (vec![(position, row)], 0);
        while let Some((parent, row)) = found.get(at).cloned() {
            at += 1;
            out.local = out.local || store.locals_refer(parent, &row)?;
            for (child, fk) in store.schema().references_to(parent) {
                let m = &store.managed[child];
                for key in self.store.children(child, fk, store.table(parent), &row)? {
                    let k = Key::pack(&key)?.as_bytes().to_vec();
                    if !seen.insert((child, k.clone())) {
                        continue;
                    }
                    // What is held back would not come again.
                    if store.held_back.contains_key(&child)
                        || store.dirty(m.id, &k)?.is_some()
                        || store.unanswered(m.id, &k)?
                    {
                        out.changed.push((child, key));
                    } else if let Some(row) = m.sql.read_bytes(&store.conn, &key)? {
                        found.push((child, row));
                    }
                }
            }
        }
        out.clean = found.split_off(1);
        Ok(out)
    }

    fn withdraw(&mut self, found: Found) -> Result<(), Error> {
        let store = self.store;
        self.outcome.away |= found.away;
        for (child, row) in found.clean.into_iter().rev() {
            let m = &store.managed[child];
            let key = key_of(store.table(child), &row);
            let k = Key::pack(&key)?.as_bytes().to_vec();
            m.sql.delete(&store.conn, &key)?;
            store.set_known(m.id, &k, Known::Live(0))?;
            store.take_out_of_committed(m.id, &k)?;
            self.changed(child, &k, true);
        }
        Ok(())
    }

    /// Intents whose parent is not here, after all others ended: rows that cannot be read as text.
    fn displace_orphans(&mut self, reason: &str, stays: &Intents) -> Result<(), Error> {
        let store = self.store;
        for (position, m) in store.managed.iter().enumerate() {
            let mut s = store.conn.prepare("SELECT k FROM main._sync_dirty WHERE t = ? ORDER BY k")?;
            let keys: Vec<Vec<u8>> = s.query_map([m.id], |r| r.get(0))?.collect::<Result<_, _>>()?;
            for k in keys.into_iter().filter(|k| !stays.contains(&(position, k.clone()))) {
                let key = Key::from_stored(k).unpack()?;
                if let Some(row) = m.sql.read_bytes(&store.conn, &key)?
                    && !self.parents_exist(store.table(position), &row)?
                    && store.kept_by_local(position, &key)?.is_none()
                {
                    self.displace(position, &key, reason, LEFT, None)?;
                }
            }
        }
        Ok(())
    }
}

/// What refers to a row that is away.
#[derive(Debug, Default)]
struct Found {
    /// Whether it is.
    away: bool,
    /// Rows as the server has them, parents first.
    clean: Vec<(usize, Vec<Value>)>,
    /// Whether rows of unsynced tables refer to any of it.
    local: bool,
    /// Keys of rows that the app has changed.
    changed: Vec<(usize, Vec<Value>)>,
}

fn key_of(table: &Table, row: &[Value]) -> Vec<Value> {
    table.key.iter().map(|i| row[*i].clone()).collect()
}

/// A row of which only the key is known.
pub(crate) fn only_key(table: &Table, key: &[Value]) -> Vec<Value> {
    let mut row = vec![Value::Null; table.columns.len()];
    table.key.iter().zip(key).for_each(|(i, v)| row[*i].clone_from(v));
    row
}

/// Why a rebuild is owed where a transaction was undone.
pub(crate) const NOT_WHOLE: &str = "references would be broken until all of it is here";
const AWAY: &str = "the row that this one refers to is not known here any more, and comes back with the next sync";
const LEFT: &str = "the row that this one refers to had to leave the table";
