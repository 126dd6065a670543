//! Rows whose keys cannot travel, counted before anything is sent.

use rusqlite::Connection;

use super::rows::read_values;
use super::{NotUtf8, quote, quote_all};
use crate::schema::{Affinity, Column, Table};
use crate::value::Value;
use crate::wire::key_can_travel;

/// What is said of the rows of a table that have no identity elsewhere; empty where every row has one.
///
/// # Errors
/// SQLite's.
pub fn unfit(conn: &Connection, table: &Table) -> rusqlite::Result<Vec<String>> {
    let columns: Vec<&Column> = table.key.iter().map(|i| &table.columns[*i]).collect();
    // SQLite itself lets nothing else into such a key.
    if let [only] = columns.as_slice()
        && only.declared.eq_ignore_ascii_case("INTEGER")
        && !table.without_rowid
    {
        return Ok(Vec::new());
    }
    let names = quote_all(columns.iter().map(|c| c.sql_name.as_str()));
    let mut s = conn.prepare(&format!("SELECT {names} FROM main.{}", quote(&table.sql_name)))?;
    let mut rows = s.query([])?;
    let (mut without, mut unfit) = (0u64, vec![0u64; columns.len()]);
    while let Some(r) = rows.next()? {
        match read_values(r, 0, columns.len()) {
            Err(NotUtf8(column)) => unfit[column] += 1,
            Ok(key) if key_can_travel(table, &key) => {}
            Ok(key) if key.contains(&Value::Null) => without += 1,
            Ok(key) => {
                let wrong = (0..key.len()).find(|n| !travels(table, *n, &key[*n])).unwrap_or(0);
                unfit[wrong] += 1;
            }
        }
    }
    let mut said = Vec::new();
    if without > 0 {
        said.push(format!("{without} of its rows have NULL in their key: they stay in this file"));
    }
    for (column, count) in columns.iter().zip(unfit).filter(|(_, count)| *count > 0) {
        said.push(format!(
            "{count} of its rows have a key that column {} ({}) cannot carry to other devices, which takes {}: they stay in \
             this file, with what refers to them, until they have another",
            column.sql_name,
            column.declared,
            takes(column)
        ));
    }
    Ok(said)
}

/// Whether one value of a key can travel, whatever the others are.
fn travels(table: &Table, n: usize, value: &Value) -> bool {
    let alone = Table { key: vec![table.key[n]], ..table.clone() };
    key_can_travel(&alone, std::slice::from_ref(value))
}

const fn takes(column: &Column) -> &'static str {
    match column.affinity {
        _ if column.blob => "16 bytes",
        Affinity::Integer => "whole numbers",
        Affinity::Numeric => "whole numbers, and texts that are no numbers",
        Affinity::Text | Affinity::Blob | Affinity::Real => "text that is valid UTF-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::introspect::introspect;

    #[test]
    fn rows_of_each_kind_are_counted() {
        for (columns, rows, expected) in [
            ("k INTEGER PRIMARY KEY", "(1), (2)", &[][..]),
            (
                "k INTEGER_OR_TEXT PRIMARY KEY",
                "(1), ('Naiad'), ('Io'), (NULL)",
                &["1 of its rows have NULL", "2 of its rows have a key that column k (INTEGER_OR_TEXT)"],
            ),
            ("k TEXT PRIMARY KEY", "('a'), (x'00'), (CAST(x'ff' AS TEXT))", &["2 of its rows"]),
            ("k BLOB PRIMARY KEY", "(zeroblob(16)), (x'01'), ('text')", &["2 of its rows"]),
            ("k NUMERIC PRIMARY KEY", "(1), (1.5), ('a')", &["1 of its rows"]),
            ("k UUID PRIMARY KEY", "('6ba7b810-9dad-11d1-80b4-00c04fd430c8')", &[]),
            (
                "a TEXT, k INT, PRIMARY KEY (a, k)",
                "('a', 1), ('a', 'x'), (NULL, 1)",
                &["1 of its rows have NULL", "column k (INT)"],
            ),
        ] {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(&format!("CREATE TABLE t ({columns}); INSERT INTO t VALUES {rows};")).unwrap();
            let schema = introspect(&conn, None).unwrap().schema;
            let said = unfit(&conn, &schema.tables()[0]).unwrap();
            assert_eq!(said.len(), expected.len(), "{columns}: {said:?}");
            assert!(said.iter().zip(expected).all(|(s, e)| s.contains(e)), "{columns}: {said:?}");
        }
    }
}
