//! Files that belong to events.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::aexy_limits::Served;
use super::aexy_world::{D, Tracker, detail, enrol, presign};
use super::world::contains;
use crate::http::{Client, Reply};

/// Ten bytes, and their SHA-256.
const BYTES: &[u8] = b"0123456789";
const SHA256: &str = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";

fn wanted(event: &str) -> Value {
    json!({ "event_id": event, "content_type": "image/webp", "byte_size": BYTES.len(), "sha256": SHA256 })
}

/// The files that are kept.
fn kept(dir: &std::path::Path) -> Vec<PathBuf> {
    let Ok(shelves) = std::fs::read_dir(dir) else { return Vec::new() };
    shelves.flat_map(|s| std::fs::read_dir(s.unwrap().path()).unwrap()).map(|f| f.unwrap().path()).collect()
}

#[test]
fn ax_23_where_a_file_may_be_put_in_the_order_of_the_refusals() {
    let mut t = Tracker::enrolled();
    let ask = |t: &Tracker, device: &str, body: &Value| t.ada.post(&presign(device), &body.to_string());
    let bad = json!({ "event_id": "" });
    assert_eq!(detail(&ask(&t, "unknown", &bad), 404), "Device not enrolled");
    assert_eq!(detail(&ask(&t, D, &bad), 403), "Screenshots are switched off for this project");
    t.project("config", &t.p, &["--set", "screenshot_policy=\"active_window\""]);
    let reply = ask(&t, D, &wanted("e"));
    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = reply.json();
    assert_eq!((&reply["evidence_ref"], &reply["expires_in_s"]), (&format!("ev_{}_{D}_e", t.p).into(), &300.into()));
    assert!(reply["upload_url"].as_str().unwrap().starts_with(&t.world.url), "{reply}");
    let token = t.ada.headers[0].1.trim_start_matches("Bearer ").to_owned();
    t.world.start(&["--secret-file", "secret", "--evidence", "none"], None);
    t.ada = t.world.client(&token);
    assert_eq!(detail(&ask(&t, D, &bad), 503), "Evidence storage is not configured");
    assert_eq!(detail(&ask(&t, "unknown", &bad), 404), "Device not enrolled");
    assert_eq!(t.ada.send("PUT", "/_blobs/x?o=1", BYTES).status, 404);
    t.project("config", &t.p, &["--set", "screenshot_policy=\"off\""]);
    assert_eq!(ask(&t, D, &bad).status, 403);
}

#[test]
fn ax_25_what_a_file_is_announced_as() {
    let t = Tracker::enrolled();
    t.project("config", &t.p, &["--set", "screenshot_policy=\"full_screen\""]);
    for (name, wrong) in [
        ("event_id", json!("")),
        ("event_id", json!("e".repeat(37))),
        ("byte_size", json!(0)),
        ("byte_size", json!(-1)),
        ("byte_size", json!(1.5)),
        ("byte_size", json!(33 << 20)),
        ("sha256", json!(&SHA256[1..])),
        ("sha256", json!("g".repeat(64))),
        ("content_type", json!("t".repeat(65))),
        ("content_type", Value::Null),
    ] {
        let mut body = wanted("e");
        body[name] = wrong;
        let reply = t.ada.post(&presign(D), &body.to_string());
        assert_eq!(detail(&reply, 422), format!("Invalid request at /{name}"));
    }
    assert_eq!(t.ada.post(&presign(D), "{").status, 422);
    let elsewhere = ["serve", "--data", "d", "--ingest", "aexy", "--evidence", "s3:https://example.org/bucket"];
    assert_eq!(t.world.run(&elsewhere).status.code(), Some(2), "not taken for a directory");
}

/// A server whose clock the test moves, and an address on it.
struct Signed {
    s: Served,
    dir: tempfile::TempDir,
    nobody: Client,
}

impl Signed {
    fn new() -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let s = Served::new(|options| {
            options.evidence = Some(dir.path().to_owned());
            options.public_url = String::new();
        });
        let p = s.project("p");
        enrol(&s.client("ada"), "mac/../1", &p);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sync-server"));
        command.args(["projects", "config", "--project", &p, "--set", "screenshot_policy=\"full_screen\"", "--data"]);
        assert!(command.arg(s.dir.path()).output().unwrap().status.success());
        let nobody = s.client("x").header("authorization", "");
        Self { s, dir, nobody }
    }

    fn ask(&self, event: &str) -> Reply {
        self.s.client("ada").post(&presign("mac%2F..%2F1"), &wanted(event).to_string())
    }

    fn address(&self, event: &str) -> String {
        self.ask(event).json()["upload_url"].as_str().unwrap().to_owned()
    }

    fn put(&self, to: &str, bytes: &[u8]) -> u16 {
        self.nobody.send("PUT", to, bytes).status
    }
}

#[test]
fn ax_24_only_the_file_that_was_announced_and_in_time() {
    let s = Signed::new();
    let to = s.address("../../e%");
    assert_eq!(s.put(&to, b"012345678x"), 400);
    assert_eq!(s.put(&to, &BYTES[1..]), 400);
    assert_eq!(s.put(&to, b"01234567890"), 413);
    assert_eq!(s.nobody.header("content-type", "text/html").send("PUT", &to, BYTES).status, 400);
    assert_eq!(s.nobody.header("content-encoding", "gzip").send("PUT", &to, BYTES).status, 415);
    assert_eq!(kept(s.dir.path()).len(), 0);
    for _ in 0..2 {
        assert_eq!(s.nobody.header("content-type", "image/webp").send("PUT", &to, BYTES).status, 200);
    }
    let files = kept(s.dir.path());
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(std::fs::read(&files[0]).unwrap(), BYTES);
    for (from, changed) in
        [("n=10", "n=11"), ("&t=image", "&t=amage"), ("&h=8", "&h=9"), ("?o=", "?o=0"), ("&e=1", "&e=2")]
    {
        assert!(to.contains(from), "{to}");
        let reply = s.nobody.send("PUT", &to.replacen(from, changed, 1), BYTES);
        assert_eq!(detail(&reply, 403), "The address is not valid, or no longer");
    }
    let other = to.replacen("/_blobs/ev_", "/_blobs/ev_x", 1);
    for wrong in [other.as_str(), "/_blobs/x", "/_blobs/x?o=..%2F..%2Fx&e=9&n=10&t=t&h=h&s=", &to[..to.len() - 2]] {
        assert_eq!(s.put(wrong, BYTES), 403, "{wrong}");
    }
    assert_eq!(s.nobody.get(&to).status, 405);
    s.s.environment.pass(300_000);
    assert_eq!(s.put(&to, BYTES), 200);
    s.s.environment.pass(1_000);
    assert_eq!(s.put(&to, BYTES), 403);
    assert_ne!(s.address("e"), to);
    assert_eq!(s.put(&s.address("e"), BYTES), 200);
    assert_eq!(kept(s.dir.path()).len(), 2, "each event has its own");
}

#[test]
fn ax_23_sixty_addresses_in_a_minute() {
    let s = Signed::new();
    for n in 0..60 {
        assert_eq!(s.ask(&n.to_string()).status, 200);
        // What is refused is not counted.
        assert_eq!(s.s.client("ada").post(&presign("mac%2F..%2F1"), "{}").status, 422);
    }
    let full = s.ask("60");
    assert_eq!((full.status, full.header("retry-after")), (429, Some("60")));
    assert!(!contains(&full.body, SHA256));
    s.s.environment.pass(60_000);
    assert_eq!(s.ask("60").status, 200);
}
