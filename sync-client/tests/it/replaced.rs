//! Another file is moved over the one that is synced, a backup or a compacted copy: it is taken up, and the old one let
//! go of.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rusqlite::Connection;
use sync_client::report::ErrorClass;
use sync_client::{Client, Error, Event};
use tempfile::TempDir;

use crate::cli::{DDL, file, program, run, text};
use crate::support::serve;
use crate::world::{Device, World, converge, until};

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// As people compact a file: a copy takes its place. What lies beside it goes too, or not.
fn compacted(d: &mut Device, tidy: bool) {
    let copy = d.path.with_extension("copy");
    d.sql(&format!("VACUUM INTO '{}'", copy.display()));
    d.app = Connection::open_in_memory().unwrap();
    std::fs::rename(copy, &d.path).unwrap();
    if tidy {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&d.path, suffix));
        }
    }
    d.reconnect();
}

/// A backup as `.backup` makes it: its journal is the file's.
fn back_up(app: &Connection, backup: &Path) {
    app.execute_batch(&format!("VACUUM INTO '{}'", backup.display())).unwrap();
    Connection::open(backup).unwrap().query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
}

/// As people restore one: it is copied over the file, and what lies beside that is removed.
fn restore(backup: &Path, file: &Path) {
    std::fs::copy(backup, file).unwrap();
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(beside(file, suffix)).unwrap();
    }
}

fn failures(d: &Device) -> Vec<String> {
    let events = d.events.lock().unwrap();
    events
        .iter()
        .filter_map(|e| if let Event::Failed { message, .. } = e { Some(message.clone()) } else { None })
        .collect()
}

/// In the background: what is written to the new file is sent, and the old one's connections are closed.
#[test]
fn a_file_that_takes_the_place_is_taken_up_in_the_background() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('before')");
    converge(&[&a, &b]);
    a.client().start().unwrap();
    for round in 0..2 {
        compacted(&mut a, true);
        // Connections of one process share the index of a file's log: one of the worker's, made between the two steps,
        // spoils that of the app, which opens the file again.
        until("the app writes", || {
            let written = a.app.execute_batch(&format!("INSERT INTO people (id) VALUES ('after {round}')")).is_ok();
            if !written {
                a.reconnect();
            }
            written
        });
        until("the row is sent", || {
            b.sync();
            b.count(&format!("SELECT count(*) FROM people WHERE id = 'after {round}'")) == 1
        });
        b.sql(&format!("INSERT INTO people (id) VALUES ('theirs {round}')"));
        b.sync();
        let there = format!("SELECT count(*) FROM people WHERE id = 'theirs {round}'");
        until("their row comes", || a.count(&there) == 1);
    }
    assert_eq!(failures(&a), Vec::<String>::new());
    a.client().stop();
    converge(&[&a, &b]);
    // The lock is that of the new file.
    let second = Client::builder(&a.path).server(w.url()).token(|_| Ok("ada".into())).open();
    assert!(matches!(second, Err(Error::Owned { .. })));
}

/// Without a worker the next verb does so; a link that leads to another file is the same.
#[test]
fn a_file_that_takes_the_place_is_taken_up_by_the_next_verb() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('before')");
    converge(&[&a, &b]);
    compacted(&mut a, true);
    a.sql("INSERT INTO people (id) VALUES ('after')");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), 2);

    let link = w.dir.path().join("link.db");
    std::os::unix::fs::symlink(&a.path, &link).unwrap();
    a.close();
    let client = Client::builder(&link).server(w.url()).token(|_| Ok("ada".into())).open().unwrap();
    client.sync().unwrap();
    let other = w.dir.path().join("other.db");
    a.sql(&format!("VACUUM INTO '{}'", other.display()));
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&other, &link).unwrap();
    Connection::open(&other).unwrap().execute("INSERT INTO people (id) VALUES ('other')", []).unwrap();
    client.sync().unwrap();
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM people WHERE id = 'other'"), 1);
    // The first is free again.
    a.open();
}

/// While nothing is there, or a file that is not synced, it is said, and nobody is kept out; once the file is back, all goes on.
#[test]
fn a_file_that_is_away_is_told_and_taken_up_when_it_is_back() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    // All of it is in the file itself.
    a.app = Connection::open_in_memory().unwrap();
    a.close();
    a.open();
    a.client().start().unwrap();
    let aside = a.path.with_extension("aside");
    std::fs::rename(&a.path, &aside).unwrap();
    until("it is told", || failures(&a).iter().any(|m| m.contains("there is no file")));
    assert!(matches!(a.client().sync(), Err(Error::Argument(m)) if m.contains("there is no file")));
    Connection::open(&a.path).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
    until("it is told", || failures(&a).iter().any(|m| m.contains("not synced yet")));
    let free = Client::builder(&a.path).server("http://elsewhere").token(|_| Ok("ada".into())).all_tables().open();
    assert!(!matches!(free, Err(Error::Owned { .. })), "nobody keeps the path");
    drop(free);
    std::fs::rename(&aside, &a.path).unwrap();
    a.reconnect();
    a.sql("INSERT INTO people (id) VALUES ('back')");
    until("it goes on", || {
        b.sync();
        b.count("SELECT count(*) FROM people") == 1
    });
    let classes: Vec<ErrorClass> = a.events.lock().unwrap().iter().filter_map(class).collect();
    assert!(classes.iter().all(|c| *c == ErrorClass::Local), "{classes:?}");
}

fn class(e: &Event) -> Option<ErrorClass> {
    if let Event::Failed { class, .. } = e { Some(*class) } else { None }
}

/// A file of another server is not sent to this one.
#[test]
fn a_file_of_another_server_is_not_taken_up() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&a, &b]);
    a.app = Connection::open_in_memory().unwrap();
    let mut other = w.closed_device("other", |_| {});
    other.sql("INSERT INTO people (id) VALUES ('secret')");
    let elsewhere = Client::builder(&other.path).server("http://elsewhere").token(|_| Ok("x".into())).all_tables();
    drop(elsewhere.open().unwrap());
    other.app = Connection::open_in_memory().unwrap();
    std::fs::rename(&other.path, &a.path).unwrap();
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(beside(&a.path, suffix)).unwrap();
    }
    let refused = a.client().sync().unwrap_err().to_string();
    assert!(refused.contains("synced with http://elsewhere"), "{refused}");
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM people"), 1);
}

/// Without the file of its lock two would sync a file: it is made again.
#[test]
fn a_lock_that_was_removed_is_taken_again() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    std::fs::remove_file(beside(&a.path, "-sync-lock")).unwrap();
    a.sync();
    let second = || Client::builder(&a.path).server(w.url()).token(|_| Ok("ada".into())).open();
    assert!(matches!(second(), Err(Error::Owned { .. })));
    a.client().start().unwrap();
    std::fs::remove_file(beside(&a.path, "-sync-lock")).unwrap();
    until("it is there again", || beside(&a.path, "-sync-lock").exists());
    a.sql("INSERT INTO people (id) VALUES ('p')");
    until("the row is sent", || {
        b.sync();
        b.count("SELECT count(*) FROM people") == 1
    });
    until("it is taken again", || matches!(second(), Err(Error::Owned { .. })));
}

/// As people restore a backup: it is copied over the file, which stays the same to the system, and what lies beside it is
/// removed. The log that is open then is of a file that is no more: it must not reach the new one.
#[test]
fn a_file_that_is_written_over_is_taken_up() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('before')");
    converge(&[&a, &b]);
    for (round, background) in [(0, false), (1, true), (2, false)] {
        let backup = a.path.with_extension("backup");
        back_up(&a.app, &backup);
        a.sql(&format!("INSERT INTO people (id) VALUES ('in the log only {round}')"));
        a.app = Connection::open_in_memory().unwrap();
        let finished = || a.events.lock().unwrap().iter().filter(|e| matches!(e, Event::Finished { .. })).count();
        if background {
            let before = finished();
            a.client().start().unwrap();
            until("it rests", || finished() > before && a.client().status().unwrap().pending_rows == 0);
        }
        let before = finished();
        restore(&backup, &a.path);
        std::fs::remove_file(&backup).unwrap();
        if background {
            until("it is taken up", || finished() > before);
            a.client().stop();
        } else {
            a.sync();
        }
        a.reconnect();
        a.sql(&format!("INSERT INTO people (id) VALUES ('after {round}')"));
        if round == 2 {
            // Whatever is open of the old one goes first.
            a.close();
            a.open();
        }
        converge(&[&a, &b]);
        assert_eq!(b.count(&format!("SELECT count(*) FROM people WHERE id = 'after {round}'")), 1);
        assert_eq!(a.text("PRAGMA integrity_check"), "ok");
    }
    assert_eq!(failures(&a), Vec::<String>::new());
}

/// The same beside a program of its own, which is ended afterwards: the app's rows stay.
#[test]
fn what_is_written_after_a_restore_outlives_a_watch() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let path = dir.path().join("a.db");
    let app = file(&dir, "a.db", &format!("{DDL} INSERT INTO customers (id, name) VALUES ('c', 'x');"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    let backup = dir.path().join("backup");
    back_up(&app, &backup);
    drop(app);
    let mut watch =
        program(&dir, &["watch", "a.db", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut told = |what: &str| assert!(lines.by_ref().any(|l| l.unwrap().contains(what)), "{what}");
    told(r#""event":"finished""#);
    restore(&backup, &path);
    // While the old one may still be open.
    let app = Connection::open(&path).unwrap();
    app.execute("INSERT INTO customers (id, name) VALUES ('after', 'y')", []).unwrap();
    told(r#""event":"committed""#);
    drop(app);
    // Once more, and nobody has looked yet when it ends.
    restore(&backup, &path);
    file(&dir, "a.db", "INSERT INTO customers (id, name) VALUES ('late', 'z')");
    drop(watch.stdin.take());
    assert!(watch.wait().unwrap().success());
    let app = Connection::open(&path).unwrap();
    assert_eq!(text(&app, "SELECT group_concat(id) FROM customers WHERE id = 'late'"), "late");
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["clone", &server.url(), "b.db", "--token", "ann"]).ends(0);
    let b = Connection::open(dir.path().join("b.db")).unwrap();
    assert_eq!(text(&b, "SELECT group_concat(id) FROM (SELECT id FROM customers ORDER BY id)"), "after,c,late");
}

/// A file that is emptied in place is told of, and taken up again once it is back.
#[test]
fn a_file_that_is_emptied_is_told() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    let backup = a.path.with_extension("backup");
    back_up(&a.app, &backup);
    a.app = Connection::open_in_memory().unwrap();
    a.client().start().unwrap();
    std::fs::write(&a.path, "").unwrap();
    until("it is told", || failures(&a).iter().any(|m| m.contains("not synced yet")));
    assert_eq!(std::fs::metadata(&a.path).unwrap().len(), 0, "nothing is written to it");
    std::fs::copy(&backup, &a.path).unwrap();
    a.reconnect();
    a.sql("INSERT INTO people (id) VALUES ('back')");
    until("it goes on", || {
        b.sync();
        b.count("SELECT count(*) FROM people") == 1
    });
}
