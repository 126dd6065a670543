//! What a run went through, by name: a simulator that never reaches a state proves nothing about it.

use std::collections::BTreeMap;

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

    /// One line a group, then one a name.
    #[must_use]
    pub fn table(&self) -> String {
        self.0.iter().map(|(name, n)| format!("{n:>10}  {name}\n")).collect()
    }
}
