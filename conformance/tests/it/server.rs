//! Our server in this process, on the schema of the profile, and a subject over it.

use std::sync::Arc;
use std::time::Duration;

use sync_conformance::profile::{Profile, Token};
use sync_conformance::subject::Subject;
use sync_server::auth::DevAuth;
use sync_server::limits::Limits;
use sync_server::service::{Service, ServiceConfig};
use sync_server::{RouterOptions, Server, SystemEnvironment, router_with, standalone};
use tempfile::TempDir;

pub(crate) const PROFILE: &str = include_str!("../../profiles/sync-server.toml");
const SCHEMA: &str = include_str!("../../profiles/sync-server.sql");

/// A running server and its files.
pub(crate) struct Ours {
    pub(crate) server: Server,
    _dir: TempDir,
}

impl Ours {
    pub(crate) fn start() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let dir = TempDir::new().unwrap();
        let config = ServiceConfig {
            limits: Limits { retained_bundles: 60, ..limits },
            ..ServiceConfig::new(dir.path(), SCHEMA)
        };
        let service = Service::open(config, Arc::new(SystemEnvironment::default())).unwrap();
        let options = RouterOptions { heartbeat: Duration::from_secs(1), ..RouterOptions::default() };
        let server = Server::start("127.0.0.1:0", standalone(router_with(service, DevAuth, options))).unwrap();
        Self { server, _dir: dir }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }
}

/// Our profile, with tokens that need no secret and without a bound.
pub(crate) fn profile() -> Profile {
    let mut profile = Profile::parse(PROFILE).unwrap();
    profile.token = Token::User;
    profile.requests_per_second = 0;
    profile
}

pub(crate) fn subject(url: &str, run: &str) -> Subject {
    Subject::open(url, profile(), run, Duration::from_secs(5)).unwrap()
}
