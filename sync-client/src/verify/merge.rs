//! Two sorted streams of rows, key by key.

use std::cmp::Ordering;

use sync_core::canonical::{Escapes, push_string};
use sync_core::record::Record;
use sync_core::schema::{Column, Table};
use sync_core::sqlite::NotUtf8;
use sync_core::value::Value;
use sync_core::wire::{Form, push_value};

use super::report::Kind;
use crate::error::Error;
use crate::rounding::is_exact_literal;

/// A row of one side; `None` is a column that this side does not have.
pub(super) struct Side {
    pub(super) k: Vec<u8>,
    /// The row's version, where the side knows it.
    pub(super) version: i64,
    pub(super) row: Result<Record, NotUtf8>,
}

/// Hands over each key that either side has.
pub(super) fn merge(
    mut left: impl FnMut() -> Result<Option<Side>, Error>,
    mut right: impl FnMut() -> Result<Option<Side>, Error>,
    mut each: impl FnMut(Option<Side>, Option<Side>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut a, mut b) = (left()?, right()?);
    loop {
        let order = match (&a, &b) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(l), Some(r)) => l.k.cmp(&r.k),
        };
        match order {
            Ordering::Less => each(std::mem::replace(&mut a, left()?), None)?,
            Ordering::Greater => each(None, std::mem::replace(&mut b, right()?))?,
            Ordering::Equal => each(std::mem::replace(&mut a, left()?), std::mem::replace(&mut b, right()?))?,
        }
    }
}

/// How two rows of one key differ, and in which columns; `None` where they do not. `exact` is false where one
/// side came over a view that does not keep every value apart.
pub(super) fn difference(
    table: &Table,
    mine: Option<&Result<Record, NotUtf8>>,
    theirs: Option<&Result<Record, NotUtf8>>,
    exact: bool,
) -> Option<(Kind, Vec<String>)> {
    let name = |i: usize| table.columns.get(i).map(|c| c.name.clone());
    match (mine, theirs) {
        (None, None) => None,
        (None, Some(_)) => Some((Kind::Missing, Vec::new())),
        (Some(_), None) => Some((Kind::Extra, Vec::new())),
        (Some(Ok(mine)), Some(Ok(theirs))) => {
            let columns: Vec<String> = table
                .columns
                .iter()
                .zip(mine.iter().zip(theirs))
                .filter(|(c, (m, t))| match (m, t) {
                    (Some(m), Some(t)) => !same(c, m, t, exact),
                    _ => false,
                })
                .map(|(c, _)| c.name.clone())
                .collect();
            (!columns.is_empty()).then_some((Kind::Different, columns))
        }
        // Text that is not UTF-8 never came from a server.
        (Some(Err(NotUtf8(i))), _) | (_, Some(Err(NotUtf8(i)))) => {
            Some((Kind::Different, name(*i).into_iter().collect()))
        }
    }
}

/// H7: over the plain view, numbers beyond 2^53 and values in columns of another type are equal where what
/// arrives of them is.
fn same(column: &Column, a: &Value, b: &Value, exact: bool) -> bool {
    // What no double prints is the server's own number.
    if a == b || exact || is_exact_literal(b) {
        return a == b;
    }
    let plain = |v: &Value| {
        let mut out = String::new();
        push_value(&mut out, column, v, Form::Reference);
        out
    };
    plain(a) == plain(b)
}

/// The payload of the named columns, canonical, for a digest. `order` holds their positions in canonical order.
pub(super) fn push_named(out: &mut String, table: &Table, order: &[usize], row: &[Value]) {
    out.push('{');
    for (n, i) in order.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_string(out, &table.columns[*i].name, Escapes::Minimal);
        out.push(':');
        push_value(out, &table.columns[*i], &row[*i], Form::Exact);
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use sync_core::sqlite::introspect::introspect;

    use super::*;

    fn table() -> Table {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, r REAL, b BLOB, s TEXT)").unwrap();
        introspect(&conn, None).unwrap().schema.tables()[0].clone()
    }

    fn row(n: impl Into<Value>, r: impl Into<Value>, b: impl Into<Value>) -> Result<Record, NotUtf8> {
        Ok(vec![Some(1.into()), Some(n.into()), Some(r.into()), Some(b.into()), None])
    }

    #[test]
    fn every_kind_of_difference() {
        let t = table();
        let mine = row(1, 1.5, vec![1]);
        let kind = |a: Option<&_>, b: Option<&_>| difference(&t, a, b, true);
        assert_eq!(kind(None, None), None);
        assert_eq!(kind(Some(&mine), Some(&mine)), None);
        assert_eq!(kind(None, Some(&mine)), Some((Kind::Missing, vec![])));
        assert_eq!(kind(Some(&mine), None), Some((Kind::Extra, vec![])));
        let other = row(2, 1.5, Value::Null);
        assert_eq!(kind(Some(&mine), Some(&other)), Some((Kind::Different, vec!["n".into(), "b".into()])));
        let mut partial = mine.clone().unwrap();
        partial[1] = None;
        assert_eq!(kind(Some(&mine), Some(&Ok(partial))), None, "a column that one side lacks is not compared");
        assert_eq!(kind(Some(&Err(NotUtf8(4))), Some(&mine)), Some((Kind::Different, vec!["s".into()])));
    }

    /// H7.
    #[test]
    fn values_that_the_plain_view_cannot_tell_apart_are_equal_over_it() {
        let t = table();
        let big = row(9_007_199_254_740_993, 1.5, "text");
        for (theirs, equal) in [
            (row(9_007_199_254_740_992, 1.5, "text"), true),
            // No double prints this one: it is what the server has.
            (row(9_007_199_254_740_991 + 4, 1.5, "text"), false),
            (row(9_007_199_254_740_993, 1.5, b"text".to_vec()), true),
            (row(9_007_199_254_740_996, 1.5, "text"), false),
            (row(9_007_199_254_740_993, 1.6, "text"), false),
        ] {
            assert_eq!(difference(&t, Some(&big), Some(&theirs), false).is_none(), equal);
            assert!(difference(&t, Some(&big), Some(&theirs), true).is_some());
        }
    }

    #[test]
    fn streams_meet_by_key() {
        let side = |keys: &'static [u8]| {
            let mut keys = keys.iter();
            move || Ok(keys.next().map(|k| Side { k: vec![*k], version: 0, row: Ok(vec![]) }))
        };
        let mut seen = String::new();
        merge(side(&[1, 3, 4]), side(&[2, 3, 5, 6]), |a, b| {
            let name = |s: Option<Side>| s.map_or_else(|| "-".into(), |s| s.k[0].to_string());
            seen.push_str(&format!("{}{} ", name(a), name(b)));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, "1- -2 33 4- -5 -6 ");
    }
}
