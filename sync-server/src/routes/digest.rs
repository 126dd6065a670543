//! `GET /sync/digest`

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use sync_core::protocol::digest::DigestRequest;
use sync_core::protocol::{ApiError, Code};

use super::path::minted;
use super::query::Query;
use crate::app::App;
use crate::auth::Authenticated;
use crate::body::reply;
use crate::error::Failure;
use crate::scope::snapshots::not_found;

pub(crate) async fn digest(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let request = read(&Query::new(query.as_deref(), Code::DigestInvalid))?;
    let found = app.call_for(caller, move |service, caller| service.digest(caller, &request)).await?;
    reply::json(&headers, &found)
}

fn read(query: &Query<'_>) -> Result<DigestRequest, ApiError> {
    let missing = |name: &str| ApiError::new(Code::DigestInvalid, format!("{name} is required"));
    let text = |name: &str| query.text(name)?.ok_or_else(|| missing(name));
    let integer = |name: &str| query.integer(name, 0)?.ok_or_else(|| missing(name));
    let id = text("snapshot_id")?;
    let columns = sync_core::json::from_slice(text("columns")?.as_bytes())
        .map_err(|_| ApiError::new(Code::DigestInvalid, "columns must be a JSON array of column names"))?;
    Ok(DigestRequest {
        snapshot_id: minted(&id).ok_or_else(|| not_found("of this id"))?,
        table: text("table")?,
        columns,
        after_row_ordinal: integer("after_row_ordinal")?,
        until_row_ordinal: integer("until_row_ordinal")?,
        max_ranges: query.integer("max_ranges", 1)?,
    })
}
