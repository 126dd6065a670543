//! What a check works with: fresh users, time, and a record of what was said.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::calls::Committed;
pub(crate) use crate::device::{Device, Events, Stream};
use crate::load::Meter;
pub(crate) use crate::reply::{Reply, shown};
use crate::subject::Subject;

/// Why a check did not pass.
#[derive(Debug, Clone)]
pub enum Stop {
    /// The backend did something else than the protocol says.
    Fail {
        /// What the protocol says.
        expected: String,
        /// What came.
        got: String,
    },
    /// The backend does not have what the check is about.
    NotOffered(String),
    /// Nothing can be said: unreachable, overloaded, or too slow to wait for.
    Inconclusive(String),
}

/// How a check ends.
pub type Checked<T = ()> = Result<T, Stop>;

pub(crate) fn fail<T>(expected: impl Into<String>, got: impl Into<String>) -> Checked<T> {
    Err(Stop::Fail { expected: expected.into(), got: got.into() })
}

pub(crate) fn not_offered<T>(why: impl Into<String>) -> Checked<T> {
    Err(Stop::NotOffered(why.into()))
}

/// Fails with what was expected and what came, unless the condition holds.
macro_rules! want {
    ($holds:expr, $expected:expr, $($got:tt)+) => {
        if !$holds {
            return $crate::lab::fail($expected, format!($($got)+));
        }
    };
}
pub(crate) use want;

/// One request and its reply, for the transcript.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// GET, POST, …
    pub method: String,
    /// Below the base URL.
    pub path: String,
    /// Whose token it carried; empty for none.
    pub user: String,
    /// Every header but the token.
    pub headers: Vec<(String, String)>,
    /// The request's body.
    pub body: Vec<u8>,
    /// 0 where no reply came.
    pub status: u16,
    /// The beginning of the reply's body.
    pub reply: String,
}

/// The surroundings of one run of one check.
#[derive(Debug)]
pub struct Lab<'s> {
    /// The backend.
    pub subject: &'s Subject,
    /// With a load: what is left of it, and what is measured.
    pub(crate) meter: Option<&'s Meter>,
    /// What goes out now is to meet: the profile's bound would keep it apart.
    at_once: AtomicBool,
    deadline: Instant,
    purpose: String,
    exchanges: Mutex<Vec<Exchange>>,
    users: Mutex<Vec<String>>,
    commits: Mutex<BTreeMap<(String, i64), Committed>>,
}

impl<'s> Lab<'s> {
    /// Surroundings with so much time.
    #[must_use]
    pub fn new(subject: &'s Subject, purpose: &str, time: Duration) -> Self {
        Self {
            subject,
            meter: None,
            at_once: AtomicBool::new(false),
            deadline: Instant::now() + time,
            purpose: purpose.replace('.', "-"),
            exchanges: Mutex::default(),
            users: Mutex::default(),
            commits: Mutex::default(),
        }
    }

    /// Surroundings of one user's devices under load: the time is the meter's, and of what was said the
    /// last few requests are kept.
    pub(crate) fn metered(subject: &'s Subject, meter: &'s Meter) -> Self {
        Self { meter: Some(meter), ..Self::new(subject, "load", Duration::ZERO) }
    }

    /// Runs the jobs at the same time and gives their results in order. Their requests go out without the profile's
    /// bound, until the backend says that it has one: what is kept apart never meets.
    pub(crate) fn together<T: Send>(&self, jobs: Vec<Job<'_, T>>) -> Vec<T> {
        self.at_once.store(true, Ordering::Relaxed);
        let done = together(jobs);
        self.at_once.store(false, Ordering::Relaxed);
        done
    }

    /// The backend puts requests off for their number.
    pub(crate) fn put_off(&self) {
        self.at_once.store(false, Ordering::Relaxed);
    }

    /// Remembers what a commit said, so that later replies can be held against it.
    pub(crate) fn committed(&self, user: &str, c: Committed) {
        let mut commits = self.commits.lock().expect("invariant: no panic while the list is held");
        commits.entry((user.to_owned(), c.seq)).or_insert(c);
    }

    pub(crate) fn commit_of(&self, user: &str, seq: i64) -> Option<Committed> {
        let commits = self.commits.lock().expect("invariant: no panic while the list is held");
        commits.get(&(user.to_owned(), seq)).cloned()
    }

    /// Waits until a request may be sent; how long it may take then.
    pub(crate) fn turn(&self) -> Checked<Duration> {
        let begun = Instant::now();
        let mine = self.at_once.load(Ordering::Relaxed) || self.subject.turn(self.end());
        let Some(meter) = self.meter else {
            let left = self.left();
            if !mine || left.is_zero() {
                return Err(Stop::Inconclusive("the check's time is up".to_owned()));
            }
            return Ok(left.min(REQUEST));
        };
        meter.held_back(begun.elapsed());
        if mine && meter.take() { Ok(REQUEST) } else { Err(Stop::Inconclusive("the load is over".to_owned())) }
    }

    /// What was said so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().expect("invariant: no panic while the record is held").clone()
    }

    /// The users that this check made up.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        self.users.lock().expect("invariant: no panic while the list is held").clone()
    }

    /// A device of a user that nobody has used. The scope does not exist yet.
    pub(crate) fn user(&self) -> Checked<Device<'_>> {
        self.user_and_token().map(|(device, _)| device)
    }

    /// The same, with its token.
    pub(crate) fn user_and_token(&self) -> Checked<(Device<'_>, String)> {
        let (user, token) = self.subject.fresh_user(&self.purpose).map_err(Stop::Inconclusive)?;
        self.users.lock().expect("invariant: no panic while the list is held").push(user.clone());
        Ok((Device::new(self, user, token.clone(), "device-a"), token))
    }

    /// A device of a fresh user whose scope is initialized and empty.
    pub(crate) fn ready(&self) -> Checked<Device<'_>> {
        let device = self.user()?;
        device.connect_as(false, "initialize_empty")?;
        Ok(device)
    }

    pub(crate) fn limit(&self, name: &str) -> Option<i64> {
        self.subject.limit(name)
    }

    /// Ends the check where the backend has no exact view.
    pub(crate) fn need_exact(&self) -> Checked {
        if self.subject.exact() { Ok(()) } else { not_offered("bundle_hash_algorithms does not list blake3") }
    }

    /// Seconds of a TTL of the capabilities, where they are short enough to wait for.
    pub(crate) fn short(&self, name: &str) -> Checked<Duration> {
        match self.limit(name).and_then(|s| u64::try_from(s).ok()) {
            Some(s) if Duration::from_secs(s) <= self.subject.patience => Ok(Duration::from_secs(s)),
            Some(s) => Err(Stop::Inconclusive(format!(
                "{name} is {s} s, longer than the suite waits ({} s; --patience)",
                self.subject.patience.as_secs()
            ))),
            None => Err(Stop::Inconclusive(format!("{name} is not advertised, so the wait is unknown"))),
        }
    }

    /// Waits, but not past the deadline.
    pub(crate) fn wait(&self, time: Duration) -> Checked {
        if self.left() < time {
            return Err(Stop::Inconclusive("the check's time is up".to_owned()));
        }
        std::thread::sleep(time);
        Ok(())
    }

    pub(crate) fn left(&self) -> Duration {
        self.end().saturating_duration_since(Instant::now())
    }

    fn end(&self) -> Instant {
        self.meter.map_or(self.deadline, Meter::end)
    }

    /// Begins the record anew.
    pub(crate) fn forget(&self) {
        self.restore(Vec::new());
    }

    pub(crate) fn restore(&self, exchanges: Vec<Exchange>) {
        *self.exchanges.lock().expect("invariant: no panic while the record is held") = exchanges;
    }

    pub(crate) fn record(&self, exchange: Exchange) {
        let mut exchanges = self.exchanges.lock().expect("invariant: no panic while the record is held");
        exchanges.push(exchange);
        if self.meter.is_some() && exchanges.len() > 2 * KEPT {
            exchanges.drain(..KEPT);
        }
    }
}

/// Something to be done at the same time as something else.
pub(crate) type Job<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

pub(crate) fn job<'a, T>(f: impl FnOnce() -> T + Send + 'a) -> Job<'a, T> {
    Box::new(f)
}

fn together<T: Send>(jobs: Vec<Job<'_, T>>) -> Vec<T> {
    let start = std::sync::Barrier::new(jobs.len());
    std::thread::scope(|scope| {
        let handles: Vec<_> = jobs
            .into_iter()
            .map(|job| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    job()
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("invariant: checks do not panic")).collect()
    })
}

const REQUEST: Duration = Duration::from_secs(30);
/// Requests that are kept of a load, for the transcript of a violation: this many at least.
const KEPT: usize = 24;
