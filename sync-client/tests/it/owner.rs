//! One owner of a file's syncing: a second process is told who it is, and nothing has to be tidied up after
//! one that was killed.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use tempfile::TempDir;

use crate::cli::{DDL, file, program, run};
use crate::support::serve;
#[cfg(unix)]
use crate::world::{World, converge};

#[test]
fn a_second_process_is_told_who_syncs_the_file() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let app = file(&dir, "a.db", &format!("{DDL} INSERT INTO customers (id, name) VALUES ('c', 'x');"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    for round in 0..3 {
        let mut owner = program(&dir, &["watch", "a.db", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        // It says something, so it has the file.
        lines.next().unwrap().unwrap();
        let second = run(&dir, &["sync", "a.db"]).ends(1);
        assert!(second.stderr.contains(&format!("process {}", owner.id())), "{}", second.stderr);
        // The app's own writes, and looking, are nobody's but the app's.
        app.execute("UPDATE customers SET name = ?", [round]).unwrap();
        run(&dir, &["status", "a.db"]).ends(0);
        run(&dir, &["rejected", "a.db"]).ends(0);
        // SIGKILL: nothing of it can tidy up.
        owner.kill().unwrap();
        owner.wait().unwrap();
        run(&dir, &["sync", "a.db"]).ends(0);
    }
    let status = run(&dir, &["status", "a.db", "--json"]).ends(0).json();
    assert_eq!((&status["pending_rows"], &status["outbox"]), (&0.into(), &"none".into()));
    assert_eq!(status["position"], status["synced_through"]);
}

/// A program that starts `watch --stdin` cannot leave it behind: it ends with the pipe, however the program ends.
#[test]
fn a_watch_ends_when_its_standard_input_is_closed() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let app = file(&dir, "a.db", DDL);
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    let mut watch =
        program(&dir, &["watch", "a.db", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // What it says is JSON, and it works as ever meanwhile.
    let started: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(started["event"], "started");
    app.execute("INSERT INTO customers (id, name) VALUES ('c', 'x')", []).unwrap();
    assert!(lines.by_ref().any(|l| l.unwrap().contains(r#""event":"committed""#)));
    let second = run(&dir, &["sync", "a.db"]).ends(1);
    assert!(second.stderr.contains(&format!("process {}, sync-client", watch.id())), "{}", second.stderr);
    drop(watch.stdin.take());
    assert!(watch.wait().unwrap().success());
    assert!(lines.all(|l| l.is_ok()), "it ended by itself");
    run(&dir, &["sync", "a.db"]).ends(0);
}

/// A link to a file is that file: whoever comes by it meets the owner, and finds what lies beside the file.
#[cfg(unix)]
#[test]
fn a_link_leads_to_the_same_owner() {
    use sync_client::{Client, Detach, Error};
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sync();
    std::fs::create_dir(w.dir.path().join("links")).unwrap();
    let link = w.dir.path().join("links/other.db");
    std::os::unix::fs::symlink("../a.db", &link).unwrap();
    let by_link = || Client::builder(&link).server(w.url()).token(|_| Ok("ada".into()));
    assert!(matches!(by_link().open(), Err(Error::Owned { .. })));
    assert!(matches!(by_link().detach(&Detach::KeepData), Err(Error::Owned { .. })));
    assert!(matches!(sync_client::forget(&link), Err(Error::Owned { .. })));
    a.close();
    let client = by_link().open().unwrap();
    assert!(matches!(a.try_open(), Err(Error::Owned { .. })));
    a.sql("INSERT INTO people (id) VALUES ('p')");
    client.sync().unwrap();
    drop(client);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(std::fs::read_dir(link.parent().unwrap()).unwrap().count(), 1);
}

/// A lock that cannot be had is told of by its name.
#[test]
fn a_lock_file_that_cannot_be_made_is_named() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    file(&dir, "a.db", DDL);
    std::fs::create_dir(dir.path().join("a.db-sync-lock")).unwrap();
    let refused = run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(1);
    assert!(refused.stderr.contains("a.db-sync-lock: "), "{}", refused.stderr);
}
