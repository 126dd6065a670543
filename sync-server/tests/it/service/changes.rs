//! What a push does to the rows, and what its bundle says of it.

use serde_json::json;

use super::{NOTES, World, code, delete, insert, member, row, summary, update};

#[test]
fn partial_payloads_and_defaults() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    a.push(1, &[insert("notes", json!({"id": "n1", "body": "x"}))]).unwrap();
    a.push(2, &[update("notes", 1, json!({"id": "n1", "body": "y"}))]).unwrap();
    let bundles = a.pull(0).unwrap()["bundles"].clone();
    assert_eq!(bundles[0]["rows"][0]["payload"], json!({"body": "x", "id": "n1", "n": 7}));
    assert_eq!(bundles[1]["rows"][0]["payload"], json!({"body": "y", "id": "n1", "n": 7}));
    assert_eq!(bundles[1]["rows"][0]["row_version"], 2);
}

#[test]
fn cascades_are_in_the_bundle() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let rows = [
        insert("tags", json!({"id": "t1", "note": "n1", "name": "a"})),
        insert("tags", json!({"id": "t2", "note": null, "name": "b"})),
        insert("notes", json!({"id": "n1"})),
    ];
    a.push(1, &rows).unwrap();
    let done = a.push(2, &[delete("notes", 1, "n1")]).unwrap();
    assert_eq!(done.row_count, 2);
    let mut bundle = summary(&a.rows(2, None, None).unwrap()["rows"]);
    bundle.sort();
    assert_eq!(bundle, ["DELETE notes n1", "DELETE tags t1"]);
    // The child is known as deleted: editing it conflicts.
    let e = a.push(3, &[update("tags", 1, json!({"id": "t1", "weight": 2}))]).unwrap_err();
    assert_eq!(e.message, "update conflict on main.tags t1: row does not exist");
    assert_eq!(
        (member(&e, "conflict")["server_row_deleted"].clone(), member(&e, "conflict")["server_row_version"].clone()),
        (json!(true), json!(2))
    );
    // Deleting child and parent in any order comes to the same.
    a.push(3, &[insert("notes", json!({"id": "n2"})), insert("tags", json!({"id": "t3", "note": "n2"}))]).unwrap();
    let done = a.push(4, &[delete("notes", 3, "n2"), delete("tags", 3, "t3")]).unwrap();
    assert_eq!(done.row_count, 2);
}

#[test]
fn set_null_and_composite_keys() {
    let w = World::new(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE);
         CREATE TABLE link (a INTEGER, b TEXT, p INTEGER REFERENCES p ON DELETE SET NULL,
                            code TEXT REFERENCES p(code) ON UPDATE CASCADE, PRIMARY KEY (a, b)) WITHOUT ROWID;",
    );
    let a = w.ready("a");
    let link = |op: &str, base: i64, payload: serde_json::Value| json!({"table": "link", "key": {"a": "-5", "b": "x y"}, "op": op, "base_row_version": base, "payload": payload});
    let first = a.push(
        1,
        &[
            link("INSERT", 0, json!({"a": -5, "b": "x y", "p": 1, "code": "c"})),
            insert("p", json!({"id": 1, "code": "c"})),
        ],
    );
    assert_eq!(first.unwrap().row_count, 2);
    a.push(2, &[update("p", 1, json!({"id": 1, "code": "d"}))]).unwrap();
    let rows = a.rows(2, None, None).unwrap()["rows"].clone();
    assert_eq!(summary(&rows), ["UPDATE link -5,x y", "UPDATE p 1"], "SQLite's own order: actions first");
    assert_eq!(rows[0]["payload"]["code"], "d");
    assert_eq!(rows[0]["key"], json!({"a": "-5", "b": "x y"}));
    a.push(3, &[link("UPDATE", 2, json!({"code": null})), delete("p", 2, "1")]).unwrap();
    let rows = a.rows(3, None, None).unwrap()["rows"].clone();
    assert_eq!(summary(&rows), ["UPDATE link -5,x y", "DELETE p 1"]);
    assert_eq!(rows[0]["payload"], json!({"a": -5, "b": "x y", "p": null, "code": null}));
}

#[test]
fn conflicts_are_all_named() {
    let w = World::new(NOTES);
    let (a, b) = (w.ready("a"), w.ready("b"));
    a.push(1, &[insert("notes", json!({"id": "n1", "body": "mine"})), insert("notes", json!({"id": "n2"}))]).unwrap();
    a.push(2, &[update("notes", 1, json!({"id": "n1", "body": "new"})), delete("notes", 1, "n2")]).unwrap();
    let push = b.stage(
        1,
        &[
            insert("notes", json!({"id": "n9"})),
            update("notes", 1, json!({"id": "n1", "body": "theirs"})),
            update("notes", 1, json!({"id": "n2", "body": "theirs"})),
        ],
    );
    let e = b.commit(&push).unwrap_err();
    assert_eq!(e.message, "update conflict on main.notes n1: expected version 2, got 1");
    let all = member(&e, "conflicts");
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(all[0], member(&e, "conflict"));
    assert_eq!(
        all[0],
        json!({"schema": "main", "table": "notes", "key": {"id": "n1"}, "op": "UPDATE", "base_row_version": 1,
               "server_row_version": 2, "server_row_deleted": false, "server_row": {"id": "n1", "body": "new", "n": 7}})
    );
    assert_eq!((&all[1]["server_row"], &all[1]["server_row_deleted"]), (&json!(null), &json!(true)));
    assert_eq!(code(b.commit(&push)), "push_conflict", "the session stays");
    assert_eq!(b.pull(2).unwrap()["bundles"], json!([]), "nothing was committed");
    assert_eq!(b.push(1, &[insert("notes", json!({"id": "n9"}))]).unwrap().bundle_seq, 3);
    // A tombstone is overcome by naming it.
    let back = row("INSERT", "notes", 2, json!({"id": "n2", "body": "back"}));
    assert_eq!(a.push(3, &[back]).unwrap().bundle_seq, 4);
}

#[test]
fn unique_values_may_move_within_a_push() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let tag = |id: &str, name: &str| json!({"id": id, "note": null, "name": name, "weight": 1});
    let names = ["a", "b", "c", "d"];
    let rows: Vec<_> = names.iter().map(|n| insert("tags", tag(&format!("t{n}"), n))).collect();
    a.push(1, &rows).unwrap();
    // A chain, its end free, in the order that blocks.
    let chain =
        [update("tags", 1, tag("ta", "b")), update("tags", 1, tag("tb", "c")), update("tags", 1, tag("tc", "x"))];
    assert_eq!(a.push(2, &chain).unwrap().row_count, 3);
    // A ring, and a row that takes the place of a deleted one.
    let ring = [
        insert("tags", tag("te", "d")),
        update("tags", 2, tag("ta", "c")),
        update("tags", 2, tag("tb", "x")),
        update("tags", 2, tag("tc", "b")),
        delete("tags", 1, "td"),
    ];
    let done = a.push(3, &ring).unwrap();
    assert_eq!(done.row_count, 5);
    let rows = a.rows(3, None, None).unwrap()["rows"].clone();
    let of = |id: &str| rows.as_array().unwrap().iter().find(|r| r["key"]["id"] == id).unwrap().clone();
    assert_eq!((of("ta")["payload"]["name"].clone(), of("tb")["payload"]["name"].clone()), (json!("c"), json!("x")));
    assert_eq!((of("tc")["payload"]["name"].clone(), of("tc")["op"].clone()), (json!("b"), json!("UPDATE")));
    assert_eq!(of("te")["op"], "INSERT");
}

/// Rows that refer to others by a UNIQUE value stay with them, in whatever order the values move.
#[test]
fn rows_stay_with_the_row_that_they_name_by_a_unique_value() {
    for (deferred, alone) in [("", false), ("DEFERRABLE INITIALLY DEFERRED", false), ("", true)] {
        for not_null in ["", "NOT NULL"] {
            let w = World::new(&format!(
                "CREATE TABLE lists (id TEXT PRIMARY KEY NOT NULL, code TEXT {not_null} UNIQUE);
                 CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL,
                   list TEXT REFERENCES lists(code) ON UPDATE CASCADE {deferred})"
            ));
            let a = w.ready("a");
            let list = |id: &str, code: &str| json!({"id": id, "code": code});
            let item = |id: &str, list: &str| json!({"id": id, "list": list});
            let lists = [insert("lists", list("l", "A")), insert("lists", list("m", "B"))];
            let items = [insert("items", item("i", "A")), insert("items", item("j", "B"))];
            a.push(1, &[lists, items].concat()).unwrap();
            let swap = [
                update("lists", 1, list("l", "B")),
                update("lists", 1, list("m", "A")),
                update("items", 1, item("i", "B")),
                update("items", 1, item("j", "A")),
            ];
            // Also from an app that leaves the cascade to the server.
            a.push(2, &swap[..if alone { 2 } else { 4 }]).unwrap();
            let rows = a.rows(2, None, None).unwrap()["rows"].clone();
            let of =
                |id: &str| rows.as_array().unwrap().iter().find(|r| r["key"]["id"] == id).unwrap()["payload"].clone();
            assert_eq!((of("l"), of("m")), (list("l", "B"), list("m", "A")), "{deferred} {not_null}");
            assert_eq!((of("i"), of("j")), (item("i", "B"), item("j", "A")), "{deferred} {not_null}");
        }
    }
}

#[test]
fn a_long_shift_of_unique_values() {
    let w = World::new("CREATE TABLE item (id INTEGER PRIMARY KEY, place INTEGER NOT NULL UNIQUE)");
    let a = w.ready("a");
    let rows: Vec<_> = (0..500).map(|i| insert("item", json!({"id": i, "place": i}))).collect();
    a.push(1, &rows).unwrap();
    // Everything moves one place on, in an order that no direction of passes resolves at once.
    let moved: Vec<_> =
        (0..500).map(|i| (i * 7) % 500).map(|i| update("item", 1, json!({"id": i, "place": (i + 1) % 500}))).collect();
    assert_eq!(a.push(2, &moved).unwrap().row_count, 500);
}

#[test]
fn rules_run_and_are_captured() {
    let rules = "CREATE TRIGGER stamp AFTER INSERT ON notes BEGIN UPDATE notes SET n = 99 WHERE id = NEW.id; END;
                 CREATE TRIGGER tag AFTER INSERT ON notes BEGIN INSERT INTO tags (id, note) VALUES ('t-' || NEW.id, NEW.id); END;";
    let schema = format!(
        "{NOTES} CREATE TABLE audit (what TEXT); CREATE VIRTUAL TABLE fts USING fts5(body);
         CREATE TRIGGER app AFTER INSERT ON notes BEGIN INSERT INTO fts VALUES (NEW.body); INSERT INTO audit VALUES ('x'); END;"
    );
    let w = World::with(&schema, |c| c.rules_sql = Some(rules.into()));
    let a = w.ready("a");
    let done = a.push(1, &[insert("notes", json!({"id": "n1", "body": "x"}))]).unwrap();
    assert_eq!(done.row_count, 2);
    let rows = a.rows(1, None, None).unwrap()["rows"].clone();
    let mut s = summary(&rows);
    s.sort();
    assert_eq!(s, ["INSERT notes n1", "INSERT tags t-n1"]);
    let note = rows.as_array().unwrap().iter().find(|r| r["table"] == "notes").unwrap();
    assert_eq!(note["payload"]["n"], 99);
}

#[test]
fn a_tree_goes_in_any_order() {
    let w = World::new("CREATE TABLE tree (id INTEGER PRIMARY KEY, up INTEGER REFERENCES tree ON DELETE RESTRICT)");
    let a = w.ready("a");
    let up = |i: i64| if i == 0 { json!(null) } else { json!(i - 1) };
    let rows: Vec<_> =
        (0..100).map(|i| (i * 37) % 100).map(|i| insert("tree", json!({"id": i, "up": up(i)}))).collect();
    a.push(1, &rows).unwrap();
    let gone: Vec<_> = (0..100).map(|i| (i * 63) % 100).map(|i: i64| delete("tree", 1, &i.to_string())).collect();
    assert_eq!(a.push(2, &gone).unwrap().row_count, 100);
}

/// A blocked update is not overtaken by the cascade of a delete behind it.
#[test]
fn a_row_moved_away_survives_its_old_parent() {
    let w = World::new(
        "CREATE TABLE list (id TEXT PRIMARY KEY);
         CREATE TABLE card (id TEXT PRIMARY KEY, list TEXT NOT NULL REFERENCES list ON DELETE CASCADE, pos INTEGER, UNIQUE (list, pos));",
    );
    let a = w.ready("a");
    let card = |id: &str, list: &str, pos: i64| json!({"id": id, "list": list, "pos": pos});
    a.push(
        1,
        &[
            insert("list", json!({"id": "P"})),
            insert("list", json!({"id": "Q"})),
            insert("card", card("c1", "P", 1)),
            insert("card", card("c2", "Q", 1)),
        ],
    )
    .unwrap();
    a.push(2, &[update("card", 1, card("c1", "Q", 1)), update("card", 1, card("c2", "Q", 2)), delete("list", 1, "P")])
        .unwrap();
    let mut bundle = summary(&a.rows(2, None, None).unwrap()["rows"]);
    bundle.sort();
    assert_eq!(bundle, ["DELETE list P", "UPDATE card c1", "UPDATE card c2"]);
}

/// Parking touches only what a row is going to change.
#[test]
fn a_swap_leaves_other_unique_columns_alone() {
    let w = World::new(
        "CREATE TABLE p (id TEXT PRIMARY KEY, code TEXT UNIQUE, pos INTEGER UNIQUE);
         CREATE TABLE k (id TEXT PRIMARY KEY, code TEXT REFERENCES p(code) ON UPDATE SET NULL);",
    );
    let a = w.ready("a");
    let rows = [
        insert("p", json!({"id": "1", "code": "x", "pos": 1})),
        insert("p", json!({"id": "2", "code": "y", "pos": 2})),
        insert("k", json!({"id": "k", "code": "x"})),
    ];
    a.push(1, &rows).unwrap();
    a.push(2, &[update("p", 1, json!({"id": "1", "pos": 2})), update("p", 1, json!({"id": "2", "pos": 1}))]).unwrap();
    let rows = a.rows(2, None, None).unwrap()["rows"].clone();
    let mut sorted = summary(&rows);
    sorted.sort();
    assert_eq!(sorted, ["UPDATE p 1", "UPDATE p 2"], "the child is not touched");
    let payloads: Vec<_> = rows.as_array().unwrap().iter().map(|r| r["payload"].clone()).collect();
    assert!(payloads.contains(&json!({"code": "x", "id": "1", "pos": 2})), "{payloads:?}");
    assert!(payloads.contains(&json!({"code": "y", "id": "2", "pos": 1})), "{payloads:?}");
}

/// The same row twice in one push, the second time on the version that the push itself will have.
#[test]
fn a_target_comes_once() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let push = a.stage(1, &[insert("notes", json!({"id": "n"})), insert("notes", json!({"id": "m"}))]);
    a.commit(&push).unwrap();
    let twice = a.create(2, 2, None).unwrap().push_id.unwrap();
    a.chunk(&twice, 0, &[update("notes", 1, json!({"id": "n", "body": "a"}))]).unwrap();
    a.chunk(&twice, 1, &[update("notes", 2, json!({"id": "n", "body": "b"}))]).unwrap();
    assert_eq!(code(a.commit(&twice)), "push_commit_invalid");
}

/// What a partial UPDATE repeats is no change of it: a row that refers to itself, and that others refer to, by its key
/// or by a UNIQUE column.
#[test]
fn a_row_that_refers_to_itself_is_updated_in_part() {
    let w = World::new(
        "CREATE TABLE tree (id TEXT PRIMARY KEY NOT NULL, code TEXT UNIQUE, name TEXT, up TEXT REFERENCES tree(id),
           up_code TEXT REFERENCES tree(code));
         CREATE TABLE leaf (id TEXT PRIMARY KEY NOT NULL, up TEXT REFERENCES tree(id));",
    );
    let a = w.ready("a");
    let rows = [
        insert("tree", json!({"id": "k", "code": "c", "name": "n", "up": "k", "up_code": "c"})),
        insert("tree", json!({"id": "child", "up": "k", "up_code": "c"})),
        insert("leaf", json!({"id": "l", "up": "k"})),
    ];
    a.push(1, &rows).unwrap();
    let parts = [
        json!({"id": "k", "name": "m"}),
        json!({"id": "k", "code": "c", "name": "o"}),
        json!({"id": "k", "code": "c", "up": "k"}),
        json!({"id": "k", "up_code": "c"}),
        json!({"id": "k"}),
        json!({"id": "k", "code": "c", "name": "n", "up": "k", "up_code": "c"}),
    ];
    for (n, part) in parts.into_iter().enumerate() {
        let seq = n as i64 + 1;
        let done = a.push(seq + 1, &[update("tree", seq, part.clone())]).unwrap_or_else(|e| panic!("{part}: {e:?}"));
        assert_eq!(done.row_count, 1, "{part}");
    }
    let last = a.rows(7, None, None).unwrap()["rows"][0]["payload"].clone();
    assert_eq!(last, json!({"id": "k", "code": "c", "name": "n", "up": "k", "up_code": "c"}));
}
