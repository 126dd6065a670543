//! One random member of one random reply is changed: the check that reads it notices.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sync_conformance::check::Check;
use sync_conformance::run::{self, Options, Verdict};

use crate::proxy::{Break, Memory, Reply, Request, proxy};
use crate::server::{Ours, subject};

/// What is known to mean nothing to a client, and so is no mutation: texts for people, sizes and
/// times of the server's own, additions whose value is opaque.
const FREE: [&str; 8] = [
    "message",
    "byte_count",
    "scope_id",
    "lease_expires_at",
    "expires_at",
    "retry_after_seconds",
    "initialization_id",
    "statements",
];

/// What a backend may leave out: additions, and a zero that the reference leaves out.
const OPTIONAL: [&str; 9] = [
    "history_hash",
    "request_hash",
    "conflicts",
    "rejections",
    "columns",
    "next_expected_row_ordinal",
    "latest_bundle_seq",
    "bundle_hash_algorithms",
    "app_name",
];

/// Changes one member of the reply whose turn it is.
struct Mutator {
    /// Replies that pass unchanged before.
    left: AtomicI64,
    seed: u64,
    seen: AtomicUsize,
    done: Mutex<Option<String>>,
}

impl Mutator {
    fn new(at: i64, seed: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(at), seed, seen: AtomicUsize::new(0), done: Mutex::default() })
    }
}

impl Break for Mutator {
    fn reply(&self, request: &Request, reply: &mut Reply, _: &Memory) {
        let Some(mut json) = reply.value() else { return };
        self.seen.fetch_add(1, Ordering::SeqCst);
        if self.left.fetch_sub(1, Ordering::SeqCst) != 0 {
            return;
        }
        let mut paths = Vec::new();
        members(&json, String::new(), &mut paths);
        if paths.is_empty() {
            return;
        }
        let mut random = Random(self.seed);
        let path = paths[random.below(paths.len())].clone();
        let before = json.clone();
        let how = mutate(&mut json, &path, &mut random);
        let name = path.rsplit('/').next().unwrap_or_default();
        // Counters are what the server says they are.
        let counter = ["_count", "_bytes", "_min", "_max"].iter().any(|end| name.ends_with(end));
        let counted = how != "removed" && counter && request.path.ends_with("/status");
        if how == "removed" && OPTIONAL.contains(&name) || counted || json == before {
            return;
        }
        reply.body = json.to_string().into_bytes();
        *self.done.lock().unwrap() = Some(format!("{} {}: {path} {how}", request.method, request.path));
    }
}

/// At least 95 of 100 changes are noticed; the rest are listed where it is fewer.
#[test]
fn random_mutations_are_noticed() {
    let ours = Ours::start();
    let runs: usize = std::env::var("MUTATION_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let seed: u64 = std::env::var("MUTATION_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    // What runs several requests at once has no n-th reply.
    let several = |c: &Check| c.id.contains("race") || c.id.contains("concurrent") || c.id.contains("many_sources");
    let checks: Vec<Check> =
        Options { quick: true, ..Options::default() }.choose().into_iter().filter(|c| !several(c)).collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new((0, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= runs {
                        return;
                    }
                    let mut random = Random(seed.wrapping_add(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    let check = &checks[random.below(checks.len())];
                    if let Some((what, noticed)) = one(check, ours.server.addr(), n, &mut random) {
                        let mut found = found.lock().unwrap();
                        found.0 += 1;
                        if !noticed {
                            found.1.push(format!("{}: {what}", check.id));
                        }
                    }
                }
            });
        }
    });
    let (effective, missed) = found.into_inner().unwrap();
    println!("seed {seed}: {effective} mutations, {} not noticed\n{}", missed.len(), missed.join("\n"));
    assert!(effective * 5 >= runs * 2, "too few of {runs} runs mutate anything: {effective}");
    assert!(missed.len() * 20 <= effective, "{} of {effective} not noticed:\n{}", missed.len(), missed.join("\n"));
}

/// Runs a check twice: to count its replies, and with one of them changed. What was changed, and
/// whether the check noticed; nothing where there was nothing to change.
fn one(check: &Check, server: SocketAddr, n: usize, random: &mut Random) -> Option<(String, bool)> {
    let counter = Mutator::new(-1, 0);
    let counted = subject(&proxy(server, Arc::clone(&counter) as Arc<dyn Break>), &format!("count-{n}"));
    // The capabilities are asked for before any check.
    let before = counter.seen.load(Ordering::SeqCst);
    if !matches!(run::one(&counted, check).verdict, Verdict::Pass) {
        return None;
    }
    let replies = counter.seen.load(Ordering::SeqCst) - before;
    if replies == 0 {
        return None;
    }
    let at = before + random.below(replies);
    let mutator = Mutator::new(at as i64, random.next());
    let changed = subject(&proxy(server, Arc::clone(&mutator) as Arc<dyn Break>), &format!("mutate-{n}"));
    let verdict = run::one(&changed, check).verdict;
    let what = mutator.done.lock().unwrap().clone()?;
    Some((what, !matches!(verdict, Verdict::Pass)))
}

/// The paths of everything that means something.
fn members(json: &Value, at: String, paths: &mut Vec<String>) {
    match json {
        Value::Object(members) => {
            for (name, value) in members {
                if !FREE.contains(&name.as_str()) {
                    let path = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                    paths.push(path.clone());
                    self::members(value, path, paths);
                }
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                members(item, format!("{at}/{n}"), paths);
            }
        }
        _ => {}
    }
}

/// Takes a member away, or makes it something else.
fn mutate(json: &mut Value, path: &str, random: &mut Random) -> String {
    let (parent, name) = path.rsplit_once('/').unwrap();
    if random.below(4) == 0 {
        let name = name.replace("~1", "/").replace("~0", "~");
        if let Some(Value::Object(members)) = json.pointer_mut(parent) {
            members.remove(&name);
            return "removed".to_owned();
        }
    }
    let value = json.pointer_mut(path).unwrap();
    let before = value.to_string();
    *value = match value.take() {
        Value::Null => Value::from(1),
        Value::Bool(b) => Value::from(!b),
        Value::Number(n) => n
            .as_i64()
            .map_or_else(|| Value::from("number"), |n| Value::from(if random.below(2) == 0 { n + 1 } else { n - 1 })),
        Value::String(s) if random.below(3) == 0 => Value::from(s.len()),
        Value::String(s) => Value::from(format!("{s}x")),
        Value::Array(mut items) => {
            if items.pop().is_none() {
                items.push(Value::from(1));
            }
            Value::Array(items)
        }
        Value::Object(_) => Value::from("object"),
    };
    format!("{before} became {value}")
}

/// Splitmix: enough for choices, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
}
