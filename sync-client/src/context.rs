//! What the engine of the client takes from outside: time, ids, and somebody to tell.

use std::sync::Arc;

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
        jiff::Timestamp::now().as_millisecond()
    }

    fn new_id(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn random(&self) -> u64 {
        uuid::Uuid::new_v4().as_u64_pair().1 << 2 ^ uuid::Uuid::new_v4().as_u64_pair().0
    }
}

/// Who is told of events.
pub(crate) type Observer = Arc<dyn Fn(&Event) + Send + Sync>;
