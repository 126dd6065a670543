//! The table of contents of the HTTP surface: which path goes to which handler, and what lies around them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use sync_core::protocol::capabilities::IngestStream;
use sync_core::protocol::{ApiError, Code};

use crate::auth::{Authenticate, Identity};
use crate::body::drain;
use crate::error::Failure;
use crate::routes::{capabilities, connect, digest, health, pull, push, snapshot, watch};
use crate::service::{Caller, Service};
use crate::turns::Turns;

/// What the router decides by itself, beside the limits of the service.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    /// Between two heartbeats of an idle watch stream.
    pub heartbeat: Duration,
    /// How long a request body may stand still before it is given up.
    pub idle_body: Duration,
    /// Calls of one user at once; others of the same user wait their turn.
    pub calls_per_user: usize,
    /// Large uploads that are read from the network at once; others wait their turn.
    pub streamed_uploads: usize,
    /// The contracts that are served beside, for `/sync/capabilities`.
    pub ingest_streams: Vec<IngestStream>,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(25),
            idle_body: Duration::from_secs(30),
            calls_per_user: 16,
            streamed_uploads: 16,
            ingest_streams: Vec::new(),
        }
    }
}

/// Every endpoint of the protocol, to be served as it is or mounted in another axum application,
/// also under a path (`Router::nest("/api/v1", …)`).
///
/// Paths below `/sync` that nothing serves are answered as JSON `404`. Everything else is left to
/// the application around it; [`standalone`] answers that as well.
pub fn router(service: Service, auth: impl Authenticate) -> Router {
    router_with(service, auth, RouterOptions::default())
}

/// [`router`] with other options.
pub fn router_with(service: Service, auth: impl Authenticate, options: RouterOptions) -> Router {
    let app = App::new(service, auth, options);
    Router::new()
        .route("/sync/connect", post(connect::connect))
        .route("/sync/push-sessions", post(push::create))
        .route("/sync/push-sessions/{push_id}", delete(push::delete))
        .route("/sync/push-sessions/{push_id}/chunks", post(push::chunk))
        .route("/sync/push-sessions/{push_id}/commit", post(push::commit))
        .route("/sync/committed-bundles/{bundle_seq}/rows", get(pull::committed_rows))
        .route("/sync/pull", get(pull::pull))
        .route("/sync/watch", get(watch::watch))
        .route("/sync/snapshot-sessions", post(snapshot::create))
        .route("/sync/snapshot-sessions/{snapshot_id}", get(snapshot::page).delete(snapshot::delete))
        .route("/sync/digest", get(digest::digest))
        .route("/sync/capabilities", get(capabilities::capabilities))
        .route("/sync/schema", get(capabilities::schema))
        .route("/health", get(health::health))
        .route("/status", get(health::status))
        .route("/syncx/health", get(health::health))
        .route("/syncx/status", get(health::status))
        .route("/sync", any(not_found))
        .route("/sync/", any(not_found))
        .route("/sync/{*rest}", any(not_found))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .layer(from_fn(drain::drain_refused))
        .layer(from_fn(uncached))
        .layer(from_fn(log))
}

/// What operators and load balancers ask for, where no tables are synced.
#[cfg(feature = "ingest")]
pub(crate) fn health_router(service: Service, options: RouterOptions) -> Router {
    /// Nothing that these paths serve asks.
    struct Nobody;
    impl Authenticate for Nobody {
        fn authenticate(
            &self,
            _: &axum::http::HeaderMap,
        ) -> Result<sync_core::protocol::UserId, crate::auth::AuthError> {
            Err(crate::auth::AuthError::Invalid)
        }
    }
    Router::new()
        .route("/health", get(health::health))
        .route("/status", get(health::status))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(App::new(service, Nobody, options))
        .layer(from_fn(uncached))
        .layer(from_fn(log))
}

/// A router that has the host to itself: paths that nothing serves are answered as JSON, too.
pub fn standalone(router: Router) -> Router {
    router.fallback(not_found).layer(from_fn(uncached))
}

/// What every handler can reach. Clones share one state.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) service: Service,
    pub(crate) auth: Box<dyn Authenticate>,
    pub(crate) options: RouterOptions,
    pub(crate) uploads: Arc<tokio::sync::Semaphore>,
    pub(crate) turns: Turns,
    panics: AtomicU64,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    pub(crate) fn new(service: Service, auth: impl Authenticate, options: RouterOptions) -> Self {
        let uploads = Arc::new(tokio::sync::Semaphore::new(options.streamed_uploads.max(1)));
        let turns = Turns::new(options.calls_per_user);
        Self(Arc::new(Shared { service, auth: Box::new(auth), options, uploads, turns, panics: AtomicU64::new(0) }))
    }

    /// [`App::call`] for a caller, whose user waits for a turn first.
    ///
    /// # Errors
    /// As [`App::call`].
    pub(crate) async fn call_for<T: Send + 'static>(
        &self,
        caller: Caller,
        f: impl FnOnce(&Service, &Caller) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = self.turns.take(&caller.user).await;
        self.call(move |service| {
            // Held until the call ends, also when the client goes away before.
            let _turn = turn;
            f(service, &caller)
        })
        .await
    }

    /// Calls the service on a blocking thread. A call that has begun runs to its end, also when the
    /// client goes away.
    ///
    /// # Errors
    /// What the service answers; `internal_error` where it panicked.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Service) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, Failure> {
        let app = self.clone();
        match tokio::task::spawn_blocking(move || f(&app.service)).await {
            Ok(reply) => reply.map_err(Failure),
            Err(e) => Err(Failure(self.lost(&e))),
        }
    }

    /// Asks the host's authentication.
    ///
    /// # Errors
    /// What it answers; `internal_error` where it panicked.
    pub(crate) fn identify(&self, parts: &Parts) -> Result<Identity, ApiError> {
        // Nothing of ours is changed while it runs.
        let asked = std::panic::catch_unwind(AssertUnwindSafe(|| self.auth.identify(parts)));
        Ok(asked.map_err(|_| self.panicked())??)
    }

    /// A blocking task that ended without an answer.
    pub(crate) fn lost(&self, e: &tokio::task::JoinError) -> ApiError {
        if e.is_panic() {
            return self.panicked();
        }
        ApiError::new(Code::ServiceUnavailable, "the server is stopping")
    }

    fn panicked(&self) -> ApiError {
        self.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a request panicked");
        ApiError::new(Code::InternalError, "the server failed; nothing was changed by the failed step")
    }

    pub(crate) fn max_bytes_per_request(&self) -> u64 {
        self.service.limits().max_bytes_per_request
    }

    pub(crate) fn max_bundles_per_pull(&self) -> i64 {
        self.service.limits().max_bundles_per_pull
    }

    /// Requests that panicked since the router was made.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

async fn not_found() -> Failure {
    Failure::new(Code::NotFound, "nothing is served at this path")
}

async fn method_not_allowed() -> Failure {
    Failure::new(Code::MethodNotAllowed, "this path does not take this method")
}

/// Around everything: no cache on the way keeps a reply. An old answer to a pull would hide what was committed since,
/// and an old refusal would outlive its reason.
pub(crate) async fn uncached(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// One line per request at debug level: no query, no header, no body.
pub(crate) async fn log(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await.into_response();
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    response
}
