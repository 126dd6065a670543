//! Rows of tables that are not synced and refer to synced ones: what the schema declares happens to them where a row
//! that they refer to goes or changes by a write of ours. Where nothing is declared, the remote row is set aside for as
//! long as they refer to it.

use std::collections::BTreeSet;

use rusqlite::params_from_iter;
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::sqlite::locals::{Reference, Target, left};
use sync_core::sqlite::{quote, value};
use sync_core::value::Value;

use crate::apply::is_constraint;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::store::{Meta, Store};

/// What was noted of a row that went or changed: its stored key, where it is of a synced table, the values that others
/// refer to, as they were, and as they are.
struct Noted {
    k: Option<Vec<u8>>,
    old: Vec<Value>,
    new: Option<Vec<Value>>,
}

/// Values of a row that others may refer to.
struct Referred<'p> {
    target: &'p Target,
    values: Vec<Value>,
}

impl Store {
    /// Forgets what was noted: at the begin of a transaction.
    pub(crate) fn forget_left(&self) -> Result<(), Error> {
        for n in 0..self.locals.targets.len() {
            self.conn.prepare_cached(&format!("DELETE FROM temp.{}", left(n)))?.execute([])?;
        }
        Ok(())
    }

    /// At the end of a transaction: rows of unsynced tables follow what happened to those that they refer to.
    pub(crate) fn settle_left(&self) -> Result<(), Error> {
        if mutant::on(Mutant::LocalsLeft) {
            return Ok(());
        }
        // What follows may be referred to itself.
        loop {
            let mut any = false;
            for (n, target) in self.locals.targets.iter().enumerate() {
                for noted in self.noted(n, target)? {
                    any = true;
                    self.settle_one(target, &noted)?;
                }
            }
            if !any {
                return Ok(());
            }
        }
    }

    fn noted(&self, n: usize, target: &Target) -> Result<Vec<Noted>, Error> {
        let [key, old, new] = target.noted();
        let k = if key.is_empty() { "NULL".into() } else { format!("_sync_key({})", key.join(", ")) };
        let sql = format!("SELECT DISTINCT {k}, {}, {} FROM temp.{}", old.join(", "), new.join(", "), left(n));
        let mut s = self.conn.prepare_cached(&sql)?;
        let mut rows = s.query([])?;
        let mut out = Vec::new();
        while let Some(r) = rows.next()? {
            let values = |from: usize| {
                (from..from + old.len()).map(|i| value(r.get_ref_unwrap(i), i)).collect::<Result<Vec<_>, _>>()
            };
            // Text that is not UTF-8 refers to nothing that we write.
            let (Ok(was), Ok(is)) = (values(1), values(1 + old.len())) else { continue };
            let gone = is.iter().all(Value::is_null);
            out.push(Noted { k: r.get(0)?, old: was, new: (!gone).then_some(is) });
        }
        drop(rows);
        self.conn.prepare_cached(&format!("DELETE FROM temp.{}", left(n)))?.execute([])?;
        Ok(out)
    }

    fn settle_one(&self, target: &Target, noted: &Noted) -> Result<(), Error> {
        if noted.old.iter().any(Value::is_null) || self.has(target, &noted.old)? || self.comes_back(target, noted)? {
            return Ok(());
        }
        // A row that was taken out and put in again has other values now.
        let now = match (&noted.k, target.position) {
            (Some(k), Some(position)) => self.values_of(target, position, k)?,
            _ => noted.new.clone(),
        };
        for r in &target.references {
            self.conn.execute_batch("SAVEPOINT _sync_local")?;
            let done = match &now {
                Some(new) => self.act(r, &r.on_update, &noted.old, Some(new)),
                None => self.act(r, &r.on_delete, &noted.old, None),
            };
            match done {
                Ok(()) => self.conn.execute_batch("RELEASE _sync_local")?,
                Err(e) => {
                    self.conn.execute_batch("ROLLBACK TO _sync_local; RELEASE _sync_local")?;
                    // A rule of the unsynced table does not take it: the rows stay as they are.
                    if !matches!(&e, Error::Sqlite(e) if is_constraint(e)) {
                        return Err(e);
                    }
                }
            }
        }
        Ok(())
    }

    /// Does what a foreign key declares, to the rows that say the old values.
    fn act(&self, r: &Reference, action: &str, old: &[Value], new: Option<&[Value]>) -> Result<(), Error> {
        let (table, same) = (quote(&r.child), equal(&r.columns));
        let set = |values: &mut dyn Iterator<Item = String>| {
            let set: Vec<String> = r.columns.iter().zip(values).map(|(c, v)| format!("{} = {v}", quote(c))).collect();
            format!("UPDATE{} main.{table} SET {} WHERE {same}", r.or_abort, set.join(", "))
        };
        let sql = match (action, new) {
            ("CASCADE", None) => format!("DELETE FROM main.{table} WHERE {same}"),
            ("CASCADE", Some(_)) => set(&mut std::iter::repeat_n("?".into(), r.columns.len())),
            ("SET NULL", _) => set(&mut std::iter::repeat_n("NULL".into(), r.columns.len())),
            ("SET DEFAULT", _) => set(&mut r.defaults.iter().map(|d| format!("({d})"))),
            _ => return Ok(()),
        };
        let new = new.filter(|_| action == "CASCADE").unwrap_or_default();
        self.conn.prepare_cached(&sql)?.execute(params_from_iter(new.iter().chain(old)))?;
        Ok(())
    }

    /// Whether a row that is not here now will be again within this sync: it has to be fetched.
    fn comes_back(&self, target: &Target, noted: &Noted) -> Result<bool, Error> {
        let (Some(k), Some(position)) = (&noted.k, target.position) else { return Ok(false) };
        let m = &self.managed[position];
        if m.sql.exists(&self.conn, &Key::from_stored(k.clone()).unpack()?)? {
            return Ok(false);
        }
        let fetched = Meta::Rebuild.get::<String>(&self.conn)?.is_some() || Meta::Withdrawn.integer(&self.conn)? != 0;
        Ok(fetched && self.known(m.id, k)? == Known::Live(0))
    }

    /// Whether a row with these values is there.
    fn has(&self, target: &Target, values: &[Value]) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM main.{} WHERE {}", quote(&target.table), equal(&target.columns));
        Ok(self.conn.prepare_cached(&sql)?.exists(params_from_iter(values))?)
    }

    /// The values that a synced row has now.
    fn values_of(&self, target: &Target, position: usize, k: &[u8]) -> Result<Option<Vec<Value>>, Error> {
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let row = self.managed[position].sql.read_bytes(&self.conn, &key)?;
        Ok(row.map(|row| self.referred_values(target, position, &row)))
    }

    fn referred_values(&self, target: &Target, position: usize, row: &[Value]) -> Vec<Value> {
        let table = self.table(position);
        let of = |c: &String| table.column(&c.to_ascii_lowercase()).and_then(|i| row.get(i)).cloned();
        target.columns.iter().map(|c| of(c).unwrap_or(Value::Null)).collect()
    }

    /// Whether rows of unsynced tables refer to a row, whatever is declared for them.
    pub(crate) fn locals_refer(&self, position: usize, row: &[Value]) -> Result<bool, Error> {
        for target in self.locals.of(position) {
            let values = self.referred_values(target, position, row);
            for r in &target.references {
                if self.refers(r, &values)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The unsynced table whose rows do not let a row go, or become another one: they refer to it, and nothing is
    /// declared, or cannot be done.
    pub(crate) fn held_by_local(
        &self,
        position: usize,
        row: &[Value],
        new: Option<&[Value]>,
    ) -> Result<Option<String>, Error> {
        for target in self.locals.of(position) {
            let values = self.referred_values(target, position, row);
            let new = new.map(|row| self.referred_values(target, position, row));
            if new.as_ref() != Some(&values)
                && let Some(table) = self.holder(target, &values, new.is_some())?
            {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }

    /// The same for a row that is to leave its table: rows that refer to it would leave with it, or stay and refer to
    /// nothing.
    pub(crate) fn kept_by_local(&self, position: usize, key: &[Value]) -> Result<Option<String>, Error> {
        if self.locals.targets.is_empty() || !self.leads_to_local(position) {
            return Ok(None);
        }
        let mut seen = BTreeSet::new();
        let mut todo = vec![(position, key.to_vec())];
        while let Some((position, key)) = todo.pop() {
            let Some(row) = self.managed[position].sql.read_bytes(&self.conn, &key)? else { continue };
            if self.held_by_local(position, &row, None)?.is_some()
                && let Some(table) = self.held_after_delete(position, &key, &row)?
            {
                return Ok(Some(table));
            }
            for (child, fk) in self.schema().references_to(position) {
                for key in self.children(child, fk, self.table(position), &row)? {
                    if self.leads_to_local(child) && seen.insert((child, Key::pack(&key)?.as_bytes().to_vec())) {
                        todo.push((child, key));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The same once the row is gone: the app's own triggers may clear what refers to it. Nothing of that is kept.
    fn held_after_delete(&self, position: usize, key: &[Value], row: &[Value]) -> Result<Option<String>, Error> {
        self.conn.execute_batch("SAVEPOINT _sync_held")?;
        let gone = self.bounded(position, || self.managed[position].sql.delete(&self.conn, key));
        let held = self.held_by_local(position, row, None);
        self.conn.execute_batch("ROLLBACK TO _sync_held; RELEASE _sync_held")?;
        match gone? {
            Err(e) if !is_constraint(&e) => Err(e.into()),
            _ => held,
        }
    }

    /// Whether unsynced tables refer to a table, or to one that refers to it.
    fn leads_to_local(&self, position: usize) -> bool {
        let (mut seen, mut todo) = (BTreeSet::from([position]), vec![position]);
        while let Some(position) = todo.pop() {
            if self.locals.of(position).next().is_some() {
                return true;
            }
            todo.extend(self.schema().references_to(position).map(|(child, _)| child).filter(|c| seen.insert(*c)));
        }
        false
    }

    /// Whether a row may not become another one: rows refer to what would change, and nothing is declared for that.
    pub(crate) fn fixed_by_local(&self, position: usize, row: &[Value]) -> Result<bool, Error> {
        let key = |p: &&Target| !p.columns.iter().all(|c| p.key.contains(c));
        for target in self.locals.of(position).filter(key) {
            if self.holder(target, &self.referred_values(target, position, row), true)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn holder(&self, target: &Target, values: &[Value], update: bool) -> Result<Option<String>, Error> {
        let mut todo = vec![Referred { target, values: values.to_vec() }];
        while let Some(Referred { target, values }) = todo.pop() {
            for r in &target.references {
                if values.iter().any(Value::is_null) || !self.refers(r, &values)? {
                    continue;
                }
                let action = if update { &r.on_update } else { &r.on_delete };
                let refused = match action.as_str() {
                    "CASCADE" => {
                        // The rows that go along, or say something else, may be referred to themselves.
                        todo.extend(self.further(r, &values, update)?);
                        false
                    }
                    "SET NULL" => r.not_null,
                    "SET DEFAULT" => !self.default_stands(target, r)?,
                    _ => true,
                };
                if refused {
                    return Ok(Some(r.child.clone()));
                }
            }
        }
        Ok(None)
    }

    fn refers(&self, r: &Reference, values: &[Value]) -> Result<bool, Error> {
        if values.iter().any(Value::is_null) {
            return Ok(false);
        }
        let sql = format!("SELECT 1 FROM main.{} WHERE {} LIMIT 1", quote(&r.child), equal(&r.columns));
        Ok(self.conn.prepare_cached(&sql)?.exists(params_from_iter(values))?)
    }

    /// What rows of unsynced tables are referred to by that a cascade takes, or changes in the columns of the reference.
    fn further<'s>(&'s self, r: &Reference, values: &[Value], update: bool) -> Result<Vec<Referred<'s>>, Error> {
        let mut out = Vec::new();
        let of = |p: &&Target| p.position.is_none() && p.table.eq_ignore_ascii_case(&r.child);
        for target in self.locals.targets.iter().filter(of) {
            let same = |c: &String| r.columns.iter().any(|x| x.eq_ignore_ascii_case(c));
            if update && !target.columns.iter().any(same) {
                continue;
            }
            let columns: Vec<String> = target.columns.iter().map(|c| quote(c)).collect();
            let sql = format!(
                "SELECT DISTINCT {} FROM main.{} WHERE {}",
                columns.join(", "),
                quote(&r.child),
                equal(&r.columns)
            );
            let mut s = self.conn.prepare_cached(&sql)?;
            let mut rows = s.query(params_from_iter(values))?;
            while let Some(row) = rows.next()? {
                let values = (0..columns.len()).map(|i| value(row.get_ref_unwrap(i), i)).collect::<Result<Vec<_>, _>>();
                out.extend(values.ok().map(|values| Referred { target, values }));
            }
        }
        Ok(out)
    }

    /// Whether what a foreign key sets by default is a row that is there, or nothing.
    fn default_stands(&self, target: &Target, r: &Reference) -> Result<bool, Error> {
        let null: Vec<String> = r.defaults.iter().map(|d| format!("({d}) IS NULL")).collect();
        let same: Vec<String> =
            target.columns.iter().zip(&r.defaults).map(|(c, d)| format!("{} = ({d})", quote(c))).collect();
        let sql = format!(
            "SELECT {} OR EXISTS (SELECT 1 FROM main.{} WHERE {})",
            if r.not_null { "0".into() } else { null.join(" OR ") },
            quote(&target.table),
            same.join(" AND ")
        );
        Ok(self.conn.prepare_cached(&sql)?.query_row([], |r| r.get(0))?)
    }

    /// A row got other values: rows of unsynced tables that mean it say so too. All of them where the row is a local one
    /// that takes another number, or those whose foreign key says ON UPDATE CASCADE.
    pub(crate) fn move_locals(
        &self,
        position: usize,
        row: &[Value],
        new: &[Value],
        only_declared: bool,
    ) -> Result<(), Error> {
        for target in self.locals.of(position) {
            let (was, is) = (self.referred_values(target, position, row), self.referred_values(target, position, new));
            if was == is || was.iter().any(Value::is_null) {
                continue;
            }
            for r in target.references.iter().filter(|r| !only_declared || r.on_update == "CASCADE") {
                self.act(r, "CASCADE", &was, Some(&is))?;
            }
        }
        Ok(())
    }
}

/// `a = ? AND b = ?`
fn equal(columns: &[String]) -> String {
    columns.iter().map(|c| format!("{} = ?", quote(c))).collect::<Vec<_>>().join(" AND ")
}
