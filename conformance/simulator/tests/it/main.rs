//! The simulator itself: the same seed is the same run, and plans that failed once do not fail again.

use sync_client::mutant::Mutant;
use sync_simulator::generate;
use sync_simulator::mutants::find;
use sync_simulator::plan::Plan;
use sync_simulator::run::{operations, run};

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2] {
        let plan = generate::plan(seed);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "a plan can be kept in a file");
        let (a, b) = (run(&plan, false), run(&plan, false));
        assert_eq!(a.cover, b.cover);
        assert_eq!(a.violation, b.violation);
        assert!(operations(&a.cover) > 50);
    }
}

/// A plan that failed once, and its story.
#[derive(serde::Deserialize)]
struct Regression {
    story: String,
    plan: Plan,
}

#[test]
fn plans_that_failed_once_pass() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let r: Regression = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert!(!r.story.is_empty());
        let outcome = run(&r.plan, false);
        assert_eq!(outcome.violation, None, "{}: {}", file.display(), r.story);
    }
}

/// Most of them; the command `mutants` has all, which takes longer.
#[test]
fn faults_in_the_client_are_found() {
    for (mutant, seeds) in [
        (Mutant::StaleCheck, 3),
        (Mutant::RebuildForgets, 3),
        (Mutant::WrongDecoder, 5),
        (Mutant::SecondKeyEncoder, 3),
        (Mutant::DetachWipes, 16),
        (Mutant::AttachDiscards, 3),
        (Mutant::Unverified, 15),
        (Mutant::OnePass, 3),
    ] {
        let found = find(mutant, seeds);
        assert!(found.is_some(), "{mutant:?} was not found within {seeds} seeds");
    }
}

/// What judges the engine shares nothing with it.
#[test]
fn the_model_uses_nothing_of_the_engine() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("sync_core::engine"), "{}", path.display());
    }
    for file in ["model.rs", "rules.rs", "wire.rs", "ledger.rs"] {
        let text = std::fs::read_to_string(src.join(file)).unwrap();
        for ours in ["sync_core", "sync_client", "sync_server"] {
            assert!(!text.contains(ours), "{file} uses {ours}");
        }
    }
}
