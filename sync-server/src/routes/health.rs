//! `GET /health` and `GET /status`: for operators and load balancers, without authentication.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::body::reply;
use crate::error::Failure;
use crate::status::StatusReply;

/// 200 where the service is healthy, else 503; the body is the status either way.
pub(crate) async fn health(State(app): State<App>, headers: HeaderMap) -> Result<Response, Failure> {
    let status = StatusReply::read(&app).await?;
    let code = if status.healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((code, reply::json(&headers, &status)?).into_response())
}

/// Always 200.
pub(crate) async fn status(State(app): State<App>, headers: HeaderMap) -> Result<Response, Failure> {
    reply::json(&headers, &StatusReply::read(&app).await?)
}
