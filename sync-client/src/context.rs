//! What the engine of the client takes from outside: time, ids, and somebody to tell.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::report::Event;

/// Time and randomness, as inputs.
pub trait Environment: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// A fresh random id: lowercase dashed UUID.
    fn new_id(&self) -> String;
    /// 64 random bits.
    fn random(&self) -> u64;
    /// A connection that writes to the app's file was opened. Does nothing; a test limits its patience or its
    /// room here.
    fn opened(&self, conn: &rusqlite::Connection) {
        let _ = conn;
    }
    /// Reached a place where a crash matters. Does nothing, unless a crash is being tested.
    fn fault(&self, point: FaultPoint) {
        let _ = point;
    }
}

/// Places where a crash or a failed write matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultPoint {
    /// The outbox is frozen and durable, nothing was sent.
    Frozen,
    /// Some chunks were uploaded.
    Uploading,
    /// The commit is about to be sent.
    BeforeCommit,
    /// The server committed, this file does not know yet.
    AfterCommit,
    /// Remote rows are staged, not applied.
    Staged,
    /// The app is about to be asked about conflicts, no transaction is open.
    Asking,
    /// Remote rows are applied, the transaction is open.
    Applying,
    /// A snapshot is being downloaded.
    Downloading,
    /// A snapshot is applied, the transaction is open.
    Rebuilding,
    /// Rows that differ from the server's are repaired, the transaction is open.
    Repairing,
    /// Pending work is in an export under its name, and in this file all the same.
    Exporting,
    /// The capture is ended, the transaction is open.
    Detaching,
    /// Another device's work is taken up, the transaction is open.
    Importing,
}

impl FaultPoint {
    /// Every point, in the order of a sync.
    pub const ALL: &[Self] = &[
        Self::Frozen,
        Self::Uploading,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::Staged,
        Self::Asking,
        Self::Applying,
        Self::Downloading,
        Self::Rebuilding,
        Self::Repairing,
        Self::Exporting,
        Self::Detaching,
        Self::Importing,
    ];

    /// The name, for tests that name a phase.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Uploading => "uploading",
            Self::BeforeCommit => "before_commit",
            Self::AfterCommit => "after_commit",
            Self::Staged => "staged",
            Self::Asking => "asking",
            Self::Applying => "applying",
            Self::Downloading => "downloading",
            Self::Rebuilding => "rebuilding",
            Self::Repairing => "repairing",
            Self::Exporting => "exporting",
            Self::Detaching => "detaching",
            Self::Importing => "importing",
        }
    }
}

/// The real clock and the system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Environment for System {
    fn now_ms(&self) -> i64 {
        ms_of(SystemTime::now())
    }

    fn new_id(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn random(&self) -> u64 {
        uuid::Uuid::new_v4().as_u64_pair().1 << 2 ^ uuid::Uuid::new_v4().as_u64_pair().0
    }
}

/// Milliseconds since the epoch, held within the years that a time can be written in (-9999 to 9999): a clock may stand
/// anywhere, and what it says of a row is never worth more than the row.
pub(crate) fn ms_of(at: SystemTime) -> i64 {
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let ms = at.duration_since(UNIX_EPOCH).map_or_else(|before| -ms(before.duration()), ms);
    // Whole seconds: a fraction above the last one is too much.
    ms.clamp(jiff::Timestamp::MIN.as_second() * 1000, jiff::Timestamp::MAX.as_second() * 1000)
}

/// Who is told of events.
pub(crate) type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rfc3339;

    #[test]
    fn a_clock_may_stand_anywhere() {
        let year = |n: u64| Duration::from_secs(n * 31_556_952);
        for (at, expected) in [
            (UNIX_EPOCH + Duration::from_millis(1500), "1970-01-01T00:00:01.5Z"),
            (UNIX_EPOCH - Duration::from_millis(1500), "1969-12-31T23:59:58.5Z"),
            (UNIX_EPOCH + year(10_000), "9999-12-30T22:00:00Z"),
            (UNIX_EPOCH + year(200_000_000_000), "9999-12-30T22:00:00Z"),
            (UNIX_EPOCH - year(20_000), "-009999-01-02T01:59:59Z"),
        ] {
            assert_eq!(rfc3339(ms_of(at)), expected);
        }
    }
}
