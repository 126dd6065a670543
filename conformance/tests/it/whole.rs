//! The whole suite on our server: nothing fails, and what cannot be said is known.

use sync_conformance::report::{self, Heading};
use sync_conformance::run::{self, Options, Verdict};

use sync_server::limits::Limits;

use crate::server::{Ours, subject};

#[test]
fn our_server_passes() {
    let ours = Ours::start();
    let subject = subject(&ours.url(), "whole");
    let findings = run::run(&subject, &Options { quick: true, ..Options::default() }, &|_| {});
    let heading = Heading {
        backend: "sync-server".to_owned(),
        url: ours.url(),
        at: String::new(),
        seconds: 0.0,
        users: subject.users(),
    };
    let text = report::terminal::report(&heading, &findings);
    assert!(run::conforms(&findings, true), "{text}");
    let passed = findings.iter().filter(|f| matches!(f.verdict, Verdict::Pass)).count();
    assert!(passed > 300, "{text}");
    let json = report::json::report(&heading, &findings);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["summary"]["pass"], passed);
    assert_eq!(json["checks"].as_array().unwrap().len(), findings.len());
    let page = report::html::report(&heading, &findings);
    assert!(page.contains("Conforms") && !page.contains("<script") && !page.contains("src="), "self-contained");
    let xml = report::junit::report(&heading, &findings);
    assert_eq!(xml.matches("<testcase ").count(), findings.len());
}

/// Limits that our server does not have by default are enforced where an operator sets them.
#[test]
fn limits_that_are_set_are_judged() {
    let ours = Ours::with(Limits {
        max_rows_per_bundle: 120,
        max_bytes_per_row: 100_000,
        max_rows_per_snapshot_session: 100,
        ..Limits::default()
    });
    let subject = subject(&ours.url(), "limits");
    let filter = ["push.create.too_large", "encoding.too_large_row", "snapshot.too_large"].map(str::to_owned).to_vec();
    let findings = run::run(&subject, &Options { filter, ..Options::default() }, &|_| {});
    assert_eq!(findings.len(), 3);
    for f in findings {
        assert!(matches!(f.verdict, Verdict::Pass), "{}: {:?}", f.check.id, f.verdict);
    }
}
