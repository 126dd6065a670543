//! An app with `foreign_keys` off (SQLite's default) gives rows other keys, or REPLACE evicts them: what refers to
//! them follows where the schema says so, and otherwise nothing is taken along in silence.

use sync_server::limits::Limits;

use crate::world::{Device, World, converge, dump};

/// Folders and notes, with these actions.
fn schema(on_update: &str, on_delete: &str) -> String {
    format!(
        "CREATE TABLE folder (id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE, name TEXT);
         CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, body TEXT,
           folder TEXT REFERENCES folder(id) ON UPDATE {on_update} ON DELETE {on_delete});
         CREATE TABLE page (folder TEXT REFERENCES folder(id) ON UPDATE {on_update} ON DELETE {on_delete},
           n INTEGER, text TEXT, PRIMARY KEY (folder, n));
         CREATE TABLE line (id TEXT PRIMARY KEY NOT NULL, folder TEXT, n INTEGER,
           FOREIGN KEY (folder, n) REFERENCES page(folder, n) ON UPDATE {on_update} ON DELETE {on_delete})"
    )
}

const ROWS: &str = "INSERT INTO folder VALUES ('inbox', 'in@x', 'Inbox'), ('other', 'other@x', 'Other');
    INSERT INTO note VALUES ('n1', 'one', 'inbox'), ('n2', 'two', 'inbox'), ('n3', 'three', 'other');
    INSERT INTO page VALUES ('inbox', 1, 'page');
    INSERT INTO line VALUES ('l', 'inbox', 1)";

/// A device with rows that are synced, and whose app does not look after foreign keys.
fn careless(w: &World) -> Device {
    let a = w.device("a");
    a.app.pragma_update(None, "foreign_keys", false).unwrap();
    a.sql(ROWS);
    a.sync();
    a
}

fn waiting(d: &Device) -> Vec<(String, String)> {
    d.client().rejected().unwrap().into_iter().map(|r| (r.key, r.reason)).collect()
}

const ACTIONS: [&str; 5] = ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"];

#[test]
fn references_follow_a_key_where_the_schema_says_so() {
    for on_delete in ACTIONS {
        for sql in [
            "UPDATE folder SET id = 'Inbox' WHERE id = 'inbox'",
            // In more than one step, and with an edit of a child beside it.
            "UPDATE folder SET id = 'tmp' WHERE id = 'inbox'; UPDATE folder SET id = 'Inbox' WHERE id = 'tmp';
             UPDATE note SET body = 'edited' WHERE id = 'n2'",
            // Another row takes its UNIQUE value.
            "INSERT OR REPLACE INTO folder VALUES ('Inbox', 'in@x', 'Inbox')",
            "UPDATE OR REPLACE folder SET id = 'Inbox', mail = 'in@x' WHERE id = 'other';
             UPDATE note SET folder = 'Inbox' WHERE id = 'n3'",
        ] {
            let w = World::with(&schema("CASCADE", on_delete), Limits::default());
            let a = careless(&w);
            a.sql(sql);
            a.sync();
            assert_eq!(waiting(&a), [], "{on_delete}: {sql}");
            assert_eq!(a.count("SELECT count(*) FROM note WHERE folder = 'Inbox'"), 2 + i64::from(sql.contains("n3")));
            assert_eq!(a.count("SELECT count(*) FROM page JOIN line USING (folder, n) WHERE folder = 'Inbox'"), 1);
            assert_eq!(a.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
            // Each that followed is told, as it was and as it is.
            let told: Vec<_> = a.client().conflicts().unwrap().into_iter().filter(|e| e.reason == "changed").collect();
            assert_eq!(told.len(), 4, "{on_delete}: {sql}: {told:?}");
            assert!(told.iter().all(|e| e.local_row.as_ref().unwrap().contains("inbox")), "{told:?}");
            assert!(told.iter().all(|e| e.merged_row.as_ref().unwrap().contains("Inbox")), "{told:?}");
            assert!(a.client().discarded().unwrap().is_empty());
            converge(&[&a, &w.device("b")]);
        }
    }
}

#[test]
fn a_key_that_rows_still_refer_to_is_not_deleted() {
    for on_delete in ACTIONS {
        for on_update in ["NO ACTION", "SET NULL"] {
            for sql in [
                "UPDATE folder SET id = 'Inbox', mail = 'new@x' WHERE id = 'inbox'",
                "INSERT OR REPLACE INTO folder VALUES ('Inbox', 'in@x', 'Inbox')",
                "PRAGMA recursive_triggers = ON; INSERT OR REPLACE INTO folder VALUES ('Inbox', 'in@x', 'Inbox')",
            ] {
                let case = format!("{on_delete} {on_update}: {sql}");
                let w = World::with(&schema(on_update, on_delete), Limits::default());
                let (a, before) = (careless(&w), "SELECT count(*) FROM note");
                a.sql(sql);
                a.sync();
                let (folder, replaced) = (r#"{"id":"inbox"}"#.to_owned(), sql.contains("REPLACE"));
                let waits = a.client().rejected().unwrap();
                let held = waits.iter().find(|r| r.key == folder).unwrap_or_else(|| panic!("{case}: {waits:?}"));
                assert_eq!(
                    (held.reason.as_str(), waits.len()),
                    ("still_referred_to", 1 + usize::from(replaced)),
                    "{case}"
                );
                assert!(held.message.contains("2 of note") && held.message.contains("n1"), "{}", held.message);
                // An INSERT that needs its UNIQUE value waits with it.
                let with = waits.iter().filter(|r| r.reason == "waits_for" && r.key.contains("Inbox")).count();
                assert_eq!(with, usize::from(replaced), "{case}: {waits:?}");
                assert_eq!(a.count(before), 3);
                assert!(a.client().discarded().unwrap().is_empty() && a.client().conflicts().unwrap().is_empty());
                let b = w.device("b");
                b.sync();
                assert_eq!(
                    (b.count(before), b.count("SELECT count(*) FROM folder WHERE id = 'inbox'")),
                    (3, 1),
                    "{case}"
                );
                // Until the app moves or deletes them.
                a.sql("UPDATE note SET folder = 'Inbox' WHERE folder = 'inbox'");
                a.sync();
                // A page refers to it. Where the new row waits, so do the notes that are its own now.
                assert_eq!(waiting(&a).len(), if replaced { 4 } else { 1 }, "{case}");
                a.sql("DELETE FROM line; DELETE FROM page");
                a.sync();
                assert_eq!(waiting(&a), [], "{case}");
                converge(&[&a, &b]);
                assert_eq!(b.count("SELECT count(*) FROM folder WHERE id = 'inbox'"), 0);
                assert_eq!(b.count("SELECT count(*) FROM note WHERE folder = 'Inbox'"), 2);
            }
        }
    }
}

/// Rows of which nobody knows how they went: the file was detached, or another program turned triggers off.
#[test]
fn a_row_that_nobody_saw_go_takes_nothing_along() {
    let w = World::with(&schema("NO ACTION", "CASCADE"), Limits::default());
    let mut a = careless(&w);
    a.client().detach(sync_client::Detach::KeepData).unwrap();
    a.close();
    a.sql("DELETE FROM folder WHERE id = 'inbox'");
    a.open();
    a.sync();
    assert_eq!(waiting(&a), [(r#"{"id":"inbox"}"#.into(), "still_referred_to".into())]);
    assert_eq!(a.count("SELECT count(*) FROM note"), 3);
    // What is given up comes back.
    assert!(a.client().drop_row("folder", "inbox").unwrap());
    a.sync();
    assert_eq!(a.count("SELECT count(*) FROM folder"), 2);
    converge(&[&a, &w.device("b")]);
}

/// A plain DELETE does what the schema declares, and what that takes from the file is told.
#[test]
fn a_plain_delete_acts_as_declared() {
    let expected = [("CASCADE", 4, 0), ("SET NULL", 0, 2), ("NO ACTION", 0, 0), ("RESTRICT", 0, 0)];
    for (on_delete, discarded, changed) in expected {
        let w = World::with(
            "CREATE TABLE folder (id TEXT PRIMARY KEY NOT NULL, name TEXT);
             CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, folder TEXT REFERENCES folder(id) ON DELETE {A});
             CREATE TABLE word (id TEXT PRIMARY KEY NOT NULL, note TEXT REFERENCES note(id) ON DELETE {A})"
                .replace("{A}", on_delete)
                .as_str(),
            Limits::default(),
        );
        for by_snapshot in [false, true] {
            let mut a = w.closed_device(&format!("a {by_snapshot}"), |_| {});
            a.user = format!("user {by_snapshot}");
            a.open();
            a.app.pragma_update(None, "foreign_keys", false).unwrap();
            a.sql(
                "INSERT INTO folder VALUES ('f', 'F');
                 INSERT INTO note VALUES ('n1', 'f'), ('n2', 'f'); INSERT INTO word VALUES ('w1', 'n1'), ('w2', 'n2')",
            );
            a.sync();
            a.sql("DELETE FROM folder");
            if by_snapshot {
                a.client().push().unwrap();
                a.client().rebuild().unwrap();
            }
            a.sync();
            let refused = i64::from(discarded + changed == 0);
            assert_eq!(a.count("SELECT count(*) FROM note"), if on_delete == "CASCADE" { 0 } else { 2 });
            assert_eq!(waiting(&a).len() as i64, refused, "{on_delete}");
            let told = a.client().discarded().unwrap();
            assert_eq!(told.len(), discarded, "{on_delete} {by_snapshot}: {told:?}");
            assert!(told.iter().all(|e| e.reason == "taken_along" && e.local_row.is_some()), "{told:?}");
            let told = a.client().conflicts().unwrap();
            assert_eq!(told.len(), changed, "{on_delete} {by_snapshot}: {told:?}");
            assert!(told.iter().all(|e| e.reason == "changed" && e.local_row.as_ref().unwrap().contains(r#""f""#)));
            assert_eq!(a.client().status().unwrap().outbox, "none");
            assert!(dump(&a.path).len() as i64 >= refused);
        }
    }
}

/// The pusher cannot know of rows that others sent meanwhile: the server is asked not to take them along.
#[test]
fn what_others_referred_to_meanwhile_is_not_taken_along() {
    for on_delete in ACTIONS {
        for on_update in ["NO ACTION", "SET NULL", "CASCADE"] {
            for sql in [
                "UPDATE folder SET id = 'New', mail = 'new@x' WHERE id = 'empty'",
                "INSERT OR REPLACE INTO folder VALUES ('New', 'empty@x', 'New')",
            ] {
                let case = format!("{on_delete} {on_update}: {sql}");
                let w = World::with(&schema(on_update, on_delete), Limits::default());
                let (a, b) = (careless(&w), w.device("b"));
                a.sql("INSERT INTO folder VALUES ('empty', 'empty@x', 'Empty')");
                a.sync();
                b.sync();
                b.sql("INSERT INTO note VALUES ('theirs', 'of b', 'empty')");
                b.sync();
                a.sql(sql);
                a.client().push().unwrap();
                for _ in 0..3 {
                    a.sync();
                    b.sync();
                }
                for d in [&a, &b] {
                    let note = d.count("SELECT count(*) FROM note WHERE id = 'theirs' AND folder IN ('empty', 'New')");
                    let told = format!("{:?} {:?}", d.client().rejected(), d.client().discarded());
                    assert_eq!(note, 1, "{case}: {told}");
                }
                assert_eq!(a.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{case}");
                converge(&[&a, &b]);
            }
        }
    }
}

/// The row that a delete takes along refers by a value that another row has by then.
#[test]
fn what_a_delete_takes_along_is_told_also_where_its_value_lives_on() {
    for on_delete in ["CASCADE", "SET NULL"] {
        for by_snapshot in [false, true] {
            let w = World::with(
                &format!(
                    "CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL, code TEXT UNIQUE);
                     CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, code TEXT REFERENCES p(code) ON DELETE {on_delete})"
                ),
                Limits::default(),
            );
            let a = w.device("a");
            a.app.pragma_update(None, "foreign_keys", false).unwrap();
            a.sql("INSERT INTO p VALUES ('old', 'c'); INSERT INTO c VALUES ('child', 'c'), ('other', NULL)");
            a.sync();
            a.sql("DELETE FROM p WHERE id = 'old'; INSERT INTO p VALUES ('new', 'c')");
            a.client().push().unwrap();
            if by_snapshot {
                a.client().rebuild().unwrap();
            }
            a.sync();
            let told = [a.client().discarded().unwrap(), a.client().conflicts().unwrap()].concat();
            let stays = a.count("SELECT count(*) FROM c WHERE id = 'child' AND code = 'c'");
            assert_eq!(told.len() as i64, 1 - stays, "{on_delete} {by_snapshot}: {told:?}");
            assert!(told.iter().all(|e| e.local_row.as_deref() == Some(r#"{"code":"c","id":"child"}"#)), "{told:?}");
            converge(&[&a, &w.device("b")]);
        }
    }
}
