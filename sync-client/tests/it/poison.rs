//! Refused rows: they wait with the server's reason, what needs them waits with them, the rest goes on.

use sync_client::InboxRow;
use sync_server::limits::Limits;

use crate::relay::Relay;
use crate::world::{Device, SCHEMA, World, converge};

/// A server that is stricter than its devices.
fn strict(from: &str, to: &str) -> World {
    let strict = SCHEMA.replace(from, to);
    assert_ne!(strict, SCHEMA);
    let mut w = World::with(&strict, Limits::default());
    w.schema = SCHEMA.to_owned();
    w
}

fn ages() -> World {
    strict("age INTEGER", "age INTEGER CHECK (age < 100)")
}

fn waiting(rows: &[InboxRow]) -> Vec<(String, String, String)> {
    let mut out: Vec<_> = rows.iter().map(|r| (r.table.clone(), r.key.clone(), r.reason.clone())).collect();
    out.sort();
    out
}

fn named(list: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    list.iter().map(|(t, k, r)| ((*t).into(), (*k).into(), (*r).into())).collect()
}

#[test]
fn what_refers_to_a_refused_row_waits_with_it_and_says_so() {
    let w = ages();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql(
        "INSERT INTO people (id, age) VALUES ('bad', 200), ('good', 20);
         INSERT INTO notes VALUES ('n1', 'bad', 'x'), ('n2', 'good', 'y'), ('n3', NULL, 'z');
         INSERT INTO tags VALUES ('n1', 'red'), ('n2', 'blue');",
    );
    let relay = Relay::counting(w.url());
    let client = w.through(&mut a, &relay);
    let report = client.sync().unwrap();
    assert_eq!((report.push.committed_rows, report.push.rejected_rows, relay.commits()), (4, 1, 2));
    let rejected = client.rejected().unwrap();
    let expected = [
        ("notes", r#"{"id":"n1"}"#, "waits_for"),
        ("people", r#"{"id":"bad"}"#, "check"),
        ("tags", r#"{"note":"n1","tag":"red"}"#, "waits_for"),
    ];
    assert_eq!(waiting(&rejected), named(&expected));
    for r in rejected.iter().filter(|r| r.reason == "waits_for") {
        assert!(r.message.contains(r#"people {"id":"bad"}"#), "{}", r.message);
    }
    // Another row that needs it waits from the start: no bundle is sent for it alone.
    a.sql("INSERT INTO notes VALUES ('n4', 'bad', 'more')");
    client.sync().unwrap();
    assert_eq!((relay.commits(), client.rejected().unwrap().len()), (2, 4));
    // One edit of what was refused sends them all, at once.
    a.sql("UPDATE people SET age = 50 WHERE id = 'bad'");
    assert_eq!(client.sync().unwrap().push.committed_rows, 4);
    assert_eq!((relay.commits(), client.rejected().unwrap().len()), (3, 0));
    drop(client);
    a.open();
    converge(&[&a, &b]);
}

/// C8: the closure goes both ways.
#[test]
fn the_delete_of_what_a_refused_row_still_refers_to_waits() {
    let w = strict("body TEXT)", "body TEXT CHECK (length(body) < 9))");
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p'), ('q'), ('r'); INSERT INTO notes VALUES ('n', 'p', 'short')");
    converge(&[&a, &b]);
    let relay = Relay::counting(w.url());
    let client = w.through(&mut a, &relay);
    a.sql("UPDATE notes SET person = 'q', body = 'much too long'; DELETE FROM people WHERE id IN ('p', 'r')");
    client.sync().unwrap();
    let expected = [("notes", r#"{"id":"n"}"#, "check"), ("people", r#"{"id":"p"}"#, "waits_for")];
    assert_eq!((waiting(&client.rejected().unwrap()), relay.commits()), (named(&expected).to_vec(), 2));
    b.sync();
    assert_eq!(b.text("SELECT person FROM notes"), "p", "nothing cascaded on the server");
    assert_eq!(b.count("SELECT count(*) FROM people"), 2);
    a.sql("UPDATE notes SET body = 'fits'");
    client.sync().unwrap();
    assert!(client.rejected().unwrap().is_empty());
    drop(client);
    a.open();
    converge(&[&a, &b]);
}

#[test]
fn who_takes_a_unique_value_waits_for_who_frees_it() {
    let w = ages();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, email) VALUES ('p', 'x')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET email = 'y', age = 200 WHERE id = 'p'; INSERT INTO people (id, email) VALUES ('q', 'x')");
    a.sync();
    let expected = [("people", r#"{"id":"p"}"#, "check"), ("people", r#"{"id":"q"}"#, "waits_for")];
    assert_eq!(waiting(&a.client().rejected().unwrap()), named(&expected));
    // Giving up the refused edit puts the old row back, and with it the value: the other cannot stay.
    a.sql("UPDATE people SET age = 2 WHERE id = 'p'");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 2);
}

/// A row that cannot travel at all is found by this device, and nobody is sent to be refused for it.
#[test]
fn rows_that_need_one_that_cannot_travel_wait_without_a_round_trip() {
    let limits = Limits { max_bytes_per_row: 2000, ..Limits::default() };
    let w = World::with(SCHEMA, limits);
    let mut a = w.device("a");
    let relay = Relay::counting(w.url());
    let client = w.through(&mut a, &relay);
    a.sql("INSERT INTO people (id, name) VALUES ('big', hex(zeroblob(2000))), ('ok', 'x'); INSERT INTO notes VALUES ('n', 'big', '')");
    client.sync().unwrap();
    let expected = [("notes", r#"{"id":"n"}"#, "waits_for"), ("people", r#"{"id":"big"}"#, "too_large")];
    assert_eq!((waiting(&client.rejected().unwrap()), relay.commits()), (named(&expected).to_vec(), 1));
}

#[test]
fn a_thousand_refused_rows_cost_one_more_round_trip() {
    let w = ages();
    let mut a = w.device("a");
    let relay = Relay::counting(w.url());
    let client = w.through(&mut a, &relay);
    a.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 11000)
         INSERT INTO people (id, age) SELECT printf('p%05d', i), CASE WHEN i % 11 = 0 THEN 100 + i ELSE 1 END FROM n;
         INSERT INTO notes SELECT 'n' || id, id, 'x' FROM people WHERE id < 'p00100'",
    );
    let report = client.sync().unwrap();
    assert_eq!((report.push.committed_rows, report.push.rejected_rows), (10_000 + 90, 1000));
    assert_eq!((relay.commits(), client.rejected().unwrap().len()), (2, 1009));
    assert_eq!(client.sync().unwrap().push.committed_rows, 0);
    assert_eq!(relay.commits(), 2, "nothing is tried again for nothing");
}

/// The list of refused rows is cut at a megabyte: some more round trips, and nothing forgotten.
#[test]
fn a_list_of_refusals_that_was_cut_is_asked_for_again() {
    let w = ages();
    let mut a = w.device("a");
    let relay = Relay::counting(w.url());
    let client = w.through(&mut a, &relay);
    a.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)
         INSERT INTO people (id, age) SELECT printf('p%05d', i) || hex(zeroblob(50)), 200 FROM n;
         INSERT INTO people (id) VALUES ('good')",
    );
    let report = client.sync().unwrap();
    assert_eq!((report.push.committed_rows, report.push.rejected_rows), (1, 8000));
    assert!(relay.commits() <= 5, "{} commits", relay.commits());
}

fn tries(w: &World, a: &mut Device, peer: &Device, changes: usize, sql: &dyn Fn(usize) -> String) -> usize {
    let relay = Relay::counting(w.url());
    let client = w.through(a, &relay);
    for n in 0..changes {
        peer.sql(&sql(n));
        peer.sync();
        client.sync().unwrap();
    }
    assert_eq!(client.rejected().unwrap().len(), 1);
    drop(client);
    a.open();
    relay.commits()
}

#[test]
fn a_busy_peer_does_not_make_a_refused_row_be_sent_again_and_again() {
    let w = ages();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, age) VALUES ('bad', 200)");
    a.sync();
    let n = tries(&w, &mut a, &b, 6, &|n| format!("INSERT INTO people (id) VALUES ('other{n}')"));
    assert_eq!(n, 0, "only an edit helps a row that breaks a CHECK");

    // A rule of which nobody knows on what it depends: tried less and less often.
    let mut w = strict("label TEXT NOT NULL)", "label TEXT NOT NULL UNIQUE)");
    let (mut a, b) = (w.device("a2"), w.device("b2"));
    w.schema.clear();
    b.sql("INSERT INTO counters VALUES (1, 'taken')");
    b.sync();
    a.sync();
    a.sql("INSERT INTO counters VALUES (2, 'taken')");
    a.sync();
    assert_eq!(a.client().rejected().unwrap()[0].reason, "unique");
    let n = tries(&w, &mut a, &b, 20, &|n| format!("INSERT INTO counters VALUES (1{n}, 'c{n}')"));
    assert!((1..=5).contains(&n), "{n} tries in 20 changes");
    // The cause goes away, and in the end the row goes.
    let client = a.client();
    b.sql("UPDATE counters SET label = 'free' WHERE id = 1");
    for n in 0..64 {
        b.sql(&format!("INSERT INTO counters VALUES (2{n}, 'd{n}')"));
        b.sync();
        client.sync().unwrap();
    }
    assert!(client.rejected().unwrap().is_empty());
}

/// C9: what was refused for a parent that nobody had, goes once somebody brings it; and nothing else sends it.
#[test]
fn a_row_refused_for_its_parent_goes_when_the_parent_comes() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    let relay = Relay::counting(w.url());
    let client = w.through(&mut a, &relay);
    a.sql("PRAGMA foreign_keys = OFF; INSERT INTO notes VALUES ('n', 'p', 'x')");
    client.sync().unwrap();
    assert_eq!(waiting(&client.rejected().unwrap()), named(&[("notes", r#"{"id":"n"}"#, "foreign_key")]));
    let before = relay.commits();
    b.sql("INSERT INTO people (id) VALUES ('other')");
    b.sync();
    client.sync().unwrap();
    assert_eq!(relay.commits(), before, "another parent came");
    b.sql("INSERT INTO people (id) VALUES ('p')");
    b.sync();
    client.sync().unwrap();
    assert_eq!((relay.commits(), client.rejected().unwrap().len()), (before + 1, 0));
    drop(client);
    a.open();
    converge(&[&a, &b]);
}

/// C9: the server's schema changes.
#[test]
fn refused_rows_are_tried_again_when_the_servers_schema_changes() {
    let mut w = World::with(
        "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL CHECK (v <> 'bad'));",
        Limits::default(),
    );
    w.schema = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL, due TEXT);
                CREATE TABLE more (id TEXT PRIMARY KEY NOT NULL, t TEXT REFERENCES t(id));"
        .into();
    let mut a = w.device("a");
    a.sql(
        "INSERT INTO t VALUES ('1', 'x', NULL), ('2', 'x', 'monday');
         INSERT INTO more VALUES ('m', '1')",
    );
    let report = a.sync();
    // A row whose unknown column says nothing goes; the others wait, without being sent.
    assert_eq!((report.push.committed_rows, report.push.rejected_rows), (1, 0));
    let expected = [("more", r#"{"id":"m"}"#, "unknown_table"), ("t", r#"{"id":"2"}"#, "unknown_column")];
    assert_eq!(waiting(&a.client().rejected().unwrap()), named(&expected));
    a.sync();
    a.sql("UPDATE t SET v = 'y' WHERE id = '1'");
    assert_eq!(a.sync().push.committed_rows, 1);
    w.stop();
    w.schema = w.schema.replace("v TEXT NOT NULL,", "v TEXT NOT NULL CHECK (v <> 'bad'),");
    w.start();
    a.open();
    assert_eq!(a.sync().push.committed_rows, 2);
    assert!(a.client().rejected().unwrap().is_empty());
    let b = w.device("b");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(v || coalesce(due, '')) FROM t"), "y,xmonday");
}

/// P7: more than the server takes at once goes in parts, parents first, and what belongs together stays together.
#[test]
fn a_dirty_set_over_the_servers_limit_goes_in_parts() {
    let schema = "CREATE TABLE tree (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES tree(id), slot INTEGER UNIQUE);
                  CREATE TABLE leaves (id TEXT PRIMARY KEY NOT NULL, tree INTEGER NOT NULL REFERENCES tree(id));";
    let limits = Limits { max_rows_per_bundle: 10, ..Limits::default() };
    let w = World::with(schema, limits);
    let (a, b) = (w.device("a"), w.device("b"));
    // Children have lower keys than their parents: neither key order nor table order would do.
    a.sql(
        "PRAGMA defer_foreign_keys = ON; BEGIN; PRAGMA defer_foreign_keys = ON;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
         INSERT INTO tree SELECT i, CASE WHEN i < 40 THEN i + 1 END, i FROM n;
         INSERT INTO leaves SELECT 'l' || id, id FROM tree; COMMIT",
    );
    let report = a.sync();
    assert_eq!((report.push.committed_rows, report.push.rejected_rows, report.push.bundles), (80, 0, 8));
    converge(&[&b, &a]);
    // Values rotated among eight rows are one bundle; among eleven they cannot be.
    a.sql("UPDATE tree SET slot = -slot WHERE id <= 8; UPDATE tree SET slot = -slot % 8 + 1 WHERE id <= 8; UPDATE leaves SET tree = 1");
    let report = a.sync();
    assert_eq!((report.push.committed_rows, report.push.rejected_rows), (48 - 1, 0));
    converge(&[&b, &a]);
    // A group over the limit waits whole, with the reason, and the rest goes on.
    a.sql(
        "UPDATE tree SET slot = -slot WHERE id <= 12; UPDATE tree SET slot = -slot % 12 + 1 WHERE id <= 12;
         INSERT INTO tree VALUES (100, NULL, 100)",
    );
    let report = a.sync();
    assert_eq!((report.push.committed_rows, report.push.rejected_rows), (1, 0));
    let waiting = a.client().rejected().unwrap();
    assert_eq!(waiting.len(), 12);
    for row in &waiting {
        let part = "belongs to 12 rows that only make sense together, and the server takes 10 at once";
        assert!(row.reason == "group_too_large" && row.message.contains(part), "{row:?}");
    }
    assert_eq!(a.client().status().unwrap().pending_rows, 0);
    b.sync();
    assert_eq!(
        (b.count("SELECT slot FROM tree WHERE id = 12"), b.count("SELECT count(*) FROM tree WHERE id = 100")),
        (12, 1)
    );
    // An edit that makes the group smaller sends all of it.
    a.sql("UPDATE tree SET slot = -1 WHERE id = 12; UPDATE tree SET slot = -2 WHERE id = 6");
    a.sync();
    assert_eq!(a.client().rejected().unwrap(), []);
    converge(&[&b, &a]);
}
