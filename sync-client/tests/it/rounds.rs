//! Two devices and a server: edits offline and online, conflicts, and what becomes of each.

use sync_client::{Attached, Event, Policy, Resolution, Tie, Value};

use crate::world::{World, converge, dump};

#[test]
fn rows_reach_the_other_device_exactly() {
    let w = World::new();
    let a = w.device("a");
    let b = w.device("b");
    a.sql(
        "INSERT INTO people VALUES ('p1', 'Zoë \u{1F600} <&>', 'z@x', 9007199254740993, 0.1, x'00ff10');
         INSERT INTO people VALUES ('p2', NULL, NULL, -9223372036854775808, 9e999, zeroblob(16));
         INSERT INTO people VALUES ('p3', 'text', 'blob in text', 'not a number', -9e999, 'text in blob');
         INSERT INTO notes VALUES ('n1', 'p1', 'hello'), ('n2', 'p1', '');
         INSERT INTO tags VALUES ('n1', 'red'), ('n1', 'blue');",
    );
    assert_eq!(a.client().attach().unwrap(), Attached::Seeding);
    let report = a.sync();
    assert_eq!((report.push.committed_rows, report.push.bundles), (7, 1));
    let report = b.sync();
    assert_eq!(report.pull.applied_rows, 7);
    converge(&[&a, &b]);
    b.sql(
        "UPDATE people SET age = 5, score = 1.0 WHERE id = 'p1';
         DELETE FROM people WHERE id = 'p2';
         UPDATE notes SET id = 'n3' WHERE id = 'n2';
         INSERT OR REPLACE INTO people VALUES ('p9', 'thief', 'blob in text', 1, 1, NULL);
         DELETE FROM tags WHERE tag = 'red';",
    );
    converge(&[&b, &a]);
    assert_eq!(a.count("SELECT count(*) FROM people WHERE id IN ('p2', 'p3')"), 0, "deleted and evicted rows are gone");
    a.sql("DELETE FROM people WHERE id = 'p1'");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT (SELECT count(*) FROM notes) + (SELECT count(*) FROM tags)"), 0, "cascades travel");
}

#[test]
fn nothing_is_sent_for_what_was_undone() {
    let w = World::new();
    let a = w.device("a");
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    a.sync();
    a.sql("UPDATE people SET name = 'y'; UPDATE people SET name = 'x'; INSERT INTO people (id) VALUES ('q'); DELETE FROM people WHERE id = 'q'");
    let report = a.sync();
    assert_eq!(report.push.bundles, 0);
    assert_eq!(a.client().status().unwrap().pending_rows, 0);
}

#[test]
fn the_server_wins_and_the_local_row_is_kept_whole() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name, age) VALUES ('p', 'first', 1)");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'from a' WHERE id = 'p'");
    b.sql("UPDATE people SET name = 'from b', age = 7 WHERE id = 'p'");
    a.sync();
    let report = b.sync();
    assert_eq!(report.pull.conflicts, 1);
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people"), "from a");
    let discarded = b.client().discarded().unwrap();
    assert_eq!(discarded.len(), 1);
    assert_eq!((discarded[0].op.as_str(), discarded[0].reason.as_str()), ("UPDATE", "server_wins"));
    assert!(discarded[0].local_row.as_ref().unwrap().contains(r#""age":7"#));
    assert!(discarded[0].base_row.as_ref().unwrap().contains(r#""name":"first""#));
    assert!(discarded[0].server_row.as_ref().unwrap().contains("from a"));
    assert_eq!(b.client().status().unwrap().discarded_rows, 1);
}

#[test]
fn the_client_wins_also_over_a_delete() {
    let w = World::new();
    let a = w.device("a");
    let b = w.device_with("b", Policy::ClientWins, |_| {});
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'first'), ('q', 'first'), ('r', 'first')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'from a' WHERE id = 'p'; DELETE FROM people WHERE id = 'q'; UPDATE people SET name = 'x' WHERE id = 'r'");
    b.sql("UPDATE people SET name = 'from b'; DELETE FROM people WHERE id = 'r'");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(dump(&a.path).len(), 2);
    assert_eq!(a.text("SELECT group_concat(name) FROM people"), "from b,from b");
    assert_eq!(b.client().conflicts().unwrap().len(), 3);
}

#[test]
fn the_app_merges() {
    let w = World::new();
    let a = w.device("a");
    let merge = Policy::Custom(std::sync::Arc::new(|c| {
        let (Some(local), Some(base), Some(server)) = (&c.local, &c.base, &c.server) else {
            return Resolution::TakeServer;
        };
        let mut row = server.clone();
        for (name, value) in local {
            if base.get(name) != Some(value) {
                row.insert(name.clone(), value.clone());
            }
        }
        Resolution::Merged(row)
    }));
    let b = w.device_with("b", merge, |_| {});
    a.sql("INSERT INTO people (id, name, age) VALUES ('p', 'first', 1)");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'from a'");
    b.sql("UPDATE people SET age = 2");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name || age FROM people"), "from a2");
    assert_eq!(b.client().conflicts().unwrap()[0].reason, "resolver");
    let _ = Value::Null;
}

#[test]
fn numbers_minted_twice_are_given_again_and_references_follow() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO counters (label) VALUES ('a1'), ('a2'); INSERT INTO marks VALUES ('ma', 1, 'of a1')");
    b.sql("INSERT INTO counters (label) VALUES ('b1'), ('b2'); INSERT INTO marks VALUES ('mb', 1, 'of b1')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM counters"), 4);
    assert_eq!(a.text("SELECT label FROM counters JOIN marks ON counter = counters.id WHERE marks.id = 'mb'"), "b1");
    assert_eq!(a.text("SELECT label FROM counters JOIN marks ON counter = counters.id WHERE marks.id = 'ma'"), "a1");
    assert!(b.events.lock().unwrap().iter().any(|e| matches!(e, Event::Rekeyed { .. })));
}

#[test]
fn existing_files_merge_when_they_join() {
    let w = World::new();
    let rows = "INSERT INTO people (id, name) VALUES ('same', 'equal'), ('p', 'one')";
    let a = w.device_with("a", Policy::ServerWins, |c| c.execute_batch(rows).unwrap());
    let b = w.device_with("b", Policy::ServerWins, |c| {
        c.execute_batch("INSERT INTO people (id, name) VALUES ('same', 'equal'), ('p', 'two'), ('only b', 'x')")
            .unwrap();
    });
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people"), 3);
    assert_eq!(a.text("SELECT name FROM people WHERE id = 'p'"), "one");
    assert_eq!(b.client().discarded().unwrap().len(), 1, "only the row that differed");
}

#[test]
fn a_unique_value_taken_elsewhere_sends_the_local_row_to_the_inbox() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO people (id, email) VALUES ('pa', 'same@x')");
    b.sql("INSERT INTO people (id, email) VALUES ('pb', 'same@x'), ('pc', 'other@x'); INSERT INTO notes VALUES ('n', 'pb', 'depends')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id) FROM people"), "pa,pc");
    let rejected = b.client().rejected().unwrap();
    assert_eq!(rejected.len(), 2, "{rejected:?}");
    assert!(rejected.iter().any(|r| r.table == "notes" && r.local_row.as_ref().unwrap().contains("depends")));
    a.sql("DELETE FROM people WHERE id = 'pa'");
    converge(&[&a, &b]);
    assert!(b.client().retry("people", "pb").unwrap());
    assert!(b.client().retry("notes", "n").unwrap());
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT person FROM notes"), "pb");
    assert!(b.client().rejected().unwrap().is_empty());
}

#[test]
fn swapped_unique_values_apply() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, email) VALUES ('1', 'x'), ('2', 'y'), ('3', 'z')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET email = 'tmp' WHERE id = '1'; UPDATE people SET email = 'x' WHERE id = '3'; UPDATE people SET email = 'z' WHERE id = '2'; UPDATE people SET email = 'y' WHERE id = '1'");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(email) FROM (SELECT email FROM people ORDER BY id)"), "y,z,x");
}

#[test]
fn a_deleted_parent_takes_the_local_child_to_the_inbox() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    a.sql("DELETE FROM people WHERE id = 'p'");
    b.sql("INSERT INTO notes VALUES ('n', 'p', 'precious')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    let rejected = b.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "parent_deleted"));
    assert!(rejected[0].local_row.as_ref().unwrap().contains("precious"));
}

#[test]
fn a_delete_that_a_remote_row_contradicts_is_undone() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO counters (id, label) VALUES (1, 'kept')");
    converge(&[&a, &b]);
    a.sql("INSERT INTO marks VALUES ('m', 1, 'new')");
    b.sql("DELETE FROM counters WHERE id = 1");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT label FROM counters"), "kept");
    assert_eq!(b.client().discarded().unwrap()[0].reason, "still_referred_to");
}

#[test]
fn refused_rows_wait_and_the_rest_goes_on() {
    let mut w = World::with(
        &crate::world::SCHEMA.replace("label TEXT NOT NULL", "label TEXT NOT NULL CHECK (length(label) < 5)"),
        sync_server::limits::Limits::default(),
    );
    w.schema = crate::world::SCHEMA.to_owned();
    let a = w.device("a");
    a.sql("INSERT INTO counters VALUES (1, 'ok'), (2, 'far too long'), (3, 'fine')");
    let report = a.sync();
    assert_eq!((report.push.committed_rows, report.push.rejected_rows), (2, 1));
    let rejected = a.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "check"));
    assert_eq!(a.client().status().unwrap().rejected_rows, 1);
    a.sql("UPDATE counters SET label = 'fits' WHERE id = 2");
    assert_eq!(a.sync().push.committed_rows, 1);
    assert!(a.client().rejected().unwrap().is_empty());
}

#[test]
fn a_delete_is_undone_also_where_its_unique_value_was_taken_since() {
    let w = World::with(
        "CREATE TABLE tags (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
         CREATE TABLE uses (id TEXT PRIMARY KEY NOT NULL, tag INTEGER REFERENCES tags(id));",
        Default::default(),
    );
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO tags VALUES (1, 'x')");
    converge(&[&a, &b]);
    a.sql("INSERT INTO uses VALUES ('u', 1)");
    b.sql("INSERT OR REPLACE INTO tags VALUES (2, 'x')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id || name) FROM tags"), "1x");
    assert_eq!(b.client().discarded().unwrap()[0].reason, "still_referred_to");
    let rejected = b.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "unique"));
}

/// The same where the value is unique by an index that SQLite does not tell by its columns: the server's row wins, and
/// keeps what refers to it.
#[test]
fn a_value_that_is_unique_by_an_index_of_any_kind_sends_the_local_row_to_the_inbox() {
    for index in [
        "CREATE UNIQUE INDEX one ON accounts (lower(email)) WHERE gone IS NULL",
        "CREATE UNIQUE INDEX one ON accounts (email COLLATE NOCASE) WHERE gone IS NULL",
        "CREATE UNIQUE INDEX one ON accounts (mail)",
    ] {
        let w = World::with(
            &format!(
                "CREATE TABLE accounts (id TEXT PRIMARY KEY NOT NULL, email TEXT, gone INTEGER,
                   mail TEXT GENERATED ALWAYS AS (lower(email)) VIRTUAL);
                 CREATE TABLE orders (id TEXT PRIMARY KEY NOT NULL, account TEXT NOT NULL REFERENCES accounts(id));
                 {index}"
            ),
            Default::default(),
        );
        let (a, b) = (w.device("a"), w.device("b"));
        a.sql(
            "INSERT INTO accounts VALUES ('x', 'old', NULL), ('y', 'why', NULL); INSERT INTO orders VALUES ('o', 'x')",
        );
        converge(&[&a, &b]);
        a.sql("UPDATE accounts SET email = 'new' WHERE id = 'x'; INSERT INTO accounts VALUES ('v', 'vee', NULL)");
        b.sql(
            "INSERT INTO accounts VALUES ('z', 'NEW', NULL), ('ok', 'ok', NULL); INSERT INTO orders VALUES ('p', 'z');
             UPDATE accounts SET email = 'VEE' WHERE id = 'y'",
        );
        a.sync();
        assert_eq!(b.client().pull().unwrap().set_aside, 0, "{index}");
        let all = "SELECT group_concat(id || email) FROM (SELECT * FROM accounts ORDER BY id)";
        assert_eq!(b.text(all), "okok,vvee,xnew,ywhy", "{index}");
        assert_eq!(b.text("SELECT group_concat(id) FROM orders"), "o", "{index}");
        let kept = b.client().rejected().unwrap();
        let kept: Vec<_> = kept.iter().map(|r| (r.reason.as_str(), r.key.as_str(), r.server_row.is_some())).collect();
        let expected =
            [("unique", r#"{"id":"y"}"#, true), ("unique", r#"{"id":"z"}"#, true), ("unique", r#"{"id":"p"}"#, false)];
        assert_eq!(kept, expected, "{index}");
        converge(&[&b, &a]);
    }
}

/// Rows that followed a change of a UNIQUE value leave their table with it: they are of no other row that has the value.
#[test]
fn rows_that_follow_a_unique_value_become_nobody_elses() {
    let w = World::with(
        "CREATE TABLE lists (id TEXT PRIMARY KEY NOT NULL, code TEXT NOT NULL UNIQUE);
         CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, list TEXT REFERENCES lists(code) ON UPDATE CASCADE, text TEXT);",
        Default::default(),
    );
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO lists VALUES ('l', 'A'); INSERT INTO items VALUES ('i', 'A', 'old')");
    converge(&[&a, &b]);
    a.sql("INSERT INTO lists VALUES ('k', 'B'); INSERT INTO items VALUES ('o', 'B', 'of the other')");
    b.sql("UPDATE lists SET code = 'B' WHERE id = 'l'; INSERT INTO items VALUES ('j', 'B', 'new')");
    a.sync();
    converge(&[&b, &a]);
    assert_eq!(b.text("SELECT group_concat(id || list) FROM (SELECT * FROM items ORDER BY id)"), "iA,oB");
    let kept = b.client().rejected().unwrap();
    let kept: Vec<_> = kept.iter().map(|r| (r.op.as_str(), r.local_row.as_deref().unwrap())).collect();
    assert_eq!(
        kept,
        [
            ("UPDATE", r#"{"code":"B","id":"l"}"#),
            ("UPDATE", r#"{"id":"i","list":"B","text":"old"}"#),
            ("INSERT", r#"{"id":"j","list":"B","text":"new"}"#),
        ]
    );
}

/// The same where it is the server's row that changed, gave its value to another one, or is gone.
#[test]
fn rows_stay_with_the_row_that_they_named() {
    for there in [
        "UPDATE lists SET code = 'C' WHERE id = 'l'; UPDATE items SET list = 'C'; INSERT INTO lists VALUES ('k', 'A')",
        "UPDATE lists SET code = id; UPDATE lists SET code = 'A' WHERE id = 'm'; UPDATE lists SET code = 'M' WHERE id = 'l';
         UPDATE items SET list = 'M'",
        "UPDATE items SET list = NULL; DELETE FROM lists WHERE id = 'l'; INSERT INTO lists VALUES ('k', 'A')",
    ] {
        let w = World::with(
            "CREATE TABLE lists (id TEXT PRIMARY KEY NOT NULL, code TEXT NOT NULL UNIQUE);
             CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, text TEXT,
               list TEXT REFERENCES lists(code) DEFERRABLE INITIALLY DEFERRED);",
            Default::default(),
        );
        let a = w.device("a");
        let b = w.device_with("b", Policy::MergeColumns(Tie::Server), |_| {});
        a.sql("INSERT INTO lists VALUES ('l', 'A'), ('m', 'M'); INSERT INTO items VALUES ('i', 'old', 'A')");
        converge(&[&a, &b]);
        a.sql(&format!("BEGIN; {there}; COMMIT"));
        b.sql("UPDATE items SET text = 'edited'; INSERT INTO items VALUES ('j', 'new', 'A')");
        a.sync();
        converge(&[&b, &a]);
        let kept = b.client().rejected().unwrap();
        let kept: Vec<_> = kept.iter().map(|r| (r.reason.as_str(), r.local_row.as_deref().unwrap())).collect();
        assert_eq!(kept, [("parent_changed", r#"{"id":"j","list":"A","text":"new"}"#)], "{there}");
        assert_eq!(b.text("SELECT text FROM items"), "edited", "it followed, and was merged: {there}");
        assert_ne!(b.text("SELECT coalesce(list, '') FROM items"), "A");
    }
}

#[test]
fn a_device_with_nothing_to_seed_keeps_nobody_waiting() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p'); DELETE FROM people");
    a.sync();
    b.sql("INSERT INTO people (id) VALUES ('q')");
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT id FROM people"), "q");
}

#[test]
fn rows_that_cannot_travel_wait_alone() {
    let limits = sync_server::limits::Limits { max_bytes_per_row: 2000, ..Default::default() };
    let w = World::with("CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT)", limits);
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO t VALUES ('ok', 'x'), (NULL, 'no key'), ('bad', CAST(x'ff' AS TEXT)), ('big', hex(zeroblob(2000)))");
    let report = a.sync();
    assert_eq!(report.push.committed_rows, 1);
    let mut reasons: Vec<String> = a.client().rejected().unwrap().into_iter().map(|r| r.reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["not_utf8", "null_key", "too_large"]);
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM t"), 1);
    a.sql("UPDATE t SET v = 'fits' WHERE id = 'big'; UPDATE t SET v = 'text' WHERE id = 'bad'; UPDATE t SET id = 'named' WHERE id IS NULL");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM t"), 4);
    assert!(a.client().rejected().unwrap().is_empty());
}

#[test]
fn a_body_over_the_servers_limit_goes_in_smaller_pieces() {
    let limits = sync_server::limits::Limits { max_bytes_per_request: 20_000, ..Default::default() };
    let w = World::with("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", limits);
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO t SELECT i, hex(randomblob(300)) FROM n");
    a.sql("INSERT INTO t VALUES (1000, hex(randomblob(20000)))");
    let report = a.sync();
    assert_eq!((report.push.committed_rows, report.push.rejected_rows), (200, 1));
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM t"), 200);
    assert_eq!(a.client().rejected().unwrap()[0].reason, "too_large");
}

/// A bundle too large to come inline is fetched page by page; its writer downloads nothing.
#[test]
fn a_large_bundle_comes_in_pages() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) INSERT INTO people (id, name) SELECT printf('p%05d', i), 'n' || i FROM n");
    let report = a.sync();
    assert_eq!((report.push.committed_rows, report.pull.applied_rows), (12_000, 0));
    assert_eq!(b.sync().pull.applied_rows, 12_000);
    assert!(!a.events.lock().unwrap().iter().any(|e| matches!(e, Event::Downloaded { .. })));
    assert!(b.events.lock().unwrap().iter().any(|e| matches!(e, Event::Downloaded { total: Some(12_000), .. })));
    converge(&[&a, &b]);
}

#[test]
fn a_parent_that_a_snapshot_lacks_takes_the_local_child_to_the_inbox() {
    let limits = sync_server::limits::Limits { retained_bundles: 1, ..Default::default() };
    let w = World::with(crate::world::SCHEMA, limits);
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    b.sql("INSERT INTO notes VALUES ('n', 'p', 'precious')");
    a.sql("DELETE FROM people WHERE id = 'p'");
    a.sync();
    for n in 0..3 {
        a.sql(&format!("INSERT INTO people (id) VALUES ('{n}')"));
        a.sync();
    }
    assert!(b.sync().pull.rebuilt, "the history is pruned");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    let rejected = b.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "parent_deleted"));
    assert!(rejected[0].local_row.as_ref().unwrap().contains("precious"));
}

#[test]
fn a_merge_that_the_schema_refuses_leaves_the_server_row() {
    let w = World::new();
    let merge = Policy::Custom(std::sync::Arc::new(|_| {
        Resolution::Merged([("email".to_owned(), Value::from("taken@x"))].into_iter().collect())
    }));
    let (a, b) = (w.device("a"), w.device_with("b", merge, |_| {}));
    a.sql("INSERT INTO people (id, email) VALUES ('p', 'p@x'), ('q', 'taken@x')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'a' WHERE id = 'p'");
    b.sql("UPDATE people SET name = 'b' WHERE id = 'p'");
    a.sync();
    converge(&[&b, &a]);
    assert_eq!(b.text("SELECT name || email FROM people WHERE id = 'p'"), "ap@x");
    let discarded = b.client().discarded().unwrap();
    assert_eq!((discarded.len(), discarded[0].reason.as_str()), (1, "resolver"));
    assert!(discarded[0].local_row.as_ref().unwrap().contains("\"b\""));
}
