//! Pending work that is moved to another device of the same account: committed once, settled like any other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Attached, Detach, Error, Policy};

use crate::changed::told;
use crate::world::{Device, SCHEMA, World, converge, dump};

/// Moves what is pending on a device into a file.
fn export(w: &World, d: &mut Device) -> (PathBuf, u64) {
    let path = w.dir.path().join("work.export");
    let _ = std::fs::remove_file(&path);
    let detached = d.client().detach(Detach::Export(path.clone())).unwrap();
    d.close();
    assert_eq!((detached.kept_rows, detached.discarded_rows), (0, 0));
    (path, detached.exported_rows)
}

#[test]
fn work_moves_to_another_device() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'), ('q', 'x'), ('r', 'x'); INSERT INTO notes VALUES ('n', 'q', 'x')");
    converge(&[&a, &b]);
    let before = dump(&a.path);
    a.sql(
        "UPDATE people SET name = 'edited', photo = x'00ff' WHERE id = 'p'; DELETE FROM people WHERE id = 'q';
         INSERT INTO people (id, name) VALUES ('new', 'by a'); INSERT INTO notes VALUES ('m', 'new', 'of new');
         INSERT INTO people (id) VALUES ('never'); DELETE FROM people WHERE id = 'never'",
    );
    let (path, rows) = export(&w, &mut a);
    assert_eq!(rows, 5, "edited, deleted with its note, new with its note");
    assert_eq!(dump(&a.path), before, "the work has left");
    assert_eq!(sync_client::read_inbox(&a.path, "discarded").unwrap().len(), 5, "and is told of here");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let imported = b.client().import(&path).unwrap();
    assert_eq!((imported.rows, imported.conflicts, imported.committed_rows, imported.already), (5, 0, 0, false));
    assert_eq!(b.sync().push.committed_rows, 5);
    assert!(b.client().import(&path).unwrap().already);
    a.open();
    assert_eq!(a.client().attach().unwrap(), Attached::Resumed);
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name || hex(photo) FROM people WHERE id = 'p'"), "edited00FF");
    assert_eq!(a.text("SELECT group_concat(id) FROM notes"), "m");
    assert_eq!(a.count("SELECT count(*) FROM people"), 3);
    assert!(b.client().conflicts().unwrap().is_empty() && b.client().discarded().unwrap().is_empty());
}

/// HTTP that breaks at a commit: before it reaches the server, or after.
struct Breaking {
    http: Http,
    state: AtomicUsize,
}

const BEFORE: usize = 1;
const AFTER: usize = 2;
const BROKEN: usize = 3;

impl Transport for Breaking {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let broken = || Err(TransportError::Broken("the network is gone".into()));
        let commit = request.path.ends_with("/commit");
        match self.state.load(Ordering::Relaxed) {
            BROKEN => return broken(),
            BEFORE if commit => {
                self.state.store(BROKEN, Ordering::Relaxed);
                return broken();
            }
            AFTER if commit => {
                self.http.send(request)?;
                self.state.store(BROKEN, Ordering::Relaxed);
                return broken();
            }
            _ => {}
        }
        self.http.send(request)
    }
}

/// A push whose commit was sent and not answered: it is committed once, whichever way it went.
#[test]
fn a_push_in_doubt_is_committed_once() {
    for (when, edited_since) in [(BEFORE, false), (AFTER, false), (BEFORE, true), (AFTER, true)] {
        let w = World::new();
        let breaking = Arc::new(Breaking { http: Http::new(w.url()).unwrap(), state: AtomicUsize::new(0) });
        let transport = Arc::clone(&breaking);
        let mut a = w.device_built("a", move |b| b.transport(Arc::<Breaking>::clone(&transport)));
        let b = w.device("b");
        a.sql("INSERT INTO people (id, name) VALUES ('p', 'first')");
        converge(&[&a, &b]);
        breaking.state.store(when, Ordering::Relaxed);
        a.sql("INSERT INTO counters (label) VALUES ('one'), ('two'); INSERT INTO marks VALUES ('m', 1, 'of one'); UPDATE people SET name = 'sent'");
        a.client().sync().unwrap_err();
        if edited_since {
            a.sql("UPDATE counters SET label = 'edited' WHERE id = 1; DELETE FROM counters WHERE id = 2; UPDATE people SET age = 7");
        }
        let (path, _) = export(&w, &mut a);
        assert_eq!(a.text("SELECT name FROM people"), "first");
        let imported = b.client().import(&path).unwrap();
        assert_eq!(imported.committed_rows, if when == AFTER { 4 } else { 0 });
        assert_eq!(imported.conflicts, 0, "{when} {edited_since}");
        breaking.state.store(0, Ordering::Relaxed);
        a.open();
        converge(&[&b, &a]);
        let labels = "SELECT group_concat(id || label) FROM counters";
        assert_eq!(a.text(labels), if edited_since { "1edited" } else { "1one,2two" }, "{when}");
        assert_eq!(a.text("SELECT name || coalesce(age, '') FROM people"), if edited_since { "sent7" } else { "sent" });
        assert_eq!(a.count("SELECT count(*) FROM marks JOIN counters ON counter = counters.id"), 1);
        for d in [&a, &b] {
            assert!(d.client().conflicts().unwrap().is_empty());
        }
    }
}

/// Numbers minted on three sides: each row keeps its children.
#[test]
fn imported_numbers_take_others_and_references_follow() {
    let w = World::new();
    let (mut a, b, c) = (w.device("a"), w.device("b"), w.device("c"));
    converge(&[&a, &b, &c]);
    let fill = |d: &Device, who: &str| {
        d.sql(&format!("INSERT INTO counters (label) VALUES ('{who}1'), ('{who}2'); INSERT INTO marks VALUES ('{who}', 1, '{who}1'), ('{who}x', 2, '{who}2')"));
    };
    fill(&a, "a");
    fill(&b, "b");
    fill(&c, "c");
    let (path, rows) = export(&w, &mut a);
    assert_eq!(rows, 4);
    c.sync();
    let imported = b.client().import(&path).unwrap();
    assert_eq!(imported.rows, 4);
    a.open();
    converge(&[&b, &c, &a]);
    for d in [&a, &b, &c] {
        assert_eq!(d.count("SELECT count(*) FROM counters"), 6);
        assert_eq!(d.count("SELECT count(*) FROM marks JOIN counters ON counter = counters.id AND label = text"), 6);
    }
}

/// What changed on the server since, and on the importing device: the policy, and the device's own change.
#[test]
fn imported_changes_are_settled() {
    for policy in [Policy::ServerWins, Policy::ClientWins, Policy::MergeColumns(Default::default())] {
        let merges = matches!(policy, Policy::MergeColumns(_));
        let wins = matches!(policy, Policy::ClientWins);
        let w = World::new();
        let (mut a, c) = (w.device("a"), w.device("c"));
        let b = w.device_with("b", policy, |_| {});
        a.sql("INSERT INTO people (id, name) VALUES ('changed', 'x'), ('gone', 'x'), ('own', 'x'), ('same', 'x')");
        converge(&[&a, &b, &c]);
        a.sql("UPDATE people SET name = 'by a' WHERE id <> 'same'; UPDATE people SET name = 'same' WHERE id = 'same'; INSERT INTO notes VALUES ('n', 'gone', 'orphan')");
        let (path, rows) = export(&w, &mut a);
        assert_eq!(rows, 5);
        c.sql("UPDATE people SET age = 9 WHERE id = 'changed'; DELETE FROM people WHERE id = 'gone'; UPDATE people SET name = 'same' WHERE id = 'same'");
        c.sync();
        b.sql("UPDATE people SET name = 'by b' WHERE id = 'own'");
        told(&b, "changes are imported", |b| assert!(!b.client().import(&path).unwrap().already));
        a.open();
        converge(&[&b, &c, &a]);
        let name = |id: &str| {
            c.text(&format!("SELECT coalesce(max(name || coalesce(age, '')), 'none') FROM people WHERE id = '{id}'"))
        };
        assert_eq!(
            name("changed"),
            if merges {
                "by a9"
            } else if wins {
                "by a"
            } else {
                "x9"
            }
        );
        assert_eq!(name("gone"), if wins { "by a" } else { "none" });
        assert_eq!(name("own"), "by b");
        assert_eq!(name("same"), "same");
        let discarded = b.client().discarded().unwrap();
        assert!(discarded.iter().any(|d| d.reason == "import" && d.local_row.as_ref().unwrap().contains("by a")));
        assert_eq!(c.count("SELECT count(*) FROM notes"), i64::from(wins));
        let rejected = b.client().rejected().unwrap();
        assert_eq!(rejected.len(), usize::from(!wins), "{rejected:?}");
        assert!(rejected.iter().all(|r| r.local_row.as_ref().unwrap().contains("orphan")));
    }
}

/// A unique value that somebody else has by now, and rows that the server had refused.
#[test]
fn what_does_not_fit_waits_in_the_inbox() {
    let mut w = World::with(&SCHEMA.replace("age INTEGER", "age INTEGER CHECK (age < 100)"), Default::default());
    w.schema = SCHEMA.to_owned();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO people (id, email) VALUES ('pa', 'taken@x'); INSERT INTO people (id, age) VALUES ('old', 200)");
    a.client().push().unwrap_or_default();
    a.sql("INSERT INTO people (id, email) VALUES ('pz', 'other@x'); INSERT INTO notes VALUES ('n', 'pz', 'depends')");
    let (path, _) = export(&w, &mut a);
    b.sql("INSERT INTO people (id, email) VALUES ('pb', 'other@x')");
    b.sync();
    b.client().import(&path).unwrap();
    b.sync();
    let mut reasons: Vec<String> =
        b.client().rejected().unwrap().into_iter().map(|r| format!("{} {}", r.table, r.reason)).collect();
    reasons.sort();
    assert_eq!(reasons, ["notes parent_deleted", "people check", "people unique"]);
    a.open();
    b.sql("UPDATE people SET age = 20 WHERE id = 'old'");
    converge(&[&b, &a]);
    assert_eq!(a.count("SELECT count(*) FROM people"), 3);
}

/// Another account, another app version, another file: nothing happens.
#[test]
fn what_cannot_be_taken_up_changes_nothing() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("ALTER TABLE people ADD COLUMN nick TEXT; INSERT INTO people (id, nick) VALUES ('p', 'Pip')");
    let mut bob = w.device("bob");
    bob.user = "bob".into();
    bob.open();
    bob.sync();
    let taken = w.dir.path().join("a.db");
    assert!(matches!(a.client().detach(Detach::Export(taken)), Err(Error::Argument(_))), "never over another file");
    let (path, rows) = export(&w, &mut a);
    assert_eq!(rows, 1);
    for (client, words) in [(bob.client(), "another account"), (b.client(), "the column nick")] {
        match client.import(&path) {
            Err(Error::Argument(why)) => assert!(why.contains(words), "{why}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(client.status().unwrap().pending_rows, 0);
    }
    assert!(matches!(b.client().import(&b.path), Err(Error::Argument(_))));
    assert!(matches!(b.client().import("no such file"), Err(Error::Argument(_))));
}

/// Work of a file that never met a server is of no account yet: any file may take it up.
#[test]
fn work_of_a_file_that_never_synced_moves_too() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'offline from the first day')");
    let (path, rows) = export(&w, &mut a);
    assert_eq!((rows, a.count("SELECT count(*) FROM people")), (1, 0));
    assert_eq!(b.client().import(&path).unwrap().rows, 1);
    assert_eq!(b.sync().push.committed_rows, 1);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name FROM people"), "offline from the first day");
}

/// A push of the importing file is uploaded in part: its rows are changes of this file all the same.
#[test]
fn imported_changes_meet_those_that_are_half_uploaded() {
    let limits = sync_server::limits::Limits { max_rows_per_push_chunk: 2, ..Default::default() };
    let w = World::with(SCHEMA, limits);
    let (mut a, mut b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'of a')");
    let (path, _) = export(&w, &mut a);
    b.sql("INSERT INTO people (id, name) VALUES ('p', 'of b'); INSERT INTO people (id) VALUES ('q'), ('r'), ('s')");
    // The network goes after the first of several chunks.
    let chunks = AtomicUsize::new(0);
    let client = crate::cases::cut(&w, &mut b, move |r| {
        let chunk = usize::from(r.path.ends_with("/chunks"));
        chunks.fetch_add(chunk, Ordering::Relaxed) + chunk > 1
    });
    client.sync().unwrap_err();
    drop(client);
    b.open();
    assert_eq!(b.client().status().unwrap().outbox, "frozen");
    b.client().import(&path).unwrap();
    let discarded = b.client().discarded().unwrap();
    assert!(discarded.len() == 1 && discarded[0].local_row.as_ref().unwrap().contains("of a"), "{discarded:?}");
    a.open();
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT name FROM people"), "of b");
}

/// The importing file has rows of its own that refer to what the other device deleted: it stays, and is told of.
#[test]
fn an_imported_delete_breaks_no_reference() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    converge(&[&a, &b]);
    a.sql("DELETE FROM people WHERE id = 'p'");
    let (path, _) = export(&w, &mut a);
    b.sql("INSERT INTO notes VALUES ('n', 'p', 'by b')");
    let imported = b.client().import(&path).unwrap();
    assert_eq!((imported.rows, imported.conflicts), (0, 1));
    assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    let discarded = b.client().discarded().unwrap();
    assert_eq!((discarded.len(), discarded[0].reason.as_str()), (1, "still_referred_to"));
    a.open();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT n.body || p.name FROM notes n JOIN people p ON p.id = n.person"), "by bx");
}

/// The same where the row that refers is of a table that is not synced: it could not be said to the server either.
#[test]
fn an_import_takes_no_row_from_under_an_unsynced_one() {
    for (change, referred, conflicts) in [
        ("DELETE FROM people WHERE id = 'p'", "id", 1),
        // The row under its new key finds its name taken.
        ("UPDATE people SET id = 'q' WHERE id = 'p'", "id", 2),
        ("UPDATE people SET name = 'y' WHERE id = 'p'", "name", 1),
    ] {
        let w = World::with(&SCHEMA.replace("name TEXT", "name TEXT UNIQUE"), sync_server::limits::Limits::default());
        let mut a = w.device("a");
        let b = w.device_with("b", Policy::ServerWins, |app| {
            app.execute_batch(&format!("CREATE TABLE mine (person TEXT REFERENCES people({referred}))")).unwrap();
        });
        a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
        converge(&[&a, &b]);
        a.sql(change);
        let (path, _) = export(&w, &mut a);
        b.sql(&format!("INSERT INTO mine SELECT {referred} FROM people"));
        let imported = b.client().import(&path).unwrap();
        assert_eq!(imported.conflicts, conflicts, "{change}");
        assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{change}");
        let discarded = b.client().discarded().unwrap();
        assert_eq!((discarded.len(), discarded[0].reason.as_str()), (1, "still_referred_to"), "{change}");
        assert!(discarded[0].message.contains("mine"), "{}", discarded[0].message);
        assert_eq!(b.text("SELECT name FROM people WHERE id = 'p'"), "x", "{change}");
        b.sync();
        // Once nothing refers to it, it is a row like any other.
        b.sql("DELETE FROM mine; DELETE FROM people WHERE id = 'p'");
        a.open();
        converge(&[&a, &b]);
    }
}

/// Whatever lies beside an export is somebody's; of a try that was cut in the middle nothing stays.
#[test]
fn an_export_touches_no_other_file() {
    let w = World::new();
    let mut a = w.device("a");
    a.sync();
    a.sql("INSERT INTO people (id) VALUES ('work')");
    let theirs = w.dir.path().join("work.export-new");
    std::fs::write(&theirs, "a thesis").unwrap();
    a.sql("INSERT INTO _sync_meta VALUES ('exporting', 'cut')");
    for left in ["work.export-cut", "work.export-cut-journal"] {
        std::fs::write(w.dir.path().join(left), "").unwrap();
    }
    assert_eq!(export(&w, &mut a).1, 1);
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "a thesis");
    let mut beside: Vec<String> = std::fs::read_dir(w.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("work"))
        .collect();
    beside.sort();
    assert_eq!(beside, ["work.export", "work.export-new"]);
}

/// What an importing file lacks matters only where it would lose rows.
#[test]
fn a_table_without_rows_in_the_export_may_be_missing() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("CREATE TABLE extra (id TEXT PRIMARY KEY NOT NULL, x TEXT); ALTER TABLE notes ADD COLUMN extra TEXT");
    converge(&[&b]);
    a.sync();
    a.sql("INSERT INTO people (id) VALUES ('work')");
    let (path, rows) = export(&w, &mut a);
    assert_eq!((rows, b.client().import(&path).unwrap().rows), (1, 1));
    // With a row in it, it is refused by name.
    for (sql, lacks) in [
        ("INSERT INTO extra VALUES ('e', 'x')", "the synced table extra"),
        ("INSERT INTO notes (id) VALUES ('n')", "the column extra of table notes"),
    ] {
        a.open();
        a.sql(sql);
        let (path, _) = export(&w, &mut a);
        let refused = b.client().import(&path).unwrap_err().to_string();
        assert!(refused.contains(lacks), "{refused}");
    }
}

/// Where it cannot be made, the sentence says where, and nothing has happened to the work.
#[test]
fn an_export_that_cannot_be_made_names_its_place() {
    let w = World::new();
    let a = w.device("a");
    a.sync();
    a.sql("INSERT INTO people (id) VALUES ('work')");
    let path = w.dir.path().join("nowhere/work.export");
    let failed = a.client().detach(Detach::Export(path.clone())).unwrap_err();
    assert!(matches!(failed, Error::Io { .. }), "{failed:?}");
    assert!(failed.to_string().starts_with(&format!("cannot make the export {}: ", path.display())), "{failed}");
    assert_eq!(a.sync().push.committed_rows, 1);
}

/// What rows of an unsynced table refer to cannot leave its table: it stays pending here, with what refers to it, and is in
/// no export, so that it does not exist twice later.
#[test]
fn what_has_to_stay_is_not_exported() {
    const SYNCED: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
        CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, user INTEGER REFERENCES users(id), body TEXT);";
    for (of, local) in [
        ("posts", "CREATE TABLE l (p TEXT REFERENCES posts(id)); INSERT INTO l VALUES ('mine')"),
        (
            "users",
            "CREATE TABLE l (u INTEGER NOT NULL REFERENCES users(id) ON DELETE SET NULL); INSERT INTO l VALUES (2)",
        ),
        (
            "guarded",
            "CREATE TABLE l (u INTEGER REFERENCES users(id) ON DELETE CASCADE); INSERT INTO l VALUES (2);
             CREATE TRIGGER no BEFORE DELETE ON l BEGIN SELECT RAISE(ABORT, 'no'); END",
        ),
    ] {
        for discard in [false, true] {
            let w = World::with(SYNCED, sync_server::limits::Limits::default());
            let (a, mut b) = (w.device("a"), w.device("b"));
            a.sql("INSERT INTO users (name) VALUES ('one'); INSERT INTO posts VALUES ('q', 1, 'x')");
            converge(&[&a, &b]);
            b.sql(
                "INSERT INTO users (name) VALUES ('mine'); INSERT INTO posts VALUES ('mine', 2, 'x'), ('free', 1, 'x'),
                 ('other', 2, 'x'); UPDATE posts SET user = 2, body = 'moved' WHERE id = 'q'",
            );
            b.sql(local);
            let case = format!("{of} {discard}");
            if discard {
                let detached = b.client().detach(Detach::Discard).unwrap();
                let kept = if of == "posts" { 2 } else { 1 };
                assert_eq!((detached.kept_rows, detached.discarded_rows), (kept, 5 - kept), "{case}");
                assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{case}");
                continue;
            }
            let path = w.dir.path().join("work.export");
            let detached = b.client().detach(Detach::Export(path.clone())).unwrap();
            assert_eq!((detached.kept_rows, detached.exported_rows), (4, 1), "{case}");
            assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{case}");
            assert_eq!(
                b.text("SELECT group_concat(id) FROM (SELECT id FROM posts ORDER BY id)"),
                "mine,other,q",
                "{case}"
            );
            let stayed = sync_client::read_inbox(&b.path, "conflict").unwrap();
            assert_eq!(stayed.iter().filter(|e| e.reason == "stayed").count(), 4, "{case}: {stayed:?}");
            a.sql("INSERT INTO users (name) VALUES ('theirs')");
            assert_eq!(a.client().import(&path).unwrap().rows, 1, "{case}");
            a.sync();
            b.open();
            // The guard would keep the row from another number, too.
            b.sql("DROP TRIGGER IF EXISTS no");
            converge(&[&a, &b]);
            let posts = "SELECT group_concat(p.id || u.name, ' ') FROM (SELECT * FROM posts ORDER BY id) p JOIN users u ON u.id = p.user";
            assert_eq!(a.text(posts), "freeone minemine othermine qmine", "{case}");
            assert_eq!(a.count("SELECT count(*) FROM users"), 3, "{case}");
            assert_eq!(b.count("SELECT count(*) FROM l"), 1, "{case}");
            assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{case}");
        }
    }
}

/// What has to stay may be of a push whose commit was not answered: it cannot be divided, nor be in two places, so that
/// an export has none of it. Taken back, all of it goes but the row that is needed here.
#[test]
fn what_has_to_stay_may_be_in_doubt() {
    for (when, discard) in [(BEFORE, false), (AFTER, false), (BEFORE, true), (AFTER, true)] {
        let w = World::new();
        let breaking = Arc::new(Breaking { http: Http::new(w.url()).unwrap(), state: AtomicUsize::new(0) });
        let transport = Arc::clone(&breaking);
        let mut a = w.device_built("a", move |b| b.transport(Arc::<Breaking>::clone(&transport)));
        let b = w.device("b");
        converge(&[&a, &b]);
        breaking.state.store(when, Ordering::Relaxed);
        a.sql("CREATE TABLE l (counter INTEGER REFERENCES counters(id)); INSERT INTO counters (label) VALUES ('one'), ('two')");
        a.client().sync().unwrap_err();
        a.sql("INSERT INTO l VALUES (1); INSERT INTO marks VALUES ('m', 2, 'of two'); INSERT INTO people (id) VALUES ('free')");
        let case = format!("{when} {discard}");
        if discard {
            let detached = a.client().detach(Detach::Discard).unwrap();
            assert_eq!((detached.kept_rows, detached.discarded_rows), (1, 3), "{case}");
            assert_eq!(a.text("SELECT group_concat(label) FROM counters"), "one", "{case}");
        } else {
            let path = w.dir.path().join("work.export");
            let detached = a.client().detach(Detach::Export(path.clone())).unwrap();
            assert_eq!((detached.kept_rows, detached.exported_rows), (3, 1), "{case}");
            assert_eq!(b.client().import(&path).unwrap().rows, 1, "{case}");
        }
        let stayed = sync_client::read_inbox(&a.path, "conflict").unwrap();
        assert_eq!(stayed.iter().filter(|e| e.reason == "stayed").count(), if discard { 1 } else { 3 }, "{case}");
        breaking.state.store(0, Ordering::Relaxed);
        // Another row gets the number of the one that stays.
        b.sql("INSERT INTO counters (label) VALUES ('theirs')");
        b.sync();
        a.open();
        converge(&[&b, &a]);
        assert_eq!(a.text("SELECT group_concat(label) FROM l JOIN counters ON counters.id = counter"), "one", "{case}");
        let labels = "SELECT group_concat(label) FROM (SELECT label FROM counters ORDER BY label)";
        let there = if discard && when == BEFORE { "one,theirs" } else { "one,theirs,two" };
        assert_eq!((a.text(labels).as_str(), b.text(labels).as_str()), (there, there), "{case}");
        let of_two = "SELECT count(*) FROM marks JOIN counters ON counter = counters.id WHERE label = 'two'";
        assert_eq!(b.count(of_two), i64::from(!discard), "{case}");
    }
}

/// An imported row whose number the server has for another one takes another, also where this file has changed that one
/// meanwhile, or had it on its way when it was detached.
#[test]
fn imported_numbers_are_no_changes_of_rows_that_have_them() {
    for detached in [false, true] {
        let w = World::new();
        let (mut a, mut b) = (w.device("a"), w.device("b"));
        converge(&[&a, &b]);
        a.sql("INSERT INTO counters (label) VALUES ('of a'); INSERT INTO marks VALUES ('a', 1, 'of a')");
        let (path, _) = export(&w, &mut a);
        b.sql("INSERT INTO counters (label) VALUES ('of b'); INSERT INTO marks VALUES ('b', 1, 'of b')");
        if detached {
            b.client().push().unwrap();
            b.client().detach(Detach::KeepData).unwrap();
            b.close();
            b.open();
        } else {
            b.sync();
            b.sql("UPDATE counters SET label = 'edited'");
        }
        let imported = b.client().import(&path).unwrap();
        assert_eq!(imported.rows, 2, "{detached}");
        assert!(b.client().discarded().unwrap().is_empty(), "{detached}");
        a.open();
        converge(&[&b, &a]);
        let own = if detached { "of b" } else { "edited" };
        for d in [&a, &b] {
            let of = |mark: &str| {
                d.text(&format!(
                    "SELECT label FROM marks JOIN counters ON counters.id = counter WHERE marks.id = '{mark}'"
                ))
            };
            assert_eq!((of("a").as_str(), of("b").as_str()), ("of a", own), "{detached}");
            assert_eq!(d.count("SELECT count(*) FROM counters"), 2);
        }
    }
}
