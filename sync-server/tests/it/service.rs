//! The service below HTTP, called directly with a clock that stands still.

mod changes;
mod digest;
mod history;
mod lifecycle;
mod rejections;
mod schema;
mod snapshots;
mod staging;
mod views;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sync_core::hash::Algorithm;
use sync_core::protocol::connect::{ConnectReply, ConnectRequest};
use sync_core::protocol::pull::PullRequest;
use sync_core::protocol::push::{ChunkReply, CommitReply, CreatePushReply, CreatePushRequest};
use sync_core::protocol::{ApiError, SourceId, UserId};
use sync_server::limits::Limits;
use sync_server::service::{
    Body, Caller, CommittedRowsRequest, Environment, FaultPoint, OpenError, Service, ServiceConfig, SnapshotPageRequest,
};
use tempfile::TempDir;

/// A clock and a counter.
#[derive(Default)]
pub(super) struct Fake {
    now: AtomicI64,
    ids: AtomicU64,
    faults: Mutex<Vec<FaultPoint>>,
}

impl Environment for Fake {
    fn now_ms(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    fn new_id(&self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.ids.fetch_add(1, Ordering::SeqCst))
    }

    fn fault(&self, point: FaultPoint) {
        self.faults.lock().unwrap().push(point);
    }
}

pub(super) const NOTES: &str = "
    CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT, n INTEGER DEFAULT 7);
    CREATE TABLE tags (
        id TEXT PRIMARY KEY NOT NULL, note TEXT REFERENCES notes(id) ON DELETE CASCADE,
        name TEXT UNIQUE, weight INTEGER NOT NULL DEFAULT 1 CHECK (weight > 0));";

/// A service on a directory of its own.
pub(super) struct World {
    dir: TempDir,
    fake: Arc<Fake>,
    service: Option<Service>,
    config: ServiceConfig,
}

impl World {
    pub(super) fn new(schema: &str) -> Self {
        Self::with(schema, |_| {})
    }

    pub(super) fn with(schema: &str, change: impl FnOnce(&mut ServiceConfig)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut config = ServiceConfig::new(dir.path(), schema);
        change(&mut config);
        let fake = Arc::new(Fake::default());
        fake.now.store(1_790_000_000_000, Ordering::SeqCst);
        let mut world = Self { dir, fake, service: None, config };
        world.open(schema).unwrap();
        world
    }

    pub(super) fn limited(schema: &str, change: impl FnOnce(&mut Limits)) -> Self {
        Self::with(schema, |c| change(&mut c.limits))
    }

    /// Closes the service, and opens it again with a schema.
    pub(super) fn open(&mut self, schema: &str) -> Result<(), OpenError> {
        self.service = None;
        schema.clone_into(&mut self.config.schema_sql);
        self.service = Some(Service::open(self.config.clone(), Arc::clone(&self.fake) as Arc<dyn Environment>)?);
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.service = None;
    }

    /// The file of the only scope.
    pub(super) fn scope_file(&self) -> std::path::PathBuf {
        let files = std::fs::read_dir(self.dir.path().join("scopes")).unwrap().map(|f| f.unwrap().path());
        files.into_iter().find(|f| f.extension().is_some_and(|e| e == "db")).unwrap()
    }

    pub(super) fn restart(&mut self) {
        let schema = self.config.schema_sql.clone();
        self.open(&schema).unwrap();
    }

    pub(super) fn service(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    pub(super) fn pass(&self, ms: i64) {
        self.fake.now.fetch_add(ms, Ordering::SeqCst);
    }

    pub(super) fn device<'a>(&'a self, user: &str, source: &str) -> Device<'a> {
        let caller = Caller {
            user: UserId::parse(user).unwrap(),
            source: SourceId::parse(source).unwrap(),
            algorithm: Algorithm::Blake3,
        };
        Device { world: self, caller }
    }

    /// A device of a scope that is initialized and empty.
    pub(super) fn ready(&self, source: &str) -> Device<'_> {
        let d = self.device("ann", source);
        d.connect(false).unwrap();
        d
    }
}

/// One caller.
#[derive(Clone)]
pub(super) struct Device<'a> {
    world: &'a World,
    pub(super) caller: Caller,
}

impl Device<'_> {
    pub(super) fn plain(mut self) -> Self {
        self.caller.algorithm = Algorithm::Sha256;
        self
    }

    fn service(&self) -> &Service {
        self.world.service()
    }

    pub(super) fn connect(&self, pending: bool) -> Result<ConnectReply, ApiError> {
        self.service().connect(&self.caller, ConnectRequest { has_local_pending_rows: pending })
    }

    pub(super) fn create(&self, id: i64, rows: i64, lease: Option<&str>) -> Result<CreatePushReply, ApiError> {
        let request = CreatePushRequest {
            source_bundle_id: id,
            planned_row_count: rows,
            initialization_id: lease.map(str::to_owned),
            request_hash: None,
            ..CreatePushRequest::default()
        };
        self.service().create_push(&self.caller, request)
    }

    pub(super) fn chunk(&self, push: &str, start: i64, rows: &[Value]) -> Result<ChunkReply, ApiError> {
        let text = json!({"start_row_ordinal": start, "rows": rows}).to_string();
        self.service().upload_chunk(&self.caller, push, &mut text.as_bytes())
    }

    pub(super) fn commit(&self, push: &str) -> Result<CommitReply, ApiError> {
        self.service().commit_push(&self.caller, push)
    }

    /// Stages rows under the next id.
    pub(super) fn stage(&self, id: i64, rows: &[Value]) -> String {
        let push = self.create(id, rows.len() as i64, None).unwrap().push_id.unwrap();
        self.chunk(&push, 0, rows).unwrap();
        push
    }

    pub(super) fn push(&self, id: i64, rows: &[Value]) -> Result<CommitReply, ApiError> {
        self.commit(&self.stage(id, rows))
    }

    pub(super) fn pull_with(&self, request: PullRequest) -> Result<Value, ApiError> {
        text(self.service().pull(&self.caller, request)?).map(|t| serde_json::from_str(&t).unwrap())
    }

    pub(super) fn pull(&self, after: i64) -> Result<Value, ApiError> {
        self.pull_with(PullRequest { after_bundle_seq: after, ..PullRequest::default() })
    }

    pub(super) fn rows(&self, seq: i64, after: Option<i64>, max: Option<i64>) -> Result<Value, ApiError> {
        let request = CommittedRowsRequest { after_row_ordinal: after, max_rows: max };
        text(self.service().committed_rows(&self.caller, seq, request)?).map(|t| serde_json::from_str(&t).unwrap())
    }

    pub(super) fn page(&self, id: &str, after: i64, max: Option<i64>) -> Result<Value, ApiError> {
        let request = SnapshotPageRequest { after_row_ordinal: after, max_rows: max };
        text(self.service().snapshot_page(&self.caller, id, request)?).map(|t| serde_json::from_str(&t).unwrap())
    }
}

/// A body, whole.
pub(super) fn text(body: Body) -> Result<String, ApiError> {
    let mut out = Vec::new();
    for piece in body {
        out.extend(piece?);
    }
    Ok(String::from_utf8(out).unwrap())
}

pub(super) fn insert(table: &str, payload: Value) -> Value {
    row("INSERT", table, 0, payload)
}

pub(super) fn update(table: &str, base: i64, payload: Value) -> Value {
    row("UPDATE", table, base, payload)
}

pub(super) fn delete(table: &str, base: i64, id: &str) -> Value {
    json!({"schema": "main", "table": table, "key": {"id": id}, "op": "DELETE", "base_row_version": base})
}

/// A row whose key is `id`.
pub(super) fn row(op: &str, table: &str, base: i64, payload: Value) -> Value {
    let id = match &payload["id"] {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    json!({"schema": "main", "table": table, "key": {"id": id}, "op": op, "base_row_version": base, "payload": payload})
}

/// `op table key` of each row of a bundle.
pub(super) fn summary(rows: &Value) -> Vec<String> {
    let one = |r: &Value| {
        let key: Vec<&str> = r["key"].as_object().unwrap().values().map(|v| v.as_str().unwrap()).collect();
        format!("{} {} {}", r["op"].as_str().unwrap(), r["table"].as_str().unwrap(), key.join(","))
    };
    rows.as_array().unwrap().iter().map(one).collect()
}

/// A further member of an error.
pub(super) fn member(e: &ApiError, name: &str) -> Value {
    let found = e.members.iter().find(|(n, _)| *n == name);
    found.map_or(Value::Null, |(_, json)| serde_json::from_str(json).unwrap())
}

pub(super) fn code<T>(result: Result<T, ApiError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(e) => e.code.as_str(),
    }
}
