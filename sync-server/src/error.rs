//! Turns every failure into the one error body (protocol §2): status, JSON, and the headers that go with it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sync_core::protocol::{ApiError, Code};

/// An [`ApiError`] on its way out.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) ApiError);

impl Failure {
    /// A failure without further members.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(ApiError::new(code, message))
    }
}

impl From<ApiError> for Failure {
    fn from(e: ApiError) -> Self {
        Self(e)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(e) = self;
        let status =
            StatusCode::from_u16(e.code.status()).expect("invariant: the table holds statuses from 400 to 599");
        if status.is_server_error() {
            tracing::warn!(code = e.code.as_str(), message = %e.message, "request failed");
        }
        let mut response = (status, [(header::CONTENT_TYPE, JSON)], e.to_json()).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = e.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if e.code == Code::AuthenticationFailed {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The content type of every JSON reply, without parameters: existing clients compare it.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
