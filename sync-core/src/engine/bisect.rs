//! Finding refused rows where the server names none (case P6): bundles of fewer and fewer rows, and a
//! row is only called refused when the server was seen to commit before and after it failed alone.
//!
//! Rows are numbered in groups that cannot be parted ([`super::ties`]). A range of groups that failed
//! is halved until one group fails alone: a *suspect*. It is kept back and the rest is sent. Once
//! something committed, the suspect is tried again, alone; if it fails again, the next bundle that commits
//! without it is the proof. So one outage, whenever it begins and ends, makes no row refused, and while nothing
//! commits nobody is. One group, the *witness*, is kept for the end, so that something is left to commit.

use serde::{Deserialize, Serialize};

/// What the next bundle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Take {
    /// Everything that is not kept back.
    Rest,
    /// The groups from the first number to below the second.
    Range(i64, i64),
    /// One group that is kept back.
    Kept(i64),
}

/// A group that failed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    group: i64,
    /// It failed, something committed, and it failed again, alone.
    strong: bool,
}

/// Where the search stands. Small, and kept in the file between two bundles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bisect {
    /// The range that holds a row that fails: from `low` to below `high`.
    low: i64,
    high: i64,
    /// The next number for a group.
    next: i64,
    witness: Option<i64>,
    suspects: Vec<Suspect>,
    /// Whether the last bundle committed, the repeated trials of suspects left aside.
    up: bool,
    /// Failures since something last committed, the same left aside.
    misses: u32,
    /// Groups in the largest rest that failed.
    groups: i64,
    /// What was taken for the bundle in flight.
    taken: Option<Take>,
}

impl Bisect {
    /// Whether there is nothing to search for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.low >= self.high && self.suspects.is_empty()
    }

    /// What may be taken next, best first: the first of these that has rows.
    #[must_use]
    pub fn choices(&self) -> Vec<Take> {
        let weak = self.suspects.iter().filter(|s| self.up && !s.strong);
        let mut out: Vec<Take> = weak.map(|s| Take::Kept(s.group)).collect();
        if self.low < self.high {
            out.push(Take::Range(self.low, i64::midpoint(self.low, self.high + 1)));
            return out;
        }
        // A suspect that was found while nothing committed: whether the server commits anything is asked first.
        let first = self.witness.filter(|_| !self.up && !self.suspects.is_empty());
        out.extend(first.map(Take::Kept));
        out.push(Take::Rest);
        out.extend(self.witness.map(Take::Kept));
        out.extend(self.suspects.iter().map(|s| Take::Kept(s.group)));
        out
    }

    /// Says what was taken.
    pub const fn take(&mut self, taken: Take) {
        self.taken = Some(taken);
    }

    /// What was taken for the bundle in flight.
    #[must_use]
    pub fn taken(&self) -> Take {
        self.taken.unwrap_or(Take::Rest)
    }

    /// What could have been taken had no rows any more: that says nothing about the server.
    pub fn nothing_in(&mut self, take: Take) {
        match take {
            Take::Range(_, middle) => self.low = middle,
            Take::Kept(group) => self.forget(group),
            Take::Rest => {}
        }
    }

    fn forget(&mut self, group: i64) {
        self.suspects.retain(|s| s.group != group);
        if self.witness == Some(group) {
            self.witness = None;
        }
    }

    /// The first number for the groups of a rest that failed.
    #[must_use]
    pub const fn next_group(&self) -> i64 {
        self.next
    }

    /// The rest failed: it is searched, in this many groups from [`Bisect::next_group`] on. The last of three or
    /// more is kept back as the witness, where there is none.
    pub fn rest_failed(&mut self, groups: i64) -> Failed {
        self.misses = self.misses.saturating_add(1);
        self.up = false;
        self.groups = self.groups.max(groups);
        let (low, high) = (self.next, self.next + groups);
        self.next = high;
        if groups == 1 {
            self.suspects.push(Suspect { group: low, strong: false });
            return Failed { keep: Some(low), go_on: self.witness.is_some() && self.worth_it() };
        }
        let witness = (groups > 2 && self.witness.is_none()).then_some(high - 1);
        self.witness = self.witness.or(witness);
        (self.low, self.high) = (low, if witness.is_some() { high - 1 } else { high });
        Failed { keep: witness, go_on: self.worth_it() }
    }

    /// Whether the server does not look as if it failed for everything.
    fn worth_it(&self) -> bool {
        self.misses <= 2 * (u64::try_from(self.groups).unwrap_or(0).max(2).ilog2() + 3)
    }

    /// A bundle failed that was not the rest.
    pub fn failed(&mut self, take: Take) -> Failed {
        let was_up = self.up;
        match take {
            Take::Range(low, middle) => {
                self.misses = self.misses.saturating_add(1);
                self.up = false;
                if middle - low > 1 {
                    self.high = middle;
                    return Failed { keep: None, go_on: self.worth_it() };
                }
                // All others of a bundle that had failed have committed since: it failed twice.
                let strong = was_up && self.high == middle;
                (self.low, self.high) = (0, 0);
                self.suspects.push(Suspect { group: low, strong });
                Failed { keep: Some(low), go_on: self.worth_it() }
            }
            Take::Kept(group) => {
                let before = self.suspects.iter().find(|s| s.group == group).copied();
                self.forget(group);
                let strong = before.is_some_and(|s| s.strong || was_up);
                self.suspects.push(Suspect { group, strong });
                let learned = strong && before.is_some_and(|s| !s.strong);
                if !learned {
                    self.misses = self.misses.saturating_add(1);
                    self.up = false;
                }
                Failed { keep: Some(group), go_on: learned || (before.is_none() && self.worth_it()) }
            }
            Take::Rest => Failed { keep: None, go_on: self.worth_it() },
        }
    }

    /// A bundle committed. Returns the groups that are proven to be refused; they are forgotten here.
    pub fn committed(&mut self, take: Take) -> Vec<i64> {
        self.up = true;
        self.misses = 0;
        match take {
            Take::Range(_, middle) => self.low = middle,
            Take::Kept(group) => self.forget(group),
            Take::Rest => {}
        }
        let refused: Vec<i64> = self.suspects.iter().filter(|s| s.strong).map(|s| s.group).collect();
        self.suspects.retain(|s| !s.strong);
        refused
    }
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The group that is kept back from now on.
    pub keep: Option<i64>,
    /// Whether the next bundle is worth sending at once: something was learned, and the server does not look as if
    /// it failed for everything.
    pub go_on: bool,
}

#[cfg(test)]
mod tests;
