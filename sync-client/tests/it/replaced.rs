//! Another file is moved over the one that is synced, a backup or a compacted copy: it is taken up, and the old one let
//! go of.
#![cfg(unix)]

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use sync_client::report::ErrorClass;
use sync_client::{Client, Error, Event};

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
        a.sql(&format!("INSERT INTO people (id) VALUES ('after {round}')"));
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
