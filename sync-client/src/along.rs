//! Rows of unsynced tables that go along with one that this file gives up. That one is kept whole in the inbox; so are
//! these, since no other file has them. With a row that somebody deleted elsewhere they go as their schema declares.

use std::collections::BTreeSet;

use rusqlite::params_from_iter;
use rusqlite::types::ValueRef;
use sync_core::canonical::{Escapes, push_string};
use sync_core::key::Key;
use sync_core::schema::{Affinity, Column};
use sync_core::sqlite::locals::{Reference, Target};
use sync_core::sqlite::{quote, quote_all, value};
use sync_core::value::Value;
use sync_core::wire::{Form, push_value};

use crate::error::Error;
use crate::inbox::key_json;
use crate::locals::equal;
use crate::store::Store;

/// What a transaction gave up.
pub(crate) struct GivenUp {
    /// When it began.
    pub(crate) now: i64,
    /// Rows that it left in the inbox, by table and key, once somebody asked.
    pub(crate) rows: Option<BTreeSet<(String, String)>>,
    /// Unsynced tables from which rows went along.
    pub(crate) tables: BTreeSet<String>,
}

/// The reason of their entries.
pub(crate) const WENT_ALONG: &str = "went_along";

impl Store {
    /// Keeps the rows whole that are about to go with one that is gone, or to lose what they say of it, where that one was
    /// given up here.
    pub(crate) fn tell_along(
        &self,
        target: &Target,
        k: Option<&[u8]>,
        r: &Reference,
        old: &[Value],
        given_up: &mut GivenUp,
    ) -> Result<(), Error> {
        let goes = r.on_delete == "CASCADE";
        if !goes && !r.on_delete.starts_with("SET ") || !self.refers(r, old)? {
            return Ok(());
        }
        let its_own = match (target.position, k) {
            (Some(position), Some(k)) => {
                let table = self.table(position);
                let key = key_json(table, &Key::from_stored(k.to_vec()).unpack()?);
                self.given_up_rows(given_up)?.contains(&(table.name.clone(), key))
            }
            _ => given_up.tables.contains(&target.table),
        };
        if !its_own {
            return Ok(());
        }
        let (op, becomes) = if goes { ("DELETE", "went along") } else { ("UPDATE", "says nothing of it any more") };
        let message = format!(
            "this row of a table that is not synced refers to one of {} that left its table, and {becomes}, as the schema \
             declares (ON DELETE {})",
            target.table, r.on_delete
        );
        for (key, row) in self.rows_along(r, old)? {
            self.conn.prepare_cached(ALONG)?.execute((given_up.now, &r.child, key, op, WENT_ALONG, &message, row))?;
        }
        if goes {
            given_up.tables.insert(r.child.clone());
        }
        Ok(())
    }

    fn given_up_rows<'g>(&self, given_up: &'g mut GivenUp) -> Result<&'g BTreeSet<(String, String)>, Error> {
        if given_up.rows.is_none() {
            let sql = "SELECT tbl, key FROM main._sync_inbox WHERE kind IN ('rejected', 'discarded') AND at >= ? \
                       AND local_row IS NOT NULL";
            let mut s = self.conn.prepare_cached(sql)?;
            let rows = s.query_map([given_up.now], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
            given_up.rows = Some(rows);
        }
        Ok(given_up.rows.get_or_insert_with(BTreeSet::new))
    }

    /// The rows that refer to these values, as JSON: what they refer by, and all that they say. Their tables have no keys
    /// that anybody else knows.
    fn rows_along(&self, r: &Reference, old: &[Value]) -> Result<Vec<(String, String)>, Error> {
        let sql = "SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden IN (0, 2, 3) ORDER BY cid";
        let mut s = self.conn.prepare_cached(sql)?;
        let columns: Vec<Column> =
            s.query_map([&r.child], |r| Ok(as_it_is(r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        let names = quote_all(columns.iter().map(|c| c.sql_name.as_str()));
        let sql = format!("SELECT {names} FROM main.{} WHERE {}", quote(&r.child), equal(&r.columns));
        let mut s = self.conn.prepare_cached(&sql)?;
        let mut rows = s.query(params_from_iter(old))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let values: Vec<Value> = (0..columns.len()).map(|i| readable(row.get_ref_unwrap(i))).collect();
            let all = columns.iter().zip(&values);
            let named = all.clone().filter(|(c, _)| r.columns.iter().any(|n| n.eq_ignore_ascii_case(&c.sql_name)));
            out.push((object(named), object(all)));
        }
        Ok(out)
    }
}

/// Text that is not UTF-8 is kept as its bytes.
fn readable(v: ValueRef<'_>) -> Value {
    value(v, 0).unwrap_or_else(|_| Value::Blob(v.as_bytes().unwrap_or_default().to_vec()))
}

/// A column whose values are written as they are.
fn as_it_is(name: String, declared: String) -> Column {
    Column {
        name: name.to_ascii_lowercase(),
        sql_name: name,
        declared,
        affinity: Affinity::Blob,
        blob: false,
        uuid: false,
        not_null: false,
    }
}

fn object<'r>(members: impl Iterator<Item = (&'r Column, &'r Value)>) -> String {
    let mut out = String::from("{");
    for (column, value) in members {
        if out.len() > 1 {
            out.push(',');
        }
        push_string(&mut out, &column.name, Escapes::Minimal);
        out.push(':');
        push_value(&mut out, column, value, Form::Exact);
    }
    out.push('}');
    out
}

const ALONG: &str = "INSERT INTO main._sync_inbox (kind, at, tbl, key, op, reason, message, local_row) \
     VALUES ('discarded', ?, ?, ?, ?, ?, ?, ?)";
