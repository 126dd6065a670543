//! What the verbs of a [`crate::Client`] say: owned, plain types, so that bindings can be made of them.
//!
//! Row contents appear only where a person asks for them ([`InboxRow`]), as JSON in the exact view.

use serde::{Deserialize, Serialize};

/// How an attach went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attached {
    /// The file was attached before, or was detached from this account and goes on. Where the account's history
    /// is another by now, the next pull puts this file's rows on top of what both share.
    Resumed,
    /// The scope was new: this file's rows seed it with the next push.
    Seeding,
    /// The scope was new and so is this file.
    Empty,
    /// The scope had rows: they were merged with this file's.
    Merged,
    /// The scope's rows were taken in place of this file's ([`crate::Attach::TakeRemote`]).
    TookRemote,
    /// Another device is seeding; try again after `Status::retry_after_seconds`.
    RetryLater,
}

/// What a push did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PushReport {
    /// Rows that the server committed.
    pub committed_rows: u64,
    /// Bundles that they went in.
    pub bundles: u64,
    /// Rows that the server refused; they wait in `rejected`.
    pub rejected_rows: u64,
}

/// What a pull, or a rebuild, did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PullReport {
    /// Bundles applied.
    pub bundles: u64,
    /// Rows of other devices applied.
    pub applied_rows: u64,
    /// Conflicts settled; the losing side is in `discarded` or `conflicts`.
    pub conflicts: u64,
    /// Remote rows that this file's schema refuses; they were set aside.
    pub set_aside: u64,
    /// Whether a snapshot was applied.
    pub rebuilt: bool,
    /// The checkpoint afterwards.
    pub checkpoint: i64,
}

/// What a sync did: pushes and pulls until nothing was left to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SyncReport {
    /// Outgoing.
    pub push: PushReport,
    /// Incoming.
    pub pull: PullReport,
    /// Rounds of push and pull.
    pub rounds: u64,
}

/// What a sync within limits did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SyncWithin {
    /// What moved.
    pub report: SyncReport,
    /// Something is left, and the next call goes on from here: a limit ended it, or the app wrote meanwhile.
    pub more: bool,
    /// Bytes that went over the network, both ways.
    pub bytes: u64,
}

/// The class of the last error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The server cannot be reached or fails for now, or there is no token for now.
    Offline,
    /// The token is refused, and there is no other.
    Auth,
    /// The server refuses the request.
    Refused,
    /// This file or its schema.
    Local,
    /// The server breaks the protocol.
    Protocol,
    /// The server was reached, and fails.
    Failing,
    /// Something between this device and the server answers in its place.
    Intermediary,
}

/// A place in the order of this file's local commits, for asking later whether one is settled:
/// [`Status::synced_through`] is then at least as high. Valid for this file, until it is detached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mark(pub u64);

/// One view of the sync state of a file. Reading it never waits for a sync.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The server's base URL.
    pub server: String,
    /// Whether the file is attached to a scope.
    pub attached: bool,
    /// This installation's source.
    pub source_id: String,
    /// Synced tables.
    pub tables: Vec<String>,
    /// Rows changed here and not yet confirmed, those in flight included.
    pub pending_rows: u64,
    /// There are more than that: rows that nothing was done about yet are counted one by one up to 10,000.
    pub pending_more: bool,
    /// Of these, rows in the frozen bundle in flight.
    pub outbox_rows: u64,
    /// `none`, `frozen`, `sent` or `committed`.
    pub outbox: String,
    /// The bundle that touches a row of the one in flight, and waits with what follows it until it is known whether
    /// that was committed; where it could not be asked.
    pub waiting_bundle: Option<i64>,
    /// When the oldest pending change was noticed; RFC 3339. Of more than 10,000, one of the oldest.
    pub oldest_pending: Option<String>,
    /// The place of the newest local commit ([`crate::Client::mark`]).
    pub position: Mark,
    /// Every local commit up to this one is settled: each of its rows is on the server, or in the inbox.
    pub synced_through: Mark,
    /// Refused rows that wait for a person.
    pub rejected_rows: u64,
    /// Of these, rows that stay in this file by their key: it is NULL, or not of its column's kind.
    pub local_rows: u64,
    /// Tables that are others on the server: no row of them is sent or taken.
    pub held_back: Vec<HeldTable>,
    /// Integers beyond 2^53 were seen to come from this server rounded: what another device wrote may be rounded here until
    /// a rebuild, or a repair by `verify`.
    pub server_rounds: bool,
    /// Times were seen to come back from this server in another spelling.
    pub server_respells: bool,
    /// Local edits that a policy discarded, kept whole.
    pub discarded_rows: u64,
    /// Conflicts that were settled without discarding a whole row.
    pub conflicts: u64,
    /// Rows of the server that this file does not take for now, each with the reason in `conflicts`: its schema
    /// refuses them, or rows of unsynced tables refer to what would go.
    pub set_aside_rows: u64,
    /// The highest bundle applied without a gap.
    pub checkpoint: i64,
    /// The highest bundle that the server was heard to have.
    pub latest_known: i64,
    /// When a sync last got to its end; RFC 3339.
    pub last_success: Option<String>,
    /// When and what last failed; cleared by a success.
    pub last_error: Option<LastError>,
    /// With [`Attached::RetryLater`]: how long to wait.
    pub retry_after_seconds: Option<u64>,
    /// The file with certificate authorities that the file was told of ([`crate::Builder::ca`]).
    pub ca: Option<String>,
    /// Whether the server was reached when it was last spoken to; none where it never was.
    pub online: Option<bool>,
}

/// A table that is held back both ways, since its values could change on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldTable {
    /// Table, as on the wire.
    pub table: String,
    /// Why, and what to do, for a person.
    pub message: String,
}

/// A column of the server's table that takes no NULL and has no default: a new row has to give it a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredColumn {
    /// Table, as on the wire.
    pub table: String,
    /// Column, as on the wire.
    pub column: String,
    /// What its line in the server's schema says so that rows may come without it.
    pub line: String,
}

/// The last failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// RFC 3339.
    pub at: String,
    /// What kind.
    pub class: ErrorClass,
    /// For a person.
    pub message: String,
}

/// A row that waits to be pushed, or is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PendingRow {
    /// Table, as on the wire.
    pub table: String,
    /// Key object, as on the wire.
    pub key: String,
    /// `INSERT`, `UPDATE`, `DELETE`.
    pub op: String,
    /// When the change was noticed; RFC 3339.
    pub since: String,
    /// Why it waits: `next push`, `in flight`, or the refusal.
    pub why: String,
}

/// A row in the inbox: refused, discarded, or settled in a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InboxRow {
    /// Names the entry; 0 for a row that is still in its table, which its key names.
    pub id: i64,
    /// `rejected`, `discarded` or `conflict`.
    pub kind: String,
    /// RFC 3339.
    pub at: String,
    /// Table, as on the wire.
    pub table: String,
    /// Key object, as on the wire.
    pub key: String,
    /// What this device had wanted: `INSERT`, `UPDATE`, `DELETE`.
    pub op: String,
    /// The rule or the refusal, in one word.
    pub reason: String,
    /// The same for a person.
    pub message: String,
    /// The whole local row, JSON in the exact view; none for a DELETE.
    pub local_row: Option<String>,
    /// The row before the local edit, where known.
    pub base_row: Option<String>,
    /// The server's row, where there is one.
    pub server_row: Option<String>,
    /// The row that was made of both sides, where they were merged: the one that was kept.
    pub merged_row: Option<String>,
}

/// Some entries of the inbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InboxPage {
    /// The entries, oldest first.
    pub rows: Vec<InboxRow>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// Something that happened, for progress bars and observers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A sync began.
    Started,
    /// Rows were frozen for a push.
    Frozen {
        /// How many.
        rows: u64,
    },
    /// Rows were uploaded.
    Uploaded {
        /// So far.
        rows: u64,
        /// Of so many.
        total: u64,
    },
    /// The server committed a push.
    Committed {
        /// Its place in history.
        bundle_seq: i64,
        /// Rows, effects included.
        rows: u64,
    },
    /// A pull begins, and there is something to pull: said before the first of it is read. A server that does not
    /// say it first is waited for until the first page is here, before anything is applied.
    Pulling {
        /// The checkpoint before.
        checkpoint: i64,
        /// The checkpoint once all is applied: so many bundles in between.
        target: i64,
        /// Rows in them, this device's own included; where the server says.
        rows: Option<u64>,
    },
    /// Rows were downloaded.
    Downloaded {
        /// So far.
        rows: u64,
        /// Of so many, where known.
        total: Option<u64>,
    },
    /// Rows were written to the file.
    Applied {
        /// Rows of other devices so far; for an own push that is confirmed, its rows.
        rows: u64,
        /// The checkpoint.
        checkpoint: i64,
    },
    /// Sync changed rows of this table in the file: rows of other devices, what a server made of this
    /// device's own, and what settling conflicts did. Where more than 1,000 changed, both lists are empty.
    Changed {
        /// Table, as on the wire.
        table: String,
        /// Key objects of rows that are new or have other values.
        #[serde(serialize_with = "objects")]
        keys: Vec<String>,
        /// Key objects of rows that are gone.
        #[serde(serialize_with = "objects")]
        deleted: Vec<String>,
        /// The source that wrote the bundle; empty for a snapshot and a repair.
        source_id: String,
    },
    /// A conflict was settled, or a row refused: there is a new inbox entry.
    Inbox {
        /// Its kind.
        kind: String,
        /// Table, as on the wire.
        table: String,
        /// Key object.
        #[serde(serialize_with = "object")]
        key: String,
        /// For a person.
        message: String,
    },
    /// The app's own function gave no answer to a conflict, or none in time: the file's policy decided.
    Unanswered {
        /// Table, as on the wire.
        table: String,
        /// Key object.
        #[serde(serialize_with = "object")]
        key: String,
        /// Why, and which policy, for a person.
        message: String,
    },
    /// A table is another one on the server, and is held back from now on.
    HeldBack {
        /// Table, as on the wire.
        table: String,
        /// Why, and what to do, for a person.
        message: String,
    },
    /// An INTEGER key that two devices had minted was replaced here.
    Rekeyed {
        /// Table, as on the wire.
        table: String,
        /// Key object before.
        #[serde(serialize_with = "object")]
        old_key: String,
        /// Key object now.
        #[serde(serialize_with = "object")]
        new_key: String,
    },
    /// Something else has to happen first, and it goes on by itself then: the server has no place now, another device
    /// fills the account, or another program is writing to the file.
    Waiting {
        /// For what, for a person.
        message: String,
        /// For how long, in milliseconds, where that is known.
        ms: Option<u64>,
    },
    /// A sync ended well.
    Finished {
        /// What it did.
        report: SyncReport,
    },
    /// A sync failed; the background worker tries again by itself.
    Failed {
        /// What kind.
        class: ErrorClass,
        /// For a person.
        message: String,
        /// When it tries again, in milliseconds; none from a verb.
        retry_in_ms: Option<u64>,
    },
}

/// A key object as JSON, not as a text that holds it. What is none stays a text.
fn object<S: serde::Serializer>(key: &str, s: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<serde_json::Value>(key) {
        Ok(object) => object.serialize(s),
        Err(_) => key.serialize(s),
    }
}

fn objects<S: serde::Serializer>(keys: &[String], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(keys.iter().map(|k| serde_json::from_str(k).unwrap_or_else(|_| serde_json::Value::from(k.as_str()))))
}
