//! What one call may use: time by the environment's clock, and bytes on the network. For phones, which
//! give an app a few seconds in the background.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::context::Environment;
use crate::transport::Transport;

/// When a call is over, by the environment's clock.
#[derive(Clone)]
pub(crate) struct Deadline {
    env: Arc<dyn Environment>,
    at_ms: i64,
}

impl Deadline {
    pub(crate) fn after(time: Duration, env: &Arc<dyn Environment>) -> Self {
        let at_ms = env.now_ms().saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        Self { env: Arc::clone(env), at_ms }
    }

    pub(crate) fn time_left(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.at_ms.saturating_sub(self.env.now_ms())).unwrap_or(0))
    }
}

/// The limits of one call, and what was used of them.
pub(crate) struct Budget {
    deadline: Deadline,
    transport: Arc<dyn Transport>,
    bytes: Option<u64>,
    /// The transport's own count when the call began, where it counts.
    began_at: Option<u64>,
    /// Bodies up and down, where the transport does not count.
    bodies: Arc<AtomicU64>,
}

impl Budget {
    pub(crate) fn new(deadline: Deadline, transport: Arc<dyn Transport>, bytes: Option<u64>) -> Self {
        Self { began_at: transport.traffic(), deadline, transport, bytes, bodies: Arc::default() }
    }

    /// Whether nothing more may be sent.
    pub(crate) fn is_over(&self) -> bool {
        self.time_left().is_zero() || self.bytes_left() == Some(0)
    }

    /// Until the deadline.
    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.time_left()
    }

    /// Bytes that may still go over the network; `None` for any number.
    pub(crate) fn bytes_left(&self) -> Option<u64> {
        Some(self.bytes?.saturating_sub(self.used()))
    }

    /// Bytes that went up and down.
    pub(crate) fn used(&self) -> u64 {
        match (self.began_at, self.transport.traffic()) {
            (Some(began), Some(now)) => now.saturating_sub(began),
            _ => self.bodies.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count(&self, bytes: usize) {
        self.bodies.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A body whose bytes are counted while it is read.
    pub(crate) fn counted(&self, inner: Box<dyn Read + Send>) -> Box<dyn Read + Send> {
        Box::new(Counted { inner, count: Arc::clone(&self.bodies) })
    }
}

struct Counted {
    inner: Box<dyn Read + Send>,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
