//! Everything below HTTP: one typed request in, one reply out, synchronous and complete.
//!
//! The router, the tests and a simulator call the same methods. Clock, ids and limits are inputs
//! ([`Environment`], [`crate::limits::Limits`]). Large replies are iterators ([`Body`]) that never
//! hold a read transaction between two steps.

use std::io::Read;

use sync_core::hash::Algorithm;
use sync_core::protocol::capabilities::{Capabilities, SchemaReply};
use sync_core::protocol::connect::{ConnectReply, ConnectRequest};
use sync_core::protocol::pull::PullRequest;
use sync_core::protocol::push::{ChunkReply, CommitReply, CreatePushReply, CreatePushRequest};
use sync_core::protocol::snapshot::{CreateSnapshotRequest, SnapshotSession};
use sync_core::protocol::watch::WatchEvent;
use sync_core::protocol::{ApiError, Code, SourceId, UserId};

/// Who asks, and in which view the answer is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The authenticated user.
    pub user: UserId,
    /// `Oversync-Source-ID`.
    pub source: SourceId,
    /// `Oversync-Bundle-Hash: blake3` asks for the exact view; everything else gets the plain one.
    pub algorithm: Algorithm,
}

/// What the service takes from outside beside requests: time and randomness.
pub trait Environment: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// A fresh random id: lowercase dashed UUID.
    fn new_id(&self) -> String;
}

/// A large JSON reply as pieces of UTF-8 text. An error ends it half-way: the connection is cut,
/// never closed as if it were complete.
pub type Body = Box<dyn Iterator<Item = Result<Vec<u8>, ApiError>> + Send>;

/// The query of a page of committed rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommittedRowsRequest {
    /// The last ordinal that the caller has; `None` before the first page.
    pub after_row_ordinal: Option<i64>,
    /// Rows of the page, at most.
    pub max_rows: Option<i64>,
}

/// The query of a snapshot page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotPageRequest {
    /// Rows that the caller has.
    pub after_row_ordinal: i64,
    /// Rows of the page, at most.
    pub max_rows: Option<i64>,
}

/// An open watch: the event that catches up, then the newest event whenever it changes.
#[derive(Debug)]
pub struct Watch {
    /// Sent at once where the caller is behind.
    pub first: Option<WatchEvent>,
    /// The newest committed bundle; closes with the service.
    pub newest: tokio::sync::watch::Receiver<WatchEvent>,
}

/// The engine of the server. Clones share one state.
#[derive(Debug, Clone)]
pub struct Service {}

impl Service {
    /// `POST /sync/connect`
    ///
    /// # Errors
    /// The codes of the seed's failure table for this endpoint.
    pub fn connect(&self, caller: &Caller, request: ConnectRequest) -> Result<ConnectReply, ApiError> {
        stub(caller, request)
    }

    /// `POST /sync/push-sessions`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn create_push(&self, caller: &Caller, request: CreatePushRequest) -> Result<CreatePushReply, ApiError> {
        stub(caller, request)
    }

    /// `POST /sync/push-sessions/{push_id}/chunks`; `body` is the decoded JSON text.
    ///
    /// # Errors
    /// As [`Service::connect`]; an I/O error of `body` whose inner error is an [`ApiError`] comes back as that.
    pub fn upload_chunk(&self, caller: &Caller, push_id: &str, body: &mut dyn Read) -> Result<ChunkReply, ApiError> {
        let _ = body;
        stub(caller, push_id)
    }

    /// `POST /sync/push-sessions/{push_id}/commit`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn commit_push(&self, caller: &Caller, push_id: &str) -> Result<CommitReply, ApiError> {
        stub(caller, push_id)
    }

    /// `DELETE /sync/push-sessions/{push_id}`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn delete_push(&self, caller: &Caller, push_id: &str) -> Result<(), ApiError> {
        stub(caller, push_id)
    }

    /// `GET /sync/committed-bundles/{bundle_seq}/rows`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn committed_rows(&self, caller: &Caller, seq: i64, request: CommittedRowsRequest) -> Result<Body, ApiError> {
        stub(caller, (seq, request))
    }

    /// `GET /sync/pull`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn pull(&self, caller: &Caller, request: PullRequest) -> Result<Body, ApiError> {
        stub(caller, request)
    }

    /// `POST /sync/snapshot-sessions`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn create_snapshot(
        &self,
        caller: &Caller,
        request: CreateSnapshotRequest,
    ) -> Result<SnapshotSession, ApiError> {
        stub(caller, request)
    }

    /// `GET /sync/snapshot-sessions/{snapshot_id}`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn snapshot_page(&self, caller: &Caller, id: &str, request: SnapshotPageRequest) -> Result<Body, ApiError> {
        stub(caller, (id, request))
    }

    /// `DELETE /sync/snapshot-sessions/{snapshot_id}`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn delete_snapshot(&self, caller: &Caller, id: &str) -> Result<(), ApiError> {
        stub(caller, id)
    }

    /// `GET /sync/capabilities`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn capabilities(&self, caller: &Caller) -> Result<Capabilities, ApiError> {
        stub(caller, ())
    }

    /// `GET /sync/schema`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn schema(&self, caller: &Caller) -> Result<SchemaReply, ApiError> {
        stub(caller, ())
    }

    /// `GET /sync/watch`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn watch(&self, caller: &Caller, after_bundle_seq: i64) -> Result<Watch, ApiError> {
        stub(caller, after_bundle_seq)
    }
}

fn stub<T>(_: &Caller, _: impl Sized) -> Result<T, ApiError> {
    Err(ApiError::new(Code::InternalError, "not built yet"))
}
