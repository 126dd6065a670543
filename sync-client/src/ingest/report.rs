//! What the verbs of a stream say, and what goes wrong.

use std::collections::BTreeMap;

use serde::Serialize;
use sync_core::ingest::acks::AckFault;

use crate::transport::TransportError;

/// What cannot be done at all. What became of a push that began is in [`Pushed::stop`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// SQLite's.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// No contract of this name is known.
    #[error("there is no stream {0}; there are statsai and aexy")]
    UnknownStream(String),
    /// The contract has no such kind of records.
    #[error("a {stream} record is one of {kinds}; {given} is none")]
    UnknownKind {
        /// The stream.
        stream: String,
        /// Its kinds.
        kinds: String,
        /// What was given.
        given: String,
    },
    /// What was given is no record.
    #[error("record {number} was not added, and none with it: {why}")]
    NoRecord {
        /// From 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// Another process is pushing from this file.
    #[error("another program is pushing from this file ({0}); try again when it is done")]
    Busy(String),
    /// Our tables in the file are not what was written to them.
    #[error("the outbox in this file is damaged; nothing was sent")]
    Damaged,
    /// The endpoint cannot be used.
    #[error("{0}")]
    Endpoint(String),
    /// A file cannot be written or read.
    #[error("{0}")]
    File(String),
}

/// A record that cannot be sent as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Faulty {
    /// Its kind.
    pub kind: String,
    /// Its id; `None` where it has none.
    pub id: Option<String>,
    /// A JSON Pointer to the member at fault, or what is wrong.
    pub reason: String,
}

/// A record that a target refused: it is not sent there again until it is added again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Its kind.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Why, in the server's words or ours.
    pub reason: String,
}

/// What `append` and the like took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Appended {
    /// Records that are in the outbox now.
    pub added: usize,
    /// Of these, those that the contract's schema is against: they will not be sent like this.
    pub invalid: Vec<Faulty>,
    /// Records that the server's configuration keeps out: a pause, or an app that is never captured.
    pub left_out: usize,
}

/// What a server said when it bound a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Enrolled {
    /// The device.
    pub device_id: String,
    /// What it is bound to.
    pub project_id: String,
    /// How it is to sample.
    pub config: serde_json::Value,
}

/// What a push takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All current records.
    Full,
    /// What the target has not confirmed, and all current metadata.
    SinceLast,
}

/// A batch that a target took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SentBatch {
    /// Its id.
    pub batch_id: String,
    /// Its records, by kind.
    pub counts: BTreeMap<String, u64>,
}

/// Why a push ended before all was sent. Nothing is lost by any of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// Records that the schema is against: nothing was sent. The next push leaves them out.
    #[error("{} against the contract's schema: nothing was sent. Add them corrected; the next push goes without them", these(.0))]
    Invalid(Vec<Faulty>),
    /// The server asks to come back later; no push to it is tried before, but for a day at most.
    #[error("the server asks to wait {seconds} s; the records wait in the file")]
    Later {
        /// How long, from now on.
        seconds: u64,
    },
    /// The server asked to wait, and it is not the time yet: nothing was sent.
    #[error("the server asked to wait, for {seconds} s more; the records wait in the file")]
    Waiting {
        /// How long, from now on.
        seconds: u64,
    },
    /// No answer, or one that the server is not up to it, also after some tries. The same batch goes again.
    #[error("{0}; the batch waits in the file and goes again with the next push")]
    Unreachable(String),
    /// The token is refused, or there is none.
    #[error("{0}; log in, or give another token")]
    Login(String),
    /// The server does not know the device.
    #[error("the server does not know this device: enrol it (`stream enrol`). The records wait in the file")]
    Enrol,
    /// The server takes another version of the contract.
    #[error("the server does not take this version of the contract: update this program. The records wait in the file")]
    Update,
    /// The server refuses the batch.
    #[error("the server refuses the batch (HTTP {status}{}); the records wait in the file", code.as_ref().map(|c| format!(", {c}")).unwrap_or_default())]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its code, where it gives one.
        code: Option<String>,
    },
    /// The reply does not acknowledge this batch.
    #[error("{0}: nothing counts as sent, and the same batch goes again with the next push")]
    WrongAck(AckFault),
    /// What the server says it has is not what it confirmed.
    #[error("the server's state is not what it acknowledged: {0}")]
    Differs(String),
    /// A file or standard output cannot be written.
    #[error("{0}")]
    Sink(String),
    /// The transport was interrupted.
    #[error("stopped; the next push goes on from here")]
    Interrupted,
}

fn these(list: &[Faulty]) -> String {
    let names: Vec<String> = list
        .iter()
        .take(5)
        .map(|f| format!("{} {} ({})", f.kind, f.id.as_deref().unwrap_or("without an id"), f.reason))
        .collect();
    let more = list.len().saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more} {}", names.join(", "), if list.len() == 1 { "is" } else { "are" })
}

impl From<TransportError> for Stop {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Interrupted => Self::Interrupted,
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pushed {
    /// `stdout`, `file` or `http`.
    pub sink: &'static str,
    /// The endpoint, the path, or `stdout`.
    pub target: String,
    /// What was taken.
    pub mode: Mode,
    /// Nothing was sent or noted.
    pub dry_run: bool,
    /// What was sent, or in a dry run would be, by kind.
    pub counts: BTreeMap<String, u64>,
    /// The batches that the target took.
    pub batches: Vec<SentBatch>,
    /// Everything was forgotten that was known of the target, since its state was another one; all was sent anew.
    pub rebuilt: bool,
    /// Records that this target refused, also in earlier pushes.
    pub quarantined: Vec<Quarantined>,
    /// Records of the stream that cannot be sent to any target as they are.
    pub invalid: Vec<Faulty>,
    /// The server's state was compared: it has what it acknowledged.
    pub verified: bool,
    /// Why it ended early.
    #[serde(skip)]
    pub stop: Option<Stop>,
}

/// A place in a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cursor {
    /// The time of the latest record that the target has.
    pub at: String,
    /// Its id.
    pub id: String,
}

/// What is known of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    /// `stdout`, `file` or `http`.
    pub sink: String,
    /// The endpoint, the path, or `stdout`.
    pub target: String,
    /// When it last took a batch, in RFC 3339.
    pub last_success_at: Option<String>,
    /// The last batch that it took.
    pub last_batch_id: Option<String>,
    /// By kind, where it stands.
    pub cursors: BTreeMap<String, Cursor>,
    /// Pushes since then that failed.
    pub failure_count: u64,
    /// What the last failure was.
    pub last_error: Option<String>,
    /// Nothing is sent before this time, in RFC 3339: the server asked so.
    pub retry_after: Option<String>,
    /// The batch that was sent and not acknowledged.
    pub in_flight: Option<String>,
    /// Records that it has not confirmed, by kind.
    pub waiting: BTreeMap<String, u64>,
    /// Records that it refused.
    pub quarantined: Vec<Quarantined>,
}

/// What a stream has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamStatus {
    /// The stream.
    pub stream: String,
    /// The device of this file; `None` before the first push.
    pub device_id: Option<String>,
    /// The configuration that a server told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// Its current records, by kind.
    pub records: BTreeMap<String, u64>,
    /// Records that cannot be sent to any target as they are.
    pub invalid: Vec<Faulty>,
    /// Its targets.
    pub targets: Vec<TargetStatus>,
}
