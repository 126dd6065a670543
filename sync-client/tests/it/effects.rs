//! Whatever leaves or changes in the file of a device that pushes, without its app having written that, is in the
//! inbox, whole.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::{Map, Value};
use sync_client::InboxRow;
use sync_server::limits::Limits;

use crate::world::{Device, World};

/// Three generations, by key and by a UNIQUE value, and rows that refer to rows of their table.
const TABLES: [&str; 3] = ["p", "c", "g"];

fn schema(delete: &[&str; 4], update: &[&str; 4]) -> String {
    let action = |n: usize| format!("ON DELETE {} ON UPDATE {}", delete[n], update[n]);
    format!(
        "CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL, code TEXT UNIQUE, v TEXT);
         CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES p(id) {},
           code TEXT REFERENCES p(code) {}, v TEXT);
         CREATE TABLE g (id TEXT PRIMARY KEY NOT NULL, c TEXT REFERENCES c(id) {},
           g TEXT REFERENCES g(id) {}, v TEXT)",
        action(0),
        action(1),
        action(2),
        action(3)
    )
}

const RULES: [&str; 4] = [
    "",
    "CREATE TRIGGER bad_p AFTER UPDATE ON p WHEN NEW.v = 'x' BEGIN DELETE FROM p WHERE id = NEW.id; END;
     CREATE TRIGGER bad_c AFTER INSERT ON c WHEN NEW.v = 'x' BEGIN DELETE FROM c WHERE id = NEW.id; END;",
    "CREATE TRIGGER upper_c AFTER UPDATE ON c WHEN NEW.v <> upper(NEW.v) BEGIN
       UPDATE c SET v = upper(v) WHERE id = NEW.id; END;
     CREATE TRIGGER count_p AFTER INSERT ON c WHEN NEW.p IS NOT NULL BEGIN
       UPDATE p SET v = coalesce(v, '') || '+' WHERE id = NEW.p; END;",
    "CREATE TRIGGER orphan AFTER UPDATE OF c ON g WHEN NEW.c IS NULL BEGIN DELETE FROM g WHERE id = NEW.id; END;
     CREATE TRIGGER twin AFTER DELETE ON p BEGIN UPDATE c SET v = 'lost' WHERE code = OLD.code; END;",
];

type Rows = BTreeMap<(String, String), Value>;

fn rows(conn: &Connection) -> Rows {
    let mut out = Rows::new();
    for table in TABLES {
        let mut s = conn.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let names: Vec<String> = s.column_names().map(str::to_owned).collect();
        let mut rows = s.query([]).unwrap();
        while let Some(r) = rows.next().unwrap() {
            let cell = |i: usize| r.get::<_, Option<String>>(i).unwrap().map_or(Value::Null, Value::String);
            let row: Map<String, Value> = names.iter().enumerate().map(|(i, n)| (n.clone(), cell(i))).collect();
            out.insert((table.to_owned(), r.get(0).unwrap()), Value::Object(row));
        }
    }
    out
}

/// Every entry, in the order in which they were made.
fn inbox(d: &Device) -> Vec<InboxRow> {
    let c = d.client();
    let mut all: Vec<_> = [c.discarded(), c.conflicts(), c.rejected()].into_iter().flat_map(Result::unwrap).collect();
    all.sort_by_key(|e| e.id);
    all
}

/// The rows that are not as the app left them, and of which no entry has the row.
fn untold(before: &Rows, after: &Rows, entries: &[InboxRow]) -> Vec<String> {
    let read = |row: &Option<String>| row.as_ref().and_then(|r| serde_json::from_str::<Value>(r).ok());
    let mut out = Vec::new();
    for ((table, id), row) in before {
        let now = after.get(&(table.clone(), id.clone()));
        if now == Some(row) {
            continue;
        }
        // A row may change first and leave then: the entry of the one leads to that of the other.
        let mut versions = vec![row.clone()];
        let mut told = false;
        for e in entries.iter().filter(|e| e.table == *table) {
            if read(&e.local_row).is_some_and(|local| versions.contains(&local)) {
                told |= now.is_some() || e.kind != "conflict";
                versions.extend(read(&e.merged_row));
            }
        }
        if !told {
            out.push(format!("{table} {row} is now {now:?}"));
        }
    }
    out
}

fn id() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned)
}

fn reference() -> impl Strategy<Value = String> {
    prop_oneof![4 => id().prop_map(|i| format!("'{i}'")), 1 => Just("NULL".to_owned())]
}

fn statement() -> impl Strategy<Value = String> {
    let v = prop::sample::select(vec!["x", "y", "Z"]);
    prop_oneof![
        3 => (id(), reference(), v.clone()).prop_map(|(i, c, v)| format!("INSERT OR IGNORE INTO p VALUES ('{i}', {c}, '{v}')")),
        3 => (id(), reference(), reference(), v.clone())
            .prop_map(|(i, p, c, v)| format!("INSERT OR IGNORE INTO c VALUES ('{i}', {p}, {c}, '{v}')")),
        3 => (id(), reference(), reference(), v.clone())
            .prop_map(|(i, c, g, v)| format!("INSERT OR IGNORE INTO g VALUES ('{i}', {c}, {g}, '{v}')")),
        2 => (prop::sample::select(TABLES.to_vec()), id(), v.clone())
            .prop_map(|(t, i, v)| format!("UPDATE {t} SET v = '{v}' WHERE id = '{i}'")),
        3 => (prop::sample::select(TABLES.to_vec()), id(), id())
            .prop_map(|(t, i, j)| format!("UPDATE OR IGNORE {t} SET id = '{j}' WHERE id = '{i}'")),
        2 => (prop::sample::select(TABLES.to_vec()), id(), id())
            .prop_map(|(t, i, j)| format!("UPDATE OR REPLACE {t} SET id = '{j}' WHERE id = '{i}'")),
        2 => (id(), reference(), v).prop_map(|(i, c, v)| format!("INSERT OR REPLACE INTO p VALUES ('{i}', {c}, '{v}')")),
        3 => (prop::sample::select(TABLES.to_vec()), id()).prop_map(|(t, i)| format!("DELETE FROM {t} WHERE id = '{i}'")),
        1 => (id(), reference()).prop_map(|(i, p)| format!("UPDATE c SET p = {p} WHERE id = '{i}'")),
    ]
}

fn actions() -> impl Strategy<Value = [&'static str; 4]> {
    let one = || prop::sample::select(vec!["NO ACTION", "RESTRICT", "CASCADE", "CASCADE", "SET NULL"]);
    [one(), one(), one(), one()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 6, ..ProptestConfig::default() })]

    #[test]
    fn what_leaves_or_changes_here_is_told(
        delete in actions(),
        update in actions(),
        rule in 0..RULES.len(),
        foreign_keys in any::<bool>(),
        seed in proptest::collection::vec(statement(), 4..16),
        rounds in proptest::collection::vec((proptest::collection::vec(statement(), 1..6), 0..3), 1..4),
    ) {
        let rules = Some(RULES[rule]).filter(|r| !r.is_empty());
        let w = World::ruled(&schema(&delete, &update), Limits::default(), rules);
        let a = w.device("a");
        let run = |sql: &str| { let _ = a.app.execute_batch(sql); };
        seed.iter().for_each(|sql| run(sql));
        a.sync();
        a.app.pragma_update(None, "foreign_keys", foreign_keys).unwrap();
        for (statements, by_snapshot) in &rounds {
            statements.iter().for_each(|sql| run(sql));
            let before = rows(&a.app);
            if *by_snapshot == 0 {
                a.client().push().unwrap();
                a.client().rebuild().unwrap();
            }
            a.sync();
            let untold = untold(&before, &rows(&a.app), &inbox(&a));
            prop_assert!(untold.is_empty(), "{untold:?} {:?}", inbox(&a));
        }
    }
}
