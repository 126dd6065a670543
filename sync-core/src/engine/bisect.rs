//! Finding refused rows where the server names none (case P6): bundles of fewer and fewer rows, and a
//! row is only called refused when the server was seen to commit before and after it failed alone.
//!
//! Rows are numbered in groups that cannot be parted ([`super::ties`]). A range of groups that failed
//! is halved until one group fails alone: a *suspect*. It is kept back and the rest is sent. Once
//! something committed, the suspect is tried again, twice; if it fails again, the next bundle that commits
//! without it is the proof. So one outage, whenever it begins and ends, makes no row refused, and while nothing
//! commits nobody is. Two groups, the *witnesses*, are kept for the end, so that something is left to commit.

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
    /// How often it failed alone while the server was seen to commit others.
    strikes: u8,
}

impl Suspect {
    /// Only a bundle that commits without it is wanting.
    const fn is_strong(self) -> bool {
        self.strikes >= 2
    }
}

/// Where the search stands. Small, and kept in the file between two bundles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bisect {
    /// The range that holds a row that fails: from `low` to below `high`.
    low: i64,
    high: i64,
    /// Whether nothing but this range was in the bundle whose failure gave it its end.
    whole: bool,
    /// The next number for a group.
    next: i64,
    witnesses: Vec<i64>,
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
        self.low >= self.high && self.suspects.is_empty() && self.misses == 0
    }

    /// What may be taken next, best first: the first of these that has rows.
    #[must_use]
    pub fn choices(&self) -> Vec<Take> {
        let weak = self.suspects.iter().filter(|s| self.up && !s.is_strong());
        let mut out: Vec<Take> = weak.map(|s| Take::Kept(s.group)).collect();
        if self.low < self.high {
            out.push(Take::Range(self.low, i64::midpoint(self.low, self.high + 1)));
            return out;
        }
        // A suspect that was found while nothing committed: whether the server commits anything is asked first.
        let first = self.witnesses.first().filter(|_| !self.up && !self.suspects.is_empty());
        out.extend(first.copied().map(Take::Kept));
        out.push(Take::Rest);
        out.extend(self.witnesses.iter().copied().map(Take::Kept));
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
        self.witnesses.retain(|w| *w != group);
    }

    /// The first number for the groups of a rest that failed.
    #[must_use]
    pub const fn next_group(&self) -> i64 {
        self.next
    }

    /// How many of the last of so many groups become witnesses, if a rest of them fails now.
    #[must_use]
    pub const fn wanted_witnesses(&self, groups: i64) -> i64 {
        let most = match groups {
            ..=2 => 0,
            3 => 1,
            _ => 2,
        };
        let wanted = most - self.witnesses.len() as i64;
        if wanted > 0 { wanted } else { 0 }
    }

    /// The rest failed: it is searched, in this many groups from [`Bisect::next_group`] on. The last
    /// `witnesses` of them are kept back; no more than [`Bisect::wanted_witnesses`].
    pub fn rest_failed(&mut self, groups: i64, witnesses: i64) -> Failed {
        self.misses = self.misses.saturating_add(1);
        self.up = false;
        self.groups = self.groups.max(groups);
        let (low, high) = (self.next, self.next + groups);
        self.next = high;
        if groups == 1 {
            self.suspects.push(Suspect { group: low, strikes: 0 });
            return Failed { keep: vec![low], go_on: !self.witnesses.is_empty() && self.worth_it() };
        }
        let end = high - witnesses;
        let keep: Vec<i64> = (end..high).collect();
        self.witnesses.extend(&keep);
        (self.low, self.high, self.whole) = (low, end, keep.is_empty());
        Failed { keep, go_on: self.worth_it() }
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
                // All others of a bundle that had failed have committed since: this counts.
                self.up = was_up && self.whole && middle - low == 1 && self.high == middle;
                if middle - low > 1 {
                    (self.high, self.whole) = (middle, true);
                    return Failed { keep: Vec::new(), go_on: self.worth_it() };
                }
                (self.low, self.high) = (0, 0);
                self.suspects.push(Suspect { group: low, strikes: u8::from(self.up) });
                Failed { keep: vec![low], go_on: self.worth_it() }
            }
            Take::Kept(group) => {
                let before = self.suspects.iter().find(|s| s.group == group).copied();
                let learned = was_up && before.is_some_and(|s| !s.is_strong());
                if learned {
                    self.suspects.iter_mut().filter(|s| s.group == group).for_each(|s| s.strikes += 1);
                } else {
                    self.misses = self.misses.saturating_add(1);
                    self.up = false;
                    // The others have their turn before it.
                    self.forget(group);
                    self.suspects.push(before.unwrap_or(Suspect { group, strikes: 0 }));
                }
                Failed { keep: vec![group], go_on: learned || (before.is_none() && self.worth_it()) }
            }
            Take::Rest => Failed { keep: Vec::new(), go_on: self.worth_it() },
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
        let refused: Vec<i64> = self.suspects.iter().filter(|s| s.is_strong()).map(|s| s.group).collect();
        self.suspects.retain(|s| !s.is_strong());
        refused
    }
}

/// What follows from a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The groups that are kept back from now on.
    pub keep: Vec<i64>,
    /// Whether the next bundle is worth sending at once: something was learned, and the server does not look as if
    /// it failed for everything.
    pub go_on: bool,
}

#[cfg(test)]
mod tests;
