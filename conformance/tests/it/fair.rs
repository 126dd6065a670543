//! What a backend may do, and what was once taken for a fault of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sync_conformance::checks;
use sync_conformance::run::{self, Finding, Verdict};
use sync_conformance::subject::Subject;
use sync_server::limits::Limits;

use crate::proxy::{Break, Memory, Reply, Request, proxy};
use crate::server::{Ours, profile, subject};
use crate::variants::edits::{CHUNK, COMMIT, error, set};

/// A backend that differs in its replies.
struct Other(fn(&Request, &mut Reply));

impl Break for Other {
    fn request(&self, _: &mut Request, _: &Memory, _: SocketAddr) -> Option<Reply> {
        None
    }

    fn reply(&self, request: &Request, reply: &mut Reply, _: &Memory) {
        (self.0)(request, reply);
    }

    fn line(&self, line: String) -> Option<String> {
        Some(line)
    }
}

fn judged(subject: &Subject, id: &str) -> Finding {
    let check = checks::all().into_iter().find(|c| c.id == id).unwrap();
    run::one(subject, &check)
}

fn passes(differs: fn(&Request, &mut Reply), ids: &[&str]) {
    let ours = Ours::start();
    let subject = subject(&proxy(ours.server.addr(), Arc::new(Other(differs))), "fair");
    for id in ids {
        let finding = judged(&subject, id);
        assert!(matches!(finding.verdict, Verdict::Pass), "{id}: {:?}", finding.verdict);
    }
}

/// The one who seeds hears of its lease to the microsecond, others to the millisecond.
#[test]
fn a_lease_may_be_told_in_milliseconds() {
    let finer = |q: &Request, r: &mut Reply| {
        if q.is("POST", "/sync/connect") && r.value().is_some_and(|v| v["resolution"] == "initialize_local") {
            set(r, "/lease_expires_at", |v| {
                let told = v.as_str().unwrap_or_default().trim_end_matches('Z');
                let (whole, fraction) = told.split_once('.').unwrap_or((told, ""));
                json!(format!("{whole}.{fraction:0<3}900Z"))
            });
        }
    };
    passes(finer, &["connect.other.with_rows", "connect.other.without_rows", "connect.again"]);
}

/// As `push.rejected` says, it is a weakness; it is no fault in taking a request.
#[test]
fn a_500_for_a_value_is_no_fault_for_a_damaged_request() {
    let worse = |q: &Request, r: &mut Reply| {
        let readable = q.is("POST", CHUNK) && serde_json::from_slice::<Value>(&q.body).is_ok();
        if r.status == 422 && q.is("POST", COMMIT) || r.status == 400 && readable {
            *r = error(500, "push_session_commit_failed");
        }
    };
    passes(worse, &["property.hostile"]);
}

/// Sessions of a second, and pushes that take longer: nothing can be said.
#[test]
fn a_snapshot_that_expired_meanwhile_is_nobodys_fault() {
    let ours = Ours::with(Limits { snapshot_session_ttl_ms: 1000, ..Limits::default() });
    let mut profile = profile();
    profile.requests_per_second = 60;
    let subject = Subject::open(&ours.url(), profile, "expired", Duration::from_secs(5)).unwrap();
    let finding = judged(&subject, "retention.state");
    assert!(
        matches!(&finding.verdict, Verdict::Inconclusive(why) if why.contains("took longer")),
        "{:?}",
        finding.verdict
    );
}

/// What is to meet goes out without the profile's bound.
#[test]
fn races_are_run_without_the_bound() {
    let ours = Ours::start();
    let mut profile = profile();
    profile.requests_per_second = 100;
    let subject = Subject::open(&ours.url(), profile, "bound", Duration::from_secs(5)).unwrap();
    for (id, at_once) in [
        ("connect.race", 2),
        ("push.create.race", 4),
        ("push.commit.race", 3),
        ("push.commit.one_row_race", 2),
        ("push.commit.many_sources", 48),
        ("replacement.race", 2),
        ("pull.concurrent", 36),
    ] {
        let before = subject.turns();
        let finding = judged(&subject, id);
        let free = finding.exchanges.len() + before - subject.turns();
        assert!(matches!(finding.verdict, Verdict::Pass), "{id}: {:?}", finding.verdict);
        assert!(free >= at_once, "{id}: {free} of {} requests went out without a bound", finding.exchanges.len());
    }
}
