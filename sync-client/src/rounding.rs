//! A server of the June dialect sends the numbers of bundles as doubles (case H7). What comes back of an
//! integer that a double cannot hold is not taken for an edit of it, and never sent back over it.

use rusqlite::OptionalExtension as _;
use sync_core::canonical::push_real_reference;
use sync_core::key::Key;
use sync_core::record::{self, Record};
use sync_core::schema::{Affinity, Column, Table};
use sync_core::value::Value;
use sync_core::wire::DOUBLE_HOLDS;

use crate::apply::Applier;
use crate::error::Error;
use crate::stage::StagedRow;
use crate::store::Store;

impl Applier<'_> {
    /// The row, with the exact integer wherever the server's number is only the rounding of what this file
    /// knows the server to have: what it sent, the base of a local edit, or the row as it is.
    pub(crate) fn unrounded(&self, mut r: StagedRow) -> Result<StagedRow, Error> {
        let Some(stored) = r.row.as_deref().filter(|_| self.rounds) else { return Ok(r) };
        let table = self.store.table(r.position);
        let mut theirs = record::decode(stored)?;
        let doubtful = |(c, v): (&Column, &Option<Value>)| v.as_ref().is_some_and(|v| may_be_rounded(c, v));
        if !table.columns.iter().zip(&theirs).any(doubtful) {
            return Ok(r);
        }
        let m = &self.store.managed[r.position];
        let mut known: Vec<Record> = Vec::new();
        if let Some(dirty) = self.store.dirty(m.id, &r.k)? {
            if self.own {
                known.extend(self.store.sent_row(m.id, &r.k)?);
            }
            known.extend(dirty.base);
        }
        let key = Key::from_stored(r.k.clone()).unpack()?;
        if let Some(Ok(live)) = m.sql.read(&self.store.conn, &key)? {
            known.push(live.into_iter().map(Some).collect());
        }
        for (i, theirs) in theirs.iter_mut().enumerate() {
            let Some(value) = theirs else { continue };
            let exact = known.iter().filter_map(|row| row.get(i)?.as_ref()).find(|mine| is_rounding_of(value, mine));
            if let Some(exact) = exact {
                *theirs = Some(exact.clone());
            }
        }
        r.row = Some(record::encode_partial(&theirs));
        Ok(r)
    }
}

impl Store {
    /// Takes numbers out of an update that may be roundings and that it does not change: the server keeps
    /// the exact ones.
    pub(crate) fn leave_out_roundings(&self, ordinal: i64, table: &Table, row: &mut Record) -> Result<(), Error> {
        let doubtful = |(c, v): (&Column, &Option<Value>)| v.as_ref().is_some_and(|v| may_be_rounded(c, v));
        if !table.columns.iter().zip(row.iter()).any(doubtful) {
            return Ok(());
        }
        let mut s = self.conn.prepare_cached("SELECT base FROM main._sync_out WHERE ordinal = ?")?;
        let Some(base) = s.query_row([ordinal], |r| r.get::<_, Option<Vec<u8>>>(0)).optional()?.flatten() else {
            return Ok(());
        };
        let base = record::decode(&base)?;
        for (i, column) in table.columns.iter().enumerate().filter(|(i, _)| !table.key.contains(i)) {
            if row[i].as_ref().is_some_and(|v| may_be_rounded(column, v)) && base.get(i) == Some(&row[i]) {
                row[i] = None;
            }
        }
        Ok(())
    }

    /// The row as it is in the outbox.
    fn sent_row(&self, t: i64, k: &[u8]) -> Result<Option<Record>, Error> {
        let mut s = self.conn.prepare_cached("SELECT row FROM main._sync_out WHERE t = ? AND k = ?")?;
        let stored = s.query_row((t, k), |r| r.get::<_, Option<Vec<u8>>>(0)).optional()?.flatten();
        Ok(stored.map(|row| record::decode(&row)).transpose()?)
    }
}

/// Whether this may be what a double left of an integer.
fn may_be_rounded(column: &Column, v: &Value) -> bool {
    match v {
        // The first one beyond is rounded down to it.
        Value::Integer(i) => i.unsigned_abs() >= DOUBLE_HOLDS,
        // The rounding of the largest integers is beyond 64 bits.
        Value::Real(r) => column.affinity != Affinity::Real && r.abs() == -(i64::MIN as f64),
        _ => false,
    }
}

/// Whether `theirs` is what arrives of the integer `mine`: the shortest digits of its double.
fn is_rounding_of(theirs: &Value, mine: &Value) -> bool {
    let Value::Integer(i) = mine else { return false };
    match theirs {
        Value::Integer(t) => {
            let mut digits = String::new();
            push_real_reference(&mut digits, *i as f64);
            i.unsigned_abs() > DOUBLE_HOLDS && digits == t.to_string()
        }
        Value::Real(r) => *i as f64 == *r,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_digits_that_arrive_are_a_rounding() {
        for (mine, theirs, rounding) in [
            (9_007_199_254_740_993, Value::Integer(9_007_199_254_740_992), true),
            (9_007_199_254_740_993, Value::Integer(9_007_199_254_740_994), false),
            (1_152_921_504_606_846_977, Value::Integer(1_152_921_504_606_847_000), true),
            // The same double, in other digits: an exact number.
            (1_152_921_504_606_846_977, Value::Integer(1_152_921_504_606_846_976), false),
            (i64::MAX, Value::Real(9_223_372_036_854_775_808.0), true),
            (i64::MIN, Value::Real(-9_223_372_036_854_775_808.0), true),
            (i64::MAX, Value::Real(1.5), false),
            (7, Value::Integer(7), false),
            (7, Value::Null, false),
        ] {
            assert_eq!(is_rounding_of(&theirs, &Value::Integer(mine)), rounding, "{mine} {theirs:?}");
        }
    }
}
