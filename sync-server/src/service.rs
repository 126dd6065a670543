//! Everything below HTTP: one typed request in, one reply out, synchronous and complete.
//!
//! The router, the tests and a simulator call the same methods. Clock, ids and limits are inputs
//! ([`Environment`], [`crate::limits::Limits`]). Large replies are iterators ([`Body`]) that never
//! hold a read transaction between two steps.

mod ledger;
mod push;
mod read;
mod rows;
mod snapshot;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use serde::Serialize;
use sync_core::engine::connect::{Lifecycle, connect};
use sync_core::hash::Algorithm;
use sync_core::protocol::capabilities::{self, Capabilities, SchemaReply, TableSpec};
use sync_core::protocol::connect::{ConnectReply, ConnectRequest};
use sync_core::protocol::pull::PullRequest;
use sync_core::protocol::push::{ChunkReply, CommitReply, CreatePushReply, CreatePushRequest};
use sync_core::protocol::snapshot::{CreateSnapshotRequest, SnapshotSession};
use sync_core::protocol::watch::WatchEvent;
use sync_core::protocol::{ApiError, Code, PROTOCOL_VERSION, SourceId, UserId};

use self::ledger::Ledger;
use crate::limits::Limits;
use crate::scope::fail::Outcome;
use crate::scope::schema::{Loaded, load};
use crate::scope::snapshots::Snapshots;
use crate::scope::staging::Pushes;
use crate::scope::{Scope, Scopes, lock, store};
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

/// What a service is made from.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The directory of all files; made where it does not exist.
    pub data_dir: PathBuf,
    /// The app's own DDL.
    pub schema_sql: String,
    /// `CREATE TRIGGER` statements that the server insists on.
    pub rules_sql: Option<String>,
    /// The one schema name on the wire.
    pub wire_schema: String,
    /// The operator's name for the app; may be empty.
    pub app_name: String,
    /// What is enforced and advertised.
    pub limits: Limits,
}

impl ServiceConfig {
    /// A service of this schema in this directory, with everything else by default.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, schema_sql: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            schema_sql: schema_sql.into(),
            rules_sql: None,
            wire_schema: "main".to_owned(),
            app_name: String::new(),
            limits: Limits::default(),
        }
    }
}

/// Why a service could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// schema.sql cannot be used; the text names every table, the reason and the fix.
    #[error("{0}")]
    Schema(String),
    /// rules.sql cannot be used.
    #[error("{0}")]
    Rules(String),
    /// The schema is not the recorded one with additions; the text shows the differences.
    #[error("schema.sql does not only add to the schema that the data was written with:\n{0}")]
    SchemaChanged(String),
    /// Another process uses the directory.
    #[error("another process is using {}", .0.display())]
    InUse(PathBuf),
    /// The directory or a file in it cannot be used.
    #[error("the data directory cannot be used: {0}")]
    Io(#[from] std::io::Error),
    /// SQLite's.
    #[error("a database of the server cannot be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

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
    pub(crate) fn enter(&self) -> Result<Inside<'_>, ApiError> {
        let mut state = lock(&self.state);
        if state.closing {
            return Err(ApiError::new(Code::ServiceUnavailable, "Sync service is shutting down"));
        }
        state.inside += 1;
        Ok(Inside(self))
    }

    fn close(&self) {
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

/// The data of `GET /status` and `GET /health` (reference-server §7.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `healthy` or `unhealthy`.
    pub status: &'static str,
    /// The protocol's version.
    pub version: &'static str,
    /// The operator's name for the app; may be empty.
    pub app_name: String,
    /// `running`, `shutting_down` or `closed`.
    pub lifecycle: &'static str,
    /// Whether it runs.
    pub accepting_operations: bool,
    /// Operations inside.
    pub inflight_operations: u64,
    /// `schema.table`, sorted.
    pub registered_tables: Vec<String>,
    /// What is offered.
    pub features: BTreeMap<String, bool>,
    /// Always 0: a floor never passes the newest bundle.
    pub user_state_retention_floor_ahead_count: i64,
    /// The newest bundle, over all users.
    pub latest_bundle_seq_max: i64,
    /// Over all users; 0 where there is none.
    pub retained_bundle_floor_min: i64,
    /// Over all users.
    pub retained_bundle_floor_max: i64,
    /// Bundles kept, over all users.
    pub retained_bundle_window_min: i64,
    /// Bundles kept, over all users.
    pub retained_bundle_window_max: i64,
    /// Pulls refused as pruned since the service was opened.
    pub history_pruned_error_count: u64,
    /// Pushes answered as committed already since the service was opened.
    pub accepted_push_replay_count: u64,
    /// Always 0: no write passes by a bundle.
    pub rejected_registered_write_count: u64,
    /// Bundles kept, all users together.
    pub committed_bundle_count: i64,
    /// Their bytes.
    pub committed_bundle_bytes: i64,
}

impl Status {
    /// Whether `GET /health` answers 200.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.status == "healthy"
    }
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

/// The features of reference-server §7.1.
const FEATURES: &[(&str, bool)] = &[
    ("accepted_push_replay_visibility", true),
    ("bundle_change_watch", true),
    ("bundle_pull", true),
    ("bundle_push", true),
    ("capabilities_endpoint", true),
    ("committed_bundle_row_fetch", true),
    ("committed_bundle_visibility", true),
    ("connect_lifecycle", true),
    ("graceful_shutdown", true),
    ("history_pruned_errors", true),
    ("history_pruned_visibility", true),
    ("push_session_chunking", true),
    ("registered_write_rejection_enforced", true),
    ("retained_floor_visibility", true),
    ("retained_window_visibility", true),
    ("scope_initialization_leases", true),
    ("server_checkpoint_tracking", false),
    ("snapshot_chunking", true),
    ("status_endpoint", true),
    ("structured_sync_keys", true),
];

/// An instant as RFC 3339, UTC.
fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default()
}

impl Service {
    /// Opens a data directory, or makes one.
    ///
    /// # Errors
    /// Where the schema or the rules cannot be used, where the schema does more than add to the one
    /// that the data was written with, or where the directory cannot be used.
    pub fn open(config: ServiceConfig, environment: Arc<dyn Environment>) -> Result<Self, OpenError> {
        let loaded = Arc::new(load(&config.schema_sql, config.rules_sql.as_deref())?);
        let dir = |name: &str| {
            let path = config.data_dir.join(name);
            std::fs::create_dir_all(&path).map(|()| path)
        };
        let (scopes, pushes, snapshots) = (dir("scopes")?, dir("pushes")?, dir("snapshots")?);
        let held = std::fs::File::create(config.data_dir.join("lock"))?;
        if held.try_lock().is_err() {
            return Err(OpenError::InUse(config.data_dir));
        }
        let ledger = Ledger::open(&config.data_dir.join("server.db"), &loaded)?;
        let limits = config.limits;
        let snapshots = Snapshots::load(snapshots, environment.now_ms() + limits.snapshot_session_ttl_ms)?;
        let inner = Inner {
            schema: config.wire_schema.to_ascii_lowercase().into(),
            app_name: config.app_name,
            scopes: Scopes::new(scopes, Arc::clone(&loaded), limits.open_scopes),
            pushes: Pushes::load(pushes)?,
            snapshots,
            builds: AtomicUsize::new(0),
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

    /// The data of `GET /status` and `GET /health`. Answers also while the service closes.
    ///
    /// # Errors
    /// `storage_unavailable`.
    pub fn status(&self) -> Result<Status, ApiError> {
        let i = &self.inner;
        let totals = i.ledger.totals().map_err(|e| crate::scope::fail::Fail::from(e).into_api())?;
        let (closing, inside) = {
            let gate = lock(&i.gate.state);
            (gate.closing, gate.inside)
        };
        Ok(Status {
            status: if closing { "unhealthy" } else { "healthy" },
            version: PROTOCOL_VERSION,
            app_name: i.app_name.clone(),
            lifecycle: match (closing, inside) {
                (false, _) => "running",
                (true, 0) => "closed",
                (true, _) => "shutting_down",
            },
            accepting_operations: !closing,
            inflight_operations: inside,
            registered_tables: i.registered_tables(),
            features: features(),
            user_state_retention_floor_ahead_count: 0,
            latest_bundle_seq_max: totals.latest_max,
            retained_bundle_floor_min: totals.floor_min,
            retained_bundle_floor_max: totals.floor_max,
            retained_bundle_window_min: totals.window_min,
            retained_bundle_window_max: totals.window_max,
            history_pruned_error_count: i.pruned.load(Ordering::Relaxed),
            accepted_push_replay_count: i.replays.load(Ordering::Relaxed),
            rejected_registered_write_count: 0,
            committed_bundle_count: totals.bundles,
            committed_bundle_bytes: totals.bytes,
        })
    }

    fn run<T>(&self, f: impl FnOnce(&Inner) -> Outcome<T>) -> Result<T, ApiError> {
        let _inside = self.inner.gate.enter()?;
        f(&self.inner).map_err(crate::scope::fail::Fail::into_api)
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

fn features() -> BTreeMap<String, bool> {
    FEATURES.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect()
}

impl Inner {
    fn now(&self) -> i64 {
        self.environment.now_ms()
    }

    /// The caller's scope, where there is one.
    fn scope(&self, caller: &Caller) -> Outcome<Option<Arc<Scope>>> {
        let (scope, fresh) = self.scopes.get(caller.user.as_str(), None)?;
        self.opened(scope, fresh)
    }

    fn opened(&self, scope: Option<Arc<Scope>>, fresh: bool) -> Outcome<Option<Arc<Scope>>> {
        if let Some(s) = scope.as_ref().filter(|_| fresh) {
            // Counters are copied after each commit; a crash in between is repaired here.
            self.count(s)?;
        }
        Ok(scope)
    }

    fn count(&self, scope: &Scope) -> Outcome<()> {
        let (state, (bundles, bytes)) = scope.read(|c| Ok((store::state(c)?, store::totals(c)?)))?;
        self.ledger.count(&scope.name, state.history, bundles, bytes);
        Ok(())
    }

    fn connect(&self, caller: &Caller, request: ConnectRequest) -> Outcome<ConnectReply> {
        let new_id = || self.environment.new_id();
        let (scope, fresh) = self.scopes.get(caller.user.as_str(), Some(&new_id))?;
        let Some(scope) = self.opened(scope, fresh)? else {
            return Err(crate::scope::fail::Fail::Damaged("a scope that was just made"));
        };
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

    fn registered_tables(&self) -> Vec<String> {
        self.loaded.schema.tables().iter().map(|t| format!("{}.{}", self.schema, t.name)).collect()
    }

    fn capabilities(&self, caller: &Caller) -> Outcome<Capabilities> {
        let l = &self.limits;
        let specs = self.loaded.schema.tables().iter().map(|t| TableSpec {
            schema: self.schema.to_string(),
            table: t.name.clone(),
            sync_key_columns: t.key.iter().map(|i| t.columns[*i].name.clone()).collect(),
            columns: t.columns.iter().map(|c| c.name.clone()).collect(),
        });
        Ok(Capabilities {
            protocol_version: PROTOCOL_VERSION.to_owned(),
            schema_version: 1,
            app_name: self.app_name.clone(),
            registered_tables: self.registered_tables(),
            registered_table_specs: specs.collect(),
            features: features(),
            bundle_limits: capabilities::Limits {
                max_rows_per_bundle: l.max_rows_per_bundle,
                max_bytes_per_bundle: 0,
                max_bundles_per_pull: l.max_bundles_per_pull,
                default_rows_per_push_chunk: l.default_rows_per_push_chunk,
                max_rows_per_push_chunk: l.max_rows_per_push_chunk,
                push_session_ttl_seconds: l.push_session_ttl_ms / 1000,
                default_rows_per_committed_bundle_chunk: l.default_rows_per_committed_bundle_chunk,
                max_rows_per_committed_bundle_chunk: l.max_rows_per_committed_bundle_chunk,
                default_rows_per_snapshot_chunk: l.default_rows_per_snapshot_chunk,
                max_rows_per_snapshot_chunk: l.max_rows_per_snapshot_chunk,
                snapshot_session_ttl_seconds: l.snapshot_session_ttl_ms / 1000,
                max_rows_per_snapshot_session: l.max_rows_per_snapshot_session,
                max_bytes_per_snapshot_session: l.max_bytes_per_snapshot_session,
                initialization_lease_ttl_seconds: l.initialization_lease_ttl_ms / 1000,
                max_bytes_per_request: i64::try_from(l.max_bytes_per_request).unwrap_or(i64::MAX),
                max_bytes_per_row: l.max_bytes_per_row,
                max_bytes_per_pull: l.max_bytes_per_pull,
            },
            bundle_hash_algorithms: [Algorithm::Sha256, Algorithm::Blake3].map(|a| a.name().to_owned()).to_vec(),
            scope_id: self.scope(caller)?.map(|s| s.scope_id.clone()),
        })
    }

    fn schema_reply(&self) -> SchemaReply {
        SchemaReply { schema: self.schema.to_string(), statements: self.loaded.statements.clone() }
    }
}
