//! Hard cases by their letters, where no other test is about them.

mod outcome;
mod rebase;
mod rules;
mod servers;
mod sqlite;

use std::sync::Arc;

use sync_client::Client;
use sync_client::transport::{Method, Request, Transport as _, TransportError};

use crate::relay::through;
use crate::world::{Clock, Device, SCHEMA, World};

/// A client for a device's file that has no network for the requests that a test names. The device's own is closed.
pub(crate) fn cut(w: &World, a: &mut Device, cut: impl Fn(&Request<'_>) -> bool + Send + Sync + 'static) -> Client {
    through(
        w,
        a,
        move |http, request| {
            if cut(request) { Err(TransportError::Offline("no network".into())) } else { http.send(request) }
        },
    )
}

fn is_commit(r: &Request<'_>) -> bool {
    r.method == Method::Post && r.path.ends_with("/commit")
}

/// Another server than the world's, with rules of its own.
fn ruled(rules: &str) -> (tempfile::TempDir, sync_server::Server) {
    let data = tempfile::tempdir().unwrap();
    let mut config = sync_server::service::ServiceConfig::new(data.path(), SCHEMA);
    config.rules_sql = Some(rules.into());
    let service = sync_server::service::Service::open(config, Arc::new(Clock::default())).unwrap();
    let router = sync_server::router(service, sync_server::auth::DevAuth);
    (data, sync_server::Server::start("127.0.0.1:0", router).unwrap())
}
