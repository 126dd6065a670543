//! No verb leaves a reference broken, not for a moment: the app reads its file between any two of them.

use sync_client::{Attach, Detach, Policy, Remedy, Repair};

use crate::world::{Device, World, converge, unseen};

const TREE: &str = "CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT, email TEXT UNIQUE);
    CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, person TEXT REFERENCES people(id), body TEXT);
    CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, note TEXT REFERENCES notes(id), tag TEXT);";

/// The same with references by a UNIQUE value.
const BY_VALUE: &str = "CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT, email TEXT UNIQUE);
    CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, person TEXT REFERENCES people(email), body TEXT UNIQUE);
    CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, note TEXT REFERENCES notes(body), tag TEXT);";

fn whole(d: &Device) {
    assert_eq!(d.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{} is broken", d.path.display());
}

/// A line of three rows; at `b` the first is refused, and nobody there knows what the server has of it; the last is
/// edited.
fn refused_at_the_top(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people VALUES ('p', 'x', 'p@x'), ('q', 'y', 'q@x')");
    let (person, note) = if w.schema == TREE { ("p", "n") } else { ("p@x", "b") };
    a.sql(&format!("INSERT INTO notes VALUES ('n', '{person}', 'b'); INSERT INTO tags VALUES ('t', '{note}', 'red')"));
    converge(&[&a, &b]);
    b.sql("UPDATE people SET name = CAST(x'ff' AS TEXT) WHERE id = 'p'");
    b.sync();
    a.sql("UPDATE people SET name = 'from a' WHERE id = 'p'");
    a.sync();
    b.sync();
    b.sql("UPDATE tags SET tag = 'blue' WHERE id = 't'");
    (a, b)
}

#[test]
fn a_row_that_is_given_up_leaves_no_reference_broken() {
    for schema in [TREE, BY_VALUE] {
        let w = World::with(schema, Default::default());
        let (a, b) = refused_at_the_top(&w);
        assert!(b.client().drop_row("people", "p").unwrap());
        whole(&b);
        // What refers to it is nobody's to give up, and nothing clean vanishes until the next sync.
        let here = "SELECT (SELECT group_concat(id) FROM people) || (SELECT group_concat(id) FROM notes) || \
                    (SELECT group_concat(tag) FROM tags)";
        assert_eq!(b.text(here), "p,qnblue");
        let kept = b.client().discarded().unwrap();
        assert_eq!((kept.len(), kept[0].reason.as_str(), kept[0].op.as_str()), (1, "dropped", "UPDATE"));
        assert!(kept[0].local_row.as_ref().unwrap().contains(r#""name":{"$blob":"/w=="}"#), "{kept:?}");
        assert!(!b.client().drop_row("people", "p").unwrap(), "once");
        converge(&[&b, &a]);
        assert_eq!(a.text("SELECT name || tag FROM people, tags WHERE people.id = 'p'"), "from ablue");
        assert!(b.client().rejected().unwrap().is_empty());
    }
}

/// The same where the server has deleted the row meanwhile: what stood on it is told.
#[test]
fn a_row_that_is_given_up_may_be_gone() {
    let w = World::with(TREE, Default::default());
    let (a, b) = refused_at_the_top(&w);
    a.sql("DELETE FROM tags; DELETE FROM notes; DELETE FROM people WHERE id = 'p'");
    a.sync();
    assert!(b.client().drop_row("people", "p").unwrap());
    whole(&b);
    b.sync();
    whole(&b);
    converge(&[&b, &a]);
    assert_eq!(b.text("SELECT group_concat(id) FROM people"), "q");
    let kept: Vec<String> = b.client().rejected().unwrap().into_iter().filter_map(|r| r.local_row).collect();
    let lost: Vec<String> = b.client().discarded().unwrap().into_iter().filter_map(|r| r.local_row).collect();
    assert!(kept.iter().chain(&lost).any(|r| r.contains("blue")), "{kept:?} {lost:?}");
}

/// A row that the repair has to move out of the way, of which nobody here knows what the server has.
#[test]
fn a_repair_leaves_no_reference_broken() {
    let w = World::with(TREE, Default::default());
    let (a, b) = refused_at_the_top(&w);
    unseen(&b.path, "UPDATE people SET email = 'zzz' WHERE id = 'q'");
    b.sql("UPDATE people SET email = 'q@x' WHERE id = 'p'");
    let r = b.client().verify(Repair::FromServer).unwrap();
    assert_eq!((r.differing_rows, r.repaired_rows, r.differences[0].remedy), (1, 1, Remedy::FromServer));
    whole(&b);
    assert_eq!(b.text("SELECT group_concat(email) FROM (SELECT email FROM people ORDER BY id)"), "p@x,q@x");
    assert!(b.client().discarded().unwrap().iter().any(|e| e.reason == "verify"));
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT tag FROM tags"), "blue");
    assert_eq!(b.client().verify(Repair::No).unwrap().differing_rows, 0);
}

/// Rows that cannot be read as text stay where others are undone, unless what they refer to goes.
#[test]
fn what_cannot_be_undone_does_not_stay_behind() {
    for detach in [true, false] {
        let w = World::with(TREE, Default::default());
        let mine = "INSERT INTO people VALUES ('mine', 'x', NULL); \
                    INSERT INTO notes VALUES ('m', 'mine', CAST(x'ff' AS TEXT)); INSERT INTO tags VALUES ('u', 'm', 'red')";
        let a = w.device("a");
        a.sql("INSERT INTO people VALUES ('p', 'x', NULL)");
        a.sync();
        let mut b = w.closed_device("b", |c| {
            if !detach {
                c.execute_batch(mine).unwrap()
            }
        });
        b.setup = Box::new(|b| b.attach(Attach::TakeRemote).policy(Policy::ServerWins));
        b.open();
        b.sync();
        if detach {
            b.sql(mine);
            b.client().detach(Detach::Discard).unwrap();
        }
        whole(&b);
        assert_eq!(b.text("SELECT group_concat(id) FROM people"), "p");
        let sql = "SELECT count(*) FROM _sync_inbox WHERE tbl = 'notes' AND local_row LIKE '%\"/w==\"%'";
        assert_eq!(b.count(sql), 1, "kept whole");
    }
}

/// A row that is put back says another value than the one that rows refer to by now.
#[test]
fn what_is_put_back_leaves_no_reference_broken() {
    let w = World::with(BY_VALUE, Default::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people VALUES ('p', 'x', 'old')");
    converge(&[&a, &b]);
    b.sql("UPDATE people SET email = 'mine'");
    a.sql("UPDATE people SET email = 'theirs'");
    converge(&[&a, &b]);
    b.sql("INSERT INTO notes VALUES ('n', 'theirs', 'b')");
    let id = b.client().discarded().unwrap()[0].id;
    let refused = b.client().retry_entry(id).unwrap_err().to_string();
    assert!(refused.contains("notes {\"id\":\"n\"} refers to"), "{refused}");
    whole(&b);
    b.sql("DELETE FROM notes");
    assert!(b.client().retry_entry(id).unwrap());
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT email FROM people"), "mine");
}
