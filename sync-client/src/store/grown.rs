//! Columns that the app added: whether it gave them values, or only the default stands there. What others
//! wrote in such a column is not here yet, and must neither be overwritten nor overwrite what the app wrote.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, params_from_iter};
use sync_core::sqlite::quote;
use sync_core::value::Value;

use super::Store;
use crate::error::Error;

/// A table that has got columns since the last rebuild.
pub(crate) struct Grown {
    columns: Vec<usize>,
    /// Reads from a row, for each of these columns, whether it only holds the default.
    sql: String,
}

impl Store {
    /// The tables that got columns since the last rebuild, by position.
    pub(crate) fn grown_tables(&self) -> Result<BTreeMap<usize, Grown>, Error> {
        let mut s = self.conn.prepare("SELECT id, grown_from FROM main._sync_table WHERE grown_from IS NOT NULL")?;
        let rows: Vec<(i64, i64)> = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        let mut grown = BTreeMap::new();
        for (id, from) in rows {
            let (Some(position), Ok(from)) = (self.position(id), usize::try_from(from)) else { continue };
            let table = self.table(position);
            let columns: Vec<usize> = (from..table.columns.len()).collect();
            let unset = columns.iter().map(|c| self.unset(position, *c)).collect::<Result<Vec<_>, _>>()?;
            if !columns.is_empty() {
                let (name, by_key) = (quote(&table.sql_name), &self.managed[position].sql.by_key);
                let sql = format!("SELECT {} FROM main.{name} WHERE {by_key}", unset.join(", "));
                grown.insert(position, Grown { columns, sql });
            }
        }
        Ok(grown)
    }

    /// The columns of a row of such a table that only hold the default.
    pub(crate) fn unset_columns(&self, grown: &Grown, key: &[Value]) -> Result<Vec<usize>, Error> {
        let mut s = self.conn.prepare_cached(&grown.sql)?;
        let read =
            s.query_row(params_from_iter(key), |r| (0..grown.columns.len()).map(|i| r.get(i)).collect()).optional()?;
        let unset: Vec<bool> = read.unwrap_or_default();
        Ok(grown.columns.iter().zip(unset).filter_map(|(c, unset)| unset.then_some(*c)).collect())
    }

    /// SQL that says whether a row only holds the default in a column. A default that is another each time
    /// counts as the app's.
    pub(super) fn unset(&self, position: usize, column: usize) -> Result<String, Error> {
        let table = self.table(position);
        let name = &table.columns[column].sql_name;
        let default: Option<String> = self
            .conn
            .prepare_cached("SELECT dflt_value FROM pragma_table_info(?1, 'main') WHERE name = ?2")?
            .query_row((&table.sql_name, name), |r| r.get(0))?;
        let name = quote(name);
        let Some(default) = default else { return Ok(format!("{name} IS NULL")) };
        // A bare or double-quoted word stands for itself there.
        let literal = self.conn.query_row(&format!("SELECT quote({default})"), [], |r| r.get::<_, String>(0));
        let literal = literal.unwrap_or_else(|_| format!("'{}'", default.trim_matches('"').replace('\'', "''")));
        Ok(format!("({name} IS NULL OR {name} COLLATE BINARY IS {literal})"))
    }
}
