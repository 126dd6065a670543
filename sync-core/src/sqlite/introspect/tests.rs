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
        "CREATE TABLE log (at TEXT, line TEXT); CREATE UNIQUE INDEX log_at ON log(at COLLATE NOCASE);
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

/// What identifies the rows of a table without PRIMARY KEY, of however many UNIQUE constraints.
#[test]
fn rows_are_known_by_a_unique_constraint() {
    let key = |columns: &str, chosen: &[&str]| {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!("CREATE TABLE t ({columns}); CREATE UNIQUE INDEX at_last ON t(z);")).unwrap();
        let chosen: Known = [("t".to_owned(), chosen.iter().map(|c| (*c).to_owned()).collect())].into();
        let found = introspect_known(&conn, None, &chosen).unwrap();
        let Some(t) = found.schema.table("t").cloned() else { return found.refused[0].reason.clone() };
        assert!(!t.primary_key && !t.integer_key());
        assert!(t.uniques.iter().all(|u| u.columns != t.key), "it is no other constraint beside");
        t.key.iter().map(|i| t.columns[*i].name.as_str()).collect::<Vec<_>>().join(",")
    };
    let two = "a TEXT NOT NULL, b INT NOT NULL, z TEXT, UNIQUE (b, a)";
    assert_eq!(key(two, &[]), "b,a", "NOT NULL before the fewest columns");
    assert_eq!(key(two, &["z"]), "z", "chosen once");
    assert_eq!(key(two, &["a", "b"]), "a,b", "in the order in which it was chosen");
    assert_eq!(key(two, &["gone"]), "b,a");
    let many = "z TEXT NOT NULL, a TEXT NOT NULL, b TEXT NOT NULL, UNIQUE (a, b), UNIQUE (b)";
    assert_eq!(key(many, &[]), "z", "of those with the fewest columns the first");
    assert_eq!(key("z TEXT, a INT UNIQUE, b TEXT", &[]), "z", "nullable ones, too");
    assert_eq!(key("z REAL, a INT UNIQUE, b TEXT", &[]), "a", "no REAL");
    assert_eq!(key("z TEXT COLLATE NOCASE, a INT, b TEXT", &[]).split(',').next(), Some("it has no PRIMARY KEY"));
    assert_eq!(key("z, a BLOB UNIQUE, b TEXT", &[]), "a", "no column without a type");
    let generated = "z AS (a || 'x'), a TEXT, b TEXT COLLATE NOCASE, UNIQUE (b COLLATE BINARY), UNIQUE (a, b)";
    assert!(key(generated, &[]).contains("nothing UNIQUE by which"));
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
