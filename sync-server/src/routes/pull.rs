//! `GET /sync/pull` and the pages of committed rows.

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use sync_core::protocol::Code;
use sync_core::protocol::pull::PullRequest;

use super::path::{self, Path};
use super::query::Query;
use crate::app::App;
use crate::auth::Authenticated;
use crate::body::reply;
use crate::error::Failure;
use crate::service::CommittedRowsRequest;

/// Bundles of a page that asks for no number (seed).
const DEFAULT_BUNDLES: i64 = 1000;

pub(crate) async fn pull(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::new(query.as_deref(), Code::PullInvalid);
    let request = PullRequest {
        after_bundle_seq: query.integer("after_bundle_seq", 0)?.unwrap_or(0),
        max_bundles: query.integer("max_bundles", 1)?.unwrap_or(DEFAULT_BUNDLES).min(app.max_bundles_per_pull()),
        target_bundle_seq: query.integer("target_bundle_seq", 0)?.unwrap_or(0),
        after_history_hash: query.hash("after_history_hash")?,
        max_inline_rows: query.integer("max_inline_rows", 0)?,
    };
    reply::rows(&app, caller, &headers, move |service, caller| service.pull(caller, request)).await
}

pub(crate) async fn committed_rows(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    path: Path,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let invalid = |message: &str| Failure::new(Code::CommittedBundleChunkInvalid, message);
    let seq = path::part(&path, "bundle_seq").and_then(|s| s.parse::<i64>().ok());
    let seq = seq.ok_or_else(|| invalid("bundle_seq must be an integer"))?;
    if seq <= 0 {
        return Err(invalid("bundle_seq must be > 0"));
    }
    let query = Query::new(query.as_deref(), Code::CommittedBundleChunkInvalid);
    let request = CommittedRowsRequest {
        after_row_ordinal: query.integer("after_row_ordinal", 0)?,
        max_rows: query.integer("max_rows", 1)?,
    };
    reply::rows(&app, caller, &headers, move |service, caller| service.committed_rows(caller, seq, request)).await
}
