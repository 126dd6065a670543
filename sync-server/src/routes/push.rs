//! Push sessions: create, upload a chunk, commit, delete.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use sync_core::protocol::Code;
use sync_core::protocol::push::CreatePushRequest;

use super::connect::{parse, small_body};
use super::path::{self, Path};
use crate::app::App;
use crate::auth::Authenticated;
use crate::body::decode::{Decoded, Encoding, check_announced};
use crate::body::incoming::Incoming;
use crate::body::reply;
use crate::error::Failure;

/// A chunk up to this many bytes on the wire has arrived before a blocking thread begins with it.
const READ_AHEAD_BYTES: usize = 256 * 1024;

pub(crate) async fn create(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let body = small_body(&app, &headers, body, Code::PushSessionInvalid).await?;
    let request = parse::<CreatePushRequest>(&body, Code::PushSessionInvalid)?;
    let created = app.call_for(caller, move |service, caller| service.create_push(caller, request)).await?;
    reply::json(&headers, &created)
}

pub(crate) async fn chunk(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    path: Path,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let limit = app.max_bytes_per_request();
    let push_id = push_id(&path)?;
    let encoding = Encoding::of(&headers)?;
    check_announced(&headers, encoding, limit)?;
    let mut incoming = Incoming::new(body, app.options.idle_body);
    // What a slow client sends does not hold a blocking thread until it is large.
    let turn = if incoming.read_ahead(READ_AHEAD_BYTES).await? {
        app.turns.take(&caller.user).await
    } else {
        app.uploads.clone().acquire_owned().await.ok()
    };
    let wire = incoming.into_read();
    let stored = app
        .call(move |service| {
            let _turn = turn;
            let mut decoded = Decoded::new(wire, encoding, limit, Code::PushChunkInvalid)?;
            let failure = decoded.failure();
            service.upload_chunk(&caller, &push_id, &mut decoded).map_err(|e| failure.or(e))
        })
        .await?;
    reply::json(&headers, &stored)
}

pub(crate) async fn commit(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    path: Path,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let push_id = push_id(&path)?;
    let committed = app.call_for(caller, move |service, caller| service.commit_push(caller, &push_id)).await?;
    reply::json(&headers, &committed)
}

pub(crate) async fn delete(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    path: Path,
) -> Result<StatusCode, Failure> {
    let push_id = push_id(&path)?;
    app.call_for(caller, move |service, caller| service.delete_push(caller, &push_id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn push_id(path: &Path) -> Result<String, Failure> {
    path::id(path, "push_id")
        .ok_or_else(|| Failure::new(Code::PushSessionNotFound, "push session was not found: the id is not a UUID"))
}
