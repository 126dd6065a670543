//! A load of many users and devices: what it costs, and whether the protocol holds meanwhile.
//!
//! Each device edits rows, pushes, pulls and reads snapshots in turn, as fast as it gets replies. All of
//! them hold whatever they are served against what was pushed; at the end the whole history is gone
//! through, and the devices of each user must have the same rows.

mod device;
mod ledger;
mod meter;
mod report;

use std::sync::Mutex;
use std::time::Duration;

use self::device::{Worker, difference};
use self::ledger::Ledger;
use self::meter::Measured;
pub(crate) use self::meter::Meter;
pub use self::report::{json, text};
use crate::lab::{Checked, Device, Exchange, Lab, Stop, want};
use crate::profile::Table;
use crate::random::Random;
use crate::subject::Subject;

/// How much of what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Fresh users.
    pub users: usize,
    /// Devices of each.
    pub devices: usize,
    /// Rows of a push.
    pub rows: usize,
    /// Bytes of a row's text.
    pub bytes: usize,
    /// What devices do how often.
    pub mix: Mix,
    /// The load ends after so long at the latest ...
    pub time: Duration,
    /// ... and after so many requests.
    pub requests: u64,
}

/// Weights of what a device does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Edit rows and push them.
    pub push: u64,
    /// Pull what is new.
    pub pull: u64,
    /// Read a snapshot, as a new device does.
    pub snapshot: u64,
}

impl std::str::FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Self { push: 0, pull: 0, snapshot: 0 };
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or("say push=6,pull=3,snapshot=1")?;
            let weight = weight.trim().parse::<u32>().map_err(|e| format!("{part}: {e}"))?.into();
            match name.trim() {
                "push" => mix.push = weight,
                "pull" => mix.pull = weight,
                "snapshot" => mix.snapshot = weight,
                other => return Err(format!("{other} is none of push, pull, snapshot")),
            }
        }
        if mix.push + mix.pull + mix.snapshot == 0 { Err("all weights are 0".to_owned()) } else { Ok(mix) }
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "push={},pull={},snapshot={}", self.push, self.pull, self.snapshot)
    }
}

/// A promise of the protocol that was not kept.
#[derive(Debug, Clone)]
pub struct Violation {
    /// What the protocol says.
    pub expected: String,
    /// What came.
    pub got: String,
    /// Whose device saw it.
    pub user: String,
    /// The last requests of that user's devices.
    pub exchanges: Vec<Exchange>,
}

/// What devices did.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    bundles_pushed: u64,
    rows_pushed: u64,
    bundles_pulled: u64,
    rows_pulled: u64,
    conflicts: u64,
    /// History was pruned: a snapshot was read in its place.
    rebuilds: u64,
    /// Pushes whose fate nobody can tell.
    lost: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.bundles_pushed += other.bundles_pushed;
        self.rows_pushed += other.rows_pushed;
        self.bundles_pulled += other.bundles_pulled;
        self.rows_pulled += other.rows_pulled;
        self.conflicts += other.conflicts;
        self.rebuilds += other.rebuilds;
        self.lost += other.lost;
    }
}

/// How a load came out.
#[derive(Debug)]
pub struct Outcome {
    plan: Plan,
    /// The load itself, without the comparison at its end.
    took: Duration,
    counts: Counts,
    measured: Measured,
    seed: u64,
    /// Requests a second, where they are bounded.
    bound: Option<u32>,
    /// What was not kept.
    pub violations: Vec<Violation>,
    /// Users whose devices could not be compared, and why.
    pub not_compared: Vec<(String, String)>,
}

impl Outcome {
    /// The program's exit status: 0 nothing violated, 1 something was, 2 it could not be seen.
    #[must_use]
    pub fn status(&self) -> u8 {
        match (self.violations.is_empty(), self.not_compared.is_empty()) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 0,
        }
    }

    /// Requests of the load that were sent.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.measured.requests
    }

    /// Requests of the comparison after it.
    #[must_use]
    pub const fn settling(&self) -> u64 {
        self.measured.settling
    }
}

/// Puts a load on the backend.
///
/// # Errors
/// Why it cannot be done: no table to write to, no tokens, more devices than there can be threads.
pub fn run(subject: &Subject, plan: &Plan) -> Result<Outcome, String> {
    let all = plan.users.saturating_mul(plan.devices);
    if !(1..=MOST_DEVICES).contains(&all) {
        return Err(format!("users times devices must be 1 to {MOST_DEVICES}, not {all}"));
    }
    if plan.rows == 0 {
        return Err("a push has 1 row or more".to_owned());
    }
    let meter = Meter::new(plan.requests, plan.time, SETTLE);
    let labs: Vec<Lab<'_>> = (0..plan.users).map(|_| Lab::metered(subject, &meter)).collect();
    let mut users = Vec::new();
    for lab in &labs {
        let why = |stop| match stop {
            Stop::Fail { got, .. } => got,
            Stop::NotOffered(why) | Stop::Inconclusive(why) => why,
        };
        let table = lab.plain().map_err(why)?;
        let device = lab.user().map_err(why)?;
        // As our own devices ask, where they can.
        let device = if subject.exact() { device.exact() } else { device };
        let ledger = Mutex::new(Ledger::new(device.user_id(), table, plan.bytes));
        users.push((device, table, ledger));
    }
    let meter = &meter;
    let begun = meter.begin();
    let mut teams: Vec<Vec<(Worker<'_>, Checked)>> = std::thread::scope(|scope| {
        let teams: Vec<_> =
            users.iter().enumerate().map(|(n, user)| start(scope, subject, meter, plan, n, user)).collect();
        let join = |team: Vec<std::thread::ScopedJoinHandle<'_, _>>| {
            team.into_iter().map(|h| h.join().expect("invariant: devices do not panic")).collect()
        };
        teams.into_iter().map(join).collect()
    });
    let took = begun.elapsed();
    meter.settle();
    let mut outcome = Outcome {
        plan: plan.clone(),
        seed: subject.seed,
        took,
        counts: Counts::default(),
        measured: Measured::default(),
        bound: Some(subject.profile.requests_per_second).filter(|n| *n > 0),
        violations: Vec::new(),
        not_compared: Vec::new(),
    };
    for team in &teams {
        team.iter().for_each(|(worker, _)| outcome.counts.add(&worker.counts));
    }
    let ends: Vec<Checked> = std::thread::scope(|scope| {
        let ends: Vec<_> =
            users.iter().zip(&mut teams).map(|((_, _, ledger), team)| scope.spawn(|| settle(team, ledger))).collect();
        ends.into_iter().map(|h| h.join().expect("invariant: devices do not panic")).collect()
    });
    for ((lab, (device, ..)), (team, end)) in labs.iter().zip(&users).zip(teams.into_iter().zip(ends)) {
        let stops = team.into_iter().filter_map(|(_, result)| result.err()).chain(end.err());
        for stop in stops {
            outcome.stopped(lab, device, stop);
        }
    }
    outcome.measured = meter.measured().clone();
    Ok(outcome)
}

impl Outcome {
    fn stopped(&mut self, lab: &Lab<'_>, device: &Device<'_>, stop: Stop) {
        let user = device.user_id().to_owned();
        match stop {
            Stop::Fail { expected, got } => {
                self.violations.push(Violation { expected, got, user, exchanges: lab.exchanges() });
            }
            Stop::NotOffered(why) | Stop::Inconclusive(why) => self.not_compared.push((user, why)),
        }
    }
}

type User<'l> = (Device<'l>, &'l Table, Mutex<Ledger<'l>>);
type Team<'scope, 'l> = Vec<std::thread::ScopedJoinHandle<'scope, (Worker<'l>, Checked)>>;

/// Sets the devices of a user to work.
fn start<'scope, 'l: 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    subject: &Subject,
    meter: &'l Meter,
    plan: &'l Plan,
    user: usize,
    (device, table, ledger): &'l User<'l>,
) -> Team<'scope, 'l> {
    let worker = |number: usize| {
        let device = device.source(&ledger::source(number));
        let random = Random::new(subject.seed, (user * plan.devices + number) as u64);
        let mut worker = Worker::new(device, number, table, ledger, meter, plan, random);
        scope.spawn(move || {
            let result = worker.work();
            (worker, result)
        })
    };
    (0..plan.devices).map(worker).collect()
}

/// All devices of a user pull what is left; then history, devices and snapshot must tell the same.
fn settle(team: &mut [(Worker<'_>, Checked)], ledger: &Mutex<Ledger<'_>>) -> Checked {
    if team.iter().any(|(_, result)| result.is_err()) {
        // It was said already what is wrong.
        return Ok(());
    }
    for (worker, _) in team.iter_mut() {
        worker.settle()?;
    }
    let latest = team[0].0.checkpoint();
    let lost: u64 = team.iter().map(|(w, _)| w.counts.lost).sum();
    if lost > 0 {
        return Err(Stop::Inconclusive(format!("{lost} pushes were pruned before their reply came")));
    }
    let live = ledger.lock().expect("invariant: no panic while the ledger is held").history(latest)?;
    for (worker, _) in team.iter() {
        let same = worker.checkpoint() == latest;
        want!(same, "all devices reach the newest bundle", "{} and {latest}", worker.checkpoint());
        let own = worker.live();
        let expected = "all devices of a user end with the rows that were committed";
        want!(own == live, expected, "{}", difference(&own, &live));
    }
    let (seq, served) = team[0].0.served()?;
    want!(seq == latest, "a snapshot stands at the newest bundle", "{seq} not {latest}");
    let expected = "a snapshot holds the rows that were committed";
    want!(served == live, expected, "{}", difference(&served, &live));
    Ok(())
}

/// A thread each.
const MOST_DEVICES: usize = 1000;
/// Time for the comparison at the end.
const SETTLE: Duration = Duration::from_secs(120);
