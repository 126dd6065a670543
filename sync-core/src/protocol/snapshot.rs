//! Snapshot sessions (seed; reference-server §6; protocol §9).

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::digest::SnapshotTable;
use crate::json::{Members, Scalar};

/// `POST /sync/snapshot-sessions`; the body is optional and unknown members are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshotRequest {
    /// Present for a rotated rebuild.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "object")]
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

/// An object or `null`: serde would also take an array for a struct.
fn object<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SourceReplacement>, D::Error> {
    let Some(members) = Option::<Members>::deserialize(d)? else { return Ok(None) };
    let mut out = SourceReplacement::default();
    for (name, value) in members.0 {
        let text = match value {
            Scalar::Text(s) => s,
            Scalar::Null => String::new(),
            _ => return Err(D::Error::custom("invalid type")),
        };
        match name.as_str() {
            "previous_source_id" => out.previous_source_id = text,
            "new_source_id" => out.new_source_id = text,
            "reason" => out.reason = text,
            _ => return Err(D::Error::custom("unknown member")),
        }
    }
    Ok(Some(out))
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
    /// Additive: the tables in the order of their rows, empty ones left out. Missing where the server does
    /// not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<SnapshotTable>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_an_object_with_known_members() {
        let read = |text: &str| crate::json::from_slice::<CreateSnapshotRequest>(text.as_bytes());
        assert_eq!(read(r#"{"source_replacement":null}"#).unwrap(), CreateSnapshotRequest::default());
        let r =
            read(r#"{"source_replacement":{"previous_source_id":"a","new_source_id":"b","reason":"history_pruned"}}"#);
        assert_eq!(r.unwrap().source_replacement.unwrap().new_source_id, "b");
        for bad in [r#"{"source_replacement":["a","b","c"]}"#, r#"{"source_replacement":{"x":"y"}}"#, r#"{"x":1}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
