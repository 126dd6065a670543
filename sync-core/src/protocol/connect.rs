//! `POST /sync/connect`: who seeds a scope (seed; reference-server §2).

use serde::{Deserialize, Serialize};

/// The request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectRequest {
    /// Whether the device has rows that it would seed the scope with.
    #[serde(default, deserialize_with = "super::push::null_is_default")]
    pub has_local_pending_rows: bool,
}

/// How the first-connect lifecycle was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The scope exists: take its rows.
    RemoteAuthoritative,
    /// The caller seeds the scope with its rows, under a lease.
    InitializeLocal,
    /// The scope now exists and is empty.
    InitializeEmpty,
    /// Another device is seeding; ask again.
    RetryLater,
}

/// The reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectReply {
    /// The outcome.
    pub resolution: Resolution,
    /// With `initialize_local`: carried by the seed push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization_id: Option<String>,
    /// With `initialize_local` and `retry_later`: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<String>,
    /// With `retry_later`: whole seconds, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<i64>,
    /// Additive (protocol §6): stable for the life of the scope, opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_id: Option<String>,
}
