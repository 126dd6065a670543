//! Local rows that cannot stand beside what came (cases C1–C3): rows that leave the table for the
//! inbox, whole, with what depends on them.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record;
use sync_core::schema::{ForeignKey, Table};
use sync_core::value::Value;

use crate::apply::{Applier, fit, full};
use crate::error::Error;
use crate::inbox::Entry;
use crate::settle::op_of;
use crate::stage::StagedRow;
use crate::store::Meta;

/// What is to be done while rows leave their tables. The last one is next: a list in place of calls, since a row may
/// take along a chain of any length.
enum Step<'s> {
    /// A row has to leave, if this device has changed it.
    Displace { position: usize, key: Vec<Value>, reason: &'s str, message: &'s str, server: Option<Vec<Value>> },
    /// The server has this row: its state there comes back, now that nothing local is in its way.
    PutBack { left: Left<'s>, base: Vec<Value> },
    /// The row goes, and what depends on it.
    Leave { left: Left<'s>, fetched_again: bool },
    /// What refers to a row that comes back by a rebuild only.
    Withdraw { position: usize, row: Vec<Value> },
}

/// A row that is recorded and has no intent any more.
struct Left<'s> {
    position: usize,
    key: Vec<Value>,
    k: Vec<u8>,
    live: Option<Vec<Value>>,
    reason: &'s str,
}

/// Why a local row leaves its table for one of the server.
pub(crate) const UNIQUE_TAKEN: &str = "the server has another row with the same unique value";

impl Applier<'_> {
    /// C1, C2: a local row that a remote one makes impossible leaves the table, whole, and what
    /// depends on it goes along. Where the server has the row, its state there comes back.
    pub(crate) fn displace(
        &mut self,
        position: usize,
        key: &[Value],
        reason: &str,
        message: &str,
        server: Option<&[Value]>,
    ) -> Result<(), Error> {
        let (key, server) = (key.to_vec(), server.map(<[Value]>::to_vec));
        let mut steps = vec![Step::Displace { position, key, reason, message, server }];
        while let Some(step) = steps.pop() {
            let at = steps.len();
            match step {
                Step::Displace { position, key, reason, message, server } => {
                    self.displace_one(position, key, (reason, message, server.as_deref()), &mut steps)?;
                }
                Step::PutBack { left, base } => {
                    let before = self.before(left.position, &left.k)?;
                    if self.write_back(left.position, &left.k, &base)? {
                        self.written(before)?;
                    } else {
                        steps.push(Step::Leave { left, fetched_again: true });
                    }
                }
                Step::Leave { left, fetched_again } => self.leave(left, fetched_again, &mut steps)?,
                Step::Withdraw { position, row } => self.withdraw_children(position, row),
            }
            // They were noted in the order in which they have to be done.
            steps[at..].reverse();
        }
        Ok(())
    }

    /// Records a row and ends its intent; what becomes of the row follows.
    fn displace_one<'s>(
        &mut self,
        position: usize,
        key: Vec<Value>,
        (reason, message, server): (&'s str, &str, Option<&[Value]>),
        steps: &mut Vec<Step<'s>>,
    ) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        let k = Key::pack(&key)?.as_bytes().to_vec();
        self.claim(position, &k)?;
        let Some(dirty) = store.dirty(m.id, &k)? else { return Ok(()) };
        if store.outbox()?.is_some() {
            Meta::OutboxDisturbed.set(&store.conn, 1)?;
        }
        let known = store.known(m.id, &k)?;
        let live = m.sql.read_bytes(&store.conn, &key)?;
        self.record(&Entry {
            kind: "rejected",
            at: self.now,
            table,
            key: &key,
            op: op_of(live.as_deref(), known, dirty.base.as_ref()),
            reason,
            message,
            local: live.as_deref(),
            base: dirty.base.as_ref(),
            server,
        })?;
        self.outcome.conflicts += 1;
        store.drop_dirty(m.id, &k)?;
        let fetched_again = matches!(known, Known::Live(_));
        let left = Left { position, key, k, live, reason };
        if fetched_again {
            let base = dirty.base.as_ref().filter(|_| known.version() > 0);
            let base = base.filter(|b| b.len() == table.columns.len() && b.iter().all(Option::is_some));
            let back: Option<Vec<Value>> = base.map(|b| b.iter().flatten().cloned().collect());
            let back = if back.is_none() { self.in_the_snapshot(position, &left.k)? } else { back };
            if let Some(base) = back
                && self.parents_exist(table, &base)?
                && let in_the_way = self.in_the_way(position, &left.k, &base)?
                && !self.any_kept(position, &in_the_way)?
            {
                for key in in_the_way {
                    let (reason, message) = ("unique", UNIQUE_TAKEN);
                    steps.push(Step::Displace { position, key, reason, message, server: Some(base.clone()) });
                }
                steps.push(Step::PutBack { left, base });
                return Ok(());
            }
            self.fetch_again(position, &left.k)?;
        }
        steps.push(Step::Leave { left, fetched_again });
        Ok(())
    }

    /// Whether rows of unsynced tables hold any of these rows where they are.
    fn any_kept(&self, position: usize, keys: &[Vec<Value>]) -> Result<bool, Error> {
        for key in keys {
            if self.store.kept_by_local(position, key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a recorded row out of its table; what depends on it follows.
    fn leave<'s>(&mut self, left: Left<'s>, fetched_again: bool, steps: &mut Vec<Step<'s>>) -> Result<(), Error> {
        let Left { position, key, k, live, reason } = left;
        let (store, m) = (self.store, &self.store.managed[position]);
        let Some(live) = live else { return Ok(()) };
        m.sql.delete(&store.conn, &key)?;
        self.changed(position, &k, true);
        for (child, fk) in store.schema().references_to(position) {
            for key in self.store.children(child, fk, store.table(position), &live)? {
                let message = "the row that this one refers to had to leave the table";
                steps.push(Step::Displace { position: child, key, reason, message, server: None });
            }
        }
        if fetched_again {
            steps.push(Step::Withdraw { position, row: live });
        }
        Ok(())
    }

    /// C2 and C3, after the rows of the transaction are written. What may be a large set of intents is
    /// read only where rows went away, or are referred to otherwise than by their key.
    pub(crate) fn settle_orphans(&mut self) -> Result<(), Error> {
        self.settle_renamed()?;
        for position in 0..self.store.managed.len() {
            let (went, came) = self.orphans_to_look_for(position);
            if went || came {
                self.settle_intents(position, went, came)?;
            }
        }
        for (position, k) in std::mem::take(&mut self.referred_to) {
            let key = Key::from_stored(k.clone()).unpack()?;
            if !self.store.managed[position].sql.exists(&self.store.conn, &key)? {
                self.undo_contradicted_delete(position, &k, &key)?;
            }
        }
        Ok(())
    }

    /// Whether any intent of a table may be for a row whose parent went, and whether any may be for a
    /// parent, referred to otherwise than by its key, of a row that came.
    fn orphans_to_look_for(&self, position: usize) -> (bool, bool) {
        let schema = self.store.schema();
        let went = self.store.table(position).foreign_keys.iter().any(|f| {
            schema
                .position(&f.parent)
                .is_some_and(|p| self.went.contains(&p) || self.touched.contains(&p) && !by_key(f, self.store.table(p)))
        });
        let came = schema
            .references_to(position)
            .any(|(child, f)| self.touched.contains(&child) && !by_key(f, self.store.table(position)));
        (went, came)
    }

    fn settle_intents(&mut self, position: usize, went: bool, came: bool) -> Result<(), Error> {
        let store = self.store;
        let (t, table) = (store.managed[position].id, store.table(position));
        if went && store.held_back.contains_key(&position) {
            self.claim_held_back(position)?;
        }
        let mut s = store.conn.prepare_cached("SELECT k FROM main._sync_dirty WHERE t = ?")?;
        let keys: Vec<Vec<u8>> = s.query_map([t], |r| r.get(0))?.collect::<Result<_, _>>()?;
        for k in keys {
            let key = Key::from_stored(k.clone()).unpack()?;
            match store.managed[position].sql.read_bytes(&store.conn, &key)? {
                Some(row) if went && self.parent_went(table, &row)? => {
                    let (known, dirty) = (store.known(t, &k)?, store.dirty(t, &k)?);
                    let op = op_of(Some(&row), known, dirty.and_then(|d| d.base).as_ref());
                    if self.bring_back(position, &key, &row, op)? {
                        continue;
                    }
                    // The app itself took the parent, or its delete would have been set aside. What unsynced rows
                    // refer to stays, and the server says what is wrong with it.
                    if store.kept_by_local(position, &key)?.is_some() {
                        continue;
                    }
                    let why = "the row that this one refers to was deleted on the server";
                    self.displace(position, &key, "parent_deleted", why, None)?;
                }
                None if came => self.undo_contradicted_delete(position, &k, &key)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes the intents whose row a row that came refers to by its key, and that is not here (yet).
    pub(crate) fn note_missing_parents(&mut self, r: &StagedRow, row: &[u8]) -> Result<(), Error> {
        let store = self.store;
        let table = store.table(r.position);
        let mut values: Option<Vec<Value>> = None;
        for fk in &table.foreign_keys {
            let Some(parent) = store.schema().position(&fk.parent).filter(|p| by_key(fk, store.table(*p))) else {
                continue;
            };
            if values.is_none() {
                let sent = fit(record::decode(row)?, table);
                // What was not sent is as it was.
                values = if sent.iter().all(Option::is_some) {
                    Some(full(sent))
                } else {
                    let key = Key::from_stored(r.k.clone()).unpack()?;
                    store.managed[r.position].sql.read(&store.conn, &key)?.and_then(Result::ok)
                };
            }
            let Some(key) = values.as_ref().and_then(|v| parent_key(fk, store.table(parent), v)) else { continue };
            let Ok(k) = Key::pack(&key) else { continue };
            let m = &store.managed[parent];
            let intent = "SELECT 1 FROM main._sync_dirty WHERE t = ? AND k = ?";
            if store.conn.prepare_cached(intent)?.exists((m.id, k.as_bytes()))? && !m.sql.exists(&store.conn, &key)? {
                self.referred_to.insert((parent, k.as_bytes().to_vec()));
            }
        }
        Ok(())
    }

    /// Whether a row refers to a parent that a row of this transaction took away.
    pub(crate) fn parent_went(&self, table: &Table, row: &[Value]) -> Result<bool, Error> {
        for fk in &table.foreign_keys {
            let Some(parent) = self.store.schema().position(&fk.parent).filter(|p| self.touched.contains(p)) else {
                continue;
            };
            if !self.store.refers_to_a_row(fk, parent, row)? {
                let gone = match parent_key(fk, self.store.table(parent), row) {
                    Some(key) => match Key::pack(&key) {
                        Ok(k) => {
                            self.missing.contains(&(parent, k.as_bytes().to_vec()))
                                || matches!(self.store.known(self.store.managed[parent].id, k.as_bytes())?, Known::Gone(v) if v >= self.lowest)
                        }
                        Err(_) => false,
                    },
                    None => true,
                };
                if gone {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub(crate) fn parents_exist(&self, table: &Table, row: &[Value]) -> Result<bool, Error> {
        for fk in &table.foreign_keys {
            if let Some(parent) = self.store.schema().position(&fk.parent)
                && !self.store.refers_to_a_row(fk, parent, row)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a foreign key refers to its parent's key, and not to other UNIQUE columns.
pub(crate) fn by_key(fk: &ForeignKey, parent: &Table) -> bool {
    parent.key.iter().all(|i| fk.parent_columns.contains(&parent.columns[*i].name))
}

/// The parent's key that a foreign key names, where it refers to the key.
pub(crate) fn parent_key(fk: &ForeignKey, parent: &Table, row: &[Value]) -> Option<Vec<Value>> {
    let of = |i: &usize| {
        let at = fk.parent_columns.iter().position(|c| *c == parent.columns[*i].name)?;
        row.get(*fk.columns.get(at)?).cloned()
    };
    parent.key.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::conflict::Policies;
    use crate::store::{Selection, Store};

    const FAMILY: &str = "CREATE TABLE lists (id TEXT PRIMARY KEY NOT NULL, name TEXT);
        CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, list TEXT REFERENCES lists(id));";

    /// Steps of SQLite's machine that one remote row takes beside so many local intents.
    fn steps(intents: u32, table: &str, row: &[&str]) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = rusqlite::Connection::open(&path).unwrap();
        app.execute_batch(FAMILY).unwrap();
        let mut store = Store::open(&path).unwrap();
        store.install("http://localhost", &Selection::All, "source", 0).unwrap();
        let both = format!(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {intents}) \
             INSERT INTO lists SELECT 'l' || i, 'name' FROM n; INSERT INTO items SELECT id, id FROM lists;"
        );
        app.execute_batch(&both).unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let step = move || counted.fetch_add(1, Ordering::Relaxed) == u64::MAX;
        store.conn.progress_handler(1, Some(step)).unwrap();
        let tx = store.begin().unwrap();
        store.absorb(1).unwrap();
        let before = count.load(Ordering::Relaxed);
        let policies = Policies::default();
        let mut applier = Applier::new(&store, &policies, 1).unwrap();
        applier.begin_bundle("other", false).unwrap();
        let values: Vec<Value> = row.iter().map(|v| Value::Text((*v).into())).collect();
        let r = StagedRow {
            position: store.schema().position(table).unwrap(),
            k: Key::pack(&values[..1]).unwrap().as_bytes().to_vec(),
            op: sync_core::protocol::Op::Insert,
            version: 1,
            row: Some(record::encode(&values)),
        };
        applier.row(r).unwrap();
        applier.end_bundle().unwrap();
        applier.finish_here().unwrap();
        tx.commit().unwrap();
        count.load(Ordering::Relaxed) - before
    }

    #[test]
    fn a_remote_row_costs_no_more_beside_many_intents() {
        for (table, row) in [("lists", ["new", "name"]), ("items", ["new", "l1"])] {
            let (few, many) = (steps(10, table, &row), steps(1000, table, &row));
            assert!(many <= few + few / 4, "{table}: {many} steps beside 1000 intents, {few} beside 10");
        }
    }
}
