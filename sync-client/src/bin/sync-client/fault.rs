//! For crash tests: `SYNC_CLIENT_FAULT` names the place where the program says so and stands still.

use std::{
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use sync_client::context::{Environment, FaultPoint, System};

use crate::output::Failure;

/// Holds `PHASE` or `PHASE:N`, for the N-th time that the phase is reached.
const VARIABLE: &str = "SYNC_CLIENT_FAULT";

/// The real environment, but for one place that is never left.
pub(crate) struct Stopping {
    at: FaultPoint,
    /// Times that the place is still to be passed.
    passes: AtomicU64,
}

/// What the variable asks for; `None` where it is not set.
pub(crate) fn asked() -> Result<Option<Stopping>, Failure> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let asked = value.to_str().and_then(parse);
    asked.map(Some).ok_or_else(|| Failure::usage(format!("{VARIABLE} does not name a fault point.")))
}

fn parse(value: &str) -> Option<Stopping> {
    let (name, nth) = match value.split_once(':') {
        Some((name, nth)) => (name, nth.parse::<u64>().ok().filter(|nth| *nth > 0)?),
        None => (value, 1),
    };
    let at = FaultPoint::ALL.iter().copied().find(|point| point.name() == name)?;
    Some(Stopping { at, passes: AtomicU64::new(nth - 1) })
}

impl Environment for Stopping {
    fn now_ms(&self) -> i64 {
        System.now_ms()
    }

    fn new_id(&self) -> String {
        System.new_id()
    }

    fn random(&self) -> u64 {
        System.random()
    }

    fn fault(&self, point: FaultPoint) {
        if point != self.at
            || self.passes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
        {
            return;
        }
        // The line is all that the test waits for; without a reader there is no test.
        let _ = writeln!(std::io::stderr(), "fault {}", point.name());
        loop {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_named_and_counted() {
        for point in FaultPoint::ALL {
            assert!(parse(point.name()).is_some_and(|s| s.at == *point && s.passes.into_inner() == 0));
        }
        assert_eq!(parse("uploading:3").map(|s| s.passes.into_inner()), Some(2));
        for wrong in ["", "nowhere", "uploading:0", "uploading:x", ":1"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
