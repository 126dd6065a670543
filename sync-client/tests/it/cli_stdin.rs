//! `watch --stdin`: commands come on standard input, answers and events go to standard output.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{DDL, file, program, run};
use crate::support::serve;

/// A program that runs, from the side of whoever started it.
struct Watch {
    child: Child,
    to: Option<ChildStdin>,
    from: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(dir: &TempDir, name: &str) -> Self {
        Self::with(dir, &["watch", name, "--stdin"])
    }

    /// The same, asking about conflicts.
    fn asking(dir: &TempDir, name: &str, seconds: &str) -> Self {
        Self::with(dir, &["watch", name, "--stdin", "--ask", seconds, "--policy", "client-wins"])
    }

    fn with(dir: &TempDir, command: &[&str]) -> Self {
        let mut child = program(dir, command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { to: child.stdin.take(), from, child }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line that has this member.
    fn next(&mut self, member: &str) -> Value {
        loop {
            let line: Value = serde_json::from_str(&self.from.next().expect("a line").unwrap()).unwrap();
            if line.get(member).is_some() {
                return line;
            }
        }
    }

    fn ask(&mut self, command: &Value) -> Value {
        self.say(&command.to_string());
        self.next("answer")
    }

    /// The next event of this name.
    fn event(&mut self, name: &str) -> Value {
        loop {
            let event = self.next("event");
            if event["event"] == name {
                return event;
            }
        }
    }
}

#[test]
fn commands_are_answered_beside_the_events() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let a = file(&dir, "a.db", DDL);
    let b = file(&dir, "b.db", DDL);
    for name in ["a.db", "b.db"] {
        run(&dir, &["init", name, "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
        run(&dir, &["sync", name]).ends(0);
    }
    let mut watch = Watch::start(&dir, "b.db");
    // A key is an object in what is told, too.
    a.execute_batch("INSERT INTO customers VALUES ('c1', 'Ann', 'x'), ('c2', 'Bo', NULL)").unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    let changed = watch.event("changed");
    assert_eq!((&changed["table"], &changed["keys"][0]), (&"customers".into(), &json!({"id": "c1"})));
    let status = watch.ask(&json!({"command": "status", "request": {"n": 1}}));
    assert_eq!((&status["answer"], &status["request"]), (&"status".into(), &json!({"n": 1})));
    assert_eq!(status["status"]["tables"], json!(["customers", "orders"]));

    // A row that leaves its table is told, put back or given up by its key, and forgotten.
    let taken = |id: &str| format!("INSERT INTO customers VALUES ('{id}', 'mine', 'x')");
    b.execute_batch("UPDATE customers SET email = NULL WHERE id = 'c1'").unwrap();
    watch.ask(&json!({"command": "sync"}));
    b.execute_batch(&taken("c3")).unwrap();
    let synced = watch.ask(&json!({"command": "sync", "request": 2}));
    assert_eq!(
        (&synced["answer"], &synced["request"], &synced["pending_rows"]),
        (&"sync".into(), &2.into(), &0.into())
    );
    assert!(synced["report"]["rounds"].as_u64().is_some());
    for (command, part) in [
        (json!({"command": "retry", "table": "customers", "key": {"id": "c3"}}), json!({"changed": false})),
        (json!({"command": "drop", "table": "customers", "key": "c3"}), json!({"changed": false})),
        (json!({"command": "drop", "id": 99}), json!({"changed": false})),
        (json!({"command": "clear", "kind": "discarded"}), json!({"cleared": 0})),
    ] {
        let answer = watch.ask(&command);
        for (name, value) in part.as_object().unwrap() {
            assert_eq!(&answer[name], value, "{command}: {answer}");
        }
    }
    // What is wrong is said, and nothing else happens.
    for wrong in
        ["dance", "[1]", r#"{"command":"dance"}"#, r#"{"command":"retry"}"#, r#"{"command":"clear","kind":"x"}"#]
    {
        watch.say(wrong);
        let answer = watch.next("answer");
        assert_eq!(answer["error"]["class"], "usage", "{wrong}: {answer}");
    }
    let stopping = watch.ask(&json!({"command": "stop"}));
    assert_eq!(stopping, json!({"answer": "stop", "stopping": true}));
    assert!(watch.child.wait().unwrap().success());
}

/// Rows that wait for a person: the event names the row as the commands want it.
#[test]
fn a_row_in_an_event_can_be_named_in_a_command() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let (a, b) = (file(&dir, "a.db", DDL), file(&dir, "b.db", DDL));
    for name in ["a.db", "b.db"] {
        run(&dir, &["init", name, "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
        run(&dir, &["sync", name]).ends(0);
    }
    a.execute_batch("INSERT INTO customers VALUES ('c1', 'Ann', 'x')").unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    b.execute_batch("INSERT INTO customers VALUES ('c2', 'Bo', 'x')").unwrap();
    let mut watch = Watch::start(&dir, "b.db");
    let told = watch.event("inbox");
    assert_eq!((&told["kind"], &told["key"]), (&"rejected".into(), &json!({"id": "c2"})));
    // Its UNIQUE value is taken: not until that goes can it come back.
    let retry = json!({"command": "retry", "table": told["table"], "key": told["key"]});
    assert_eq!(watch.ask(&retry)["error"]["class"], "usage");
    b.execute_batch("UPDATE customers SET email = 'y' WHERE id = 'c1'").unwrap();
    assert_eq!(watch.ask(&retry)["changed"], true);
    watch.ask(&json!({"command": "sync"}));
    run(&dir, &["sync", "a.db"]).ends(0);
    let names = "SELECT group_concat(name) FROM (SELECT name FROM customers ORDER BY id)";
    assert_eq!(crate::cli::text(&a, names), "Ann,Bo");
    drop(watch.to.take());
    assert!(watch.child.wait().unwrap().success());
}

/// Two synced files whose devices have both changed one row, and named it after themselves.
fn clash(dir: &TempDir, url: &str) -> (Connection, Connection) {
    let (a, b) = (file(dir, "a.db", DDL), file(dir, "b.db", DDL));
    a.execute_batch("INSERT INTO customers VALUES ('c1', 'Ann', 'x')").unwrap();
    for name in ["a.db", "b.db"] {
        run(dir, &["init", name, "--server", url, "--all", "--token", "ann"]).ends(0);
        run(dir, &["sync", name]).ends(0);
    }
    a.execute_batch("UPDATE customers SET name = 'of a'").unwrap();
    run(dir, &["sync", "a.db"]).ends(0);
    b.execute_batch("UPDATE customers SET name = 'of b'").unwrap();
    (a, b)
}

const NAME: &str = "SELECT name || coalesce(email, '') FROM customers";

/// A conflict is told with its rows and waits for `resolve`. Meanwhile the app writes, and what was answered to rows that
/// are others by then is asked again.
#[test]
fn conflicts_are_told_and_answered() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let (a, b) = clash(&dir, &server.url());
    let mut watch = Watch::asking(&dir, "b.db", "60");
    let row = |name: &str| json!({"id": "c1", "name": name, "email": "x"});
    let told = watch.event("conflict");
    let expected = json!({"event": "conflict", "id": 1, "table": "customers", "key": {"id": "c1"}, "op": "UPDATE",
        "local": row("of b"), "base": row("Ann"), "server": row("of a"), "seconds": 60});
    assert_eq!(told, expected);
    // The file is free, and a sync that was asked for waits while other commands are answered.
    b.busy_timeout(std::time::Duration::ZERO).unwrap();
    b.execute_batch("UPDATE customers SET name = 'of b, again'").unwrap();
    watch.say(r#"{"command":"sync","request":"long"}"#);
    assert_eq!(watch.ask(&json!({"command": "status"}))["status"]["conflicts"], 0);
    for wrong in [
        json!({"command": "resolve", "id": 7, "take": "local"}),
        json!({"command": "resolve", "id": 1}),
        json!({"command": "resolve", "id": 1, "take": "local", "row": {}}),
        json!({"command": "resolve", "id": 1, "row": {"colour": "red"}}),
        json!({"command": "resolve", "id": 1, "row": {"id": "c2"}}),
        json!({"command": "resolve", "id": 1, "row": [1]}),
    ] {
        let answer = watch.ask(&wrong);
        assert_eq!((&answer["answer"], &answer["error"]["class"]), (&"resolve".into(), &"usage".into()), "{answer}");
    }
    let taken = watch.ask(&json!({"command": "resolve", "id": 1, "take": "server", "request": 1}));
    assert_eq!(taken, json!({"answer": "resolve", "request": 1, "resolved": true}));
    let told = watch.event("conflict");
    assert_eq!((&told["id"], &told["local"]), (&2.into(), &row("of b, again")));
    let again = watch.ask(&json!({"command": "resolve", "id": 1, "take": "server"}));
    assert!(again["error"]["message"].as_str().unwrap().contains("No conflict with the id 1"), "{again}");
    let taken = watch.ask(&json!({"command": "resolve", "id": 2, "row": {"id": "c1", "name": "both", "email": null}}));
    assert_eq!(taken["resolved"], true);
    let synced = watch.next("answer");
    assert_eq!((&synced["request"], &synced["pending_rows"]), (&"long".into(), &0.into()), "{synced}");
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(crate::cli::text(&a, NAME), "both");
    let entries = run(&dir, &["conflicts", "b.db", "--json"]).ends(0).json();
    assert_eq!((&entries["rows"][0]["reason"], entries["rows"].as_array().unwrap().len()), (&"resolver".into(), 1));
    assert_eq!(watch.ask(&json!({"command": "stop"}))["stopping"], true);
    assert!(watch.child.wait().unwrap().success());
}

/// The program is killed while a conflict waits: nothing was done, and it is told again.
#[test]
fn a_conflict_outlives_the_program() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let (a, b) = clash(&dir, &server.url());
    let mut watch = Watch::asking(&dir, "b.db", "60");
    let told = watch.event("conflict");
    watch.child.kill().unwrap();
    watch.child.wait().unwrap();
    let status = run(&dir, &["status", "b.db", "--json"]).ends(0).json();
    assert_eq!((&status["pending_rows"], &status["conflicts"]), (&1.into(), &0.into()));
    assert_eq!(crate::cli::text(&b, NAME), "of bx");
    let mut watch = Watch::asking(&dir, "b.db", "60");
    assert_eq!(watch.event("conflict"), told);
    // Its input is closed while it waits: that ends it, too, and nothing was done.
    drop(watch.to.take());
    assert!(watch.child.wait().unwrap().success());
    let mut watch = Watch::asking(&dir, "b.db", "60");
    assert_eq!(watch.event("conflict"), told);
    assert_eq!(watch.ask(&json!({"command": "resolve", "id": 1, "take": "local"}))["resolved"], true);
    watch.ask(&json!({"command": "sync"}));
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(crate::cli::text(&a, NAME), "of bx");
    drop(watch.to.take());
    assert!(watch.child.wait().unwrap().success());
}

/// Past its time the policy decides and an event says so; who was not asked to ask decides at once.
#[test]
fn a_conflict_that_is_not_answered_is_the_policys() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let (a, b) = clash(&dir, &server.url());
    let mut watch = Watch::asking(&dir, "b.db", "1");
    watch.event("conflict");
    let told = watch.event("unanswered");
    assert_eq!((&told["table"], &told["key"]), (&"customers".into(), &json!({"id": "c1"})));
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("within 1 s") && message.contains("client-wins"), "{message}");
    let late = watch.ask(&json!({"command": "resolve", "id": 1, "take": "server"}));
    assert_eq!(late["error"]["class"], "usage", "{late}");
    watch.ask(&json!({"command": "sync"}));
    drop(watch.to.take());
    assert!(watch.child.wait().unwrap().success());
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(crate::cli::text(&a, NAME), "of bx");

    a.execute_batch("UPDATE customers SET name = 'of a'").unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    b.execute_batch("UPDATE customers SET name = 'of b 2'").unwrap();
    let mut watch = Watch::start(&dir, "b.db");
    assert_eq!(watch.event("inbox")["kind"], "discarded");
    let nobody = watch.ask(&json!({"command": "resolve", "id": 1, "take": "server"}));
    assert!(nobody["error"]["message"].as_str().unwrap().contains("--ask"), "{nobody}");
    drop(watch.to.take());
    assert!(watch.child.wait().unwrap().success());
    run(&dir, &["watch", "b.db", "--ask", "5"]).ends(2);
}

/// One line in another encoding is that line's fault alone.
#[test]
fn a_line_that_is_not_utf8_is_answered() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    file(&dir, "a.db", DDL);
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    let mut watch = Watch::start(&dir, "a.db");
    watch.to.as_mut().unwrap().write_all(b"{\"command\":\"status\",\"request\":\"M\xfcller\"}\n").unwrap();
    let answer = watch.next("answer");
    assert_eq!((&answer["answer"], &answer["error"]["class"]), (&"none".into(), &"usage".into()), "{answer}");
    assert_eq!(watch.ask(&json!({"command": "status", "request": 2}))["request"], 2);
    drop(watch.to.take());
    assert!(watch.child.wait().unwrap().success());
}

/// Whoever started it is gone but for the other end of its standard output, which nobody reads: it does not keep the file.
#[test]
fn it_ends_with_its_input_though_nobody_reads_its_output() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    file(&dir, "a.db", DDL);
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    let Watch { mut child, mut to, from } = Watch::start(&dir, "a.db");
    // The answers are more than any pipe holds.
    to.as_mut().unwrap().write_all("{\"command\":\"status\"}\n".repeat(2000).as_bytes()).unwrap();
    drop(to);
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait().unwrap()));
    assert!(end.recv_timeout(std::time::Duration::from_secs(60)).expect("it ends").success());
    drop(from);
    run(&dir, &["sync", "a.db"]).ends(0);

    // Nor does it stay where the output is closed: an answer is what tells it.
    let Watch { mut child, mut to, from } = Watch::start(&dir, "a.db");
    drop(from);
    writeln!(to.as_mut().unwrap(), "{{\"command\":\"status\"}}").unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait().unwrap()));
    assert!(end.recv_timeout(std::time::Duration::from_secs(60)).expect("it ends").success());
    drop(to);
}

/// Keys are text in what is told; commands take a number as one, too, here and on the command line.
#[test]
fn a_number_in_a_key_is_written_either_way() {
    let ddl = "CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER";
    let (dir, server) = (TempDir::new().unwrap(), serve(&format!("{ddl} CHECK (n > 0));")));
    file(&dir, "a.db", &format!("{ddl}); INSERT INTO counters VALUES (6, -1), (9007199254740993, -1);"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(5);
    let listed = run(&dir, &["rejected", "a.db", "--json"]).ends(0).json();
    assert_eq!(listed["rows"][0]["key"].to_string().replace('\\', "").trim_matches('"'), r#"{"id":"6"}"#);
    for key in [r#"{"id": 6}"#, r#"{"id":"6"}"#, "6", r#"{ "id" : 9007199254740993 }"#] {
        run(&dir, &["retry", "a.db", "counters", key]).ends(0);
        run(&dir, &["sync", "a.db"]).ends(5);
    }
    let mut watch = Watch::start(&dir, "a.db");
    for key in [json!({"id": 6}), json!({"id": "6"}), json!(6), json!({"id": 9_007_199_254_740_993_u64})] {
        let retry = json!({"command": "retry", "table": "counters", "key": key});
        assert_eq!(watch.ask(&retry)["changed"], true, "{key}");
        watch.ask(&json!({"command": "sync"}));
    }
    let drop_row = json!({"command": "drop", "table": "counters", "key": {"id": 6}});
    assert_eq!(watch.ask(&drop_row)["changed"], true);
    drop(watch.to.take());
    assert!(watch.child.wait().unwrap().success());
}
