//! A contract's paths: who may call them, in which order what is checked, and how a refusal is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use sync_core::ingest::aexy as core_aexy;
use sync_core::ingest::contract::{AuthKind, Dialect, Gate, Rejects, Role, Route};
use sync_core::ingest::gates::{Refusal, judge};
use sync_core::ingest::statsai as core_statsai;
use sync_core::protocol::{ApiError, Code, UserId};

use super::vault::{Actor, VaultError};
use super::{Ingest, aexy, statsai};
use crate::app::{log, uncached};
use crate::auth::bearer;
use crate::body::decode::{Encoding, check_announced};
use crate::body::incoming::{Incoming, decode_whole, read_rest, read_wire};
use crate::body::{drain, reply};
use crate::error::JSON;
use crate::service::FaultPoint;

/// The device of whoever comes in by `--dev`.
const DEV_DEVICE: &str = "dev";

/// A batch up to this many bytes on the wire is read without waiting for others.
const READ_AHEAD_BYTES: usize = 256 * 1024;

/// Bytes of a request that is no batch.
const SMALL: u64 = 64 * 1024;

/// The paths of a contract.
pub(super) fn router(ingest: Arc<Ingest>) -> Router {
    let mut router = Router::new();
    let mut paths: BTreeMap<&str, Vec<Route>> = BTreeMap::new();
    for route in &ingest.contract.routes {
        paths.entry(&route.path).or_default().push(route.clone());
    }
    for (path, routes) in paths {
        let routes: Arc<[Route]> = routes.into();
        for path in spellings(path) {
            let (ingest, routes) = (Arc::clone(&ingest), Arc::clone(&routes));
            router = router.route(
                &path,
                any(move |request: Request| {
                    let (ingest, routes) = (Arc::clone(&ingest), Arc::clone(&routes));
                    async move { answer(ingest, &routes, request).await }
                }),
            );
        }
    }
    if ingest.options.loopback_diagnostics && ingest.contract.dialect == Dialect::Statsai {
        let ingest = Arc::clone(&ingest);
        router = router.route(
            statsai::loopback::PATH,
            any(move |request: Request| {
                let ingest = Arc::clone(&ingest);
                async move { statsai::loopback::answer(ingest, request).await }
            }),
        );
    }
    if ingest.options.evidence.is_some() && ingest.contract.dialect == Dialect::Aexy {
        router = router.route(
            aexy::evidence::PATH,
            any(move |request: Request| {
                let ingest = Arc::clone(&ingest);
                async move { aexy::evidence::put(ingest, request).await }
            }),
        );
    }
    router.layer(from_fn(drain::drain_patiently)).layer(from_fn(uncached)).layer(from_fn(log))
}

/// A path is met in both spellings of `:`.
fn spellings(path: &str) -> Vec<String> {
    let mut all = vec![path.to_owned()];
    if path.contains(':') {
        all.extend(["%3A", "%3a"].map(|escaped| path.replace(':', escaped)));
    }
    all
}

/// The reply of every method but those that a path is for. `HEAD` answers where `GET` does.
pub(super) fn by_method(dialect: Dialect, method: &Method, takes: &[&str]) -> Option<Response> {
    let get = takes.contains(&"GET");
    let mut allow = takes.join(", ");
    allow.push_str(if get { ", HEAD, OPTIONS" } else { ", OPTIONS" });
    let allow = [(header::ALLOW, HeaderValue::from_str(&allow).unwrap_or(HeaderValue::from_static("OPTIONS")))];
    if *method == Method::OPTIONS {
        return Some((StatusCode::NO_CONTENT, allow).into_response());
    }
    if *method == Method::HEAD && get {
        return Some((StatusCode::OK, [(header::CONTENT_TYPE, JSON)]).into_response());
    }
    let other = !takes.contains(&method.as_str());
    other.then(|| (allow, refused(dialect, &Refusal::MethodNotAllowed)).into_response())
}

async fn answer(ingest: Arc<Ingest>, routes: &[Route], request: Request) -> Response {
    let dialect = ingest.contract.dialect;
    let takes: Vec<&str> = routes.iter().map(|r| r.method.as_str()).collect();
    if let Some(response) = by_method(dialect, request.method(), &takes) {
        return response;
    }
    let Some(role) = routes.iter().find(|r| r.method == request.method().as_str()).map(|r| r.role) else {
        return refused(dialect, &Refusal::MethodNotAllowed);
    };
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let done = match (role, dialect) {
        (Role::Batch, _) => batch(ingest, headers, body).await,
        (Role::LoginRedirect, Dialect::Aexy) => aexy::login::redirect(parts.uri.query()),
        (Role::LoginPage, Dialect::Aexy) => aexy::login::page(ingest, &parts.uri).await,
        (role, Dialect::Aexy) => aexy::of_developer(ingest, role, &parts, body).await,
        (Role::LoginPage, _) => statsai::browser::page(ingest, parts.uri.query()).await,
        (Role::LoginStart | Role::LoginPoll | Role::LoginExchange | Role::LoginRefresh, _) => {
            statsai::login(ingest, role, headers, body).await
        }
        (role, _) => statsai::of_device(ingest, role, headers, body).await,
    };
    done.unwrap_or_else(|r| refused(dialect, &r))
}

/// A batch, through the gates in the contract's order. The receipt is looked up in the transaction that applies.
async fn batch(ingest: Arc<Ingest>, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let limit = ingest.contract.limits.wire_bytes;
    let mut encoding = Encoding::Identity;
    let mut actor = None;
    for gate in &ingest.contract.order {
        match gate {
            Gate::Size => {
                encoding = encoding_of(headers)?;
                check_announced(headers, encoding, limit).map_err(|e| api(&e))?;
            }
            Gate::Auth => actor = Some(authenticate(&ingest, headers).await?),
            // What follows needs the body, and is done in `take`, in this order.
            _ => break,
        }
    }
    let actor = actor.ok_or(Refusal::Unauthenticated)?;
    take(ingest, actor, encoding, body).await
}

/// The gates from decode on, for a device that is known.
pub(super) async fn take(
    ingest: Arc<Ingest>,
    actor: Actor,
    encoding: Encoding,
    body: Body,
) -> Result<Response, Refusal> {
    let limits = &ingest.contract.limits;
    let mut incoming = Incoming::new(body, ingest.options.idle_body);
    // Whoever sends much, or slowly, holds up others who do, and nobody else.
    let whole = incoming.read_ahead(READ_AHEAD_BYTES).await.map_err(|e| api(&e))?;
    let upload = if whole { None } else { Arc::clone(&ingest.uploads).acquire_owned().await.ok() };
    let wire = read_rest(incoming, limits.wire_bytes).await.map_err(|e| api(&e))?;
    let turn = ingest.turns.take(&actor.user).await;
    let held = Arc::clone(&ingest.batches).acquire_owned().await.ok();
    let text = blocking(move || {
        let _held = (upload, turn, held);
        let most = ingest.contract.limits.decoded_bytes;
        let bytes = decode_whole(&wire, encoding, most, Code::InvalidRequest).map_err(|e| api(&e))?;
        drop(wire);
        apply(&ingest, &actor, &bytes)
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, JSON)], text + "\n").into_response())
}

fn apply(ingest: &Ingest, actor: &Actor, bytes: &[u8]) -> Result<String, Refusal> {
    let contract = &ingest.contract;
    if contract.rejects == Rejects::PerRecord {
        return aexy::batch::apply(ingest, actor, bytes);
    }
    let batch = judge(contract, bytes)?;
    let environment = ingest.service.environment();
    let now = environment.now_ms();
    let applied = ingest.service.on_file(&actor.user, |file| {
        let applied = file.write(|conn| {
            let written = super::store::apply(conn, contract, &actor.device, &batch, now, |counts| {
                core_statsai::ack(contract, batch.version, &batch.id, counts)
            })?;
            environment.fault(FaultPoint::BeforeCommit);
            Ok(written)
        })?;
        environment.fault(FaultPoint::AfterCommit);
        Ok(applied)
    });
    applied.map_err(|e| api(&e))?
}

/// A small body as JSON, read whole.
pub(super) async fn small(ingest: &Ingest, headers: &HeaderMap, body: Body) -> Result<serde_json::Value, Refusal> {
    let encoding = encoding_of(headers)?;
    check_announced(headers, encoding, SMALL).map_err(|e| api(&e))?;
    let wire = read_wire(body, ingest.options.idle_body, SMALL).await.map_err(|e| api(&e))?;
    let bytes = decode_whole(&wire, encoding, SMALL, Code::InvalidRequest).map_err(|e| api(&e))?;
    sync_core::json::from_slice(&bytes).map_err(|_| Refusal::NotJson)
}

pub(super) fn encoding_of(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    match Encoding::of(headers) {
        Ok(encoding @ (Encoding::Identity | Encoding::Gzip)) => Ok(encoding),
        _ => Err(Refusal::BadEncoding),
    }
}

/// The device of a request, or, where a contract's credentials are those of users, the user.
pub(super) async fn authenticate(ingest: &Arc<Ingest>, headers: &HeaderMap) -> Result<Actor, Refusal> {
    let secret = bearer(headers).map_err(|_| Refusal::Unauthenticated)?.to_owned();
    let ingest = Arc::clone(ingest);
    blocking(move || {
        let known = ingest.vault.actor(&ingest.contract.stream, &secret).map_err(|e| vault(&e))?;
        let dev = || UserId::parse(&secret).filter(|_| ingest.options.dev);
        if ingest.contract.auth.kind == AuthKind::Principal {
            let signed = || ingest.options.developer.as_ref().and_then(|d| d.verify(&secret).ok());
            let user = || signed().or_else(dev).map(|user| Actor { user, device: String::new() });
            return known.or_else(user).ok_or(Refusal::Unauthenticated);
        }
        let dev = || dev().map(|user| Actor { user, device: DEV_DEVICE.to_owned() });
        known.filter(|a| !a.device.is_empty()).or_else(dev).ok_or(Refusal::Unauthenticated)
    })
    .await
}

/// Runs on a blocking thread, to its end also when the client goes away.
pub(super) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(f).await {
        Ok(done) => done,
        Err(e) if e.is_panic() => {
            tracing::error!("a request panicked");
            Err(Refusal::Failed)
        }
        Err(_) => Err(Refusal::Unavailable),
    }
}

/// A reply that may be long.
pub(super) fn json(headers: &HeaderMap, value: &serde_json::Value) -> Result<Response, Refusal> {
    reply::json(headers, value).map_err(|e| api(&e.0))
}

/// A refusal as the contract writes it.
pub(super) fn refused(dialect: Dialect, r: &Refusal) -> Response {
    let (status, body, after) = match dialect {
        Dialect::Aexy => core_aexy::refusal(r),
        _ => core_statsai::refusal(r),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(header::CONTENT_TYPE, JSON)], body + "\n").into_response();
    if let Some(seconds) = after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if *r == Refusal::Unauthenticated {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// What the parts that all protocols share answer.
pub(super) fn api(e: &ApiError) -> Refusal {
    match e.code {
        Code::PayloadTooLarge => Refusal::TooLarge,
        Code::UnsupportedEncoding => Refusal::BadEncoding,
        Code::InvalidRequest => Refusal::NotJson,
        Code::InternalError => Refusal::Failed,
        _ => Refusal::Unavailable,
    }
}

/// A failure of the keys.
pub(super) fn vault(e: &VaultError) -> Refusal {
    match e {
        VaultError::DeviceTaken => Refusal::DeviceTaken,
        e => {
            tracing::warn!(cause = %e, "the keys are not available");
            Refusal::Unavailable
        }
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub(super) fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            write!(out, "%{b:02X}").expect("invariant: writing to a String does not fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_colon() {
        assert_eq!(spellings("/a"), ["/a"]);
        assert_eq!(spellings("/a:b"), ["/a:b", "/a%3Ab", "/a%3ab"]);
    }
}
