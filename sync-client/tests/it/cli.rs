//! The program: arguments, exit codes, token files, and whole runs against a server.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use rusqlite::Connection;
use sync_core::sqlite::others::MARK;
use tempfile::TempDir;

pub(crate) const DDL: &str = "\
    CREATE TABLE customers (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, email TEXT UNIQUE);
    CREATE TABLE orders (id TEXT PRIMARY KEY NOT NULL, customer TEXT NOT NULL REFERENCES customers(id), cents INTEGER);
    CREATE INDEX orders_by_customer ON orders(customer);";

/// The program in a directory of its own, without the caller's token.
pub(crate) fn program(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sync-client"));
    command.current_dir(dir.path()).args(args).env_remove("SYNC_TOKEN").stdin(Stdio::null());
    command
}

pub(crate) fn run(dir: &TempDir, args: &[&str]) -> Ran {
    Ran::from(program(dir, args).output().unwrap())
}

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Checks the exit code and returns stdout.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {}", self.stdout))
    }
}

pub(crate) fn file(dir: &TempDir, name: &str, sql: &str) -> Connection {
    let conn = Connection::open(dir.path().join(name)).unwrap();
    conn.execute_batch(sql).unwrap();
    conn
}

/// A port that refuses connections.
pub(crate) fn nobody() -> String {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}")
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn wrong_command_lines_end_with_2() {
    let dir = TempDir::new().unwrap();
    for args in [
        &[][..],
        &["dance"],
        &["sync"],
        &["init", "app.db", "--server", "http://h"],
        &["init", "app.db", "--server", "http://h", "--all", "--tables", "a"],
        &["sync", "app.db", "--policy", "coin"],
        &["retry", "app.db", "t"],
        &["verify", "app.db", "--repair", "both"],
        &["compare", "app.db"],
    ] {
        run(&dir, args).ends(2);
    }
    assert!(run(&dir, &["--help"]).ends(0).stdout.contains("Exit codes:"));
    for command in [
        "verify", "compare", "init", "clone", "schema", "sync", "watch", "status", "pending", "rejected", "retry",
        "detach",
    ] {
        assert!(run(&dir, &["help", command]).ends(0).stdout.contains("With --json:"), "{command}");
    }
}

#[test]
fn a_missing_file_is_not_made() {
    let dir = TempDir::new().unwrap();
    for args in [
        &["init", "app.db", "--server", "http://h", "--all"][..],
        &["sync", "app.db", "--token", "t"],
        &["watch", "app.db", "--token", "t"],
        &["status", "app.db"],
        &["schema", "app.db"],
        &["detach", "app.db"],
    ] {
        let ran = run(&dir, args).ends(1);
        assert!(ran.stderr.contains("app.db does not exist"), "{}", ran.stderr);
    }
    let error = run(&dir, &["status", "app.db", "--json"]).ends(1).json();
    assert_eq!(error["error"]["class"], "local");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn schema_prints_ddl_that_makes_the_same_tables() {
    let dir = TempDir::new().unwrap();
    file(&dir, "app.db", &format!("{DDL} CREATE TABLE log (line TEXT);"));
    let ran = run(&dir, &["schema", "app.db"]).ends(0);
    assert!(ran.stderr.contains("Table log cannot be synced: it has no PRIMARY KEY, and nothing UNIQUE by which its rows could be known. Give it one"), "{}", ran.stderr);
    file(&dir, "server.db", &ran.stdout);
    let again = run(&dir, &["schema", "server.db"]).ends(0);
    assert_eq!(again.stdout, ran.stdout);
    let synced = |printed: &str| printed.split(MARK).next().unwrap_or_default().to_owned();
    file(&dir, "synced.db", &synced(&ran.stdout));
    let again = run(&dir, &["schema", "synced.db"]).ends(0);
    assert_eq!((again.stdout.trim(), again.stderr.as_str()), (synced(&ran.stdout).trim(), ""));

    let json = run(&dir, &["schema", "app.db", "--json"]).ends(0).json();
    assert_eq!(json["tables"], serde_json::json!(["customers", "orders"]));
    assert_eq!(json["refused"][0]["table"], "log");
    assert_eq!(json["statements"].as_array().unwrap().len(), 3);

    let one = run(&dir, &["schema", "app.db", "--tables", "customers"]).ends(0);
    assert!(one.stdout.contains("customers") && !synced(&one.stdout).contains("orders"), "{}", one.stdout);
    let ran = run(&dir, &["schema", "app.db", "--tables", "orders"]).ends(1);
    assert!(ran.stderr.contains("Sync customers too"), "{}", ran.stderr);
    assert!(run(&dir, &["schema", "app.db", "--tables", "customers,log"]).ends(1).stdout.is_empty());
}

#[test]
fn a_url_that_cannot_work_is_not_remembered() {
    let dir = TempDir::new().unwrap();
    file(&dir, "app.db", DDL);
    for url in ["ftp://host", "host:80", "http://u:p@host", "http://host/?q"] {
        let ran = run(&dir, &["init", "app.db", "--server", url, "--all"]).ends(2);
        assert!(ran.stderr.contains("the server's URL"), "{}", ran.stderr);
        run(&dir, &["clone", url, "new.db", "--token", "t"]).ends(2);
    }
    assert!(run(&dir, &["status", "app.db"]).ends(1).stderr.contains("not synced yet"));
}

#[test]
fn without_a_token_nothing_is_tried() {
    let dir = TempDir::new().unwrap();
    file(&dir, "app.db", DDL);
    run(&dir, &["init", "app.db", "--server", &nobody(), "--all", "--offline"]).ends(0);
    let ran = run(&dir, &["sync", "app.db"]).ends(2);
    assert!(ran.stderr.contains("SYNC_TOKEN") && ran.stderr.contains("app.db-sync-token"), "{}", ran.stderr);
    run(&dir, &["clone", &nobody(), "new.db"]).ends(2);
    let ran = run(&dir, &["clone", &nobody(), "no/such/new.db", "--token", "t"]).ends(1);
    assert!(ran.stderr.contains("no directory no/such"), "{}", ran.stderr);
}

#[cfg(unix)]
#[test]
fn a_token_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    file(&dir, "app.db", DDL);
    let path = dir.path().join("app.db-sync-token");
    fs::write(&path, "hush\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let ran = run(&dir, &["sync", "app.db"]).ends(1);
    assert!(ran.stderr.contains("chmod 600") && ran.stderr.contains("0640"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("hush"), "{}", ran.stderr);
}

#[test]
fn clone_leaves_nothing_behind_when_it_fails() {
    let dir = TempDir::new().unwrap();
    let ran = run(&dir, &["clone", &nobody(), "new.db", "--token", "hush"]).ends(3);
    assert!(ran.stderr.contains("cannot reach the server") && !ran.stderr.contains("hush"), "{}", ran.stderr);
    assert!(names(dir.path()).is_empty());

    // Statements that a schema has no business with.
    for statement in [
        "ATTACH 'stolen.db' AS s",
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END",
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE broken (",
    ] {
        let url = schema_server(&["CREATE TABLE a (id TEXT PRIMARY KEY NOT NULL)", statement]);
        let ran = run(&dir, &["clone", &url, "new.db", "--token", "hush"]).ends(1);
        assert!(ran.stderr.to_lowercase().contains("nothing was made"), "{}", ran.stderr);
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }

    let conn = file(&dir, "new.db", "CREATE TABLE mine (id TEXT PRIMARY KEY NOT NULL); INSERT INTO mine VALUES ('x')");
    let ran = run(&dir, &["clone", &nobody(), "new.db", "--token", "hush"]).ends(1);
    assert!(ran.stderr.contains("exists already"), "{}", ran.stderr);
    assert_eq!(conn.query_row("SELECT count(*) FROM mine", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[test]
fn init_refuses_tables_by_name_and_passes_over_them_with_all() {
    let dir = TempDir::new().unwrap();
    let conn = file(&dir, "a.db", &format!("{DDL} CREATE TABLE log (line TEXT); INSERT INTO log VALUES ('x');"));
    let ran = run(&dir, &["init", "a.db", "--server", &nobody(), "--tables", "customers,log"]).ends(1);
    assert!(ran.stderr.contains("log") && ran.stderr.contains("PRIMARY KEY"), "{}", ran.stderr);
    assert_eq!(text(&conn, "SELECT count(*) || '' FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'"), "0");
    let json = run(&dir, &["init", "a.db", "--server", &nobody(), "--all", "--json"]).ends(0).json();
    assert_eq!(json["tables"], serde_json::json!(["customers", "orders"]));
    assert_eq!(json["refused"][0]["table"], "log");
}

#[test]
fn what_is_no_sync_server_is_said_so() {
    let dir = TempDir::new().unwrap();
    file(&dir, "a.db", DDL);
    for (status, code, words) in [
        ("301 Moved Permanently\r\nLocation: http://127.0.0.1:9/", 4, "redirects"),
        ("404 Not Found", 4, "Is this the URL of a sync server?"),
        ("200 OK", 4, "Is this the URL of a sync server?"),
        ("502 Bad Gateway", 3, "answers with status 502: \"hello\". Changes wait"),
    ] {
        let url = answering(status, "<html>hello</html>");
        let init = ["init", "a.db", "--server", &url, "--all", "--token", "hush"];
        if code != 3 {
            // It is asked before anything is changed.
            let ran = run(&dir, &init).ends(code);
            assert!(
                ran.stderr.contains(words) && ran.stderr.contains("Nothing was changed"),
                "{status}: {}",
                ran.stderr
            );
        }
        run(&dir, &[&init[..], &["--offline"]].concat()).ends(0);
        let ran = run(&dir, &["sync", "a.db"]).ends(code);
        assert!(ran.stderr.contains(words), "{status}: {}", ran.stderr);
        let json = run(&dir, &["status", "a.db", "--json"]).ends(0).json();
        assert_eq!(json["online"], code != 3, "{status}");
        run(&dir, &["detach", "a.db", "--forget"]).ends(0);
    }
}

#[test]
fn init_again_takes_another_server_but_not_other_tables() {
    let dir = TempDir::new().unwrap();
    file(&dir, "a.db", DDL);
    run(&dir, &["init", "a.db", "--server", "http://old", "--tables", "customers"]).ends(0);
    run(&dir, &["init", "a.db", "--server", "http://new", "--tables", "Customers"]).ends(0);
    let ran = run(&dir, &["init", "a.db", "--server", "http://new", "--all"]).ends(1);
    assert!(ran.stderr.contains("synced already, with these tables: customers."), "{}", ran.stderr);
    let status = run(&dir, &["status", "a.db", "--json"]).ends(0).json();
    assert_eq!((&status["server"], &status["tables"]), (&"http://new".into(), &serde_json::json!(["customers"])));
}

#[test]
fn offline_ends_with_3_and_the_work_waits() {
    let dir = TempDir::new().unwrap();
    file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &nobody(), "--all", "--token", "hush"]).ends(0);
    let ran = run(&dir, &["sync", "a.db"]).ends(3);
    assert!(ran.stderr.contains("cannot reach") && !ran.stderr.contains("hush"), "{}", ran.stderr);
    assert_eq!(run(&dir, &["sync", "a.db", "--json"]).ends(3).json()["error"]["class"], "offline");
    let status = run(&dir, &["status", "a.db", "--json"]).ends(0).json();
    assert_eq!(status["last_error"]["class"], "offline");
    assert!(status["last_success"].is_null());
}

#[test]
fn detach_keeps_rows_and_refuses_to_lose_work() {
    let dir = TempDir::new().unwrap();
    let conn = file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &nobody(), "--all", "--token", "ann"]).ends(0);
    conn.execute("INSERT INTO orders VALUES ('o9', 'c1', 1)", []).unwrap();
    let ran = run(&dir, &["detach", "a.db"]).ends(1);
    assert!(
        ran.stderr.contains("4 changed rows") && ran.stderr.contains("--keep, --discard or --export"),
        "{}",
        ran.stderr
    );
    run(&dir, &["detach", "a.db", "--keep", "--discard"]).ends(2);
    let ran = run(&dir, &["detach", "a.db", "--keep"]).ends(0);
    assert!(ran.stdout.contains("4 changes not sent yet"), "{}", ran.stdout);
    run(&dir, &["status", "a.db"]).ends(1);
    run(&dir, &["detach", "a.db"]).ends(1);
    run(&dir, &["init", "a.db", "--server", &nobody(), "--all"]).ends(0);
    assert_eq!(run(&dir, &["status", "a.db", "--json"]).ends(0).json()["pending_rows"], 4);
    run(&dir, &["detach", "a.db", "--keep"]).ends(0);
    run(&dir, &["detach", "a.db", "--forget"]).ends(0);
    run(&dir, &["detach", "a.db", "--forget"]).ends(1);
    assert_eq!(text(&conn, ALL_ORDERS), "o1=1250,o9=1");
    assert_eq!(text(&conn, "SELECT count(*) || '' FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'"), "0");
    assert!(!names(dir.path()).contains(&"a.db-sync-token".into()));
    let ran = run(&dir, &["sync", "a.db", "--token", "ann"]).ends(1);
    assert!(ran.stderr.contains("sync-client init"), "{}", ran.stderr);
}

pub(crate) fn text(conn: &Connection, sql: &str) -> String {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

pub(crate) const THREE: &str = "INSERT INTO customers VALUES ('c1', 'Ann', 'ann@x'), ('c2', 'Bo', NULL);
    INSERT INTO orders VALUES ('o1', 'c1', 1250);";
pub(crate) const ALL_ORDERS: &str =
    "SELECT coalesce(group_concat(id || '=' || cents), '') FROM (SELECT * FROM orders ORDER BY id)";

/// Answers any request with a schema of these statements.
pub(crate) fn schema_server(statements: &[&str]) -> String {
    answering("200 OK", &serde_json::json!({"schema": "main", "statements": statements}).to_string())
}

/// Answers any request alike.
pub(crate) fn answering(status: &str, body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let length = body.len();
    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|amount| amount > 0) {
                head.push(byte[0]);
            }
            let _ = stream.write_all(reply.as_bytes());
        }
    });
    url
}
