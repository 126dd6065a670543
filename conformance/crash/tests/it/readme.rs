//! Runs each `sh` block of README.md that is marked `<!-- run: … -->`, all of one name together, with the programs of this
//! build, in a directory of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use tempfile::TempDir;

#[test]
fn the_commands_for_two_machines_work() {
    let blocks = blocks("two-machines");
    let dir = TempDir::new().unwrap();
    let notes = Connection::open(dir.path().join("notes.db")).unwrap();
    notes
        .execute_batch(
            "CREATE TABLE books (id TEXT PRIMARY KEY, title TEXT NOT NULL);
             CREATE TABLE notes (id INTEGER PRIMARY KEY, book TEXT REFERENCES books(id), body TEXT);
             INSERT INTO books VALUES ('b1', 'It''s one'), ('b2', 'Two');
             INSERT INTO notes (book, body) VALUES ('b1', 'first'), ('b1', NULL), ('b2', 'third');",
        )
        .unwrap();
    let script = script(&blocks);
    let said = run(&dir, &script);
    let copy = Connection::open(dir.path().join("copy.db")).unwrap();
    for table in ["books", "notes"] {
        assert_eq!(rows(&copy, table), rows(&notes, table), "{table}\n{said}");
    }
    assert_eq!(rows(&copy, "notes").len(), 3);
}

#[test]
fn the_commands_for_a_tracker_work() {
    let dir = TempDir::new().unwrap();
    let said = run(&dir, &script(&blocks("aexy")));
    let scope = fs::read_dir(dir.path().join("data/scopes")).unwrap().map(|e| e.unwrap().path());
    let scope = scope.into_iter().find(|p| p.extension().is_some_and(|e| e == "db")).unwrap();
    let sql = "SELECT payload FROM _sync_ingest_sample";
    let payload: String = Connection::open(scope).unwrap().query_row(sql, [], |r| r.get(0)).unwrap();
    assert!(payload.contains("org.vim") && payload.contains("\"client_seq\":1"), "{payload}\n{said}");
}

/// The blocks of this name, in their order.
fn blocks(name: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let mark = format!("<!-- run: {name} -->");
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if line.trim() != mark {
            continue;
        }
        assert_eq!(lines.next(), Some("```sh"), "{mark} stands before a block of sh");
        blocks.push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
    }
    assert!(!blocks.is_empty(), "README.md has no block marked {mark}");
    blocks
}

/// One shell runs all of it and stops at the first failure. A command in the background has begun
/// once it says something; it runs until the end.
fn script(blocks: &[String]) -> String {
    let mut script = String::from("set -e\nbackground=\ntrap 'kill $background' EXIT\n");
    for (n, line) in blocks.iter().flat_map(|block| block.lines()).enumerate() {
        match line.strip_suffix(" &") {
            Some(command) => script.push_str(&format!(
                "mkfifo .said{n}\n{command} > .said{n} &\nbackground=\"$background $!\"\n\
                 exec 3< .said{n}\nread said <&3\necho \"$said\"\n"
            )),
            None => {
                script.push_str(line);
                script.push('\n');
            }
        }
    }
    // The address is free on the reader's machine; here it may not be.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let here = format!("127.0.0.1:{port}");
    ["127.0.0.1:8787", "127.0.0.1:8789"].iter().fold(script, |script, there| script.replace(there, &here))
}

fn run(dir: &TempDir, script: &str) -> String {
    let mut path = vec![programs()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir.path())
        .env("PATH", std::env::join_paths(path).unwrap())
        .env_remove("SYNC_TOKEN")
        .env_remove("AEXY_TOKEN")
        .env_remove("SYNC_SERVER_SECRET")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{script}", output.status);
    said
}

/// Builds the programs in the profile of this test; the directory where they are.
fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // TARGET/PROFILE/deps/it-HASH
    let dir = test.ancestors().nth(2).unwrap().to_owned();
    let profile = dir.file_name().unwrap().to_str().unwrap();
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "sync-client", "--package", "sync-server", "--bins"])
        .args(["--profile", if profile == "debug" { "dev" } else { profile }])
        .arg("--target-dir")
        .arg(dir.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success());
    dir
}

fn rows(conn: &Connection, table: &str) -> Vec<Vec<rusqlite::types::Value>> {
    let mut statement = conn.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).unwrap();
    let columns = statement.column_count();
    statement
        .query_map([], |row| (0..columns).map(|i| row.get(i)).collect())
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap()
}
