//! A server of the June dialect sends the numbers of bundles as doubles (case H7). What comes back of an
//! integer that a double cannot hold is not taken for an edit of it, and never sent back over it.

use rusqlite::OptionalExtension as _;
use sync_core::canonical::push_real_reference;
use sync_core::key::Key;
use sync_core::record::{self, Record};
use sync_core::schema::{Affinity, Column, Table};
use sync_core::value::Value;
use sync_core::wire::DOUBLE_HOLDS;

use crate::apply::{Applier, is_constraint};
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::stage::StagedRow;
use crate::store::{Meta, Store};

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
                if exact != value {
                    Meta::ServerRounds.keep(&self.store.conn, 1)?;
                }
                *theirs = Some(exact.clone());
            }
        }
        r.row = Some(record::encode_partial(&theirs));
        Ok(r)
    }

    /// Takes the exact integers of a snapshot, or of a conflict's row, where this file has what came of them as a double:
    /// the version says nothing of that. What the app has changed stays.
    pub(crate) fn sharpen(&mut self, r: &StagedRow) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[r.position]);
        let Some(stored) = r.row.as_deref().filter(|_| self.rounds) else { return Ok(()) };
        let theirs = record::decode(stored)?;
        if !theirs.iter().flatten().any(is_exact_literal) {
            return Ok(());
        }
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let Some(Ok(live)) = m.sql.read(&store.conn, &key)? else { return Ok(()) };
        let dirty = store.dirty(m.id, &r.k)?;
        let Some(mut sharper) = sharper(&live, &theirs) else { return Ok(()) };
        let mut base = dirty.as_ref().and_then(|d| d.base.clone());
        if dirty.is_some() {
            for (i, sharper) in sharper.iter_mut().enumerate().filter(|(_, exact)| exact.is_some()) {
                match base.as_mut().and_then(|b| b.get_mut(i)).filter(|b| b.as_ref() == Some(&live[i])) {
                    Some(was) => was.clone_from(sharper),
                    None => *sharper = None,
                }
            }
            if sharper.iter().all(Option::is_none) {
                return Ok(());
            }
        }
        Meta::ServerRounds.keep(&store.conn, 1)?;
        match m.sql.update_partial(&store.conn, &key, &sharper) {
            Ok(_) => {}
            // This schema, or another row, does not take it.
            Err(e) if is_constraint(&e) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        if let Some(dirty) = dirty {
            store.put_dirty(m.id, &r.k, dirty.since, base.as_ref())?;
        }
        self.changed(r.position, &r.k, false);
        Ok(())
    }

    /// Takes note of a server that hands texts back which are the same moment in another spelling.
    pub(crate) fn note_respelling(&self, sent: &[Value], made: &Record) -> Result<(), Error> {
        let pairs = sent.iter().zip(made).filter_map(|(s, m)| Some((s, m.as_ref()?)));
        for (sent, made) in pairs.filter(|(s, m)| s != m) {
            if let (Value::Text(sent), Value::Text(made)) = (sent, made)
                && is_same_moment(sent, made)
            {
                return Meta::ServerRespells.keep(&self.store.conn, 1);
            }
        }
        Ok(())
    }
}

impl Store {
    /// Takes numbers out of an update that may be roundings and that it does not change: the server keeps
    /// the exact ones.
    pub(crate) fn leave_out_roundings(&self, ordinal: i64, table: &Table, row: &mut Record) -> Result<(), Error> {
        if mutant::on(Mutant::RoundingsSent) {
            return Ok(());
        }
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
        Value::Integer(t) => i.unsigned_abs() > DOUBLE_HOLDS && digits(*i) == t.to_string(),
        Value::Real(r) => *i as f64 == *r,
        _ => false,
    }
}

/// The exact integers of a server's row, where this file has what came of them as a double; none where there are none.
pub(crate) fn sharper(mine: &[Value], theirs: &Record) -> Option<Record> {
    let exact = |(mine, theirs): (&Value, &Option<Value>)| {
        theirs.clone().filter(|exact| is_exact_literal(exact) && is_rounded_like(mine, exact))
    };
    let sharper: Record = mine.iter().zip(theirs).map(exact).collect();
    sharper.iter().any(Option::is_some).then_some(sharper)
}

/// Whether no double prints as this integer: then it did not come of one.
pub(crate) fn is_exact_literal(v: &Value) -> bool {
    matches!(v, Value::Integer(i) if i.unsigned_abs() > DOUBLE_HOLDS && digits(*i) != i.to_string())
}

/// Whether two numbers that differ are the same as doubles.
fn is_rounded_like(mine: &Value, exact: &Value) -> bool {
    match (mine, exact) {
        (Value::Integer(m), Value::Integer(e)) => m != e && digits(*m) == digits(*e),
        (Value::Real(m), Value::Integer(e)) => *m == *e as f64,
        _ => false,
    }
}

/// What arrives of an integer that goes through a double.
fn digits(i: i64) -> String {
    let mut digits = String::new();
    push_real_reference(&mut digits, i as f64);
    digits
}

/// Whether two texts say the same moment, as far as a server keeps it: to the microsecond.
fn is_same_moment(a: &str, b: &str) -> bool {
    let moment = |s: &str| s.parse::<jiff::Timestamp>().ok().map(|t| t.as_microsecond());
    moment(a).is_some_and(|a| moment(b) == Some(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_double_prints_is_exact() {
        for (i, exact) in [
            (7, false),
            (9_007_199_254_740_992, false),
            (9_007_199_254_740_993, true),
            (9_007_199_254_740_994, false),
            (-9_007_199_254_740_993, true),
            (1_152_921_504_606_846_976, true),
            (1_152_921_504_606_847_000, false),
            (i64::MAX, true),
            (i64::MIN, true),
        ] {
            assert_eq!(is_exact_literal(&Value::Integer(i)), exact, "{i}");
        }
        assert!(!is_exact_literal(&Value::Real(1e300)));
    }

    #[test]
    fn the_same_moment_in_another_spelling() {
        for (a, b, same) in [
            ("2026-03-24T18:02:00Z", "2026-03-24T18:02:00+00:00", true),
            ("2026-03-24T18:02:00Z", "2026-03-24T20:02:00+02:00", true),
            ("2026-03-24T18:02:00.123456789Z", "2026-03-24T18:02:00.123456+00:00", true),
            ("2026-03-24T18:02:00Z", "2026-03-24T18:02:01+00:00", false),
            ("2026-03-24", "2026-03-24", false),
            ("x", "y", false),
        ] {
            assert_eq!(is_same_moment(a, b), same, "{a} {b}");
        }
    }

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
