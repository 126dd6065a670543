//! The program `sync-server` as an operator runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use sync_server::service::FaultPoint;

use crate::http::{Client, SCHEMA, chunk, user};

/// A running server; killed when dropped.
struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    url: String,
}

fn command(dir: &std::path::Path) -> Command {
    std::fs::write(dir.join("schema.sql"), SCHEMA).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sync-server"));
    command.env_remove("SYNC_SERVER_SECRET").env_remove("RUST_LOG").current_dir(dir);
    command
}

impl Program {
    fn start(command: &mut Command, more: &[&str]) -> Self {
        command.args(["serve", "--schema", "schema.sql", "--data", "data", "--listen", "127.0.0.1:0"]).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some(url) = line.trim_end().strip_prefix("listening on ") else {
            let mut stderr = String::new();
            child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            panic!("{line:?} {stderr}");
        };
        Self { url: url.to_owned(), stdout, child }
    }

    fn client(&self, token: &str) -> Client {
        Client::new(self.url.clone(), token, "phone")
    }

    /// Sends a signal and waits; says the exit code and what was written to stderr.
    fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "stdout has one line");
        (self.child.wait().unwrap().code(), stderr)
    }

    /// The most memory that the process ever held, in MiB.
    #[cfg(target_os = "linux")]
    fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn serves_stops_and_finds_its_data_again() {
    for signal in ["-TERM", "-INT"] {
        let dir = tempfile::tempdir().unwrap();
        let program = Program::start(&mut command(dir.path()), &["--dev"]);
        let client = program.client("ada");
        client.post("/sync/connect", "{}");
        assert_eq!(client.push(1, &[user("u", "very private")]).json()["bundle_seq"], 1);
        let (code, stderr) = program.stop(signal);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(!stderr.contains("very private") && !stderr.contains("panicked"), "{stderr}");

        let program = Program::start(command(dir.path()).env("RUST_LOG", "trace"), &["--dev"]);
        let page = program.client("ada").get("/sync/pull").json();
        assert_eq!(page["bundles"][0]["rows"][0]["payload"]["name"], "very private");
        let (code, stderr) = program.stop(signal);
        assert_eq!(code, Some(0));
        assert!(!stderr.contains("very private"), "{stderr}");
    }
}

/// What SQLite's shell prints of an app's file, with tables of SQLite and, where it is synced, of ours; and a log that goes
/// to a file.
#[test]
fn serves_what_the_shell_prints_and_logs_without_colours() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path());
    let shell = format!(
        "CREATE TABLE sqlite_sequence(name,seq);\n{SCHEMA}\nCREATE TABLE _sync_meta(name TEXT PRIMARY KEY, value);\n\
         CREATE TRIGGER _sync_users_i AFTER INSERT ON users BEGIN INSERT INTO _sync_log_1 VALUES (new.id); END;\n\
         CREATE TABLE numbered(id INTEGER PRIMARY KEY AUTOINCREMENT, x);"
    );
    std::fs::write(dir.path().join("schema.sql"), shell).unwrap();
    let program = Program::start(command.env("RUST_LOG", "debug"), &["--dev"]);
    let client = program.client("ada");
    client.post("/sync/connect", "{}");
    let statements = client.get("/sync/schema").json()["statements"].to_string();
    assert!(statements.contains("numbered") && !statements.contains("_sync_") && !statements.contains("sqlite_"));
    let (_, stderr) = program.stop("-TERM");
    assert!(stderr.contains("serving") && !stderr.contains('\u{1b}'), "{stderr}");
}

/// One line on stderr for each table that is left out, and the others are served.
#[test]
fn tables_that_cannot_be_synced_are_told_and_the_others_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path());
    let unfit = "CREATE TABLE \"two\nlines\" (id REAL PRIMARY KEY); CREATE TABLE log (line TEXT);
        CREATE TABLE child (id TEXT PRIMARY KEY NOT NULL, r REAL REFERENCES \"two\nlines\"(id));";
    std::fs::write(dir.path().join("schema.sql"), format!("{unfit}{SCHEMA}")).unwrap();
    let program = Program::start(&mut command, &["--dev"]);
    let client = program.client("ada");
    client.post("/sync/connect", "{}");
    assert_eq!(client.push(1, &[user("u", "n")]).status, 200);
    let (code, stderr) = program.stop("-TERM");
    assert_eq!(code, Some(0), "{stderr}");
    let warned: Vec<&str> = stderr.lines().filter(|l| l.contains("WARN")).collect();
    assert_eq!(warned.len(), 2, "what an app keeps beside its data is no warning: {stderr}");
    assert!(warned[0].contains("table child") && warned[0].contains("remove the foreign key"), "{stderr}");
    assert!(
        warned[1].contains("table two lines") && warned[1].contains("use an INTEGER, TEXT or BLOB key"),
        "{stderr}"
    );
}

#[test]
fn the_secret_may_be_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let output = command(dir.path()).args(["token", "--user", "ada", "--secret-file", "secret"]).output().unwrap();
    let token = String::from_utf8(output.stdout).unwrap();
    // The same as in the variable, the line's end left out.
    let program = Program::start(command(dir.path()).env("SYNC_SERVER_SECRET", SECRET), &[]);
    assert_eq!(program.client(token.trim()).post("/sync/connect", "{}").status, 200);
    drop(program);
    let program = Program::start(&mut command(dir.path()), &["--secret-file", "secret"]);
    assert_eq!(program.client(token.trim()).get("/sync/capabilities").status, 200);
    drop(program);
    for (content, said) in [(Some("short"), "secret: "), (None, "gone: ")] {
        let name = said.trim_end_matches(": ");
        if let Some(content) = content {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let output = command(dir.path()).args(["token", "--user", "ada", "--secret-file", name]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(said) && !stderr.contains("short\n"), "{stderr}");
    }
}

#[test]
fn tokens_of_the_program_open_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let issue = |args: &[&str]| {
        let output = command(dir.path()).env("SYNC_SERVER_SECRET", SECRET).arg("token").args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, token, stderr) = issue(&["--user", "ada"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!((token.lines().count(), token.matches('.').count()), (1, 2), "alone on stdout");
    let program = Program::start(command(dir.path()).env("SYNC_SERVER_SECRET", SECRET).env("RUST_LOG", "trace"), &[]);
    assert_eq!(program.client(token.trim()).post("/sync/connect", "{}").status, 200);
    assert_eq!(program.client("ada").post("/sync/connect", "{}").error(), "authentication_failed");
    let (_, stderr) = program.stop("-TERM");
    assert!(!stderr.contains(token.trim()) && !stderr.contains(SECRET), "{stderr}");
    assert_eq!(issue(&["--user", " "]).0, Some(2));
    assert_eq!(issue(&["--user", "ada", "--days", "0"]).0, Some(2));
}

#[test]
fn what_cannot_be_used_is_said_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("broken.sql"), "CREATE TABEL x(id TEXT PRIMARY KEY);").unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let serve = ["serve", "--schema", "schema.sql", "--data", "data"];
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], Option<&str>, i32, &str); 13] = [
        (&serve, None, 2, "SYNC_SERVER_SECRET is not set"),
        (&serve, Some("short"), 2, "SYNC_SERVER_SECRET: the secret has 5 bytes; at least 32 are needed"),
        (&["token", "--user", "ada"], None, 2, "SYNC_SERVER_SECRET is not set"),
        (&["token", "--user", "ada"], Some("short"), 2, "at least 32"),
        (&["token"], None, 2, "--user"),
        (&[&serve[..], &["--dev", "--listen", "0.0.0.0:0"]].concat(), None, 2, "--dev takes any token"),
        (&[&serve[..], &["--listen", "nowhere"]].concat(), None, 2, "nowhere"),
        (&[&serve[..], &["--retained-bundles", "0"]].concat(), None, 2, "--retained-bundles"),
        (&["serve"], None, 2, "--schema"),
        (&["nonsense"], None, 2, "nonsense"),
        (&["serve", "--dev", "--schema", "absent.sql", "--data", "data"], None, 1, "absent.sql"),
        (&["serve", "--dev", "--schema", "broken.sql", "--data", "data"], None, 1, "TABEL"),
        (&[&serve[..], &["--dev", "--listen", &taken]].concat(), None, 1, "cannot listen on"),
    ];
    for (args, secret, code, text) in cases {
        let mut command = command(dir.path());
        if let Some(secret) = secret {
            command.env("SYNC_SERVER_SECRET", secret);
        }
        let output = command.args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        assert_eq!(command(dir.path()).args(args).output().unwrap().status.code(), Some(0), "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_bomb_does_not_grow_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(&mut command(dir.path()), &["--dev", "--max-bytes-per-request", "33554432"]);
    let client = program.client("ada");
    client.post("/sync/connect", "{}");
    let push_id = client.create(1, 1);
    let path = format!("/sync/push-sessions/{push_id}/chunks");
    let sender = client.header("content-encoding", "zstd");
    let row = r#"{"start_row_ordinal":0,"rows":[{"schema":"main","key":{"id":"u"},"payload":{"#;
    for (head, filling) in [
        (r#"{"start_row_ordinal":0,"rows":["#, " "),
        (r#"{"start_row_ordinal":0,"rows":[{"schema":""#, "a"),
        (r#"{"start_row_ordinal":"#, "1"),
        (row, r#""name":"n","#),
    ] {
        let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        bomb.write_all(head.as_bytes()).unwrap();
        let filling = filling.repeat((1 << 20) / filling.len());
        for _ in 0..500 {
            bomb.write_all(filling.as_bytes()).unwrap();
        }
        let reply = sender.send("POST", &path, &bomb.finish().unwrap());
        let code = reply.error();
        assert!(["payload_too_large", "push_chunk_invalid"].contains(&code.as_str()), "{head}: {reply:?}");
    }
    assert!(program.peak_mib() < 64, "{} MiB", program.peak_mib());
}

/// A few bytes of a row that the schema makes much of.
#[cfg(target_os = "linux")]
#[test]
fn a_row_that_grows_in_its_table_does_not_grow_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path());
    let ddl = "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, name TEXT, score REAL,
        g TEXT GENERATED ALWAYS AS (printf('%.*c', length(name) * 100000000, 'x')) STORED);";
    std::fs::write(dir.path().join("schema.sql"), ddl).unwrap();
    let program = Program::start(&mut command, &["--dev"]);
    let client = program.client("ada");
    client.post("/sync/connect", "{}");
    let refused = client.push(1, &[user("u", "five5"), user("e", "")]);
    assert_eq!((refused.status, refused.json()["rejections"][0]["kind"].as_str()), (422, Some("too_large")));
    assert_eq!(client.push(1, &[user("e", "")]).status, 200);
    assert!(program.peak_mib() < 64, "{} MiB", program.peak_mib());
}

/// Kills the program at each of its fault points and starts it again: what was acknowledged is there,
/// what was not is there whole or not at all, and the device goes on.
#[test]
fn a_kill_at_any_point_loses_nothing() {
    for point in FaultPoint::ALL {
        let name = point.name();
        let dir = tempfile::tempdir().unwrap();
        let program = Program::start(&mut command(dir.path()), &["--dev"]);
        let client = program.client("ada");
        client.post("/sync/connect", "{}");
        assert_eq!(client.push(1, &[user("u1", "n")]).status, 200);
        drop(program);

        let mut program = Program::start(command(dir.path()).env("SYNC_SERVER_FAULT", name), &["--dev"]);
        let client = program.client("ada");
        let mut stderr = BufReader::new(program.child.stderr.take().unwrap());
        let pushing = std::thread::spawn(move || {
            // Whichever request stands still, the kill ends it.
            drop(client.try_post("/sync/snapshot-sessions", ""));
            let created = client.try_post("/sync/push-sessions", r#"{"source_bundle_id":2,"planned_row_count":1}"#)?;
            let push_id = created.json()["push_id"].as_str()?.to_owned();
            client.try_post(&format!("/sync/push-sessions/{push_id}/chunks"), &chunk(0, &[user("u2", "n")]))?;
            client.try_post(&format!("/sync/push-sessions/{push_id}/commit"), "")
        });
        let mut line = String::new();
        while !line.contains(&format!("fault {name}")) {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "{name} is never reached");
        }
        program.child.kill().unwrap();
        program.child.wait().unwrap();
        assert!(pushing.join().unwrap().is_none(), "{name}: nothing was acknowledged");

        let program = Program::start(&mut command(dir.path()), &["--dev"]);
        let client = program.client("ada");
        let page = client.get("/sync/pull").json();
        let bundles = page["bundles"].as_array().unwrap().len();
        assert_eq!(bundles, if *point == FaultPoint::AfterCommit { 2 } else { 1 }, "{name}: {page}");
        let created = client.post("/sync/push-sessions", r#"{"source_bundle_id":2,"planned_row_count":1}"#).json();
        if created["status"] == "staging" {
            assert_eq!(client.push(2, &[user("u2", "n")]).json()["bundle_seq"], 2, "{name}");
        } else {
            assert_eq!(created["bundle_seq"], 2, "{name}");
        }
        let session = client.post("/sync/snapshot-sessions", "").json();
        assert_eq!(
            (session["row_count"].as_i64(), session["snapshot_bundle_seq"].as_i64()),
            (Some(2), Some(2)),
            "{name}"
        );
        assert_eq!(client.push(3, &[user("u3", "n")]).json()["bundle_seq"], 3, "{name}");
    }
}
