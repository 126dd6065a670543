//! Snapshot sessions: create, read a page, delete.

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use sync_core::protocol::Code;
use sync_core::protocol::snapshot::CreateSnapshotRequest;

use super::connect::{parse, small_body};
use super::path::{self, Path};
use super::query::Query;
use crate::app::App;
use crate::auth::Authenticated;
use crate::body::reply;
use crate::error::Failure;
use crate::service::SnapshotPageRequest;

pub(crate) async fn create(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let body = small_body(&app, &headers, body, Code::SnapshotSessionInvalid).await?;
    // The body is optional.
    let request: CreateSnapshotRequest =
        if body.trim_ascii().is_empty() { Default::default() } else { parse(&body, Code::SnapshotSessionInvalid)? };
    let session = app.call_for(caller, move |service, caller| service.create_snapshot(caller, request)).await?;
    reply::json(&headers, &session)
}

pub(crate) async fn page(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    path: Path,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::new(query.as_deref(), Code::SnapshotChunkInvalid);
    let request = SnapshotPageRequest {
        after_row_ordinal: query.integer("after_row_ordinal", 0)?.unwrap_or(0),
        max_rows: query.integer("max_rows", 1)?,
    };
    let id = snapshot_id(&path)?;
    reply::rows(&app, caller, &headers, move |service, caller| service.snapshot_page(caller, &id, request)).await
}

pub(crate) async fn delete(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    path: Path,
) -> Result<StatusCode, Failure> {
    let id = snapshot_id(&path)?;
    app.call_for(caller, move |service, caller| service.delete_snapshot(caller, &id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn snapshot_id(path: &Path) -> Result<String, Failure> {
    path::id(path, "snapshot_id").ok_or_else(|| {
        Failure::new(Code::SnapshotSessionNotFound, "snapshot session was not found: the id is not a UUID")
    })
}
