//! A load: within its bounds, passing on our server, and telling what a broken one does.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sync_conformance::load::{self, Outcome, Plan};
use sync_conformance::report::Heading;
use sync_conformance::subject::Subject;

use crate::proxy::{Break, Memory, Reply, Request, proxy};
use crate::server::{Ours, PROFILE, profile, subject};
use crate::variants::edits::{COMMIT, PAGE, add, committed, error, owner, set};
use crate::variants::{Variant, reply, request};

fn plan(requests: u64) -> Plan {
    Plan {
        users: 3,
        devices: 2,
        rows: 4,
        bytes: 40,
        mix: "push=5,pull=3,snapshot=2".parse().unwrap(),
        time: Duration::from_secs(300),
        requests,
    }
}

fn report(subject: &Subject, outcome: &Outcome) -> (String, Value) {
    let heading = Heading {
        backend: "sync-server".to_owned(),
        url: subject.base.clone(),
        at: String::new(),
        seconds: 0.0,
        users: subject.users(),
    };
    let json = load::json(&heading, outcome);
    (load::text(&heading, outcome), serde_json::from_str(&json).unwrap())
}

/// Counts what passes.
struct Counter(AtomicU64);

impl Break for Counter {
    fn request(&self, _: &mut Request, _: &Memory, _: SocketAddr) -> Option<Reply> {
        self.0.fetch_add(1, Ordering::SeqCst);
        None
    }
}

#[test]
fn a_load_passes_and_sends_exactly_so_many_requests() {
    let ours = Ours::start();
    let counter = Arc::new(Counter(AtomicU64::new(0)));
    let url = proxy(ours.server.addr(), Arc::clone(&counter) as Arc<dyn Break>);
    for (n, requests) in [1, 250].into_iter().enumerate() {
        let subject = subject(&url, &format!("exact-{n}"));
        let before = counter.0.load(Ordering::SeqCst);
        let outcome = load::run(&subject, &plan(requests)).unwrap();
        let (text, json) = report(&subject, &outcome);
        assert_eq!(outcome.status(), 0, "{text}");
        assert_eq!(outcome.requests(), requests, "{text}");
        assert_eq!(counter.0.load(Ordering::SeqCst) - before, requests + outcome.settling(), "{text}");
        assert!(outcome.settling() <= 60, "{text}");
        let answered: u64 = json["latencies"].as_array().unwrap().iter().map(|l| l["count"].as_u64().unwrap()).sum();
        let refused: u64 = json["errors"].as_array().unwrap().iter().map(|e| e["count"].as_u64().unwrap()).sum();
        assert_eq!(answered + refused, requests, "every request is measured or counted: {text}");
        assert_eq!(json["users"].as_array().unwrap().len(), 4, "three, and one for the capabilities");
        if requests > 100 {
            let [pushed, pulled] = ["bundles_pushed", "bundles_pulled"].map(|n| json[n].as_u64().unwrap());
            assert!(pushed > 20 && pulled >= pushed, "{text}");
            assert_eq!(json["rows_pushed"], pushed * 4);
            for l in json["latencies"].as_array().unwrap() {
                let ms = ["p50_ms", "p90_ms", "p99_ms", "max_ms"].map(|p| l[p].as_f64().unwrap());
                assert!(ms[0] > 0.0 && ms.is_sorted(), "{l}");
            }
            assert!(text.contains("nothing violated"), "{text}");
        }
    }
}

#[test]
fn time_bounds_it_too() {
    let ours = Ours::start();
    let subject = subject(&ours.url(), "time");
    let outcome = load::run(&subject, &Plan { time: Duration::from_millis(300), ..plan(u64::MAX) }).unwrap();
    assert_eq!(outcome.status(), 0, "{}", report(&subject, &outcome).0);
    assert!(outcome.requests() > 0);
}

/// A bound on requests per second is kept, and the report says what it cost.
#[test]
fn what_is_held_back_is_told() {
    let ours = Ours::start();
    let mut profile = profile();
    profile.requests_per_second = 100;
    let subject = Subject::open(&ours.url(), profile, "held", Duration::ZERO).unwrap();
    let outcome = load::run(&subject, &plan(40)).unwrap();
    let (text, json) = report(&subject, &outcome);
    assert_eq!(outcome.status(), 0, "{text}");
    assert!(text.contains("held to 100 requests/s"), "{text}");
    assert_eq!(json["plan"]["requests_per_second"], 100);
    assert!(json["waiting_for_turns"].as_f64().unwrap() > 0.0, "{json}");
}

/// What is put off is asked for again, and counted; it violates nothing.
#[test]
fn a_backend_that_puts_off_is_waited_for() {
    let put_off = |q: &mut Request, m: &Memory, _: SocketAddr| {
        let n = m.next();
        let (status, code) = if n.is_multiple_of(2) { (429, "rate_limited") } else { (503, "storage_unavailable") };
        (n % 40 > 37 && q.path != "/sync/capabilities").then(|| {
            let mut reply = error(status, code);
            reply.headers.push(("retry-after".to_owned(), "0".to_owned()));
            reply
        })
    };
    let ours = Ours::start();
    let url = proxy(ours.server.addr(), Arc::new(request("put-off", "load", put_off)));
    let subject = subject(&url, "put-off");
    let outcome = load::run(&subject, &plan(200)).unwrap();
    let (text, json) = report(&subject, &outcome);
    assert_eq!((outcome.status(), outcome.requests()), (0, 200), "{text}");
    assert!(json["put_off"]["count"].as_u64().unwrap() >= 8, "{text}");
    let codes: Vec<&Value> = json["errors"].as_array().unwrap().iter().map(|e| &e["code"]).collect();
    assert!(codes.contains(&&json!("rate_limited")) && codes.contains(&&json!("storage_unavailable")), "{text}");
}

/// A reply that is lost on its way leaves nothing in doubt for long.
#[test]
fn lost_replies_are_no_violation() {
    let lose = |q: &Request, r: &mut Reply, m: &Memory| {
        if q.is("POST", COMMIT) && m.next() % 4 == 1 {
            *r = Reply { status: 504, ..Reply::default() };
        }
    };
    let ours = Ours::start();
    let url = proxy(ours.server.addr(), Arc::new(reply("lost", "load", lose)));
    let subject = subject(&url, "lost");
    let outcome = load::run(&subject, &plan(200)).unwrap();
    let (text, json) = report(&subject, &outcome);
    assert_eq!(outcome.status(), 0, "{text}");
    assert_eq!(json["errors"].as_array().unwrap().iter().filter(|e| e["status"] == 504).count(), 1, "{text}");
}

#[test]
fn what_a_broken_backend_does_is_told() {
    let variants: Vec<(&str, Variant, &[&str])> = vec![
        (
            "a-gap",
            reply("a-gap", "load", |q, r, m| {
                if q.is("GET", "/sync/pull") && m.next() > 2 {
                    r.edit(|v| {
                        if let Some(b) = v["bundles"].as_array_mut().filter(|b| b.len() > 1) {
                            b.remove(0);
                        }
                    });
                }
            }),
            &["without a gap"],
        ),
        (
            "a-wrong-hash",
            reply("a-wrong-hash", "load", |q, r, _| {
                if q.is("GET", "/sync/pull") {
                    set(r, "/bundles/0/bundle_hash", |_| json!("0".repeat(64)));
                }
            }),
            &["bundle_hash is the blake3 hash"],
        ),
        (
            "a-row-of-another-version",
            reply("a-row-of-another-version", "load", |q, r, _| {
                if q.is("GET", "/sync/pull") {
                    add(r, "/bundles/0/rows/0/row_version", -1);
                }
            }),
            &["row_version of a bundle's row is its bundle_seq"],
        ),
        (
            "conflicts-are-committed",
            reply("conflicts-are-committed", "load", |q, r, _| {
                if q.is("POST", COMMIT) && r.code() == "push_conflict" {
                    *r = committed();
                }
            }),
            &["a commit's reply has the tuple of its session"],
        ),
        (
            "conflicts-that-are-none",
            reply("conflicts-that-are-none", "load", |q, r, _| {
                if q.is("POST", COMMIT) && r.code() == "push_conflict" {
                    let base = r.value().map(|v| v["conflict"]["base_row_version"].clone()).unwrap_or_default();
                    set(r, "/conflict/server_row_version", |_| base.clone());
                    set(r, "/conflicts/0/server_row_version", |_| base);
                }
            }),
            &["what a conflict shows is a conflict"],
        ),
        (
            "a-tuple-is-found-elsewhere",
            reply("a-tuple-is-found-elsewhere", "load", |q, r, _| {
                if q.is("POST", "/sync/push-sessions") {
                    add(r, "/bundle_seq", 1);
                }
            }),
            &["already_committed repeats what the commit said"],
        ),
        (
            "pulls-of-somebody-else",
            request("pulls-of-somebody-else", "load", |q, m, _| {
                if q.is("GET", "/sync/pull") {
                    m.put("somebody", q.header("authorization"));
                    let token = m.get("somebody").unwrap();
                    q.set_header("authorization", &token);
                }
                None
            }),
            &[
                "a user gets its own rows and nobody else's",
                "GET /sync/pull answers 200",
                "each push is committed once",
                "a push is not served before",
                "a bundle is a push",
                "a pulled bundle has the head",
                "a bundle has the rows",
                "a bundle has one hash",
                "each bundle is one push",
            ],
        ),
        (
            "snapshots-of-the-first-user",
            request("snapshots-of-the-first-user", "load", |q, m, server| {
                if q.is("POST", "/sync/snapshot-sessions") {
                    m.put("first", q.header("authorization"));
                    let token = m.get("first").unwrap();
                    q.set_header("authorization", &token);
                }
                if q.is("POST", "/sync/snapshot-sessions") || q.is("GET", PAGE) || q.is("DELETE", PAGE) {
                    return owner(q, m, server);
                }
                None
            }),
            // The last where both users stand at the same bundle, and the first one's rows are fewer than its own.
            &[
                "a user gets its own rows and nobody else's",
                "a snapshot stands at the newest bundle",
                "a snapshot is what history made of the rows",
            ],
        ),
        (
            "a-snapshot-without-its-last-row",
            reply("a-snapshot-without-its-last-row", "load", |q, r, _| {
                if q.is("POST", "/sync/snapshot-sessions") {
                    add(r, "/row_count", -1);
                    r.edit(|v| drop(v.as_object_mut().map(|v| v.remove("tables"))));
                } else if q.is("GET", PAGE) {
                    add(r, "/next_row_ordinal", -1);
                    r.edit(|v| drop(v["rows"].as_array_mut().map(Vec::pop)));
                }
            }),
            &[
                "a snapshot is what history made of the rows",
                "a snapshot holds the rows",
                "a snapshot's numbers",
                "byte_count is positive",
                "next_row_ordinal",
            ],
        ),
        (
            "a-fault",
            reply("a-fault", "load", |q, r, m| {
                if q.is("GET", "/sync/pull") && m.next() > 3 {
                    *r = error(500, "pull_failed");
                }
            }),
            &["GET /sync/pull answers 200"],
        ),
    ];
    let ours = Ours::start();
    for (name, variant, expected) in variants {
        let subject = subject(&proxy(ours.server.addr(), Arc::new(variant)), name);
        // Many edits of each other's rows: some variants break conflicts only.
        let outcome = load::run(&subject, &Plan { users: 2, devices: 3, rows: 8, ..plan(300) }).unwrap();
        let (text, json) = report(&subject, &outcome);
        assert_eq!(outcome.status(), 1, "{name}: {text}");
        for v in &outcome.violations {
            assert!(expected.iter().any(|e| v.expected.contains(e)), "{name}: {} ({})", v.expected, v.got);
            assert!(!v.exchanges.is_empty() && v.exchanges.len() < 60, "{name}: {}", v.exchanges.len());
        }
        assert!(text.contains("VIOLATED") && text.contains("curl -sS"), "{text}");
        assert!(!json["violations"].as_array().unwrap().is_empty());
    }
}

/// The program: its exit status, its report, what it says where it cannot run.
#[test]
fn the_program_ends_with_what_it_found() {
    let ours = Ours::start();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("profile.toml");
    let profile = PROFILE.replace("kind = \"jwt\"\nsecret_env = \"CONFORMANCE_SECRET\"", "kind = \"user\"");
    std::fs::write(&file, profile).unwrap();
    let out = dir.path().join("load.json");
    let broken = reply("broken", "load", |q, r, _| {
        if q.is("POST", COMMIT) {
            add(r, "/row_count", 1);
        }
    });
    let nobody = "http://127.0.0.1:9".to_owned();
    for (url, more, status, says) in [
        (ours.url(), &["--seed", "7"][..], 0, "nothing violated"),
        (proxy(ours.server.addr(), Arc::new(broken)), &[], 1, "VIOLATED a commit has the rows that were pushed"),
        (nobody, &[], 2, "capabilities"),
        (ours.url(), &["--devices", "600"], 2, "users times devices must be 1 to 1000"),
        (ours.url(), &["--mix", "push=0"], 2, "all weights are 0"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sync-conformance"))
            .args(["load", "--url", &url, "--users", "2", "--requests", "80", "--seconds", "300"])
            .args(["--requests-per-second", "0", "--profile"])
            .arg(&file)
            .arg("--json")
            .arg(&out)
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(says), "{said}");
        if status == 0 {
            let json: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
            assert_eq!((&json["requests"], &json["plan"]["seed"]), (&json!(80), &json!(7)));
        }
    }
}
