//! What the server makes of a push (P9), beside what the app wrote since it was sent.

use sync_client::Policy;

use super::ruled;
use crate::world::World;

/// Mail addresses are lower case, and a person counts its notes.
const RULES: &str = "
CREATE TRIGGER lower AFTER INSERT ON people WHEN NEW.email <> lower(NEW.email) BEGIN
  UPDATE people SET email = lower(email) WHERE id = NEW.id; END;
CREATE TRIGGER counted AFTER INSERT ON notes BEGIN
  UPDATE people SET age = coalesce(age, 0) + 1 WHERE id = NEW.person; END;
CREATE TRIGGER gone AFTER INSERT ON notes WHEN NEW.body = 'the last' BEGIN
  DELETE FROM people WHERE id = NEW.person; END;
";

/// A newer edit of a row that was sent stays, whatever the policy; what the server changed of it beside that edit is
/// taken. Nobody is in conflict.
#[test]
fn a_newer_edit_stands_on_what_the_server_made_of_the_row() {
    let (_data, server) = ruled(RULES);
    for by_snapshot in [false, true] {
        for edit in ["UPDATE people SET name = 'bea'", "UPDATE people SET name = 'bea', email = 'B@X'"] {
            let w = World::new();
            let mut a = w.device("a");
            a.user = format!("{by_snapshot} {}", edit.len());
            a.serve_at(&server.url());
            a.sql("INSERT INTO people (id, name, email) VALUES ('p', 'ann', 'A@X')");
            a.client().push().unwrap();
            a.sql(edit);
            if by_snapshot {
                a.client().rebuild().unwrap();
            }
            a.sync();
            let mut b = w.device("b");
            b.user.clone_from(&a.user);
            b.serve_at(&server.url());
            b.sync();
            let expected = if edit.contains("B@X") { "bea B@X" } else { "bea a@x" };
            for d in [&a, &b] {
                assert_eq!(d.text("SELECT name || ' ' || email FROM people"), expected, "{by_snapshot} {edit}");
            }
            // What the server changed is told, where it shows.
            let told = a.client().conflicts().unwrap();
            assert!(told.iter().all(|e| e.reason == "changed" && e.message.ends_with(": email")), "{told:?}");
            assert_eq!((told.len(), edit.contains("B@X")), (usize::from(!edit.contains("B@X")), edit.contains("B@X")));
            assert!(a.client().discarded().unwrap().is_empty());
        }
    }
}

/// A rule wrote a row that was not sent, and that the app has changed since: that is a conflict like any other.
#[test]
fn a_row_that_a_rule_wrote_meets_an_edit_of_it() {
    let (_data, server) = ruled(RULES);
    let merge = Policy::MergeColumns(sync_client::Tie::Server);
    // Where the rule takes the person away, the note goes with it on the server, and is discarded here.
    let expected = [
        (Policy::ServerWins, "counts", "old 1", (1, 0)),
        (Policy::ClientWins, "counts", "new 0", (0, 1)),
        (merge, "counts", "new 1", (0, 1)),
        (Policy::ServerWins, "the last", "", (2, 0)),
        (Policy::ClientWins, "the last", "new 0", (1, 1)),
    ];
    for (n, (policy, body, row, entries)) in expected.into_iter().enumerate() {
        let w = World::new();
        let mut a = w.device_with("a", policy, |_| {});
        a.user = n.to_string();
        a.serve_at(&server.url());
        a.sql("INSERT INTO people (id, name, age) VALUES ('p', 'old', 0)");
        a.sync();
        a.sql(&format!("INSERT INTO notes VALUES ('n', NULL, 'x'); UPDATE notes SET person = 'p', body = '{body}'"));
        a.client().push().unwrap();
        a.sql("UPDATE people SET name = 'new'");
        a.sync();
        let found = a.text("SELECT coalesce(group_concat(name || ' ' || age), '') FROM people");
        let (discarded, conflicts) = (a.client().discarded().unwrap(), a.client().conflicts().unwrap());
        assert_eq!((found.as_str(), (discarded.len(), conflicts.len())), (row, entries), "{n}");
    }
}
