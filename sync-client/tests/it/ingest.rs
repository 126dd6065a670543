//! The producer's side of ingest. `peer` is a server in the test's hands, `web` the same over HTTP; `server` has the real one.

mod acks;
mod aexy;
mod app;
mod killed;
mod peer;
mod program;
mod random;
mod refusals;
mod server;
mod sinks;
mod tracker;
mod web;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use serde_json::{Value, json};
use sync_client::context::{Environment, FaultPoint};
use sync_client::ingest::{Endpoint, How, Mode, Pushed, Remote, Sink, Stream, StreamStatus};
use tempfile::TempDir;

use peer::{Peer, URL};

/// A clock and randomness in the test's hands, and a place to die at.
pub(crate) struct World {
    pub(crate) now_ms: AtomicI64,
    random: AtomicU64,
    /// 0 is nowhere; else the n-th fault point from now on.
    pub(crate) dies_in: AtomicU64,
}

impl Environment for World {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn new_id(&self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.random())
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(1, Ordering::SeqCst)
    }

    fn fault(&self, _: FaultPoint) {
        if self.dies_in.load(Ordering::SeqCst) > 0 && self.dies_in.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::panic::resume_unwind(Box::new("killed"));
        }
    }
}

/// A file with a stream, and a peer.
pub(crate) struct Producer {
    pub(crate) dir: TempDir,
    pub(crate) world: Arc<World>,
    pub(crate) peer: Arc<Peer>,
}

pub(crate) const FULL: How = How { mode: Mode::Full, dry_run: false, verify: false, device: None };
pub(crate) const SINCE_LAST: How = How { mode: Mode::SinceLast, dry_run: false, verify: false, device: None };

impl Producer {
    pub(crate) fn new() -> Self {
        let world = World { now_ms: 1_796_000_000_000.into(), random: 1.into(), dies_in: 0.into() };
        Self { dir: TempDir::new().unwrap(), world: Arc::new(world), peer: Arc::default() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The stream, opened anew, as by another process.
    pub(crate) fn stream(&self) -> Stream {
        let env: Arc<dyn Environment> = Arc::<World>::clone(&self.world);
        Stream::open_with(&self.path("app.db"), "statsai", env).unwrap()
    }

    pub(crate) fn add(&self, kind: &str, records: &[Value]) {
        let texts: Vec<String> = records.iter().map(Value::to_string).collect();
        self.stream().add(kind, texts.iter().map(String::as_str)).unwrap();
    }

    pub(crate) fn remote(&self) -> Remote {
        let transport: Arc<dyn sync_client::transport::Transport> = Arc::<Peer>::clone(&self.peer);
        Remote::new(Endpoint::parse(URL).unwrap(), transport, Arc::new(|_| Ok("token".into())))
    }

    pub(crate) fn push(&self, how: &How) -> Pushed {
        self.world.now_ms.fetch_add(1000, Ordering::SeqCst);
        self.stream().push(&mut Sink::Http(&self.remote()), how).unwrap()
    }

    /// Pushes, and all went well.
    #[track_caller]
    pub(crate) fn pushed(&self, how: &How) -> Pushed {
        let pushed = self.push(how);
        assert_eq!(pushed.stop, None);
        pushed
    }

    pub(crate) fn status(&self) -> StreamStatus {
        self.stream().status().unwrap()
    }
}

/// A record of each kind that has local evidence in it.
pub(crate) fn source(id: &str) -> Value {
    json!({"schema_version": "source_location.v1", "source_id": id, "provider": "codex", "source_kind": "local_adapter",
        "location_origin": "default", "enabled": true, "path_hash": "hash-of-path", "path_label": "SEKRIT-dir",
        "created_at": "2026-06-09T12:00:00Z", "updated_at": "2026-06-09T12:00:00Z"})
}

pub(crate) fn account(id: &str) -> Value {
    json!({"schema_version": "provider_account.v1", "provider_account_id": id, "provider": "codex",
        "identity_source": "local_auth", "confidence": "high", "provider_user_id": "u-1", "email": "ada@example.com",
        "account_label": "SEKRIT-label", "plan_name": "SEKRIT-plan",
        "created_at": "2026-06-09T12:00:00Z", "updated_at": "2026-06-09T12:00:00Z"})
}

pub(crate) fn subscription(id: &str) -> Value {
    json!({"schema_version": "subscription.v1", "subscription_id": id, "provider": "codex", "provider_account_id": "a",
        "plan_name": "Pro", "price": 2000, "currency": "USD", "billing_period": "monthly",
        "started_at": "2026-06-01T00:00:00Z", "status": "active", "notes": "SEKRIT-notes"})
}

fn usage(tokens: u64) -> Value {
    json!({"total_tokens": tokens, "requests": 1})
}

fn evidence() -> (Value, Value, Value) {
    let source = json!({"adapter_id": "a", "adapter_version": "1", "source_kind": "local_adapter", "source_type": "jsonl",
        "parse_confidence": "high", "source_path_hash": "hash-of-source", "source_record_id": "SEKRIT-record"});
    let parse = json!({"event_key_version": "1", "model_inferred": false, "timestamp_inferred": false,
        "account_identity_source": "local_auth", "source_file_path_hash": "hash-of-file",
        "source_line_number": 77_177, "source_record_id": "SEKRIT-record"});
    let privacy = json!({"mode": "metadata_only", "contains_prompt_text": false, "contains_response_text": false,
        "contains_file_paths": false});
    (source, parse, privacy)
}

pub(crate) fn event(id: &str, started_at: &str) -> Value {
    let (source, parse, privacy) = evidence();
    json!({"schema_version": "usage_event.v1", "event_id": id, "device_id": "d", "provider": "codex", "source_id": "s",
        "source": source, "session": {"session_id": id, "started_at": started_at}, "usage": usage(10),
        "cost": {"currency": "USD", "confidence": "high"}, "privacy": privacy, "parse_evidence": parse,
        "project": {"project_id": "p", "path_hash": "hash-of-project", "path_label": "~/kept"},
        "created_at": started_at, "imported_at": "2026-06-09T12:00:00Z"})
}

pub(crate) fn summary(id: &str, observed_at: &str, tokens: u64) -> Value {
    let (source, parse, privacy) = evidence();
    json!({"schema_version": "usage_summary.v1", "summary_id": id, "device_id": "d", "provider": "codex", "source_id": "s",
        "source": source, "usage": usage(tokens), "cost": {"currency": "USD", "confidence": "high"}, "privacy": privacy,
        "parse_evidence": parse, "observed_at": observed_at, "period_start": observed_at,
        "metadata": {"summary_format": "daily_rollup.v1", "last_computed_at": observed_at},
        "imported_at": "2026-06-09T12:00:00Z"})
}

/// So many summaries.
pub(crate) fn summaries(n: usize) -> Vec<Value> {
    (0..n).map(|i| summary(&format!("sum{i:03}"), "2026-06-08T10:00:00Z", 5)).collect()
}
