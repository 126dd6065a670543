//! Tables that keep their edits: a parent that was deleted elsewhere comes back.

use sync_client::{Client, Policy, Tie};
use sync_server::limits::Limits;

use crate::world::{Device, SCHEMA, World, converge};

/// A device that keeps its edits of notes and tags.
fn keeper(w: &World, name: &str) -> Device {
    w.device_built(name, |b| b.keep_edits_of("notes").keep_edits_of("Tags"))
}

fn reasons(client: &Client) -> Vec<String> {
    let mut out: Vec<String> =
        client.conflicts().unwrap().into_iter().map(|c| format!("{} {} {}", c.table, c.op, c.reason)).collect();
    out.sort();
    out
}

#[test]
fn a_new_child_brings_its_parent_back() {
    let w = World::new();
    let (a, b) = (w.device("a"), keeper(&w, "b"));
    a.sql("INSERT INTO people (id, name, email) VALUES ('p', 'Pia', 'p@x')");
    converge(&[&a, &b]);
    a.sql("DELETE FROM people");
    b.sql("INSERT INTO notes VALUES ('n', 'p', 'precious')");
    a.sync();
    let report = b.sync();
    assert_eq!((report.pull.conflicts, report.push.committed_rows), (1, 2));
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name || email || body FROM people JOIN notes ON person = people.id"), "Piap@xprecious");
    assert_eq!(reasons(b.client()), ["notes INSERT kept", "people INSERT came_back"]);
    assert!(b.client().rejected().unwrap().is_empty());
}

/// The cascade took the child on the server too: its edit survives, its sibling without one does not.
#[test]
fn an_edited_child_survives_the_cascade() {
    for policy in [Policy::ServerWins, Policy::ClientWins, Policy::MergeColumns(Tie::Server)] {
        let w = World::new();
        let a = w.device("a");
        let b = w.device_built("b", move |b| b.policy(policy.clone()).keep_edits_of("notes"));
        a.sql("INSERT INTO people (id, name) VALUES ('p', 'Pia'); INSERT INTO notes VALUES ('n', 'p', 'old'), ('o', 'p', 'other')");
        converge(&[&a, &b]);
        a.sql("DELETE FROM people");
        b.sql("UPDATE notes SET body = 'edited' WHERE id = 'n'");
        a.sync();
        b.sync();
        converge(&[&a, &b]);
        assert_eq!(
            a.text("SELECT group_concat(name || notes.id || body) FROM people JOIN notes ON person = people.id"),
            "Pianedited"
        );
        assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
        assert!(b.client().discarded().unwrap().is_empty() && b.client().rejected().unwrap().is_empty());
    }
}

#[test]
fn parents_of_parents_come_back_too() {
    let w = World::new();
    let (a, b) = (w.device("a"), keeper(&w, "b"));
    a.sql(
        "INSERT INTO people (id, name) VALUES ('p', 'Pia'), ('q', 'Quinn');
         INSERT INTO notes VALUES ('n', 'p', 'note'), ('m', 'p', 'other'), ('k', 'q', 'x');
         INSERT INTO tags VALUES ('n', 'old'), ('m', 'old')",
    );
    converge(&[&a, &b]);
    a.sql("DELETE FROM people");
    b.sql("INSERT INTO tags VALUES ('n', 'new')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT group_concat(name || body || tag) FROM people JOIN notes ON person = people.id JOIN tags ON note = notes.id"), "Pianotenew");
    assert_eq!(a.count("SELECT (SELECT count(*) FROM people) + (SELECT count(*) FROM notes)"), 2);
    assert_eq!(reasons(b.client()), ["notes INSERT came_back", "people INSERT came_back", "tags INSERT kept"]);
}

/// A delete of the row itself is no delete of its parent: the policy decides.
#[test]
fn a_deleted_row_with_a_parent_is_the_policys() {
    let w = World::new();
    let (a, b) = (w.device("a"), keeper(&w, "b"));
    a.sql("INSERT INTO people (id) VALUES ('p'); INSERT INTO notes VALUES ('n', 'p', 'old')");
    converge(&[&a, &b]);
    a.sql("DELETE FROM notes");
    b.sql("UPDATE notes SET body = 'edited'");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM notes"), 0);
    assert!(b.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("edited"));
}

/// The parent was edited here too: it comes back with the edit.
#[test]
fn an_edited_parent_comes_back_as_it_was_here() {
    let w = World::new();
    let (a, b) = (w.device("a"), keeper(&w, "b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'Pia')");
    converge(&[&a, &b]);
    a.sql("DELETE FROM people");
    b.sql("UPDATE people SET name = 'Pia of b'; INSERT INTO notes VALUES ('n', 'p', 'x')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name FROM people JOIN notes ON person = people.id"), "Pia of b");
}

/// Where the parent does not fit any more, it is as if the table did not keep its edits.
#[test]
fn a_parent_whose_unique_value_was_taken_stays_away() {
    let w = World::new();
    let (a, b) = (w.device("a"), keeper(&w, "b"));
    a.sql("INSERT INTO people (id, email) VALUES ('p', 'same@x'); INSERT INTO notes VALUES ('n', 'p', 'old')");
    converge(&[&a, &b]);
    a.sql("DELETE FROM people; INSERT INTO people (id, email) VALUES ('q', 'same@x')");
    b.sql("UPDATE notes SET body = 'edited'; INSERT INTO notes VALUES ('m', 'p', 'new')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id) FROM people"), "q");
    assert_eq!(b.count("SELECT count(*) FROM notes"), 0);
    assert!(b.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("edited"));
    assert!(b.client().rejected().unwrap()[0].local_row.as_ref().unwrap().contains("new"));
}

/// The same where a snapshot tells of the delete, without the tombstones' versions.
#[test]
fn a_parent_that_a_snapshot_lacks_comes_back() {
    let w = World::with(SCHEMA, Limits { retained_bundles: 1, ..Limits::default() });
    let (a, b) = (w.device("a"), keeper(&w, "b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'Pia'); INSERT INTO notes VALUES ('n', 'p', 'old'), ('o', 'p', 'old')");
    converge(&[&a, &b]);
    b.sql("UPDATE notes SET body = 'edited' WHERE id = 'n'; INSERT INTO tags VALUES ('o', 'new')");
    a.sql("DELETE FROM people");
    a.sync();
    for n in 0..3 {
        a.sql(&format!("INSERT INTO people (id) VALUES ('{n}')"));
        a.sync();
    }
    assert!(b.sync().pull.rebuilt, "the history is pruned");
    converge(&[&a, &b]);
    assert_eq!(
        a.text("SELECT group_concat(name || body, ';') FROM people JOIN notes ON person = people.id ORDER BY body"),
        "Piaedited;Piaold"
    );
    assert_eq!(a.count("SELECT count(*) FROM tags"), 1);
    assert!(b.client().rejected().unwrap().is_empty() && b.client().discarded().unwrap().is_empty());
}

/// And a delete of the row itself, of which a snapshot tells: the policy decides here, too.
#[test]
fn a_row_that_a_snapshot_lacks_is_the_policys() {
    for policy in [Policy::ServerWins, Policy::ClientWins] {
        let w = World::with(SCHEMA, Limits { retained_bundles: 1, ..Limits::default() });
        let client_wins = matches!(policy, Policy::ClientWins);
        let a = w.device("a");
        let b = w.device_built("b", move |b| b.policy(policy.clone()).keep_edits_of("notes"));
        a.sql("INSERT INTO people (id) VALUES ('p'); INSERT INTO notes VALUES ('n', 'p', 'old')");
        converge(&[&a, &b]);
        a.sql("DELETE FROM notes");
        a.sync();
        for n in 0..3 {
            a.sql(&format!("INSERT INTO people (id) VALUES ('{n}')"));
            a.sync();
        }
        b.sql("UPDATE notes SET body = 'edited'");
        assert!(b.sync().pull.rebuilt, "the history is pruned");
        converge(&[&a, &b]);
        assert_eq!(a.count("SELECT count(*) FROM notes"), i64::from(client_wins));
        let (discarded, conflicts) = (b.client().discarded().unwrap(), b.client().conflicts().unwrap());
        assert_eq!((discarded.len(), conflicts.len()), if client_wins { (0, 1) } else { (1, 0) });
        let told = discarded.iter().chain(&conflicts).all(|e| e.local_row.as_ref().unwrap().contains("edited"));
        assert!(told, "{discarded:?} {conflicts:?}");
    }
}

/// A foreign key to a UNIQUE column, and a table that refers to itself.
#[test]
fn parents_are_found_by_any_foreign_key() {
    let w = World::with(
        "CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL, code TEXT UNIQUE, up TEXT REFERENCES p(code) ON DELETE CASCADE);
         CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, code TEXT REFERENCES p(code) ON DELETE CASCADE);",
        Limits::default(),
    );
    let (a, b) = (w.device("a"), w.device_built("b", |b| b.keep_edits_of("c")));
    a.sql(
        "INSERT INTO p VALUES ('1', 'one', NULL), ('2', 'two', 'one'), ('3', 'three', 'two'), ('s', 'self', 's')"
            .replace("'s')", "'self')")
            .as_str(),
    );
    converge(&[&a, &b]);
    a.sql("DELETE FROM p");
    b.sql("INSERT INTO c VALUES ('c', 'three'), ('d', 'self')");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT group_concat(id, '') FROM (SELECT id FROM p ORDER BY id)"), "123s");
    assert_eq!(a.count("SELECT count(*) FROM c JOIN p USING (code)"), 2);
}
