//! An app's file: the profile's tables as DDL, and its rows as the wire has them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _};

use crate::calls::Row;
use crate::json::Json;
use crate::lab::{Checked, fail};
use crate::profile::{Column, Kind, OnDelete, Table};

/// Rows by table and key, each value as text.
pub(super) type Dump = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// The tables that a device can fill, and whose parents it can fill too.
pub(super) fn usable(tables: &[Table]) -> Vec<&Table> {
    let mut usable: Vec<&Table> =
        tables.iter().filter(|t| !t.columns.iter().any(|c| c.required && c.kind == Kind::Other)).collect();
    loop {
        let before = usable.len();
        let names: Vec<String> = usable.iter().map(|t| t.name.clone()).collect();
        let known = |c: &Column| c.references.as_ref().is_none_or(|r| names.contains(r));
        usable.retain(|t| t.columns.iter().all(known));
        if usable.len() == before {
            return usable;
        }
    }
}

/// The tables, as an app would declare them.
pub(super) fn ddl(tables: &[&Table]) -> String {
    let mut out = String::new();
    for t in tables {
        let mut parts: Vec<String> = t.columns.iter().map(|c| column(tables, c)).collect();
        let key: Vec<String> = t.key.iter().map(|k| quote(k)).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        out.push_str(&format!("CREATE TABLE {} ({});\n", quote(&t.name), parts.join(", ")));
    }
    out
}

fn column(tables: &[&Table], c: &Column) -> String {
    let kind = match c.kind {
        Kind::Text | Kind::Timestamp | Kind::Other => "TEXT",
        Kind::Uuid | Kind::Blob => "BLOB",
        Kind::Integer => "INTEGER",
        Kind::Real => "REAL",
        Kind::Boolean => "BOOLEAN",
    };
    let mut out = format!("{} {kind}", quote(&c.name));
    if c.required {
        out.push_str(" NOT NULL");
    }
    if c.unique {
        out.push_str(" UNIQUE");
    }
    let parent = c.references.as_ref().and_then(|r| tables.iter().find(|t| t.name == *r));
    if let Some(parent) = parent {
        out.push_str(&format!(" REFERENCES {}({})", quote(&parent.name), quote(&parent.key[0])));
        out.push_str(match c.on_delete {
            Some(OnDelete::Cascade) => " ON DELETE CASCADE",
            Some(OnDelete::SetNull) => " ON DELETE SET NULL",
            Some(OnDelete::Refuse) | None => "",
        });
    }
    out
}

pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Every row of a file.
pub(super) fn dump(tables: &[&Table], app: &Connection) -> rusqlite::Result<Dump> {
    let mut all = Dump::new();
    for t in tables {
        let names: Vec<String> = t.columns.iter().map(|c| quote(&c.name)).collect();
        let mut statement = app.prepare(&format!("SELECT {} FROM {}", names.join(", "), quote(&t.name)))?;
        let mut rows = statement.query([])?;
        let found = all.entry(t.name.clone()).or_default();
        while let Some(row) = rows.next()? {
            let mut values = Vec::new();
            for (n, c) in t.columns.iter().enumerate() {
                values.push(text(c, row.get_ref(n)?));
            }
            found.insert(key(t, &values), values);
        }
    }
    Ok(all)
}

/// The same of a snapshot.
pub(super) fn served(tables: &[&Table], rows: &[Row]) -> Checked<Dump> {
    let mut all: Dump = tables.iter().map(|t| (t.name.clone(), BTreeMap::new())).collect();
    for row in rows {
        let Some(t) = tables.iter().find(|t| t.name == row.table) else {
            return fail("a snapshot holds rows that devices wrote", row.shown());
        };
        let payload = row.payload.as_ref();
        let value = |c: &Column| payload.and_then(|p| p.get(&c.name)).map_or_else(String::new, |v| wire_text(c, v));
        let values: Vec<String> = t.columns.iter().map(value).collect();
        all.entry(t.name.clone()).or_default().insert(key(t, &values), values);
    }
    Ok(all)
}

fn key(t: &Table, values: &[String]) -> String {
    let parts = t.columns.iter().zip(values).filter(|(c, _)| t.is_key(&c.name)).map(|(_, v)| v.as_str());
    parts.collect::<Vec<_>>().join(" ")
}

/// A value with its type, so that `1` and `'1'` differ.
fn text(c: &Column, value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(i) if c.kind == Kind::Real => real(i as f64),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => real(r),
        ValueRef::Text(t) => plain(c, &String::from_utf8_lossy(t)),
        ValueRef::Blob(b) if c.kind == Kind::Uuid => match <[u8; 16]>::try_from(b) {
            Ok(bytes) => format!("'{}'", dashed(&bytes)),
            Err(_) => format!("x'{}'", STANDARD.encode(b)),
        },
        ValueRef::Blob(b) => format!("'{}'", STANDARD.encode(b)),
    }
}

fn wire_text(c: &Column, value: &Json) -> String {
    match value {
        Json::Bool(b) => i64::from(*b).to_string(),
        Json::Number(n) => match (n.parse::<i64>(), c.kind) {
            (Ok(i), Kind::Real) => real(i as f64),
            (Ok(i), _) => i.to_string(),
            _ => n.parse().map_or_else(|_| n.clone(), real),
        },
        Json::Text(t) => plain(c, t),
        other => other.to_string(),
    }
}

fn real(r: f64) -> String {
    format!("{r:?}")
}

/// A text; times in one spelling.
fn plain(c: &Column, text: &str) -> String {
    if c.kind == Kind::Timestamp
        && let Ok(t) = text.parse::<jiff::Timestamp>()
    {
        return format!("'{t}'");
    }
    format!("'{text}'")
}

fn dashed(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The first rows in which two dumps differ.
pub(super) fn difference(a: &Dump, b: &Dump) -> String {
    let mut shown = Vec::new();
    for (table, rows) in a {
        let others = &b[table];
        let keys: std::collections::BTreeSet<&String> = rows.keys().chain(others.keys()).collect();
        for key in keys.into_iter().filter(|k| rows.get(*k) != others.get(*k)) {
            shown.push(format!("{table} {key}: {:?} and {:?}", rows.get(key), others.get(key)));
        }
    }
    let count = shown.len();
    shown.truncate(3);
    format!("{count} rows differ; {}", shown.join("; "))
}

/// The values of the n-th row's key, in the order of the key.
pub(super) fn nth_key(t: &Table, app: &Connection, n: u64) -> rusqlite::Result<Option<Vec<rusqlite::types::Value>>> {
    let names: Vec<String> = t.key.iter().map(|k| quote(k)).collect();
    let names = names.join(", ");
    let sql = format!("SELECT {names} FROM {} ORDER BY {names} LIMIT 1 OFFSET ?1", quote(&t.name));
    let row = |r: &rusqlite::Row<'_>| (0..t.key.len()).map(|i| r.get(i)).collect();
    app.query_row(&sql, [n as i64], row).optional()
}

pub(super) fn count(t: &Table, app: &Connection) -> rusqlite::Result<u64> {
    let n: i64 = app.query_row(&format!("SELECT count(*) FROM {}", quote(&t.name)), [], |r| r.get(0))?;
    Ok(n.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;
    use crate::profile::Profile;

    const PROFILE: &str = r#"
name = "x"
[token]
kind = "user"
[[tables]]
name = "people"
key = ["id"]
columns = [
  { name = "id", kind = "uuid", required = true },
  { name = "order", kind = "integer", unique = true },
  { name = "score", kind = "real" },
  { name = "photo", kind = "blob" },
  { name = "member", kind = "boolean" },
  { name = "since", kind = "timestamp" },
]
[[tables]]
name = "notes"
key = ["id", "tag"]
columns = [
  { name = "id", kind = "text", required = true },
  { name = "tag", kind = "text", required = true },
  { name = "person", kind = "uuid", references = "people", on_delete = "cascade" },
]
[[tables]]
name = "shapes"
key = ["id"]
columns = [{ name = "id", kind = "text", required = true }, { name = "shape", kind = "other", required = true }]
[[tables]]
name = "corners"
key = ["id"]
columns = [{ name = "id", kind = "text", required = true }, { name = "shape", kind = "text", references = "shapes" }]
"#;

    #[test]
    fn a_file_and_a_snapshot_of_the_same_rows_are_the_same() {
        let profile = Profile::parse(PROFILE).unwrap();
        let tables = usable(&profile.tables);
        let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["people", "notes"], "nobody can fill a shape, so a corner has no parent");
        let app = Connection::open_in_memory().unwrap();
        app.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        app.execute_batch(&ddl(&tables)).unwrap();
        let id: Vec<u8> = (0..16).collect();
        app.execute("INSERT INTO people VALUES (?, 7, 2, x'0001', 1, '2026-03-24T18:02:00+00:00')", params![id])
            .unwrap();
        app.execute("INSERT INTO notes VALUES ('n', '7', ?)", params![id]).unwrap();
        let row = |table: &str, payload: &str| Row {
            schema: "main".to_owned(),
            table: table.to_owned(),
            key: Json::Null,
            op: String::new(),
            version: 1,
            payload: Some(Json::parse(payload.as_bytes()).unwrap()),
        };
        let uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f";
        let person = format!(
            r#"{{"id":"{uuid}","order":7,"score":2.0,"photo":"AAE=","member":true,"since":"2026-03-24T19:02:00+01:00"}}"#
        );
        let rows = [row("people", &person), row("notes", &format!(r#"{{"id":"n","tag":"7","person":"{uuid}"}}"#))];
        let (file, snapshot) = (dump(&tables, &app).unwrap(), served(&tables, &rows).unwrap());
        assert_eq!(file, snapshot, "{}", difference(&file, &snapshot));
        let number = [row("people", &person), row("notes", &format!(r#"{{"id":"n","tag":7,"person":"{uuid}"}}"#))];
        assert_ne!(file, served(&tables, &number).unwrap(), "'7' is not 7");
        app.execute("DELETE FROM people", []).unwrap();
        assert!(dump(&tables, &app).unwrap()["notes"].is_empty(), "children go along");
        assert!(served(&tables, &[row("corners", "{}")]).is_err());
    }
}
