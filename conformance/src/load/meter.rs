//! How much is left of a load, and what was measured of its requests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Counts down requests and time, and keeps how long each request took.
#[derive(Debug)]
pub(crate) struct Meter {
    left: AtomicU64,
    time: Duration,
    begun: OnceLock<Instant>,
    settling: AtomicBool,
    settle: Duration,
    measured: Mutex<Measured>,
}

/// What was measured.
#[derive(Debug, Default, Clone)]
pub(crate) struct Measured {
    /// Requests of the load.
    pub(crate) requests: u64,
    /// Requests after it: the comparison at the end.
    pub(crate) settling: u64,
    /// Of each kind of request, how long those took that were answered with success, in microseconds.
    pub(crate) took: BTreeMap<&'static str, Vec<u32>>,
    /// Replies that are no success, by status and code; status 0 where none came.
    pub(crate) errors: BTreeMap<(u16, String), u64>,
    /// Requests that the backend put off with 429 or 503, and how long devices waited therefore.
    pub(crate) put_off: (u64, Duration),
    /// How long devices waited for their turn, since requests per second are bounded.
    pub(crate) held_back: Duration,
}

impl Meter {
    pub(crate) fn new(requests: u64, time: Duration, settle: Duration) -> Self {
        Self {
            left: AtomicU64::new(requests),
            time,
            begun: OnceLock::new(),
            settling: AtomicBool::new(false),
            settle,
            measured: Mutex::default(),
        }
    }

    /// The time runs from here.
    pub(crate) fn begin(&self) -> Instant {
        *self.begun.get_or_init(Instant::now)
    }

    /// Takes one request of what is left.
    pub(crate) fn take(&self) -> bool {
        if self.is_settling() {
            let taken = !self.late();
            self.measured().settling += u64::from(taken);
            return taken;
        }
        let taken =
            !self.late() && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if taken {
            self.measured().requests += 1;
        }
        taken
    }

    /// Whether the load is over: nothing more is sent.
    pub(crate) fn over(&self) -> bool {
        !self.is_settling() && (self.late() || self.left.load(Ordering::SeqCst) == 0)
    }

    /// When nothing is sent any more.
    pub(crate) fn end(&self) -> Instant {
        let until = self.begin() + self.time;
        if self.is_settling() { until + self.settle } else { until }
    }

    fn late(&self) -> bool {
        let end = self.end();
        Instant::now() >= end
    }

    /// From here on requests are not of the load.
    pub(crate) fn settle(&self) {
        self.settling.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.settling.load(Ordering::SeqCst)
    }

    /// A request was answered; `code` is empty for a success.
    pub(crate) fn heard(&self, method: &str, path: &str, status: u16, code: &str, took: Duration) {
        let mut m = self.measured();
        if (200..300).contains(&status) {
            if !self.is_settling() {
                let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                m.took.entry(kind(method, path)).or_default().push(micros);
            }
        } else {
            *m.errors.entry((status, code.to_owned())).or_default() += 1;
        }
    }

    pub(crate) fn put_off(&self, wait: Duration) {
        let mut m = self.measured();
        m.put_off.0 += 1;
        m.put_off.1 += wait;
    }

    pub(crate) fn held_back(&self, wait: Duration) {
        if !self.is_settling() {
            self.measured().held_back += wait;
        }
    }

    pub(crate) fn measured(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.measured.lock().expect("invariant: no panic while the measures are held")
    }
}

/// The kind of a request, as reports name it.
fn kind(method: &str, path: &str) -> &'static str {
    let path = path.split('?').next().unwrap_or(path);
    let parts: Vec<&str> = path.split('/').skip(2).collect();
    match (method, parts.as_slice()) {
        (_, ["connect"]) => "connect",
        ("POST", ["push-sessions"]) => "create",
        ("POST", ["push-sessions", _, "chunks"]) => "chunk",
        ("POST", ["push-sessions", _, "commit"]) => "commit",
        ("DELETE", ["push-sessions", _]) => "release",
        (_, ["pull"]) => "pull",
        ("POST", ["snapshot-sessions"]) => "snapshot",
        ("GET", ["snapshot-sessions", _]) => "snapshot page",
        ("DELETE", ["snapshot-sessions", _]) => "snapshot end",
        _ => "other",
    }
}

/// The value below which that share of the samples lies, the smallest such sample (nearest rank). The
/// samples must be sorted; 0 for none.
pub(crate) fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (samples, percent, expected) in [
            (&hundred[..], 50, 50),
            (&hundred[..], 90, 90),
            (&hundred[..], 99, 99),
            (&hundred[..], 100, 100),
            (&[7][..], 50, 7),
            (&[7][..], 99, 7),
            (&[1, 9][..], 50, 1),
            (&[1, 9][..], 51, 9),
            (&[][..], 50, 0),
        ] {
            assert_eq!(percentile(samples, percent), expected, "{percent} of {}", samples.len());
        }
    }

    #[test]
    fn requests_are_counted_down_to_none() {
        let meter = Meter::new(3, Duration::from_secs(60), Duration::from_secs(60));
        assert_eq!((0..5).map(|_| meter.take()).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert!(meter.over());
        meter.settle();
        assert!(meter.take() && !meter.over());
        let measured = meter.measured().clone();
        assert_eq!((measured.requests, measured.settling), (3, 1));
    }

    #[test]
    fn no_time_no_request() {
        let meter = Meter::new(3, Duration::ZERO, Duration::ZERO);
        assert!(!meter.take() && meter.over());
        assert_eq!(meter.measured().requests, 0);
    }

    #[test]
    fn kinds_are_by_endpoint() {
        for (method, path, expected) in [
            ("POST", "/sync/push-sessions", "create"),
            ("POST", "/sync/push-sessions/x/commit", "commit"),
            ("DELETE", "/sync/push-sessions/x", "release"),
            ("GET", "/sync/pull?after_bundle_seq=0", "pull"),
            ("GET", "/sync/snapshot-sessions/x?max_rows=2", "snapshot page"),
            ("GET", "/health", "other"),
        ] {
            assert_eq!(kind(method, path), expected);
        }
    }
}
