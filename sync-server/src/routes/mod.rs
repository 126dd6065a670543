//! One file per endpoint family: each handler parses its request and hands it to the service.

pub(crate) mod capabilities;
pub(crate) mod connect;
pub(crate) mod digest;
pub(crate) mod health;
mod path;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod query;
pub(crate) mod snapshot;
pub(crate) mod watch;
