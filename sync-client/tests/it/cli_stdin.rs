//! `watch --stdin`: commands come on standard input, answers and events go to standard output.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

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
        let command = &["watch", name, "--stdin"];
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
