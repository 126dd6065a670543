//! Real devices: they end alike on our server, what a broken one does to them is told, and a program that
//! does not ask for them is built without SQLite and without our client and server.

use std::process::Command;

use sync_conformance::checks;
use sync_conformance::run::{self, Options, Verdict};

use crate::server::{Ours, subject};

#[test]
fn devices_end_alike_on_our_server() {
    let ours = Ours::start();
    for seed in [1, 2, 3] {
        let mut subject = subject(&ours.url(), &format!("replica-{seed}"));
        subject.seed = seed;
        let options = Options { filter: vec!["replica".to_owned()], ..Options::default() };
        let findings = run::run(&subject, &options, &|_| {});
        assert_eq!(findings.len(), 5);
        for f in &findings {
            assert!(matches!(f.verdict, Verdict::Pass), "{} with seed {seed}: {:?}", f.check.id, f.verdict);
            let commits = f.exchanges.iter().filter(|e| e.path.ends_with("/commit") && e.status == 200).count();
            assert!(commits >= 3, "{} commits {commits} times", f.check.id);
        }
        let refused = findings.iter().flat_map(|f| &f.exchanges).filter(|e| e.status == 409).count();
        assert!(refused > 0, "devices meet conflicts");
    }
}

#[test]
fn the_default_program_has_neither_sqlite_nor_our_client_and_server() {
    let tree = |more: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--package", "sync-conformance", "--edges", "normal,build", "--prefix", "none", "--offline"])
            .args(more)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let names = ["rusqlite", "libsqlite3-sys", "sync-client", "sync-server", "tokio"];
    let has = |tree: &str, name: &str| tree.lines().any(|l| l.split_whitespace().next() == Some(name));
    let bare = tree(&[]);
    assert!(has(&bare, "sync-core") && has(&bare, "ureq"), "{bare}");
    for name in names {
        assert!(!has(&bare, name), "{name} in\n{bare}");
    }
    let whole = tree(&["--features", "replica"]);
    assert!(has(&whole, "rusqlite") && has(&whole, "sync-client") && !has(&whole, "sync-server"), "{whole}");
}

#[test]
fn the_checks_are_listed_in_every_program() {
    let listed = checks::all().iter().filter(|c| c.area() == "replica").count();
    let chosen = Options { filter: vec!["replica".to_owned()], ..Options::default() }.choose().len();
    assert_eq!((listed, chosen), (5, if checks::REPLICA { 5 } else { 0 }));
}
