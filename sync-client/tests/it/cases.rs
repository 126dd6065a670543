//! Hard cases by their letters, where no other test is about them.

mod outcome;
mod rebase;
mod servers;
mod sqlite;

use std::sync::Arc;

use sync_client::Client;
use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};

use crate::world::{Clock, Device, SCHEMA, World};

/// HTTP that has no network for the requests that a test names.
struct Cut {
    http: Http,
    cut: Box<dyn Fn(&Request<'_>) -> bool + Send + Sync>,
}

impl Transport for Cut {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if (self.cut)(request) {
            return Err(TransportError::Offline("no network".into()));
        }
        self.http.send(request)
    }
}

/// A client for a device's file, cut off where `cut` says so. The device's own is closed.
fn cut(w: &World, a: &mut Device, cut: impl Fn(&Request<'_>) -> bool + Send + Sync + 'static) -> Client {
    a.close();
    let transport = Arc::new(Cut { http: Http::new(w.url()).unwrap(), cut: Box::new(cut) });
    Client::builder(&a.path).token(|_| Ok("ada".into())).transport(transport).open().unwrap()
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
