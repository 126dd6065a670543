//! What a check is, and how it ends.

use crate::lab::{Checked, Lab};

/// How much a failure weighs (protocol §11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The seed: failing is non-conformance.
    Must,
    /// Stricter rules: failing is a weakness.
    Should,
    /// Additions: probed, and skipped where they are not offered.
    May,
}

impl Level {
    /// In reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::May => "may",
        }
    }
}

/// One question to a backend.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Stable. The part before the first dot is its area.
    pub id: &'static str,
    /// How much it weighs.
    pub level: Level,
    /// What is asked, in one line.
    pub about: &'static str,
    /// The statements that it covers.
    pub covers: &'static [&'static str],
    /// With `should`: what a failure means for users.
    pub consequence: &'static str,
    /// Left out of a quick run: it waits, or sends much.
    pub slow: bool,
    /// The question itself.
    pub run: fn(&Lab<'_>) -> Checked,
}

impl Check {
    /// The part of the id before the first dot.
    #[must_use]
    pub fn area(&self) -> &'static str {
        self.id.split('.').next().unwrap_or(self.id)
    }

    pub(crate) const fn must(
        id: &'static str,
        about: &'static str,
        covers: &'static [&'static str],
        run: fn(&Lab<'_>) -> Checked,
    ) -> Self {
        Self { id, level: Level::Must, about, covers, consequence: "", slow: false, run }
    }

    pub(crate) const fn should(
        id: &'static str,
        about: &'static str,
        covers: &'static [&'static str],
        consequence: &'static str,
        run: fn(&Lab<'_>) -> Checked,
    ) -> Self {
        Self { id, level: Level::Should, about, covers, consequence, slow: false, run }
    }

    pub(crate) const fn may(
        id: &'static str,
        about: &'static str,
        covers: &'static [&'static str],
        run: fn(&Lab<'_>) -> Checked,
    ) -> Self {
        Self { id, level: Level::May, about, covers, consequence: "", slow: false, run }
    }

    pub(crate) const fn slow(mut self) -> Self {
        self.slow = true;
        self
    }
}
