//! Reads away what is left of a refused request's body, within bounds.
//!
//! A connection that is closed with unread input is reset, and the reset can overtake the reply: the
//! client would see a broken connection where it should see why it was refused.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_core::Stream;

/// What is read away at most.
const BYTES: usize = 4 * 1024 * 1024;
const TIME: Duration = Duration::from_secs(2);

/// Around every handler: after a refusal the rest of the body is read and dropped.
pub(crate) async fn drain_refused(request: Request, next: Next) -> Response {
    drain_within(BYTES, TIME, request, next).await
}

/// As [`drain_refused`], for clients that take a broken connection for another failure than a refusal: they read no reply
/// before all of a body is sent.
#[cfg(feature = "ingest")]
pub(crate) async fn drain_patiently(request: Request, next: Next) -> Response {
    drain_within(64 * 1024 * 1024, Duration::from_secs(30), request, next).await
}

async fn drain_within(bytes: usize, time: Duration, request: Request, next: Next) -> Response {
    let waits = request.headers().contains_key(header::EXPECT);
    if waits || matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let shared = SharedBody(Arc::default());
    let (parts, body) = request.into_parts();
    shared.put(body.into_data_stream());
    let response = next.run(Request::from_parts(parts, Body::from_stream(shared.clone()))).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        let drained = tokio::time::timeout(time, shared.drain(bytes)).await;
        tracing::trace!(in_time = drained.is_ok(), "read away the rest of a refused body");
    }
    response
}

/// A body that the layer can take back from whoever was reading it.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Option<BodyDataStream>>>);

impl SharedBody {
    fn put(&self, body: BodyDataStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    async fn drain(mut self, bytes: usize) {
        let mut sum = 0;
        while let Some(Ok(piece)) = std::future::poll_fn(|cx| Pin::new(&mut self).poll_next(cx)).await {
            sum += piece.len();
            if sum > bytes {
                break;
            }
        }
    }
}

impl Stream for SharedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(body) = slot.as_mut() else { return Poll::Ready(None) };
        let item = std::task::ready!(Pin::new(body).poll_next(cx));
        if !matches!(item, Some(Ok(_))) {
            *slot = None;
        }
        Poll::Ready(item)
    }
}
