//! The report for people: each kind of failure once, with its reproduction, then a table by area.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{DIALECT, Heading, VERSION, transcript};
use crate::check::Level;
use crate::run::{Finding, Verdict};
use crate::statements;

/// The whole report as text.
#[must_use]
pub fn report(heading: &Heading, findings: &[Finding]) -> String {
    let mut out = String::new();
    failures(&mut out, heading, findings);
    reasons(&mut out, findings);
    table(&mut out, findings);
    summary(&mut out, heading, findings);
    out
}

/// Failures that expected the same are shown once: one defect often fails many checks.
fn failures(out: &mut String, heading: &Heading, findings: &[Finding]) {
    let mut kinds: Vec<(&str, Vec<&Finding>)> = Vec::new();
    for f in findings {
        if let Verdict::Fail { expected, .. } = &f.verdict {
            match kinds.iter_mut().find(|(e, _)| e == expected) {
                Some((_, list)) => list.push(f),
                None => kinds.push((expected, vec![f])),
            }
        }
    }
    for (expected, list) in kinds {
        let f = list[0];
        let Verdict::Fail { got, .. } = &f.verdict else { continue };
        let _ = writeln!(out, "FAIL {} ({}): {}", f.check.id, f.check.level.name(), f.check.about);
        let _ = writeln!(out, "  expected  {expected}");
        let _ = writeln!(out, "  came      {got}");
        for s in f.check.covers {
            if let Some(s) = statements::find(s) {
                let _ = writeln!(out, "  statement {} ({}): {}", s.id, s.source, s.text);
            }
        }
        if !f.check.consequence.is_empty() {
            let _ = writeln!(out, "  so that   {}", f.check.consequence);
        }
        if list.len() > 1 {
            let ids: Vec<&str> = list[1..].iter().map(|f| f.check.id).collect();
            let _ = writeln!(out, "  the same in {}", ids.join(", "));
        }
        out.push_str("  reproduce\n");
        for line in transcript::curl(&heading.url, &f.exchanges).lines() {
            let _ = writeln!(out, "    {line}");
        }
        out.push('\n');
    }
}

fn reasons(out: &mut String, findings: &[Finding]) {
    for (name, title) in [
        ("stale exclusion", "Excluded, but they pass now: take them out of the profile"),
        ("inconclusive", "Inconclusive, which is not a pass"),
        ("excluded", "Excluded by the profile"),
        ("not offered", "Not offered"),
    ] {
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for f in findings.iter().filter(|f| f.verdict.name() == name) {
            if let Verdict::Excluded(why)
            | Verdict::Stale(why)
            | Verdict::NotOffered(why)
            | Verdict::Inconclusive(why) = &f.verdict
            {
                by_reason.entry(why).or_default().push(f.check.id);
            }
        }
        if by_reason.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{title}:");
        for (why, ids) in by_reason {
            let _ = writeln!(out, "  {}: {why}", ids.join(", "));
        }
        out.push('\n');
    }
}

fn table(out: &mut String, findings: &[Finding]) {
    let mut areas: Vec<(&str, [usize; 5])> = Vec::new();
    for f in findings {
        let i = match areas.iter().position(|(a, _)| *a == f.check.area()) {
            Some(i) => i,
            None => {
                areas.push((f.check.area(), [0; 5]));
                areas.len() - 1
            }
        };
        let column = match f.verdict {
            Verdict::Pass => 0,
            Verdict::Fail { .. } | Verdict::Stale(_) => 1,
            Verdict::Excluded(_) => 2,
            Verdict::NotOffered(_) => 3,
            Verdict::Inconclusive(_) => 4,
        };
        areas[i].1[column] += 1;
    }
    let mut total = [0; 5];
    let _ = writeln!(
        out,
        "{:<16}{:>7}{:>7}{:>10}{:>13}{:>14}",
        "area", "pass", "fail", "excluded", "not offered", "inconclusive"
    );
    for (area, n) in &areas {
        for (t, n) in total.iter_mut().zip(n) {
            *t += n;
        }
        line(out, area, n);
    }
    line(out, "all", &total);
}

fn line(out: &mut String, name: &str, n: &[usize; 5]) {
    let _ = writeln!(out, "{name:<16}{:>7}{:>7}{:>10}{:>13}{:>14}", n[0], n[1], n[2], n[3], n[4]);
}

fn summary(out: &mut String, heading: &Heading, findings: &[Finding]) {
    let failed = |level: Level| {
        findings.iter().filter(|f| f.check.level == level && matches!(f.verdict, Verdict::Fail { .. })).count()
    };
    let (must, should, may) = (failed(Level::Must), failed(Level::Should), failed(Level::May));
    let _ = writeln!(
        out,
        "\n{} at {}: {} checks in {:.1} s, {} users named {}…",
        heading.backend,
        heading.url,
        findings.len(),
        heading.seconds,
        heading.users.len(),
        heading.name(),
    );
    let _ = writeln!(out, "sync-conformance {VERSION}, protocol {DIALECT}");
    let _ = if must == 0 {
        writeln!(out, "conforms: no must failed; {should} should and {may} may did")
    } else {
        writeln!(out, "DOES NOT CONFORM: {must} must failed, {should} should and {may} may")
    };
}
