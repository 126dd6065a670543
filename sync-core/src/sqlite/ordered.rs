//! Reading a table's rows in the order of their stored keys ([`crate::key`]), so that two ends walk the
//! same rows in step.
//!
//! SQLite's own order differs from it in one thing: it puts integers before text. Only columns of NUMERIC
//! affinity can hold both.

use rusqlite::Rows;

use super::rows::read_values;
use super::{NotUtf8, quote};
use crate::key::Key;
use crate::schema::{Affinity, Table};
use crate::value::Value;

/// The statements that walk one table. Rows whose key cannot travel are left out
/// ([`crate::wire::key_can_travel`]).
#[derive(Debug, Clone)]
pub struct OrderedSql {
    head: String,
    order: Vec<String>,
    /// Key columns that may hold integers and text.
    numeric: Vec<bool>,
    columns: usize,
    key: Vec<usize>,
}

/// A row and its key.
#[derive(Debug)]
pub struct KeyedRow {
    /// The stored form.
    pub k: Vec<u8>,
    /// The row, unless it holds text that is not UTF-8.
    pub row: Result<Vec<Value>, NotUtf8>,
}

impl OrderedSql {
    /// The statements of a table of the main database.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        let columns: Vec<String> = table.columns.iter().map(|c| quote(&c.sql_name)).collect();
        let mut filter = Vec::new();
        let mut order = Vec::new();
        let mut numeric = Vec::new();
        for i in &table.key {
            let (c, name) = (&table.columns[*i], &columns[*i]);
            let mixed = !c.blob && c.affinity == Affinity::Numeric;
            filter.push(match c.affinity {
                _ if c.blob => format!("typeof({name}) = 'blob' AND length({name}) = 16"),
                Affinity::Integer => format!("typeof({name}) = 'integer'"),
                Affinity::Numeric => format!("typeof({name}) IN ('integer', 'text')"),
                _ => format!("typeof({name}) = 'text'"),
            });
            if mixed {
                order.push(format!("typeof({name}) = 'integer'"));
            }
            order.push(name.clone());
            numeric.push(mixed);
        }
        Self {
            head: format!(
                "SELECT {} FROM main.{} WHERE {}",
                columns.join(", "),
                quote(&table.sql_name),
                filter.join(" AND ")
            ),
            order,
            numeric,
            columns: columns.len(),
            key: table.key.clone(),
        }
    }

    /// The statement for the rows above one key and up to another, and what is bound in it. Without a bound
    /// on one side it reads on to that end.
    #[must_use]
    pub fn between(&self, lower: Option<&[Value]>, upper: Option<&[Value]>) -> (String, Vec<Value>) {
        let (mut sql, mut bound) = (self.head.clone(), Vec::new());
        for (key, than) in [(lower, ">"), (upper, "<=")] {
            let Some(key) = key else { continue };
            match self.order.as_slice() {
                [only] => sql.push_str(&format!(" AND {only} {than} ?")),
                several => sql.push_str(&format!(
                    " AND ({}) {than} ({})",
                    several.join(", "),
                    super::placeholders(several.len())
                )),
            }
            for (value, numeric) in key.iter().zip(&self.numeric) {
                if *numeric {
                    bound.push(Value::Integer(i64::from(matches!(value, Value::Integer(_)))));
                }
                bound.push(value.clone());
            }
        }
        self.narrow(lower, upper, &mut sql, &mut bound);
        sql.push_str(" ORDER BY ");
        sql.push_str(&self.order.join(", "));
        (sql, bound)
    }

    /// Where the first column may hold integers and text, no index gives the order; where both bounds are of
    /// one class it gives the range.
    fn narrow(&self, lower: Option<&[Value]>, upper: Option<&[Value]>, sql: &mut String, bound: &mut Vec<Value>) {
        let [true, ..] = self.numeric.as_slice() else { return };
        let first = &self.order[1];
        let blank = Value::Text(String::new());
        let (from, than, to) = match (lower.and_then(<[Value]>::first), upper.and_then(<[Value]>::first)) {
            (Some(l @ Value::Text(_)), Some(u @ Value::Text(_)))
            | (Some(l @ Value::Integer(_)), Some(u @ Value::Integer(_))) => (l, "<=", u),
            // SQLite has every integer below every text.
            (None, Some(u @ Value::Text(_))) => (&blank, "<=", u),
            (Some(l @ Value::Integer(_)), None) => (l, "<", &blank),
            _ => return,
        };
        sql.push_str(&format!(" AND {first} >= ? AND {first} {than} ?"));
        bound.extend([from.clone(), to.clone()]);
    }

    /// The next row of the statement.
    ///
    /// # Errors
    /// SQLite's.
    pub fn next(&self, rows: &mut Rows<'_>) -> rusqlite::Result<Option<KeyedRow>> {
        while let Some(r) = rows.next()? {
            let mut key = Vec::with_capacity(self.key.len());
            for i in &self.key {
                match super::value(r.get_ref(*i)?, *i) {
                    Ok(v) => key.push(v),
                    Err(_) => break,
                }
            }
            let k = (key.len() == self.key.len()).then(|| Key::pack(&key).ok()).flatten();
            if let Some(k) = k {
                return Ok(Some(KeyedRow { k: k.as_bytes().to_vec(), row: read_values(r, 0, self.columns) }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::{Connection, params_from_iter};

    use super::*;
    use crate::sqlite::introspect::introspect;

    fn walk(conn: &Connection, lower: Option<&[Value]>, upper: Option<&[Value]>) -> Vec<Vec<u8>> {
        let schema = introspect(conn, None).unwrap().schema;
        let sql = OrderedSql::new(&schema.tables()[0]);
        let (text, bound) = sql.between(lower, upper);
        let mut s = conn.prepare(&text).unwrap();
        let mut rows = s.query(params_from_iter(bound)).unwrap();
        std::iter::from_fn(|| sql.next(&mut rows).unwrap()).map(|r| r.k).collect()
    }

    fn any_key() -> impl Strategy<Value = Value> {
        prop_oneof![(-300i64..300).prop_map(Value::Integer), "[a-c\u{0}é]{0,3}".prop_map(Value::Text),]
    }

    proptest! {
        #[test]
        fn rows_come_in_the_order_of_stored_keys(
            keys in proptest::collection::vec((any_key(), "[ab\u{0}é]{0,3}", any::<[u8; 16]>()), 0..40),
            low in 0usize..40,
            high in 0usize..40,
            mixed_first in any::<bool>(),
        ) {
            let conn = Connection::open_in_memory().unwrap();
            let order = if mixed_first { "a, b, c" } else { "b, a, c" };
            conn.execute_batch(&format!(
                "CREATE TABLE t (v, a UUID NOT NULL, b TEXT NOT NULL, c BLOB NOT NULL, PRIMARY KEY ({order}))",
            )).unwrap();
            let insert = format!("INSERT OR IGNORE INTO t ({order}) VALUES (?, ?, ?)");
            let mut stored = std::collections::BTreeSet::new();
            for (a, b, c) in keys {
                let mut key = [Value::Text(b), a, Value::Blob(c.to_vec())];
                if mixed_first {
                    key.swap(0, 1);
                }
                conn.execute(&insert, params_from_iter(&key)).unwrap();
                stored.insert(Key::pack(&key).unwrap().as_bytes().to_vec());
            }
            let all: Vec<Vec<u8>> = stored.into_iter().collect();
            prop_assert_eq!(&walk(&conn, None, None), &all);
            if !all.is_empty() {
                let (low, high) = (low % all.len(), high % all.len());
                let unpack = |i: usize| Key::from_stored(all[i].clone()).unpack().unwrap();
                let expected: Vec<_> = all.iter().filter(|k| **k > all[low] && **k <= all[high]).cloned().collect();
                prop_assert_eq!(walk(&conn, Some(&unpack(low)), Some(&unpack(high))), expected);
                prop_assert_eq!(walk(&conn, Some(&unpack(low)), None), &all[low + 1..]);
                prop_assert_eq!(walk(&conn, None, Some(&unpack(high))), &all[..=high]);
            }
        }
    }

    #[test]
    fn keys_that_cannot_travel_are_left_out() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE t (id TEXT PRIMARY KEY, v);
             INSERT INTO t VALUES ('a', 1), (NULL, 2), (x'00', 3), (CAST(x'ff' AS TEXT), 4), ('b', CAST(x'ff' AS TEXT))",
        )
        .unwrap();
        let schema = introspect(&conn, None).unwrap().schema;
        let sql = OrderedSql::new(&schema.tables()[0]);
        let mut s = conn.prepare(&sql.between(None, None).0).unwrap();
        let mut rows = s.query([]).unwrap();
        assert!(sql.next(&mut rows).unwrap().unwrap().row.is_ok());
        assert!(sql.next(&mut rows).unwrap().unwrap().row.is_err(), "b can be named, but not read");
        assert!(sql.next(&mut rows).unwrap().is_none());
    }

    #[test]
    fn the_key_has_an_index_of_its_own() {
        let conn = Connection::open_in_memory().unwrap();
        let text = |s: &str| Value::Text(s.into());
        for (ddl, lower, upper) in [
            ("id TEXT PRIMARY KEY", vec![text("a")], vec![text("b")]),
            ("id INTEGER PRIMARY KEY", vec![1.into()], vec![2.into()]),
            ("id BLOB PRIMARY KEY", vec![vec![0; 16].into()], vec![vec![1; 16].into()]),
            ("id INT, b TEXT, PRIMARY KEY (id, b)", vec![1.into(), text("a")], vec![2.into(), text("b")]),
            ("id UUID PRIMARY KEY", vec![text("a")], vec![text("b")]),
            ("id UUID PRIMARY KEY", vec![1.into()], vec![2.into()]),
        ] {
            conn.execute_batch(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (v, {ddl})")).unwrap();
            let schema = introspect(&conn, None).unwrap().schema;
            let (sql, bound) = OrderedSql::new(&schema.tables()[0]).between(Some(&lower), Some(&upper));
            let mut s = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan: Vec<String> =
                s.query_map(params_from_iter(bound), |r| r.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
            assert!(plan[0].starts_with("SEARCH"), "{ddl}: {plan:?}");
            assert_eq!(plan.len() == 1, !ddl.contains("UUID"), "{ddl}: {plan:?}");
        }
    }
}
