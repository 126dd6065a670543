//! Developers, projects and events in the words of Aexy's contract.

use serde_json::{Value, json};

use super::world::World;
use crate::http::{Client, Reply};

pub(super) const D: &str = "22222222-2222-2222-2222-222222222222";
pub(super) const BATCH: &str = "/api/v1/tracker/events:batch";
pub(super) const ENROL: &str = "/api/v1/tracker/devices:enroll";
pub(super) const PROJECTS: &str = "/api/v1/tracker/projects";
pub(super) const TOKENS: &str = "/api/v1/developers/me/api-tokens";

pub(super) fn heartbeat(device: &str) -> String {
    format!("/api/v1/tracker/devices:heartbeat?device_id={device}")
}

pub(super) fn status(device: &str) -> String {
    format!("/api/v1/tracker/sync/status?device_id={device}")
}

pub(super) fn presign(device: &str) -> String {
    format!("/api/v1/tracker/evidence:presign?device_id={device}")
}

/// Ada is in P, Q and R, of which R takes no records; bob is in B; nobody is in X.
pub(super) struct Tracker {
    pub(super) world: World,
    pub(super) ada: Client,
    pub(super) bob: Client,
    pub(super) p: String,
    pub(super) q: String,
    pub(super) r: String,
    pub(super) x: String,
    pub(super) b: String,
}

impl Tracker {
    pub(super) fn new() -> Self {
        Self::with(&[])
    }

    pub(super) fn with(more: &[&str]) -> Self {
        let world = World::serving("statsai,aexy", &[&["--secret-file", "secret"], more].concat());
        let project = |slug: &str, tracker: &str, user: Option<&str>| {
            let args = ["projects", "create", "--data", "data", "--json", "--name", slug, "--slug", slug];
            let made = world.printed(&[&args[..], &["--tracker", tracker]].concat());
            let id = serde_json::from_str::<Value>(&made).unwrap()["id"].as_str().unwrap().to_owned();
            if let Some(user) = user {
                world.printed(&["projects", "member", "--data", "data", "--project", &id, "--user", user]);
            }
            id
        };
        let [p, q] = ["p", "q"].map(|slug| project(slug, "on", Some("ada")));
        let (r, x, b) = (project("r", "off", Some("ada")), project("x", "on", None), project("b", "on", Some("bob")));
        let developer = |user: &str| {
            let args = ["keys", "create", "--data", "data", "--for", "aexy", "--user", user];
            world.client(world.printed(&args).trim())
        };
        let (ada, bob) = (developer("ada"), developer("bob"));
        Self { world, ada, bob, p, q, r, x, b }
    }

    /// The same with D enrolled into P.
    pub(super) fn enrolled() -> Self {
        let tracker = Self::new();
        assert_eq!(enrol(&tracker.ada, D, &tracker.p).status, 201);
        tracker
    }

    pub(super) fn jwt(&self, user: &str) -> Client {
        self.world.client(self.world.printed(&["token", "--user", user, "--secret-file", "secret"]).trim())
    }

    /// Runs a command of `projects`.
    pub(super) fn project(&self, command: &str, project: &str, more: &[&str]) -> String {
        self.world.printed(&[&["projects", command, "--data", "data", "--project", project], more].concat())
    }

    /// What is stored, as (binding, id, payload).
    pub(super) fn stored(&self) -> Vec<(String, String, String)> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.world.dir.path().join("data/scopes")).unwrap().map(Result::unwrap) {
            if entry.path().extension().is_none_or(|e| e != "db") {
                continue;
            }
            let conn = rusqlite::Connection::open(entry.path()).unwrap();
            let there = "SELECT 1 FROM sqlite_schema WHERE name = '_sync_ingest_sample'";
            if conn.prepare(there).unwrap().exists([]).unwrap() {
                let mut s =
                    conn.prepare("SELECT binding, record_id, payload FROM _sync_ingest_sample ORDER BY seq").unwrap();
                let rows = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
                all.extend(rows.map(Result::unwrap));
            }
        }
        all
    }

    /// How many events are stored.
    pub(super) fn count(&self) -> usize {
        self.stored().len()
    }
}

pub(super) fn enrol(developer: &Client, device: &str, project: &str) -> Reply {
    developer.post(ENROL, &json!({ "device_id": device, "project_id": project, "name": "Mac" }).to_string())
}

/// An instant so many seconds from now.
pub(super) fn instant(seconds: i64) -> String {
    at(jiff::Timestamp::now().as_second() + seconds)
}

pub(super) fn at(second: i64) -> String {
    jiff::Timestamp::from_second(second).unwrap().to_string()
}

pub(super) fn id(n: u64) -> String {
    format!("aaaaaaaa-0000-4000-8000-{n:012x}")
}

/// Event n, a minute ago.
pub(super) fn event(n: u64) -> Value {
    json!({ "event_id": id(n), "client_seq": n, "ts": instant(-60), "interval_s": 60,
        "active_app": { "name": "VS Code", "bundle_id": "com.microsoft.VSCode" } })
}

/// An event with members set.
pub(super) fn with(n: u64, change: &Value) -> Value {
    let mut event = event(n);
    for (name, value) in change.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

pub(super) fn batch(device: &str, events: &[Value]) -> Value {
    json!({ "schema_version": "1.0", "device_id": device, "sent_at": instant(0), "events": events })
}

/// Sends a batch. Each reply has to reconcile (I1).
pub(super) fn send(developer: &Client, batch: &Value) -> Reply {
    let reply = developer.post(BATCH, &batch.to_string());
    if reply.status == 200 {
        let ack = reply.json();
        let count = |name: &str| ack[name].as_u64().unwrap_or_else(|| panic!("{name}: {ack}"));
        let rejected = ack["rejected"].as_array().unwrap().len() as u64;
        let submitted = batch["events"].as_array().unwrap().len() as u64;
        assert_eq!(count("accepted") + count("duplicates") + rejected, submitted, "{ack}");
    }
    reply
}

/// Accepted, duplicates, and the reasons of what was rejected.
pub(super) fn told(reply: &Reply) -> (u64, u64, Vec<String>) {
    assert_eq!(reply.status, 200, "{reply:?}");
    let ack = reply.json();
    let rejected = ack["rejected"].as_array().unwrap();
    let reasons = rejected.iter().map(|r| r["reason"].as_str().unwrap().to_owned()).collect();
    (ack["accepted"].as_u64().unwrap(), ack["duplicates"].as_u64().unwrap(), reasons)
}

/// The text of an error.
#[track_caller]
pub(super) fn detail(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{reply:?}");
    let error = reply.json();
    assert_eq!(error.as_object().unwrap().len(), 1, "{error}");
    error["detail"].as_str().unwrap_or_else(|| panic!("{error}")).to_owned()
}
