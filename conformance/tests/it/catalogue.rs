//! Ids, statements and the page of checks agree with each other.

use std::collections::BTreeSet;

use sync_conformance::check::Level;
use sync_conformance::profile::Profile;
use sync_conformance::report::markdown;
use sync_conformance::statements::{self, Reach};
use sync_conformance::{checks, run::Options};

use crate::server::PROFILE;

#[test]
fn every_must_is_covered() {
    let covered: BTreeSet<&str> = checks::all().iter().flat_map(|c| c.covers).copied().collect();
    let bare: Vec<&str> = statements::ALL
        .iter()
        .filter(|s| matches!(s.reach, Reach::Checked) && !covered.contains(s.id))
        .map(|s| s.id)
        .collect();
    assert_eq!(bare, [""; 0], "statements without a check");
}

#[test]
fn ids_are_unique_and_statements_exist() {
    let mut seen = BTreeSet::new();
    for c in checks::all() {
        assert!(seen.insert(c.id), "{} twice", c.id);
        assert!(!c.covers.is_empty(), "{} covers nothing", c.id);
        for s in c.covers {
            assert!(statements::find(s).is_some(), "{} covers {s}, which there is not", c.id);
        }
        assert_eq!(c.level == Level::Should, !c.consequence.is_empty(), "{}: a should has a consequence", c.id);
        let strict = c.covers.iter().filter_map(|s| statements::find(s)).map(|s| s.level).min();
        assert!(
            strict.is_some_and(|l| l <= c.level) || c.level == Level::Must,
            "{} weighs more than its statements",
            c.id
        );
    }
    let mut seen = BTreeSet::new();
    for s in statements::ALL {
        assert!(seen.insert(s.id), "{} twice", s.id);
    }
}

#[test]
fn the_page_of_checks_is_true() {
    let page = include_str!("../../CHECKS.md");
    assert!(
        page == markdown::catalogue(),
        "write it anew: cargo run -p sync-conformance -- list --markdown > conformance/CHECKS.md"
    );
}

#[test]
fn a_filter_is_an_id_or_its_beginning() {
    let chosen = |f: &str| Options { filter: vec![f.to_owned()], ..Options::default() }.choose().len();
    assert_eq!(chosen("push.commit.stale_version"), 1);
    assert_eq!(chosen("push.commit.stale"), 0, "not in the middle of a word");
    assert!(chosen("push.commit") > 20);
    assert_eq!(chosen("push.commit.*"), chosen("push.commit"));
}

#[test]
fn exclusions_name_a_check_a_statement_and_a_reason() {
    let with = |exclusion: &str| Profile::parse(&format!("{PROFILE}\n[[exclude]]\n{exclusion}")).map(drop);
    let good = "check = \"pull.capped\"\nstatement = \"seed.pull.max_bundles\"\nreason = \"refuses more than 5000\"";
    assert!(with(good).is_ok());
    for (bad, why) in [
        (good.replace("refuses more than 5000", " "), "no reason"),
        (good.replace("pull.capped", "pull.no_such"), "there is no check"),
        (good.replace("seed.pull.max_bundles", "seed.health"), "does not cover"),
    ] {
        let said = with(&bad).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
}
