//! The inbox: what it keeps can be listed in pages, put back, given up and forgotten, and what cannot be
//! put back says why.

use sync_client::{Error, InboxRow};

use crate::world::{Device, World, converge};

fn the_only(rows: Vec<InboxRow>) -> InboxRow {
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.into_iter().next().unwrap()
}

fn why(e: Result<bool, Error>) -> String {
    match e {
        Err(Error::Argument(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Two devices on which `sql` made the same row differ; the second one lost.
fn lost(w: &World, base: &str, first: &str, second: &str) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(base);
    converge(&[&a, &b]);
    a.sql(first);
    a.sync();
    b.sql(second);
    b.sync();
    (a, b)
}

/// A discarded edit that is retried is a new local edit, and wins if nobody else edits.
#[test]
fn a_discarded_edit_is_put_back() {
    let w = World::new();
    let base = "INSERT INTO people (id, name, age, photo) VALUES ('p', 'first', 1, x'00ff')";
    let (a, b) =
        lost(&w, base, "UPDATE people SET name = 'a'", "UPDATE people SET name = 'b', age = 9223372036854775807");
    let entry = the_only(b.client().discarded().unwrap());
    assert_eq!((entry.reason.as_str(), entry.op.as_str()), ("server_wins", "UPDATE"));
    assert!(b.client().retry_entry(entry.id).unwrap());
    assert!(b.client().discarded().unwrap().is_empty());
    assert_eq!(b.client().status().unwrap().pending_rows, 1);
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name || age || hex(photo) FROM people"), "b922337203685477580700FF");
    assert!(!b.client().retry_entry(entry.id).unwrap(), "it is done");
}

/// A discarded DELETE likewise; while rows refer to the row, it says so.
#[test]
fn a_discarded_delete_is_put_back() {
    let w = World::new();
    let base = "INSERT INTO people (id) VALUES ('p')";
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(base);
    converge(&[&a, &b]);
    a.sql("INSERT INTO notes VALUES ('n', 'p', 'refers')");
    a.sync();
    b.sql("DELETE FROM people");
    b.client().pull().unwrap();
    let entry = the_only(b.client().discarded().unwrap());
    assert_eq!((entry.reason.as_str(), entry.op.as_str(), &entry.local_row), ("still_referred_to", "DELETE", &None));
    let text = why(b.client().retry_entry(entry.id));
    assert!(text.contains("notes {\"id\":\"n\"} refers to it"), "{text}");
    assert_eq!(the_only(b.client().discarded().unwrap()), entry, "nothing is lost by that");
    b.sql("DELETE FROM notes");
    assert!(b.client().retry_entry(entry.id).unwrap());
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people"), 0);
}

/// C1: a row that had to leave for another one's unique value comes back once that is free.
#[test]
fn a_displaced_row_is_put_back_once_nothing_is_in_its_way() {
    let w = World::new();
    let (a, b) = lost(
        &w,
        "INSERT INTO counters VALUES (1, 'x')",
        "INSERT INTO people (id, email) VALUES ('pa', 'same')",
        "INSERT INTO people (id, email, name) VALUES ('pb', 'same', 'kept')",
    );
    let entry = the_only(b.client().rejected().unwrap());
    assert!(entry.id > 0);
    for text in [why(b.client().retry_entry(entry.id)), why(b.client().retry("people", "pb"))] {
        assert!(text.contains("{\"id\":\"pa\"} has the same unique value"), "{text}");
    }
    assert_eq!(the_only(b.client().rejected().unwrap()), entry);
    b.sql("UPDATE people SET email = 'other' WHERE id = 'pa'");
    assert!(b.client().retry_entry(entry.id).unwrap());
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name FROM people WHERE id = 'pb'"), "kept");
    assert!(b.client().rejected().unwrap().is_empty());
}

/// C2: a row whose parent is gone says which, and comes back after it.
#[test]
fn a_row_without_its_parent_says_so() {
    let w = World::new();
    let base = "INSERT INTO people (id) VALUES ('p'); INSERT INTO notes VALUES ('n', 'p', 'x')";
    let (a, b) = lost(&w, base, "DELETE FROM people", "UPDATE notes SET body = 'edited'");
    let entries = b.client().rejected().unwrap();
    let discarded = b.client().discarded().unwrap();
    let entry = the_only(entries.into_iter().chain(discarded).filter(|e| e.table == "notes").collect());
    let text = why(b.client().retry_entry(entry.id));
    assert!(text.contains("the row of people that it refers to is not there"), "{text}");
    b.sql("INSERT INTO people (id) VALUES ('p')");
    assert!(b.client().retry_entry(entry.id).unwrap());
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT body FROM notes"), "edited");
}

/// Several entries may exist for one row: each is put back, given up and forgotten by its number.
#[test]
fn entries_of_one_row_are_told_apart() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    for i in 0..3 {
        a.sql(&format!("UPDATE people SET name = 'a{i}'"));
        a.sync();
        b.sql(&format!("UPDATE people SET name = 'b{i}'"));
        b.sync();
    }
    let entries = b.client().discarded().unwrap();
    assert_eq!(entries.len(), 3);
    assert!(b.client().retry_entry(entries[1].id).unwrap());
    assert!(b.client().clear_entry(entries[0].id).unwrap());
    assert!(!b.client().clear_entry(entries[0].id).unwrap());
    assert_eq!(b.client().discarded().unwrap(), entries[2..]);
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name FROM people"), "b1");
    assert_eq!(b.client().clear_all("discarded").unwrap(), 1);
    assert!(b.client().discarded().unwrap().is_empty());
    assert!(b.client().clear_all("everything").is_err());
}

/// What is given up is kept; what is forgotten is gone.
#[test]
fn a_dropped_entry_is_kept_as_discarded() {
    let w = World::new();
    let (_a, b) = lost(
        &w,
        "INSERT INTO counters VALUES (1, 'x')",
        "INSERT INTO people (id, email) VALUES ('pa', 'same'), ('qa', 'too')",
        "INSERT INTO people (id, email, name) VALUES ('pb', 'same', 'kept'), ('qb', 'too', 'also kept')",
    );
    let entries = b.client().rejected().unwrap();
    assert_eq!(entries.len(), 2);
    assert!(b.client().drop_entry(entries[0].id).unwrap());
    assert!(b.client().drop_row("people", "qb").unwrap());
    assert!(b.client().rejected().unwrap().is_empty());
    let kept = b.client().discarded().unwrap();
    assert!(kept.iter().all(|e| e.reason == "dropped") && kept.len() == 2, "{kept:?}");
    assert!(kept[0].local_row.as_ref().unwrap().contains("kept"));
}

/// Pages of any size hold together what one list holds: recorded entries, refused rows in their tables,
/// rows without a key.
#[test]
fn pages_hold_together_what_the_list_holds() {
    let schema = format!("{} CREATE TABLE loose (id TEXT PRIMARY KEY, t TEXT);", crate::world::SCHEMA);
    let w = World::with(&schema, sync_server::limits::Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, email) SELECT 'a' || value, value FROM (SELECT 1 AS value UNION ALL SELECT 2 UNION ALL SELECT 3)");
    a.sync();
    b.sql("INSERT INTO people (id, email) SELECT 'b' || value, value FROM (SELECT 1 AS value UNION ALL SELECT 2 UNION ALL SELECT 3)");
    b.sql("INSERT INTO loose VALUES (NULL, 'x'), (NULL, 'y'), ('k', 'z')");
    b.sync();
    // Text that is not UTF-8 is refused here, and stays in its table.
    for i in 0..3 {
        b.sql(&format!("INSERT INTO notes VALUES ('n{i}', NULL, CAST(x'ff' AS TEXT)); INSERT INTO tags VALUES ('n{i}', CAST(x'fe' AS TEXT))"));
    }
    let _ = b.client().sync();
    let whole = b.client().rejected().unwrap();
    assert!(whole.len() >= 8, "{whole:?}");
    assert_eq!(b.client().status().unwrap().rejected_rows, whole.len() as u64);
    let strip = |mut r: InboxRow| {
        // A row without a key has no time of its own.
        r.at.clear();
        r
    };
    for limit in 1..=whole.len() {
        let (mut rows, mut after) = (Vec::new(), None::<String>);
        for _ in 0..=whole.len() {
            let page = b.client().inbox_page("rejected", after.as_deref(), limit).unwrap();
            assert!(page.rows.len() <= limit);
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let got: Vec<InboxRow> = rows.into_iter().map(strip).collect();
        assert_eq!(got, whole.iter().cloned().map(strip).collect::<Vec<_>>(), "limit {limit}");
    }
    assert!(b.client().inbox_page("rejected", Some("nonsense"), 1).is_err());
}

/// The key of a row that left its table is free: the app's next row may have it, and what refers to that.
#[test]
fn an_entry_is_not_put_back_over_another_row() {
    for sent in [false, true] {
        let w = World::with(
            "CREATE TABLE n (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v TEXT);
             CREATE TABLE k (id TEXT PRIMARY KEY NOT NULL, n INTEGER REFERENCES n(id))",
            Default::default(),
        );
        let (a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO n VALUES (1, 'U', 'of a')");
        a.sync();
        b.sql("INSERT INTO n VALUES (2, 'U', 'displaced')");
        b.sync();
        let entry = the_only(b.client().rejected().unwrap());
        a.sql("UPDATE n SET u = 'free'");
        a.sync();
        b.sync();
        b.sql("INSERT INTO n (u, v) VALUES ('other', 'new'); INSERT INTO k SELECT 'k', id FROM n WHERE u = 'other'");
        if sent {
            b.sync();
        }
        let rows = b.text("SELECT group_concat(id || v) FROM n");
        if b.count("SELECT count(*) FROM n WHERE id = 2") == 1 {
            for text in [why(b.client().retry_entry(entry.id)), why(b.client().retry("n", "2"))] {
                assert!(text.contains("another row has its key"), "{text}");
            }
            assert_eq!(b.text("SELECT group_concat(id || v) FROM n"), rows);
            // Its own values may come again.
            b.sql("DELETE FROM k; UPDATE n SET id = 3 WHERE id = 2");
        }
        assert!(b.client().retry_entry(entry.id).unwrap());
        converge(&[&a, &b]);
        assert_eq!(a.count("SELECT count(*) FROM n WHERE v IN ('displaced', 'new', 'of a')"), 3);
    }
}

/// What an entry is put back over is kept, where the entry does not show it.
#[test]
fn what_is_put_back_over_a_later_edit_keeps_that() {
    let w = World::new();
    let base = "INSERT INTO people (id, name, age) VALUES ('p', 'first', 1)";
    let (a, b) = lost(&w, base, "UPDATE people SET name = 'a'", "UPDATE people SET name = 'b'");
    let entry = the_only(b.client().discarded().unwrap());
    b.sql("UPDATE people SET name = 'later', age = 7");
    assert!(b.client().retry_entry(entry.id).unwrap());
    let kept = the_only(b.client().discarded().unwrap());
    assert_eq!(kept.reason, "put_back_over");
    assert!(kept.local_row.unwrap().contains("later"));
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name FROM people"), "b");
    // And back again, also over a row that was sent.
    assert!(b.client().retry_entry(kept.id).unwrap());
    assert_eq!(the_only(b.client().discarded().unwrap()).reason, "put_back_over");
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name || age FROM people"), "later7");
}

/// A delete that is put back likewise.
#[test]
fn a_delete_that_is_put_back_keeps_a_later_edit() {
    let w = World::new();
    let base = "INSERT INTO people (id, name) VALUES ('p', 'first')";
    let (a, b) = lost(&w, base, "UPDATE people SET name = 'a'", "DELETE FROM people");
    let entry = the_only(b.client().discarded().unwrap());
    b.sql("UPDATE people SET name = 'later'");
    assert!(b.client().retry_entry(entry.id).unwrap());
    assert!(the_only(b.client().discarded().unwrap()).local_row.unwrap().contains("later"));
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people"), 0);
}
