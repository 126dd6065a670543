//! The catalogue of checks as a page.

use std::fmt::Write as _;

use crate::checks;
use crate::statements::{self, Reach};

/// `CHECKS.md`
#[must_use]
pub fn catalogue() -> String {
    let all = checks::all();
    let mut out = String::from("# What is checked\n\n");
    let _ = writeln!(
        out,
        "Written by `sync-conformance list --markdown`; a test keeps it true. {} checks cover {} statements of the protocol.\n",
        all.len(),
        statements::ALL.len()
    );
    out.push_str("*must*: the protocol's seed. *should*: stricter rules, each with what a failure means for users. *may*: additions, probed.\n");
    out.push_str("The area `replica` is in programs that are built with the feature `replica`.\n");
    let mut area = "";
    for c in &all {
        if c.area() != area {
            area = c.area();
            let _ = write!(out, "\n## {area}\n\n| check | level | asks | statements |\n|---|---|---|---|\n");
        }
        let about = if c.consequence.is_empty() {
            c.about.to_owned()
        } else {
            format!("{} (else: {})", c.about, c.consequence)
        };
        let _ = writeln!(out, "| `{}` | {} | {about} | {} |", c.id, c.level.name(), c.covers.join(", "));
    }
    out.push_str("\n## Statements\n\n| statement | level | from | says |\n|---|---|---|---|\n");
    for s in statements::ALL {
        let text = match s.reach {
            Reach::Checked => s.text.to_owned(),
            Reach::Beyond(why) => format!("{} (not checked: {why})", s.text),
        };
        let _ = writeln!(out, "| {} | {} | {} | {text} |", s.id, s.level.name(), s.source);
    }
    out
}
