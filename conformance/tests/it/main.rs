//! The suite is judged itself: by our server, which keeps the protocol, and by proxies that break it.

mod catalogue;
mod fair;
mod load;
mod mutations;
mod proxy;
mod readme;
mod replica;
mod server;
mod variants;
mod whole;
