//! Rows that the schema or a rule refuses: all named, nothing committed, the session kept.

use serde_json::{Value, json};
use sync_core::protocol::{ApiError, Code};

use super::{NOTES, World, code, delete, insert, member, update};

/// `ordinal kind columns` of each rejection.
fn kinds(e: &ApiError) -> Vec<String> {
    assert_eq!(e.code, Code::PushRejected, "{e:?}");
    let one = |r: &Value| {
        assert_eq!(r["schema"], "main");
        let columns: Vec<&str> = r["columns"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
        format!("{} {} {}", r["row_ordinal"], r["kind"].as_str().unwrap(), columns.join(","))
    };
    member(e, "rejections").as_array().unwrap().iter().map(one).collect()
}

#[test]
fn every_kind_at_once() {
    let schema = format!(
        "{NOTES} CREATE TABLE strict (id TEXT PRIMARY KEY NOT NULL, i INTEGER) STRICT;
         CREATE TABLE num (id INTEGER PRIMARY KEY, v);"
    );
    let rules =
        "CREATE TRIGGER no AFTER INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ABORT, 'no bad bodies'); END;
                 CREATE TRIGGER quiet BEFORE INSERT ON notes WHEN NEW.body = 'quiet' BEGIN SELECT RAISE(IGNORE); END;";
    let w = World::with(&schema, |c| c.rules_sql = Some(rules.into()));
    let a = w.ready("a");
    a.push(1, &[insert("tags", json!({"id": "t0", "note": null, "name": "taken"}))]).unwrap();
    let rows = [
        insert("notes", json!({"id": "good"})),
        insert("tags", json!({"id": "t1", "name": "taken"})),
        insert("tags", json!({"id": "t2", "weight": null})),
        insert("tags", json!({"id": "t3", "weight": 0})),
        insert("tags", json!({"id": "t4", "note": "nowhere"})),
        insert("notes", json!({"id": "n5", "colour": "red"})),
        insert("strict", json!({"id": "s6", "i": "text"})),
        insert("notes", json!({"id": "n7", "body": "bad"})),
        insert("notes", json!({"id": "n8", "body": "quiet"})),
    ];
    let push = a.stage(2, &rows);
    let e = a.commit(&push).unwrap_err();
    assert_eq!(
        kinds(&e),
        [
            "1 unique name",
            "2 not_null weight",
            "3 check ",
            "4 foreign_key note",
            "5 unknown_column colour",
            "6 type ",
            "7 rule ",
            "8 rule "
        ]
    );
    let list = member(&e, "rejections");
    assert_eq!((list[0]["table"].clone(), list[0]["key"].clone()), (json!("tags"), json!({"id": "t1"})));
    assert_eq!(list[6]["message"], "no bad bodies");
    assert_eq!(code(a.commit(&push)), "push_rejected", "the session stays");
    assert_eq!(a.pull(0).unwrap()["stable_bundle_seq"], 1);
    assert_eq!(a.push(2, &rows[..1]).unwrap().bundle_seq, 2, "the good row alone commits under the same id");
}

/// What a row comes to by the schema has a bound, whatever few bytes were sent; the rows beside it go.
#[test]
fn what_the_schema_makes_of_a_row_has_a_bound() {
    let schema = "
        CREATE TABLE stored (id TEXT PRIMARY KEY NOT NULL, n INTEGER,
            g TEXT GENERATED ALWAYS AS (printf('%.*c', n, 'x')) STORED);
        CREATE TABLE indexed (id TEXT PRIMARY KEY NOT NULL, n INTEGER, g BLOB AS (zeroblob(n)));
        CREATE INDEX by_g ON indexed(g);
        CREATE TABLE checked (id TEXT PRIMARY KEY NOT NULL, n INTEGER CHECK (length(hex(zeroblob(n))) >= 0));
        CREATE TABLE filled (id TEXT PRIMARY KEY NOT NULL, b BLOB DEFAULT (zeroblob(500000000)), c TEXT);
        CREATE TABLE plain (id TEXT PRIMARY KEY NOT NULL, body TEXT);
        CREATE TABLE written (id TEXT PRIMARY KEY NOT NULL, body TEXT);";
    let rules = "CREATE TRIGGER r AFTER INSERT ON plain WHEN NEW.body = 'much' BEGIN
        INSERT INTO written VALUES (NEW.id, printf('%.*c', 500000000, 'x')); END;";
    let w = World::with(schema, |c| {
        c.rules_sql = Some(rules.into());
        c.limits.max_bytes_per_row = 100_000;
    });
    let a = w.ready("a");
    let n = |table: &str, id: &str, n: i64| insert(table, json!({"id": id, "n": n}));
    // What is long beside what was sent, and fits every machine, is taken as ever: also beyond max_bytes_per_row.
    let fit = [n("stored", "s", 1_000_000), n("indexed", "i", 1_000_000), n("checked", "c", 1_000_000)];
    a.push(1, &fit).unwrap();
    let rows = [
        insert("plain", json!({"id": "p", "body": "x".repeat(90_000)})),
        n("stored", "s1", 500_000_000),
        n("stored", "s2", 17 << 20),
        n("indexed", "i1", 500_000_000),
        n("checked", "c1", 400_000_000),
        insert("filled", json!({"id": "f"})),
        insert("filled", json!({"id": "f2", "b": null, "c": "x"})),
        insert("plain", json!({"id": "q", "body": "much"})),
        update("stored", 1, json!({"id": "s", "n": 500_000_000})),
    ];
    let e = a.push(2, &rows).unwrap_err();
    let refused = [1, 2, 3, 4, 5, 7, 8].map(|i| format!("{i} too_large "));
    assert_eq!(kinds(&e), refused);
    let said = member(&e, "rejections")[0]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("generated column") && said.contains("longer than the 16777216 bytes"), "{said}");
    a.push(2, &[rows[0].clone(), rows[6].clone(), update("stored", 1, json!({"id": "s", "n": 2}))]).unwrap();

    // Long rows have their room, also where something short touches them: an UPDATE that leaves most of one alone, a
    // cascade from another table, a rule. However long a row is, it goes.
    let schema = "
        CREATE TABLE album (id TEXT PRIMARY KEY NOT NULL, name TEXT UNIQUE);
        CREATE TABLE photo (id TEXT PRIMARY KEY NOT NULL, album TEXT REFERENCES album(name) ON UPDATE CASCADE ON DELETE SET NULL,
            n INTEGER, body TEXT, twice TEXT AS (body || body) STORED);
        CREATE TABLE tap (id TEXT PRIMARY KEY NOT NULL);";
    let rules = "CREATE TRIGGER r AFTER INSERT ON tap BEGIN UPDATE photo SET n = n + 1; END;";
    let w = World::with(schema, |c| c.rules_sql = Some(rules.into()));
    let a = w.ready("a");
    let photo = json!({"id": "p", "album": "x", "n": 1, "body": "x".repeat(17 << 20)});
    a.push(1, &[insert("album", json!({"id": "a", "name": "x"})), insert("photo", photo)]).unwrap();
    a.push(2, &[update("photo", 1, json!({"id": "p", "n": 2}))]).unwrap();
    a.push(3, &[insert("tap", json!({"id": "t"}))]).unwrap();
    a.push(4, &[update("album", 1, json!({"id": "a", "name": "y"}))]).unwrap();
    let page = a.rows(4, None, None).unwrap();
    let moved = page["rows"].as_array().unwrap().iter().find(|r| r["table"] == "photo").unwrap();
    assert_eq!((&moved["payload"]["n"], &moved["payload"]["album"]), (&json!(3), &json!("y")));
    a.push(5, &[delete("album", 4, "a")]).unwrap();
    a.push(6, &[delete("photo", 5, "p")]).unwrap();
}

/// The same of a table in which no row fits at all: the others go, also when the schema changes.
#[test]
fn a_table_that_takes_no_row_stops_no_other() {
    let none = "CREATE TABLE none (id TEXT PRIMARY KEY NOT NULL, g TEXT AS (printf('%.*c', 500000000, 'x')) STORED);";
    let mut w = World::new(&format!("{NOTES} {none}"));
    let rows = [insert("notes", json!({"id": "n"})), insert("none", json!({"id": "x"}))];
    assert_eq!(kinds(&w.ready("a").push(1, &rows).unwrap_err()), ["1 too_large "]);
    w.open(&format!("{NOTES} {none} CREATE TABLE more (id TEXT PRIMARY KEY NOT NULL);")).unwrap();
    w.device("ann", "a").push(1, &[insert("notes", json!({"id": "n"})), insert("more", json!({"id": "m"}))]).unwrap();
}

#[test]
fn without_rules_the_same_is_found() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    a.push(1, &[insert("notes", json!({"id": "n1"})), insert("tags", json!({"id": "t1", "note": "n1", "name": "x"}))])
        .unwrap();
    let e = a.push(2, &[insert("tags", json!({"id": "t2", "note": "gone", "name": null, "weight": 1}))]).unwrap_err();
    assert_eq!(kinds(&e), ["0 foreign_key note"]);
    let e = a.push(2, &[insert("tags", json!({"id": "t2", "note": null, "name": "x", "weight": 1}))]).unwrap_err();
    assert_eq!(kinds(&e), ["0 unique name"]);
    // A parent that rows refer to, without an action to take them along.
    let w = World::new(
        "CREATE TABLE p (id TEXT PRIMARY KEY); CREATE TABLE c (id TEXT PRIMARY KEY, p TEXT REFERENCES p);
                        CREATE TABLE r (id TEXT PRIMARY KEY, p TEXT REFERENCES p ON DELETE RESTRICT);",
    );
    let a = w.ready("a");
    let rows = ["p1", "p2"].map(|id| insert("p", json!({"id": id})));
    a.push(1, &rows).unwrap();
    a.push(2, &[insert("c", json!({"id": "c1", "p": "p1"})), insert("r", json!({"id": "r1", "p": "p2"}))]).unwrap();
    let e = a.push(3, &[delete("p", 1, "p1"), delete("p", 1, "p2")]).unwrap_err();
    assert_eq!(kinds(&e), ["0 foreign_key ", "1 foreign_key "]);
    // Together with the children, in the order that blocks, they go.
    let all = [delete("p", 1, "p1"), delete("p", 1, "p2"), delete("c", 2, "c1"), delete("r", 2, "r1")];
    assert_eq!(a.push(3, &all).unwrap().row_count, 4);
}

#[test]
fn an_orphan_that_was_there_hides_no_new_one() {
    let mut w = World::new(NOTES);
    w.ready("a").push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    w.service = None;
    let path = w.dir.path().join("scopes").join(format!("{}.db", blake3::hash(b"ann").to_hex()));
    let conn = rusqlite::Connection::open(path).unwrap();
    let guard = conn.execute("INSERT INTO tags (id, note) VALUES ('old', 'later')", []).unwrap_err();
    assert!(guard.to_string().contains("write through the server"), "{guard}");
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    conn.execute("INSERT INTO tags (id, note) VALUES ('old', 'later')", []).unwrap();
    drop(conn);
    w.restart();
    // The parent of the old orphan brings SQLite's counter down by one, the new orphan up by one.
    let a = w.device("ann", "a");
    let e = a.push(
        2,
        &[insert("tags", json!({"id": "t1", "note": "nowhere", "name": "q"})), insert("notes", json!({"id": "later"}))],
    );
    assert_eq!(kinds(&e.unwrap_err()), ["0 foreign_key note"]);
}

#[test]
fn no_effect_is_said() {
    let rules = "CREATE TRIGGER undo AFTER INSERT ON notes BEGIN DELETE FROM notes WHERE id = NEW.id; END;";
    let w = World::with(NOTES, |c| c.rules_sql = Some(rules.into()));
    let a = w.ready("a");
    let e = a.push(1, &[insert("notes", json!({"id": "n1"})), insert("notes", json!({"id": "n2"}))]).unwrap_err();
    assert_eq!(kinds(&e), ["0 no_effect ", "1 no_effect "]);
    let mixed = [insert("notes", json!({"id": "n1"})), insert("tags", json!({"id": "t1"}))];
    assert_eq!(a.push(1, &mixed).unwrap().row_count, 1);
}

#[test]
fn a_ring_that_cannot_be_parked() {
    let w = World::new("CREATE TABLE seat (id TEXT PRIMARY KEY, n INTEGER NOT NULL UNIQUE CHECK (n BETWEEN 1 AND 9));");
    let a = w.ready("a");
    a.push(1, &[insert("seat", json!({"id": "a", "n": 1})), insert("seat", json!({"id": "b", "n": 2}))]).unwrap();
    let swap = [update("seat", 1, json!({"id": "a", "n": 2})), update("seat", 1, json!({"id": "b", "n": 1}))];
    assert_eq!(kinds(&a.push(2, &swap).unwrap_err()), ["0 unique_ring n", "1 unique_ring n"]);
    let taken = [insert("seat", json!({"id": "c", "n": 2}))];
    assert_eq!(kinds(&a.push(2, &taken).unwrap_err()), ["0 unique n"]);
}

#[test]
fn conflict_clauses_of_the_ddl_do_not_act() {
    for clause in ["REPLACE", "IGNORE", "ROLLBACK", "FAIL"] {
        let w = World::new(&format!(
            "CREATE TABLE t (id TEXT PRIMARY KEY, u TEXT UNIQUE ON CONFLICT {clause}, v TEXT NOT NULL ON CONFLICT {clause} DEFAULT 'd')"
        ));
        let a = w.ready("a");
        a.push(1, &[insert("t", json!({"id": "a", "u": "x"}))]).unwrap();
        let rows = [
            insert("t", json!({"id": "ok", "u": "free"})),
            insert("t", json!({"id": "b", "u": "x"})),
            insert("t", json!({"id": "c", "v": null})),
        ];
        assert_eq!(kinds(&a.push(2, &rows).unwrap_err()), ["1 unique u", "2 not_null v"], "{clause}");
        assert_eq!(a.pull(0).unwrap()["stable_bundle_seq"], 1, "{clause}");
    }
}

/// Names that no message of SQLite could be taken apart by: the columns are told from the index list.
#[test]
fn names_with_dots_and_commas_are_told_apart() {
    let w = World::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, \"a.b, t.c\" TEXT UNIQUE, c TEXT, \"t.c\" TEXT, UNIQUE (c, \"t.c\"));",
    );
    let a = w.ready("a");
    a.push(1, &[insert("t", json!({"id": "1", "a.b, t.c": "x", "c": "y", "t.c": "z"}))]).unwrap();
    let rows = [
        insert("t", json!({"id": "2", "a.b, t.c": "x"})),
        insert("t", json!({"id": "3", "c": "y", "t.c": "z"})),
        insert("t", json!({"id": "4", "c": "y", "t.c": "other"})),
    ];
    assert_eq!(kinds(&a.push(2, &rows).unwrap_err()), ["0 unique a.b, t.c", "1 unique c,t.c"]);
}

/// Who edits a scope's file by hand is told what to do instead, whatever is done.
#[test]
fn a_scope_file_refuses_edits_from_outside() {
    let mut w = World::new(NOTES);
    w.ready("a").push(1, &[insert("notes", json!({"id": "n1"})), insert("tags", json!({"id": "t1"}))]).unwrap();
    w.service = None;
    let path = w.dir.path().join("scopes").join(format!("{}.db", blake3::hash(b"ann").to_hex()));
    let conn = rusqlite::Connection::open(path).unwrap();
    for sql in [
        "INSERT INTO notes (id) VALUES ('n2')",
        "INSERT OR REPLACE INTO notes (id) VALUES ('n1')",
        "UPDATE notes SET body = 'x'",
        "DELETE FROM notes",
        "UPDATE OR IGNORE tags SET weight = 2",
        "DELETE FROM tags WHERE id = 't1'",
    ] {
        let e = conn.execute(sql, []).unwrap_err().to_string();
        assert!(
            e.contains("write through the server (sync-client clone, edit the copy, sync-client sync)"),
            "{sql}: {e}"
        );
    }
    drop(conn);
    w.restart();
    let a = w.device("ann", "a");
    assert_eq!(a.push(2, &[update("notes", 1, json!({"id": "n1", "body": "ours"}))]).unwrap().bundle_seq, 2);
}

/// A delete that may not act on other rows waits for what the push itself does to those, and is refused for any other.
#[test]
fn a_restricted_delete_takes_nothing_along() {
    for action in ["CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION", "RESTRICT"] {
        let w = World::new(&format!(
            "CREATE TABLE p (id TEXT PRIMARY KEY, code TEXT UNIQUE, up TEXT REFERENCES p ON DELETE {action});
             CREATE TABLE c (id TEXT PRIMARY KEY, p TEXT REFERENCES p ON DELETE {action}, name TEXT UNIQUE,
               code TEXT REFERENCES p(code) ON DELETE {action})"
        ));
        let a = w.ready("a");
        let rows = [
            insert("p", json!({"id": "a", "code": "A"})),
            insert("p", json!({"id": "b", "up": "a"})),
            insert("p", json!({"id": "self", "up": "self"})),
            insert("p", json!({"id": "x", "up": "y"})),
            insert("p", json!({"id": "y", "up": "x"})),
            insert("c", json!({"id": "c", "p": "b", "name": "n"})),
            insert("c", json!({"id": "d", "code": "A"})),
        ];
        a.push(1, &rows).unwrap();
        let restricted = |id: &str| {
            let mut row = delete("p", 1, id);
            row["restrict"] = json!(true);
            row
        };
        // By another row of its table and by a UNIQUE value; by a child.
        assert_eq!(kinds(&a.push(2, &[restricted("a")]).unwrap_err()), ["0 foreign_key "], "{action}");
        let e = a.push(2, &[restricted("b"), insert("p", json!({"id": "new"}))]).unwrap_err();
        assert_eq!(kinds(&e), ["0 foreign_key "], "{action}");
        // Nobody else refers to the first; the others refer to each other only.
        let bundle = a.push(2, &[restricted("self")]).unwrap();
        assert_eq!(bundle.bundle_seq, 2);
        if !matches!(action, "RESTRICT" | "NO ACTION") {
            assert_eq!(a.push(3, &[restricted("x"), restricted("y")]).unwrap().row_count, 2, "{action}");
        } else {
            a.push(3, &[delete("p", 1, "x"), delete("p", 1, "y")]).unwrap();
        }
        // What the push itself turns away or deletes is in nobody's way, in any order; a row that waits for a UNIQUE
        // value of such a one comes through with it.
        let rows = [
            restricted("a"),
            restricted("b"),
            update("c", 1, json!({"id": "c", "p": "new", "name": "m"})),
            update("c", 1, json!({"id": "d", "code": null, "name": "n"})),
            insert("p", json!({"id": "new", "code": "A"})),
        ];
        let bundle = a.push(4, &rows).unwrap();
        assert_eq!(bundle.row_count, 5, "{action}");
        // The member is read where it is true only.
        let mut plain = delete("p", 4, "new");
        plain["restrict"] = json!(null);
        assert_eq!(a.push(5, &[plain]).is_ok(), !matches!(action, "RESTRICT" | "NO ACTION"), "{action}");
    }
}
