//! `GET /sync/capabilities` and `GET /sync/schema`

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use crate::app::App;
use crate::auth::Authenticated;
use crate::body::reply;
use crate::error::Failure;

pub(crate) async fn capabilities(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let mut capabilities = app.call_for(caller, move |service, caller| service.capabilities(caller)).await?;
    capabilities.ingest_streams.clone_from(&app.options.ingest_streams);
    reply::json(&headers, &capabilities)
}

pub(crate) async fn schema(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let schema = app.call_for(caller, move |service, caller| service.schema(caller)).await?;
    reply::json(&headers, &schema)
}
