//! HTTP by ureq: what a request carries, how long it may take, what its failures mean.

use std::{path::Path, sync::Arc, time::Duration};

use ureq::{
    Agent, AsSendBody, Proxy,
    config::Config,
    http::{self, Uri, header},
    unversioned::transport::{ConnectProxyConnector, Connector},
};

#[cfg(feature = "tls")]
use super::trust;
use super::{
    Method, Request, Response, Transport, TransportError,
    body::{self, Body},
    gate::Gate,
    link::{Dial, Names},
};

/// For a name lookup, and again for connecting, TLS included.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// For the head of a reply: committing a million rows takes time.
const HEAD: Duration = Duration::from_secs(120);
/// Between two reads of a body, and for one write.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// The same in an event stream, whose heartbeats come every 25 seconds.
const STREAM_IDLE: Duration = Duration::from_secs(90);
/// Smaller bodies are sent as they are.
const COMPRESS_FROM: usize = 8 * 1024;

/// HTTP by ureq.
///
/// Redirects are not followed: the token goes to the server that it was given for and nowhere else.
/// `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured, except for loopback addresses.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    base: String,
    gate: Arc<Gate>,
}

impl Http {
    /// A transport to a base URL, which may carry a path (`https://host/api/v1`).
    ///
    /// # Errors
    /// [`TransportError::Invalid`] when the URL is not http or https, or carries a query, a fragment
    /// or a password.
    pub fn new(base_url: &str) -> Result<Self, TransportError> {
        Self::with_ca(base_url, None)
    }

    /// The same, trusting the certificate authorities in this PEM file beside the system's.
    ///
    /// # Errors
    /// As [`Http::new`]; also where the file has no certificate, or cannot be read.
    pub fn with_ca(base_url: &str, ca: Option<&Path>) -> Result<Self, TransportError> {
        let base = base_url.trim().trim_end_matches('/');
        let uri = checked(base).map_err(|why| TransportError::Invalid(format!("the server's URL {why}")))?;
        let gate = Arc::new(Gate::default());
        let loopback = uri.host().is_some_and(is_loopback);
        let config = Agent::config_builder();
        #[cfg(feature = "tls")]
        let config = match uri.scheme_str() {
            Some("https") => config.tls_config(trust::config(ca)?),
            _ => config,
        };
        #[cfg(not(feature = "tls"))]
        let _ = ca;
        let config = config
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("sync-client/", env!("CARGO_PKG_VERSION")))
            .proxy(if loopback { None } else { Proxy::try_from_env() })
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(HEAD))
            .timeout_per_read(Some(IDLE))
            .build();
        Ok(Self { agent: agent(config, &gate), base: base.to_owned(), gate })
    }

    fn head(&self, request: &Request<'_>) -> http::request::Builder {
        let method = match request.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Delete => http::Method::DELETE,
        };
        let mut head = http::Request::builder().method(method).uri(format!("{}{}", self.base, request.path));
        if !request.token.is_empty() {
            head = head.header(header::AUTHORIZATION, format!("Bearer {}", request.token));
        }
        if !request.source_id.is_empty() {
            head = head.header("Oversync-Source-ID", request.source_id);
        }
        head = head
            // An old reply from a cache on the way would hide what others committed.
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::ACCEPT, if request.stream { "text/event-stream" } else { "application/json" })
            // Events must not wait in a decoder for the next block.
            .header(header::ACCEPT_ENCODING, if request.stream { "identity" } else { "zstd, gzip" });
        if request.exact {
            head = head.header("Oversync-Bundle-Hash", "blake3");
        }
        head
    }

    fn run<B: AsSendBody>(
        &self,
        request: http::Request<B>,
        asked: &Request<'_>,
    ) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let idle = if asked.stream { STREAM_IDLE } else { IDLE };
        let request = self.agent.configure_request(request).timeout_per_read(Some(idle));
        self.agent.run(request.timeout_global(asked.timeout).build())
    }

    fn call(&self, request: &Request<'_>) -> Result<http::Response<ureq::Body>, TransportError> {
        let invalid =
            |_| TransportError::Invalid("the token or the source id has characters that no header can carry".into());
        let head = self.head(request);
        let reply = match request.body {
            Some(body) => {
                let head = head.header(header::CONTENT_TYPE, "application/json");
                if request.compress && body.len() >= COMPRESS_FROM {
                    let packed = zstd::bulk::compress(body, 1).map_err(|error| TransportError::of(&error))?;
                    let head = head.header(header::CONTENT_ENCODING, "zstd");
                    self.run(head.body(packed).map_err(invalid)?, request)
                } else {
                    self.run(head.body(body).map_err(invalid)?, request)
                }
            }
            // With a length of 0, which some proxies insist on.
            None if request.method == Method::Post => self.run(head.body(&[] as &[u8]).map_err(invalid)?, request),
            None => self.run(head.body(()).map_err(invalid)?, request),
        };
        reply.map_err(|error| meaning(&error))
    }
}

impl Transport for Http {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let turn = self.gate.enter()?;
        let reply = self.call(request);
        if self.gate.stopped(turn) {
            return Err(TransportError::Interrupted);
        }
        let (head, raw) = reply?.into_parts();
        let text = |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = text(header::RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok());
        let decoded = body::decoded(text(header::CONTENT_ENCODING), raw.into_reader())?;
        let body = Body::new(decoded, Arc::clone(&self.gate), turn);
        Ok(Response { status: head.status.as_u16(), retry_after, body: Box::new(body) })
    }

    fn interrupt(&self) {
        self.gate.close();
    }

    fn resume(&self) {
        self.gate.open();
    }

    fn is_interrupted(&self) -> bool {
        self.gate.is_closed()
    }

    fn pause(&self, time: Duration) -> Result<(), TransportError> {
        self.gate.pause(time)
    }

    fn traffic(&self) -> Option<u64> {
        Some(self.gate.traffic())
    }
}

/// What is wrong with a base URL, as the end of a sentence.
fn checked(base: &str) -> Result<Uri, &'static str> {
    let uri: Uri = base.parse().map_err(|_| "is not a URL")?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") if cfg!(feature = "tls") => {}
        Some("https") => return Err("is https, which this build leaves out"),
        _ => return Err("must begin with http:// or https://"),
    }
    let Some(authority) = uri.authority() else { return Err("names no host") };
    if authority.host().is_empty() {
        return Err("names no host");
    }
    if authority.as_str().contains('@') {
        return Err("must not carry a user or a password");
    }
    if uri.query().is_some() || base.contains('#') {
        return Err("must end with its path, without a query or a fragment");
    }
    Ok(uri)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn agent(config: Config, gate: &Arc<Gate>) -> Agent {
    let names = Names(Arc::clone(gate));
    let chain = ().chain(ConnectProxyConnector::default()).chain(Dial(Arc::clone(gate)));
    #[cfg(feature = "tls")]
    let chain = chain.chain(ureq::unversioned::transport::RustlsConnector::default());
    Agent::with_parts(config, chain, names)
}

/// What an error of ureq means. Its text never has what the request carried.
fn meaning(error: &ureq::Error) -> TransportError {
    match error {
        #[cfg(feature = "tls")]
        ureq::Error::Rustls(tls) => TransportError::Broken(trust::meaning(tls)),
        ureq::Error::Io(error) => {
            #[cfg(feature = "tls")]
            if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
                return TransportError::Broken(trust::meaning(tls));
            }
            TransportError::of(error)
        }
        ureq::Error::Protocol(_) => {
            TransportError::Broken("what came is not HTTP; a server that speaks TLS has an https:// URL".into())
        }
        ureq::Error::Timeout(_) => TransportError::Timeout,
        ureq::Error::HostNotFound => TransportError::Offline("the host is not known".into()),
        ureq::Error::ConnectionFailed => TransportError::Offline("no connection".into()),
        ureq::Error::ConnectProxyFailed(why) => TransportError::Offline(format!("the proxy refuses: {why}")),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            TransportError::Invalid("the server's URL, the token or the source id cannot be sent".into())
        }
        other => TransportError::Broken(other.to_string()),
    }
}
