//! The program and the real server: pushes, a login by code, and renewed tokens.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;
use sync_server::ingest::{IngestOptions, statsai};
use sync_server::service::{Service, ServiceConfig};
use sync_server::{Server, standalone};
use tempfile::TempDir;

use super::web::program;
use super::{account, event, source, subscription, summaries};
use crate::cli::{DDL, Ran};
use crate::world::Clock;

struct Real {
    server: Server,
    data: TempDir,
    dir: TempDir,
}

impl Real {
    fn new(dev: bool) -> Self {
        let data = TempDir::new().unwrap();
        let service = Service::open(ServiceConfig::new(data.path(), DDL), Arc::new(Clock::default())).unwrap();
        let mut options = IngestOptions::new("http://here");
        options.dev = dev;
        let routes = statsai(service, data.path(), options).unwrap();
        Self { server: Server::start("127.0.0.1:0", standalone(routes)).unwrap(), data, dir: TempDir::new().unwrap() }
    }

    fn endpoint(&self) -> String {
        format!("{}/api/sync/batches", self.server.url())
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(program(&self.dir, args).output().unwrap())
    }

    fn add(&self, kind: &str, records: Vec<Value>) {
        fs::write(self.dir.path().join("records.json"), Value::Array(records).to_string()).unwrap();
        self.run(&["stream", "add", "app.db", "statsai", kind, "--input", "records.json"]).ends(0);
    }

    fn push(&self, more: &[&str]) -> Ran {
        let endpoint = self.endpoint();
        let args =
            ["stream", "push", "app.db", "statsai", "--sink", "http", "--endpoint", &endpoint, "--verify", "--json"];
        self.run(&[&args[..], more].concat())
    }
}

#[test]
fn the_server_has_what_the_file_had() {
    let real = Real::new(true);
    real.add("sources", vec![source("s1")]);
    real.add("accounts", vec![account("a1")]);
    real.add("subscriptions", vec![subscription("b1")]);
    real.add("events", vec![event("e1", "2026-06-08T09:30:00Z")]);
    real.add("summaries", summaries(30));
    let first = real.push(&["--auth-token", "ada"]).ends(0).json();
    assert_eq!((&first["verified"], &first["counts"]["summaries"]), (&true.into(), &30.into()));
    assert_eq!(first["batches"].as_array().unwrap().len(), 2);
    let mut corrected = summaries(1);
    corrected[0]["usage"]["total_tokens"] = 6.into();
    real.add("summaries", corrected);
    let second = real.push(&["--auth-token", "ada", "--since-last"]).ends(0).json();
    assert_eq!((&second["counts"]["summaries"], &second["rebuilt"]), (&1.into(), &false.into()));
    let third = real.push(&["--auth-token", "ada"]).ends(0).json();
    assert_eq!(third["counts"]["summaries"], 30, "all of it again changes nothing");
    // Another user has nothing of it, and gets all.
    let bob = real.push(&["--auth-token", "bob", "--since-last"]).ends(0).json();
    assert_eq!((&bob["rebuilt"], &bob["counts"]["summaries"]), (&true.into(), &30.into()));
    let stored = real.data.path();
    for entry in walk(stored) {
        let bytes = fs::read(&entry).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"SEKRIT"), "{}", entry.display());
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

/// ST-29, the device's side.
#[test]
fn st_29_a_login_by_code_and_its_renewal() {
    let real = Real::new(false);
    real.add("sources", vec![source("s1")]);
    let endpoint = real.endpoint();
    let mut login = program(&real.dir, &["stream", "login", "statsai", "--endpoint", &endpoint, "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(login.stdout.take().unwrap()).lines();
    let begun: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(begun["user_code"].is_string() && begun["verification_uri"].is_string(), "{begun}");
    // The operator's command would need the program; this is what it does.
    let keys = rusqlite::Connection::open(real.data.path().join("keys.db")).unwrap();
    keys.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    assert_eq!(keys.execute("UPDATE login SET user_id = 'ada'", []).unwrap(), 1);
    let done: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&done["logged_in"], login.wait().unwrap().code()), (&true.into(), Some(0)));
    let kept = done["file"].as_str().unwrap();
    let read = || serde_json::from_str::<Value>(&fs::read_to_string(kept).unwrap()).unwrap();
    let token = |v: &Value| v["session"]["accessToken"].as_str().unwrap().to_owned();
    // Where no endpoint is named it is the login's.
    let push = || real.run(&["stream", "push", "app.db", "statsai", "--sink", "http", "--verify"]);
    push().ends(0);
    let first = read();
    // The access token is about to end; and then its renewal was asked for, and nothing was heard.
    let stale = |mut v: Value, rotation: Option<&str>| {
        v["session"]["accessExpiresAt"] = 0.into();
        v["rotation"] = rotation.into();
        fs::write(kept, v.to_string()).unwrap();
    };
    stale(first.clone(), None);
    push().ends(0);
    let second = read();
    assert_ne!(token(&second), token(&first));
    assert!(second["rotation"].is_null());
    let rotation = "5".repeat(64);
    stale(second.clone(), Some(&rotation));
    push().ends(0);
    let third = read();
    stale(second, Some(&rotation));
    push().ends(0);
    assert_eq!(token(&read()), token(&third), "the same rotation is the same session");
    // The refresh token is used up: the login is over, and says so.
    stale(first, None);
    let over = push().ends(4);
    assert!(over.stderr.contains("log in"), "{}", over.stderr);
    assert!(read()["session"].is_null());
    push().ends(2);
    for secret in [&third, &read()] {
        let text = secret["session"]["refreshToken"].as_str().unwrap_or("none");
        assert!(!over.stderr.contains(text));
    }
}
