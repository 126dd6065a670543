//! Runs checks against a subject, several at a time.

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::check::{Check, Level};
use crate::lab::{Exchange, Lab, Stop};
use crate::subject::Subject;

/// How one check came out.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// As the protocol says.
    Pass,
    /// Not as the protocol says.
    Fail {
        /// What the protocol says.
        expected: String,
        /// What came.
        got: String,
    },
    /// Fails, as the profile says that it does.
    Excluded(String),
    /// Passes although the profile says that it does not.
    Stale(String),
    /// The backend does not have what the check is about.
    NotOffered(String),
    /// Nothing can be said.
    Inconclusive(String),
}

impl Verdict {
    /// In reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail { .. } => "fail",
            Self::Excluded(_) => "excluded",
            Self::Stale(_) => "stale exclusion",
            Self::NotOffered(_) => "not offered",
            Self::Inconclusive(_) => "inconclusive",
        }
    }
}

/// A check with its verdict.
#[derive(Debug)]
pub struct Finding {
    /// The check.
    pub check: Check,
    /// How it came out.
    pub verdict: Verdict,
    /// What was said.
    pub exchanges: Vec<Exchange>,
    /// The users that it made up.
    pub users: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Which checks, and how many at a time.
#[derive(Debug, Clone)]
pub struct Options {
    /// Ids, or beginnings of ids that end at a dot; none for all.
    pub filter: Vec<String>,
    /// Leave out what waits or sends much.
    pub quick: bool,
    /// Checks at a time.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { filter: Vec::new(), quick: false, threads: 4 }
    }
}

impl Options {
    /// The checks that these options choose, in the order of the catalogue. Those with real devices are
    /// among them where they are built in ([`crate::checks::REPLICA`]).
    #[must_use]
    pub fn choose(&self) -> Vec<Check> {
        let wanted = |c: &Check| {
            let named = |f: &String| {
                let f = f.trim_end_matches(['*', '.']);
                c.id == f || c.id.strip_prefix(f).is_some_and(|rest| rest.starts_with('.'))
            };
            let built = c.area() != "replica" || crate::checks::REPLICA;
            (self.filter.is_empty() || self.filter.iter().any(named)) && !(self.quick && c.slow) && built
        };
        crate::checks::all().into_iter().filter(wanted).collect()
    }
}

/// Runs the chosen checks; `progress` hears of each as it ends. Findings come in the catalogue's order.
pub fn run(subject: &Subject, options: &Options, progress: &(dyn Fn(&Finding) + Sync)) -> Vec<Finding> {
    let checks = options.choose();
    // What waits begins first, so that it ends with the rest.
    let mut order: Vec<usize> = (0..checks.len()).collect();
    order.sort_by_key(|i| !checks[*i].slow);
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.clamp(1, checks.len().max(1)) {
            scope.spawn(|| {
                while let Some(i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let finding = one(subject, &checks[*i]);
                    progress(&finding);
                    found.lock().expect("invariant: no panic while the findings are held").push((*i, finding));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("invariant: no panic while the findings are held");
    found.sort_by_key(|(i, _)| *i);
    found.into_iter().map(|(_, f)| f).collect()
}

/// Runs one check.
pub fn one(subject: &Subject, check: &Check) -> Finding {
    let begun = Instant::now();
    let time = if check.slow { SLOW + subject.patience } else { DEADLINE };
    let lab = Lab::new(subject, check.id, time);
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| (check.run)(&lab)))
        .unwrap_or_else(|_| Err(Stop::Inconclusive("the check itself broke; this is a fault of the suite".to_owned())));
    let exclusion = subject.profile.exclude.iter().find(|e| e.check == check.id);
    let verdict = match (result, exclusion) {
        (Ok(()), None) => Verdict::Pass,
        (Ok(()), Some(e)) => Verdict::Stale(e.reason.clone()),
        (Err(Stop::Fail { .. }), Some(e)) => Verdict::Excluded(e.reason.clone()),
        (Err(Stop::Fail { expected, got }), None) => Verdict::Fail { expected, got },
        (Err(Stop::NotOffered(why)), _) => Verdict::NotOffered(why),
        (Err(Stop::Inconclusive(why)), _) => Verdict::Inconclusive(why),
    };
    Finding { check: *check, verdict, exchanges: lab.exchanges(), users: lab.users(), took: begun.elapsed() }
}

/// Whether the backend conforms: no must failed and no exclusion is stale. Strictly: nothing failed
/// at all, and everything could be judged.
#[must_use]
pub fn conforms(findings: &[Finding], strict: bool) -> bool {
    !findings.iter().any(|f| match f.verdict {
        Verdict::Fail { .. } => strict || f.check.level == Level::Must,
        Verdict::Stale(_) => true,
        Verdict::Inconclusive(_) => strict,
        _ => false,
    })
}

const DEADLINE: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_secs(120);
