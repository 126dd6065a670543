//! The port to the network: one request out, one reply back, its body read as a stream.
//!
//! [`Http`] meets it with ureq; tests and simulators meet it in process.

mod body;
mod gate;
mod http;
mod link;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod trust;

use std::io::{self, Read};
use std::time::Duration;

pub use http::Http;

/// The methods that the protocol uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Creates, uploads, commits.
    Post,
    /// Cleans up.
    Delete,
}

/// One request. It owns nothing: a transport copies what it keeps.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Path and query below the base URL, beginning with `/`.
    pub path: &'a str,
    /// `Oversync-Source-ID`; empty where it is no request of row sync.
    pub source_id: &'a str,
    /// The bearer token; empty where there is none yet. Never logged.
    pub token: &'a str,
    /// JSON text, or nothing.
    pub body: Option<&'a [u8]>,
    /// Asks for the exact view: the server's capabilities list the `blake3` bundle hash.
    pub exact: bool,
    /// The server takes compressed requests, so a large body may be sent as zstd.
    pub compress: bool,
    /// An event stream: it may be silent for long and has no total time limit.
    pub stream: bool,
    /// The longest that the exchange may take, the reply's body included; [`TransportError::Timeout`] then.
    pub timeout: Option<Duration>,
}

/// One reply.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// The decoded body. A connection that breaks half-way is an error of the reader, never an end;
    /// [`TransportError::of`] tells which. After an error every read fails again.
    pub body: Box<dyn Read + Send>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The server cannot be reached: refused, unknown host, no route.
    #[error("cannot reach the server: {0}")]
    Offline(String),
    /// Nothing came in time.
    #[error("the server did not answer in time")]
    Timeout,
    /// [`Transport::interrupt`] was called.
    #[error("stopped")]
    Interrupted,
    /// The connection broke, or what came is not HTTP, or not TLS with a certificate to trust.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// The request cannot be made at all: a bad base URL, or a token that no header can carry.
    #[error("{0}")]
    Invalid(String),
}

impl TransportError {
    /// What an I/O error of [`Response::body`] means.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        if let Some(known) = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            return known.clone();
        }
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable => Self::Offline(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }

    /// The same as an I/O error. Its kind is never `Interrupted`, which readers take as "try again".
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// Sends requests.
pub trait Transport: Send + Sync {
    /// Sends one request and waits for the head of its reply.
    ///
    /// # Errors
    /// When there is no reply. A reply of any status is not an error.
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError>;

    /// Makes calls in progress, and reads of their bodies, fail with [`TransportError::Interrupted`]
    /// (for bodies, an I/O error of which [`TransportError::of`] says so) within a second. New calls fail too,
    /// until [`Transport::resume`].
    fn interrupt(&self) {}

    /// Allows calls again.
    fn resume(&self) {}

    /// Whether it is interrupted now: what runs long without the network ends then too.
    fn is_interrupted(&self) -> bool {
        false
    }

    /// Waits before the next request, as long as the server asked for.
    ///
    /// # Errors
    /// [`TransportError::Interrupted`], at once where [`Transport::interrupt`] was called; one that waits however it
    /// is interrupted may end late.
    fn pause(&self, time: Duration) -> Result<(), TransportError> {
        std::thread::sleep(time);
        Ok(())
    }

    /// Bytes that went over the network so far, both ways, as the system was handed them; `None` from a
    /// transport that does not count. Then bodies are counted, as they are before compression.
    fn traffic(&self) -> Option<u64> {
        None
    }
}
