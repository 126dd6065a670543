//! Conflicts and rebase (C).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use sync_client::{Client, Policy, Resolution};

use super::{cut, is_commit};
use crate::world::{World, converge};

/// C4, C5: nobody is asked where there is nothing to decide.
#[test]
fn c4_c5_what_is_no_conflict_is_none() {
    let w = World::new();
    let a = w.device("a");
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'), ('q', 'x'), ('r', 'x'); INSERT INTO notes (id) VALUES ('n'); INSERT INTO tags VALUES ('n', 'red')");
    a.sync();
    a.sql("DELETE FROM tags");
    a.sync();
    let asked = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&asked);
    let policy = Policy::Custom(Arc::new(move |_| {
        noted.store(true, Ordering::Relaxed);
        Resolution::TakeServer
    }));
    let b = w.device_with("b", policy, |_| {});
    b.sync();
    // A tombstone that this file never saw; the same edit, the same row, and two deletes of one row.
    b.sql("INSERT INTO tags VALUES ('n', 'red'); UPDATE people SET name = 'same' WHERE id = 'p'; DELETE FROM people WHERE id = 'q'; INSERT INTO people (id) VALUES ('both')");
    a.sql("UPDATE people SET name = 'same' WHERE id = 'p'; DELETE FROM people WHERE id = 'q'; INSERT INTO people (id) VALUES ('both')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT tag FROM tags"), "red");
    let inbox = [b.client().conflicts(), b.client().discarded(), b.client().rejected()];
    assert!(inbox.into_iter().all(|rows| rows.unwrap().is_empty()));
    assert!(!asked.load(Ordering::Relaxed));
}

/// C10: a bundle is uploaded in part when another device's edit of its row comes. It is not edited: its fate
/// is settled first.
#[test]
fn c10_a_half_uploaded_bundle_is_settled_before_a_pull_edits_its_rows() {
    for committed in [false, true] {
        let w = World::new();
        let (mut a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id, name, age) VALUES ('p', 'x', 1)");
        converge(&[&a, &b]);
        a.sql("UPDATE people SET name = 'of a'");
        let seen = AtomicBool::new(false);
        let client = cut(&w, &mut a, move |r| {
            if committed { seen.fetch_or(is_commit(r), Ordering::Relaxed) && !is_commit(r) } else { is_commit(r) }
        });
        let first = client.sync();
        assert!(first.is_err());
        drop(client);
        b.sql("UPDATE people SET name = 'of b'");
        b.sync();
        a.open();
        a.client().pull().unwrap();
        converge(&[&a, &b]);
        let (winner, loser) = if committed { ("of a", &b) } else { ("of b", &a) };
        assert_eq!(a.text("SELECT name FROM people"), winner);
        assert_eq!(loser.client().discarded().unwrap().len(), 1, "committed: {committed}");
    }
}

/// C11: a function that touches its own file: the app's writes succeed, and each verb is an error at once, since the sync
/// waits for the function.
#[test]
fn c11_a_conflict_function_may_write_to_its_file_and_not_sync_it() {
    let w = World::new();
    let a = w.device("a");
    let said = Arc::new(Mutex::new(Vec::new()));
    let of_itself: Arc<Mutex<Option<Client>>> = Arc::default();
    let (told, inner) = (Arc::clone(&said), Arc::clone(&of_itself));
    let path = w.dir.path().join("b.db");
    let b = w.device_with(
        "b",
        Policy::Custom(Arc::new(move |_| {
            let app = Connection::open(&path).unwrap();
            app.busy_timeout(std::time::Duration::ZERO).unwrap();
            let mut said = told.lock().unwrap();
            app.execute("UPDATE people SET age = 9", []).unwrap();
            let client = inner.lock().unwrap().clone().unwrap();
            said.push(client.sync().unwrap_err().to_string());
            said.push(client.detach(sync_client::Detach::KeepData).unwrap_err().to_string());
            client.stop();
            client.status().unwrap();
            Resolution::KeepLocal
        })),
        |_| {},
    );
    *of_itself.lock().unwrap() = Some(b.client().clone());
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'of a'");
    a.sync();
    b.sql("UPDATE people SET name = 'of b'");
    b.sync();
    *of_itself.lock().unwrap() = None;
    let said = said.lock().unwrap();
    // Twice: after the first answer the row was another one.
    assert_eq!(said.len(), 4);
    assert!(said.iter().all(|s| s.contains("values")), "{said:?}");
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT name || coalesce(age, '-') FROM people"), "of b9");
}
