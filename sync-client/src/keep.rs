//! Tables whose local edits outlive a remote delete of their parent (the other side of case C2): the
//! parent comes back as this file had it, with its own parents where these went too.

use std::collections::BTreeSet;

use rusqlite::OptionalExtension as _;
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record::{self, Record};
use sync_core::schema::ForeignKey;
use sync_core::value::Value;

use crate::apply::{Applier, is_constraint, version_of};
use crate::conflict::Policies;
use crate::error::Error;
use crate::inbox::Entry;
use crate::orphans::parent_key;
use crate::settle::op_of;
use crate::stage::StagedRow;
use crate::store::Store;

/// What a transaction has to remember for these tables.
#[derive(Debug, Default)]
pub(crate) struct Keep {
    /// The tables, by position.
    tables: BTreeSet<usize>,
    /// Their parents, and the parents of those: rows that a remote delete takes from them are remembered.
    parents: BTreeSet<usize>,
    /// Remote deletes of edited rows that wait for the end of their bundle: whether the parent goes as
    /// well is known only then.
    waiting: Vec<StagedRow>,
}

/// A row that comes back.
struct Back {
    position: usize,
    key: Vec<Value>,
    row: Vec<Value>,
}

impl Keep {
    /// Nothing is remembered where there is no intent that could need it.
    pub(crate) fn new(store: &Store, policies: &Policies, any_dirty: bool) -> Result<Self, Error> {
        let mut keep = Self::default();
        if !any_dirty || policies.keep.is_empty() {
            return Ok(keep);
        }
        keep.tables = policies.keep.iter().filter_map(|name| store.schema().position(name)).collect();
        let mut todo: Vec<usize> = keep.tables.iter().copied().collect();
        while let Some(position) = todo.pop() {
            for fk in &store.table(position).foreign_keys {
                if let Some(parent) = store.schema().position(&fk.parent)
                    && keep.parents.insert(parent)
                {
                    todo.push(parent);
                }
            }
        }
        store.conn.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_went (t INTEGER, k BLOB, row BLOB, PRIMARY KEY (t, k)) WITHOUT ROWID;
             DELETE FROM temp._sync_went;",
        )?;
        Ok(keep)
    }

    pub(crate) fn table(&self, position: usize) -> bool {
        self.tables.contains(&position)
    }

    pub(crate) fn wait(&mut self, r: StagedRow) {
        self.waiting.push(r);
    }

    /// Remembers a row that is about to be deleted.
    pub(crate) fn remember(&self, store: &Store, position: usize, k: &[u8], key: &[Value]) -> Result<(), Error> {
        if !self.parents.contains(&position) {
            return Ok(());
        }
        if let Some(Ok(row)) = store.managed[position].sql.read(&store.conn, key)? {
            store
                .conn
                .prepare_cached("INSERT OR REPLACE INTO temp._sync_went (t, k, row) VALUES (?, ?, ?)")?
                .execute((position as i64, k, record::encode(&row)))?;
        }
        Ok(())
    }
}

impl<'a> Applier<'a> {
    /// At the end of a bundle: an edited row whose parent went with it stays, and the parent comes back;
    /// any other is settled by the policy.
    pub(crate) fn settle_kept(&mut self) -> Result<(), Error> {
        for r in std::mem::take(&mut self.keep.waiting) {
            let (store, m) = (self.store, &self.store.managed[r.position]);
            let known = store.known(m.id, &r.k)?;
            // The version of a tombstone that a snapshot does not name is learned from the server.
            let missing = self.missing.contains(&(r.position, r.k.clone()));
            let k = r.k.clone();
            // The edit may have left the table for the inbox meanwhile.
            let Some(dirty) = store.dirty(m.id, &k)? else {
                self.write_or_defer(r, known)?;
                if missing {
                    store.set_known(m.id, &k, Known::Never)?;
                }
                continue;
            };
            let key = Key::from_stored(r.k.clone()).unpack()?;
            let live = m.sql.read(&store.conn, &key)?.and_then(Result::ok);
            let kept = match &live {
                Some(row) if self.parent_went(store.table(r.position), row)? => {
                    self.bring_back(r.position, &key, row, op_of(live.as_deref(), known, dirty.base.as_ref()))?
                }
                _ => false,
            };
            if kept {
                store.set_known(m.id, &k, version_of(&r))?;
                store.put_dirty(m.id, &k, dirty.since, None)?;
                self.note_brought_back(r.position, &k)?;
            } else {
                self.meet_now(r, known, &dirty)?;
            }
            if missing && store.known(m.id, &k)? != known {
                store.set_known(m.id, &k, Known::Never)?;
            }
        }
        Ok(())
    }

    /// Puts back the parents that a local row lacks, oldest first, as intents of this device. False, and
    /// nothing is changed, where one of them was not here or does not fit any more.
    pub(crate) fn bring_back(
        &mut self,
        position: usize,
        key: &[Value],
        row: &[Value],
        op: &'static str,
    ) -> Result<bool, Error> {
        if !self.keep.table(position) {
            return Ok(false);
        }
        let store = self.store;
        let Some(back) = self.gather(position, row)? else { return Ok(false) };
        store.conn.execute_batch("SAVEPOINT _sync_back")?;
        for b in &back {
            let m = &store.managed[b.position];
            match m.sql.insert(&store.conn, &b.row) {
                Ok(_) => {
                    // Not a new row under the number of another.
                    let base: Record = b.row.iter().cloned().map(Some).collect();
                    store.put_dirty(m.id, Key::pack(&b.key)?.as_bytes(), self.now, Some(&base))?;
                }
                Err(e) if is_constraint(&e) => return store.take_back("_sync_back", Ok(false)),
                Err(e) => return Err(e.into()),
            }
        }
        store.conn.execute_batch("RELEASE _sync_back")?;
        for b in &back {
            self.changed(b.position, Key::pack(&b.key)?.as_bytes(), false);
        }
        self.outcome.conflicts += 1;
        let child = Back { position, key: key.to_vec(), row: row.to_vec() };
        let message = "the row that this one refers to was deleted on the server, and came back for this edit";
        let told = self.told(&child, op, "kept", message);
        self.record(&told)?;
        for b in &back {
            let message = "this row was deleted on the server; it came back for an edit of a row that refers to it";
            let told = self.told(b, "INSERT", "came_back", message);
            self.record(&told)?;
        }
        Ok(true)
    }

    fn told<'b>(&self, b: &'b Back, op: &'static str, reason: &'b str, message: &'b str) -> Entry<'b>
    where
        'a: 'b,
    {
        Entry {
            kind: "conflict",
            at: self.now,
            table: self.store.table(b.position),
            key: &b.key,
            op,
            reason,
            message,
            local: Some(&b.row),
            base: None,
            server: None,
        }
    }

    /// The parents that a row lacks, each after its own; `None` where one of them was not here.
    fn gather(&self, position: usize, row: &[Value]) -> Result<Option<Vec<Back>>, Error> {
        let Some(mut todo) = self.lacking(position, row)? else { return Ok(None) };
        let (mut seen, mut back) = (BTreeSet::new(), Vec::new());
        // The last one is next: a row, or, once its own parents are gathered, its place among them.
        while let Some((found, gathered)) = todo.pop() {
            if gathered {
                back.push(found);
            } else if seen.insert((found.position, Key::pack(&found.key)?.as_bytes().to_vec())) {
                let Some(parents) = self.lacking(found.position, &found.row)? else { return Ok(None) };
                todo.push((found, true));
                todo.extend(parents);
            }
        }
        Ok(Some(back))
    }

    /// The parents that are not there, the first one last.
    fn lacking(&self, position: usize, row: &[Value]) -> Result<Option<Vec<(Back, bool)>>, Error> {
        let mut out = Vec::new();
        for fk in self.store.table(position).foreign_keys.iter().rev() {
            let Some(parent) = self.store.schema().position(&fk.parent) else { continue };
            if self.store.refers_to_a_row(fk, parent, row)? {
                continue;
            }
            let Some(found) = self.went(fk, parent, row)? else { return Ok(None) };
            out.push((found, false));
        }
        Ok(Some(out))
    }

    /// The row that a foreign key names, among those that this transaction took.
    fn went(&self, fk: &ForeignKey, parent: usize, row: &[Value]) -> Result<Option<Back>, Error> {
        let (store, table) = (self.store, self.store.table(parent));
        if let Some(key) = parent_key(fk, table, row) {
            let stored: Option<Vec<u8>> = store
                .conn
                .prepare_cached("SELECT row FROM temp._sync_went WHERE t = ? AND k = ?")?
                .query_row((parent as i64, Key::pack(&key)?.as_bytes()), |r| r.get(0))
                .optional()?;
            return Ok(stored.map(|b| record::decode_full(&b)).transpose()?.map(|row| Back {
                position: parent,
                key,
                row,
            }));
        }
        // The foreign key is to a UNIQUE column: there is no way but to look.
        let mut s = store.conn.prepare_cached("SELECT row FROM temp._sync_went WHERE t = ?")?;
        let mut rows = s.query([parent as i64])?;
        while let Some(r) = rows.next()? {
            let candidate = record::decode_full(&r.get::<_, Vec<u8>>(0)?)?;
            let same = fk
                .columns
                .iter()
                .zip(&fk.parent_columns)
                .all(|(i, c)| table.column(c).and_then(|at| candidate.get(at)).is_some_and(|v| *v == row[*i]));
            if same {
                let key = store.managed[parent].sql.key_of(&candidate);
                return Ok(Some(Back { position: parent, key, row: candidate }));
            }
        }
        Ok(None)
    }
}
