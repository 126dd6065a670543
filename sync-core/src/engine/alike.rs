//! Whether a table keeps values alike at both ends. Where a column has another affinity there, SQLite makes another
//! value of what arrives (`'007'` becomes `7`); where it is a BLOB at one end only, so does the wire.

use std::collections::BTreeMap;

use crate::protocol::capabilities::TableSpec;
use crate::schema::{Affinity, Column, Schema, Table};

/// What values a column takes, and how they travel. INTEGER and NUMERIC are the same but for CAST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    affinity: Affinity,
    blob: bool,
}

impl Kind {
    /// Of a declared type.
    #[must_use]
    pub fn of(declared: &str) -> Self {
        Self::new(Affinity::of(declared), declared)
    }

    fn in_table(declared: &str, strict: bool) -> Self {
        Self::new(Affinity::in_table(declared, strict), declared)
    }

    fn new(affinity: Affinity, declared: &str) -> Self {
        let affinity = if affinity == Affinity::Integer { Affinity::Numeric } else { affinity };
        Self { affinity, blob: is_blob(declared) }
    }
}

/// Whether strings of a column with this declared type are base64 on the wire.
#[must_use]
pub fn is_blob(declared: &str) -> bool {
    declared.to_ascii_uppercase().contains("BLOB")
}

/// In what a table of this file is another one on the server, so that its rows must not travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlike {
    /// A column is of another type.
    Type {
        /// Its name, as on the wire.
        column: String,
        /// Its declared type here.
        here: String,
        /// And there.
        there: String,
    },
    /// 16 bytes of a BLOB column travel as a UUID at one end only: it is part of a key or a foreign key there.
    Uuid {
        /// Its name, as on the wire.
        column: String,
    },
    /// Rows have another key.
    Key {
        /// Its columns here.
        here: Vec<String>,
        /// And there.
        there: Vec<String>,
    },
    /// It refers to a table that is another one.
    Parent(String),
}

/// The tables of a schema that must not travel, by position, with the first reason. What the server does not tell of
/// is not compared.
#[must_use]
pub fn unlike(schema: &Schema, told: &[TableSpec]) -> BTreeMap<usize, Unlike> {
    let mut out = BTreeMap::new();
    for spec in told.iter().filter(|s| !s.columns.is_empty() && s.column_types.len() == s.columns.len()) {
        let Some(position) = schema.position(&spec.table) else { continue };
        if let Some(why) = compare(&schema.tables()[position], spec) {
            out.insert(position, why);
        }
    }
    let mut next: Vec<usize> = out.keys().copied().collect();
    while let Some(parent) = next.pop() {
        for (child, _) in schema.references_to(parent) {
            out.entry(child).or_insert_with(|| {
                next.push(child);
                Unlike::Parent(schema.tables()[parent].name.clone())
            });
        }
    }
    out
}

fn compare(table: &Table, spec: &TableSpec) -> Option<Unlike> {
    let names = |key: &mut dyn Iterator<Item = &String>| {
        let mut names: Vec<String> = key.cloned().collect();
        names.sort();
        names
    };
    let here = names(&mut table.key.iter().map(|i| &table.columns[*i].name));
    let there = names(&mut spec.sync_key_columns.iter());
    if here != there {
        return Some(Unlike::Key { here, there });
    }
    let theirs: BTreeMap<&str, &str> =
        spec.columns.iter().map(String::as_str).zip(spec.column_types.iter().map(String::as_str)).collect();
    let both = || table.columns.iter().filter_map(|c| Some((c, *theirs.get(c.name.as_str())?)));
    let retyped = both().find(|(c, t)| Kind::in_table(&c.declared, table.strict) != Kind::in_table(t, spec.strict));
    if let Some((c, there)) = retyped {
        let (column, here, there) = (c.name.clone(), c.declared.clone(), there.to_owned());
        return Some(Unlike::Type { column, here, there });
    }
    let other_form = |(c, _): &(&Column, &str)| c.uuid != spec.uuid_columns.contains(&c.name);
    both().find(other_form).map(|(c, _)| Unlike::Uuid { column: c.name.clone() })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::introspect::introspect;

    fn schema(ddl: &str) -> Schema {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(ddl).unwrap();
        introspect(&conn, None).unwrap().schema
    }

    fn specs(ddl: &str) -> Vec<TableSpec> {
        let spec = |t: &Table| TableSpec {
            schema: "main".into(),
            table: t.name.clone(),
            sync_key_columns: t.key.iter().map(|i| t.columns[*i].name.clone()).collect(),
            columns: t.columns.iter().map(|c| c.name.clone()).collect(),
            column_types: t.columns.iter().map(|c| c.declared.clone()).collect(),
            uuid_columns: t.columns.iter().filter(|c| c.uuid).map(|c| c.name.clone()).collect(),
            strict: t.strict,
            ..TableSpec::default()
        };
        schema(ddl).tables().iter().map(spec).collect()
    }

    /// The columns that are found to be unlike, of a table with one column beside its key.
    #[test]
    fn which_types_keep_values_alike() {
        let types =
            ["TEXT", "VARCHAR(9)", "INTEGER", "DECIMAL(9,2)", "DATE", "BOOLEAN", "REAL", "DOUBLE", "", "BLOB", "ANY"];
        // One letter a class: what values become in SQLite, and on the wire.
        let class = |t: &str| match t {
            "TEXT" | "VARCHAR(9)" => 't',
            "INTEGER" | "DECIMAL(9,2)" | "DATE" | "BOOLEAN" | "ANY" => 'n',
            "REAL" | "DOUBLE" => 'r',
            "BLOB" => 'b',
            _ => '-',
        };
        for here in types {
            for there in types {
                let ddl = |t: &str| format!("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v {t})");
                let found = unlike(&schema(&ddl(here)), &specs(&ddl(there)));
                let expected = (class(here) != class(there)).then(|| Unlike::Type {
                    column: "v".into(),
                    here: here.into(),
                    there: there.into(),
                });
                assert_eq!(found.get(&0), expected.as_ref(), "{here:?} here, {there:?} there");
            }
        }
    }

    #[test]
    fn any_is_any_only_in_strict_tables() {
        let loose = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v ANY)";
        let strict = format!("{loose} STRICT");
        assert!(unlike(&schema(loose), &specs(loose)).is_empty());
        assert!(unlike(&schema(&strict), &specs(&strict)).is_empty());
        assert!(unlike(&schema(&strict), &specs("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v)")).is_empty());
        for (here, there) in [(loose, strict.as_str()), (strict.as_str(), loose)] {
            assert!(matches!(unlike(&schema(here), &specs(there)).get(&0), Some(Unlike::Type { .. })), "{here}");
        }
    }

    #[test]
    fn what_one_end_lacks_or_does_not_tell_is_not_compared() {
        let here =
            schema("CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT, mine REAL); CREATE TABLE mine (id TEXT PRIMARY KEY)");
        let mut there = specs("CREATE TABLE T (ID TEXT PRIMARY KEY, theirs INTEGER, V VARCHAR)");
        assert!(unlike(&here, &there).is_empty());
        there[0].column_types[2] = "INTEGER".into();
        assert_eq!(unlike(&here, &there).len(), 1);
        there[0].column_types.clear();
        assert!(unlike(&here, &there).is_empty());
    }

    #[test]
    fn keys_and_references_are_compared_too() {
        let here = schema(
            "CREATE TABLE a (id TEXT, n TEXT, PRIMARY KEY (id, n));
             CREATE TABLE b (id BLOB PRIMARY KEY NOT NULL, up BLOB REFERENCES b(id), x BLOB);
             CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, up BLOB REFERENCES b(id));
             CREATE TABLE d (id TEXT PRIMARY KEY NOT NULL, up TEXT REFERENCES c(id), self TEXT REFERENCES d(id));
             CREATE TABLE e (id TEXT PRIMARY KEY NOT NULL);",
        );
        let same = specs(
            "CREATE TABLE a (n TEXT, id TEXT, PRIMARY KEY (n, id));
             CREATE TABLE b (id BLOB PRIMARY KEY NOT NULL, up BLOB REFERENCES b(id), x BLOB);
             CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, up BLOB REFERENCES b(id));
             CREATE TABLE d (id TEXT PRIMARY KEY NOT NULL, up TEXT, self TEXT);
             CREATE TABLE e (id TEXT PRIMARY KEY NOT NULL);",
        );
        assert!(unlike(&here, &same).is_empty());
        let other = specs(
            "CREATE TABLE a (id TEXT PRIMARY KEY, n TEXT);
             CREATE TABLE b (id BLOB PRIMARY KEY NOT NULL, up BLOB, x BLOB);",
        );
        let found = unlike(&here, &other);
        let (id, n) = ("id".to_owned(), "n".to_owned());
        assert_eq!(found[&0], Unlike::Key { here: vec![id.clone(), n], there: vec![id] });
        assert_eq!(found[&1], Unlike::Uuid { column: "up".into() });
        assert_eq!(found[&2], Unlike::Parent("b".into()));
        assert_eq!(found[&3], Unlike::Parent("c".into()));
        assert_eq!(found.len(), 4);
    }
}
