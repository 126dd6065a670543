//! The server: the real `Service`, called without a socket, which may die at its fault points and come back
//! from what was on its disk.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use sync_client::transport::Method;
use sync_core::hash::Algorithm;
use sync_core::protocol::pull::PullRequest;
use sync_core::protocol::{ApiError, Code, SourceId, UserId};
use sync_server::limits::Limits;
use sync_server::service::{
    Body, Caller, CommittedRowsRequest, Environment, FaultPoint, Service, ServiceConfig, SnapshotPageRequest,
};

use crate::device::lock;
use crate::rules::RULES;

/// A request that outlives its sender.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    /// The method.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// The source.
    pub(crate) source: String,
    /// The token, which is the user.
    pub(crate) user: String,
    /// The body.
    pub(crate) body: Option<Vec<u8>>,
    /// Asks for the exact view.
    pub(crate) exact: bool,
}

/// A reply.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// HTTP status.
    pub(crate) status: u16,
    /// Seconds.
    pub(crate) retry_after: Option<u64>,
    /// JSON text.
    pub(crate) body: Vec<u8>,
}

/// The payload of an unwinding that is the server's death, not a bug.
#[derive(Debug)]
pub(crate) struct ServerCrash;

/// The endpoints, for coverage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    Capabilities,
    Connect,
    CreatePush,
    Chunk,
    Commit,
    DeletePush,
    Pull,
    CommittedRows,
    CreateSnapshot,
    SnapshotPage,
    DeleteSnapshot,
    Digest,
    Other,
}

impl Endpoint {
    /// Of a request.
    #[must_use]
    pub(crate) fn of(method: Method, path: &str) -> Self {
        let path = path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            (_, ["sync", "capabilities"]) => Self::Capabilities,
            (_, ["sync", "connect"]) => Self::Connect,
            (_, ["sync", "push-sessions"]) => Self::CreatePush,
            (_, ["sync", "push-sessions", _, "chunks"]) => Self::Chunk,
            (_, ["sync", "push-sessions", _, "commit"]) => Self::Commit,
            (Method::Delete, ["sync", "push-sessions", _]) => Self::DeletePush,
            (_, ["sync", "pull"]) => Self::Pull,
            (_, ["sync", "committed-bundles", _, "rows"]) => Self::CommittedRows,
            (_, ["sync", "digest"]) => Self::Digest,
            (_, ["sync", "snapshot-sessions"]) => Self::CreateSnapshot,
            (Method::Get, ["sync", "snapshot-sessions", _]) => Self::SnapshotPage,
            (Method::Delete, ["sync", "snapshot-sessions", _]) => Self::DeleteSnapshot,
            _ => Self::Other,
        }
    }
}

/// The server's place: its disk, its settings, and the running service.
pub(crate) struct Server {
    root: PathBuf,
    dir: Mutex<PathBuf>,
    generation: Mutex<u32>,
    schema: Mutex<String>,
    limits: Mutex<Limits>,
    rules: bool,
    service: Mutex<Option<Service>>,
    /// Where it dies next.
    pub(crate) armed: Mutex<Option<FaultPoint>>,
}

impl Server {
    /// A server that does not run yet.
    #[must_use]
    pub(crate) fn new(root: &Path, schema: &str, limits: Limits, rules: bool) -> Self {
        let dir = root.join("server-0");
        Self {
            root: root.to_owned(),
            dir: Mutex::new(dir),
            generation: Mutex::new(0),
            schema: Mutex::new(schema.to_owned()),
            limits: Mutex::new(limits),
            rules,
            service: Mutex::new(None),
            armed: Mutex::new(None),
        }
    }

    /// Starts it on what is on its disk.
    pub(crate) fn start(&self, env: Arc<dyn Environment>) {
        let mut config = ServiceConfig::new(lock(&self.dir).clone(), lock(&self.schema).clone());
        config.limits = lock(&self.limits).clone();
        config.rules_sql = self.rules.then(|| RULES.to_owned());
        let service = Service::open(config, env).unwrap_or_else(|e| panic!("the server does not start: {e}"));
        *lock(&self.service) = Some(service);
    }

    /// Stops it in order.
    pub(crate) fn stop(&self) {
        if let Some(s) = lock(&self.service).take() {
            s.close();
        }
    }

    /// Gives it another schema, from the next start on.
    pub(crate) fn set_schema(&self, schema: &str) {
        schema.clone_into(&mut lock(&self.schema));
    }

    /// Keeps so many bundles, from the next start on.
    pub(crate) fn retain(&self, bundles: i64) {
        lock(&self.limits).retained_bundles = bundles;
    }

    /// A copy of its disk.
    pub(crate) fn copy(&self) -> PathBuf {
        let to = self.fresh_dir();
        copy_dir(&lock(&self.dir), &to);
        to
    }

    /// Where its disk is.
    pub(crate) fn dir(&self) -> PathBuf {
        lock(&self.dir).clone()
    }

    /// Goes on with another disk, from the next start on.
    pub(crate) fn use_dir(&self, dir: PathBuf) {
        *lock(&self.dir) = dir;
    }

    /// An empty place.
    pub(crate) fn fresh_dir(&self) -> PathBuf {
        let mut n = lock(&self.generation);
        *n += 1;
        self.root.join(format!("server-{n}"))
    }

    /// At a fault point: dies where that was planned.
    pub(crate) fn fault(&self, point: FaultPoint) {
        let mut armed = lock(&self.armed);
        if *armed == Some(point) {
            *armed = None;
            drop(armed);
            let left = self.copy();
            self.use_dir(left);
            resume_unwind(Box::new(ServerCrash));
        }
    }

    /// Answers a request. `None` where the server died over it.
    pub(crate) fn answer(&self, r: &Owned) -> Option<Reply> {
        let service = lock(&self.service).clone()?;
        match catch_unwind(AssertUnwindSafe(|| route(&service, r))) {
            Ok(reply) => Some(reply),
            Err(p) if p.is::<ServerCrash>() => {
                drop(service);
                *lock(&self.service) = None;
                None
            }
            Err(p) => resume_unwind(p),
        }
    }

    /// The running service.
    pub(crate) fn service(&self) -> Service {
        lock(&self.service).clone().expect("invariant: the server runs")
    }
}

fn route(service: &Service, r: &Owned) -> Reply {
    let outcome = answered(service, r);
    outcome.unwrap_or_else(|e| Reply {
        status: e.code.status(),
        retry_after: e.retry_after,
        body: e.to_json().into_bytes(),
    })
}

fn answered(service: &Service, r: &Owned) -> Result<Reply, ApiError> {
    let caller = caller(&r.user, &r.source, r.exact);
    let (path, query) = r.path.split_once('?').unwrap_or((&r.path, ""));
    let query: BTreeMap<&str, &str> = query.split('&').filter_map(|p| p.split_once('=')).collect();
    let number = |name: &str| query.get(name).and_then(|v| v.parse::<i64>().ok());
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let body = r.body.as_deref().unwrap_or_default();
    match (Endpoint::of(r.method, &r.path), parts.as_slice()) {
        (Endpoint::Capabilities, _) => json(&service.capabilities(&caller)?),
        (Endpoint::Connect, _) => json(&service.connect(&caller, read(body)?)?),
        (Endpoint::CreatePush, _) => json(&service.create_push(&caller, read(body)?)?),
        (Endpoint::Chunk, [_, _, id, _]) => json(&service.upload_chunk(&caller, id, &mut &*body)?),
        (Endpoint::Commit, [_, _, id, _]) => json(&service.commit_push(&caller, id)?),
        (Endpoint::DeletePush, [_, _, id]) => service.delete_push(&caller, id).map(|()| gone()),
        (Endpoint::Pull, _) => stream(service.pull(
            &caller,
            PullRequest {
                after_bundle_seq: number("after_bundle_seq").unwrap_or(0),
                max_bundles: number("max_bundles").unwrap_or(1000),
                target_bundle_seq: number("target_bundle_seq").unwrap_or(0),
                after_history_hash: query.get("after_history_hash").map(|h| (*h).to_owned()),
                max_inline_rows: number("max_inline_rows"),
            },
        )?),
        (Endpoint::CommittedRows, [_, _, seq, _]) => {
            let request =
                CommittedRowsRequest { after_row_ordinal: number("after_row_ordinal"), max_rows: number("max_rows") };
            stream(service.committed_rows(&caller, seq.parse().unwrap_or_default(), request)?)
        }
        (Endpoint::CreateSnapshot, _) => json(&service.create_snapshot(&caller, read(body)?)?),
        (Endpoint::SnapshotPage, [_, _, id]) => {
            let request = SnapshotPageRequest {
                after_row_ordinal: number("after_row_ordinal").unwrap_or(0),
                max_rows: number("max_rows"),
            };
            stream(service.snapshot_page(&caller, id, request)?)
        }
        (Endpoint::Digest, _) => {
            let text = |name: &str| query.get(name).copied().and_then(decoded).unwrap_or_default();
            json(&service.digest(
                &caller,
                &sync_core::protocol::digest::DigestRequest {
                    snapshot_id: text("snapshot_id"),
                    table: text("table"),
                    columns: read(text("columns").as_bytes())?,
                    after_row_ordinal: number("after_row_ordinal").unwrap_or(0),
                    until_row_ordinal: number("until_row_ordinal").unwrap_or(0),
                    max_ranges: number("max_ranges"),
                },
            )?)
        }
        (Endpoint::DeleteSnapshot, [_, _, id]) => service.delete_snapshot(&caller, id).map(|()| gone()),
        _ => Err(ApiError::new(Code::NotFound, "nothing is served at this path")),
    }
}

/// Undoes percent-encoding.
fn decoded(s: &str) -> Option<String> {
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

/// A caller.
///
/// # Panics
/// Where the ids are none.
#[must_use]
pub(crate) fn caller(user: &str, source: &str, exact: bool) -> Caller {
    Caller {
        user: UserId::parse(user).expect("a user"),
        source: SourceId::parse(source).expect("a source"),
        algorithm: if exact { Algorithm::Blake3 } else { Algorithm::Sha256 },
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    sync_core::json::from_slice(body).map_err(|e| ApiError::new(Code::InvalidRequest, e.to_string()))
}

fn json(reply: &impl Serialize) -> Result<Reply, ApiError> {
    let body = serde_json::to_vec(reply).expect("invariant: replies serialise");
    Ok(Reply { status: 200, retry_after: None, body })
}

const fn gone() -> Reply {
    Reply { status: 204, retry_after: None, body: Vec::new() }
}

fn stream(body: Body) -> Result<Reply, ApiError> {
    let pieces: Vec<Vec<u8>> = body.collect::<Result<_, _>>()?;
    Ok(Reply { status: 200, retry_after: None, body: pieces.concat() })
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if !entry.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}
