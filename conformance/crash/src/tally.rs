//! Kills that landed with work in flight, by phase and process.

use std::collections::{BTreeMap, BTreeSet};

/// The table that is printed at the end.
#[derive(Default)]
pub(crate) struct Tally {
    phases: Vec<String>,
    counts: BTreeMap<(String, String), Count>,
}

#[derive(Default, Clone, Copy)]
struct Count {
    landed: usize,
    idle: usize,
}

impl Tally {
    /// Kills of this process in this phase are a part of the plan.
    pub(crate) fn expect(&mut self, phase: &str, process: &str) {
        if !self.phases.iter().any(|p| p == phase) {
            self.phases.push(phase.to_owned());
        }
        self.counts.entry((phase.to_owned(), process.to_owned())).or_default();
    }

    /// A kill; it counts where work was in flight.
    pub(crate) fn kill(&mut self, phase: &str, process: &str, work: bool) {
        self.expect(phase, process);
        let count = self.counts.entry((phase.to_owned(), process.to_owned())).or_default();
        if work { count.landed += 1 } else { count.idle += 1 }
    }

    /// What was planned and did not come to be: a process that was never killed in a phase of its, a phase
    /// with fewer than `each` kills, fewer than `in_all` together.
    pub(crate) fn missing(&self, each: usize, in_all: usize) -> Vec<String> {
        let zeros = self.counts.iter().filter(|(_, count)| count.landed == 0);
        let mut out: Vec<String> =
            zeros.map(|((phase, process), _)| format!("{process} was never killed in: {phase}")).collect();
        let few = self.phases.iter().map(|phase| (phase, self.of(phase))).filter(|(_, n)| *n < each);
        out.extend(few.map(|(phase, n)| format!("{n} kills of at least {each} in: {phase}")));
        if self.landed() < in_all {
            out.push(format!("{} kills of at least {in_all} in all", self.landed()));
        }
        out
    }

    fn of(&self, phase: &str) -> usize {
        self.counts.iter().filter(|((p, _), _)| p == phase).map(|(_, count)| count.landed).sum()
    }

    /// Kills that counted.
    pub(crate) fn landed(&self) -> usize {
        self.counts.values().map(|count| count.landed).sum()
    }

    /// A line a phase, a column a process.
    pub(crate) fn table(&self) -> String {
        let processes: BTreeSet<&String> = self.counts.keys().map(|(_, process)| process).collect();
        let mut out = format!("{:<36}", "kills with work in flight");
        for process in &processes {
            out.push_str(&format!("{process:>8}"));
        }
        out.push_str(&format!("{:>8}", "all"));
        for phase in &self.phases {
            out.push_str(&format!("\n{phase:<36}"));
            for process in &processes {
                let cell = self.counts.get(&(phase.clone(), (*process).clone()));
                out.push_str(&format!("{:>8}", cell.map_or_else(|| "-".to_owned(), |c| c.landed.to_string())));
            }
            out.push_str(&format!("{:>8}", self.of(phase)));
        }
        let idle: usize = self.counts.values().map(|count| count.idle).sum();
        format!("{out}\n({idle} more kills landed while nothing was in flight, and do not count)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planned_kill_that_never_landed_is_named() {
        let mut tally = Tally::default();
        tally.expect("staged", "a");
        tally.kill("staged", "b", true);
        tally.kill("frozen", "a", false);
        assert_eq!(tally.landed(), 1);
        let missing = tally.missing(0, 0);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(tally.table().contains("(1 more"), "{}", tally.table());
    }

    #[test]
    fn a_phase_with_too_few_kills_is_named() {
        let mut tally = Tally::default();
        for process in ["a", "b", "server"] {
            tally.kill("frozen", process, true);
        }
        tally.kill("frozen", "a", false);
        assert_eq!(tally.missing(3, 3), [""; 0]);
        assert_eq!(tally.missing(4, 3), ["3 kills of at least 4 in: frozen"]);
        assert_eq!(tally.missing(3, 4), ["3 kills of at least 4 in all"]);
    }
}
