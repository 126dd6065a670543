//! What a push of this file did to rows beside what was sent: the server's rules, its cascades, its defaults. A row
//! that leaves or changes here without the app having written that is recorded whole.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::OptionalExtension as _;
use sync_core::engine::change::{Change, derive};
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::protocol::rows::{WireRow, read_page};
use sync_core::record::{self, Record};
use sync_core::schema::{ForeignKey, Table};
use sync_core::value::Value;
use sync_core::wire::decode_key;

use crate::api::CallError;
use crate::apply::{Applier, fit};
use crate::detach::Intents;
use crate::engine::Engine;
use crate::error::Error;
use crate::inbox::{Entry, add_merged};
use crate::mutant::{self, Mutant};
use crate::orphans::{by_key, parent_key};
use crate::pull::read_failed;
use crate::settle::over;
use crate::stage::StagedRow;
use crate::store::Store;
use crate::store::references::referred;

impl Store {
    /// The frozen rows by their keys, for the transaction that learns their fate.
    pub(crate) fn remember_frozen(&self) -> Result<(), Error> {
        // Not an index on the outbox: a schema of ours that changed would have to be read again.
        self.conn.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_frozen (t INTEGER, k BLOB, ordinal INTEGER, op INTEGER, base BLOB, \
             PRIMARY KEY (t, k)) WITHOUT ROWID; \
             DELETE FROM temp._sync_frozen; \
             INSERT INTO temp._sync_frozen SELECT t, k, ordinal, op, CASE op WHEN 3 THEN base END FROM main._sync_out;",
        )?;
        Ok(())
    }

    /// The values by which a foreign key referred to rows that the frozen deletes took.
    fn values_of_deleted(&self, parent: usize, fk: &ForeignKey) -> Result<BTreeSet<Vec<u8>>, Error> {
        let sql = "SELECT base FROM temp._sync_frozen WHERE t = ? AND op = ? AND base IS NOT NULL";
        let mut s = self.conn.prepare_cached(sql)?;
        let mut rows = s.query((self.managed[parent].id, Op::Delete.stored()))?;
        let mut out = BTreeSet::new();
        while let Some(r) = rows.next()? {
            let mut row = record::decode(&r.get::<_, Vec<u8>>(0)?)?;
            row.resize(self.table(parent).columns.len(), None);
            let row: Vec<Value> = row.into_iter().map(|v| v.unwrap_or(Value::Null)).collect();
            out.extend(referred(fk, self.table(parent), &row).map(by_value));
        }
        Ok(out)
    }

    /// What was sent for a key; none where it was not among the frozen rows.
    fn frozen_op(&self, t: i64, k: &[u8]) -> Result<Option<Op>, Error> {
        let sql = "SELECT op FROM temp._sync_frozen WHERE t = ? AND k = ?";
        let op: Option<i64> = self.conn.prepare_cached(sql)?.query_row((t, k), |r| r.get(0)).optional()?;
        Ok(op.and_then(Op::from_stored))
    }
}

impl Engine {
    /// The rows that the server deleted with a bundle of this file: what a snapshot cannot tell from what others deleted
    /// since. Nothing where the bundle is not kept any more.
    pub(crate) fn deleted_by(&self, source: &str, bundle: i64) -> Result<Intents, Error> {
        let mut out = Intents::new();
        let mut after = None;
        loop {
            let response = match self.api.committed_rows(source, bundle, after, self.most_rows()) {
                Ok(r) => r,
                Err(CallError::Reply(_)) => return Ok(out),
                Err(e) => return Err(e.into()),
            };
            let page = read_page(response.body, |w: WireRow| {
                let position = self.store.schema().position(&w.table);
                if let (Some(position), Some(Op::Delete)) = (position, Op::parse(&w.op))
                    && let Ok(key) = decode_key(self.store.table(position), &w.key)
                {
                    out.insert((position, Key::pack(&key)?.as_bytes().to_vec()));
                }
                Ok::<(), Error>(())
            });
            let page = page.map_err(read_failed)?;
            if !page.has_more || after.is_some_and(|a| page.next_row_ordinal <= a) {
                return Ok(out);
            }
            after = Some(page.next_row_ordinal);
        }
    }
}

impl Applier<'_> {
    /// A row of an own bundle is not what this file has: it is recorded before it goes, or becomes another one.
    pub(crate) fn note_effect(&mut self, position: usize, k: &[u8], made: Option<&Record>) -> Result<(), Error> {
        if mutant::on(Mutant::EffectsUntold) {
            return Ok(());
        }
        let (store, m) = (self.store, &self.store.managed[position]);
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let Some(live) = m.sql.read_bytes(&store.conn, &key)? else { return Ok(()) };
        match made {
            Some(made) => {
                let made = over(fit(made.clone(), store.table(position)), Some(&live));
                self.note_change(position, &key, &live, &made)
            }
            None => self.note_removal(position, &key, &live),
        }
    }

    /// The server made another row of this one.
    pub(crate) fn note_change(
        &mut self,
        position: usize,
        key: &[Value],
        live: &[Value],
        made: &[Value],
    ) -> Result<(), Error> {
        let table = self.store.table(position);
        let differs = |i: &usize| live[*i] != made[*i];
        // A server that spells values in its own way says the same with other words in whatever it sends back.
        let of_references = || table.foreign_keys.iter().flat_map(|f| f.columns.iter().copied()).any(|i| differs(&i));
        if live == made || self.rounds && !of_references() {
            return Ok(());
        }
        let names: Vec<&str> =
            (0..table.columns.len()).filter(differs).map(|i| table.columns[i].name.as_str()).collect();
        let message =
            format!("the server changed this row while it committed a push of this device: {}", names.join(", "));
        self.record(&effect(table, key, self.now, ("conflict", "changed", &message), live, Some(made)))?;
        add_merged(&self.store.conn, table, made)
    }

    /// The server removed this row.
    fn note_removal(&mut self, position: usize, key: &[Value], live: &[Value]) -> Result<(), Error> {
        let (table, t) = (self.store.table(position), self.store.managed[position].id);
        let sent = self.store.frozen_op(t, Key::pack(key)?.as_bytes())?;
        let (reason, message) = match sent {
            Some(_) => {
                ("removed_by_server", "the server removed this row while it committed the push that contained it")
            }
            None => ("taken_along", "the server removed this row along with one that this device deleted or changed"),
        };
        let op = sent.unwrap_or(Op::Update).name();
        let entry = effect(table, key, self.now, ("discarded", reason, message), live, None);
        self.record(&Entry { op, ..entry })
    }

    /// A row of the snapshot that has the version of an own push, and no intent: what is not as it was here, that push
    /// changed.
    pub(crate) fn note_effect_in_snapshot(&mut self, r: &StagedRow) -> Result<(), Error> {
        if self.pushed.is_none_or(|bundle| bundle == 0 || bundle != r.version) {
            return Ok(());
        }
        let made = r.row.as_deref().map(record::decode).transpose()?;
        self.note_effect(r.position, &r.k, made.as_ref())
    }

    /// Rows of a table that a snapshot lacks, after an own push: those that it sent, those that the server deleted with
    /// it, and those that refer to what it deleted, or that went with that. Others may have deleted them since; who did
    /// is not told by a snapshot.
    pub(crate) fn note_taken_along(&mut self, position: usize, gone: &[Vec<u8>]) -> Result<(), Error> {
        if self.pushed.is_none() {
            return Ok(());
        }
        let (store, m) = (self.store, &self.store.managed[position]);
        let mut left: Vec<&Vec<u8>> = gone.iter().collect();
        // Rows may refer to others of their table.
        loop {
            let before = left.len();
            for k in std::mem::take(&mut left) {
                let key = Key::from_stored(k.clone()).unpack()?;
                let Some(live) = m.sql.read_bytes(&store.conn, &key)? else { continue };
                // What is noted may mean nothing: set back by the app, or on its way when the file was detached.
                if let Some(dirty) = store.dirty(m.id, k)?
                    && derive(Some(&live), store.known(m.id, k)?, dirty.base.as_ref()) != Change::Nothing
                {
                    continue;
                }
                if store.frozen_op(m.id, k)?.is_none()
                    && !self.removed.contains(&(position, k.clone()))
                    && !self.refers_to_taken(position, &live)?
                {
                    left.push(k);
                    continue;
                }
                self.note_removal(position, &key, &live)?;
                self.taken.insert((position, k.clone()));
            }
            if left.len() == before {
                return Ok(());
            }
        }
    }

    /// Whether a row refers, by a foreign key that acts, to one that an own push deleted, or that went with it.
    fn refers_to_taken(&mut self, position: usize, row: &[Value]) -> Result<bool, Error> {
        let store = self.store;
        for fk in store.table(position).foreign_keys.iter().filter(|f| f.on_delete == "CASCADE") {
            let Some(parent) = store.schema().position(&fk.parent) else { continue };
            let t = store.managed[parent].id;
            if by_key(fk, store.table(parent)) {
                let Some(Ok(k)) = parent_key(fk, store.table(parent), row).map(|key| Key::pack(&key)) else { continue };
                let k = k.as_bytes().to_vec();
                if store.frozen_op(t, &k)? == Some(Op::Delete) || self.taken.contains(&(parent, k)) {
                    return Ok(true);
                }
            } else if fk.columns.iter().all(|i| !row[*i].is_null()) {
                // Another row may have the value by now: it was deleted all the same.
                let at = (parent, fk.parent_columns.clone());
                if !self.deleted_values.contains_key(&at) {
                    self.deleted_values.insert(at.clone(), store.values_of_deleted(parent, fk)?);
                }
                if self.deleted_values[&at].contains(&by_value(fk.columns.iter().map(|i| &row[*i]).collect()))
                    || self.taken.iter().any(|(p, _)| *p == parent) && !store.refers_to_a_row(fk, parent, row)?
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Rows that went with an own push, by table and stored key.
pub(crate) type Taken = BTreeSet<(usize, Vec<u8>)>;

/// Values of rows that an own push deleted, by the table and the columns that a foreign key refers to.
pub(crate) type DeletedValues = BTreeMap<(usize, Vec<String>), BTreeSet<Vec<u8>>>;

/// Values in a form that compares as they do.
fn by_value(values: Vec<&Value>) -> Vec<u8> {
    record::encode(&values.into_iter().cloned().collect::<Vec<_>>())
}

/// An entry for an effect: its kind, reason and message, the row as it was, and as it is.
fn effect<'e>(
    table: &'e Table,
    key: &'e [Value],
    at: i64,
    (kind, reason, message): (&'static str, &'static str, &'e str),
    local: &'e [Value],
    server: Option<&'e [Value]>,
) -> Entry<'e> {
    Entry { kind, at, table, key, op: Op::Update.name(), reason, message, local: Some(local), base: None, server }
}
