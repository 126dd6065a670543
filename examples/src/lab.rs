//! A server in this process, on loopback, on a thread of its own; and clients that speak to it.

use std::path::Path;
use std::sync::Arc;

use sync_client::{Builder, Client};
use sync_server::auth::DevAuth;
use sync_server::limits::Limits;
use sync_server::service::{Service, ServiceConfig};
use sync_server::{Server, SystemEnvironment, router, standalone};
use tempfile::TempDir;

use crate::Result;

/// The user of every example. [`DevAuth`] takes the token for the name.
pub const USER: &str = "ada";

/// A running server with a data directory that goes away with it.
pub struct Lab {
    server: Server,
    _data: TempDir,
}

impl Lab {
    /// Serves the tables of a schema on a free port.
    ///
    /// # Errors
    /// Where the schema cannot be served, or the port cannot be had.
    pub fn start(schema_sql: &str) -> Result<Self> {
        Self::start_with(schema_sql, Limits::default())
    }

    /// [`Lab::start`] with other limits.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start_with(schema_sql: &str, limits: Limits) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let service = service(data.path(), schema_sql, limits)?;
        let server = Server::start("127.0.0.1:0", standalone(router(service, DevAuth)))?;
        Ok(Self { server, _data: data })
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// A client for a device's file: every table that can be synced.
    #[must_use]
    pub fn device(&self, file: &Path) -> Builder {
        Client::builder(file).server(&self.url()).token(|_| Ok(USER.to_owned())).all_tables()
    }
}

/// The engine of a server: one SQLite file per user below `data`.
///
/// # Errors
/// Where the schema cannot be served.
pub fn service(data: &Path, schema_sql: &str, limits: Limits) -> Result<Service> {
    let config = ServiceConfig {
        data_dir: data.to_owned(),
        schema_sql: schema_sql.to_owned(),
        rules_sql: None,
        wire_schema: "main".to_owned(),
        app_name: "examples".to_owned(),
        limits,
    };
    Ok(Service::open(config, Arc::new(SystemEnvironment::default()))?)
}
