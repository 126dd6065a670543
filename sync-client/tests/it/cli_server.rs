//! The program against a real server: files go in step, whatever stops in between.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{ALL_ORDERS, DDL, THREE, file, names, program, run, text};
use crate::support::{Gate, serve};

#[test]
fn two_files_go_in_step() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let url = server.url();
    let a = file(&dir, "a.db", &format!("{DDL} {THREE}"));
    let ran = run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann"]).ends(0);
    assert!(ran.stdout.contains("2 tables") && ran.stdout.contains("a.db-sync-token"), "{}", ran.stdout);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir.path().join("a.db-sync-token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let ran = run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(ran.stdout, "Sent 3 rows.\n", "{}", ran.stderr);
    assert_eq!(run(&dir, &["sync", "a.db"]).ends(0).stdout, "Up to date.\n");

    let ran = run(&dir, &["clone", &url, "b.db", "--token", "ann"]).ends(0);
    assert!(ran.stdout.contains("b.db has 2 tables.\nReceived 3 rows."), "{}", ran.stdout);
    let b = Connection::open(dir.path().join("b.db")).unwrap();
    assert_eq!(text(&b, ALL_ORDERS), "o1=1250");
    b.execute_batch("INSERT INTO orders VALUES ('o2', 'c2', 99); UPDATE customers SET name = 'Bob' WHERE id = 'c2'")
        .unwrap();
    let pending = run(&dir, &["pending", "b.db", "--json"]).ends(0).json();
    assert_eq!(pending["rows"].as_array().unwrap().len(), 2);
    assert!(run(&dir, &["pending", "b.db"]).ends(0).stdout.contains("orders"));
    let json = run(&dir, &["sync", "b.db", "--json"]).ends(0).json();
    assert_eq!(json["report"]["push"]["committed_rows"], 2);
    assert_eq!(json["pending_rows"], 0);

    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(text(&a, ALL_ORDERS), "o1=1250,o2=99");
    assert_eq!(text(&a, "SELECT name FROM customers WHERE id = 'c2'"), "Bob");
    let status = run(&dir, &["status", "a.db", "--json"]).ends(0).json();
    assert_eq!(
        (&status["server"], &status["attached"], &status["pending_rows"]),
        (&url.into(), &true.into(), &0.into())
    );
    assert!(run(&dir, &["status", "a.db"]).ends(0).stdout.contains("up to date"));

    let ran = run(&dir, &["rebuild", "a.db"]).ends(0);
    assert!(ran.stdout.starts_with("Read everything anew"), "{}", ran.stdout);
    assert_eq!(text(&a, ALL_ORDERS), "o1=1250,o2=99");
}

#[test]
fn the_token_may_come_from_the_environment() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--tables", "customers,orders"]).ends(0);
    assert!(!names(dir.path()).contains(&"a.db-sync-token".into()));
    run(&dir, &["sync", "a.db"]).ends(2);
    let output = program(&dir, &["sync", "a.db"]).env("SYNC_TOKEN", "ann").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn refused_tokens_end_with_4() {
    let dir = TempDir::new().unwrap();
    let gate = Gate::default();
    let server = gate.serve(DDL);
    file(&dir, "a.db", &format!("{DDL} {THREE}"));
    let init = ["init", "a.db", "--server", &server.url(), "--all", "--token", "hush"];
    let ran = run(&dir, &init).ends(4);
    assert!(
        ran.stderr.contains("a.db: the server refuses the token") && !ran.stderr.contains("hush"),
        "{}",
        ran.stderr
    );
    run(&dir, &["status", "a.db"]).ends(1);
    run(&dir, &[&init[..], &["--offline"]].concat()).ends(0);
    let ran = run(&dir, &["sync", "a.db"]).ends(4);
    assert!(ran.stderr.contains("token") && !ran.stderr.contains("hush"), "{}", ran.stderr);
    gate.open();
    run(&dir, &["sync", "a.db"]).ends(0);
}

/// A backup copied over a file beside which a killed app left its log: SQLite takes the log for the backup's. Where nothing
/// was folded in since the backup, that only undoes the restore, and all goes on; otherwise the file is damaged, which is
/// said with what to do, and that helps.
#[test]
fn a_backup_beside_a_log_that_was_left_is_harmless_or_told() {
    for folded in [false, true] {
        let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
        let at = |name: &str| dir.path().join(name);
        let rows = "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 400)
            INSERT INTO customers (id, name) SELECT PREFIX || n, hex(randomblob(60)) FROM i;";
        let a = file(&dir, "a.db", &format!("{DDL} {}", rows.replace("PREFIX", "'n'")));
        run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
        run(&dir, &["sync", "a.db"]).ends(0);
        a.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        fs::copy(at("a.db"), at("backup.db")).unwrap();
        if folded {
            let more = rows.replace("PREFIX", "'k'");
            a.execute_batch(&format!(
                "DELETE FROM customers WHERE id LIKE 'n2%'; {more} PRAGMA wal_checkpoint(TRUNCATE)"
            ))
            .unwrap();
        }
        a.execute_batch("UPDATE customers SET name = 'after' WHERE id LIKE 'n1%'").unwrap();
        // As a kill leaves it, and the backup over it.
        fs::copy(at("a.db-wal"), at("b.db-wal")).unwrap();
        fs::copy(at("backup.db"), at("b.db")).unwrap();
        fs::copy(at("a.db-sync-token"), at("b.db-sync-token")).unwrap();
        let ran = run(&dir, &["sync", "b.db"]);
        if !folded {
            ran.ends(0);
            run(&dir, &["verify", "b.db"]).ends(0);
            let b = Connection::open(at("b.db")).unwrap();
            assert_eq!(text(&b, "SELECT count(*) || '' FROM customers WHERE name = 'after'"), "111");
            continue;
        }
        let ran = ran.ends(1);
        for said in ["b.db: the file itself is damaged", "remove the -wal and -shm", ".recover"] {
            assert!(ran.stderr.contains(said), "{}", ran.stderr);
        }
        fs::copy(at("backup.db"), at("b.db")).unwrap();
        for beside in ["b.db-wal", "b.db-shm"] {
            let _ = fs::remove_file(at(beside));
        }
        run(&dir, &["sync", "b.db"]).ends(0);
        run(&dir, &["verify", "b.db"]).ends(0);
    }
}

#[test]
fn a_clone_that_was_stopped_is_taken_up_again() {
    let dir = TempDir::new().unwrap();
    let gate = Gate::default();
    let server = gate.serve(DDL);
    // The schema is served, the rows are not yet.
    let ran = run(&dir, &["clone", &server.url(), "b.db", "--token", "ann"]).ends(4);
    assert!(ran.stderr.contains("b.db is made but not yet filled"), "{}", ran.stderr);
    gate.open();
    file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    let ran = run(&dir, &["clone", &server.url(), "b.db"]).ends(0);
    assert!(ran.stdout.contains("Received 3 rows."), "{}", ran.stdout);
    run(&dir, &["clone", &server.url(), "b.db"]).ends(1);
}

#[test]
fn refused_rows_end_with_5_until_a_person_acts() {
    let stricter = DDL.replace("cents INTEGER", "cents INTEGER CHECK (cents > 0)");
    let (dir, server) = (TempDir::new().unwrap(), serve(&stricter));
    let conn =
        file(&dir, "a.db", &format!("{DDL} {THREE} INSERT INTO orders VALUES ('bad', 'c1', -1), ('worse', 'c1', -2);"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    let ran = run(&dir, &["sync", "a.db"]).ends(5);
    assert!(ran.stdout.contains("The server refuses 2 rows: `sync-client rejected a.db`"), "{}", ran.stdout);
    let rejected = run(&dir, &["rejected", "a.db", "--json"]).ends(0).json();
    assert_eq!(rejected["rows"].as_array().unwrap().len(), 2);
    let text = run(&dir, &["rejected", "a.db"]).ends(0).stdout;
    assert!(text.contains("sync-client retry a.db orders bad"), "{text}");

    conn.execute("UPDATE orders SET cents = 5 WHERE id = 'bad'", []).unwrap();
    // Edited rows go again by themselves, so asking for it may find nothing left to ask for.
    let retried = run(&dir, &["retry", "a.db", "orders", "bad"]);
    assert!([0, 1].contains(&retried.code), "{}", retried.stderr);
    run(&dir, &["sync", "a.db"]).ends(5);
    run(&dir, &["drop", "a.db", "orders", "worse"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(run(&dir, &["rejected", "a.db"]).ends(0).stdout, "Nothing here.\n");
    let discarded = run(&dir, &["discarded", "a.db", "--json"]).ends(0).json();
    assert_eq!(discarded["rows"][0]["table"], "orders");
    run(&dir, &["retry", "a.db", "orders", "nothing"]).ends(1);

    // What was given up comes back by its number, and is refused again.
    let id = discarded["rows"][0]["id"].to_string();
    assert!(run(&dir, &["discarded", "a.db"]).ends(0).stdout.contains(&format!("(entry {id})")));
    run(&dir, &["retry", "a.db", "--id", &id]).ends(0);
    assert_eq!(conn.query_row("SELECT cents FROM orders WHERE id = 'worse'", [], |r| r.get(0)), Ok(-2));
    run(&dir, &["sync", "a.db"]).ends(5);
    run(&dir, &["drop", "a.db", "orders", "worse"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(run(&dir, &["clear", "a.db", "--kind", "discarded", "--json"]).ends(0).json()["cleared"], 1);
    run(&dir, &["clear", "a.db", "--id", "77"]).ends(1);
    run(&dir, &["clear", "a.db"]).ends(2);
    run(&dir, &["retry", "a.db", "orders", "x", "--id", "1"]).ends(2);
}

#[test]
fn policies_settle_conflicts_and_what_lost_is_kept() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let url = server.url();
    let a = file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["clone", &url, "b.db", "--token", "ann"]).ends(0);
    let b = Connection::open(dir.path().join("b.db")).unwrap();
    let name = "SELECT name FROM customers WHERE id = 'c1'";
    for (policy, winner, kind) in [("server-wins", "a", "discarded"), ("client-wins", "b", "conflicts")] {
        let (winner, lost) = (format!("{winner} with {policy}"), format!("b with {policy}"));
        a.execute("UPDATE customers SET name = 'a with ' || ? WHERE id = 'c1'", [policy]).unwrap();
        b.execute("UPDATE customers SET name = 'b with ' || ? WHERE id = 'c1'", [policy]).unwrap();
        run(&dir, &["sync", "a.db"]).ends(0);
        let ran = run(&dir, &["sync", "b.db", "--policy", policy]).ends(0);
        assert!(ran.stdout.contains("settled 1 conflict"), "{policy}: {}", ran.stdout);
        run(&dir, &["sync", "a.db"]).ends(0);
        assert_eq!((text(&a, name), text(&b, name)), (winner.clone(), winner), "{policy}");
        let kept = run(&dir, &[kind, "b.db", "--json"]).ends(0).json();
        assert_eq!(kept["rows"].as_array().unwrap().len(), 1, "{policy}: {kept}");
        assert!(kept["rows"][0]["local_row"].as_str().unwrap().contains(&lost), "{policy}: {kept}");
        assert!(run(&dir, &[kind, "b.db"]).ends(0).stdout.starts_with("customers c1  UPDATE"));
    }
}

/// `init` and `clone` keep policies in the file; `sync` takes others for one run.
#[test]
fn policies_are_remembered_and_named_tables_are_checked() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let url = server.url();
    let a = file(&dir, "a.db", &format!("{DDL} {THREE}"));
    let ran = run(&dir, &["init", "a.db", "--server", &url, "--all", "--policy", "order=merge"]).ends(2);
    assert!(ran.stderr.contains("order, which is not a synced table") && ran.stderr.contains("customers, orders"));
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--keep", "order"]).ends(2);
    assert!(run(&dir, &["status", "a.db"]).ends(1).stderr.contains("not synced yet"));
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["clone", &url, "c.db", "--token", "ann", "--policy", "order=merge"]).ends(2);
    assert!(!names(dir.path()).contains(&"c.db".into()));
    let policies = ["--policy", "merge", "--policy", "Orders=client-wins", "--keep", "Orders"];
    run(&dir, &[&["clone", &url, "b.db", "--token", "ann"][..], &policies].concat()).ends(0);
    let b = Connection::open(dir.path().join("b.db")).unwrap();
    a.execute_batch("UPDATE customers SET name = 'A' WHERE id = 'c1'; UPDATE orders SET cents = 1").unwrap();
    b.execute_batch("UPDATE customers SET email = 'b@x' WHERE id = 'c1'; UPDATE orders SET cents = 2").unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["sync", "b.db", "--policy", "order=merge"]).ends(2);
    run(&dir, &["sync", "b.db"]).ends(0);
    let both = "SELECT name || email || cents FROM customers JOIN orders ON customer = customers.id";
    assert_eq!(text(&b, both), "Ab@x2");
    // The order is kept, and the customer whom it refers to comes back.
    run(&dir, &["sync", "a.db"]).ends(0);
    a.execute_batch("DELETE FROM orders; DELETE FROM customers WHERE id = 'c1'").unwrap();
    b.execute_batch("UPDATE orders SET cents = 3").unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["sync", "b.db"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(text(&a, both), "Ab@x3");
}

/// Modes of attaching, and what a detach leaves for the next account.
#[test]
fn rows_of_two_sides_meet_as_it_was_said() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let url = server.url();
    let a = file(&dir, "a.db", &format!("{DDL} {THREE}"));
    let b =
        file(&dir, "b.db", &format!("{DDL} INSERT INTO customers VALUES ('c1', 'Otto', NULL), ('c9', 'Zoe', NULL)"));
    let init = |file: &str, user: &str, more: &[&str]| {
        run(&dir, &[&["init", file, "--server", &url, "--all", "--token", user][..], more].concat())
    };
    init("a.db", "ann", &[]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    init("b.db", "ann", &["--attach", "coin"]).ends(2);
    init("b.db", "ann", &["--attach", "fail"]).ends(0);
    let ran = run(&dir, &["sync", "b.db"]).ends(1);
    assert!(
        ran.stderr.contains("has 2 rows and the account has 3") && ran.stderr.contains("--attach"),
        "{}",
        ran.stderr
    );
    init("b.db", "ann", &["--attach", "take-remote"]).ends(0);
    run(&dir, &["sync", "b.db"]).ends(0);
    assert_eq!(text(&b, "SELECT group_concat(name) FROM customers"), "Ann,Bo");
    assert_eq!(run(&dir, &["discarded", "b.db", "--json"]).ends(0).json()["rows"].as_array().unwrap().len(), 2);

    a.execute_batch("UPDATE orders SET cents = 7").unwrap();
    let json = run(&dir, &["detach", "a.db", "--discard", "--json"]).ends(0).json();
    assert_eq!((&json["discarded_rows"], &json["kept_rows"]), (&1.into(), &0.into()));
    assert_eq!(text(&a, ALL_ORDERS), "o1=1250");
    assert!(run(&dir, &["discarded", "a.db"]).ends(0).stdout.contains("detached"), "also of a detached file");
    init("a.db", "bob", &[]).ends(0);
    let ran = run(&dir, &["sync", "a.db"]).ends(4);
    assert!(ran.stderr.contains("the 3 rows in this file are from another account"), "{}", ran.stderr);
    init("a.db", "bob", &["--attach", "take-remote"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(text(&a, ALL_ORDERS), "");
    assert_eq!(text(&b, ALL_ORDERS), "o1=1250");
}

/// Changes that could not be sent move to another machine in a file.
#[test]
fn pending_changes_move_in_an_export() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let url = server.url();
    let a = file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["clone", &url, "b.db", "--token", "ann"]).ends(0);
    a.execute_batch("UPDATE orders SET cents = 7; INSERT INTO orders VALUES ('o2', 'c2', 8)").unwrap();
    let ran = run(&dir, &["detach", "a.db", "--export", "work.db"]).ends(0);
    assert!(ran.stdout.contains("2 changes moved into work.db"), "{}", ran.stdout);
    assert_eq!(text(&a, ALL_ORDERS), "o1=1250");
    run(&dir, &["import", "b.db", "a.db"]).ends(2);
    let ran = run(&dir, &["import", "b.db", "work.db"]).ends(0);
    assert_eq!(ran.stdout, "2 rows imported; the next sync sends them.\n");
    assert_eq!(run(&dir, &["import", "b.db", "work.db", "--json"]).ends(0).json()["already"], true);
    assert_eq!(run(&dir, &["sync", "b.db"]).ends(0).stdout, "Sent 2 rows.\n");
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(text(&a, ALL_ORDERS), "o1=7,o2=8");
}

#[test]
fn rows_of_several_key_columns_are_named_by_their_key_object() {
    let ddl = "CREATE TABLE marks (a TEXT NOT NULL, b INTEGER NOT NULL, n INTEGER, PRIMARY KEY (a, b));";
    let stricter = ddl.replace("n INTEGER", "n INTEGER CHECK (n > 0)");
    let (dir, server) = (TempDir::new().unwrap(), serve(&stricter));
    file(&dir, "a.db", &format!("{ddl} INSERT INTO marks VALUES ('it''s', 7, -1);"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(5);
    let listed = run(&dir, &["rejected", "a.db", "--json"]).ends(0).json();
    let key = listed["rows"][0]["key"].as_str().unwrap();
    run(&dir, &["retry", "a.db", "marks", "7"]).ends(2);
    run(&dir, &["retry", "a.db", "marks", key]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(5);
    run(&dir, &["drop", "a.db", "marks", key]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
}

/// A running `watch --json`, its events one by one.
pub(crate) struct Watch {
    child: Child,
    events: mpsc::Receiver<Value>,
}

impl Watch {
    pub(crate) fn start(dir: &TempDir, name: &str) -> Self {
        let mut child =
            program(dir, &["watch", name, "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout: ChildStdout = child.stdout.take().unwrap();
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let event = serde_json::from_str(&line.unwrap()).expect("every line is one object");
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, events }
    }

    /// The next event of that name; others pass.
    pub(crate) fn wait_for(&self, name: &str) -> Value {
        loop {
            let event = self.events.recv_timeout(Duration::from_secs(20)).expect("the event comes");
            if event["event"] == name {
                return event;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
#[test]
fn watch_carries_changes_until_it_is_told_to_stop() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let a = file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    let mut watch_a = Watch::start(&dir, "a.db");
    watch_a.wait_for("committed");
    run(&dir, &["clone", &server.url(), "b.db", "--token", "ann"]).ends(0);
    let watch_b = Watch::start(&dir, "b.db");
    watch_b.wait_for("finished");

    a.execute("INSERT INTO orders VALUES ('o5', 'c1', 55)", []).unwrap();
    let changed = watch_b.wait_for("changed");
    assert_eq!(changed["table"], "orders");
    let b = Connection::open(dir.path().join("b.db")).unwrap();
    assert_eq!(text(&b, ALL_ORDERS), "o1=1250,o5=55");

    // Another process is told who has the file; looking is always possible.
    let ran = run(&dir, &["sync", "a.db"]).ends(1);
    assert!(ran.stderr.contains("another process"), "{}", ran.stderr);
    run(&dir, &["status", "a.db"]).ends(0);
    run(&dir, &["pending", "a.db"]).ends(0);

    let (sender, ended) = mpsc::channel();
    let pid = watch_a.child.id().to_string();
    thread::scope(|scope| {
        let child = &mut watch_a.child;
        scope.spawn(move || sender.send(child.wait().unwrap().code()).unwrap());
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(ended.recv_timeout(Duration::from_secs(10)).unwrap(), Some(0));
    });
}
