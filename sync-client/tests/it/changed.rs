//! What the app is told is what changed in its file: the file before and after each sync is compared
//! with the events, key by key.

use std::collections::BTreeMap;

use sync_client::{Event, Policy, Resolution};
use sync_server::limits::Limits;

use crate::world::{Device, SCHEMA, World, converge};

type Rows = BTreeMap<(String, String), String>;

/// Every row by table and key object.
fn rows(d: &Device) -> Rows {
    let keys = [
        ("people", "'{\"id\":\"' || id || '\"}'", "quote(name) || quote(email) || quote(age)"),
        ("notes", "'{\"id\":\"' || id || '\"}'", "quote(person) || quote(body)"),
        ("tags", "'{\"note\":\"' || note || '\",\"tag\":\"' || tag || '\"}'", "''"),
        ("counters", "'{\"id\":\"' || id || '\"}'", "label"),
        ("marks", "'{\"id\":\"' || id || '\"}'", "counter || text"),
    ];
    let mut out = Rows::new();
    for (table, key, row) in keys {
        let mut s = d.app.prepare(&format!("SELECT {key}, {row} FROM {table}")).unwrap();
        let found = s.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?))).unwrap();
        for row in found {
            let (key, row) = row.unwrap();
            out.insert((table.to_owned(), key), row);
        }
    }
    out
}

/// Does something with a device, and checks what it was told. True stands for a row that is gone.
pub(crate) fn told(d: &Device, what: &str, act: impl FnOnce(&Device)) -> BTreeMap<(String, String), bool> {
    let before = rows(d);
    d.events.lock().unwrap().clear();
    act(d);
    let after = rows(d);
    let mut expected = BTreeMap::new();
    for k in before.keys().chain(after.keys()) {
        if before.get(k) != after.get(k) {
            expected.insert(k.clone(), !after.contains_key(k));
        }
    }
    let mut told = BTreeMap::new();
    for e in d.events.lock().unwrap().iter() {
        if let Event::Changed { table, keys, deleted, .. } = e {
            told.extend(keys.iter().map(|k| ((table.clone(), k.clone()), false)));
            told.extend(deleted.iter().map(|k| ((table.clone(), k.clone()), true)));
        }
    }
    // A row that came and went within one sync is told as gone, though it was not there before.
    told.retain(|k, gone| !*gone || before.contains_key(k));
    assert_eq!(told, expected, "{what}");
    told
}

fn sync(d: &Device) {
    d.sync();
}

struct Case {
    what: &'static str,
    base: &'static str,
    first: &'static str,
    second: &'static str,
    /// Changes that the second device must at least be told of.
    least: usize,
}

/// The first device wins everything that can be won; the second one is told what that did to its file.
#[test]
fn every_kind_of_change_is_told() {
    let cases = [
        Case {
            what: "rows come",
            base: "",
            first: "INSERT INTO people (id) VALUES ('p'), ('q')",
            second: "",
            least: 2,
        },
        Case {
            what: "a row changes, another goes",
            base: "INSERT INTO people (id) VALUES ('p'), ('q')",
            first: "UPDATE people SET name = 'n' WHERE id = 'p'; DELETE FROM people WHERE id = 'q'",
            second: "",
            least: 2,
        },
        Case {
            what: "a cascade",
            base: "INSERT INTO people (id) VALUES ('p'); INSERT INTO notes VALUES ('n', 'p', 'x'); INSERT INTO tags VALUES ('n', 't')",
            first: "DELETE FROM people",
            second: "",
            least: 3,
        },
        Case {
            what: "a key changes",
            base: "INSERT INTO people (id, email) VALUES ('p', 'e')",
            first: "UPDATE people SET id = 'r'",
            second: "",
            least: 2,
        },
        Case {
            what: "unique values are swapped",
            base: "INSERT INTO people (id, email) VALUES ('p', 'x'), ('q', 'y')",
            first: "UPDATE people SET email = NULL; UPDATE people SET email = 'y' WHERE id = 'p'; UPDATE people SET email = 'x' WHERE id = 'q'",
            second: "",
            least: 2,
        },
        Case {
            what: "a local edit loses",
            base: "INSERT INTO people (id) VALUES ('p')",
            first: "UPDATE people SET name = 'a'",
            second: "UPDATE people SET name = 'b'",
            least: 1,
        },
        Case {
            what: "a local delete loses",
            base: "INSERT INTO people (id) VALUES ('p')",
            first: "UPDATE people SET name = 'a'",
            second: "DELETE FROM people",
            least: 1,
        },
        Case {
            what: "both did the same",
            base: "INSERT INTO people (id) VALUES ('p')",
            first: "UPDATE people SET name = 'a'",
            second: "UPDATE people SET name = 'a'",
            least: 0,
        },
        Case {
            what: "a row is displaced by a unique value, with what refers to it",
            base: "",
            first: "INSERT INTO people (id, email) VALUES ('p', 'same')",
            second: "INSERT INTO people (id, email) VALUES ('q', 'same'); INSERT INTO notes VALUES ('n', 'q', 'x')",
            least: 3,
        },
        Case {
            what: "a displaced edit goes back to its base",
            base: "INSERT INTO people (id, email) VALUES ('q', 'own')",
            first: "INSERT INTO people (id, email) VALUES ('p', 'same')",
            second: "UPDATE people SET email = 'same'",
            least: 2,
        },
        Case {
            what: "a parent is deleted under a local edit",
            base: "INSERT INTO people (id) VALUES ('p'); INSERT INTO notes VALUES ('n', 'p', 'x')",
            first: "DELETE FROM people",
            second: "UPDATE notes SET body = 'edited'",
            least: 2,
        },
        Case {
            what: "a delete is contradicted and undone",
            base: "INSERT INTO people (id) VALUES ('p')",
            first: "INSERT INTO notes VALUES ('n', 'p', 'x')",
            second: "DELETE FROM people",
            least: 2,
        },
        Case {
            what: "numbers minted twice",
            base: "",
            first: "INSERT INTO counters VALUES (1, 'a')",
            second: "INSERT INTO counters VALUES (1, 'b'); INSERT INTO marks VALUES ('m', 1, 'x')",
            least: 3,
        },
    ];
    for pull_first in [false, true] {
        for c in &cases {
            let w = World::new();
            let (a, b) = (w.device("a"), w.device("b"));
            a.sql("INSERT INTO counters VALUES (99, 'there')");
            a.sql(c.base);
            told(&a, c.what, sync);
            told(&b, c.what, sync);
            a.sql(c.first);
            let nothing = told(&a, c.what, sync);
            assert!(nothing.is_empty(), "{}: an own push changes nothing here: {nothing:?}", c.what);
            b.sql(c.second);
            let mut changes = BTreeMap::new();
            if pull_first {
                changes.extend(told(&b, c.what, |d| {
                    d.client().pull().unwrap();
                }));
            }
            changes.extend(told(&b, c.what, sync));
            assert!(changes.len() >= c.least || !pull_first, "{}: {changes:?}", c.what);
            told(&a, c.what, sync);
            told(&b, c.what, |d| {
                d.client().rebuild().unwrap();
            });
            converge(&[&a, &b]);
        }
    }
}

/// A rebuild tells what differs, and no more.
#[test]
fn a_rebuild_tells_what_differs() {
    let w = World::with(SCHEMA, Limits { retained_bundles: 1, ..Limits::default() });
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p'), ('q'), ('r')");
    converge(&[&a, &b]);
    for i in 0..4 {
        a.sql(&format!("UPDATE people SET age = {i} WHERE id = 'p'"));
        a.sync();
    }
    a.sql("DELETE FROM people WHERE id = 'q'");
    a.sync();
    let changes = told(&b, "pruned", |d| assert!(d.sync().pull.rebuilt));
    assert_eq!(changes.len(), 2);
}

/// Merges, by columns and by the app.
#[test]
fn merges_are_told() {
    let resolver = |c: &sync_client::Conflict| {
        let mut row = c.local.clone().unwrap();
        row.insert("name".into(), "merged".into());
        Resolution::Merged(row)
    };
    let policies = [
        Policy::Custom(std::sync::Arc::new(resolver)),
        Policy::ClientWins,
        Policy::MergeColumns(sync_client::Tie::Server),
    ];
    for (n, policy) in policies.into_iter().enumerate() {
        let w = World::new();
        let (a, b) = (w.device("a"), w.device_with("b", policy, |_| {}));
        a.sql("INSERT INTO people (id, name, age) VALUES ('p', 'x', 1)");
        converge(&[&a, &b]);
        a.sql("UPDATE people SET name = 'a'");
        a.sync();
        b.sql("UPDATE people SET age = 2");
        told(&b, "merge", sync);
        assert_eq!(b.text("SELECT name FROM people"), ["merged", "x", "a"][n]);
        told(&a, "merge", sync);
    }
}

/// What the server's rules make of an own push is told, with this device as the source; rows that they
/// left alone are not.
#[test]
fn an_own_push_that_the_server_changed_is_told() {
    let data = tempfile::tempdir().unwrap();
    let mut config = sync_server::service::ServiceConfig::new(data.path(), SCHEMA);
    config.rules_sql = Some(
        "CREATE TRIGGER stamp AFTER INSERT ON people WHEN NEW.name = 'stamp' BEGIN UPDATE people SET age = 77 WHERE id = NEW.id; END;
         CREATE TRIGGER eat AFTER INSERT ON people WHEN NEW.name = 'eat' BEGIN DELETE FROM people WHERE id = NEW.id; END;
         CREATE TRIGGER more AFTER INSERT ON people WHEN NEW.name = 'more' BEGIN INSERT INTO counters (id, label) VALUES (5, 'made'); END;"
            .into(),
    );
    let clock = std::sync::Arc::new(crate::world::Clock::default());
    let service = sync_server::service::Service::open(config, clock).unwrap();
    let server =
        sync_server::Server::start("127.0.0.1:0", sync_server::router(service, sync_server::auth::DevAuth)).unwrap();
    let w = World::new();
    let mut a = w.device("a");
    a.serve_at(&server.url());
    a.sql("INSERT INTO people (id, name) VALUES ('plain', 'x'), ('s', 'stamp'), ('e', 'eat'), ('m', 'more')");
    let changes = told(&a, "rules", sync);
    let of = |table: &str, key: &str| changes.get(&(table.to_owned(), format!("{{\"id\":\"{key}\"}}"))).copied();
    assert_eq!(
        (of("people", "plain"), of("people", "s"), of("people", "e"), of("counters", "5")),
        (None, Some(false), Some(true), Some(false))
    );
    let source = a.client().status().unwrap().source_id;
    let events = a.events.lock().unwrap();
    let by: Vec<&String> = events
        .iter()
        .filter_map(|e| if let Event::Changed { source_id, .. } = e { Some(source_id) } else { None })
        .collect();
    assert!(by.iter().all(|s| **s == source) && !by.is_empty(), "{by:?}");
}
