//! `POST /sync/connect`

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::de::DeserializeOwned;
use sync_core::protocol::connect::ConnectRequest;
use sync_core::protocol::{ApiError, Code};

use crate::app::App;
use crate::auth::Authenticated;
use crate::body::{incoming, reply};
use crate::error::Failure;

pub(crate) async fn connect(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let body = small_body(&app, &headers, body, Code::ConnectInvalid).await?;
    let request = parse::<ConnectRequest>(&body, Code::ConnectInvalid)?;
    let connected = app.call_for(caller, move |service, caller| service.connect(caller, request)).await?;
    reply::json(&headers, &connected)
}

/// A body that is read whole, decoded.
pub(super) async fn small_body(app: &App, headers: &HeaderMap, body: Body, code: Code) -> Result<Vec<u8>, ApiError> {
    incoming::read_small(headers, body, app.options.idle_body, app.max_bytes_per_request(), code).await
}

/// Reads a request; `null` stands for one without members.
pub(super) fn parse<T: DeserializeOwned + Default>(body: &[u8], code: Code) -> Result<T, ApiError> {
    // Serde would take the members in their order from an array, too.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::new(code, "the body is not the request that is expected: it is an array"));
    }
    sync_core::json::from_slice::<Option<T>>(body)
        .map(Option::unwrap_or_default)
        .map_err(|e| ApiError::new(code, format!("the body is not the request that is expected: {e}")))
}
