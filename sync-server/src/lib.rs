//! The server of the sync protocol: one SQLite file per user, as an axum router and as a program.
//!
//! [`service::Service`] is everything below HTTP. [`router`] puts it on the wire; the program
//! `sync-server` is that router, a listener and a command line. [`Server`] runs a router on a thread
//! of its own, for tests and small programs.
//!
//! Mounted in an application of your own:
//!
//! ```
//! use std::sync::Arc;
//! use axum::Router;
//! use sync_server::service::{Service, ServiceConfig};
//! use sync_server::{Server, SystemEnvironment, auth::JwtAuth, router};
//!
//! # let dir = tempfile::tempdir()?;
//! # let data = dir.path();
//! let environment = Arc::new(SystemEnvironment::default());
//! let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, text TEXT);";
//! let service = Service::open(ServiceConfig::new(data, schema), environment.clone())?;
//! let auth = JwtAuth::new(b"a secret of at least 32 bytes ...", environment)?;
//! let app = Router::new().nest("/api/v1", router(service.clone(), auth));
//! let server = Server::start("127.0.0.1:0", app)?;
//! // ... and when it is time to stop:
//! server.stop()?;
//! service.close();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | what | where |
//! |---|---|
//! | which path goes to which handler | `app` |
//! | who asks | [`auth`] |
//! | request bodies in, replies out | `body` |
//! | one handler per endpoint | `routes` |
//! | what the endpoints decide | [`service`] |
//!
//! With the feature `ingest`, `ingest` serves records that devices send by a declared contract.

mod app;
pub mod auth;
mod body;
pub mod config;
mod environment;
mod error;
#[cfg(feature = "ingest")]
pub mod ingest;
pub mod limits;
pub mod program;
mod routes;
mod scope;
mod server;
pub mod service;
mod status;
mod turns;
mod watch;

pub use app::{RouterOptions, router, router_with, standalone};
pub use environment::SystemEnvironment;
pub use server::{Server, serve};
