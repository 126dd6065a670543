//! The one error body: `{"error": code, "message": text, …}` (protocol §2).

use serde::Deserialize;

use super::Code;
use crate::canonical::{Escapes, push_integer, push_string};
use crate::json::Members;

/// An error as it goes on the wire: a code of the table, a message, and members of its own.
///
/// The message never carries values of rows that the caller did not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct ApiError {
    /// Code and status.
    pub code: Code,
    /// What happened, for a person.
    pub message: String,
    /// Further members: name and ready JSON text.
    pub members: Vec<(&'static str, String)>,
    /// `Retry-After`, in whole seconds.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error without further members.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let retry_after = matches!(code.status(), 429 | 503).then_some(1);
        Self { code, message: message.into(), members: Vec::new(), retry_after }
    }

    /// Adds a member whose value is ready JSON.
    #[must_use]
    pub fn with_json(mut self, name: &'static str, json: String) -> Self {
        self.members.push((name, json));
        self
    }

    /// Adds a string member.
    #[must_use]
    pub fn with_text(self, name: &'static str, text: &str) -> Self {
        let mut json = String::new();
        push_string(&mut json, text, Escapes::Minimal);
        self.with_json(name, json)
    }

    /// Adds an integer member.
    #[must_use]
    pub fn with_integer(self, name: &'static str, i: i64) -> Self {
        let mut json = String::new();
        push_integer(&mut json, i);
        self.with_json(name, json)
    }

    /// Sets `Retry-After`.
    #[must_use]
    pub const fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The body, with the final line feed that every JSON reply has.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::from("{\"error\":\"");
        out.push_str(self.code.as_str());
        out.push_str("\",\"message\":");
        push_string(&mut out, &self.message, Escapes::Minimal);
        for (name, json) in &self.members {
            out.push(',');
            push_string(&mut out, name, Escapes::Minimal);
            out.push(':');
            out.push_str(json);
        }
        out.push_str("}\n");
        out
    }
}

/// An error body as a client reads it. Everything but the code may be missing: it may come from
/// another server, or from a proxy before it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ErrorReply {
    /// The code, possibly one that this version does not know.
    pub error: String,
    /// For a person.
    pub message: String,
    /// With `push_conflict`: the first conflicting row.
    pub conflict: Option<ConflictReply>,
    /// With `push_conflict`, additive: conflicting rows.
    pub conflicts: Vec<ConflictReply>,
    /// With `push_rejected` and `push_chunk_invalid`, additive: offending rows.
    pub rejections: Vec<RejectionReply>,
    /// With `rejections`: more rows offend than are listed.
    pub rejections_truncated: bool,
    /// With `source_retired`.
    pub replaced_by_source_id: Option<String>,
    /// With `push_chunk_out_of_order`, additive.
    pub next_expected_row_ordinal: Option<i64>,
    /// With `history_pruned`, additive: the history hash that was sent is that of this history.
    pub history_shared: bool,
    /// With `checkpoint_ahead`.
    pub latest_bundle_seq: Option<i64>,
    /// With `payload_too_large`.
    pub limit_bytes: Option<i64>,
}

impl ErrorReply {
    /// The code, where this version knows it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        Code::parse(&self.error)
    }
}

/// One conflicting row (seed, "Push conflict response").
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConflictReply {
    /// Wire schema name.
    pub schema: String,
    /// Wire table name.
    pub table: String,
    /// Key object.
    pub key: Members,
    /// The refused operation.
    pub op: String,
    /// What the client sent.
    pub base_row_version: i64,
    /// What the server has; 0 where it knows no such row.
    pub server_row_version: i64,
    /// Whether that is a tombstone.
    pub server_row_deleted: bool,
    /// The row, unless absent or deleted.
    pub server_row: Option<Members>,
}

/// One row that the server's schema refuses (protocol §7).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RejectionReply {
    /// Its place in the push.
    pub row_ordinal: i64,
    /// Wire schema name.
    pub schema: String,
    /// Wire table name.
    pub table: String,
    /// Key object.
    pub key: Members,
    /// `foreign_key`, `unique`, `not_null`, `check`, `unknown_column`, `type`, `rule`, `no_effect`, …
    pub kind: String,
    /// The columns concerned, where known.
    pub columns: Vec<String>,
    /// For a person.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_reads_back() {
        let e = ApiError::new(Code::PushConflict, "update \"conflict\"")
            .with_json("conflict", r#"{"schema":"main","table":"t","key":{"id":"a"},"op":"UPDATE","base_row_version":3,"server_row_version":7,"server_row_deleted":false,"server_row":{"id":"a","n":null}}"#.into())
            .with_integer("next_expected_row_ordinal", 4);
        assert!(e.to_json().starts_with(r#"{"error":"push_conflict","message":"update \"conflict\"","conflict":{"#));
        let r: ErrorReply = crate::json::from_slice(e.to_json().as_bytes()).unwrap();
        assert_eq!(r.code(), Some(Code::PushConflict));
        assert_eq!(r.conflict.unwrap().server_row_version, 7);
        assert_eq!(r.next_expected_row_ordinal, Some(4));
        assert_eq!(ApiError::new(Code::StorageUnavailable, "").retry_after, Some(1));
    }
}
