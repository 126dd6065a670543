//! A request body on its way in: read whole where it is small, handed to a blocking reader where not.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use sync_core::protocol::{ApiError, Code};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::decode::{Decoded, Encoding, check_announced, too_large};

/// Decoded bytes of a body that is read whole.
const SMALL: u64 = 1024 * 1024;

/// Reads a small body whole and decodes it.
///
/// # Errors
/// `unsupported_encoding`, `payload_too_large`, `malformed` for broken compression.
pub(crate) async fn read_small(
    headers: &HeaderMap,
    body: Body,
    idle: Duration,
    max_bytes: u64,
    malformed: Code,
) -> Result<Vec<u8>, ApiError> {
    let limit = SMALL.min(max_bytes);
    let encoding = Encoding::of(headers)?;
    check_announced(headers, encoding, limit)?;
    let wire = read_wire(body, idle, limit).await?;
    decode_whole(&wire, encoding, limit, malformed)
}

/// Reads the bytes of a body that decodes to at most so many.
///
/// # Errors
/// `payload_too_large`, `invalid_request` where it stops arriving.
pub(crate) async fn read_wire(body: Body, idle: Duration, limit: u64) -> Result<Vec<u8>, ApiError> {
    read_rest(Incoming::new(body, idle), limit).await
}

/// As [`read_wire`], what was read ahead included.
///
/// # Errors
/// As [`read_wire`].
pub(crate) async fn read_rest(mut incoming: Incoming, limit: u64) -> Result<Vec<u8>, ApiError> {
    let mut wire = Vec::new();
    while let Some(piece) = incoming.next().await? {
        // Compressed input that decodes to at most the limit is never much longer than the limit.
        if (wire.len() + piece.len()) as u64 > limit + limit / 8 + 1024 {
            return Err(too_large(limit));
        }
        wire.extend_from_slice(&piece);
    }
    Ok(wire)
}

/// Decodes what [`read_wire`] read.
///
/// # Errors
/// `payload_too_large`, `malformed` for broken compression.
pub(crate) fn decode_whole(wire: &[u8], encoding: Encoding, limit: u64, malformed: Code) -> Result<Vec<u8>, ApiError> {
    let mut decoded = Decoded::new(wire, encoding, limit, malformed)?;
    let failure = decoded.failure();
    let mut out = Vec::new();
    decoded.read_to_end(&mut out).map_err(|_| failure.or(ApiError::new(malformed, "the body cannot be read")))?;
    Ok(out)
}

/// The pieces of a body. A body that stands still is given up.
pub(crate) struct Incoming {
    body: Body,
    idle: Duration,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Incoming {
    pub(crate) fn new(body: Body, idle: Duration) -> Self {
        Self { body, idle, ready: VecDeque::new(), ended: false }
    }

    /// Reads ahead, at most about `bytes`, without a blocking thread. True where the body ended.
    ///
    /// # Errors
    /// Where the connection fails.
    pub(crate) async fn read_ahead(&mut self, bytes: usize) -> Result<bool, ApiError> {
        let mut ahead = Vec::new();
        let mut sum = 0;
        while sum < bytes {
            let Some(piece) = self.next().await? else { break };
            sum += piece.len();
            ahead.push(piece);
        }
        self.ready.extend(ahead);
        Ok(self.ended)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(None);
            }
            match timeout(self.idle, poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx))).await {
                Err(_) => return Err(ApiError::new(Code::InvalidRequest, "the body stopped arriving")),
                Ok(None) => self.ended = true,
                Ok(Some(Err(_))) => return Err(ApiError::new(Code::InvalidRequest, "the body broke off")),
                Ok(Some(Ok(frame))) => {
                    // An empty piece would look like the end of the body.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.ready.push_back(data);
                    }
                }
            }
        }
    }

    /// The body as a blocking reader, for a blocking thread of the runtime that this is called on.
    pub(crate) fn into_read(self) -> BlockingBody {
        BlockingBody { incoming: self, piece: Bytes::new(), runtime: Handle::current() }
    }
}

/// Reads a body from a blocking thread.
pub(crate) struct BlockingBody {
    incoming: Incoming,
    piece: Bytes,
    runtime: Handle,
}

impl Read for BlockingBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.runtime.block_on(self.incoming.next()) {
                Ok(Some(piece)) => self.piece = piece,
                Ok(None) => return Ok(0),
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        let n = buf.len().min(self.piece.len());
        buf[..n].copy_from_slice(&self.piece.split_to(n));
        Ok(n)
    }
}
