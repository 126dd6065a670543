//! Rows of unsynced tables that cannot follow what they refer to, or may not go with it: a rule of their own table is
//! against it. What the server did then waits for them, with a reason, and nothing else does.

use sync_server::limits::Limits;

use crate::world::{Device, World, converge};

const SYNCED: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, mail TEXT UNIQUE);
    CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, user INTEGER REFERENCES users(id) ON DELETE CASCADE, body TEXT);";

/// A device with tables of its own, without primary keys, so that they stay local.
fn device(w: &World, name: &str, local: &str) -> Device {
    let device = w.device_with(name, sync_client::Policy::ServerWins, |app| app.execute_batch(local).unwrap());
    device.sync();
    device
}

fn broken(d: &Device) -> i64 {
    d.count("SELECT count(*) FROM pragma_foreign_key_check")
}

fn aside(d: &Device) -> u64 {
    d.client().status().unwrap().set_aside_rows
}

fn names(d: &Device) -> String {
    d.text("SELECT group_concat(id || name, ' ') FROM (SELECT id, name FROM users ORDER BY id)")
}

/// Two devices mint the same number, and rows of an unsynced table cannot say another one: nothing points to a stranger.
#[test]
fn a_number_stays_taken_while_rows_cannot_follow() {
    for (local, free) in [
        ("CREATE TABLE l (u INTEGER REFERENCES users(id) CHECK (u < 2))", "DELETE FROM l"),
        ("CREATE TABLE l (u INTEGER REFERENCES users(id) ON UPDATE CASCADE ON DELETE CASCADE CHECK (u < 2))", "DELETE FROM l"),
        ("CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE CASCADE);
          CREATE TRIGGER no BEFORE UPDATE ON l BEGIN SELECT RAISE(ROLLBACK, 'no'); END", "DROP TRIGGER no"),
        ("CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE SET NULL);
          CREATE TRIGGER no BEFORE UPDATE OF u ON l WHEN NEW.u IS NOT NULL BEGIN SELECT RAISE(IGNORE); END", "UPDATE l SET u = NULL"),
        ("CREATE TABLE l (j TEXT, u INTEGER AS (json_extract(j, '$.u')) STORED REFERENCES users(id) ON DELETE CASCADE);
          INSERT INTO l (j) VALUES ('{\"u\":null}')", "DELETE FROM l"),
        ("CREATE TABLE l (j TEXT, u INTEGER AS (json_extract(j, '$.u')) VIRTUAL REFERENCES users(id) ON DELETE SET NULL)", "UPDATE l SET j = '{}'"),
    ] {
        for by_snapshot in [false, true] {
            let w = World::with(SYNCED, Limits::default());
            let a = w.device("a");
            let b = device(&w, "b", local);
            let case = format!("{local} {by_snapshot}");
            a.sql("INSERT INTO users (name) VALUES ('ada'); INSERT INTO posts VALUES ('pa', 1, 'by ada')");
            b.sql("INSERT INTO users (name) VALUES ('eve'), ('eva'); INSERT INTO posts VALUES ('pe', 1, 'by eve')");
            if local.contains("json") {
                b.sql("INSERT INTO l (j) VALUES ('{\"u\":1}')");
            } else {
                b.sql("INSERT INTO l VALUES (1)");
            }
            a.sync();
            for _ in 0..2 {
                if by_snapshot {
                    b.client().rebuild().unwrap();
                }
                b.sync();
                assert_eq!(b.text("SELECT name FROM l JOIN users ON id = u"), "eve", "{case}");
                assert_eq!(b.text("SELECT name FROM posts JOIN users u ON u.id = user WHERE posts.id = 'pe'"), "eve", "{case}");
                assert_eq!(b.count("SELECT count(*) FROM posts WHERE id = 'pa' AND user = 1"), 0, "{case}: not eve's");
                assert_eq!((broken(&b), aside(&b)), (0, 2), "{case}");
            }
            // What has nothing to do with it goes on, both ways.
            a.sync();
            assert!(names(&a).contains("eva"), "{case}");
            let told = b.client().conflicts().unwrap();
            assert!(told.iter().any(|e| e.table == "users" && e.message.contains(" l")), "{case}: {told:?}");
            let rejected = b.client().rejected().unwrap();
            assert!(rejected.len() == 2 && rejected.iter().any(|e| e.message.contains(" l")), "{case}: {rejected:?}");
            assert!(!b.sync().pull.rebuilt, "{case}: nothing is free yet");
            // A person's wish to try again, an edit of the row: it is in the way as before, and no sync goes on for ever.
            b.client().retry("users", "1").unwrap();
            b.sync();
            b.sql("UPDATE users SET mail = 'eve@x' WHERE id = 1");
            b.sync();
            assert_eq!((aside(&b), b.text("SELECT name FROM l JOIN users ON id = u").as_str()), (2, "eve"), "{case}");
            assert_eq!(names(&a).matches("ev").count(), 1, "{case}");
            b.sql(free);
            converge(&[&b, &a]);
            assert_eq!((broken(&b), aside(&b)), (0, 0), "{case}");
            for name in ["ada", "eve", "eva"] {
                assert!(names(&b).contains(name), "{case}: {}", names(&b));
            }
            assert_eq!(b.text("SELECT name FROM posts JOIN users u ON u.id = user WHERE posts.id = 'pa'"), "ada", "{case}");
            assert_eq!(b.text("SELECT name FROM posts JOIN users u ON u.id = user WHERE posts.id = 'pe'"), "eve", "{case}");
            if free.starts_with("DROP") {
                assert_eq!(b.text("SELECT name FROM l JOIN users ON id = u"), "eve", "{case}");
            }
        }
    }
}

/// What a foreign key declares cannot be done: a trigger, a CHECK, a NOT NULL or a UNIQUE of the unsynced table is against
/// it. The delete waits as if nothing were declared, and the rest of what came with it does not.
#[test]
fn a_delete_waits_for_the_rows_that_may_not_go_with_it() {
    for (local, free) in [
        (
            "CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE CASCADE);
             CREATE TRIGGER no BEFORE DELETE ON l BEGIN SELECT RAISE(ABORT, 'kept'); END",
            "DROP TRIGGER no",
        ),
        (
            "CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE CASCADE);
             CREATE TRIGGER no BEFORE DELETE ON l BEGIN SELECT RAISE(IGNORE); END",
            "UPDATE l SET u = NULL",
        ),
        (
            "CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE CASCADE); CREATE TABLE n (x);
             CREATE TRIGGER no AFTER DELETE ON l BEGIN INSERT INTO n VALUES (1); SELECT RAISE(ROLLBACK, 'kept'); END",
            "DROP TRIGGER no",
        ),
        (
            "CREATE TABLE c (u INTEGER REFERENCES users(id) ON DELETE CASCADE, x REAL UNIQUE);
             CREATE TABLE l (x REFERENCES c(x) ON DELETE CASCADE); INSERT INTO c VALUES (1, 1);
             CREATE TRIGGER no BEFORE DELETE ON l BEGIN SELECT RAISE(FAIL, 'kept'); END",
            "DROP TRIGGER no",
        ),
        ("CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE SET NULL CHECK (u IS NOT NULL))", "DELETE FROM l"),
        (
            "CREATE TABLE l (u REAL DEFAULT 2 UNIQUE REFERENCES users(id) ON DELETE SET DEFAULT); INSERT INTO l VALUES (2)",
            "DELETE FROM l WHERE u = 2",
        ),
        (
            "CREATE TABLE l (j TEXT DEFAULT '{\"u\":1}', u INTEGER AS (json_extract(j, '$.u')) REFERENCES users(id) ON DELETE SET NULL)",
            "DELETE FROM l",
        ),
    ] {
        for verb in ["pull", "rebuild", "verify"] {
            let w = World::with(SYNCED, Limits::default());
            let a = w.device("a");
            a.sql("INSERT INTO users (id, name) VALUES (1, 'one'), (2, 'two'), (3, 'three'); INSERT INTO posts VALUES ('p', 1, 'x')");
            a.sync();
            let b = w.closed_device("b", |_| {});
            b.app.pragma_update(None, "foreign_keys", false).unwrap();
            b.sql(local);
            b.app.pragma_update(None, "foreign_keys", true).unwrap();
            let mut b = b;
            b.open();
            b.sync();
            if local.contains("json") {
                b.sql("INSERT INTO l (j) VALUES ('{\"u\":1}')");
            } else {
                b.sql("INSERT INTO l VALUES (1)");
            }
            let before = b.count("SELECT count(*) FROM l");
            a.sql("DELETE FROM users WHERE id IN (1, 3)");
            a.sync();
            let case = format!("{local} {verb}");
            for _ in 0..2 {
                match verb {
                    "pull" => drop(b.sync()),
                    "rebuild" => drop(b.client().rebuild().unwrap()),
                    _ => drop(b.client().verify(sync_client::Repair::FromServer).unwrap()),
                }
                assert_eq!(names(&b), "1one 2two", "{case}");
                assert_eq!((broken(&b), aside(&b), b.count("SELECT count(*) FROM l")), (0, 1, before), "{case}");
            }
            let told = b.client().conflicts().unwrap();
            assert!(
                told.iter().any(|e| e.table == "users" && e.op == "DELETE" && e.message.contains(" l")),
                "{case}: {told:?}"
            );
            b.sql(free);
            b.sync();
            assert_eq!((broken(&b), aside(&b), names(&b).as_str()), (0, 0, "2two"), "{case}");
            converge(&[&a, &b]);
        }
    }
}

/// The same for a value that changes elsewhere; what the app's own trigger clears or moves over is in nobody's way.
#[test]
fn a_change_waits_only_for_what_is_against_it() {
    for (local, held, free, expected) in [
        (
            "CREATE TABLE l (m TEXT REFERENCES users(mail) ON UPDATE CASCADE CHECK (m <> 'new@x'))",
            1,
            "DELETE FROM l",
            "NULL",
        ),
        (
            "CREATE TABLE l (m TEXT REFERENCES users(mail) ON UPDATE CASCADE);
             CREATE TRIGGER no BEFORE UPDATE ON l BEGIN SELECT RAISE(ABORT, 'no'); END",
            1,
            "DROP TRIGGER no",
            "new@x",
        ),
        ("CREATE TABLE l (j TEXT, m TEXT AS (j) REFERENCES users(mail) ON UPDATE CASCADE)", 1, "DELETE FROM l", "NULL"),
        (
            "CREATE TABLE l (m TEXT REFERENCES users(mail));
             CREATE TRIGGER clear AFTER UPDATE ON users BEGIN DELETE FROM l WHERE m = OLD.mail; END",
            0,
            "",
            "NULL",
        ),
        (
            "CREATE TABLE l (m TEXT REFERENCES users(mail) ON UPDATE RESTRICT);
             CREATE TRIGGER clear BEFORE UPDATE OF mail ON users BEGIN DELETE FROM l WHERE m = OLD.mail; END",
            0,
            "",
            "NULL",
        ),
        (
            "CREATE TABLE l (m TEXT REFERENCES users(mail));
             CREATE TRIGGER over AFTER UPDATE OF mail ON users BEGIN UPDATE l SET m = NEW.mail WHERE m = OLD.mail; END",
            0,
            "",
            "new@x",
        ),
        (
            "CREATE TABLE l (m TEXT REFERENCES users(mail));
             CREATE TRIGGER clear AFTER UPDATE ON users WHEN OLD.name <> NEW.name BEGIN DELETE FROM l WHERE m = OLD.mail; END",
            1,
            "DELETE FROM l",
            "NULL",
        ),
    ] {
        for by_snapshot in [false, true] {
            let w = World::with(SYNCED, Limits::default());
            let a = w.device("a");
            a.sql("INSERT INTO users VALUES (1, 'one', 'old@x'), (2, 'two', 'two@x')");
            a.sync();
            let b = device(&w, "b", local);
            b.sql(&format!("INSERT INTO l ({}) VALUES ('old@x')", if local.contains("j TEXT") { "j" } else { "m" }));
            a.sql("UPDATE users SET mail = 'new@x' WHERE id = 1; UPDATE users SET name = 'zwei' WHERE id = 2");
            a.sync();
            let case = format!("{local} {by_snapshot}");
            for _ in 0..2 {
                if by_snapshot {
                    b.client().rebuild().unwrap();
                }
                b.sync();
                assert_eq!((broken(&b), aside(&b)), (0, held), "{case}");
                assert_eq!(names(&b), "1one 2zwei", "{case}");
            }
            assert_eq!(b.count("SELECT count(*) FROM users WHERE mail = 'old@x'"), held as i64, "{case}");
            if held > 0 {
                assert!(!b.sync().pull.rebuilt, "{case}");
            }
            b.sql(free);
            b.sync();
            assert_eq!((broken(&b), aside(&b), b.text("SELECT max(m) FROM l").as_str()), (0, 0, expected), "{case}");
            converge(&[&a, &b]);
        }
    }
}

/// A row that cannot follow is not for the whole sync to stop at, and the owner is told before it begins.
#[test]
fn a_generated_reference_is_told_beforehand() {
    let w = World::with(SYNCED, Limits::default());
    let b = w.closed_device("b", |app| {
        app.execute_batch("CREATE TABLE l (j TEXT, u INTEGER AS (j) REFERENCES users(id) ON UPDATE CASCADE)").unwrap();
    });
    let found = sync_client::inspect(&b.path, None).unwrap();
    let notes: Vec<String> = found.notes.iter().map(|n| n.text.clone()).collect();
    assert!(notes.iter().any(|n| n.contains("generated")), "{notes:?}");
}

/// The server moves a row under one that this file does not take for now: the row stays where it was for as long, since
/// rows of an unsynced table refer to it, and is moved once that one is here.
#[test]
fn a_row_whose_new_parent_is_set_aside_stays_where_it_was() {
    const LINE: &str = "CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL, v);
        CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES p(id), w, code TEXT UNIQUE);";
    for action in ["", "ON DELETE CASCADE", "ON DELETE SET NULL", "ON UPDATE CASCADE ON DELETE CASCADE"] {
        for by_snapshot in [false, true] {
            for later in ["", "UPDATE c SET w = 'again' WHERE id = 'c1'", "UPDATE c SET p = NULL WHERE id = 'c1'"] {
                let case = format!("{action} {by_snapshot} {later}");
                let w = World::with(LINE, Limits::default());
                let a = w.device("a");
                let local = format!(
                    "CREATE UNIQUE INDEX only_here ON p(v);
                     CREATE TABLE l (c TEXT REFERENCES c(id) {action}, v); CREATE TABLE m (c REFERENCES c(code) {action})"
                );
                let b = device(&w, "b", &local);
                b.sql(
                    "INSERT INTO p VALUES ('p1', 1); INSERT INTO c VALUES ('c1', 'p1', 'old', 'k'), ('c2', 'p1', 'old', 'n');
                     INSERT INTO l VALUES ('c1', 'mine'); INSERT INTO m VALUES ('k')",
                );
                converge(&[&b, &a]);
                a.sql("INSERT INTO p VALUES ('p2', 1); UPDATE c SET p = 'p2', w = 'new'");
                a.sync();
                for round in 0..3 {
                    if by_snapshot {
                        b.client().rebuild().unwrap();
                    }
                    b.sync();
                    assert_eq!(
                        (broken(&b), b.count("SELECT count(c) FROM l"), b.count("SELECT count(c) FROM m")),
                        (0, 1, 1),
                        "{case}"
                    );
                    let moved = round == 2 && later.contains("NULL");
                    let aside_now = 3 - u64::from(moved);
                    assert_eq!(aside(&b), aside_now, "{case} {round}");
                    assert_eq!(b.count("SELECT count(*) FROM c WHERE p = 'p1'"), i64::from(!moved), "{case} {round}");
                    if round == 1 {
                        a.sql(later);
                        a.sync();
                    }
                }
                b.sql("UPDATE p SET v = 2 WHERE id = 'p1'");
                converge(&[&b, &a]);
                assert_eq!((broken(&b), aside(&b)), (0, 0), "{case}");
                assert_eq!((b.count("SELECT count(c) FROM l"), b.count("SELECT count(c) FROM m")), (1, 1), "{case}");
            }
        }
    }
}

/// The same where it cannot go back, since its old parent is gone: that is told, and whole again with the new one.
#[test]
fn a_row_that_can_stay_nowhere_is_told() {
    const LINE: &str = "CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL, v);
        CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES p(id), w);";
    let w = World::with(LINE, Limits::default());
    let a = w.device("a");
    let b = device(&w, "b", "CREATE UNIQUE INDEX only_here ON p(v); CREATE TABLE l (c TEXT REFERENCES c(id), v)");
    b.sql("INSERT INTO p VALUES ('p1', 1), ('p3', 3); INSERT INTO c VALUES ('c1', 'p1', 'old'); INSERT INTO l VALUES ('c1', 'mine')");
    converge(&[&b, &a]);
    a.sql("INSERT INTO p VALUES ('p2', 3); UPDATE c SET p = 'p2'; DELETE FROM p WHERE id = 'p1'");
    a.sync();
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM l"), 1);
    let told = b.client().conflicts().unwrap();
    assert!(
        broken(&b) == 0 || told.iter().any(|e| e.reason == "left_behind" && e.message.contains("rows of l")),
        "{told:?}"
    );
    b.sql("UPDATE p SET v = 7 WHERE id = 'p3'");
    converge(&[&b, &a]);
    assert_eq!((broken(&b), aside(&b), b.count("SELECT count(*) FROM l")), (0, 0, 1));
}
