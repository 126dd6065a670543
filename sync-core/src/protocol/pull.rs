//! `GET /sync/pull` and committed-bundle pages (seed; reference-server §5; protocol §8).

use crate::json::Members;
use crate::protocol::rows::{integer, text};

/// The query of a pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// The caller's checkpoint.
    pub after_bundle_seq: i64,
    /// Bundles a page, at most; 0 leaves it to the server.
    pub max_bundles: i64,
    /// The frozen end of the window, from the first page on; 0 on the first.
    pub target_bundle_seq: i64,
    /// Additive: the history hash at the checkpoint.
    pub after_history_hash: Option<String>,
    /// Additive: larger bundles come without rows.
    pub max_inline_rows: Option<i64>,
}

/// The head of a bundle: everything but its rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleHead {
    /// Its place in the scope's history.
    pub bundle_seq: i64,
    /// Who wrote it.
    pub source_id: String,
    /// The writer's own counter.
    pub source_bundle_id: i64,
    /// Rows; `None` where the server does not say.
    pub row_count: Option<i64>,
    /// Bundle hash; `None` where the server does not say.
    pub bundle_hash: Option<String>,
    /// Additive.
    pub history_hash: Option<String>,
    /// Additive: the rows are left out and wait under `committed-bundles/{seq}/rows`.
    pub rows_omitted: bool,
}

impl BundleHead {
    /// From the members beside `rows`; `None` where a required one is missing or of another type.
    #[must_use]
    pub fn read(m: &Members) -> Option<Self> {
        Some(Self {
            bundle_seq: integer(m, "bundle_seq")?,
            source_id: text(m, "source_id")?,
            source_bundle_id: integer(m, "source_bundle_id")?,
            row_count: integer(m, "row_count"),
            bundle_hash: text(m, "bundle_hash").filter(|h| !h.is_empty()),
            history_hash: text(m, "history_hash"),
            rows_omitted: m.get("rows_omitted") == Some(&crate::json::Scalar::Bool(true)),
        })
    }
}

/// The head of a pull page: everything but its bundles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullHead {
    /// The frozen end of the window.
    pub stable_bundle_seq: i64,
    /// Rows of all bundles up to there (additive; where `max_inline_rows` was asked for).
    pub row_count: Option<i64>,
    /// Whether the window has more bundles.
    pub has_more: bool,
}

impl PullHead {
    /// From the members beside `bundles`.
    #[must_use]
    pub fn read(m: &Members) -> Option<Self> {
        Some(Self {
            stable_bundle_seq: integer(m, "stable_bundle_seq")?,
            row_count: integer(m, "row_count"),
            has_more: m.get("has_more") == Some(&crate::json::Scalar::Bool(true)),
        })
    }
}

/// The head of a page of committed rows or of a snapshot: everything but its rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageHead {
    /// Where the next page starts: the last ordinal (committed rows) or the count so far (snapshot).
    pub next_row_ordinal: i64,
    /// Whether there are more rows.
    pub has_more: bool,
    /// Committed rows: the bundle.
    pub bundle: Option<BundleHead>,
    /// Snapshot: its place in history.
    pub snapshot_bundle_seq: Option<i64>,
}

impl PageHead {
    /// From the members beside `rows`.
    #[must_use]
    pub fn read(m: &Members) -> Option<Self> {
        Some(Self {
            next_row_ordinal: integer(m, "next_row_ordinal")?,
            has_more: m.get("has_more") == Some(&crate::json::Scalar::Bool(true)),
            bundle: BundleHead::read(m),
            snapshot_bundle_seq: integer(m, "snapshot_bundle_seq"),
        })
    }
}
