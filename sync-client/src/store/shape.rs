//! What a synced table looked like when its capture was last made, and which changes of that are refused: what the
//! server and other devices still have under an old name, type or key would be lost or changed by sending.

use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};
use sync_core::engine::alike::{Kind, is_blob};
use sync_core::record::{self, Record};
use sync_core::schema::{Affinity, Column, Table};

use super::Meta;
use crate::error::Error;
use crate::held_back;

/// How the file stands to its server: what may become of a synced table follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stance {
    /// It was never attached: nobody else knows its tables.
    Fresh,
    /// It is synced: names, types and keys stay.
    Synced,
    /// It was detached and is a synced one again: what was removed in between was removed by choice.
    Woken,
    /// It is being detached: a person's way out of whatever its schema is refused for, but for another key.
    Leaving,
}

impl Stance {
    /// Of a file that is not being detached.
    pub(super) fn of(conn: &Connection) -> Result<Self, Error> {
        Ok(match (Meta::Joined.integer(conn)?, Meta::Resume.integer(conn)?) {
            (0, 0) => Self::Fresh,
            (0, _) => Self::Woken,
            _ => Self::Synced,
        })
    }
}

/// A table's columns in its order, their declared types and the key. A file of an older version knows the names only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) columns: Vec<String>,
    rest: Option<Rest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rest {
    types: Vec<String>,
    key: Vec<String>,
}

impl Shape {
    fn of(table: &Table) -> Self {
        let rest = Rest {
            types: table.columns.iter().map(|c| c.declared.clone()).collect(),
            key: table.key.iter().map(|i| table.columns[*i].sql_name.clone()).collect(),
        };
        Self { columns: table.columns.iter().map(|c| c.sql_name.clone()).collect(), rest: Some(rest) }
    }

    /// The key's columns, lowercase, of a stored shape.
    pub(super) fn stored_key(rest: &str) -> Vec<String> {
        let rest: Option<Rest> = serde_json::from_str(rest).ok();
        rest.map(|r| r.key.iter().map(|k| k.to_ascii_lowercase()).collect()).unwrap_or_default()
    }

    /// The stored number and shape of a table.
    pub(super) fn read(conn: &Connection, name: &str) -> Result<Option<(i64, Self)>, Error> {
        let found: Option<(i64, String, Option<String>)> = conn
            .query_row("SELECT id, columns, shape FROM main._sync_table WHERE name = ?", [name], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })
            .optional()?;
        let damaged = |_| Error::Damaged("columns".into());
        let Some((id, columns, rest)) = found else { return Ok(None) };
        let columns = serde_json::from_str(&columns).map_err(damaged)?;
        let rest = rest.map(|r| serde_json::from_str(&r)).transpose().map_err(damaged)?;
        Ok(Some((id, Self { columns, rest })))
    }

    /// The stored name and shape of the table with this number.
    pub(super) fn numbered(conn: &Connection, id: i64) -> Result<Option<(String, Self)>, Error> {
        let name: Option<String> =
            conn.query_row("SELECT name FROM main._sync_table WHERE id = ?", [id], |r| r.get(0)).optional()?;
        let Some(name) = name else { return Ok(None) };
        Ok(Self::read(conn, &name)?.map(|(_, shape)| (name, shape)))
    }

    /// Remembers a table as it is; returns its number.
    pub(super) fn add(conn: &Connection, table: &Table) -> Result<(i64, Self), Error> {
        conn.execute("INSERT INTO main._sync_table (name, columns) VALUES (?, '[]')", [&table.name])?;
        let id = conn.last_insert_rowid();
        let shape = Self::of(table);
        shape.write(conn, id)?;
        Ok((id, shape))
    }

    /// Remembers a table as it is now, where that is another than this. Of a file that is being detached the types are
    /// remembered as they were: it does not go on with others.
    pub(super) fn keep(&self, conn: &Connection, id: i64, table: &Table, stance: Stance) -> Result<(), Error> {
        let mut now = Self::of(table);
        if let Some(rest) = now.rest.as_mut().filter(|_| stance == Stance::Leaving) {
            for (column, declared) in table.columns.iter().zip(&mut rest.types) {
                if let Some(was) = self.declared(&column.sql_name).filter(|was| Kind::of(was) != Kind::of(declared)) {
                    was.clone_into(declared);
                }
            }
        }
        if now == *self { Ok(()) } else { now.write(conn, id) }
    }

    fn write(&self, conn: &Connection, id: i64) -> Result<(), Error> {
        let text = |e: serde_json::Error| Error::Damaged(e.to_string());
        let columns = serde_json::to_string(&self.columns).map_err(text)?;
        let rest = self.rest.as_ref().map(serde_json::to_string).transpose().map_err(text)?;
        conn.execute("UPDATE main._sync_table SET columns = ?, shape = ? WHERE id = ?", (columns, rest, id))?;
        Ok(())
    }

    /// The table as far as it is remembered, to read rows of it that are kept.
    pub(super) fn table(&self, name: &str) -> Table {
        let key: Vec<usize> = self.rest.iter().flat_map(|r| &r.key).filter_map(|k| self.position(k)).collect();
        let column = |(i, c): (usize, &String)| {
            let declared = self.declared(c).unwrap_or_default().to_owned();
            let blob = is_blob(&declared);
            Column {
                name: c.to_ascii_lowercase(),
                sql_name: c.clone(),
                affinity: Affinity::of(&declared),
                blob,
                uuid: blob && key.contains(&i),
                not_null: false,
                declared,
            }
        };
        Table {
            name: name.to_owned(),
            sql_name: name.to_owned(),
            columns: self.columns.iter().enumerate().map(column).collect(),
            key,
            foreign_keys: Vec::new(),
            uniques: Vec::new(),
            primary_key: true,
            without_rowid: false,
            strict: false,
            sql: String::new(),
        }
    }

    fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.eq_ignore_ascii_case(column))
    }

    fn declared(&self, column: &str) -> Option<&str> {
        self.rest.as_ref()?.types.get(self.position(column)?).map(String::as_str)
    }

    /// Whether every column is where it was, and none is new.
    pub(super) fn has_columns_of(&self, table: &Table) -> bool {
        self.columns.iter().eq(table.columns.iter().map(|c| &c.sql_name))
    }

    /// Whether rows have another key than they had, by name or by type.
    pub(super) fn has_another_key(&self, table: &Table) -> bool {
        let Some(rest) = &self.rest else { return false };
        let same = |(was, i): (&String, &usize)| {
            let c = &table.columns[*i];
            was.eq_ignore_ascii_case(&c.sql_name)
                && self.declared(was).is_some_and(|d| Kind::of(d) == Kind::of(&c.declared))
        };
        rest.key.len() != table.key.len() || !rest.key.iter().zip(&table.key).all(same)
    }

    /// Refuses what others would lose by. Nobody else has the rows of a table that is held back as they are here: it may
    /// become what the server's is.
    pub(super) fn admit(&self, conn: &Connection, id: i64, table: &Table, stance: Stance) -> Result<(), Error> {
        if !is_held_back(conn, &table.name)? {
            return self.check(table, stance);
        }
        self.check_columns(table, stance)?;
        if is_known(conn, id)? {
            self.check_key(table, stance)?;
        }
        if self.retyped(table).is_some() {
            conn.execute("UPDATE main._sync_dirty SET base = NULL WHERE t = ?", [id])?;
        }
        Ok(())
    }

    /// What became of the table that is refused.
    fn check(&self, table: &Table, stance: Stance) -> Result<(), Error> {
        self.check_columns(table, stance)?;
        self.check_types(table, stance)?;
        self.check_key(table, stance)
    }

    /// A column that is gone.
    fn check_columns(&self, table: &Table, stance: Stance) -> Result<(), Error> {
        if stance != Stance::Synced {
            return Ok(());
        }
        let gone = |was: &String| !table.columns.iter().any(|c| c.sql_name.eq_ignore_ascii_case(was));
        match self.columns.iter().position(gone) {
            None => Ok(()),
            Some(at) => Err(Error::RemovedColumn {
                table: table.sql_name.clone(),
                column: self.columns[at].clone(),
                renamed: self.stands_for(at, table),
            }),
        }
    }

    /// A column that has another type.
    fn check_types(&self, table: &Table, stance: Stance) -> Result<(), Error> {
        if matches!(stance, Stance::Fresh | Stance::Leaving) {
            return Ok(());
        }
        let Some((column, declared)) = self.retyped(table) else { return Ok(()) };
        let named = |declared: &str| if declared.is_empty() { "untyped".into() } else { declared.to_owned() };
        Err(Error::RetypedColumn {
            table: table.sql_name.clone(),
            column: column.sql_name.clone(),
            was: named(declared),
            now: named(&column.declared),
        })
    }

    /// The first column that has another type than it had, with that.
    fn retyped<'t>(&self, table: &'t Table) -> Option<(&'t Column, &str)> {
        table.columns.iter().find_map(|c| {
            let was = self.declared(&c.sql_name)?;
            (Kind::of(was) != Kind::of(&c.declared)).then_some((c, was))
        })
    }

    /// Another key.
    fn check_key(&self, table: &Table, stance: Stance) -> Result<(), Error> {
        if stance == Stance::Fresh || !self.has_another_key(table) {
            return Ok(());
        }
        let list = |names: &mut dyn Iterator<Item = &String>| names.map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(Error::ChangedKey {
            table: table.sql_name.clone(),
            was: list(&mut self.rest.iter().flat_map(|r| &r.key)),
            now: list(&mut table.key.iter().map(|i| &table.columns[*i].sql_name)),
        })
    }

    /// The new column that stands where one is missing: the app renamed it, most likely.
    fn stands_for(&self, at: usize, table: &Table) -> Option<String> {
        let new = table.columns.get(at).filter(|_| self.columns.len() == table.columns.len())?;
        if self.position(&new.sql_name).is_none() { Some(new.sql_name.clone()) } else { None }
    }

    /// Puts what is kept of rows under these columns into the order of the table's of today. What is kept of a column
    /// that is gone goes; what a row does not say of a new one, it does not say.
    pub(super) fn reorder(&self, conn: &Connection, id: i64, table: &Table) -> Result<(), Error> {
        let from: Vec<Option<usize>> = table.columns.iter().map(|c| self.position(&c.sql_name)).collect();
        // Columns at the end are read as absent where a row ends before them.
        if self.columns.len() <= from.len() && (0..self.columns.len()).all(|i| from[i] == Some(i)) {
            return Ok(());
        }
        let moved = |stored: Vec<u8>| -> Result<Vec<u8>, Error> {
            let was = record::decode(&stored)?;
            let now: Record = from.iter().map(|i| i.and_then(|i| was.get(i).cloned().flatten())).collect();
            Ok(record::encode_partial(&now))
        };
        for (of, column) in
            [("_sync_dirty", "base"), ("_sync_out", "base"), ("_sync_out", "row"), ("_sync_earlier", "base")]
        {
            let mut s =
                conn.prepare(&format!("SELECT k, {column} FROM main.{of} WHERE t = ? AND {column} IS NOT NULL"))?;
            let rows: Vec<(Vec<u8>, Vec<u8>)> =
                s.query_map([id], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
            let mut put = conn.prepare(&format!("UPDATE main.{of} SET {column} = ? WHERE t = ? AND k = ?"))?;
            for (k, stored) in rows {
                put.execute((moved(stored)?, id, k))?;
            }
        }
        Ok(())
    }
}

/// Whether the table was held back when the server was last asked.
fn is_held_back(conn: &Connection, table: &str) -> Result<bool, Error> {
    Ok(held_back::read(Meta::HeldBack.get(conn)?)?.iter().any(|h| h.table == table))
}

/// Whether the server has, or may get, any row of a table.
fn is_known(conn: &Connection, id: i64) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main._sync_row WHERE t = ?1 UNION ALL SELECT 1 FROM main._sync_out WHERE t = ?1 LIMIT 1";
    Ok(conn.prepare_cached(sql)?.exists([id])?)
}

#[cfg(test)]
mod tests {
    use sync_core::sqlite::introspect::introspect;

    use super::*;

    fn table(ddl: &str) -> Table {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(ddl).unwrap();
        introspect(&conn, None).unwrap().schema.tables()[0].clone()
    }

    #[test]
    fn what_is_refused() {
        use Stance::{Fresh, Leaving, Synced, Woken};
        let was = Shape::of(&table("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, b BLOB)"));
        let every = [Fresh, Synced, Woken, Leaving];
        let refused = |ddl: &str| {
            let now = table(ddl);
            every.into_iter().filter(|s| was.check(&now, *s).is_err()).collect::<Vec<_>>()
        };
        for (ddl, expected) in [
            ("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, b BLOB, more TEXT)", &[][..]),
            ("CREATE TABLE t (B BLOB, more TEXT, ID VARCHAR(36) PRIMARY KEY, n DECIMAL(9))", &[]),
            ("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)", &[Synced]),
            ("CREATE TABLE t (id TEXT PRIMARY KEY, m INTEGER, b BLOB)", &[Synced]),
            ("CREATE TABLE t (id TEXT PRIMARY KEY, n TEXT, b BLOB)", &[Synced, Woken]),
            ("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, b)", &[Synced, Woken]),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, b BLOB)", &[Synced, Woken, Leaving]),
            ("CREATE TABLE t (id TEXT, n INTEGER, b BLOB, PRIMARY KEY (id, n))", &[Synced, Woken, Leaving]),
            ("CREATE TABLE t (id TEXT, n INTEGER PRIMARY KEY, b BLOB)", &[Synced, Woken, Leaving]),
        ] {
            assert_eq!(refused(ddl), expected, "{ddl}");
        }
        let old = Shape { rest: None, ..was };
        old.check(&table("CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT, b BLOB)"), Synced).unwrap();
    }
}
