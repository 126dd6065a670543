//! A person without code: what the program asks, says and puts back.

use std::sync::Arc;

use rusqlite::Connection;
use sync_client::{Client, Error, forget};
use sync_core::protocol::UserId;
use sync_server::auth::JwtAuth;
use tempfile::TempDir;

use crate::cli::{DDL, THREE, file, names, nobody, run};
use crate::cli_server::Watch;
use crate::support::{serve, serve_with};
use crate::world::{Clock, World};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

#[test]
fn an_expired_token_is_told_from_a_wrong_one() {
    let dir = TempDir::new().unwrap();
    let auth = JwtAuth::new(SECRET, Arc::new(Clock::default())).unwrap();
    let ann = UserId::parse("ann").unwrap();
    let (good, expired) = (auth.issue(&ann, 600), auth.issue(&ann, -600));
    let other = JwtAuth::new(&[b'x'; 32], Arc::new(Clock::default())).unwrap().issue(&ann, 600);
    let server = serve_with(DDL, auth);
    file(&dir, "a.db", &format!("{DDL} {THREE}"));
    let init = |token: &str| run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", token]);
    for (token, said, not) in [(&expired, "has expired", "not valid"), (&other, "is not valid", "expired")] {
        let ran = init(token).ends(4);
        assert!(
            ran.stderr.contains(said) && !ran.stderr.contains(not) && !ran.stderr.contains(token),
            "{}",
            ran.stderr
        );
    }
    init(&good).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    // Months later.
    std::fs::write(dir.path().join("a.db-sync-token"), &expired).unwrap();
    let ran = run(&dir, &["sync", "a.db"]).ends(4);
    assert!(ran.stderr.contains("has expired") && ran.stderr.contains("a.db-sync-token"), "{}", ran.stderr);
}

#[test]
fn init_asks_the_server_before_it_says_that_it_is_done() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    file(&dir, "a.db", DDL);
    let init =
        |url: &str, more: &[&str]| run(&dir, &[&["init", "a.db", "--server", url, "--all", "--json"], more].concat());
    let json = init(&server.url(), &["--token", "ann"]).ends(0).json();
    assert_eq!(json["online"], true);
    assert_eq!(init(&server.url(), &["--token", "ann", "--offline"]).ends(0).json()["online"], serde_json::Value::Null);
    assert_eq!(init(&nobody(), &[]).ends(0).json()["online"], false, "nobody answers, so that is for later");
    let ran = run(&dir, &["init", "a.db", "--server", &nobody(), "--all"]).ends(0);
    assert!(ran.stderr.contains("cannot be asked now") && ran.stderr.contains("for later"), "{}", ran.stderr);
    file(&dir, "b.db", DDL);
    let ran = run(&dir, &["init", "b.db", "--server", &nobody(), "--all"]).ends(0);
    assert!(ran.stderr.contains("no token yet"), "{}", ran.stderr);
}

#[test]
fn init_again_says_what_it_changed() {
    let dir = TempDir::new().unwrap();
    file(&dir, "a.db", DDL);
    let init = |more: &[&str]| run(&dir, &[&["init", "a.db", "--all", "--offline"], more].concat()).ends(0);
    assert!(init(&["--server", "http://old/"]).stdout.starts_with("a.db is synced now: 2 tables."));
    assert_eq!(
        init(&["--server", "http://old"]).stdout.lines().next().unwrap(),
        "a.db was synced already, with 2 tables; nothing was changed."
    );
    let said = init(&["--server", "http://new", "--token", "first", "--policy", "merge"]).stdout;
    for part in ["the server is http://new, it was http://old", "the token is kept", "the policies are"] {
        assert!(said.contains(part), "{said}");
    }
    let said = init(&["--server", "http://new", "--token", "second"]).stdout;
    assert!(
        said.contains("another token is kept") && !said.contains("http://old") && !said.contains("second"),
        "{said}"
    );
    let json = init(&["--server", "http://newer", "--json"]).json();
    assert_eq!(json["changed"], serde_json::json!(["the server is http://newer, it was http://new"]));
}

#[test]
fn what_is_true_of_several_tables_is_said_once() {
    let dir = TempDir::new().unwrap();
    file(
        &dir,
        "a.db",
        "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY); CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL)",
    );
    let ran = run(&dir, &["init", "a.db", "--server", "http://h", "--all", "--offline"]).ends(0);
    assert_eq!(ran.stderr.matches("INTEGER keys are minted").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("Tables a, b: INTEGER keys"), "{}", ran.stderr);
    // Programs get all of them.
    file(&dir, "b.db", "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY)");
    let json = run(&dir, &["init", "b.db", "--server", "http://h", "--all", "--offline", "--json"]).ends(0).json();
    assert_eq!(json["notes"].as_array().unwrap().len(), 2);
}

#[test]
fn detaching_puts_the_journal_mode_back() {
    let dir = TempDir::new().unwrap();
    let mode = |name: &str| {
        let conn = Connection::open(dir.path().join(name)).unwrap();
        conn.query_row("PRAGMA journal_mode", [], |r| r.get::<_, String>(0)).unwrap()
    };
    for (before, how) in [("delete", "--keep"), ("delete", "--forget"), ("delete", "--discard"), ("wal", "--keep")] {
        let name = format!("{before}{how}.db");
        file(&dir, &name, &format!("PRAGMA journal_mode = {before}; {DDL}"));
        run(&dir, &["init", &name, "--server", "http://h", "--all", "--offline"]).ends(0);
        assert_eq!(mode(&name), "wal");
        run(&dir, &["detach", &name, how]).ends(0);
        assert_eq!(mode(&name), before, "{how}");
        assert!(!names(dir.path()).contains(&format!("{name}-wal")) || before == "wal");
    }
    // Twice, and while the app has it open: then it stays, and nothing waits.
    let name = "delete--keep.db";
    run(&dir, &["init", name, "--server", "http://h", "--all", "--offline"]).ends(0);
    let app = Connection::open(dir.path().join(name)).unwrap();
    app.query_row("SELECT count(*) FROM customers", [], |r| r.get::<_, i64>(0)).unwrap();
    run(&dir, &["detach", name, "--keep"]).ends(0);
    app.execute_batch("INSERT INTO customers VALUES ('c', 'C', NULL)").unwrap();
    drop(app);
    run(&dir, &["init", name, "--server", "http://h", "--all", "--offline"]).ends(0);
    forget(&dir.path().join(name)).unwrap();
    assert_eq!(mode(name), "wal", "it was when the file was taken up for the last time");
}

#[cfg(unix)]
#[test]
fn a_person_decides_while_watch_runs() {
    let stricter = DDL.replace("cents INTEGER", "cents INTEGER CHECK (cents > 0)");
    let (dir, server) = (TempDir::new().unwrap(), serve(&stricter));
    let app =
        file(&dir, "a.db", &format!("{DDL} {THREE} INSERT INTO orders VALUES ('bad', 'c1', -1), ('worse', 'c1', -2);"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    let watch = Watch::start(&dir, "a.db");
    while watch.wait_for("finished")["report"]["push"]["rejected_rows"] != 2 {}
    run(&dir, &["sync", "a.db"]).ends(1);
    run(&dir, &["drop", "a.db", "orders", "worse"]).ends(0);
    assert_eq!(app.query_row("SELECT count(*) FROM orders WHERE id = 'worse'", [], |r| r.get(0)), Ok(0));
    assert_eq!(run(&dir, &["clear", "a.db", "--kind", "discarded", "--json"]).ends(0).json()["cleared"], 1);
    run(&dir, &["retry", "a.db", "orders", "nothing"]).ends(1);
    // It goes at once, not with the next minute, and is refused again.
    run(&dir, &["retry", "a.db", "orders", "bad"]).ends(0);
    assert_eq!(watch.wait_for("inbox")["table"], "orders");
    app.execute("UPDATE orders SET cents = 1 WHERE id = 'bad'", []).unwrap();
    watch.wait_for("committed");
}

/// The same for a program, whose client has the file.
#[test]
fn an_inbox_opens_beside_a_client_and_alone() {
    let w = World::new();
    let a = w.device("a");
    a.sync();
    let mut inbox = Client::builder(&a.path).inbox().unwrap();
    assert!(!inbox.retry("people", "nobody").unwrap());
    assert_eq!(inbox.clear_all("discarded").unwrap(), 0);
    drop(inbox);
    let mut a = a;
    a.close();
    let inbox = Client::builder(&a.path).inbox().unwrap();
    assert!(matches!(a.try_open(), Err(Error::Owned { .. })), "alone it has the file as any client");
    drop(inbox);
    a.open();
    assert!(matches!(Client::builder(w.dir.path().join("none.db")).inbox(), Err(Error::Argument(_))));
    let plain = w.closed_device("plain", |_| {});
    assert!(matches!(Client::builder(&plain.path).inbox(), Err(Error::NotInitialized)));
}

#[test]
fn status_says_whether_the_server_was_reached() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    file(&dir, "a.db", DDL);
    let status = |word: &str, online: serde_json::Value| {
        assert!(run(&dir, &["status", "a.db"]).ends(0).stdout.contains(word), "{word}");
        assert_eq!(run(&dir, &["status", "a.db", "--json"]).ends(0).json()["online"], online);
        let library = sync_client::read_status(&dir.path().join("a.db")).unwrap().online;
        assert_eq!(serde_json::json!(library), online);
    };
    let url = server.url();
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann"]).ends(0);
    status("not asked yet", serde_json::Value::Null);
    run(&dir, &["sync", "a.db"]).ends(0);
    status("online when", true.into());
    drop(server);
    run(&dir, &["sync", "a.db"]).ends(3);
    status("offline when", false.into());
}

#[test]
fn a_failure_names_the_file() {
    let dir = TempDir::new().unwrap();
    file(&dir, "plain.db", DDL);
    file(&dir, "a.db", DDL);
    run(&dir, &["init", "a.db", "--server", &nobody(), "--all", "--token", "ann"]).ends(0);
    for args in [
        &["status", "plain.db"][..],
        &["pending", "plain.db"],
        &["rejected", "plain.db"],
        &["retry", "plain.db", "--id", "1"],
        &["clear", "plain.db", "--id", "1"],
        &["detach", "plain.db"],
        &["sync", "a.db"],
        &["rebuild", "a.db"],
        &["verify", "a.db"],
        &["retry", "a.db", "customers", "x"],
        &["init", "plain.db", "--server", "http://h", "--tables", "none", "--offline"],
        &["init", "gone.db", "--server", "http://h", "--all", "--offline"],
        &["sync", "plain.db"],
        &["watch", "plain.db"],
    ] {
        let ran = run(&dir, args);
        let name = args.iter().find(|a| a.ends_with(".db")).unwrap();
        assert!(
            ran.code != 0 && ran.stderr.starts_with(&format!("sync-client: {name}")) || ran.stderr.contains(name),
            "{args:?}: {}",
            ran.stderr
        );
    }
    // What it lacks first is said first.
    let ran = run(&dir, &["sync", "plain.db"]).ends(1);
    assert!(ran.stderr.contains("not synced yet") && !ran.stderr.contains("token"), "{}", ran.stderr);
}

/// A variable that is not set is no token.
#[test]
fn an_empty_token_is_a_mistake() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    file(&dir, "a.db", DDL);
    for (token, said) in
        [("", "there is no token in it"), (" \n", "there is no token in it"), ("a\nb", "more than one line")]
    {
        for more in [&["init", "a.db", "--all", "--server"][..], &["init", "a.db", "--all", "--offline", "--server"]] {
            let ran = run(&dir, &[more, &[&server.url(), "--token", token]].concat()).ends(2);
            assert!(ran.stderr.contains(said), "{}", ran.stderr);
        }
        run(&dir, &["clone", &server.url(), "b.db", "--token", token]).ends(2);
    }
    assert_eq!(names(dir.path()), ["a.db"]);
    run(&dir, &["status", "a.db"]).ends(1);
    // What an editor leaves around it is not of it.
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    std::fs::write(dir.path().join("a.db-sync-token"), "\u{feff}ann\r\n").unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    std::fs::write(dir.path().join("a.db-sync-token"), "ann\nbob\n").unwrap();
    let ran = run(&dir, &["sync", "a.db"]).ends(1);
    assert!(ran.stderr.contains("a.db-sync-token has more than one line"), "{}", ran.stderr);
}

/// Rows that no other device can know by their key stay, and nobody has to do anything about them.
#[test]
fn rows_that_stay_by_their_key_need_nobody() {
    let ddl = "CREATE TABLE n (id TEXT PRIMARY KEY, v); CREATE TABLE b (id BLOB PRIMARY KEY NOT NULL, v);";
    let (dir, server) = (TempDir::new().unwrap(), serve(ddl));
    let app = file(&dir, "a.db", ddl);
    app.execute_batch("INSERT INTO n VALUES (NULL, 1), (NULL, 2), ('x', 3); INSERT INTO b VALUES (x'00', 1)").unwrap();
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    for _ in 0..2 {
        let ran = run(&dir, &["sync", "a.db"]).ends(0);
        assert!(ran.stdout.contains("Only this file has 3 rows whose keys are NULL"), "{}", ran.stdout);
        assert!(ran.stdout.contains("sync-client rejected a.db") && !ran.stdout.contains("refuses"), "{}", ran.stdout);
    }
    let json = run(&dir, &["sync", "a.db", "--json"]).ends(0).json();
    assert_eq!((&json["rejected_rows"], &json["local_rows"]), (&3.into(), &3.into()));
    let json = run(&dir, &["status", "a.db", "--json"]).ends(0).json();
    assert_eq!((&json["rejected_rows"], &json["local_rows"]), (&3.into(), &3.into()));
    assert!(run(&dir, &["status", "a.db"]).ends(0).stdout.contains("stay here     3 rows: sync-client rejected a.db"));
}
