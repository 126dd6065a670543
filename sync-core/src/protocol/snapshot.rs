//! Snapshot sessions (seed; reference-server §6; protocol §9).

use serde::{Deserialize, Serialize};

/// `POST /sync/snapshot-sessions`; the body is optional and unknown members are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshotRequest {
    /// Present for a rotated rebuild.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_replacement: Option<SourceReplacement>,
}

/// Retires one source and reserves another, atomically with the session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceReplacement {
    /// Must be the caller's source.
    pub previous_source_id: String,
    /// Must be new.
    pub new_source_id: String,
    /// One of [`SourceReplacement::REASONS`].
    pub reason: String,
}

impl SourceReplacement {
    /// The reasons that the seed names.
    pub const REASONS: &'static [&'static str] =
        &["history_pruned", "source_sequence_out_of_order", "source_sequence_changed", "source_retired"];
}

/// The reply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSession {
    /// Names the session.
    pub snapshot_id: String,
    /// The place in history at which the view is frozen.
    pub snapshot_bundle_seq: i64,
    /// Rows in all.
    pub row_count: i64,
    /// Bytes in all; 0 where the server does not say.
    #[serde(default)]
    pub byte_count: i64,
    /// RFC 3339, UTC; each page read moves it on.
    #[serde(default)]
    pub expires_at: String,
    /// Additive: the history hash at `snapshot_bundle_seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_hash: Option<String>,
}
