//! Tables that are not synced and refer to synced ones: their rows follow, or go, as their schema declares; where it
//! declares nothing, what the server did waits for them.

use sync_client::{Policy, Repair};
use sync_server::limits::Limits;

use crate::world::{Device, World, converge};

const SYNCED: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, mail TEXT UNIQUE);
    CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, user INTEGER REFERENCES users(id) ON DELETE CASCADE, body TEXT);";

/// A device with tables of its own, without primary keys, so that they stay local.
fn device(w: &World, name: &str, local: &str) -> Device {
    let device = w.device_with(name, Policy::ServerWins, |app| app.execute_batch(local).unwrap());
    device.sync();
    device
}

fn broken(d: &Device) -> i64 {
    d.count("SELECT count(*) FROM pragma_foreign_key_check")
}

#[test]
fn rows_follow_a_row_that_gets_another_number() {
    let w = World::with(SYNCED, Limits::default());
    let local = "CREATE TABLE sessions (user INTEGER NOT NULL REFERENCES users(id) ON UPDATE CASCADE ON DELETE CASCADE,
          token TEXT);
        CREATE TABLE drafts (user INTEGER REFERENCES users(id), post TEXT REFERENCES posts(id), text TEXT);
        CREATE TABLE tabs (draft_user INTEGER, name TEXT, FOREIGN KEY (draft_user) REFERENCES users(id) ON DELETE SET NULL)";
    let (a, b) = (device(&w, "a", local), device(&w, "b", local));
    a.sql("INSERT INTO users (name) VALUES ('ada'), ('ann')");
    b.sql(
        "INSERT INTO users (name) VALUES ('eve'), ('eva'); INSERT INTO posts VALUES ('p', 1, 'by eve');
         INSERT INTO sessions VALUES (1, 'of eve'), (2, 'of eva'); INSERT INTO drafts VALUES (1, 'p', 'by eve');
         INSERT INTO tabs VALUES (1, 'eve''s')",
    );
    a.sync();
    b.sync();
    for (sql, expected) in [
        ("SELECT group_concat(name, ' ') FROM (SELECT name FROM users ORDER BY id)", "ada ann eve eva"),
        ("SELECT name FROM sessions JOIN users ON id = user WHERE token = 'of eve'", "eve"),
        ("SELECT name FROM sessions JOIN users ON id = user WHERE token = 'of eva'", "eva"),
        ("SELECT name FROM drafts JOIN users ON id = user", "eve"),
        ("SELECT u.name FROM tabs JOIN users u ON u.id = draft_user", "eve"),
    ] {
        assert_eq!(b.text(sql), expected, "{sql}");
    }
    assert_eq!((broken(&b), b.count("SELECT count(*) FROM sessions")), (0, 2));
    converge(&[&a, &b]);
}

#[test]
fn a_delete_that_comes_does_what_is_declared() {
    // The action, the rows that are left, and those that refer to nothing, or to the default.
    for (action, left, nothing, default) in [("CASCADE", 0, 0, 0), ("SET NULL", 2, 2, 0), ("SET DEFAULT", 2, 0, 2)] {
        for by_snapshot in [false, true] {
            let w = World::with(SYNCED, Limits::default());
            let local = format!(
                "CREATE TABLE l (u INTEGER DEFAULT 3 REFERENCES users(id) ON DELETE {action}, x REAL UNIQUE);
                 CREATE TABLE far (x REFERENCES l(x) ON DELETE CASCADE);
                 CREATE TABLE n (of INTEGER); CREATE TRIGGER gone AFTER DELETE ON l BEGIN INSERT INTO n VALUES (OLD.x); END"
            );
            let a = w.device("a");
            a.sql("INSERT INTO users (id, name) VALUES (1, 'one'), (2, 'two'), (3, 'three')");
            a.sync();
            let b = device(&w, "b", &local);
            b.sql("INSERT INTO l VALUES (1, 10), (2, 20); INSERT INTO far VALUES (10), (20)");
            a.sql("DELETE FROM users WHERE id < 3");
            a.sync();
            if by_snapshot {
                b.client().rebuild().unwrap();
            }
            b.sync();
            let case = format!("{action} {by_snapshot}");
            assert_eq!(b.count("SELECT count(*) FROM users"), 1, "{case}");
            assert_eq!(b.count("SELECT count(*) FROM l"), left, "{case}");
            assert_eq!(b.count("SELECT count(*) FROM far"), left, "{case}: what refers to them goes along");
            assert_eq!(b.count("SELECT count(*) FROM n"), 2 - left, "{case}: the app's own triggers run");
            assert_eq!(b.count("SELECT count(*) FROM l WHERE u IS NULL"), nothing, "{case}");
            assert_eq!(b.count("SELECT count(*) FROM l WHERE u = 3"), default, "{case}");
            assert_eq!(broken(&b), 0, "{case}");
            assert_eq!(b.client().status().unwrap().set_aside_rows, 0);
        }
    }
}

#[test]
fn a_delete_waits_for_the_rows_that_nothing_is_declared_for() {
    let by_column = "CREATE TABLE l (m TEXT REFERENCES users(mail))";
    for (local, free) in [
        ("CREATE TABLE l (u INTEGER REFERENCES users(id))", "DELETE FROM l"),
        ("CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE RESTRICT)", "UPDATE l SET u = NULL"),
        ("CREATE TABLE l (u INTEGER NOT NULL REFERENCES users(id) ON DELETE SET NULL)", "UPDATE l SET u = 2"),
        ("CREATE TABLE l (u INTEGER DEFAULT 99 REFERENCES users(id) ON DELETE SET DEFAULT)", "DELETE FROM l"),
        (
            "CREATE TABLE c (u INTEGER REFERENCES users(id) ON DELETE CASCADE, x REAL UNIQUE); CREATE TABLE l (x REFERENCES c(x))",
            "DELETE FROM l",
        ),
        (by_column, "UPDATE l SET m = 'two@x'"),
    ] {
        for by_snapshot in [false, true] {
            let w = World::with(SYNCED, Limits::default());
            let a = w.device("a");
            a.sql("INSERT INTO users VALUES (1, 'one', 'one@x'), (2, 'two', 'two@x'); INSERT INTO posts VALUES ('p', 1, 'x')");
            a.sync();
            let b = device(&w, "b", local);
            let value = if local == by_column { "'one@x'" } else { "1" };
            if local.contains(" c ") {
                b.sql("INSERT INTO c VALUES (1, 1)");
            }
            b.sql(&format!("INSERT INTO l VALUES ({value})"));
            a.sql("DELETE FROM users WHERE id = 1");
            a.sync();
            for _ in 0..2 {
                if by_snapshot {
                    b.client().rebuild().unwrap();
                }
                b.sync();
                assert_eq!(b.count("SELECT count(*) FROM users"), 2, "{local} {by_snapshot}");
                assert_eq!((broken(&b), b.client().status().unwrap().set_aside_rows), (0, 1), "{local} {by_snapshot}");
            }
            // Once they let it, it goes by itself.
            b.sql(free);
            b.sync();
            assert_eq!(b.count("SELECT count(*) FROM users"), 1, "{local} {by_snapshot}");
            assert_eq!((broken(&b), b.client().status().unwrap().set_aside_rows), (0, 0), "{local} {by_snapshot}");
            converge(&[&a, &b]);
        }
    }
}

/// A row of the app's that would have to leave its table stays while others of its file refer to it.
#[test]
fn a_row_that_others_refer_to_is_not_displaced() {
    for verb in ["pull", "rebuild", "verify"] {
        is_not_displaced_by(verb);
    }
}

fn is_not_displaced_by(verb: &str) {
    let w = World::with(SYNCED, Limits::default());
    let a = w.device("a");
    a.sql("INSERT INTO users VALUES (1, 'one', 'one@x')");
    a.sync();
    let b =
        device(&w, "b", "CREATE TABLE l (p TEXT REFERENCES posts(id)); CREATE TABLE m (u TEXT REFERENCES users(mail))");
    // A post under a parent that goes, and a person whose mail another takes.
    b.sql("INSERT INTO posts VALUES ('mine', 1, 'x'); INSERT INTO l VALUES ('mine')");
    b.sql("INSERT INTO users VALUES (7, 'seven', 'seven@x'); INSERT INTO m VALUES ('seven@x')");
    a.sql("DELETE FROM users WHERE id = 1; INSERT INTO users VALUES (8, 'eight', 'seven@x')");
    a.sync();
    match verb {
        "pull" => drop(b.client().pull().unwrap()),
        "rebuild" => drop(b.client().rebuild().unwrap()),
        _ => drop(b.client().verify(Repair::FromServer).unwrap()),
    }
    assert_eq!((broken(&b), b.client().status().unwrap().set_aside_rows), (0, 2), "{verb}");
    assert_eq!(b.count("SELECT count(*) FROM posts WHERE id = 'mine'"), 1);
    assert_eq!(b.text("SELECT group_concat(name, ' ') FROM (SELECT name FROM users ORDER BY id)"), "one seven");
    b.sql("DELETE FROM l; DELETE FROM m");
    b.sync();
    b.sync();
    assert_eq!((broken(&b), b.client().status().unwrap().set_aside_rows), (0, 0));
    assert_eq!(b.text("SELECT group_concat(name, ' ') FROM (SELECT name FROM users ORDER BY id)"), "eight");
    let rejected: Vec<String> = b.client().rejected().unwrap().into_iter().map(|r| r.key).collect();
    assert!(rejected.iter().any(|k| k.contains("mine")) && rejected.iter().any(|k| k.contains('7')), "{rejected:?}");
}

/// What becomes of a file's own changes when it is detached, or takes the account's rows in their place.
#[test]
fn rows_that_are_given_up_leave_no_reference_broken() {
    for action in ["CASCADE", "SET NULL", "NO ACTION"] {
        for way in ["discard", "export", "take remote"] {
            let w = World::with(SYNCED, Limits::default());
            let a = w.device("a");
            a.sql("INSERT INTO users (id, name) VALUES (50, 'theirs')");
            a.sync();
            let local = format!("CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE {action})");
            let mut b = w.closed_device("b", |app| app.execute_batch(&local).unwrap());
            if way == "take remote" {
                b.setup = Box::new(|builder| builder.attach(sync_client::Attach::TakeRemote));
            }
            b.open();
            b.sql("INSERT INTO users (id, name) VALUES (7, 'mine'); INSERT INTO l VALUES (7)");
            match way {
                "discard" => drop(b.client().detach(sync_client::Detach::Discard).unwrap()),
                "export" => drop(b.client().detach(sync_client::Detach::Export(w.dir.path().join("e.db"))).unwrap()),
                _ => drop(b.sync()),
            }
            let left = b.count("SELECT count(*) FROM users WHERE name = 'mine'");
            assert_eq!((broken(&b), left), (0, i64::from(action == "NO ACTION")), "{action} {way}");
        }
    }
}

/// A value that rows refer to changes elsewhere.
#[test]
fn rows_follow_a_value_as_declared() {
    for (action, expected, held) in [("CASCADE", "new@x", 0), ("SET NULL", "NULL", 0), ("NO ACTION", "old@x", 1)] {
        let w = World::with(SYNCED, Limits::default());
        let a = w.device("a");
        a.sql("INSERT INTO users VALUES (1, 'one', 'old@x')");
        a.sync();
        let b = device(&w, "b", &format!("CREATE TABLE l (m TEXT REFERENCES users(mail) ON UPDATE {action})"));
        b.sql("INSERT INTO l VALUES ('old@x')");
        a.sql("UPDATE users SET mail = 'new@x'");
        a.sync();
        b.sync();
        assert_eq!(b.text("SELECT m FROM l"), expected, "{action}");
        assert_eq!((broken(&b), b.client().status().unwrap().set_aside_rows), (0, held), "{action}");
    }
}

/// The app itself took the parent away, and another device did too: what unsynced rows refer to stays all the same.
#[test]
fn a_row_whose_parent_the_app_took_is_not_displaced() {
    for action in ["", "ON DELETE CASCADE", "ON DELETE SET NULL"] {
        let w = World::with(
            "CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL);
             CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES p(id))",
            Limits::default(),
        );
        let a = w.device("a");
        let b = device(&w, "b", &format!("CREATE TABLE l (c TEXT REFERENCES c(id) {action}, v TEXT)"));
        b.app.pragma_update(None, "foreign_keys", false).unwrap();
        a.sql("INSERT INTO p VALUES ('p')");
        a.sync();
        b.sync();
        b.sql("INSERT INTO c VALUES ('mine', 'p'); INSERT INTO l VALUES ('mine', 'local'); DELETE FROM p");
        a.sql("DELETE FROM p");
        a.sync();
        b.sync();
        assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check WHERE \"table\" = 'l'"), 0, "{action}");
        assert_eq!(b.count("SELECT count(*) FROM c"), i64::from(action.is_empty()), "{action}");
        let rejected = b.client().rejected().unwrap();
        assert!(rejected.iter().any(|r| r.key.contains("mine")), "{action}: {rejected:?}");
        // Once the local row is gone, it is one of those that wait for a person.
        b.sql("DELETE FROM l; DELETE FROM c");
        b.sync();
        converge(&[&a, &b]);
    }
}

/// A row that both have waits for a UNIQUE value that a row of this file holds, and that one cannot leave: it waits, and
/// no sync takes it for one that may go.
#[test]
fn a_row_that_waits_for_a_kept_rows_unique_value_is_not_fetched_again() {
    let w = World::with("CREATE TABLE item (id TEXT PRIMARY KEY, code TEXT UNIQUE);", Limits::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("CREATE TABLE pin (item TEXT REFERENCES item(id)); INSERT INTO item VALUES ('x', 'old')");
    converge(&[&a, &b]);
    b.sql("UPDATE item SET code = 'c' WHERE id = 'x'");
    b.sync();
    a.sql("INSERT INTO item VALUES ('mine', 'c'); INSERT INTO pin VALUES ('mine')");
    a.sync();
    for _ in 0..2 {
        assert_eq!(a.client().status().unwrap().set_aside_rows, 1);
        assert!(!a.sync().pull.rebuilt);
    }
    a.sql("DELETE FROM pin; DELETE FROM item WHERE id = 'mine'");
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT code FROM item"), "c");
}

/// What the server makes of a row is refused by an index that only this file has, and rows refer to the row as it was.
#[test]
fn a_row_that_is_refused_leaves_no_reference_broken() {
    const LINE: &str = "CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, v);
        CREATE TABLE k (id TEXT PRIMARY KEY NOT NULL, c TEXT REFERENCES c(id));";
    // What is declared, the rows of the table that refer to something, and to nothing, and how many are set aside.
    for (action, left, nothing, held) in
        [("", 1, 0, 2), ("ON DELETE CASCADE", 0, 0, 2), ("ON DELETE SET NULL", 0, 1, 2)]
    {
        for parent in ["c", "k"] {
            let w = World::with(LINE, Limits::default());
            let a = w.device("a");
            let local = format!(
                "CREATE UNIQUE INDEX only_here ON c(v); CREATE TABLE l (r TEXT REFERENCES {parent}(id) {action}, v)"
            );
            let b = device(&w, "b", &local);
            b.sql(&format!(
                "INSERT INTO c VALUES ('c1', 1), ('c2', 2), ('c3', 3); INSERT INTO k VALUES ('k1', 'c1');
                 INSERT INTO l VALUES ('{parent}1', 'mine')"
            ));
            converge(&[&b, &a]);
            // Where the row stays as it was, the one that is to have its value waits as well.
            a.sql("UPDATE c SET v = 2 WHERE id = 'c1'; UPDATE c SET v = 1 WHERE id = 'c3'");
            a.sync();
            for _ in 0..2 {
                b.sync();
                assert_eq!(broken(&b), 0, "{action} {parent}");
                assert_eq!(b.count("SELECT count(r) FROM l"), left, "{action} {parent}");
                assert_eq!(b.count("SELECT count(*) FROM l WHERE r IS NULL"), nothing, "{action} {parent}");
                assert_eq!(b.client().status().unwrap().set_aside_rows, held, "{action} {parent}");
                assert_eq!(b.count("SELECT count(*) FROM c WHERE id = 'c1'"), left, "{action} {parent}");
            }
            assert!(!b.sync().pull.rebuilt, "nothing is free yet");
            b.sql("UPDATE c SET v = 7 WHERE id = 'c2'");
            converge(&[&b, &a]);
            assert_eq!(
                b.text("SELECT group_concat(v) FROM (SELECT v FROM c ORDER BY id)"),
                "2,7,1",
                "{action} {parent}"
            );
            assert_eq!((broken(&b), b.client().status().unwrap().set_aside_rows), (0, 0), "{action} {parent}");
        }
    }
}

/// Rows that the app's own triggers clear before or after a DELETE do not hold it up, as under the app's own.
#[test]
fn what_a_trigger_clears_lets_a_delete_through() {
    for when in ["BEFORE", "AFTER"] {
        let w = World::with(SYNCED, Limits::default());
        let a = w.device("a");
        a.sql("INSERT INTO users (id, name) VALUES (1, 'one'), (2, 'two')");
        a.sync();
        let local = format!(
            "CREATE TABLE side (u INTEGER REFERENCES users(id), len INTEGER); CREATE TABLE other (u REFERENCES users(id));
             CREATE TRIGGER fill AFTER INSERT ON users BEGIN INSERT INTO side VALUES (NEW.id, length(NEW.name)); END;
             CREATE TRIGGER clear {when} DELETE ON users BEGIN DELETE FROM side WHERE u = OLD.id; END"
        );
        let b = device(&w, "b", &local);
        b.sql("INSERT INTO other VALUES (2)");
        a.sql("DELETE FROM users");
        a.sync();
        b.sync();
        // What no trigger clears holds its row as ever, and is cleared for no trial.
        assert_eq!(b.text("SELECT group_concat(name) FROM users"), "two", "{when}");
        assert_eq!((b.count("SELECT count(*) FROM side"), b.client().status().unwrap().set_aside_rows), (1, 1));
        b.sql("DELETE FROM other");
        b.sync();
        assert_eq!((b.count("SELECT count(*) FROM users"), b.count("SELECT count(*) FROM side")), (0, 0), "{when}");
        assert_eq!((broken(&b), b.client().status().unwrap().set_aside_rows), (0, 0), "{when}");
    }
}
