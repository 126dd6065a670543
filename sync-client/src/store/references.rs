//! Rows that refer to others, as the file has them.

use rusqlite::params_from_iter;
use sync_core::key::Key;
use sync_core::schema::{ForeignKey, Table, Unique};
use sync_core::sqlite::quote;
use sync_core::value::Value;

use super::Store;
use crate::error::Error;

impl Store {
    /// Keys of the rows of a child table that refer to this row of `parent`.
    pub(crate) fn children(
        &self,
        child: usize,
        fk: &ForeignKey,
        parent: &Table,
        row: &[Value],
    ) -> Result<Vec<Vec<Value>>, Error> {
        let Some(values) = referred(fk, parent, row) else { return Ok(Vec::new()) };
        let sql = format!("SELECT _sync_key({}) {}", self.managed[child].sql.key, self.referring(child, fk));
        let mut s = self.conn.prepare_cached(&sql)?;
        let keys: Vec<Option<Vec<u8>>> =
            s.query_map(params_from_iter(values), |r| r.get(0))?.collect::<Result<_, _>>()?;
        keys.into_iter().flatten().map(|k| Ok(Key::from_stored(k).unpack()?)).collect()
    }

    /// How many rows refer to this row of `parent`, and the keys of the first ones. Rows whose key no other device
    /// could name are not counted: the server has none of them.
    pub(crate) fn some_children(
        &self,
        child: usize,
        fk: &ForeignKey,
        parent: &Table,
        row: &[Value],
    ) -> Result<(i64, Vec<Vec<Value>>), Error> {
        let Some(values) = referred(fk, parent, row) else { return Ok((0, Vec::new())) };
        let key = format!("_sync_key({})", self.managed[child].sql.key);
        let from = self.referring(child, fk);
        let sql = format!("SELECT count({key}) {from}");
        let count: i64 = self.conn.prepare_cached(&sql)?.query_row(params_from_iter(&values), |r| r.get(0))?;
        if count == 0 {
            return Ok((0, Vec::new()));
        }
        let sql = format!("SELECT {key} AS k {from} AND k IS NOT NULL ORDER BY k LIMIT {FIRST}");
        let mut s = self.conn.prepare_cached(&sql)?;
        let keys: Vec<Vec<u8>> = s.query_map(params_from_iter(values), |r| r.get(0))?.collect::<Result<_, _>>()?;
        let keys = keys.into_iter().map(|k| Ok(Key::from_stored(k).unpack()?)).collect::<Result<_, Error>>()?;
        Ok((count, keys))
    }

    /// Stored keys of the rows that hold these values in the columns of a UNIQUE index.
    pub(crate) fn holders(&self, position: usize, unique: &Unique, values: &[Value]) -> Result<Vec<Vec<u8>>, Error> {
        let (table, m) = (self.table(position), &self.managed[position]);
        let same: Vec<String> = unique
            .columns
            .iter()
            .zip(&unique.collations)
            .map(|(i, c)| format!("{} = ? COLLATE {}", quote(&table.columns[*i].sql_name), quote(c)))
            .collect();
        let sql = format!(
            "SELECT _sync_key({}) FROM main.{} WHERE {}",
            m.sql.key,
            quote(&table.sql_name),
            same.join(" AND ")
        );
        let mut s = self.conn.prepare_cached(&sql)?;
        let keys: Vec<Option<Vec<u8>>> =
            s.query_map(params_from_iter(values), |r| r.get(0))?.collect::<Result<_, _>>()?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// `FROM` and `WHERE` of the rows of a child table that refer to the values which are bound.
    fn referring(&self, child: usize, fk: &ForeignKey) -> String {
        let table = self.table(child);
        let same: Vec<String> =
            fk.columns.iter().map(|i| format!("{} = ?", quote(&table.columns[*i].sql_name))).collect();
        format!("FROM main.{} WHERE {}", quote(&table.sql_name), same.join(" AND "))
    }

    /// Whether any row of a table has these values in the columns that a foreign key refers to.
    pub(crate) fn is_referred(&self, fk: &ForeignKey, parent: usize, row: &[Value]) -> Result<bool, Error> {
        let table = self.table(parent);
        match referred(fk, table, row) {
            Some(values) => self.has_parent(fk, table, &values),
            None => Ok(false),
        }
    }

    /// Whether a foreign key of a row is satisfied. NULL refers to nothing.
    pub(crate) fn refers_to_a_row(&self, fk: &ForeignKey, parent: usize, row: &[Value]) -> Result<bool, Error> {
        let values: Vec<&Value> = fk.columns.iter().map(|i| &row[*i]).collect();
        Ok(values.iter().any(|v| v.is_null()) || self.has_parent(fk, self.table(parent), &values)?)
    }

    fn has_parent(&self, fk: &ForeignKey, parent: &Table, values: &[&Value]) -> Result<bool, Error> {
        let same: Vec<String> = fk.parent_columns.iter().map(|c| format!("{} = ?", quote(c))).collect();
        let sql = format!("SELECT 1 FROM main.{} WHERE {}", quote(&parent.sql_name), same.join(" AND "));
        Ok(self.conn.prepare_cached(&sql)?.exists(params_from_iter(values))?)
    }
}

/// So many rows are named.
const FIRST: usize = 3;

/// The values of a row by which a foreign key refers to it; none where one is NULL.
pub(crate) fn referred<'v>(fk: &ForeignKey, parent: &Table, row: &'v [Value]) -> Option<Vec<&'v Value>> {
    let values: Option<Vec<&Value>> =
        fk.parent_columns.iter().map(|c| parent.column(c).and_then(|i| row.get(i))).collect();
    values.filter(|v| v.iter().all(|v| !v.is_null()))
}
