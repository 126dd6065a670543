//! What a load says in the end: on a terminal, and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::meter::percentile;
use super::{Outcome, Violation};
use crate::report::{DIALECT, Heading, VERSION, transcript};

/// The report for people.
#[must_use]
pub fn text(heading: &Heading, o: &Outcome) -> String {
    let mut out = String::new();
    for (first, count) in kinds(&o.violations) {
        let _ = writeln!(out, "VIOLATED {}", first.expected);
        let _ = writeln!(out, "  came      {}", first.got);
        if count > 1 {
            let _ = writeln!(out, "  the same {} times more", count - 1);
        }
        let _ = writeln!(out, "  the last requests of {}'s devices", first.user);
        for line in transcript::curl(&heading.url, &first.exchanges).lines() {
            let _ = writeln!(out, "    {line}");
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "{:<16}{:>9}{:>10}{:>10}{:>10}{:>10}",
        "request", "count", "p50 ms", "p90 ms", "p99 ms", "max ms"
    );
    for (kind, l) in latencies(o) {
        let ms = |micros: u32| format!("{:.1}", f64::from(micros) / 1000.0);
        let [p50, p90, p99, max] = l.percentiles.map(ms);
        let _ = writeln!(out, "{kind:<16}{:>9}{p50:>10}{p90:>10}{p99:>10}{max:>10}", l.count);
    }
    out.push('\n');
    errors(&mut out, o);
    let c = &o.counts;
    let per_second = |n: u64| n as f64 / o.took.as_secs_f64().max(0.001);
    let _ = writeln!(
        out,
        "{:.0} requests/s: {} in {:.1} s, by {} users with {} devices each ({}), and {} to compare at the end",
        per_second(o.measured.requests),
        o.measured.requests,
        o.took.as_secs_f64(),
        o.plan.users,
        o.plan.devices,
        o.plan.mix,
        o.measured.settling,
    );
    for (what, bundles, rows) in
        [("pushed", c.bundles_pushed, c.rows_pushed), ("pulled", c.bundles_pulled, c.rows_pulled)]
    {
        let (b, r) = (per_second(bundles), per_second(rows));
        let _ = writeln!(out, "{b:.0} bundles/s and {r:.0} rows/s {what}: {bundles} bundles, {rows} rows");
    }
    let _ = writeln!(
        out,
        "{} pushes met a conflict, {} devices read a snapshot since history was pruned",
        c.conflicts, c.rebuilds
    );
    if let Some(rate) = o.bound {
        let _ = writeln!(
            out,
            "held to {rate} requests/s: devices waited {:.0} % of the time for their turn; --requests-per-second 0 lifts that",
            100.0 * waiting(o),
        );
    }
    let _ = writeln!(
        out,
        "\n{} at {}, seed {}, users named {}…\nsync-conformance {VERSION}, protocol {DIALECT}",
        heading.backend,
        heading.url,
        o.seed,
        heading.name(),
    );
    let _ = match (o.violations.len(), o.not_compared.len()) {
        (0, 0) => writeln!(
            out,
            "nothing violated: every push once, no gap, right hashes, all devices alike, nobody else's rows"
        ),
        (0, n) => writeln!(out, "nothing violated so far as could be seen; {n} devices or users could not be compared"),
        (n, _) => writeln!(out, "VIOLATED: {n} times"),
    };
    out
}

fn errors(out: &mut String, o: &Outcome) {
    for ((status, code), count) in &o.measured.errors {
        let status = if *status == 0 { String::new() } else { format!("{status} ") };
        let _ = writeln!(out, "{count:>8} times {status}{code}");
    }
    let (count, wait) = o.measured.put_off;
    if count > 0 {
        let _ = writeln!(out, "put off {count} times by 429 or 503; devices waited {:.1} s in all", wait.as_secs_f64());
    }
    for (user, why) in &o.not_compared {
        let _ = writeln!(out, "not compared: {user}: {why}");
    }
    if !o.measured.errors.is_empty() || !o.not_compared.is_empty() {
        out.push('\n');
    }
}

/// The report for programs: one JSON document.
#[must_use]
pub fn json(heading: &Heading, o: &Outcome) -> String {
    let c = &o.counts;
    let seconds = o.took.as_secs_f64();
    let per_second = |n: u64| n as f64 / seconds.max(0.001);
    let ms = |micros: u32| f64::from(micros) / 1000.0;
    let latency = |(kind, l): (&str, Latency)| {
        let [p50, p90, p99, max] = l.percentiles.map(ms);
        json!({"request": kind, "count": l.count, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": max})
    };
    let violations = kinds(&o.violations).into_iter().map(|(v, count)| {
        let transcript = transcript::curl(&heading.url, &v.exchanges);
        json!({"expected": v.expected, "got": v.got, "user": v.user, "count": count, "transcript": transcript})
    });
    let errors = o.measured.errors.iter().map(|((s, code), n)| json!({"status": s, "code": code, "count": n}));
    let not_compared = o.not_compared.iter().map(|(user, why)| json!({"user": user, "reason": why}));
    let document = json!({
        "suite": {"name": "sync-conformance", "version": VERSION, "dialect": DIALECT},
        "backend": {"name": heading.backend, "url": heading.url},
        "at": heading.at,
        "plan": {
            "users": o.plan.users,
            "devices": o.plan.devices,
            "rows": o.plan.rows,
            "bytes": o.plan.bytes,
            "mix": o.plan.mix.to_string(),
            "seconds": o.plan.time.as_secs_f64(),
            "requests": o.plan.requests,
            "requests_per_second": o.bound,
            "seed": o.seed,
        },
        "seconds": seconds,
        "requests": o.measured.requests,
        "requests_at_the_end": o.measured.settling,
        "per_second": {
            "requests": per_second(o.measured.requests),
            "bundles_pushed": per_second(c.bundles_pushed),
            "rows_pushed": per_second(c.rows_pushed),
            "bundles_pulled": per_second(c.bundles_pulled),
            "rows_pulled": per_second(c.rows_pulled),
        },
        "bundles_pushed": c.bundles_pushed,
        "rows_pushed": c.rows_pushed,
        "bundles_pulled": c.bundles_pulled,
        "rows_pulled": c.rows_pulled,
        "conflicts": c.conflicts,
        "rebuilds": c.rebuilds,
        "latencies": latencies(o).into_iter().map(latency).collect::<Vec<_>>(),
        "errors": errors.collect::<Vec<_>>(),
        "put_off": {"count": o.measured.put_off.0, "seconds": o.measured.put_off.1.as_secs_f64()},
        "waiting_for_turns": waiting(o),
        "violations": violations.collect::<Vec<Value>>(),
        "not_compared": not_compared.collect::<Vec<_>>(),
        "users": heading.users,
    });
    let mut text = serde_json::to_string_pretty(&document).expect("invariant: plain values always serialise");
    text.push('\n');
    text
}

/// How long the requests of one kind took: p50, p90, p99 and the longest, in microseconds.
struct Latency {
    count: usize,
    percentiles: [u32; 4],
}

fn latencies(o: &Outcome) -> Vec<(&'static str, Latency)> {
    let of = |(kind, samples): (&&'static str, &Vec<u32>)| {
        let mut sorted = samples.clone();
        sorted.sort_unstable();
        let percentiles = [50, 90, 99, 100].map(|p| percentile(&sorted, p));
        (*kind, Latency { count: sorted.len(), percentiles })
    };
    o.measured.took.iter().map(of).collect()
}

/// The share of the devices' time that went into waiting for their turn.
fn waiting(o: &Outcome) -> f64 {
    let all = o.took.as_secs_f64() * (o.plan.users * o.plan.devices) as f64;
    (o.measured.held_back.as_secs_f64() / all.max(0.001)).min(1.0)
}

/// Violations that expected the same, once: the first, and how many there are.
fn kinds(violations: &[Violation]) -> Vec<(&Violation, usize)> {
    let mut kinds: Vec<(&Violation, usize)> = Vec::new();
    for v in violations {
        match kinds.iter_mut().find(|(first, _)| first.expected == v.expected) {
            Some((_, count)) => *count += 1,
            None => kinds.push((v, 1)),
        }
    }
    kinds
}
