//! The suite is judged itself: by our server, which keeps the protocol, and by proxies that break it.

mod catalogue;
mod server;
mod whole;
