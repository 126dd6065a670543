//! Broken backends: each breaks one behaviour of our server, and a check of that area notices.

mod commit;
mod content;
pub(crate) mod edits;
mod push;
mod reads;
mod surface;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sync_conformance::run::{self, Options, Verdict};

use crate::proxy::{Break, Memory, Nothing, Reply, Request, ask, proxy};
use crate::server::{Ours, subject};

pub(crate) type OnRequest = fn(&mut Request, &Memory, SocketAddr) -> Option<Reply>;
pub(crate) type OnReply = fn(&Request, &mut Reply, &Memory);
type OnLine = fn(String) -> Option<String>;

/// One broken behaviour.
#[derive(Clone, Copy)]
pub(crate) struct Variant {
    name: &'static str,
    /// The only checks that are run.
    area: &'static str,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    Request(OnRequest),
    Reply(OnReply),
    Line(OnLine),
}

impl Break for Variant {
    fn request(&self, request: &mut Request, memory: &Memory, server: SocketAddr) -> Option<Reply> {
        if let How::Request(f) = self.how { f(request, memory, server) } else { None }
    }

    fn reply(&self, request: &Request, reply: &mut Reply, memory: &Memory) {
        if let How::Reply(f) = self.how {
            f(request, reply, memory);
        }
    }

    fn line(&self, line: String) -> Option<String> {
        if let How::Line(f) = self.how { f(line) } else { Some(line) }
    }
}

#[test]
fn every_broken_variant_is_caught_by_its_area() {
    let ours = Ours::start();
    let all = variants();
    let next = AtomicUsize::new(0);
    let missed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(v) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = caught(v, ours.server.addr()) {
                        missed.lock().unwrap().push(format!("{}: {why}", v.name));
                    }
                }
            });
        }
    });
    assert!(all.len() >= 40);
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "nobody noticed:\n{}", missed.join("\n"));
}

fn caught(v: &Variant, server: SocketAddr) -> Result<(), String> {
    let url = proxy(server, Arc::new(*v));
    let subject = subject(&url, v.name);
    let options = Options { filter: vec![v.area.to_owned()], ..Options::default() };
    let mut checks = options.choose();
    assert!(!checks.is_empty(), "{} is no area", v.area);
    checks.sort_by_key(|c| c.slow);
    for check in &checks {
        if let Verdict::Fail { .. } = run::one(&subject, check).verdict {
            return Ok(());
        }
    }
    Err(format!("{} checks of {} passed", checks.len(), v.area))
}

/// What a property finds is shrunk to a few requests that show it.
#[test]
fn a_failing_property_is_shrunk() {
    let ours = Ours::start();
    let lost = request("shrink", "property", |q, _, _| {
        edits::each_row(q, |row| {
            if row["op"] == "DELETE" {
                row["key"] = json!({"id": "k0"});
            }
        });
        None
    });
    let subject = subject(&proxy(ours.server.addr(), Arc::new(lost)), "shrink");
    let check = sync_conformance::checks::all().into_iter().find(|c| c.id == "property.sources").unwrap();
    let finding = run::one(&subject, &check);
    assert!(matches!(finding.verdict, Verdict::Fail { .. }), "{:?}", finding.verdict);
    // Connect, one push of a row, one push of its deletion, and a look at what came of it.
    assert!(finding.exchanges.len() <= 14, "{} requests", finding.exchanges.len());
}

/// The proxy itself breaks nothing.
#[test]
fn the_proxy_alone_passes() {
    let ours = Ours::start();
    let url = proxy(ours.server.addr(), Arc::new(Nothing));
    let subject = subject(&url, "control");
    let findings = run::run(&subject, &Options { quick: true, ..Options::default() }, &|_| {});
    let failed: Vec<_> = findings
        .iter()
        .filter_map(|f| match &f.verdict {
            Verdict::Fail { expected, got } => Some(format!("{}: {expected}: {got}", f.check.id)),
            Verdict::Inconclusive(why) => Some(format!("{}: {why}", f.check.id)),
            _ => None,
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

pub(crate) const fn request(name: &'static str, area: &'static str, f: OnRequest) -> Variant {
    Variant { name, area, how: How::Request(f) }
}

pub(crate) const fn reply(name: &'static str, area: &'static str, f: OnReply) -> Variant {
    Variant { name, area, how: How::Reply(f) }
}

const fn line(name: &'static str, area: &'static str, f: OnLine) -> Variant {
    Variant { name, area, how: How::Line(f) }
}

fn variants() -> Vec<Variant> {
    let mut all = push::connect();
    all.extend(push::push());
    all.extend(commit::commit());
    all.extend(reads::rows());
    all.extend(reads::pull());
    all.extend(reads::snapshot());
    all.extend(reads::digest());
    all.extend(surface::surface());
    all.extend(content::content());
    all.extend(content::property());
    all.extend(content::replica());
    all
}
