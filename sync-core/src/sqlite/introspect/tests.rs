//! Three schemas of the kinds that people have, and what is accepted and refused of each.

use super::*;

fn found(sql: &str) -> Found {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(sql).unwrap();
    introspect(&conn, None).unwrap()
}

fn names(f: &Found) -> Vec<&str> {
    f.schema.tables().iter().map(|t| t.name.as_str()).collect()
}

fn reason<'a>(f: &'a Found, table: &str) -> &'a str {
    &f.refused.iter().find(|r| r.table == table).unwrap_or_else(|| panic!("{table} is refused")).reason
}

/// An ORM's: autoincrement keys, quoted and mixed-case names, a join table, a cycle.
#[test]
fn an_orms_schema() {
    let f = found(
        r#"CREATE TABLE "Order" (id INTEGER PRIMARY KEY AUTOINCREMENT, "group" TEXT, customer_id INTEGER REFERENCES "my tab"(id) ON DELETE CASCADE);
           CREATE TABLE "my tab" ("id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "Name" varchar(255) NOT NULL, best INTEGER REFERENCES "Order"(id), UNIQUE ("Name"));
           CREATE TABLE order_tag (order_id INTEGER NOT NULL REFERENCES "Order", tag TEXT NOT NULL, PRIMARY KEY (order_id, tag)) WITHOUT ROWID;
           CREATE TABLE tree (id BLOB PRIMARY KEY, parent BLOB REFERENCES tree(id), total INT GENERATED ALWAYS AS (1) VIRTUAL);
           CREATE INDEX by_group ON "Order"("group");"#,
    );
    assert_eq!(names(&f), ["my tab", "order", "order_tag", "tree"]);
    assert!(f.refused.is_empty(), "{:?}", f.refused);
    let order: Vec<&str> = f.schema.parents_first().iter().map(|i| f.schema.tables()[*i].name.as_str()).collect();
    assert_eq!(order, ["tree", "my tab", "order", "order_tag"]);
    let t = f.schema.table("my tab").unwrap();
    assert_eq!((t.columns[1].name.as_str(), t.columns[1].sql_name.as_str()), ("name", "Name"));
    assert_eq!(t.uniques.len(), 1);
    let join = f.schema.table("order_tag").unwrap();
    assert_eq!((join.key.as_slice(), join.without_rowid), ([0, 1].as_slice(), true));
    assert_eq!(join.foreign_keys[0].parent_columns, ["id"]);
    let tree = f.schema.table("tree").unwrap();
    assert_eq!(tree.columns.len(), 2, "generated columns do not travel");
    assert!(tree.columns.iter().all(|c| c.uuid));
    assert_eq!(f.notes.iter().filter(|n| n.text.starts_with("INTEGER keys")).count(), 2);
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(&f.schema.tables().iter().map(|t| format!("{};", t.sql)).collect::<String>()).unwrap();
    assert_eq!(introspect(&conn, None).unwrap().schema, f.schema, "the DDL makes the same tables again");
}

/// With full-text search and triggers: the index is not synced, the content is.
#[test]
fn a_schema_with_full_text_search() {
    let f = found(
        "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT, at REAL, doc BLOB) STRICT;
         CREATE VIRTUAL TABLE notes_fts USING fts5(body, content='notes');
         CREATE TRIGGER notes_ai AFTER INSERT ON notes BEGIN INSERT INTO notes_fts(rowid, body) VALUES (NEW.rowid, NEW.body); END;
         CREATE VIEW recent AS SELECT * FROM notes;
         CREATE TABLE things (id TEXT PRIMARY KEY, at INTEGER);
         CREATE UNIQUE INDEX things_day ON things(at / 86400);
         CREATE UNIQUE INDEX things_some ON things(at) WHERE at > 0;",
    );
    assert_eq!(names(&f), ["notes", "things"]);
    assert_eq!(f.refused.len(), 1);
    assert!(reason(&f, "notes_fts").contains("virtual"));
    assert_eq!(f.notes.len(), 2, "both indexes are named");
}

/// Keyless and odd tables, each with its reason.
#[test]
fn a_schema_of_refusals() {
    let f = found(
        "CREATE TABLE log (at TEXT UNIQUE, line TEXT);
         CREATE TABLE nocase (id TEXT PRIMARY KEY COLLATE NOCASE);
         CREATE TABLE weights (w REAL PRIMARY KEY);
         CREATE TABLE any_key (k PRIMARY KEY);
         CREATE TABLE hidden (id TEXT PRIMARY KEY, _sync_x TEXT);
         CREATE TABLE child (id TEXT PRIMARY KEY, at TEXT REFERENCES log(at));
         CREATE TABLE grandchild (id TEXT PRIMARY KEY, c TEXT REFERENCES child(id));
         CREATE TABLE orphan (id TEXT PRIMARY KEY, c TEXT REFERENCES nowhere(id));
         CREATE TABLE nullable (id TEXT PRIMARY KEY, v TEXT);",
    );
    assert_eq!(names(&f), ["nullable"], "rows with a NULL key wait, the table syncs");
    for (table, why) in [
        ("log", "no PRIMARY KEY"),
        ("nocase", "collation NOCASE"),
        ("weights", "is REAL"),
        ("any_key", "no declared type"),
        ("hidden", "begins with _sync_"),
        ("child", "refers to log"),
        ("grandchild", "refers to child"),
        ("orphan", "refers to nowhere"),
    ] {
        assert!(reason(&f, table).contains(why), "{table}: {}", reason(&f, table));
    }
    assert!(f.refused.iter().all(|r| !r.fix.is_empty()));
}

#[test]
fn named_tables_only() {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(
        "CREATE TABLE a (id TEXT PRIMARY KEY); CREATE TABLE b (id TEXT PRIMARY KEY, a TEXT REFERENCES a);",
    )
    .unwrap();
    let f = introspect(&conn, Some(&["B".into(), "zzz".into()])).unwrap();
    assert_eq!(f.schema.tables().len(), 0);
    assert_eq!(reason(&f, "b"), "it refers to a, which is not synced");
    assert_eq!(reason(&f, "zzz"), "there is no such table");
}
