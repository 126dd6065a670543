//! Reading and writing one row, by statements made once per table.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};

use super::{NotUtf8, placeholders, quote, quote_all, value};
use crate::record::Record;
use crate::schema::Table;
use crate::value::Value;

/// The statements of one table. Columns are always in the table's order, keys in key order.
#[derive(Debug, Clone)]
pub struct RowSql {
    /// The columns, quoted, with commas.
    pub columns: String,
    /// The key's columns, quoted, with commas.
    pub key: String,
    /// `k0 = ? AND …`
    pub by_key: String,
    /// Reads a row by its key.
    pub select: String,
    /// Writes a new row.
    pub insert: String,
    /// Writes every column of a row by its key.
    pub update: String,
    /// Removes a row by its key.
    pub delete: String,
    /// Where the key's columns stand.
    key_positions: Vec<usize>,
    table: String,
    names: Vec<String>,
}

impl RowSql {
    /// The statements of a table of the main database.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        let name = format!("main.{}", quote(&table.sql_name));
        let names: Vec<String> = table.columns.iter().map(|c| quote(&c.sql_name)).collect();
        let columns = names.join(", ");
        let key = quote_all(table.key.iter().map(|i| table.columns[*i].sql_name.as_str()));
        let by_key = table.key.iter().map(|i| format!("{} = ?", names[*i])).collect::<Vec<_>>().join(" AND ");
        let set = names.iter().map(|n| format!("{n} = ?")).collect::<Vec<_>>().join(", ");
        Self {
            select: format!("SELECT {columns} FROM {name} WHERE {by_key}"),
            insert: format!("INSERT OR ABORT INTO {name} ({columns}) VALUES ({})", placeholders(names.len())),
            update: format!("UPDATE OR ABORT {name} SET {set} WHERE {by_key}"),
            delete: format!("DELETE FROM {name} WHERE {by_key}"),
            columns,
            key,
            by_key,
            key_positions: table.key.clone(),
            table: name,
            names,
        }
    }

    /// The key of a row.
    #[must_use]
    pub fn key_of(&self, row: &[Value]) -> Vec<Value> {
        self.key_positions.iter().map(|i| row[*i].clone()).collect()
    }

    /// Reads a row by its key: `None` where there is none.
    ///
    /// # Errors
    /// SQLite's; or, inside, text that is not UTF-8.
    pub fn read(&self, conn: &Connection, key: &[Value]) -> rusqlite::Result<Option<Result<Vec<Value>, NotUtf8>>> {
        let mut s = conn.prepare_cached(&self.select)?;
        let mut rows = s.query(params_from_iter(key))?;
        Ok(rows.next()?.map(|r| read_values(r, 0, self.names.len())))
    }

    /// Reads a row by its key, to keep it: text that is not UTF-8 comes as its bytes, a BLOB.
    ///
    /// # Errors
    /// SQLite's.
    pub fn read_bytes(&self, conn: &Connection, key: &[Value]) -> rusqlite::Result<Option<Vec<Value>>> {
        let mut s = conn.prepare_cached(&self.select)?;
        let mut rows = s.query(params_from_iter(key))?;
        let bytes = |v: ValueRef<'_>| Value::Blob(v.as_bytes().unwrap_or_default().to_vec());
        let Some(r) = rows.next()? else { return Ok(None) };
        let of = |i| r.get_ref(i).map(|v| value(v, i).unwrap_or_else(|NotUtf8(_)| bytes(v)));
        (0..self.names.len()).map(of).collect::<rusqlite::Result<_>>().map(Some)
    }

    /// Whether there is a row with this key.
    ///
    /// # Errors
    /// SQLite's.
    pub fn exists(&self, conn: &Connection, key: &[Value]) -> rusqlite::Result<bool> {
        conn.prepare_cached(&self.select)?.exists(params_from_iter(key))
    }

    /// Inserts a complete row. Returns the number of rows written.
    ///
    /// # Errors
    /// SQLite's, constraints included.
    pub fn insert(&self, conn: &Connection, row: &[Value]) -> rusqlite::Result<usize> {
        conn.prepare_cached(&self.insert)?.execute(params_from_iter(row))
    }

    /// Sets every column of the row with this key. Returns the number of rows written.
    ///
    /// # Errors
    /// SQLite's, constraints included.
    pub fn update(&self, conn: &Connection, key: &[Value], row: &[Value]) -> rusqlite::Result<usize> {
        conn.prepare_cached(&self.update)?.execute(params_from_iter(row.iter().chain(key)))
    }

    /// Deletes the row with this key. Returns the number of rows deleted by this statement itself.
    ///
    /// # Errors
    /// SQLite's, constraints included.
    pub fn delete(&self, conn: &Connection, key: &[Value]) -> rusqlite::Result<usize> {
        conn.prepare_cached(&self.delete)?.execute(params_from_iter(key))
    }

    /// Inserts the present columns of a row; absent ones take their defaults.
    ///
    /// # Errors
    /// SQLite's, constraints included.
    pub fn insert_partial(&self, conn: &Connection, row: &Record) -> rusqlite::Result<usize> {
        if row.iter().all(Option::is_some) {
            return conn.prepare_cached(&self.insert)?.execute(params_from_iter(row.iter().flatten()));
        }
        let names: Vec<&str> =
            self.names.iter().zip(row).filter(|(_, v)| v.is_some()).map(|(n, _)| n.as_str()).collect();
        let sql = format!(
            "INSERT OR ABORT INTO {} ({}) VALUES ({})",
            self.table,
            names.join(", "),
            placeholders(names.len())
        );
        conn.prepare_cached(&sql)?.execute(params_from_iter(row.iter().flatten()))
    }

    /// Sets the present columns of the row with this key.
    ///
    /// # Errors
    /// SQLite's, constraints included.
    pub fn update_partial(&self, conn: &Connection, key: &[Value], row: &Record) -> rusqlite::Result<usize> {
        if row.iter().all(Option::is_some) {
            return conn.prepare_cached(&self.update)?.execute(params_from_iter(row.iter().flatten().chain(key)));
        }
        let set: Vec<String> =
            self.names.iter().zip(row).filter(|(_, v)| v.is_some()).map(|(n, _)| format!("{n} = ?")).collect();
        let sql = format!("UPDATE OR ABORT {} SET {} WHERE {}", self.table, set.join(", "), self.by_key);
        conn.prepare_cached(&sql)?.execute(params_from_iter(row.iter().flatten().chain(key)))
    }
}

/// Reads `n` columns of a result row, from `first` on.
///
/// # Errors
/// When text is not valid UTF-8.
pub fn read_values(row: &Row<'_>, first: usize, n: usize) -> Result<Vec<Value>, NotUtf8> {
    (first..first + n).map(|i| value(row.get_ref_unwrap(i), i - first)).collect()
}
