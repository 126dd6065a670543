//! The server over real HTTP on loopback, and the service below it.

mod auth;
mod bodies;
mod digest;
mod failures;
mod http;
#[cfg(feature = "ingest")]
mod ingest;
mod mount;
mod mutated;
mod program;
mod service;
mod surface;
mod watch;
