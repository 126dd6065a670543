//! What a run went through, by name: a simulator that never reaches a state proves nothing about it.

use std::collections::BTreeMap;

use sync_client::context::FaultPoint as ClientPoint;
use sync_server::service::FaultPoint as ServerPoint;

use crate::app::Kind;
use crate::hooks::Phase;
use crate::plan::{Fault, Migration, Verb};

/// Counts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cover(pub BTreeMap<String, u64>);

impl Cover {
    /// Counts one more.
    pub fn hit(&mut self, group: &str, name: &str) {
        *self.0.entry(format!("{group}: {name}")).or_default() += 1;
    }

    /// Adds what another run went through.
    pub fn add(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            *self.0.entry(name.clone()).or_default() += n;
        }
    }

    /// How often.
    #[must_use]
    pub fn count(&self, group: &str, name: &str) -> u64 {
        self.0.get(&format!("{group}: {name}")).copied().unwrap_or(0)
    }

    /// The sum of a group.
    #[must_use]
    pub fn total(&self, group: &str) -> u64 {
        let prefix = format!("{group}: ");
        self.0.iter().filter(|(n, _)| n.starts_with(&prefix)).map(|(_, n)| n).sum()
    }

    /// One line a name, in groups.
    #[must_use]
    pub fn table(&self) -> String {
        self.0.iter().map(|(name, n)| format!("{n:>10}  {name}\n")).collect()
    }

    /// What has to occur in a long run and did not.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        required().into_iter().filter(|name| !self.0.contains_key(name)).collect()
    }
}

/// Everything that a long run has to go through: each operation, fault and fault point, each pair of a fault
/// and a phase in which it can happen, and each thing that the engine can decide.
fn required() -> Vec<String> {
    let mut out = Vec::new();
    let mut all = |group: &str, names: &mut dyn Iterator<Item = String>| {
        out.extend(names.map(|name| format!("{group}: {name}")));
    };
    let words = |s: &'static str| s.split_whitespace().map(str::to_owned);
    all("step", &mut words(STEPS));
    all("sql done", &mut Kind::ALL.iter().map(|k| format!("{k:?}")));
    all("migration", &mut Migration::ALL.iter().map(|m| format!("{m:?}")));
    all("verb", &mut Verb::ALL.iter().map(|v| format!("{v:?}")));
    all("client", &mut ClientPoint::ALL.iter().map(|p| p.name().to_owned()));
    all("server", &mut ServerPoint::ALL.iter().map(|p| p.name().to_owned()));
    all("server dies", &mut ServerPoint::ALL.iter().map(|p| p.name().to_owned()));
    all("fault", &mut Fault::NAMES.iter().map(|f| (*f).to_owned()));
    for phase in Phase::ALL {
        all("pair", &mut phase.faults().map(|f| format!("{f} × {}", phase.name())));
    }
    for (group, names) in DECIDED {
        all(group, &mut names.iter().map(|n| (*n).to_owned()));
    }
    out
}

const STEPS: &str = "app verb wait reopen restart_server backup restore wipe away back replace backup_device restore_device \
    copy_device migrate migrate_server detach inbox switch_user damage drop_trigger retain";

/// What the engine can decide: how a file is attached, how an outbox moves on, what becomes of a conflict.
const DECIDED: &[(&str, &[&str])] = &[
    ("attached", &["Empty", "Merged", "Resumed", "RetryLater", "Seeding", "TookRemote"]),
    (
        "outbox",
        &[
            "none -> none",
            "none -> frozen",
            "none -> sent",
            "none -> committed",
            "frozen -> none",
            "frozen -> frozen",
            "frozen -> sent",
            "frozen -> committed",
            "sent -> none",
            "sent -> frozen",
            "sent -> sent",
            "sent -> committed",
            "committed -> none",
            "committed -> frozen",
            "committed -> sent",
            "committed -> committed",
        ],
    ),
    (
        "settled",
        &[
            "conflict came_back",
            "conflict client_wins",
            "conflict kept",
            "conflict merge_columns",
            "conflict rekeyed",
            "conflict resolver",
            "discarded detached",
            "discarded dropped",
            "discarded exported",
            "discarded import",
            "discarded merge_columns",
            "discarded parent_deleted",
            "discarded removed_by_server",
            "discarded resolver",
            "discarded server_wins",
            "discarded still_referred_to",
            "discarded take_remote",
            "discarded unique",
            "discarded verify",
            "rejected parent_deleted",
            "rejected unique",
        ],
    ),
    ("rule", &["own row", "own row taken", "another row", "another row made", "another row taken"]),
    ("rejection", &["foreign_key", "unique", "rule", "no_effect"]),
    ("import", &["taken up", "refused"]),
    ("damage", &["mended", "pushed"]),
    ("within", &["more", "done"]),
    ("cache", &["old page"]),
    ("helpers", &["compared"]),
    ("copy", &["copy", "merge"]),
    ("history", &["without data", "data back", "file replaced"]),
    ("trigger", &["dropped"]),
    ("way", &["no names", "no words", "filter", "narrow"]),
];
