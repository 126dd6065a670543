//! The report for build servers, as the XML that `JUnit` began.

use std::fmt::Write as _;

use super::{Heading, markup, transcript};
use crate::run::{Finding, Verdict};

/// One suite per area; what could not be judged is an error, what was left out is skipped.
#[must_use]
pub fn report(heading: &Heading, findings: &[Finding]) -> String {
    let mut areas: Vec<(&str, Vec<&Finding>)> = Vec::new();
    for f in findings {
        match areas.iter_mut().find(|(a, _)| *a == f.check.area()) {
            Some((_, list)) => list.push(f),
            None => areas.push((f.check.area(), vec![f])),
        }
    }
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuites name=\"{}\" tests=\"{}\" time=\"{:.3}\" timestamp=\"{}\">",
        markup(&heading.backend),
        findings.len(),
        heading.seconds,
        markup(&heading.at)
    );
    for (area, list) in areas {
        let count = |names: &[&str]| list.iter().filter(|f| names.contains(&f.verdict.name())).count();
        let _ = writeln!(
            out,
            "  <testsuite name=\"{area}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\">",
            list.len(),
            count(&["fail", "stale exclusion"]),
            count(&["inconclusive"]),
            count(&["excluded", "not offered"])
        );
        for f in list {
            case(&mut out, heading, f);
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn case(out: &mut String, heading: &Heading, f: &Finding) {
    let _ = write!(
        out,
        "    <testcase classname=\"{}.{}\" name=\"{}\" time=\"{:.3}\"",
        f.check.area(),
        f.check.level.name(),
        f.check.id,
        f.took.as_secs_f64()
    );
    let mut body = |element: &str, message: &str, text: &str| {
        let (message, text) = (markup(message), markup(text));
        let _ = writeln!(out, ">\n      <{element} message=\"{message}\">{text}</{element}>\n    </testcase>");
    };
    match &f.verdict {
        Verdict::Pass => out.push_str("/>\n"),
        Verdict::Fail { expected, got } => {
            let text = format!("came: {got}\n\n{}", transcript::curl(&heading.url, &f.exchanges));
            body("failure", &format!("expected: {expected}"), &text);
        }
        Verdict::Stale(why) => body("failure", "excluded by the profile, but it passes", why),
        Verdict::Inconclusive(why) => body("error", why, ""),
        Verdict::Excluded(why) | Verdict::NotOffered(why) => {
            body("skipped", &format!("{}: {why}", f.verdict.name()), "");
        }
    }
}
