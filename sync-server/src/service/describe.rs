//! What the service says of itself: capabilities, schema, status.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;
use sync_core::hash::Algorithm;
use sync_core::protocol::PROTOCOL_VERSION;
use sync_core::protocol::capabilities::{self, Capabilities, SchemaReply, TableSpec};

use super::{Caller, Inner};
use crate::scope::fail::Outcome;
use crate::scope::store::scope_id;

/// The features of reference-server §7.1, and the additive ones.
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
    (sync_core::protocol::digest::FEATURE, true),
    ("registered_write_rejection_enforced", true),
    ("retained_floor_visibility", true),
    ("retained_window_visibility", true),
    ("scope_initialization_leases", true),
    ("server_checkpoint_tracking", false),
    ("snapshot_chunking", true),
    ("status_endpoint", true),
    ("structured_sync_keys", true),
];

fn features() -> BTreeMap<String, bool> {
    FEATURES.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect()
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

impl Inner {
    pub(super) fn status(&self) -> Outcome<Status> {
        let totals = self.ledger.totals()?;
        let (closing, inside) = self.gate.now();
        Ok(Status {
            status: if closing { "unhealthy" } else { "healthy" },
            version: PROTOCOL_VERSION,
            app_name: self.app_name.clone(),
            lifecycle: match (closing, inside) {
                (false, _) => "running",
                (true, 0) => "closed",
                (true, _) => "shutting_down",
            },
            accepting_operations: !closing,
            inflight_operations: inside,
            registered_tables: self.registered_tables(),
            features: features(),
            user_state_retention_floor_ahead_count: 0,
            latest_bundle_seq_max: totals.latest_max,
            retained_bundle_floor_min: totals.floor_min,
            retained_bundle_floor_max: totals.floor_max,
            retained_bundle_window_min: totals.window_min,
            retained_bundle_window_max: totals.window_max,
            history_pruned_error_count: self.pruned.load(Ordering::Relaxed),
            accepted_push_replay_count: self.replays.load(Ordering::Relaxed),
            rejected_registered_write_count: 0,
            committed_bundle_count: totals.bundles,
            committed_bundle_bytes: totals.bytes,
        })
    }

    fn registered_tables(&self) -> Vec<String> {
        self.loaded.schema.tables().iter().map(|t| format!("{}.{}", self.schema, t.name)).collect()
    }

    pub(super) fn capabilities(&self, caller: &Caller) -> Outcome<Capabilities> {
        let l = &self.limits;
        let specs = self.loaded.schema.tables().iter().zip(&self.loaded.tables).map(|(t, info)| TableSpec {
            schema: self.schema.to_string(),
            table: t.name.clone(),
            sync_key_columns: t.key.iter().map(|i| t.columns[*i].name.clone()).collect(),
            columns: t.columns.iter().map(|c| c.name.clone()).collect(),
            column_types: t.columns.iter().map(|c| c.declared.clone()).collect(),
            uuid_columns: t.columns.iter().filter(|c| c.uuid).map(|c| c.name.clone()).collect(),
            required_columns: info.required.clone(),
            strict: t.strict,
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
                max_rows_per_digest: l.max_rows_per_digest,
                max_ranges_per_digest: l.max_ranges_per_digest,
                max_digest_rows_per_minute: l.max_digest_rows_per_minute,
            },
            bundle_hash_algorithms: [Algorithm::Sha256, Algorithm::Blake3].map(|a| a.name().to_owned()).to_vec(),
            scope_id: Some(self.scope(caller)?.map_or_else(|| scope_id(caller.user.as_str()), |s| s.scope_id.clone())),
            // The router knows what is served beside.
            ingest_streams: Vec::new(),
        })
    }

    pub(super) fn schema_reply(&self) -> SchemaReply {
        SchemaReply {
            schema: self.schema.to_string(),
            statements: self.loaded.statements.clone(),
            app_objects: self.loaded.app_objects.clone(),
        }
    }
}
