//! The report as one page without anything else: no scripts, no fonts, nothing from elsewhere.

use std::fmt::Write as _;

use super::{DIALECT, Heading, VERSION, markup, transcript};
use crate::check::Level;
use crate::run::{Finding, Verdict};
use crate::statements;

/// A page that can be put on a project's site.
#[must_use]
pub fn report(heading: &Heading, findings: &[Finding]) -> String {
    let mut out = String::new();
    let failed = |level: Level| {
        findings.iter().filter(|f| f.check.level == level && matches!(f.verdict, Verdict::Fail { .. })).count()
    };
    let count = |name: &str| findings.iter().filter(|f| f.verdict.name() == name).count();
    let must = failed(Level::Must);
    let verdict = if must == 0 { "Conforms" } else { "Does not conform" };
    let backend = markup(&heading.backend);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{backend}: {verdict}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header class=\"{}\"><p>Sync protocol {DIALECT}</p><h1>{backend}</h1>\
         <p class=\"verdict\">{verdict}</p>\
         <p>{} of {} checks pass. Failed: {must} must, {} should, {} may. {} inconclusive, {} excluded, {} not offered.</p>\
         <p class=\"small\">{} · {} · {:.1} s · sync-conformance {VERSION}</p></header>\n",
        if must == 0 { "good" } else { "bad" },
        count("pass"),
        findings.len(),
        failed(Level::Should),
        failed(Level::May),
        count("inconclusive"),
        count("excluded"),
        count("not offered"),
        markup(&heading.url),
        markup(&heading.at),
        heading.seconds,
    );
    areas(&mut out, findings);
    failures(&mut out, heading, findings);
    everything(&mut out, findings);
    let _ = write!(
        out,
        "<footer><p>Made-up users: {} named {}…. <em>Must</em> is the protocol's seed, <em>should</em> its stricter rules, \
         <em>may</em> additions.</p></footer>\n</main>\n</body>\n</html>\n",
        heading.users.len(),
        markup(heading.users.first().map_or("", |u| u.rsplit_once('-').map_or(u.as_str(), |(p, _)| p))),
    );
    out
}

fn areas(out: &mut String, findings: &[Finding]) {
    let mut names: Vec<&str> = findings.iter().map(|f| f.check.area()).collect();
    names.dedup();
    out.push_str("<h2>By area</h2>\n<table class=\"areas\"><thead><tr><th>Area</th><th>Pass</th><th>Fail</th><th>Other</th><th></th></tr></thead><tbody>\n");
    for area in names {
        let of: Vec<&Finding> = findings.iter().filter(|f| f.check.area() == area).collect();
        let count = |names: &[&str]| of.iter().filter(|f| names.contains(&f.verdict.name())).count();
        let (pass, fail) = (count(&["pass"]), count(&["fail", "stale exclusion"]));
        let part = |n: usize| n as f64 * 100.0 / of.len() as f64;
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\"><a href=\"#{area}\">{area}</a></th><td>{pass}</td><td class=\"{}\">{fail}</td><td>{}</td>\
             <td><span class=\"bar\" role=\"img\" aria-label=\"{pass} of {} pass\"><i style=\"width:{:.1}%\"></i><b style=\"width:{:.1}%\"></b></span></td></tr>",
            if fail > 0 { "red" } else { "" },
            of.len() - pass - fail,
            of.len(),
            part(pass),
            part(fail),
        );
    }
    out.push_str("</tbody></table>\n");
}

fn failures(out: &mut String, heading: &Heading, findings: &[Finding]) {
    let failed: Vec<&Finding> = findings.iter().filter(|f| matches!(f.verdict, Verdict::Fail { .. })).collect();
    if failed.is_empty() {
        return;
    }
    out.push_str("<h2>Failures</h2>\n");
    for f in failed {
        let Verdict::Fail { expected, got } = &f.verdict else { continue };
        let _ = write!(
            out,
            "<section class=\"failure\" id=\"fail-{0}\"><h3><code>{0}</code> <span class=\"level {1}\">{1}</span></h3><p>{2}</p>\
             <dl><dt>Expected</dt><dd>{3}</dd><dt>Came</dt><dd><code>{4}</code></dd>",
            f.check.id,
            f.check.level.name(),
            markup(f.check.about),
            markup(expected),
            markup(got),
        );
        for s in f.check.covers.iter().filter_map(|s| statements::find(s)) {
            let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", markup(s.source), markup(s.text));
        }
        if !f.check.consequence.is_empty() {
            let _ = write!(out, "<dt>So that</dt><dd>{}</dd>", markup(f.check.consequence));
        }
        let _ = writeln!(
            out,
            "</dl><details><summary>Reproduce</summary><pre>{}</pre></details></section>",
            markup(&transcript::curl(&heading.url, &f.exchanges))
        );
    }
}

fn everything(out: &mut String, findings: &[Finding]) {
    out.push_str("<h2>All checks</h2>\n");
    let mut area = "";
    for f in findings {
        if f.check.area() != area {
            if !area.is_empty() {
                out.push_str("</tbody></table></details>\n");
            }
            area = f.check.area();
            let _ = writeln!(out, "<details class=\"all\" id=\"{area}\"><summary>{area}</summary><table><tbody>");
        }
        let why = match &f.verdict {
            Verdict::Excluded(why) | Verdict::Stale(why) | Verdict::NotOffered(why) | Verdict::Inconclusive(why) => {
                format!("<br><span class=\"small\">{}</span>", markup(why))
            }
            _ => String::new(),
        };
        let name = f.verdict.name();
        let _ = writeln!(
            out,
            "<tr><td><span class=\"mark {}\">{name}</span></td><td><code>{}</code></td><td>{}</td><td>{}{why}</td></tr>",
            name.replace(' ', "-"),
            f.check.id,
            f.check.level.name(),
            markup(f.check.about),
        );
    }
    out.push_str("</tbody></table></details>\n");
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2024;--soft:#60646c;--line:#d9dce1;--back:#fff;--card:#f6f7f9;--good:#1a7f45;--bad:#c0262d;--other:#8a6d1a}\
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a0a5ad;--line:#34383f;--back:#15171a;--card:#1d2024;--good:#4cc27e;--bad:#ff6b70;--other:#d8b64c}}\
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}header{border-left:.4rem solid;padding:.25rem 1rem;margin-bottom:2rem}\
header p{margin:.2rem 0;color:var(--ink)}header.good{border-color:var(--good)}header.bad{border-color:var(--bad)}h1{margin:0;font-size:2rem;line-height:1.2}\
.verdict{font-size:1.35rem;font-weight:600}.good .verdict{color:var(--good)}.bad .verdict{color:var(--bad)}\
.small,footer,header .small{color:var(--soft);font-size:.875rem}h2{margin:2rem 0 .75rem;font-size:1.25rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}\
.areas td:nth-child(n+2):nth-child(-n+4){text-align:right;font-variant-numeric:tabular-nums;width:4rem}.areas th:nth-child(n+2){text-align:right}\
.red{color:var(--bad);font-weight:600}a{color:inherit}.bar{display:flex;height:.6rem;margin-top:.45rem;min-width:8rem;border-radius:.3rem;overflow:hidden;background:var(--line)}\
.bar i{background:var(--good)}.bar b{background:var(--bad)}.failure{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem;margin:0 0 1rem}\
.failure h3{margin:0;font-size:1rem;overflow-wrap:anywhere}.failure p{margin:.25rem 0}.level{font-size:.75rem;font-weight:600;padding:.1rem .4rem;border-radius:.25rem;border:1px solid var(--line)}\
.level.must{color:var(--bad);border-color:var(--bad)}dl{display:grid;grid-template-columns:minmax(6rem,auto) 1fr;gap:.25rem .75rem;margin:.5rem 0}\
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}code,pre{font:13px/1.45 ui-monospace,monospace}pre{overflow-x:auto;background:var(--back);border:1px solid var(--line);border-radius:.375rem;padding:.75rem}\
summary{cursor:pointer;padding:.3rem 0}.all>summary{font-weight:600;border-bottom:1px solid var(--line)}.mark{font-size:.8rem;white-space:nowrap;color:var(--other)}\
.mark.pass{color:var(--good)}.mark.fail,.mark.stale-exclusion{color:var(--bad);font-weight:600}.all code{overflow-wrap:anywhere}\
@media(max-width:40rem){.areas td:last-child,.areas th:last-child{display:none}dl{grid-template-columns:1fr}dt{margin-top:.4rem}}";
