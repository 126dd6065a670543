//! Where a remote row and a local intent cannot both stand: conflicts, rows that leave the table,
//! deletes that are undone, keys that were minted twice (cases C1–C7).

use rusqlite::OptionalExtension as _;
use sync_core::engine::change::{Change, Known, derive};
use sync_core::engine::settle::{Verdict, settle};
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::{self, Record};
use sync_core::schema::{ForeignKey, Table};
use sync_core::sqlite::quote;
use sync_core::value::Value;

use crate::apply::{Applier, Written, fit, is_constraint, is_unique, version_of};
use crate::conflict::{Conflict, Policy, Resolution, RowValues};
use crate::error::Error;
use crate::inbox::{Entry, key_json};
use crate::report::Event;
use crate::stage::StagedRow;
use crate::store::{Dirty, Meta};

impl Applier<'_> {
    /// A remote row meets a local intent for the same key.
    pub(crate) fn meet(&mut self, r: StagedRow, known: Known, dirty: &Dirty) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[r.position]);
        let table = store.table(r.position);
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let Some(Ok(live)) = m.sql.read(&store.conn, &key)?.map_or(Some(Ok(None)), |row| Some(row.map(Some))) else {
            // Text that is not UTF-8 cannot be compared; the row waits in the inbox as it is.
            return store.set_known(m.id, &r.k, version_of(&r));
        };
        let remote =
            r.row.as_deref().map(record::decode).transpose()?.map(|row| over(fit(row, table), live.as_deref()));
        let base = dirty.base.as_ref();
        let rule = self.policies.of(&table.name).rule();
        let verdict = settle(live.as_deref(), known, base, remote.as_deref(), table.integer_key(), rule);
        let op = op_of(live.as_deref(), known, base);
        let entry = |kind, reason: &'static str, message: &'static str| Entry {
            kind,
            at: self.now,
            table,
            key: &key,
            op,
            reason,
            message,
            local: live.as_deref(),
            base,
            server: remote.as_deref(),
        };
        match verdict {
            Verdict::Done => {
                store.drop_dirty(m.id, &r.k)?;
                store.set_known(m.id, &r.k, version_of(&r))
            }
            Verdict::TakeSilently => {
                store.drop_dirty(m.id, &r.k)?;
                self.write_or_defer(r, presence(live.as_deref(), known))
            }
            Verdict::RebaseSilently => {
                store.set_known(m.id, &r.k, version_of(&r))?;
                store.put_dirty(m.id, &r.k, dirty.since, None)
            }
            Verdict::Take => {
                let e = entry("discarded", "server_wins", "the server's row won over this local edit");
                self.take(r, live.as_deref(), known, &e)
            }
            Verdict::Rebase => {
                let e = entry("conflict", "client_wins", "this local edit won over the server's row");
                self.rebase(&r, dirty.since, remote.as_deref(), &e)
            }
            Verdict::Rekey => {
                self.rekey(r.position, &key, dirty.since)?;
                self.write_or_defer(r, Known::Never)
            }
            Verdict::Ask => {
                let Policy::Custom(resolver) = self.policies.of(&table.name) else { return Ok(()) };
                let answer = resolver(&Conflict {
                    table: table.name.clone(),
                    key: key_json(table, &key),
                    op: op.into(),
                    local: live.as_ref().map(|row| named(table, row)),
                    base: base.map(|b| named_record(table, b)),
                    server: remote.as_ref().map(|row| named(table, row)),
                    local_version: known.version(),
                    server_version: r.version,
                });
                match answer {
                    Resolution::TakeServer => {
                        let e = entry("discarded", "resolver", "the app's own function took the server's row");
                        self.take(r, live.as_deref(), known, &e)
                    }
                    Resolution::KeepLocal => {
                        let e = entry("conflict", "resolver", "the app's own function kept the local row");
                        self.rebase(&r, dirty.since, remote.as_deref(), &e)
                    }
                    Resolution::Merged(values) => {
                        let merged = merge(table, &key, &values, remote.as_deref().or(live.as_deref()));
                        let written = match live {
                            Some(_) => m.sql.update(&store.conn, &key, &merged),
                            None => m.sql.insert(&store.conn, &merged),
                        };
                        if matches!(&written, Err(e) if is_unique(e) || is_constraint(e)) {
                            let why = "the app's own function merged both rows into one that the schema refuses";
                            let e = entry("discarded", "resolver", why);
                            return self.take(r, live.as_deref(), known, &e);
                        }
                        let written = written?;
                        let e = entry("conflict", "resolver", "the app's own function merged both rows");
                        self.rebase(&r, dirty.since, remote.as_deref(), &e)?;
                        debug_assert_eq!(written, 1, "the row is there or it is not");
                        Ok(())
                    }
                }
            }
        }
    }

    fn take(&mut self, r: StagedRow, live: Option<&[Value]>, known: Known, e: &Entry<'_>) -> Result<(), Error> {
        self.record(e)?;
        self.outcome.conflicts += 1;
        self.store.drop_dirty(self.store.managed[r.position].id, &r.k)?;
        self.write_or_defer(r, presence(live, known))
    }

    fn rebase(&mut self, r: &StagedRow, since: i64, remote: Option<&[Value]>, e: &Entry<'_>) -> Result<(), Error> {
        self.record(e)?;
        self.outcome.conflicts += 1;
        let t = self.store.managed[r.position].id;
        self.store.set_known(t, &r.k, version_of(r))?;
        let base: Option<Record> = remote.map(|row| row.iter().cloned().map(Some).collect());
        self.store.put_dirty(t, &r.k, since, base.as_ref())
    }

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
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        let k = Key::pack(key)?.as_bytes().to_vec();
        let Some(dirty) = store.dirty(m.id, &k)? else { return Ok(()) };
        let known = store.known(m.id, &k)?;
        let live = match m.sql.read(&store.conn, key)? {
            Some(Ok(row)) => Some(row),
            _ => None,
        };
        self.record(&Entry {
            kind: "rejected",
            at: self.now,
            table,
            key,
            op: op_of(live.as_deref(), known, dirty.base.as_ref()),
            reason,
            message,
            local: live.as_deref(),
            base: dirty.base.as_ref(),
            server,
        })?;
        self.outcome.conflicts += 1;
        store.drop_dirty(m.id, &k)?;
        if let Known::Live(_) = known {
            let base = dirty.base.as_ref().filter(|b| b.len() == table.columns.len() && b.iter().all(Option::is_some));
            let back: Option<Vec<Value>> = base.map(|b| b.iter().flatten().cloned().collect());
            if let Some(row) = back
                && self.parents_exist(table, &row)?
            {
                let written = match live {
                    Some(_) => m.sql.update(&store.conn, key, &row),
                    None => m.sql.insert(&store.conn, &row),
                };
                if written.is_ok() {
                    return Ok(());
                }
            }
            // The server's state of this row is not known here any more: a rebuild fetches it.
            store.set_known(m.id, &k, Known::Never)?;
            Meta::Rebuild.set(&store.conn, "a row has to be fetched again")?;
        }
        let Some(live) = live else { return Ok(()) };
        m.sql.delete(&store.conn, key)?;
        for (child, fk) in store.schema().references_to(position) {
            for child_key in self.children(child, fk, table, &live)? {
                self.displace(
                    child,
                    &child_key,
                    reason,
                    "the row that this one refers to had to leave the table",
                    None,
                )?;
            }
        }
        Ok(())
    }

    /// C2 and C3, after the rows of the transaction are written.
    pub(crate) fn settle_orphans(&mut self) -> Result<(), Error> {
        let store = self.store;
        for position in 0..store.managed.len() {
            let t = store.managed[position].id;
            let table = store.table(position);
            let as_child = table
                .foreign_keys
                .iter()
                .any(|f| store.schema().position(&f.parent).is_some_and(|p| self.touched.contains(&p)));
            let as_parent = store.schema().references_to(position).any(|(c, _)| self.touched.contains(&c));
            if !as_child && !as_parent {
                continue;
            }
            let mut s = store.conn.prepare_cached("SELECT k FROM main._sync_dirty WHERE t = ?")?;
            let keys: Vec<Vec<u8>> = s.query_map([t], |r| r.get(0))?.collect::<Result<_, _>>()?;
            for k in keys {
                let key = Key::from_stored(k.clone()).unpack()?;
                match store.managed[position].sql.read(&store.conn, &key)? {
                    Some(Ok(row)) if as_child && self.parent_went(table, &row)? => {
                        let why = "the row that this one refers to was deleted on the server";
                        self.displace(position, &key, "parent_deleted", why, None)?;
                    }
                    None if as_parent => self.undo_contradicted_delete(position, &k, &key)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether a row refers to a parent that a row of this transaction took away.
    fn parent_went(&self, table: &Table, row: &[Value]) -> Result<bool, Error> {
        for fk in &table.foreign_keys {
            let Some(parent) = self.store.schema().position(&fk.parent).filter(|p| self.touched.contains(p)) else {
                continue;
            };
            if !self.parent_exists(fk, parent, row)? {
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

    /// A pending DELETE whose row a remote row of this transaction refers to is undone from its base,
    /// and so are the deletes of the rows that this one refers to.
    fn undo_contradicted_delete(&mut self, position: usize, k: &[u8], key: &[Value]) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        let Some(dirty) = store.dirty(m.id, k)? else { return Ok(()) };
        let (Known::Live(_), Some(base)) = (store.known(m.id, k)?, dirty.base.as_ref()) else { return Ok(()) };
        let row: Vec<Value> = base.iter().map(|v| v.clone().unwrap_or(Value::Null)).collect();
        let mut contradicted = false;
        for (child, fk) in store.schema().references_to(position) {
            for child_key in self.children(child, fk, table, &row)? {
                let child_k = Key::pack(&child_key)?;
                let came = store.known(store.managed[child].id, child_k.as_bytes())?;
                contradicted |= matches!(came, Known::Live(v) if v >= self.lowest);
            }
        }
        if contradicted {
            self.undo_delete(position, k, key, &row)?;
        }
        Ok(())
    }

    fn undo_delete(&mut self, position: usize, k: &[u8], key: &[Value], row: &[Value]) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        store.drop_dirty(m.id, k)?;
        self.put_back(position, k, row)?;
        self.outcome.conflicts += 1;
        self.record(&Entry {
            kind: "discarded",
            at: self.now,
            table,
            key,
            op: "DELETE",
            reason: "still_referred_to",
            message: "this row was deleted here, but a new row on the server refers to it: the delete was undone",
            local: None,
            base: None,
            server: Some(row),
        })?;
        for fk in &table.foreign_keys {
            let Some(parent) = store.schema().position(&fk.parent) else { continue };
            if self.parent_exists(fk, parent, row)? {
                continue;
            }
            let Some(parent_key) = parent_key(fk, store.table(parent), row) else { continue };
            let parent_k = Key::pack(&parent_key)?;
            let pending = store.dirty(store.managed[parent].id, parent_k.as_bytes())?;
            if let Some(base) = pending.and_then(|d| d.base) {
                let parent_row: Vec<Value> = base.into_iter().map(|v| v.unwrap_or(Value::Null)).collect();
                self.undo_delete(parent, parent_k.as_bytes(), &parent_key, &parent_row)?;
            }
        }
        Ok(())
    }

    /// Inserts a row that the server has. Local rows that took one of its unique values since give way.
    fn put_back(&mut self, position: usize, k: &[u8], row: &[Value]) -> Result<(), Error> {
        let store = self.store;
        let known = store.known(store.managed[position].id, k)?;
        let version = known.version();
        let r = StagedRow { position, k: k.to_vec(), op: Op::Insert, version, row: Some(record::encode(row)) };
        for (_, key) in self.blockers(&r)? {
            let message = "the server has another row with the same unique value";
            self.displace(position, &key, "unique", message, Some(row))?;
        }
        if !matches!(self.write(&r, Known::Never)?, Written::Yes) {
            // What this file believes of the server is not what it has: the next pull fetches it.
            store.set_known(store.managed[position].id, k, Known::Never)?;
            Meta::Rebuild.set(&store.conn, "a row has to be fetched again")?;
        }
        Ok(())
    }

    /// C7: the local row, which no server has, takes a free number; references in this file follow.
    fn rekey(&mut self, position: usize, key: &[Value], since: i64) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        let column = table.key[0];
        let name = quote(&table.columns[column].sql_name);
        let sql_name = quote(&table.sql_name);
        let highest: i64 = store.conn.query_row(
            &format!("SELECT coalesce(max({name}), 0) FROM main.{sql_name} WHERE typeof({name}) = 'integer'"),
            [],
            |r| r.get(0),
        )?;
        let mut free = highest + 1;
        while store.known(m.id, Key::pack(&[Value::Integer(free)])?.as_bytes())? != Known::Never {
            free += 1;
        }
        let new_key = [Value::Integer(free)];
        let Some(Ok(live)) = m.sql.read(&store.conn, key)? else { return Ok(()) };
        store.conn.execute(
            &format!("UPDATE OR ABORT main.{sql_name} SET {name} = ? WHERE {name} = ?"),
            [&new_key[0], &key[0]],
        )?;
        store.drop_dirty(m.id, Key::pack(key)?.as_bytes())?;
        store.put_dirty(m.id, Key::pack(&new_key)?.as_bytes(), since, None)?;
        for (child, fk) in store.schema().references_to(position) {
            if fk.parent_columns.as_slice() == [table.columns[column].name.clone()] {
                for child_key in self.children(child, fk, table, &live)? {
                    self.follow(child, fk, &child_key, &new_key[0])?;
                }
            }
        }
        let new_json = key_json(table, &new_key);
        let message = format!("another device used this number for another row; this row is now {new_json}");
        self.record(&Entry {
            kind: "conflict",
            at: self.now,
            table,
            key,
            op: "INSERT",
            reason: "rekeyed",
            message: &message,
            local: Some(&live),
            base: None,
            server: None,
        })?;
        self.outcome.conflicts += 1;
        let (old_key, new_key) = (key_json(table, key), new_json);
        self.outcome.events.push(Event::Rekeyed { table: table.name.clone(), old_key, new_key });
        Ok(())
    }

    /// A local child of a row that got another number follows it. Children that came from the server
    /// mean the server's row, and stay.
    fn follow(&self, child: usize, fk: &ForeignKey, child_key: &[Value], number: &Value) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[child]);
        let table = store.table(child);
        let old_k = Key::pack(child_key)?;
        let Some(dirty) = store.dirty(m.id, old_k.as_bytes())? else { return Ok(()) };
        let name = quote(&table.columns[fk.columns[0]].sql_name);
        let sql = format!("UPDATE OR ABORT main.{} SET {name} = ? WHERE {}", quote(&table.sql_name), m.sql.by_key);
        store
            .conn
            .prepare_cached(&sql)?
            .execute(rusqlite::params_from_iter(std::iter::once(number).chain(child_key)))?;
        if let Some(at) = table.key.iter().position(|i| *i == fk.columns[0]) {
            let mut new_key = child_key.to_vec();
            new_key[at] = number.clone();
            if store.known(m.id, old_k.as_bytes())? == Known::Never {
                store.drop_dirty(m.id, old_k.as_bytes())?;
            }
            store.put_dirty(m.id, Key::pack(&new_key)?.as_bytes(), dirty.since, None)?;
        }
        Ok(())
    }

    fn parents_exist(&self, table: &Table, row: &[Value]) -> Result<bool, Error> {
        for fk in &table.foreign_keys {
            if let Some(parent) = self.store.schema().position(&fk.parent)
                && !self.parent_exists(fk, parent, row)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the row that a foreign key names is there. NULL refers to nothing.
    fn parent_exists(&self, fk: &ForeignKey, parent: usize, row: &[Value]) -> Result<bool, Error> {
        let values: Vec<&Value> = fk.columns.iter().map(|i| &row[*i]).collect();
        if values.iter().any(|v| v.is_null()) {
            return Ok(true);
        }
        let sql = format!(
            "SELECT 1 FROM main.{} WHERE {}",
            quote(&self.store.table(parent).sql_name),
            fk.parent_columns.iter().map(|c| format!("{} = ?", quote(c))).collect::<Vec<_>>().join(" AND ")
        );
        let found: Option<i64> = self
            .store
            .conn
            .prepare_cached(&sql)?
            .query_row(rusqlite::params_from_iter(values), |r| r.get(0))
            .optional()?;
        Ok(found.is_some())
    }

    /// Keys of the rows of a child table that refer to this row.
    fn children(&self, child: usize, fk: &ForeignKey, table: &Table, row: &[Value]) -> Result<Vec<Vec<Value>>, Error> {
        let m = &self.store.managed[child];
        let child_table = self.store.table(child);
        let values: Option<Vec<&Value>> =
            fk.parent_columns.iter().map(|c| table.column(c).and_then(|i| row.get(i))).collect();
        let Some(values) = values.filter(|v| v.iter().all(|v| !v.is_null())) else { return Ok(Vec::new()) };
        let same: Vec<String> =
            fk.columns.iter().map(|i| format!("{} = ?", quote(&child_table.columns[*i].sql_name))).collect();
        let sql = format!(
            "SELECT _sync_key({}) FROM main.{} WHERE {}",
            m.sql.key,
            quote(&child_table.sql_name),
            same.join(" AND ")
        );
        let mut s = self.store.conn.prepare_cached(&sql)?;
        let keys: Vec<Option<Vec<u8>>> =
            s.query_map(rusqlite::params_from_iter(values), |r| r.get(0))?.collect::<Result<_, _>>()?;
        keys.into_iter().flatten().map(|k| Ok(Key::from_stored(k).unpack()?)).collect()
    }
}

/// The parent's key that a foreign key names, where it refers to the key.
fn parent_key(fk: &ForeignKey, parent: &Table, row: &[Value]) -> Option<Vec<Value>> {
    parent
        .key
        .iter()
        .map(|i| {
            let at = fk.parent_columns.iter().position(|c| *c == parent.columns[*i].name)?;
            Some(row[fk.columns[at]].clone())
        })
        .collect()
}

/// What a write of the remote row will find: the row's presence decides, not the version.
const fn presence(live: Option<&[Value]>, known: Known) -> Known {
    match live {
        Some(_) => Known::Live(known.version()),
        None => Known::Never,
    }
}

/// A remote row whose absent columns come from the local one.
fn over(row: Record, live: Option<&[Value]>) -> Vec<Value> {
    row.into_iter()
        .enumerate()
        .map(|(i, v)| v.or_else(|| live.and_then(|l| l.get(i).cloned())).unwrap_or(Value::Null))
        .collect()
}

fn merge(table: &Table, key: &[Value], values: &RowValues, rest: Option<&[Value]>) -> Vec<Value> {
    let mut row: Vec<Value> = table
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| {
            values.get(&c.name).cloned().or_else(|| rest.and_then(|r| r.get(i).cloned())).unwrap_or(Value::Null)
        })
        .collect();
    for (i, k) in table.key.iter().zip(key) {
        row[*i] = k.clone();
    }
    row
}

fn named(table: &Table, row: &[Value]) -> RowValues {
    table.columns.iter().zip(row).map(|(c, v)| (c.name.clone(), v.clone())).collect()
}

fn named_record(table: &Table, row: &Record) -> RowValues {
    table.columns.iter().zip(row).filter_map(|(c, v)| Some((c.name.clone(), v.clone()?))).collect()
}

/// What this device wanted, in the protocol's word.
pub(crate) fn op_of(live: Option<&[Value]>, known: Known, base: Option<&Record>) -> &'static str {
    match derive(live, known, base) {
        Change::Push(op, _) => op.name(),
        Change::Nothing => Op::Update.name(),
    }
}
