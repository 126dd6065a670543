//! The report for programs.

use serde_json::{Value, json};

use super::{DIALECT, Heading, VERSION, transcript};
use crate::run::{Finding, Verdict};

/// One JSON document: `suite`, `backend`, `summary`, `checks`, `users`.
#[must_use]
pub fn report(heading: &Heading, findings: &[Finding]) -> String {
    let count = |name: &str| findings.iter().filter(|f| f.verdict.name() == name).count();
    let names = ["pass", "fail", "excluded", "stale exclusion", "not offered", "inconclusive"];
    let summary: serde_json::Map<String, Value> = names.iter().map(|n| ((*n).to_owned(), json!(count(n)))).collect();
    let checks: Vec<Value> = findings.iter().map(|f| check(heading, f)).collect();
    let document = json!({
        "suite": {"name": "sync-conformance", "version": VERSION, "dialect": DIALECT},
        "backend": {"name": heading.backend, "url": heading.url},
        "at": heading.at,
        "seconds": heading.seconds,
        "summary": summary,
        "checks": checks,
        "users": heading.users,
    });
    let mut text = serde_json::to_string_pretty(&document).expect("invariant: plain values always serialise");
    text.push('\n');
    text
}

fn check(heading: &Heading, f: &Finding) -> Value {
    let mut value = json!({
        "id": f.check.id,
        "level": f.check.level.name(),
        "about": f.check.about,
        "statements": f.check.covers,
        "verdict": f.verdict.name(),
        "milliseconds": u64::try_from(f.took.as_millis()).unwrap_or(u64::MAX),
    });
    match &f.verdict {
        Verdict::Pass => {}
        Verdict::Fail { expected, got } => {
            value["expected"] = json!(expected);
            value["got"] = json!(got);
            value["transcript"] = json!(transcript::curl(&heading.url, &f.exchanges));
            if !f.check.consequence.is_empty() {
                value["consequence"] = json!(f.check.consequence);
            }
        }
        Verdict::Excluded(why) | Verdict::Stale(why) | Verdict::NotOffered(why) | Verdict::Inconclusive(why) => {
            value["reason"] = json!(why);
        }
    }
    value
}
