//! The server of the sync protocol: one SQLite file per user, as an axum router and as a program.
//!
//! [`service::Service`] is everything below HTTP. [`router`] puts it on the wire; the program
//! `sync-server` is that router, a listener and a command line. [`Server`] runs a router on a thread
//! of its own, for tests and small programs.
//!
//! | what | where |
//! |---|---|
//! | which path goes to which handler | `app` |
//! | who asks | [`auth`] |
//! | request bodies in, replies out | `body` |
//! | one handler per endpoint | `routes` |
//! | what the endpoints decide | [`service`] |

mod app;
pub mod auth;
mod body;
pub mod config;
mod environment;
mod error;
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
