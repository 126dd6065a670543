//! `POST /v1/sync/batches`: for diagnostics on the server's own machine, without a token.
//!
//! A listener on loopback is also how a server behind a proxy runs, and a page in a browser can reach it, too. So a request
//! that came through something else does not see the path, and one that a page sent is refused.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, header, uri::Authority};
use axum::response::Response;
use sync_core::ingest::contract::Dialect;
use sync_core::ingest::gates::{Refusal, judge};
use sync_core::protocol::{Code, UserId};

use crate::body::decode::check_announced;
use crate::body::incoming::{decode_whole, read_wire};
use crate::ingest::Ingest;
use crate::ingest::http::{api, blocking, by_method, encoding_of, refused, take};
use crate::ingest::vault::Actor;

/// Its path.
pub(in crate::ingest) const PATH: &str = "/v1/sync/batches";

/// Whose records they become.
const USER: &str = "local";

/// Answers a request; the device is the one that the batch names.
pub(in crate::ingest) async fn answer(ingest: Arc<Ingest>, request: Request) -> Response {
    if !is_direct(request.headers()) {
        return refused(Dialect::Statsai, &Refusal::NotFound);
    }
    if let Some(response) = by_method(Dialect::Statsai, request.method(), &["POST"]) {
        return response;
    }
    if request.headers().contains_key(header::ORIGIN) {
        return refused(Dialect::Statsai, &Refusal::Forbidden);
    }
    accept(ingest, request).await.unwrap_or_else(|r| refused(Dialect::Statsai, &r))
}

async fn accept(ingest: Arc<Ingest>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let limits = ingest.contract.limits.clone();
    let encoding = encoding_of(&parts.headers)?;
    check_announced(&parts.headers, encoding, limits.wire_bytes).map_err(|e| api(&e))?;
    let wire = read_wire(body, ingest.options.idle_body, limits.wire_bytes).await.map_err(|e| api(&e))?;
    let judged = Arc::clone(&ingest);
    let (wire, device) = blocking(move || {
        let bytes = decode_whole(&wire, encoding, limits.decoded_bytes, Code::InvalidRequest).map_err(|e| api(&e))?;
        let batch = judge(&judged.contract, &bytes)?;
        Ok((wire, batch.device))
    })
    .await?;
    if device.is_empty() {
        return Err(Refusal::BadRequest("invalid_request"));
    }
    let user = UserId::parse(USER).ok_or(Refusal::Failed)?;
    take(ingest, Actor { user, device }, encoding, wire.into()).await
}

/// Whether a request came from this machine and through nothing else.
fn is_direct(headers: &HeaderMap) -> bool {
    let forwarded = |name: &header::HeaderName| {
        *name == header::FORWARDED || *name == header::VIA || name.as_str().starts_with("x-forwarded-")
    };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).and_then(|h| h.parse::<Authority>().ok());
    !headers.keys().any(forwarded) && host.is_some_and(|a| is_loopback(a.host()))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_through_something_else_is_not_direct() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect::<HeaderMap>()
        };
        for host in ["127.0.0.1:8787", "localhost", "LocalHost:1", "[::1]:8787", "127.9.9.9"] {
            assert!(is_direct(&headers(&[("host", host)])), "{host}");
        }
        for host in ["example.org", "localhost.example.org", "10.0.0.1", "[::2]", "127.0.0.1.example.org"] {
            assert!(!is_direct(&headers(&[("host", host)])), "{host}");
        }
        assert!(!is_direct(&headers(&[])));
        for name in ["forwarded", "via", "x-forwarded-for", "x-forwarded-proto"] {
            assert!(!is_direct(&headers(&[("host", "127.0.0.1"), (name, "x")])), "{name}");
        }
    }
}
