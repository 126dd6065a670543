//! The windows, on a server whose clock the test moves.

use std::sync::Arc;

use serde_json::{Value, json};
use sync_server::ingest::{Ask, IngestOptions, Limiter, LimiterDown};
use sync_server::{Server, ingest, standalone};
use tempfile::TempDir;

use super::aexy_world::{BATCH, at, detail, enrol, id, status};
use crate::http::{Client, Reply, TestEnvironment, open};

/// The library behind a socket; users come in by their names.
pub(super) struct Served {
    pub(super) environment: Arc<TestEnvironment>,
    url: String,
    server: Option<Server>,
    pub(super) dir: TempDir,
}

impl Served {
    pub(super) fn new(change: impl FnOnce(&mut IngestOptions)) -> Self {
        let (dir, environment) = (TempDir::new().unwrap(), TestEnvironment::new());
        let mut served = Self { environment, url: String::new(), server: None, dir };
        served.start(change);
        served
    }

    /// Ends the server.
    pub(super) fn stop(&mut self) {
        self.server = None;
    }

    pub(super) fn start(&mut self, change: impl FnOnce(&mut IngestOptions)) {
        let service = open(self.dir.path(), sync_server::limits::Limits::default(), &self.environment);
        let mut options = IngestOptions { dev: true, ..IngestOptions::new("http://127.0.0.1") };
        change(&mut options);
        let router = ingest::aexy(service, self.dir.path(), options).unwrap();
        let server = Server::start("127.0.0.1:0", standalone(router)).unwrap();
        self.url = format!("http://{}", server.addr());
        self.server = Some(server);
    }

    pub(super) fn client(&self, user: &str) -> Client {
        Client::new(self.url.clone(), user, "unused")
    }

    /// A project that ada takes part in.
    pub(super) fn project(&self, slug: &str) -> String {
        let run = |args: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sync-server"));
            let output = command.arg("projects").args(args).arg("--data").arg(self.dir.path()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let project = run(&["create", "--name", slug, "--slug", slug]);
        run(&["member", "--project", &project, "--user", "ada"]);
        project
    }

    pub(super) fn batch(&self, device: &str, events: &[u64]) -> Value {
        let now = sync_server::service::Environment::now_ms(&*self.environment) / 1000;
        let events: Vec<Value> = events
            .iter()
            .map(|n| {
                json!({ "event_id": id(*n), "client_seq": n, "ts": at(now), "interval_s": 60,
                    "active_app": { "name": "n", "bundle_id": "b" } })
            })
            .collect();
        json!({ "schema_version": "1.0", "device_id": device, "sent_at": at(now), "events": events })
    }

    pub(super) fn send(&self, device: &str, events: &[u64]) -> Reply {
        self.client("ada").post(BATCH, &self.batch(device, events).to_string())
    }
}

fn retry_after(reply: &Reply) -> u64 {
    assert_eq!(detail(reply, 429), "Too many requests");
    reply.header("retry-after").unwrap().parse().unwrap()
}

#[test]
fn ax_20_thirty_batches_of_a_device_in_a_minute() {
    let s = Served::new(|_| {});
    let p = s.project("p");
    enrol(&s.client("ada"), "one", &p);
    enrol(&s.client("ada"), "two", &p);
    for n in 0..30 {
        assert_eq!(s.send("one", &[n]).status, 200);
        s.environment.pass(1000);
    }
    for _ in 0..100 {
        assert_eq!(retry_after(&s.send("one", &[99])), 30);
    }
    assert_eq!(s.send("two", &[1]).status, 200, "another device");
    assert_eq!(s.client("ada").get(&status("one")).status, 200, "another request");
    s.environment.pass(29_999);
    assert_eq!(retry_after(&s.send("one", &[99])), 1);
    s.environment.pass(1);
    assert_eq!(s.send("one", &[99]).status, 200);
    assert_eq!(retry_after(&s.send("one", &[100])), 1);
    s.environment.pass(60_000);
    assert_eq!(s.send("one", &[100]).status, 200);
    // What is refused before is not counted.
    s.environment.pass(60_000);
    for _ in 0..40 {
        let mut bad = s.batch("one", &[1]);
        bad["schema_version"] = "2.0".into();
        assert_eq!(s.client("ada").post(BATCH, &bad.to_string()).status, 409);
    }
    assert_eq!(s.send("one", &[1]).status, 200);
}

#[test]
fn ax_21_a_projects_batches_and_events_in_a_minute() {
    let s = Served::new(|_| {});
    let (p, q) = (s.project("p"), s.project("q"));
    let devices: Vec<String> = (0..22).map(|n| format!("device {n}")).collect();
    for device in &devices {
        assert_eq!(enrol(&s.client("ada"), device, &p).status, 201);
    }
    let replies = |events: &dyn Fn(u64) -> Vec<u64>| {
        let mut statuses = Vec::new();
        for n in 0..29 {
            for device in &devices[..21] {
                statuses.push(s.send(device, &events(n)).status);
            }
        }
        statuses
    };
    let statuses = replies(&|_| Vec::new());
    assert!(statuses[..600].iter().all(|s| *s == 200) && statuses[600..].iter().all(|s| *s == 429), "{statuses:?}");
    enrol(&s.client("ada"), "elsewhere", &q);
    assert_eq!(s.send("elsewhere", &[1]).status, 200);
    // The project refused, so the device was not charged: it has all its thirty in another project.
    enrol(&s.client("ada"), &devices[21], &p);
    assert_eq!(s.send(&devices[21], &[]).status, 429);
    enrol(&s.client("ada"), &devices[21], &q);
    for _ in 0..30 {
        assert_eq!(s.send(&devices[21], &[]).status, 200);
    }
    assert_eq!(s.send(&devices[21], &[]).status, 429);
    s.environment.pass(60_000);
    // The same 500 events from each of four devices, and never one more than fits.
    let events: Vec<u64> = (0..500).collect();
    for device in &devices[..4] {
        for _ in 0..25 {
            assert_eq!(s.send(device, &events).status, 200);
        }
    }
    assert_eq!(retry_after(&s.send(&devices[5], &[1])), 60);
    assert_eq!(s.send(&devices[5], &[]).status, 200, "nothing fits still");
}

#[derive(Debug)]
struct Down;

impl Limiter for Down {
    fn admit(&self, _: &[Ask<'_>], _: i64) -> Result<Result<(), i64>, LimiterDown> {
        Err(LimiterDown)
    }
}

#[test]
fn ax_22_windows_that_cannot_be_asked_let_everything_in() {
    let s = Served::new(|options| options.limiter = Arc::new(Down));
    let p = s.project("p");
    enrol(&s.client("ada"), "one", &p);
    for n in 0..40 {
        assert_eq!(s.send("one", &[n]).status, 200);
    }
}
