//! Tables that are not synced and refer to synced ones, directly or through one another. On our connections SQLite
//! does not look after foreign keys; what happens to rows that these tables refer to is noted by TEMP triggers, and
//! what the schema declares for it is done at the end of a transaction, when it is known which rows are gone for good.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::declared::{self, Declared};
use super::introspect::object_sql;
use super::sql::{OR_ABORT, or_abort};
use super::triggers::Trigger;
use super::{quote, quote_all};
use crate::schema::Schema;

/// A foreign key of a table that is not synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The table that has it, as in the schema.
    pub child: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Whether one of them is NOT NULL.
    pub not_null: bool,
    /// Whether one of them is generated: nobody can write it, so that its rows follow nothing by themselves.
    pub generated: bool,
    /// What each of them is where nothing is said, as SQL.
    pub defaults: Vec<String>,
    /// `CASCADE`, `SET NULL`, `SET DEFAULT`, `RESTRICT` or `NO ACTION`.
    pub on_delete: String,
    /// As `on_delete`.
    pub on_update: String,
    /// Whether triggers of the table that it refers to fill its own, so that its rows go with a row at once, as SQLite has
    /// it: they are made anew where the row is put in again.
    pub filled: bool,
    /// What stands between UPDATE and the table: see [`super::sql::or_abort`].
    pub or_abort: &'static str,
}

/// Columns of a table that rows of unsynced tables refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The table, as in the schema.
    pub table: String,
    /// Its position in the schema of synced tables; none where it is not synced itself.
    pub position: Option<usize>,
    /// The columns of its key, in key order, where it is synced.
    pub key: Vec<String>,
    /// The columns that are referred to.
    pub columns: Vec<String>,
    /// Who does.
    pub references: Vec<Reference>,
}

/// All of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locals {
    /// Each once.
    pub targets: Vec<Target>,
}

impl Locals {
    /// Looks at the foreign keys of every table that is not synced.
    ///
    /// # Errors
    /// SQLite's.
    pub fn read(conn: &Connection, schema: &Schema) -> rusqlite::Result<Self> {
        let mut left = unsynced(conn, schema)?;
        let mut out = Self::default();
        let mut reached: BTreeSet<String> = schema.tables().iter().map(|t| t.name.clone()).collect();
        let mut local = BTreeSet::new();
        // A table that refers to one that is reached is reached by what happens to that.
        while let Some(at) = left.iter().position(|(_, keys)| keys.iter().any(|k| reached.contains(&k.parent))) {
            let (child, keys) = left.remove(at);
            reached.insert(child.to_ascii_lowercase());
            local.insert((child, keys));
        }
        for (child, keys) in local {
            for key in keys.into_iter().filter(|k| reached.contains(&k.parent)) {
                if let Some((table, columns)) = parent_columns(conn, &key)? {
                    out.add(schema, table, columns, reference(conn, &child, &key)?);
                }
            }
        }
        Ok(out)
    }

    fn add(&mut self, schema: &Schema, table: String, columns: Vec<String>, mut reference: Reference) {
        // One order for all that refer to the same columns.
        let mut order: Vec<usize> = (0..columns.len()).collect();
        order.sort_by(|a, b| columns[*a].cmp(&columns[*b]));
        let sorted = |of: &[String]| order.iter().map(|i| of[*i].clone()).collect::<Vec<_>>();
        let columns = sorted(&columns);
        (reference.columns, reference.defaults) = (sorted(&reference.columns), sorted(&reference.defaults));
        if let Some(target) = self.targets.iter_mut().find(|p| p.table == table && p.columns == columns) {
            target.references.push(reference);
            return;
        }
        let position = schema.position(&table.to_ascii_lowercase());
        let key = position.map(|p| &schema.tables()[p]);
        let key = key.map(|t| t.key.iter().map(|i| t.columns[*i].sql_name.clone()).collect()).unwrap_or_default();
        self.targets.push(Target { table, position, key, columns, references: vec![reference] });
    }

    /// The unsynced tables that are written where rows of synced ones go: lowercase names.
    #[must_use]
    pub fn tables(&self) -> BTreeSet<String> {
        self.targets.iter().flat_map(|p| &p.references).map(|r| r.child.to_ascii_lowercase()).collect()
    }

    /// Says which of them are filled by these triggers.
    pub fn mark_filled(&mut self, copies: &[Trigger]) {
        for at in 0..self.targets.len() {
            let target = &self.targets[at];
            let mut reached = BTreeSet::from([target.table.to_ascii_lowercase()]);
            loop {
                let before = reached.len();
                for t in copies.iter().filter(|t| !t.fills.is_empty()) {
                    if reached.contains(&t.table.to_ascii_lowercase()) {
                        reached.extend(t.fills.iter().cloned());
                    }
                }
                if reached.len() == before {
                    break;
                }
            }
            reached.remove(&target.table.to_ascii_lowercase());
            for r in &mut self.targets[at].references {
                r.filled = r.on_delete == "CASCADE" && reached.contains(&r.child.to_ascii_lowercase());
            }
        }
    }

    /// Our writes to their rows say that every conflict is refused.
    pub fn refuse(&mut self) {
        self.targets.iter_mut().flat_map(|p| &mut p.references).for_each(|r| r.or_abort = OR_ABORT);
    }

    /// The targets of a synced table.
    pub fn of(&self, position: usize) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |p| p.position == Some(position))
    }

    /// Makes the TEMP tables and triggers that note what happens, in place of those that are there.
    ///
    /// # Errors
    /// SQLite's.
    pub fn install(&self, conn: &Connection) -> rusqlite::Result<()> {
        let mut s =
            conn.prepare("SELECT name, type FROM temp.sqlite_schema WHERE name LIKE '\\_sync\\_left\\_%' ESCAPE '\\'")?;
        let old: Vec<(String, String)> = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        drop(s);
        for kind in ["trigger", "table"] {
            for (name, _) in old.iter().filter(|(_, k)| k == kind) {
                conn.execute_batch(&format!("DROP {kind} temp.{}", quote(name)))?;
            }
        }
        for (n, target) in self.targets.iter().enumerate() {
            conn.execute_batch(&target.statements(n))?;
        }
        Ok(())
    }
}

/// The name of the TEMP table of the target with this number.
#[must_use]
pub fn left(target: usize) -> String {
    format!("_sync_left_{target}")
}

impl Target {
    /// The columns of its TEMP table that have the key, the values as they were, and as they are.
    #[must_use]
    pub fn noted(&self) -> [Vec<String>; 3] {
        let names = |of: &str, n: usize| (0..n).map(|i| format!("{of}{i}")).collect();
        let n = self.columns.len();
        [names("k", self.key.len()), names("o", n), names("n", n)]
    }

    /// Inside a trigger no schema can be named.
    fn cascade(&self, r: &Reference) -> String {
        let same = r.columns.iter().zip(&self.columns).map(|(c, p)| format!("{} = OLD.{}", quote(c), quote(p)));
        format!("DELETE FROM {} WHERE {}; ", quote(&r.child), same.collect::<Vec<_>>().join(" AND "))
    }

    fn statements(&self, n: usize) -> String {
        let name = left(n);
        let [key, old, new] = self.noted();
        let of =
            |row: &str, columns: &[String]| columns.iter().map(|c| format!("{row}.{}", quote(c))).collect::<Vec<_>>();
        let gone = vec!["NULL".to_owned(); self.columns.len()];
        let values =
            |gone: &[String]| [of("OLD", &self.key), of("OLD", &self.columns), gone.to_vec()].concat().join(", ");
        let changed: Vec<String> =
            self.columns.iter().map(|c| format!("OLD.{0} IS NOT NEW.{0} COLLATE BINARY", quote(c))).collect();
        let columns = [key, old, new].concat().join(", ");
        let (table, of_columns) = (quote(&self.table), quote_all(self.columns.iter().map(String::as_str)));
        let at_once: String = self.references.iter().filter(|r| r.filled).map(|r| self.cascade(r)).collect();
        format!(
            "CREATE TEMP TABLE {name} ({columns});
             CREATE TEMP TRIGGER {name}_delete AFTER DELETE ON main.{table} BEGIN {at_once}
               INSERT INTO {name} VALUES ({}); END;
             CREATE TEMP TRIGGER {name}_update AFTER UPDATE OF {of_columns} ON main.{table} WHEN {} BEGIN
               INSERT INTO {name} VALUES ({}); END;",
            values(&gone),
            changed.join(" OR "),
            values(&of("NEW", &self.columns)),
        )
    }
}

/// Ordinary tables that are not synced and have foreign keys.
fn unsynced(conn: &Connection, schema: &Schema) -> rusqlite::Result<Vec<(String, Vec<Declared>)>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name";
    let mut s = conn.prepare(sql)?;
    let names: Vec<String> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
    let mut out = Vec::new();
    for name in names {
        let lower = name.to_ascii_lowercase();
        if schema.position(&lower).is_none() && !lower.starts_with("_sync_") && !lower.starts_with("sqlite_") {
            let keys = declared::foreign_keys(conn, &name)?;
            if !keys.is_empty() {
                out.push((name, keys));
            }
        }
    }
    Ok(out)
}

/// The parent of a foreign key and the columns that it refers to, as in the schema; none where they are not there.
fn parent_columns(conn: &Connection, key: &Declared) -> rusqlite::Result<Option<(String, Vec<String>)>> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE";
    let mut s = conn.prepare_cached(sql)?;
    let Some(table) = s.query_map([&key.parent], |r| r.get::<_, String>(0))?.next().transpose()? else {
        return Ok(None);
    };
    let mut s = conn.prepare_cached("SELECT name, pk FROM pragma_table_info(?) ORDER BY pk")?;
    let all: Vec<(String, i64)> = s.query_map([&table], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
    let columns: Option<Vec<String>> = if key.parent_columns.is_empty() {
        Some(all.iter().filter(|(_, pk)| *pk > 0).map(|(c, _)| c.clone()).collect())
    } else {
        let find = |c: &String| all.iter().find(|(name, _)| name.eq_ignore_ascii_case(c)).map(|(name, _)| name.clone());
        key.parent_columns.iter().map(find).collect()
    };
    Ok(columns.filter(|c| c.len() == key.columns.len()).map(|columns| (table, columns)))
}

fn reference(conn: &Connection, child: &str, key: &Declared) -> rusqlite::Result<Reference> {
    let sql = "SELECT \"notnull\", dflt_value, hidden FROM pragma_table_xinfo(?) WHERE name = ? COLLATE NOCASE";
    let mut s = conn.prepare_cached(sql)?;
    let (mut not_null, mut generated, mut defaults) = (false, false, Vec::new());
    for column in &key.columns {
        let mut rows = s.query([child, column.as_str()])?;
        let Some(r) = rows.next()? else { continue };
        not_null |= r.get::<_, bool>(0)?;
        generated |= [2, 3].contains(&r.get::<_, i64>(2)?);
        defaults.push(r.get::<_, Option<String>>(1)?.unwrap_or_else(|| "NULL".into()));
    }
    defaults.resize(key.columns.len(), "NULL".into());
    // SQLite cannot do what is declared for such a column either: the statement that would set it fails.
    let possible =
        |action: &str, writes: bool| if generated && writes { "NO ACTION".into() } else { action.to_owned() };
    Ok(Reference {
        child: child.to_owned(),
        columns: key.columns.clone(),
        not_null,
        generated,
        defaults,
        on_delete: possible(&key.on_delete, key.on_delete != "CASCADE" && key.on_delete != "RESTRICT"),
        on_update: possible(&key.on_update, key.on_update != "RESTRICT"),
        filled: false,
        or_abort: object_sql(conn, "table", child)?.map_or("", |sql| or_abort(&sql)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::introspect::introspect;

    #[test]
    fn tables_are_found_however_far_they_are() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, mail TEXT UNIQUE, a INTEGER, b INTEGER, UNIQUE (a, b));
             CREATE TABLE notes (id INTEGER PRIMARY KEY, u INTEGER REFERENCES users(id));
             CREATE TABLE s1 (u INTEGER NOT NULL DEFAULT 7 REFERENCES users ON DELETE CASCADE ON UPDATE SET NULL, id UNIQUE);
             CREATE TABLE s2 (s REFERENCES s1(id), m REFERENCES \"USERS\"(\"MAIL\") ON DELETE SET DEFAULT);
             CREATE TABLE s3 (y INTEGER, x INTEGER, FOREIGN KEY (y, x) REFERENCES users(b, a));
             CREATE TABLE far (x REFERENCES nowhere(x)); CREATE TABLE loose (x REFERENCES far(x));
             CREATE TABLE wrong (x REFERENCES users(missing));",
        )
        .unwrap();
        let schema = introspect(&conn, Some(&["users".into(), "notes".into()])).unwrap().schema;
        let locals = Locals::read(&conn, &schema).unwrap();
        let text: Vec<String> = locals
            .targets
            .iter()
            .map(|p| {
                let who = |r: &Reference| {
                    format!(
                        "{}({}) {} {} {:?} {}",
                        r.child,
                        r.columns.join(","),
                        r.on_delete,
                        r.on_update,
                        r.defaults,
                        r.not_null
                    )
                };
                format!(
                    "{}({}): {}",
                    p.table,
                    p.columns.join(","),
                    p.references.iter().map(who).collect::<Vec<_>>().join("; ")
                )
            })
            .collect();
        assert_eq!(
            text,
            [
                "users(id): s1(u) CASCADE SET NULL [\"7\"] true",
                "users(mail): s2(m) SET DEFAULT NO ACTION [\"NULL\"] false",
                "s1(id): s2(s) NO ACTION NO ACTION [\"NULL\"] false",
                "users(a,b): s3(x,y) NO ACTION NO ACTION [\"NULL\", \"NULL\"] false",
            ]
        );
        assert_eq!(locals.tables().into_iter().collect::<Vec<_>>(), ["s1", "s2", "s3"]);
        assert_eq!(locals.of(schema.position("users").unwrap()).count(), 3);
    }

    #[test]
    fn what_happens_to_rows_is_noted() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, mail TEXT UNIQUE);
             CREATE TABLE s (u REFERENCES users(mail)); INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        )
        .unwrap();
        let schema = introspect(&conn, Some(&["users".into()])).unwrap().schema;
        let locals = Locals::read(&conn, &schema).unwrap();
        locals.install(&conn).unwrap();
        locals.install(&conn).unwrap();
        conn.execute_batch(
            "UPDATE users SET mail = 'A' WHERE id = 1; UPDATE users SET mail = mail; DELETE FROM users WHERE id = 2",
        )
        .unwrap();
        let mut s = conn.prepare("SELECT k0 || o0 || coalesce(n0, '-') FROM temp._sync_left_0").unwrap();
        let noted: Vec<String> = s.query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(noted, ["1aA", "2b-"]);
    }
}
