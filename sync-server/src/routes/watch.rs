//! `GET /sync/watch`: a stream of events that say "there is something to pull" (reference-server §8).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use sync_core::protocol::Code;
use sync_core::protocol::watch::{HEARTBEAT, WatchEvent};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::query::Query;
use crate::app::App;
use crate::auth::Authenticated;
use crate::error::Failure;
use crate::server::Closing;
use crate::service::Watch;

pub(crate) async fn watch(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    RawQuery(query): RawQuery,
    closing: Option<Extension<Closing>>,
) -> Result<Response, Failure> {
    let after = Query::new(query.as_deref(), Code::InvalidRequest).integer("after_bundle_seq", 0)?.unwrap_or(0);
    let watch = app.call_for(caller, move |service, caller| service.watch(caller, after)).await?;
    // One frame waits at most: what a slow client misses is summed up by the next event.
    let (frames, stream) = mpsc::channel(1);
    let closing = closing.map_or_else(Closing::never, |Extension(c)| c);
    tokio::spawn(send(watch, after, app.options.heartbeat, frames, closing));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(Frames(stream))).into_response())
}

/// Sends events and heartbeats until the client goes away, the service closes or the server stops.
async fn send(mut watch: Watch, after: i64, heartbeat: Duration, frames: mpsc::Sender<Bytes>, mut closing: Closing) {
    let mut sent = after;
    let mut heartbeats = interval_at(Instant::now() + heartbeat, heartbeat);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut event = watch.first.take();
    loop {
        if let Some(e) = event.take().filter(|e| e.bundle_seq > sent) {
            sent = e.bundle_seq;
            if frames.send(Bytes::from(e.frame())).await.is_err() {
                return;
            }
        }
        let newest: WatchEvent = watch.newest.borrow_and_update().clone();
        if newest.bundle_seq > sent {
            event = Some(newest);
            continue;
        }
        tokio::select! {
            () = frames.closed() => return,
            () = closing.wait() => return,
            changed = watch.newest.changed() => if changed.is_err() { return },
            _ = heartbeats.tick() => {
                if frames.send(Bytes::from_static(HEARTBEAT.as_bytes())).await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Frames(mpsc::Receiver<Bytes>);

impl Stream for Frames {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
