//! Shutting down: who is inside may end, nobody else gets in.

use std::sync::{Condvar, Mutex, PoisonError};

use sync_core::protocol::{ApiError, Code};

use crate::scope::lock;

/// Lets operations in until the service closes, and knows how many are inside.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    empty: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closing: bool,
    inside: u64,
}

/// An operation inside.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    /// Whether it closes, and how many are inside.
    pub(crate) fn now(&self) -> (bool, u64) {
        let state = lock(&self.state);
        (state.closing, state.inside)
    }

    /// Lets an operation in, for as long as it holds what is returned.
    pub(crate) fn enter(&self) -> Result<Inside<'_>, ApiError> {
        let mut state = lock(&self.state);
        if state.closing {
            return Err(ApiError::new(Code::ServiceUnavailable, "Sync service is shutting down"));
        }
        state.inside += 1;
        Ok(Inside(self))
    }

    /// Refuses everything new, and waits until nothing is inside.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closing = true;
        while state.inside > 0 {
            state = self.empty.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.inside -= 1;
        if state.inside == 0 {
            self.0.empty.notify_all();
        }
    }
}
