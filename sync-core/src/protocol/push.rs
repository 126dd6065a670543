//! Push sessions: create, chunk, commit (seed; reference-server §3; protocol §6, §7).

use serde::{Deserialize, Deserializer, Serialize};

/// Additive member of a DELETE row of a chunk, `true`: the delete is refused (`foreign_key`) where what the schema
/// declares for it would delete or change rows that this push does not delete. For rows that left their table otherwise
/// than by a DELETE ([`crate::engine::departure`]): others may have referred to them meanwhile.
pub const RESTRICT: &str = "restrict";

/// `POST /sync/push-sessions`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePushRequest {
    /// The source's own counter of pushes.
    #[serde(default, deserialize_with = "null_is_default")]
    pub source_bundle_id: i64,
    /// Rows that will be uploaded.
    #[serde(default, deserialize_with = "null_is_default")]
    pub planned_row_count: i64,
    /// The seed's lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization_id: Option<String>,
    /// Additive: [`crate::hash::RequestHasher`] over the rows that will be uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
    /// Additive: the caller's checkpoint, and its history hash there. What was edited on another history is not
    /// committed on this one: versions that fit by chance would overwrite in silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_bundle_seq: Option<i64>,
    /// With `after_bundle_seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_history_hash: Option<String>,
}

/// The reply to a creation: `staging`, or `already_committed` with the bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePushReply {
    /// With `staging`: the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_id: Option<String>,
    /// `staging` or `already_committed`.
    pub status: String,
    /// With `staging`: echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_row_count: Option<i64>,
    /// With `staging`: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_expected_row_ordinal: Option<i64>,
    /// With `already_committed`: the bundle.
    #[serde(flatten)]
    pub committed: Option<CommitReply>,
}

impl CreatePushReply {
    /// `status` of a session that takes chunks.
    pub const STAGING: &'static str = "staging";
    /// `status` of a tuple that is history.
    pub const ALREADY_COMMITTED: &'static str = "already_committed";
}

/// `POST /sync/push-sessions/{push_id}/chunks`, the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkReply {
    /// Echoed.
    pub push_id: String,
    /// Where the next chunk starts.
    pub next_expected_row_ordinal: i64,
}

/// `POST /sync/push-sessions/{push_id}/commit`, the reply: the committed bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReply {
    /// Its place in the scope's history.
    pub bundle_seq: i64,
    /// Who wrote it.
    pub source_id: String,
    /// The writer's own counter.
    pub source_bundle_id: i64,
    /// Rows in the bundle, effects included.
    pub row_count: i64,
    /// In the algorithm that the request asked for.
    pub bundle_hash: String,
    /// Additive: the history hash up to and with this bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_hash: Option<String>,
    /// Additive: what the creation of the committed session carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
}

/// JSON `null` for a scalar stands for an absent member (reference-server §1.4).
pub(super) fn null_is_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_replies_have_their_members_only() {
        let staging = CreatePushReply {
            push_id: Some("p".into()),
            status: CreatePushReply::STAGING.into(),
            planned_row_count: Some(3),
            next_expected_row_ordinal: Some(0),
            committed: None,
        };
        let text = serde_json::to_string(&staging).unwrap();
        assert_eq!(text, r#"{"push_id":"p","status":"staging","planned_row_count":3,"next_expected_row_ordinal":0}"#);
        assert_eq!(serde_json::from_str::<CreatePushReply>(&text).unwrap(), staging);
        let old = r#"{"status":"already_committed","bundle_seq":4,"source_id":"s","source_bundle_id":2,"row_count":1,"bundle_hash":"aa"}"#;
        let reply: CreatePushReply = crate::json::from_slice(old.as_bytes()).unwrap();
        assert_eq!(reply.committed.as_ref().unwrap().bundle_seq, 4);
        assert_eq!(serde_json::to_string(&reply).unwrap(), old);
        let request: CreatePushRequest = crate::json::from_slice(br#"{"source_bundle_id":null}"#).unwrap();
        assert_eq!(request.source_bundle_id, 0);
    }
}
