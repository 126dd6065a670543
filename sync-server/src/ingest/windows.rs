//! The windows of a contract's rates, in memory: they start empty, and where they fail a request is let in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use sync_core::ingest::contract::Rate;
use sync_core::ingest::rates::Window;

/// One window that a request has to fit into.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Its name: which rate of the contract, by position.
    pub rate: usize,
    /// Whose it is: a device or what that is bound to.
    pub key: &'a str,
    /// How much fits into how long.
    pub limit: &'a Rate,
    /// How much of it the request takes.
    pub cost: u64,
}

/// The windows cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the windows cannot be asked")]
pub struct LimiterDown;

/// Counts requests. A host whose servers share their windows has one of its own; one that fails lets everything in.
pub trait Limiter: fmt::Debug + Send + Sync {
    /// Admits a request, and charges all its windows; or charges none and says after how many milliseconds it fits.
    ///
    /// # Errors
    /// Where it cannot say.
    fn admit(&self, asks: &[Ask<'_>], now_ms: i64) -> Result<Result<(), i64>, LimiterDown>;
}

/// Windows of this process.
#[derive(Debug, Default)]
pub struct InMemory {
    windows: Mutex<BTreeMap<(usize, String), Window>>,
}

/// Windows that have nothing in them are forgotten once there are so many.
const SWEEP: usize = 4096;

/// The longest window that is swept, in milliseconds: those of a contract are not longer.
const LONGEST_MS: i64 = 3_600_000;

impl Limiter for InMemory {
    fn admit(&self, asks: &[Ask<'_>], now_ms: i64) -> Result<Result<(), i64>, LimiterDown> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= SWEEP {
            windows.retain(|_, w| !w.forget(LONGEST_MS, now_ms));
        }
        let mut wait = None;
        for ask in asks {
            let window = windows.entry((ask.rate, ask.key.to_owned())).or_default();
            if let Err(ms) = window.ask(ask.limit.limit, i64::from(ask.limit.seconds) * 1000, now_ms, ask.cost) {
                wait = wait.max(Some(ms));
            }
        }
        if let Some(ms) = wait {
            return Ok(Err(ms));
        }
        for ask in asks {
            windows.entry((ask.rate, ask.key.to_owned())).or_default().charge(now_ms, ask.cost);
        }
        Ok(Ok(()))
    }
}
