//! Requests to an ingest server: the token, tries again, and small replies.

use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::endpoint::Endpoint;
use super::report::Stop;
use crate::api::TokenRequest;
use crate::transport::{Method, Request, Transport, TransportError};

/// A reply is an acknowledgement or a short error; more than this is neither.
const MOST_REPLY: u64 = 1 << 20;
/// The longest that one exchange may take.
const LONGEST: Duration = Duration::from_secs(60);
/// Seconds before the same request goes again, where nothing was heard or the server is not up to it.
const WAITS: [u64; 3] = [1, 2, 4];
/// The longest wait that a server can ask for within one push, in seconds.
const PATIENCE: u64 = 30;

/// Yields tokens, or says why there is none; asked again where the server refused the last one.
pub type Tokens = Arc<dyn Fn(TokenRequest) -> Result<String, Stop> + Send + Sync>;

/// A server, and the tokens for it.
pub struct Remote {
    endpoint: Endpoint,
    transport: Arc<dyn Transport>,
    token: Tokens,
    cached: Mutex<Option<String>>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) retry_after: Option<u64>,
    pub(super) body: Vec<u8>,
}

impl Remote {
    /// A server by its batch route. The transport has to be made for [`Endpoint::base`]; the token is asked for when it is
    /// needed, and once more where the server refuses it.
    #[must_use]
    pub fn new(endpoint: Endpoint, transport: Arc<dyn Transport>, token: Tokens) -> Self {
        Self { endpoint, transport, token, cached: Mutex::new(None) }
    }

    /// Its batch route.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The same request until it is answered, a few times. `random` spreads the waits.
    pub(super) fn patiently(
        &self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        random: impl Fn() -> u64,
    ) -> Result<Reply, Stop> {
        let mut waits = WAITS.iter();
        loop {
            let (why, asked) = match self.once(method, path, body) {
                Ok(reply) if !passes(reply.status) => return Ok(reply),
                Ok(reply) => {
                    (format!("the server is not up to it now (HTTP {})", reply.status), reply.retry_after.unwrap_or(0))
                }
                Err(Stop::Unreachable(why)) => (why, 0),
                Err(other) => return Err(other),
            };
            let Some(wait) = waits.next() else { return Err(Stop::Unreachable(why)) };
            let ms = (*wait).max(asked.min(PATIENCE)) * 1000;
            self.transport.pause(Duration::from_millis(ms + random() % (ms / 4)))?;
        }
    }

    /// One request; with another token where the first is refused.
    pub(super) fn once(&self, method: Method, path: &str, body: Option<&[u8]>) -> Result<Reply, Stop> {
        let reply = self.send(method, path, body, false)?;
        if reply.status != 401 {
            return Ok(reply);
        }
        let reply = self.send(method, path, body, true)?;
        if reply.status == 401 { Err(Stop::Login("the server refuses the token".into())) } else { Ok(reply) }
    }

    fn send(&self, method: Method, path: &str, body: Option<&[u8]>, renew: bool) -> Result<Reply, Stop> {
        let token = self.token(renew)?;
        let reply = exchange(self.transport.as_ref(), method, path, &token, body).map_err(|error| match error {
            TransportError::Invalid(why) => Stop::Login(why),
            other => other.into(),
        })?;
        Ok(reply)
    }

    fn token(&self, renew: bool) -> Result<String, Stop> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = cached.as_ref().filter(|_| !renew) {
            return Ok(token.clone());
        }
        let token = (self.token)(TokenRequest { renew })?;
        *cached = Some(token.clone());
        Ok(token)
    }
}

/// Whether a reply of this status may be another one a moment later.
const fn passes(status: u16) -> bool {
    matches!(status, 408 | 425 | 500..=599)
}

/// One request, and its whole reply.
pub(super) fn exchange(
    transport: &dyn Transport,
    method: Method,
    path: &str,
    token: &str,
    body: Option<&[u8]>,
) -> Result<Reply, TransportError> {
    let request = Request {
        method,
        path,
        source_id: "",
        token,
        body,
        exact: false,
        compress: false,
        stream: false,
        timeout: Some(LONGEST),
    };
    let response = transport.send(&request)?;
    let mut read = Vec::new();
    response.body.take(MOST_REPLY).read_to_end(&mut read).map_err(|e| TransportError::of(&e))?;
    Ok(Reply { status: response.status, retry_after: response.retry_after, body: read })
}

/// The `error` of a reply, where it is a code and nothing longer: it goes to a person's terminal.
pub(super) fn code(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let code = value.get("error")?.as_str()?;
    let fine = code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    (fine && !code.is_empty()).then(|| code.to_owned())
}

/// The `path` of a reply: which member of the batch is at fault.
pub(super) fn pointer(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(value.get("path")?.as_str()?.to_owned())
}
