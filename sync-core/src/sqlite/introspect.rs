//! Which tables of a file can be synced, and why the others cannot.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _};

use super::declared::{self, Declared};
use super::{placeholders, quote, sql};
use crate::schema::{Affinity, Column, ForeignKey, Schema, Table, Unique};

/// A table that cannot be synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The table's name, as in the schema.
    pub table: String,
    /// Why.
    pub reason: String,
    /// What to change.
    pub fix: String,
}

/// Something worth knowing about a table that can be synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The table's name, as in the schema.
    pub table: String,
    /// What to know.
    pub text: String,
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The tables that can be synced.
    pub schema: Schema,
    /// The tables that cannot.
    pub refused: Vec<Refusal>,
    /// What to know about the former.
    pub notes: Vec<Note>,
}

/// By lowercase name of a table that is synced already: the lowercase names of its key's columns. What rows are known by
/// is chosen once.
pub type Known = BTreeMap<String, Vec<String>>;

/// As [`introspect_known`], where nothing was chosen before.
///
/// # Errors
/// SQLite's.
pub fn introspect(conn: &Connection, only: Option<&[String]>) -> rusqlite::Result<Found> {
    introspect_known(conn, only, &Known::new())
}

/// Looks at every table of the main database, or only at those named in `only` (without regard to
/// ASCII case). A named table that does not exist is refused. The result is closed under foreign keys.
///
/// # Errors
/// SQLite's.
pub fn introspect_known(conn: &Connection, only: Option<&[String]>, known: &Known) -> rusqlite::Result<Found> {
    let mut found = Found::default();
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    let wanted = |name: &str| only.is_none_or(|o| o.iter().any(|w| w.eq_ignore_ascii_case(name)));
    let mut seen = BTreeSet::new();
    for Listed { name, kind, form } in list(conn)? {
        let lower = name.to_ascii_lowercase();
        if !wanted(&name) || lower.starts_with("_sync_") || lower.starts_with("sqlite_") {
            continue;
        }
        seen.insert(lower.clone());
        match kind.as_str() {
            "shadow" | "view" if only.is_none() => {}
            "table" => match read_table(conn, &name, form, known.get(&lower))? {
                Ok((table, notes)) => {
                    found.notes.extend(notes);
                    tables.insert(lower, table);
                }
                Err(refusal) => found.refused.push(refusal),
            },
            _ => found.refused.push(Refusal {
                table: name,
                reason: format!("it is a {kind} table, not an ordinary one"),
                fix: "sync the ordinary tables that it is made from; triggers that maintain it keep running".into(),
            }),
        }
    }
    for name in only.unwrap_or_default() {
        if !seen.contains(&name.to_ascii_lowercase()) {
            found.refused.push(Refusal {
                table: name.clone(),
                reason: "there is no such table".into(),
                fix: "check the name".into(),
            });
        }
    }
    close(&mut tables, &mut found.refused);
    // A table's triggers are another matter.
    let triggers = conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    probe(conn, &mut tables, &mut found.refused);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, triggers)?;
    Ok(found.with(tables))
}

impl Found {
    /// What is left where these tables are refused too, and with them what refers to them.
    #[must_use]
    pub fn without(mut self, refused: Vec<Refusal>) -> Self {
        let gone: BTreeSet<String> = refused.iter().map(|r| r.table.to_ascii_lowercase()).collect();
        let left = self.schema.tables().iter().filter(|t| !gone.contains(&t.name));
        let tables = left.map(|t| (t.name.clone(), t.clone())).collect();
        self.refused.extend(refused);
        self.with(tables)
    }

    fn with(mut self, mut tables: BTreeMap<String, Table>) -> Self {
        close(&mut tables, &mut self.refused);
        self.notes.retain(|n| tables.contains_key(&n.table.to_ascii_lowercase()));
        self.refused.sort_by(|a, b| a.table.cmp(&b.table));
        mark_uuids(&mut tables);
        self.schema = Schema::new(tables.into_values().collect());
        self
    }
}

/// An entry of SQLite's own list of tables.
struct Listed {
    name: String,
    kind: String,
    form: Form,
}

/// What is declared behind a table's columns.
#[derive(Clone, Copy)]
struct Form {
    without_rowid: bool,
    strict: bool,
}

fn list(conn: &Connection) -> rusqlite::Result<Vec<Listed>> {
    let sql = "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' ORDER BY name";
    let mut s = conn.prepare(sql)?;
    let rows = s.query_map([], |r| {
        let form = Form { without_rowid: r.get(2)?, strict: r.get(3)? };
        Ok(Listed { name: r.get(0)?, kind: r.get(1)?, form })
    })?;
    rows.collect()
}

/// Columns of a table that can be synced: logs and statements of ours have a few more, of the 2,000 that SQLite takes.
pub const MOST_COLUMNS: usize = 1990;

type Read = Result<(Table, Vec<Note>), Refusal>;

fn read_table(conn: &Connection, name: &str, form: Form, chosen: Option<&Vec<String>>) -> rusqlite::Result<Read> {
    let refuse = |reason: String, fix: &str| Ok(Err(Refusal { table: name.to_owned(), reason, fix: fix.to_owned() }));
    let mut columns = Vec::new();
    let mut key: Vec<(i64, usize)> = Vec::new();
    let mut positions = BTreeMap::new();
    let mut s = conn.prepare("SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?)")?;
    let mut rows = s.query([name])?;
    while let Some(r) = rows.next()? {
        let (sql_name, declared, not_null, pk, hidden): (String, String, bool, i64, i64) =
            (r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?);
        let wire = sql_name.to_ascii_lowercase();
        if wire.starts_with("_sync_") {
            return refuse(format!("column {sql_name} begins with _sync_"), "rename the column");
        }
        if hidden != 0 {
            if pk > 0 {
                return refuse(format!("key column {sql_name} is generated"), "use an ordinary column as the key");
            }
            continue;
        }
        if pk > 0 {
            key.push((pk, columns.len()));
        }
        positions.insert(wire.clone(), columns.len());
        columns.push(Column {
            affinity: Affinity::in_table(&declared, form.strict),
            blob: declared.to_ascii_uppercase().contains("BLOB"),
            name: wire,
            sql_name,
            declared,
            uuid: false,
            not_null,
        });
    }
    drop(rows);
    if positions.len() > MOST_COLUMNS {
        return refuse(
            format!("it has {} columns, and SQLite leaves no room for what is noted beside them", positions.len()),
            "move some of them into another table",
        );
    }
    key.sort_unstable();
    let key: Vec<usize> = key.into_iter().map(|(_, i)| i).collect();
    for i in &key {
        let c = &columns[*i];
        if c.affinity == Affinity::Real {
            return refuse(format!("key column {} is REAL", c.sql_name), "use an INTEGER, TEXT or BLOB key");
        }
        if c.affinity == Affinity::Blob && !c.blob {
            return refuse(
                format!("key column {} has no declared type", c.sql_name),
                "declare it INTEGER, TEXT or BLOB",
            );
        }
    }
    let sql: String =
        conn.query_row("SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?", [name], |r| r.get(0))?;
    let mut table = Table {
        name: name.to_ascii_lowercase(),
        sql_name: name.to_owned(),
        columns,
        primary_key: !key.is_empty(),
        key,
        foreign_keys: Vec::new(),
        uniques: Vec::new(),
        without_rowid: form.without_rowid,
        strict: form.strict,
        sql,
    };
    let mut notes = Vec::new();
    if let Some(refusal) = read_indexes(conn, &mut table, &mut notes)? {
        return Ok(Err(refusal));
    }
    if !table.primary_key {
        let Some(at) = identifies(&table, chosen) else {
            return refuse(
                "it has no PRIMARY KEY, and nothing UNIQUE by which its rows could be known".into(),
                "give it one, for example id TEXT PRIMARY KEY NOT NULL",
            );
        };
        let unique = table.uniques.remove(at);
        table.key = unique.columns;
        if let Some(chosen) = chosen {
            table.key.sort_by_key(|i| chosen.iter().position(|c| *c == table.columns[*i].name));
        }
        let names: Vec<&str> = table.key.iter().map(|i| table.columns[*i].sql_name.as_str()).collect();
        notes.push(Note {
            table: name.to_owned(),
            text: format!("it has no PRIMARY KEY; its rows are known by their UNIQUE ({})", names.join(", ")),
        });
    }
    if let Some(refusal) = read_foreign_keys(conn, &mut table)? {
        return Ok(Err(refusal));
    }
    if table.integer_key() {
        notes.push(Note {
            table: name.to_owned(),
            text: "INTEGER keys are minted by each device; where two devices mint the same one for different rows, \
                   the row that was not yet pushed takes a free number and references to it follow"
                .into(),
        });
    }
    Ok(Ok((table, notes)))
}

/// Which UNIQUE of a table says which row is which: the one that was chosen before; else one over NOT NULL columns before
/// others, the one with the fewest columns, and of these the first by the order of the columns.
fn identifies(table: &Table, chosen: Option<&Vec<String>>) -> Option<usize> {
    let collated = sql::collated_columns(&table.sql);
    let plain = |i: &usize| {
        let c = &table.columns[*i];
        let other = collated.iter().any(|o| o.column == c.name && !o.collation.eq_ignore_ascii_case("BINARY"));
        !other && c.affinity != Affinity::Real && (c.affinity != Affinity::Blob || c.blob)
    };
    let of = |u: &Unique| -> BTreeSet<&str> { u.columns.iter().map(|i| table.columns[*i].name.as_str()).collect() };
    let fit =
        table.uniques.iter().enumerate().filter(|(_, u)| {
            u.columns.iter().all(plain) && u.collations.iter().all(|c| c.eq_ignore_ascii_case("BINARY"))
        });
    let rank = |u: &Unique| {
        let before = chosen.is_some_and(|c| of(u) == c.iter().map(String::as_str).collect());
        let nullable = u.columns.iter().any(|i| !table.columns[*i].not_null);
        let mut columns = u.columns.clone();
        columns.sort_unstable();
        (!before, nullable, columns.len(), columns, u.columns.clone())
    };
    fit.min_by_key(|(_, u)| rank(u)).map(|(at, _)| at)
}

fn read_indexes(conn: &Connection, table: &mut Table, notes: &mut Vec<Note>) -> rusqlite::Result<Option<Refusal>> {
    let mut s =
        conn.prepare("SELECT name, origin, partial FROM pragma_index_list(?) WHERE \"unique\" ORDER BY name")?;
    let list: Vec<(String, String, bool)> =
        s.query_map([&table.sql_name], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<Result<_, _>>()?;
    for (name, origin, partial) in list {
        let mut s = conn.prepare("SELECT cid, name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno")?;
        let parts: Vec<(i64, Option<String>, String)> =
            s.query_map([&name], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<Result<_, _>>()?;
        if origin == "pk" {
            if let Some((_, column, coll)) = parts.iter().find(|(_, _, coll)| !coll.eq_ignore_ascii_case("BINARY")) {
                return Ok(Some(Refusal {
                    table: table.sql_name.clone(),
                    reason: format!("key column {} has collation {coll}", column.as_deref().unwrap_or("?")),
                    fix: "use the default collation (BINARY) for key columns".into(),
                }));
            }
            continue;
        }
        let columns: Option<Vec<usize>> =
            parts.iter().map(|(_, n, _)| n.as_ref().and_then(|n| table.column(&n.to_ascii_lowercase()))).collect();
        match columns {
            Some(columns) if !partial => {
                let collations = parts.into_iter().map(|(_, _, c)| c).collect();
                table.uniques.push(Unique { name, columns, collations });
            }
            _ => notes.push(Note {
                table: table.sql_name.clone(),
                text: format!(
                    "UNIQUE index {name} is partial or over an expression: REPLACE through it is not captured; verify \
                     finds the row that went"
                ),
            }),
        }
    }
    Ok(None)
}

fn read_foreign_keys(conn: &Connection, table: &mut Table) -> rusqlite::Result<Option<Refusal>> {
    let mut foreign_keys = Vec::new();
    for key in declared::foreign_keys(conn, &table.sql_name)? {
        let mut columns = Vec::new();
        for from in &key.columns {
            let Some(column) = table.column(&from.to_ascii_lowercase()) else {
                return Ok(Some(Refusal {
                    table: table.sql_name.clone(),
                    reason: format!("foreign key column {from} is generated"),
                    fix: "use an ordinary column".into(),
                }));
            };
            columns.push(column);
        }
        let mut parent_columns: Vec<String> = key.parent_columns.iter().map(|c| c.to_ascii_lowercase()).collect();
        if parent_columns.is_empty() {
            let mut s = conn.prepare("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk")?;
            parent_columns = s
                .query_map([&key.parent], |r| r.get::<_, String>(0).map(|n| n.to_ascii_lowercase()))?
                .collect::<Result<_, _>>()?;
        }
        let Declared { parent, on_delete, on_update, .. } = key;
        foreign_keys.push(ForeignKey { columns, parent, parent_columns, on_delete, on_update });
    }
    table.foreign_keys = foreign_keys;
    // Rows are looked up by these columns here and on the server, where nothing can compare as the app does.
    let collated = sql::collated_columns(&table.sql);
    let app_only = collated.iter().find(|c| {
        let at = table.column(&c.column);
        !sql::is_builtin_collation(&c.collation)
            && table.foreign_keys.iter().any(|f| f.columns.iter().any(|i| Some(*i) == at))
    });
    Ok(app_only.map(|c| Refusal {
        table: table.sql_name.clone(),
        reason: format!("foreign key column {} has collation {}, which only the app has", c.column, c.collation),
        fix: "use the default collation (BINARY) for foreign keys".into(),
    }))
}

/// Refuses tables that this SQLite cannot write: they name a function or collation that only the
/// app has, or a parent column that is not unique.
fn probe(conn: &Connection, tables: &mut BTreeMap<String, Table>, refused: &mut Vec<Refusal>) {
    tables.retain(|_, t| {
        let sql = format!("INSERT INTO main.{} VALUES ({})", quote(&t.sql_name), placeholders(t.columns.len()));
        let Err(e) = conn.prepare(&sql) else { return true };
        refused.push(Refusal {
            table: t.sql_name.clone(),
            reason: format!("this SQLite cannot write it: {e}"),
            fix: "remove custom functions and collations from its indexes, CHECKs and generated columns, and let \
                  foreign keys refer to unique columns"
                .into(),
        });
        false
    });
}

/// Refuses tables that refer to a table that is not there, until none is left.
fn close(tables: &mut BTreeMap<String, Table>, refused: &mut Vec<Refusal>) {
    while let Some((name, parent)) = tables.iter().find_map(|(name, t)| {
        let broken = t.foreign_keys.iter().find(|f| {
            tables.get(&f.parent).is_none_or(|p| {
                f.parent_columns.len() != f.columns.len() || f.parent_columns.iter().any(|c| p.column(c).is_none())
            })
        })?;
        Some((name.clone(), broken.parent.clone()))
    }) {
        let table = tables.remove(&name).map(|t| t.sql_name).unwrap_or_default();
        refused.push(Refusal {
            table,
            reason: format!("it refers to {parent}, which is not synced"),
            fix: format!("sync {parent} too, or remove the foreign key"),
        });
    }
}

/// BLOB columns of keys and foreign keys travel as UUID text.
fn mark_uuids(tables: &mut BTreeMap<String, Table>) {
    for t in tables.values_mut() {
        let ids: BTreeSet<usize> =
            t.key.iter().copied().chain(t.foreign_keys.iter().flat_map(|f| f.columns.iter().copied())).collect();
        for i in ids {
            t.columns[i].uuid = t.columns[i].blob;
        }
    }
}

/// The statements that make the tables of a schema and their indexes, parents first: the app's own
/// DDL, verbatim but for collations that only the app has. No index uses these.
///
/// # Errors
/// SQLite's.
pub fn statements(conn: &Connection, schema: &Schema) -> rusqlite::Result<Vec<String>> {
    let tables = schema.parents_first().iter().map(|i| &schema.tables()[*i]);
    let mut out: Vec<String> = tables.map(|t| sql::without_app_collations(&t.sql)).collect();
    for i in schema.parents_first() {
        let sql = "SELECT sql FROM main.sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL ORDER BY name";
        let mut s = conn.prepare_cached(sql)?;
        let rows = s.query_map([&schema.tables()[*i].sql_name], |r| r.get::<_, String>(0))?;
        for sql in rows {
            out.push(sql?);
        }
    }
    Ok(out)
}

/// The `CREATE` statement of one object, where it exists.
///
/// # Errors
/// SQLite's.
pub fn object_sql(conn: &Connection, kind: &str, name: &str) -> rusqlite::Result<Option<String>> {
    conn.query_row("SELECT sql FROM main.sqlite_schema WHERE type = ? AND name = ? COLLATE NOCASE", [kind, name], |r| {
        r.get(0)
    })
    .optional()
}

#[cfg(test)]
mod tests;
