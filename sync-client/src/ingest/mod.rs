//! The producer's side of ingest: records go into an outbox in the app's own file, and from there to targets, each record
//! to each target once.
//!
//! A record gets in with [`append`], within the app's own transaction, or with the plain statement that it runs:
//! `INSERT INTO _sync_ingest_outbox (stream, kind, record) VALUES ('statsai', 'events', '{…}')`. Another record of the same
//! kind and id replaces it. [`Stream::push`] sends what a target has not: to standard output, a file or a server. What is
//! known of a target is that target's alone; a batch is frozen under its id before it is sent, and the same bytes are sent
//! again until it is known what became of them.
//!
//! The tables `_sync_ingest_*` are made at first use. They are no part of row sync, which never looks at tables of that name;
//! a file may have both.
//!
//! | noun | is |
//! |---|---|
//! | [`Stream`] | one contract's outbox and targets in a file |
//! | [`Sink`] | where a push goes |
//! | [`Remote`] | a server, with the token for it |
//! | [`session`] | a device login, and how its tokens are renewed |
//!
//! The declaration of a contract is `sync_core::ingest::contract`; StatsAI's `sync_batch.v1` and Aexy Tracker's event
//! batches are compiled in.

mod confirm;
mod deliver;
mod endpoint;
mod fold;
mod http;
mod numbered;
mod push;
mod report;
mod select;
pub mod session;
mod sink;
mod store;
mod stream;

pub use endpoint::Endpoint;
pub use http::{Remote, Tokens};
pub use push::How;
pub use report::{
    Appended, Cursor, Enrolled, Faulty, IngestError, Mode, Pushed, Quarantined, SentBatch, Stop, StreamStatus,
    TargetStatus,
};
pub use sink::Sink;
pub use stream::{Stream, append, contract};
