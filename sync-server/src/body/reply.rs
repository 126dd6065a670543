//! Replies: small ones whole, large ones piece by piece as the client reads them.
//!
//! Each piece is made on a blocking thread of its own accord and then waits; while a slow client
//! reads it, no thread and no transaction is held. An error after the first piece cuts the connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::Serialize;
use sync_core::protocol::{ApiError, Code};
use tokio::task::JoinHandle;

use super::encode::{Accepted, Encoder, WORTH_BYTES};
use crate::app::App;
use crate::error::{Failure, JSON};
use crate::service::{Body as Rows, Caller, Service};

/// Bytes that a piece has at least, unless it is the last.
const PIECE_BYTES: usize = 64 * 1024;

/// A reply that fits in memory.
///
/// # Errors
/// `internal_error` where it cannot be written.
pub(crate) fn json<T: Serialize>(headers: &HeaderMap, reply: &T) -> Result<Response, Failure> {
    let mut text = serde_json::to_vec(reply)
        .map_err(|_| Failure::new(Code::InternalError, "the reply cannot be written as JSON"))?;
    text.push(b'\n');
    let accepted = if text.len() > WORTH_BYTES { Accepted::of(headers) } else { Accepted::Identity };
    let mut encoder = Encoder::new(accepted)?;
    encoder.write(&text)?;
    encoder.finish()?;
    Ok(response(accepted, Body::from(std::mem::take(encoder.ready()))))
}

/// A reply that the service gives in pieces. An error before the first piece is an error reply.
///
/// # Errors
/// What the service answers.
pub(crate) async fn rows(
    app: &App,
    caller: Caller,
    headers: &HeaderMap,
    f: impl FnOnce(&Service, &Caller) -> Result<Rows, ApiError> + Send + 'static,
) -> Result<Response, Failure> {
    let accepted = Accepted::of(headers);
    let (accepted, first, rest) = app
        .call_for(caller, move |service, caller| {
            let mut producer = Producer::new(f(service, caller)?);
            let plain = producer.next_piece()?;
            if plain.len() <= WORTH_BYTES || accepted == Accepted::Identity {
                return Ok((Accepted::Identity, plain, producer.unfinished()));
            }
            let first = producer.encode(accepted, &plain)?;
            Ok((accepted, first, producer.unfinished()))
        })
        .await?;
    let body = match rest {
        None => Body::from(first),
        Some(producer) => {
            let next = produce(producer);
            Body::from_stream(Pieces { app: app.clone(), first: Some(Bytes::from(first)), next: Some(next) })
        }
    };
    Ok(response(accepted, body))
}

fn response(accepted: Accepted, body: Body) -> Response {
    let mut response = ([(header::CONTENT_TYPE, JSON)], body).into_response();
    if let Some(encoding) = accepted.header() {
        response.headers_mut().insert(header::CONTENT_ENCODING, encoding);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}

/// Joins the service's pieces to larger ones and encodes them.
struct Producer {
    rows: Rows,
    encoder: Encoder,
    last: u8,
    ended: bool,
}

impl Producer {
    fn new(rows: Rows) -> Self {
        Self { rows, encoder: Encoder::Identity(Vec::new()), last: 0, ended: false }
    }

    /// The next piece; empty only at the end.
    fn next_piece(&mut self) -> Result<Vec<u8>, ApiError> {
        while !self.ended && self.encoder.ready().len() < PIECE_BYTES {
            match self.rows.next() {
                Some(piece) => {
                    let piece = piece?;
                    self.last = piece.last().copied().unwrap_or(self.last);
                    self.encoder.write(&piece)?;
                }
                None => {
                    self.ended = true;
                    if self.last != b'\n' {
                        self.encoder.write(b"\n")?;
                    }
                    self.encoder.finish()?;
                }
            }
        }
        Ok(std::mem::take(self.encoder.ready()))
    }

    /// From here on encoded; `plain` is what there was so far.
    fn encode(&mut self, accepted: Accepted, plain: &[u8]) -> Result<Vec<u8>, ApiError> {
        self.encoder = Encoder::new(accepted)?;
        self.encoder.write(plain)?;
        if self.ended {
            self.encoder.finish()?;
        }
        Ok(std::mem::take(self.encoder.ready()))
    }

    fn unfinished(self) -> Option<Self> {
        if self.ended { None } else { Some(self) }
    }
}

type Made = Result<(Producer, Vec<u8>), ApiError>;

fn produce(mut producer: Producer) -> JoinHandle<Made> {
    tokio::task::spawn_blocking(move || {
        let piece = producer.next_piece()?;
        Ok((producer, piece))
    })
}

/// The pieces of a reply; the next one is made while the client reads this one.
struct Pieces {
    app: App,
    first: Option<Bytes>,
    next: Option<JoinHandle<Made>>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take_if(|b| !b.is_empty()) {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(next) = self.next.as_mut() else { return Poll::Ready(None) };
        let made = std::task::ready!(Pin::new(next).poll(cx));
        self.next = None;
        let made = made.unwrap_or_else(|e| Err(self.app.lost(&e)));
        Poll::Ready(match made {
            Ok((producer, piece)) => {
                self.next = producer.unfinished().map(produce);
                if piece.is_empty() { None } else { Some(Ok(Bytes::from(piece))) }
            }
            Err(e) => {
                tracing::warn!(code = e.code.as_str(), message = %e.message, "a reply failed half-way and is cut");
                Some(Err(e))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::extract::State;
    use axum::routing::get;
    use sync_core::hash::Algorithm;
    use sync_core::protocol::{SourceId, UserId};

    use super::*;
    use crate::auth::DevAuth;
    use crate::service::ServiceConfig;
    use crate::{RouterOptions, Server, SystemEnvironment};

    /// A server whose one path answers with these rows.
    fn serve(rows: fn() -> Rows) -> (Server, App, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let config = ServiceConfig::new(dir.path(), "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL);");
        let service = Service::open(config, Arc::new(SystemEnvironment::default())).unwrap();
        let app = App::new(service, DevAuth, RouterOptions::default());
        let handler = move |State(app): State<App>, headers: HeaderMap| async move {
            let caller = Caller {
                user: UserId::parse("ada").unwrap(),
                source: SourceId::parse("phone").unwrap(),
                algorithm: Algorithm::Sha256,
            };
            super::rows(&app, caller, &headers, move |_, _| Ok(rows())).await
        };
        let router = Router::new().route("/", get(handler)).with_state(app.clone());
        (Server::start("127.0.0.1:0", router).unwrap(), app, dir)
    }

    /// Asks for one reply and gives back the bytes of it that arrived, with the counter of panics.
    fn exchange(rows: fn() -> Rows, more_headers: &str) -> (String, u64) {
        let (server, app, _dir) = serve(rows);
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more_headers}\r\n").unwrap();
        let mut bytes = Vec::new();
        let mut piece = [0; 1 << 16];
        while let Ok(n) = stream.read(&mut piece) {
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..n]);
        }
        (String::from_utf8_lossy(&bytes).into_owned(), app.panics())
    }

    /// So many pieces of 40 kB, and then `end`.
    fn pieces(n: usize, end: impl Iterator<Item = Result<Vec<u8>, ApiError>> + Send + 'static) -> Rows {
        Box::new((0..n).map(|_| Ok(vec![b'x'; 40_000])).chain(end))
    }

    fn error() -> impl Iterator<Item = Result<Vec<u8>, ApiError>> {
        std::iter::once_with(|| Err(ApiError::new(Code::StorageUnavailable, "the disk is gone")))
    }

    #[test]
    fn a_reply_that_is_complete_ends() {
        for (headers, end) in [("", "\r\n0\r\n\r\n"), ("Accept-Encoding: gzip\r\n", "\r\n0\r\n\r\n")] {
            let (text, panics) = exchange(|| pieces(40, std::iter::empty()), headers);
            assert!(text.starts_with("HTTP/1.1 200") && text.ends_with(end), "{headers}");
            assert_eq!(panics, 0);
        }
        let (text, _) = exchange(|| pieces(0, std::iter::once(Ok(b"{}".to_vec()))), "");
        assert!(text.contains("content-length: 3\r\n") && text.ends_with("\r\n\r\n{}\n"), "{text}");
    }

    #[test]
    fn an_error_before_the_first_piece_is_an_error_reply() {
        let (text, _) = exchange(|| pieces(1, error()), "");
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("storage_unavailable"), "{text}");
        let (text, panics) = exchange(|| Box::new(std::iter::once_with(|| panic!("on purpose"))), "");
        assert!(text.starts_with("HTTP/1.1 500") && text.contains("internal_error"), "{text}");
        assert_eq!(panics, 1);
    }

    #[test]
    fn an_error_half_way_cuts_the_reply() {
        for headers in ["", "Accept-Encoding: gzip\r\n", "Accept-Encoding: zstd\r\n"] {
            let rows: fn() -> Rows = || pieces(40, error());
            let (text, panics) = exchange(rows, headers);
            // Where it shrank to less than a piece, nothing was sent yet, and the reply is an error.
            if text.starts_with("HTTP/1.1 200") {
                assert!(!text.ends_with("0\r\n\r\n"), "{headers}: never closed as if it were complete");
            }
            assert_eq!(panics, 0);
        }
        let rows: fn() -> Rows = || pieces(40, std::iter::once_with(|| panic!("on purpose")));
        let (text, panics) = exchange(rows, "");
        assert!(text.starts_with("HTTP/1.1 200") && !text.ends_with("0\r\n\r\n"));
        assert_eq!(panics, 1);
    }

    static MADE: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn nothing_is_made_for_a_client_that_went_away() {
        let rows: fn() -> Rows = || {
            Box::new(std::iter::repeat_with(|| {
                MADE.fetch_add(1, Ordering::SeqCst);
                Ok(vec![b'x'; 1 << 20])
            }))
        };
        let (server, _, _dir) = serve(rows);
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut piece = vec![0; 1 << 20];
        stream.read_exact(&mut piece).unwrap();
        drop(stream);
        // A reply without end would keep the server from stopping.
        server.stop().unwrap();
        assert!(MADE.load(Ordering::SeqCst) < 100);
    }
}
