//! Reading and writing one row, by statements made once per table.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};

use super::{NotUtf8, placeholders, quote, quote_all, sql, value};
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
    /// Writes a new row in place of those that are in its way.
    pub replace: String,
    /// What stands between UPDATE and the table: see [`sql::or_abort`].
    pub or_abort: &'static str,
    /// Removes a row by its key.
    pub delete: String,
    /// Where the key's columns stand.
    key_positions: Vec<usize>,
    /// Writes every column but the key's; of a table that is all key, these.
    update: String,
    /// Writes a row in which nothing changes, for those who watch it.
    touch: String,
    /// UNIQUE columns that the table itself refers to.
    referred: Vec<usize>,
    table: String,
    names: Vec<String>,
}

impl RowSql {
    /// The statements of a table of the main database. Conflicts with what is in it are refused; what its triggers say of
    /// those in other tables counts.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        Self::saying(table, sql::or_abort(&table.sql))
    }

    /// The same where conflicts of its triggers are refused too, whatever other tables declare for them.
    #[must_use]
    pub fn refusing(table: &Table) -> Self {
        Self::saying(table, sql::OR_ABORT)
    }

    fn saying(table: &Table, or_abort: &'static str) -> Self {
        let name = format!("main.{}", quote(&table.sql_name));
        let names: Vec<String> = table.columns.iter().map(|c| quote(&c.sql_name)).collect();
        let columns = names.join(", ");
        let values = format!("INTO {name} ({columns}) VALUES ({})", placeholders(names.len()));
        let key = quote_all(table.key.iter().map(|i| table.columns[*i].sql_name.as_str()));
        let by_key = table.key.iter().map(|i| format!("{} = ?", names[*i])).collect::<Vec<_>>().join(" AND ");
        let all_key = names.len() == table.key.len();
        let others = || (0..names.len()).filter(|i| all_key || !table.key.contains(i));
        let set = others().map(|i| format!("{} = ?", names[i])).collect::<Vec<_>>().join(", ");
        let tied = |i: &usize| {
            table.foreign_keys.iter().any(|f| f.columns.contains(i))
                || table.uniques.iter().any(|u| u.columns.contains(i))
        };
        let idle = others().find(|i| !tied(i)).or_else(|| others().next());
        let touch = idle.map(|i| format!("{0} = {0}", names[i])).unwrap_or_default();
        let own = table.foreign_keys.iter().filter(|f| f.parent == table.name).flat_map(|f| &f.parent_columns);
        let referred = own.filter_map(|c| table.column(c)).filter(|i| !table.key.contains(i)).collect();
        Self {
            select: format!("SELECT {columns} FROM {name} WHERE {by_key}"),
            insert: format!("INSERT{or_abort} {values}"),
            replace: format!("INSERT OR REPLACE {values}"),
            or_abort,
            update: format!("UPDATE{or_abort} {name} SET {set} WHERE {by_key}"),
            touch: format!("UPDATE{or_abort} {name} SET {touch} WHERE {by_key}"),
            referred,
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

    /// Sets every column of the row with this key, and the key's own only where it is to be another. Returns the number
    /// of rows written.
    ///
    /// # Errors
    /// SQLite's, constraints included.
    pub fn update(&self, conn: &Connection, key: &[Value], row: &[Value]) -> rusqlite::Result<usize> {
        self.update_whole(conn, key, &row.iter().collect::<Vec<_>>())
    }

    fn update_whole(&self, conn: &Connection, key: &[Value], row: &[&Value]) -> rusqlite::Result<usize> {
        let columns = row.iter().enumerate().map(|(i, v)| (i, *v));
        if self.key_positions.iter().zip(key).any(|(i, k)| row[*i] != k) {
            return self.set(conn, key, &columns.collect::<Vec<_>>());
        }
        let all_key = self.names.len() == self.key_positions.len();
        let others = columns.filter(|(i, _)| all_key || !self.key_positions.contains(i)).map(|(_, v)| v);
        conn.prepare_cached(&self.update)?.execute(params_from_iter(others.chain(key)))
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
            "INSERT{} INTO {} ({}) VALUES ({})",
            self.or_abort,
            self.table,
            names.join(", "),
            placeholders(names.len())
        );
        conn.prepare_cached(&sql)?.execute(params_from_iter(row.iter().flatten()))
    }

    /// Sets the present columns of the row with this key, and the key's own only where they are to be others.
    ///
    /// SQLite (3.54) counts a reference as broken where an update repeats a column that another row of the table refers
    /// to and leaves out the row's own reference: what does not change is not set.
    ///
    /// # Errors
    /// SQLite's, constraints included.
    pub fn update_partial(&self, conn: &Connection, key: &[Value], row: &Record) -> rusqlite::Result<usize> {
        if row.len() == self.names.len() && row.iter().all(Option::is_some) {
            return self.update_whole(conn, key, &row.iter().flatten().collect::<Vec<_>>());
        }
        let same_key = |i: &usize, v: &Value| {
            self.key_positions.iter().position(|p| p == i).is_some_and(|at| key.get(at) == Some(v))
        };
        let mut set: Vec<(usize, &Value)> = row
            .iter()
            .enumerate()
            .filter_map(|(i, v)| Some((i, v.as_ref()?)))
            .filter(|(i, v)| !same_key(i, v))
            .collect();
        if set.iter().any(|(i, _)| self.referred.contains(i))
            && let Some(Ok(live)) = self.read(conn, key)?
        {
            set.retain(|(i, v)| !self.referred.contains(i) || live[*i] != **v);
        }
        if set.is_empty() {
            return conn.prepare_cached(&self.touch)?.execute(params_from_iter(key));
        }
        self.set(conn, key, &set)
    }

    fn set(&self, conn: &Connection, key: &[Value], set: &[(usize, &Value)]) -> rusqlite::Result<usize> {
        let columns: Vec<String> = set.iter().map(|(i, _)| format!("{} = ?", self.names[*i])).collect();
        let sql = format!("UPDATE{} {} SET {} WHERE {}", self.or_abort, self.table, columns.join(", "), self.by_key);
        conn.prepare_cached(&sql)?.execute(params_from_iter(set.iter().map(|(_, v)| *v).chain(key)))
    }
}

/// Reads `n` columns of a result row, from `first` on.
///
/// # Errors
/// When text is not valid UTF-8.
pub fn read_values(row: &Row<'_>, first: usize, n: usize) -> Result<Vec<Value>, NotUtf8> {
    (first..first + n).map(|i| value(row.get_ref_unwrap(i), i - first)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::introspect::introspect;

    /// A table that refers to itself by its key or by a UNIQUE column, and one that refers to it.
    const TREE: &str = "
        CREATE TABLE tree (id TEXT PRIMARY KEY NOT NULL, code TEXT UNIQUE, name TEXT, up TEXT REFERENCES tree(id),
          up_code TEXT REFERENCES tree(code));
        CREATE TABLE leaf (id TEXT PRIMARY KEY NOT NULL, up TEXT REFERENCES tree(id), up_code TEXT REFERENCES tree(code));
        CREATE TABLE pair (a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY (a, b));";

    fn file() -> (Connection, Table) {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(TREE).unwrap();
        let table = introspect(&conn, None).unwrap().schema.table("tree").unwrap().clone();
        (conn, table)
    }

    /// Columns that an update repeats, of a row that refers to itself or to none, and to which others refer or none.
    #[test]
    fn what_an_update_repeats_breaks_no_reference() {
        for columns in 0..32u32 {
            for (own, child, other) in [
                (false, false, false),
                (true, false, false),
                (true, true, false),
                (false, true, true),
                (true, true, true),
            ] {
                let (conn, table) = file();
                let sql = RowSql::new(&table);
                conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
                let up = |v: &str| own.then(|| v.to_owned()).map_or(Value::Null, Value::Text);
                let row: Vec<Value> = vec!["k".into(), "c".into(), "n".into(), up("k"), up("c")];
                sql.insert(&conn, &row).unwrap();
                if child {
                    conn.execute_batch("INSERT INTO tree VALUES ('child', 'x', 'n', 'k', 'c')").unwrap();
                }
                if other {
                    conn.execute_batch("INSERT INTO leaf VALUES ('leaf', 'k', 'c')").unwrap();
                }
                for deferred in [false, true] {
                    conn.execute_batch("BEGIN").unwrap();
                    conn.pragma_update(None, "defer_foreign_keys", deferred).unwrap();
                    let part: Record =
                        row.iter().enumerate().map(|(i, v)| (columns >> i & 1 == 1).then(|| v.clone())).collect();
                    let written = sql.update_partial(&conn, &row[..1], &part);
                    let committed = conn.execute_batch("COMMIT");
                    assert!(
                        written.is_ok() && committed.is_ok(),
                        "{columns:05b} {own} {child} {other} {deferred}: {written:?} {committed:?}"
                    );
                    assert_eq!(written.unwrap(), 1, "{columns:05b}");
                }
                assert_eq!(sql.read(&conn, &row[..1]).unwrap(), Some(Ok(row)));
            }
        }
    }

    /// Whoever watches the key's columns hears of a key that changes only.
    #[test]
    fn a_key_is_set_only_where_it_changes() {
        let (conn, table) = file();
        let sql = RowSql::new(&table);
        conn.execute_batch(
            "CREATE TABLE heard (what TEXT);
             CREATE TRIGGER keys AFTER UPDATE OF id ON tree BEGIN INSERT INTO heard VALUES ('key'); END;
             CREATE TRIGGER any AFTER UPDATE ON tree BEGIN INSERT INTO heard VALUES ('row'); END;",
        )
        .unwrap();
        let heard = || -> String {
            let all = conn.query_row("SELECT coalesce(group_concat(what), '') FROM heard", [], |r| r.get(0)).unwrap();
            conn.execute_batch("DELETE FROM heard").unwrap();
            all
        };
        let row = |id: &str| -> Vec<Value> { vec![id.into(), "c".into(), "n".into(), Value::Null, Value::Null] };
        let part = |columns: [usize; 2]| -> Record {
            row("k").into_iter().enumerate().map(|(i, v)| columns.contains(&i).then_some(v)).collect()
        };
        sql.insert(&conn, &row("k")).unwrap();
        let key = [Value::from("k")];
        for written in [
            sql.update(&conn, &key, &row("k")),
            sql.update_partial(&conn, &key, &row("k").into_iter().map(Some).collect()),
            sql.update_partial(&conn, &key, &part([0, 2])),
            sql.update_partial(&conn, &key, &part([0, 0])),
            sql.update_partial(&conn, &key, &vec![None; 5]),
        ] {
            assert_eq!(written.unwrap(), 1);
        }
        assert_eq!(heard(), "row,row,row,row,row");
        assert_eq!(sql.update(&conn, &key, &row("other")).unwrap(), 1);
        assert!(heard().contains("key"));
        assert_eq!(sql.update(&conn, &key, &row("k")).unwrap(), 0, "it is another one now");
    }

    /// What a trigger says of a conflict counts, and a table that says something itself refuses all the same.
    #[test]
    fn what_triggers_say_of_conflicts_counts() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE plain (id TEXT PRIMARY KEY NOT NULL, tag TEXT, u TEXT UNIQUE);
             CREATE TABLE own (id TEXT PRIMARY KEY NOT NULL, tag TEXT, u TEXT UNIQUE ON CONFLICT REPLACE);
             CREATE TABLE tag (tag UNIQUE); CREATE TABLE last (n UNIQUE, tag); CREATE TABLE lenient (tag UNIQUE ON CONFLICT IGNORE);
             CREATE TRIGGER i AFTER INSERT ON plain BEGIN INSERT OR IGNORE INTO tag VALUES (NEW.tag);
               INSERT OR REPLACE INTO last VALUES (1, NEW.tag); INSERT INTO lenient VALUES (NEW.tag); END;
             CREATE TRIGGER u AFTER UPDATE ON plain BEGIN INSERT OR IGNORE INTO tag VALUES (NEW.tag);
               UPDATE OR IGNORE tag SET tag = 'b' WHERE tag = 'a'; INSERT INTO lenient VALUES (NEW.tag); END;",
        )
        .unwrap();
        let schema = introspect(&conn, Some(&["plain".into(), "own".into()])).unwrap().schema;
        let row = |id: &str, tag: &str, u: &str| -> Vec<Value> { vec![id.into(), tag.into(), u.into()] };
        let part = |tag: &str| -> Record { vec![Some("3".into()), Some(tag.into()), None] };
        let sql = RowSql::new(schema.table("plain").unwrap());
        sql.insert(&conn, &row("1", "a", "1")).unwrap();
        sql.insert(&conn, &row("2", "a", "2")).unwrap();
        sql.insert_partial(&conn, &part("b")).unwrap();
        sql.update(&conn, &["2".into()], &row("2", "b", "2")).unwrap();
        sql.update_partial(&conn, &["3".into()], &part("a")).unwrap();
        sql.update_partial(&conn, &["3".into()], &vec![None; 3]).unwrap();
        let count = |sql: &str| conn.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM tag") + count("SELECT count(*) FROM lenient"), 4);
        sql.insert(&conn, &row("4", "a", "1")).unwrap_err();
        let sql = RowSql::new(schema.table("own").unwrap());
        sql.insert(&conn, &row("1", "a", "1")).unwrap();
        sql.insert(&conn, &row("2", "a", "1")).unwrap_err();
        assert_eq!(count("SELECT count(*) FROM own WHERE id = '1'"), 1);
    }

    #[test]
    fn a_table_that_is_all_key_is_written_too() {
        let (conn, _) = file();
        let table = introspect(&conn, None).unwrap().schema.table("pair").unwrap().clone();
        let sql = RowSql::new(&table);
        let row: Vec<Value> = vec!["a".into(), "b".into()];
        sql.insert(&conn, &row).unwrap();
        let whole: Record = row.iter().cloned().map(Some).collect();
        for part in [whole, vec![None, None], vec![Some("a".into()), None]] {
            assert_eq!(sql.update_partial(&conn, &row, &part).unwrap(), 1);
        }
    }
}
