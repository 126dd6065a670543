//! The clock and the randomness of the machine.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::service::{Environment, FaultPoint};

/// The system's clock and random ids.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnvironment {
    stop: Option<FaultPoint>,
}

impl SystemEnvironment {
    /// Says so on stderr and stands still at a point for ever, so that a test can kill the process there.
    pub(crate) fn stopping_at(stop: Option<FaultPoint>) -> Self {
        Self { stop }
    }
}

impl Environment for SystemEnvironment {
    fn now_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX).min(jiff::Timestamp::MAX.as_millisecond())
    }

    fn new_id(&self) -> String {
        uuid::Uuid::new_v4().hyphenated().to_string()
    }

    fn fault(&self, point: FaultPoint) {
        if self.stop == Some(point) {
            // The line is all that the test waits for; without a reader there is no test.
            let _ = writeln!(std::io::stderr(), "fault {}", point.name());
            loop {
                std::thread::park();
            }
        }
    }
}
