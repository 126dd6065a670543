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

    /// The statement, with a bound below (exclusive) and above (inclusive) where asked for.
    #[must_use]
    pub fn sql(&self, lower: bool, upper: bool) -> String {
        let mut sql = self.head.clone();
        for (wanted, than) in [(lower, ">"), (upper, "<=")] {
            if wanted {
                let places = super::placeholders(self.order.len());
                sql.push_str(&match self.order.as_slice() {
                    [only] => format!(" AND {only} {than} ?"),
                    several => format!(" AND ({}) {than} ({places})", several.join(", ")),
                });
            }
        }
        sql.push_str(" ORDER BY ");
        sql.push_str(&self.order.join(", "));
        sql
    }

    /// What is bound for the keys of the bounds, in their order.
    #[must_use]
    pub fn bounds(&self, keys: &[&[Value]]) -> Vec<Value> {
        let mut out = Vec::new();
        for key in keys {
            for (value, numeric) in key.iter().zip(&self.numeric) {
                if *numeric {
                    out.push(Value::Integer(i64::from(matches!(value, Value::Integer(_)))));
                }
                out.push(value.clone());
            }
        }
        out
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
        let mut s = conn.prepare(&sql.sql(lower.is_some(), upper.is_some())).unwrap();
        let keys: Vec<&[Value]> = lower.into_iter().chain(upper).collect();
        let mut rows = s.query(params_from_iter(sql.bounds(&keys))).unwrap();
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
        ) {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(
                "CREATE TABLE t (v, a UUID NOT NULL, b TEXT NOT NULL, c BLOB NOT NULL, PRIMARY KEY (b, a, c))",
            ).unwrap();
            let mut stored = std::collections::BTreeSet::new();
            for (a, b, c) in keys {
                let key = [Value::Text(b), a, Value::Blob(c.to_vec())];
                conn.execute("INSERT OR IGNORE INTO t (b, a, c) VALUES (?, ?, ?)", params_from_iter(&key)).unwrap();
                stored.insert(Key::pack(&key).unwrap().as_bytes().to_vec());
            }
            let all: Vec<Vec<u8>> = stored.into_iter().collect();
            prop_assert_eq!(&walk(&conn, None, None), &all);
            if !all.is_empty() {
                let (low, high) = (low % all.len(), high % all.len());
                let unpack = |i: usize| Key::from_stored(all[i].clone()).unpack().unwrap();
                let expected: Vec<_> = all.iter().filter(|k| **k > all[low] && **k <= all[high]).cloned().collect();
                prop_assert_eq!(walk(&conn, Some(&unpack(low)), Some(&unpack(high))), expected);
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
        let mut s = conn.prepare(&sql.sql(false, false)).unwrap();
        let mut rows = s.query([]).unwrap();
        assert!(sql.next(&mut rows).unwrap().unwrap().row.is_ok());
        assert!(sql.next(&mut rows).unwrap().unwrap().row.is_err(), "b can be named, but not read");
        assert!(sql.next(&mut rows).unwrap().is_none());
    }

    #[test]
    fn the_key_s_own_index_gives_the_order() {
        let conn = Connection::open_in_memory().unwrap();
        for ddl in [
            "id TEXT PRIMARY KEY",
            "id INTEGER PRIMARY KEY",
            "id BLOB PRIMARY KEY",
            "id INT, b TEXT, PRIMARY KEY (id, b)",
        ] {
            conn.execute_batch(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (v, {ddl})")).unwrap();
            let schema = introspect(&conn, None).unwrap().schema;
            let sql = OrderedSql::new(&schema.tables()[0]).sql(true, true);
            let mut s = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan: Vec<String> = s
                .query_map(params_from_iter(vec![0; s.parameter_count()]), |r| r.get(3))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert!(plan.iter().all(|p| p.starts_with("SEARCH")), "{ddl}: {plan:?}");
        }
    }
}
