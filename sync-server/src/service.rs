//! Everything below HTTP: one typed request in, one reply out, synchronous and complete.
//!
//! The router, the tests and a simulator call the same methods. Clock, ids and limits are inputs
//! ([`Environment`], [`crate::limits::Limits`]). Large replies are iterators ([`Body`]) that never
//! hold a read transaction between two steps.

mod config;
mod describe;
mod digest;
mod gate;
mod ledger;
mod push;
mod read;
mod rows;
mod snapshot;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use sync_core::engine::connect::{Lifecycle, connect};
use sync_core::hash::Algorithm;
use sync_core::protocol::capabilities::{Capabilities, SchemaReply};
use sync_core::protocol::connect::{ConnectReply, ConnectRequest};
use sync_core::protocol::digest::{DigestReply, DigestRequest};
use sync_core::protocol::pull::PullRequest;
use sync_core::protocol::push::{ChunkReply, CommitReply, CreatePushReply, CreatePushRequest};
use sync_core::protocol::snapshot::{CreateSnapshotRequest, SnapshotSession};
use sync_core::protocol::watch::WatchEvent;
use sync_core::protocol::{ApiError, SourceId, UserId};
use sync_core::sqlite::introspect::Refusal;

pub use self::config::{OpenError, ServiceConfig};
pub use self::describe::Status;
use self::digest::Budgets;
pub(crate) use self::gate::Gate;
use self::ledger::{LEDGER, Ledger};
use crate::limits::Limits;
use crate::scope::fail::Outcome;
use crate::scope::schema::{Loaded, load};
use crate::scope::snapshots::Snapshots;
use crate::scope::staging::Pushes;
use crate::scope::{Scope, Scopes, store};
use crate::watch::Hub;

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

/// Places where a crash matters. A test's environment may kill the process at one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// A chunk was read; nothing of it is stored.
    BeforeChunkStored,
    /// A chunk is stored; nobody was told.
    AfterChunkStored,
    /// Everything of a bundle is written; nothing is committed.
    BeforeCommit,
    /// A bundle is committed; nobody was told.
    AfterCommit,
    /// A snapshot is half built.
    MidSnapshot,
}

impl FaultPoint {
    /// Every point.
    pub const ALL: &[Self] =
        &[Self::BeforeChunkStored, Self::AfterChunkStored, Self::BeforeCommit, Self::AfterCommit, Self::MidSnapshot];

    /// Its name, for command lines and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeChunkStored => "before_chunk_stored",
            Self::AfterChunkStored => "after_chunk_stored",
            Self::BeforeCommit => "before_commit",
            Self::AfterCommit => "after_commit",
            Self::MidSnapshot => "mid_snapshot",
        }
    }
}

/// What the service takes from outside beside requests: time and randomness.
pub trait Environment: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// A fresh random id: lowercase dashed UUID.
    fn new_id(&self) -> String;
    /// Called at each [`FaultPoint`]. Does nothing but in tests.
    fn fault(&self, point: FaultPoint) {
        let _ = point;
    }
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

pub(crate) struct Inner {
    environment: Arc<dyn Environment>,
    schema: Arc<str>,
    app_name: String,
    limits: Limits,
    loaded: Arc<Loaded>,
    scopes: Scopes,
    pushes: Pushes,
    snapshots: Snapshots,
    builds: AtomicUsize,
    digests: Budgets,
    ledger: Ledger,
    hub: Hub,
    gate: Arc<Gate>,
    pruned: AtomicU64,
    replays: AtomicU64,
    // Held as long as the service lives.
    _lock: std::fs::File,
}

/// The engine of the server. Clones share one state.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("tables", &self.inner.loaded.order).finish_non_exhaustive()
    }
}

/// An instant as RFC 3339, UTC; the last one that can be written where it is beyond.
fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX).to_string()
}

impl Service {
    /// Opens a data directory, or makes one.
    ///
    /// # Errors
    /// Where the schema or the rules cannot be used, where the schema does more than add to the one
    /// that the data was written with, or where the directory cannot be used.
    pub fn open(config: ServiceConfig, environment: Arc<dyn Environment>) -> Result<Self, OpenError> {
        let keys = Ledger::keys(&config.data_dir.join(LEDGER))?;
        let loaded = load(&config.schema_sql, config.rules_sql.as_deref(), &keys)?;
        Self::open_loaded(config, loaded, environment)
    }

    /// Opens a data directory, or makes one, with the tables that its data has: for what needs no schema of an app.
    ///
    /// # Errors
    /// As [`Service::open`].
    #[cfg(feature = "ingest")]
    pub(crate) fn open_recorded(
        data_dir: std::path::PathBuf,
        limits: Limits,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, OpenError> {
        let ledger = data_dir.join(LEDGER);
        let recorded = Ledger::recorded(&ledger)?;
        let loaded = if recorded.is_empty() {
            Loaded::none()
        } else {
            load(&recorded.join(";\n"), None, &Ledger::keys(&ledger)?)?
        };
        Self::open_loaded(ServiceConfig { limits, ..ServiceConfig::new(data_dir, "") }, loaded, environment)
    }

    fn open_loaded(
        config: ServiceConfig,
        loaded: Loaded,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, OpenError> {
        let loaded = Arc::new(loaded);
        let dir = |name: &str| {
            let path = config.data_dir.join(name);
            std::fs::create_dir_all(&path).map(|()| path)
        };
        let (scopes, pushes, snapshots) = (dir("scopes")?, dir("pushes")?, dir("snapshots")?);
        let held = std::fs::File::create(config.data_dir.join("lock"))?;
        if held.try_lock().is_err() {
            return Err(OpenError::InUse(config.data_dir));
        }
        let ledger = Ledger::open(&config.data_dir.join(LEDGER), &loaded)?;
        let limits = config.limits;
        let snapshots = Snapshots::load(snapshots, environment.now_ms() + limits.snapshot_session_ttl_ms)?;
        let inner = Inner {
            schema: config.wire_schema.to_ascii_lowercase().into(),
            app_name: config.app_name,
            scopes: Scopes::new(scopes, Arc::clone(&loaded), &limits),
            pushes: Pushes::load(pushes, loaded.stamp())?,
            snapshots,
            builds: AtomicUsize::new(0),
            digests: Budgets::default(),
            ledger,
            hub: Hub::default(),
            gate: Arc::default(),
            pruned: AtomicU64::new(0),
            replays: AtomicU64::new(0),
            _lock: held,
            environment,
            limits,
            loaded,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Refuses new operations, ends watch streams, and waits for what is in flight.
    pub fn close(&self) {
        self.inner.hub.close();
        self.inner.gate.close();
    }

    /// The limits that are enforced.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The tables of the schema that are not served, since they cannot be synced, why, and what to do. They are logged as
    /// warnings when the service is opened, but for those that an app keeps beside its data (without a key, virtual).
    #[must_use]
    pub fn left_out(&self) -> &[Refusal] {
        &self.inner.loaded.left_out
    }

    /// The data of `GET /status` and `GET /health`. Answers also while the service closes.
    ///
    /// # Errors
    /// `storage_unavailable`.
    pub fn status(&self) -> Result<Status, ApiError> {
        self.inner.status().map_err(crate::scope::fail::Fail::into_api)
    }

    fn run<T>(&self, f: impl FnOnce(&Inner) -> Outcome<T>) -> Result<T, ApiError> {
        let _inside = self.inner.gate.enter()?;
        f(&self.inner).map_err(crate::scope::fail::Fail::into_api)
    }

    /// Does something with a user's file, which is made where there is none.
    ///
    /// # Errors
    /// What `f` answers; `storage_unavailable`, `scope_damaged`.
    #[cfg(feature = "ingest")]
    pub(crate) fn on_file<T>(&self, user: &UserId, f: impl FnOnce(&Scope) -> Outcome<T>) -> Result<T, ApiError> {
        self.run(|i| {
            let (scope, fresh) = i.scopes.get(user.as_str(), true)?;
            let scope = i.opened(scope, fresh)?;
            f(&*scope.ok_or(crate::scope::fail::Fail::Damaged("a scope that was just made"))?)
        })
    }

    /// Clock, ids and fault points.
    #[cfg(feature = "ingest")]
    pub(crate) fn environment(&self) -> &Arc<dyn Environment> {
        &self.inner.environment
    }

    /// `POST /sync/connect`
    ///
    /// # Errors
    /// The codes of the seed's failure table for this endpoint.
    pub fn connect(&self, caller: &Caller, request: ConnectRequest) -> Result<ConnectReply, ApiError> {
        self.run(|i| i.connect(caller, request))
    }

    /// `POST /sync/push-sessions`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn create_push(&self, caller: &Caller, request: CreatePushRequest) -> Result<CreatePushReply, ApiError> {
        self.run(|i| i.create_push(caller, request))
    }

    /// `POST /sync/push-sessions/{push_id}/chunks`; `body` is the decoded JSON text.
    ///
    /// # Errors
    /// As [`Service::connect`]; an I/O error of `body` whose inner error is an [`ApiError`] comes back as that.
    pub fn upload_chunk(&self, caller: &Caller, push_id: &str, body: &mut dyn Read) -> Result<ChunkReply, ApiError> {
        self.run(|i| i.upload_chunk(caller, push_id, body))
    }

    /// `POST /sync/push-sessions/{push_id}/commit`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn commit_push(&self, caller: &Caller, push_id: &str) -> Result<CommitReply, ApiError> {
        self.run(|i| i.commit_push(caller, push_id))
    }

    /// `DELETE /sync/push-sessions/{push_id}`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn delete_push(&self, caller: &Caller, push_id: &str) -> Result<(), ApiError> {
        self.run(|i| i.delete_push(caller, push_id))
    }

    /// `GET /sync/committed-bundles/{bundle_seq}/rows`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn committed_rows(&self, caller: &Caller, seq: i64, request: CommittedRowsRequest) -> Result<Body, ApiError> {
        self.run(|i| i.committed_rows(caller, seq, request))
    }

    /// `GET /sync/pull`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn pull(&self, caller: &Caller, request: PullRequest) -> Result<Body, ApiError> {
        self.run(|i| i.pull(caller, &request))
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
        self.run(|i| i.create_snapshot(caller, &request))
    }

    /// `GET /sync/snapshot-sessions/{snapshot_id}`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn snapshot_page(&self, caller: &Caller, id: &str, request: SnapshotPageRequest) -> Result<Body, ApiError> {
        self.run(|i| i.snapshot_page(caller, id, request))
    }

    /// `DELETE /sync/snapshot-sessions/{snapshot_id}`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn delete_snapshot(&self, caller: &Caller, id: &str) -> Result<(), ApiError> {
        self.run(|i| i.delete_snapshot(caller, id))
    }

    /// `GET /sync/digest`
    ///
    /// # Errors
    /// `digest_invalid`, `rate_limited`, and those of a snapshot page.
    pub fn digest(&self, caller: &Caller, request: &DigestRequest) -> Result<DigestReply, ApiError> {
        self.run(|i| i.digest(caller, request))
    }

    /// `GET /sync/capabilities`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn capabilities(&self, caller: &Caller) -> Result<Capabilities, ApiError> {
        self.run(|i| i.capabilities(caller))
    }

    /// `GET /sync/schema`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn schema(&self, caller: &Caller) -> Result<SchemaReply, ApiError> {
        let _ = caller;
        self.run(|i| Ok(i.schema_reply()))
    }

    /// `GET /sync/watch`
    ///
    /// # Errors
    /// As [`Service::connect`].
    pub fn watch(&self, caller: &Caller, after_bundle_seq: i64) -> Result<Watch, ApiError> {
        self.run(|i| i.watch(caller, after_bundle_seq))
    }
}

impl Inner {
    fn now(&self) -> i64 {
        self.environment.now_ms()
    }

    /// The caller's scope, where there is one.
    fn scope(&self, caller: &Caller) -> Outcome<Option<Arc<Scope>>> {
        let (scope, fresh) = self.scopes.get(caller.user.as_str(), false)?;
        self.opened(scope, fresh)
    }

    fn opened(&self, scope: Option<Arc<Scope>>, fresh: bool) -> Outcome<Option<Arc<Scope>>> {
        if let Some(s) = scope.as_ref().filter(|_| fresh) {
            // Counters are copied after each commit; a crash in between is repaired here.
            self.count(s)?;
        }
        Ok(scope)
    }

    /// Notes what the caller insists on; where that cannot be stored now, its next request tries again.
    fn note_view(caller: &Caller, scope: &Scope) {
        if caller.algorithm == Algorithm::Sha256
            && let Err(e) = scope.see_plain()
        {
            tracing::warn!(cause = %e, "that a client reads the plain view was not stored");
        }
    }

    fn count(&self, scope: &Scope) -> Outcome<()> {
        let (state, (bundles, bytes)) = scope.read(|c| Ok((store::state(c)?, store::totals(c)?)))?;
        self.ledger.count(&scope.name, state.history, bundles, bytes);
        Ok(())
    }

    fn connect(&self, caller: &Caller, request: ConnectRequest) -> Outcome<ConnectReply> {
        let (scope, fresh) = self.scopes.get(caller.user.as_str(), true)?;
        let Some(scope) = self.opened(scope, fresh)? else {
            return Err(crate::scope::fail::Fail::Damaged("a scope that was just made"));
        };
        Self::note_view(caller, &scope);
        let now = self.now();
        let source = caller.source.as_str();
        let decide = |lifecycle: &Lifecycle| {
            let ttl = self.limits.initialization_lease_ttl_ms;
            connect(lifecycle, source, request.has_local_pending_rows, now, ttl, || self.environment.new_id())
        };
        // Almost always nothing changes, so the writer is not asked for.
        let state = scope.read(store::state)?;
        let mut decided = decide(&state.lifecycle);
        if decided.next.is_some() {
            decided = scope.write(|conn| {
                let decided = decide(&store::state(conn)?.lifecycle);
                if let Some(next) = &decided.next {
                    store::set_lifecycle(conn, next, source, now)?;
                }
                Ok(decided)
            })?;
        }
        let own = decided.resolution == sync_core::protocol::connect::Resolution::InitializeLocal;
        Ok(ConnectReply {
            resolution: decided.resolution,
            initialization_id: decided.lease.as_ref().filter(|_| own).map(|l| l.id.clone()),
            lease_expires_at: decided.lease.as_ref().map(|l| time(l.expires_ms)),
            retry_after_seconds: decided.retry_after_seconds,
            scope_id: Some(scope.scope_id.clone()),
        })
    }
}
