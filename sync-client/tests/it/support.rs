//! A real server in this process, for tests that speak to one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use sync_core::protocol::UserId;
use sync_server::{
    RouterOptions, Server,
    auth::{AuthError, Authenticate, DevAuth, Identity},
    router_with,
    service::{Service, ServiceConfig},
    standalone,
};
use tempfile::TempDir;

use crate::world::Clock;

/// A server with a data directory of its own. The token is the user id.
pub(crate) struct Running {
    server: Server,
    _data: TempDir,
}

impl Running {
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }
}

/// Serves this schema to everyone.
pub(crate) fn serve(schema: &str) -> Running {
    serve_with(schema, DevAuth)
}

pub(crate) fn serve_with(schema: &str, auth: impl Authenticate) -> Running {
    let data = TempDir::new().unwrap();
    let service = Service::open(ServiceConfig::new(data.path(), schema), Arc::new(Clock::default())).unwrap();
    let router = standalone(router_with(service, auth, RouterOptions::default()));
    Running { server: Server::start("127.0.0.1:0", router).unwrap(), _data: data }
}

/// Refuses every token, until opened, for everything but the schema.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn serve(&self, schema: &str) -> Running {
        serve_with(schema, self.clone())
    }

    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Authenticate for Gate {
    fn authenticate(&self, headers: &axum::http::HeaderMap) -> Result<UserId, AuthError> {
        DevAuth.authenticate(headers)
    }

    fn identify(&self, parts: &axum::http::request::Parts) -> Result<Identity, AuthError> {
        if self.0.load(Ordering::SeqCst) || parts.uri.path() == "/sync/schema" {
            DevAuth.identify(parts)
        } else {
            Err(AuthError::Invalid)
        }
    }
}
