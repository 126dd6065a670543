//! What the quickstart prints.

use examples::Result;
use examples::hops::{Hop, Seen};
use examples::proof::Digest;
use examples::show::{Colour, count, heading, line, paint, rows, say};
use sync_client::InboxRow;
use sync_core::json::{self, Members};
use sync_core::wire::{Form, push_members};

/// `a 1,234 · b 5`, in lines of a readable width.
pub(crate) fn tables(label: &str, digest: &Digest) {
    let parts: Vec<String> = digest.tables.iter().map(|(t, n)| format!("{t} {}", count(*n))).collect();
    for (i, chunk) in parts.chunks(8).enumerate() {
        line(if i == 0 { label } else { "" }, &chunk.join(" · "));
    }
}

/// The hops as they were seen, without pulls that found nothing; of many settlements in a row only the
/// first few.
pub(crate) fn hops(seen: &[Seen]) {
    heading("Each hop, as it was observed");
    let fetched = |i: usize| {
        let mut later = seen[i + 1..].iter().filter(|s| s.device == seen[i].device);
        later.find(|s| matches!(s.hop, Hop::Pull | Hop::Freeze | Hop::Apply)).is_some_and(|s| s.hop == Hop::Apply)
    };
    let mut run = 0;
    for (i, s) in seen.iter().enumerate() {
        let settled = s.hop == Hop::Settle;
        run = if settled { run + 1 } else { 0 };
        if s.hop == Hop::Pull && !fetched(i) {
            continue;
        }
        if run <= SHOWN {
            say(&if settled { paint(Colour::Yellow, &s.to_string()) } else { s.to_string() });
        } else if seen.get(i + 1).is_none_or(|n| n.hop != Hop::Settle) {
            say(&format!("{:>13}{:<8} {:<3} … and {} more", "", "", s.device, run - SHOWN));
        }
    }
}

/// Local edits that lost: the first with every column, the others as one line each.
pub(crate) fn discarded(device: &str, inbox: &[InboxRow]) -> Result<()> {
    let Some(first) = inbox.first() else { return Ok(()) };
    heading(&format!("Edits that lost on {device}, kept whole (client.discarded())"));
    say(&format!("  {} {} {}: {}", first.op, first.table, first.key, first.message));
    let parse = |row: &Option<String>| -> Result<Members> {
        Ok(row.as_ref().map(|r| json::from_slice(r.as_bytes())).transpose()?.unwrap_or_default())
    };
    let (base, local, server) = (parse(&first.base_row)?, parse(&first.local_row)?, parse(&first.server_row)?);
    let cell = |m: &Members, name: &str| -> String {
        let Some(v) = m.get(name) else { return "-".to_owned() };
        let mut out = String::new();
        push_members(&mut out, &Members(vec![(String::new(), v.clone())]), Form::Exact);
        out[4..out.len() - 1].to_owned()
    };
    let columns = if local.0.is_empty() { &base.0 } else { &local.0 };
    let width = columns.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    let mut same = Vec::new();
    for (name, _) in columns {
        let (b, l, s) = (cell(&base, name), cell(&local, name), cell(&server, name));
        if b == l && l == s {
            same.push(format!("{name} {l}"));
        } else {
            say(&format!("    {name:<width$}was {b}, here {}, on the server {s}", paint(Colour::Yellow, &l)));
        }
    }
    if !same.is_empty() {
        say(&format!("    {}", paint(Colour::Dim, &same.join(" · "))));
    }
    for other in &inbox[1..inbox.len().min(SHOWN + 1)] {
        say(&format!("  {} {} {}", other.op, other.table, other.local_row.as_deref().unwrap_or(&other.key)));
    }
    if inbox.len() > SHOWN + 1 {
        say(&format!("  … and {} more", inbox.len() - SHOWN - 1));
    }
    Ok(())
}

/// Rows that wait for a person: the first whole, the others by number.
pub(crate) fn rejected(device: &str, inbox: &[InboxRow]) {
    let Some(first) = inbox.first() else { return };
    heading(&format!("Rows that wait for a person on {device} (client.rejected())"));
    let row = first.local_row.as_deref().unwrap_or(&first.key);
    let more = if inbox.len() > 1 { format!("  … and {} more", inbox.len() - 1) } else { String::new() };
    say(&format!("  {} {} {row}: {}{more}", first.op, first.table, first.message));
}

/// The three digests, and whether they are the same.
pub(crate) fn proof(digests: &[(&str, &Digest)]) -> bool {
    heading("Proof: BLAKE3 over every row, read afresh: files by new connections, the server by plain HTTP");
    let expected = digests.first().map(|(_, d)| (&d.hash, d.rows));
    let mut same = true;
    for (name, d) in digests {
        let equal = expected == Some((&d.hash, d.rows));
        same &= equal;
        let mut rest = String::new();
        for (n, what) in [(d.local_only, "local only"), (d.left_out, "left to a person")] {
            if n > 0 {
                rest.push_str(&format!(", {} {what}", rows(n)));
            }
        }
        let colour = if equal { Colour::Green } else { Colour::Red };
        line(name, &format!("{}  {}{rest}", paint(colour, &d.hash), rows(d.rows)));
    }
    if !same {
        let names: std::collections::BTreeSet<&String> = digests.iter().flat_map(|(_, d)| d.tables.keys()).collect();
        for name in names {
            let n: Vec<u64> = digests.iter().map(|(_, d)| d.tables.get(name).copied().unwrap_or(0)).collect();
            if n.iter().any(|x| *x != n[0]) {
                line("", &format!("{name}: {n:?} rows"));
            }
        }
    }
    same
}

/// Settlements and lost edits that are shown one by one.
const SHOWN: usize = 3;
