//! Rows of tables that are not synced and do not let a synced row go, or become another one: nothing is declared for
//! them, or a rule of their own table is against what is.

use std::collections::BTreeSet;

use rusqlite::params_from_iter;
use sync_core::key::Key;
use sync_core::record::Record;
use sync_core::sqlite::locals::{Reference, Target};
use sync_core::sqlite::{quote, value};
use sync_core::value::Value;

use crate::apply::is_constraint;
use crate::error::Error;
use crate::locals::equal;
use crate::settle::over;
use crate::store::Store;

/// Values of a row that others may refer to.
struct Referred<'p> {
    target: &'p Target,
    values: Vec<Value>,
}

impl Store {
    /// Whether rows of unsynced tables refer to a row, whatever is declared for them.
    pub(crate) fn locals_refer(&self, position: usize, row: &[Value]) -> Result<bool, Error> {
        Ok(self.local_of(position, row, None)?.is_some())
    }

    /// The unsynced table whose rows do not let a remote row be written over the one that is here, or none in its place:
    /// they refer to it, and nothing is declared, or it cannot be done.
    pub(crate) fn held_by_local(
        &self,
        position: usize,
        key: &[Value],
        row: Option<&Record>,
    ) -> Result<Option<String>, Error> {
        let Some(row) = row else { return self.kept_by_local(position, key) };
        if self.locals.of(position).next().is_none() {
            return Ok(None);
        }
        let m = &self.managed[position];
        let Some(live) = m.sql.read_bytes(&self.conn, key)? else { return Ok(None) };
        let new = over(row.clone(), Some(&live));
        self.held_after(position, &live, Some(&new), || m.sql.update_partial(&self.conn, key, row).map(|_| ()))
    }

    /// The same for a row that is to leave its table: rows that refer to it would leave with it, or stay and refer to
    /// nothing.
    pub(crate) fn kept_by_local(&self, position: usize, key: &[Value]) -> Result<Option<String>, Error> {
        self.first_along(position, key, |position, key, row| {
            self.held_after(position, row, None, || self.managed[position].sql.delete(&self.conn, key).map(|_| ()))
        })
    }

    /// An unsynced table whose rows refer to a row, or to one that refers to it, whatever is declared for them.
    pub(crate) fn local_along(&self, position: usize, key: &[Value]) -> Result<Option<String>, Error> {
        self.first_along(position, key, |position, _, row| self.local_of(position, row, None))
    }

    /// Looks at a row and at all that refers to it, as far as unsynced tables may refer to that.
    fn first_along(
        &self,
        position: usize,
        key: &[Value],
        look: impl Fn(usize, &[Value], &[Value]) -> Result<Option<String>, Error>,
    ) -> Result<Option<String>, Error> {
        if self.locals.targets.is_empty() || !self.leads_to_local(position) {
            return Ok(None);
        }
        let mut seen = BTreeSet::new();
        let mut todo = vec![(position, key.to_vec())];
        while let Some((position, key)) = todo.pop() {
            let Some(row) = self.managed[position].sql.read_bytes(&self.conn, &key)? else { continue };
            if let Some(table) = look(position, &key, &row)? {
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

    /// The same once it is written, nothing of which is kept: the app's own triggers may clear what refers to the row as
    /// it was, and a rule of an unsynced table may be against what is declared for its rows.
    fn held_after(
        &self,
        position: usize,
        row: &[Value],
        new: Option<&[Value]>,
        write: impl Fn() -> rusqlite::Result<()>,
    ) -> Result<Option<String>, Error> {
        if self.local_of(position, row, new)?.is_none() {
            return Ok(None);
        }
        let before = self.noted_so_far()?;
        let key: Vec<Value> = self.table(position).key.iter().map(|i| row[*i].clone()).collect();
        self.conn.execute_batch("SAVEPOINT _sync_held")?;
        let held = self.bounded(position, &key, 0, write).and_then(|written| match written {
            Err(e) if !is_constraint(&e) => Err(e.into()),
            written => match self.declared_against(position, row, new)? {
                None if written.is_ok() => self.rule_against(&before),
                held => Ok(held),
            },
        });
        self.take_back("_sync_held", held)
    }

    /// An unsynced table whose rows refer to what a row would not be any more.
    fn local_of(&self, position: usize, row: &[Value], new: Option<&[Value]>) -> Result<Option<String>, Error> {
        for target in self.locals.of(position) {
            let values = self.referred_values(target, position, row);
            if new.is_some_and(|new| self.referred_values(target, position, new) == values) {
                continue;
            }
            for r in &target.references {
                if self.refers(r, &values)? {
                    return Ok(Some(r.child.clone()));
                }
            }
        }
        Ok(None)
    }

    /// The unsynced table whose rows do not let a row go, or become another one, by what is declared for them.
    fn declared_against(&self, position: usize, row: &[Value], new: Option<&[Value]>) -> Result<Option<String>, Error> {
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

    /// Whether unsynced tables refer to a table, or to one that refers to it.
    pub(crate) fn leads_to_local(&self, position: usize) -> bool {
        let (mut seen, mut todo) = (BTreeSet::from([position]), vec![position]);
        while let Some(position) = todo.pop() {
            if self.locals.of(position).next().is_some() {
                return true;
            }
            todo.extend(self.schema().references_to(position).map(|(child, _)| child).filter(|c| seen.insert(*c)));
        }
        false
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

    pub(crate) fn refers(&self, r: &Reference, values: &[Value]) -> Result<bool, Error> {
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
}
