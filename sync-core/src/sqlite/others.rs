//! The objects of an app that are not synced: views, triggers, full-text and local tables, their indexes, the numbers by
//! which the app knows its file, and the records of its migrations. A server keeps them as text for new devices.

use rusqlite::Connection;

use super::{ledgers, quote, quote_all, sql};
use crate::schema::Schema;

/// The line of a schema file below which a server runs nothing.
pub const MARK: &str =
    "-- sync: other objects of the app. A server keeps what follows for new devices, and never runs it.";

/// How such a line begins: the rest of it is for people.
const BEGINS: &str = "-- sync: other objects of the app";

/// A schema file as a server reads it: what it runs, and the statements that it keeps.
#[must_use]
pub fn split(text: &str) -> (&str, Vec<String>) {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with(BEGINS) {
            return (&text[..at], sql::statements(&text[at..]).into_iter().map(str::to_owned).collect());
        }
        at += line.len();
    }
    (text, Vec::new())
}

/// The statements that make everything in a file that is not in the schema, in an order in which they can be run.
///
/// # Errors
/// SQLite's.
pub fn statements(conn: &Connection, schema: &Schema) -> rusqlite::Result<Vec<String>> {
    let mut out = Vec::new();
    for pragma in ["application_id", "user_version"] {
        let value: i64 = conn.query_row(&format!("PRAGMA main.{pragma}"), [], |r| r.get(0))?;
        if value != 0 {
            out.push(format!("PRAGMA {pragma} = {value}"));
        }
    }
    let mut s = conn.prepare(
        "SELECT o.type, o.name, o.tbl_name, o.sql, l.type = 'virtual' FROM main.sqlite_schema o \
         LEFT JOIN pragma_table_list l ON l.schema = 'main' AND l.name = o.name AND o.type IN ('table', 'view') \
         WHERE o.sql IS NOT NULL AND l.type IS NOT 'shadow' AND o.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
         AND o.name NOT LIKE '\\_sync\\_%' ESCAPE '\\' AND o.tbl_name NOT LIKE '\\_sync\\_%' ESCAPE '\\' ORDER BY o.rowid",
    )?;
    let mut objects: Vec<(usize, String, Option<String>)> = Vec::new();
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        let (kind, name, on, sql): (String, String, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?);
        let synced = schema.table(&on.to_ascii_lowercase()).is_some();
        let rank = match (kind.as_str(), r.get::<_, Option<bool>>(4)?) {
            ("table" | "index", _) if synced => continue,
            ("table", Some(true)) => 2,
            ("table", _) => 0,
            ("index", _) => 1,
            ("view", _) => 3,
            _ => 4,
        };
        // SQLite keeps a statement as CREATE, kind and name, whatever stood between them. The app may make its tables itself.
        let sql = match sql.split_once(" TABLE ").filter(|_| kind == "table") {
            Some((create, rest)) => format!("{create} TABLE IF NOT EXISTS {rest}"),
            None => sql,
        };
        objects.push((rank, sql, (rank == 0).then_some(name)));
    }
    objects.sort_by_key(|(rank, ..)| *rank);
    for (_, sql, table) in objects {
        out.push(sql);
        if let Some(table) = table
            && ledgers::tool(conn, &table)?.is_some()
        {
            out.extend(inserts(conn, &table)?);
        }
    }
    Ok(out)
}

/// The rows of a table as statements.
fn inserts(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut s = conn.prepare("SELECT name FROM pragma_table_info(?)")?;
    let names: Vec<String> = s.query_map([table], |r| r.get(0))?.collect::<Result<_, _>>()?;
    let values: Vec<String> = names.iter().map(|n| format!("quote({})", quote(n))).collect();
    let (columns, table) = (quote_all(names.iter().map(String::as_str)), quote(table));
    let mut s = conn.prepare(&format!("SELECT {} FROM main.{table}", values.join(" || ', ' || ")))?;
    let rows =
        s.query_map([], |r| Ok(format!("INSERT INTO {table} ({columns}) VALUES ({})", r.get::<_, String>(0)?)))?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::introspect::introspect;

    #[test]
    fn what_is_not_synced_is_printed_and_kept_apart() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "PRAGMA user_version = 42; PRAGMA application_id = -7;
             CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT); CREATE INDEX by_body ON note(body);
             CREATE TRIGGER later AFTER INSERT ON note BEGIN INSERT INTO local VALUES (NEW.id); UPDATE local SET x = 1; END;
             CREATE VIEW recent AS SELECT id FROM note;
             CREATE VIRTUAL TABLE search USING fts5(body, content='note');
             CREATE TABLE local (x); CREATE INDEX by_x ON local(x);
             CREATE TABLE schema_migrations (version, at REAL, note);
             INSERT INTO schema_migrations VALUES ('it''s; 1', 1.5, x'00ff'), (2, NULL, 'a\nb');
             CREATE TABLE \"_sync_meta\" (name); CREATE TRIGGER _sync_1_insert AFTER INSERT ON note BEGIN SELECT 1; END;",
        )
        .unwrap();
        let schema = introspect(&conn, Some(&["note".into()])).unwrap().schema;
        let others = statements(&conn, &schema).unwrap();
        let text = format!("CREATE TABLE note (id);\n{MARK}\n{};\n", others.join(";\n"));
        let (run, kept) = split(&text);
        assert_eq!(run, "CREATE TABLE note (id);\n");
        assert_eq!(kept, others);
        let begins: Vec<String> =
            others.iter().map(|s| s.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            begins,
            [
                "PRAGMA application_id =",
                "PRAGMA user_version =",
                "CREATE TABLE IF",
                "CREATE TABLE IF",
                "INSERT INTO \"schema_migrations\"",
                "INSERT INTO \"schema_migrations\"",
                "CREATE INDEX by_x",
                "CREATE VIRTUAL TABLE",
                "CREATE VIEW recent",
                "CREATE TRIGGER later",
            ]
        );
        assert!(others[3].starts_with("CREATE TABLE IF NOT EXISTS schema_migrations"), "{}", others[3]);
        assert!(others[4].ends_with("VALUES ('it''s; 1', 1.5, X'00FF')"), "{}", others[4]);
    }
}
