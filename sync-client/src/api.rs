//! The endpoints as calls: token, status codes and small bodies are dealt with here, and nowhere else.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use sync_core::protocol::Code;
use sync_core::protocol::capabilities::{Capabilities, SchemaReply};
use sync_core::protocol::code::Retry;
use sync_core::protocol::connect::{ConnectReply, ConnectRequest};
use sync_core::protocol::digest::{DigestReply, DigestRequest};
use sync_core::protocol::error::ErrorReply;
use sync_core::protocol::pull::PullRequest;
use sync_core::protocol::push::{ChunkReply, CommitReply, CreatePushReply, CreatePushRequest};
use sync_core::protocol::snapshot::{CreateSnapshotRequest, SnapshotSession};

use crate::budget::Budget;
use crate::calling;
use crate::error::Error;
use crate::intermediary::{self, Unread};
use crate::mutant::{self, Mutant};
use crate::transport::{Method, Request, Response, Transport, TransportError};

/// Asked for a bearer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRequest {
    /// The last one was refused: a cached one will not do.
    pub renew: bool,
}

/// Yields bearer tokens, or says why there is none: for now ([`crate::Error::NoToken`]), unless the server refused the
/// last one ([`crate::Error::Auth`]). Called on any thread that speaks to the server, while the file is being synced.
pub type TokenSource = Arc<dyn Fn(TokenRequest) -> Result<String, String> + Send + Sync>;

/// The server, as one source sees it.
pub(crate) struct Api {
    transport: Arc<dyn Transport>,
    token: TokenSource,
    cached: Mutex<Option<String>>,
    /// Whether the server takes compressed bodies and the `blake3` hash.
    ours: std::sync::atomic::AtomicBool,
    /// What the call in progress may use.
    budget: Mutex<Option<Arc<Budget>>>,
    /// Whether a reply of the server itself came ever.
    known: std::sync::atomic::AtomicBool,
}

/// An error reply, with the status and the wait that came with it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) reply: ErrorReply,
    /// Where the reply is not the server's: what is known of who answers.
    pub(crate) between: Option<Between>,
}

/// Something between this device and the server that answers in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Between {
    /// The first words of what it said.
    words: String,
    /// It is a page for people, as no program that looks at tokens has.
    page: bool,
    /// The server itself was heard before: the URL is its.
    known: bool,
}

/// What a call can answer beside its reply.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The server answered with an error.
    Reply(Box<Refusal>),
    /// Anything else.
    Other(Error),
}

impl CallError {
    /// The code of an error reply.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Reply(r) => r.reply.code(),
            Self::Other(_) => None,
        }
    }

    /// The status of a reply that is not the server's: what the server may have said is lost on the way.
    pub(crate) fn wordless(&self) -> Option<u16> {
        match self {
            _ if mutant::on(Mutant::TrustsProxies) => None,
            Self::Reply(r) => r.between.as_ref().map(|_| r.status),
            Self::Other(_) => None,
        }
    }

    /// Whether the rows that were sent may be to blame for it, where a reply names none: neither a token, nor a wait
    /// that is asked for, nor a server that cannot be reached.
    pub(crate) fn blames_rows(&self) -> bool {
        match self {
            Self::Reply(r) if r.between.is_some() && mutant::on(Mutant::TrustsProxies) => false,
            Self::Reply(r) => match r.reply.code() {
                Some(c) => matches!(
                    c,
                    Code::InternalError
                        | Code::PushChunkInvalid
                        | Code::PushChunkFailed
                        | Code::PushCommitInvalid
                        | Code::PushRejected
                        | Code::PushSessionCommitFailed
                ),
                None => !matches!(r.status, 401 | 407 | 429 | 503 | 504) && r.retry_after.is_none(),
            },
            Self::Other(_) => false,
        }
    }

    /// Whether a push of one row, or of rows that cannot be parted, that failed so shows that it is refused: no outage
    /// answers like this.
    pub(crate) fn proves_refusal(&self) -> bool {
        match self {
            // Names of rows that were not sent prove nothing.
            Self::Reply(r) if !r.reply.rejections.is_empty() => false,
            // What stands between may be gone tomorrow: it shows nothing of the row, whatever its status.
            Self::Reply(r) => {
                r.between.is_none() && (r.status == 422 || r.reply.code() == Some(Code::PushChunkInvalid))
            }
            Self::Other(_) => false,
        }
    }

    /// What the server, or what answers in its place, said.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Reply(r) => match &r.between {
                Some(b) => between(r.status, &b.words),
                None if r.reply.message.is_empty() => r.reply.error.clone(),
                None => r.reply.message.clone(),
            },
            Self::Other(e) => e.to_string(),
        }
    }
}

impl From<Error> for CallError {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}

impl From<TransportError> for CallError {
    fn from(e: TransportError) -> Self {
        Self::Other(e.into())
    }
}

impl From<CallError> for Error {
    fn from(e: CallError) -> Self {
        let r = match e {
            CallError::Other(e) => return e,
            CallError::Reply(r) => r,
        };
        let message = if r.reply.message.is_empty() { format!("HTTP status {}", r.status) } else { r.reply.message };
        match (r.status, r.reply.error.as_str(), r.between) {
            // A server that is mounted in another one may refuse tokens in words of its own.
            (401, _, Some(b)) if !b.page => Self::Auth(if b.words.is_empty() { message } else { b.words }),
            (401, _, None) | (403, "authentication_failed", _) => Self::Auth(message),
            (status, _, Some(Between { words, known, .. })) => {
                Self::Intermediary { status, words, known, retry_after: r.retry_after }
            }
            (500, code, _) => Self::Failing { code: code.to_owned(), message, retry_after: r.retry_after },
            (429 | 501..=599, ..) => Self::Offline { message, retry_after: r.retry_after, lost: false },
            (_, "scope_initializing", _) => Self::RetryLater { seconds: r.retry_after.unwrap_or(SEEDING_S) },
            (_, code, _) => match Code::parse(code).map(Code::retry) {
                Some(Retry::Later) => Self::Offline { message, retry_after: r.retry_after, lost: false },
                _ => Self::Refused { code: code.to_owned(), message },
            },
        }
    }
}

impl Api {
    pub(crate) fn new(transport: Arc<dyn Transport>, token: TokenSource) -> Self {
        Self {
            transport,
            token,
            cached: Mutex::new(None),
            ours: false.into(),
            budget: Mutex::new(None),
            known: false.into(),
        }
    }

    /// Sets what the calls may use together, as long as the answer lives.
    pub(crate) fn limit(self: &Arc<Self>, budget: Arc<Budget>) -> Limited {
        self.set_budget(Some(budget));
        Limited(Arc::clone(self))
    }

    fn set_budget(&self, budget: Option<Arc<Budget>>) {
        *self.budget.lock().unwrap_or_else(PoisonError::into_inner) = budget;
    }

    pub(crate) fn budget(&self) -> Option<Arc<Budget>> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the server is known to speak our additions.
    pub(crate) fn set_ours(&self, ours: bool) {
        self.ours.store(ours, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.ours.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The server was heard before, or now: what answers otherwise from here on is something between.
    pub(crate) fn set_known(&self) {
        self.known.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Sends a request; asks for another token once after a 401.
    pub(crate) fn send(
        &self,
        source: &str,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        stream: bool,
    ) -> Result<Response, CallError> {
        let ours = self.is_ours();
        let budget = self.budget().filter(|_| !stream);
        let mut said = String::new();
        for renew in [false, true] {
            let token = self.token(renew).map_err(|e| match e {
                // An expired token is another matter than a wrong one: the server knows which.
                Error::Auth(why) if !said.is_empty() => Error::Auth(format!("{said}; {why}")),
                e => e,
            })?;
            let timeout = match &budget {
                Some(b) if b.is_over() => return Err(Error::Stopped.into()),
                Some(b) => Some(b.time_left()),
                None => None,
            };
            let request = Request {
                method,
                path,
                source_id: source,
                token: &token,
                body,
                stream,
                exact: ours,
                compress: ours,
                timeout,
            };
            let mut response = self.transport.send(&request)?;
            if let Some(budget) = &budget {
                budget.count(body.map_or(0, <[u8]>::len));
                response.body = budget.counted(response.body);
            }
            let known = self.known.load(std::sync::atomic::Ordering::Relaxed);
            if response.status == 401 && !renew {
                let refusal = refusal(response, known)?;
                // A page for people says nothing of the token.
                if refusal.between.as_ref().is_some_and(|b| b.page) {
                    return Err(CallError::Reply(Box::new(refusal)));
                }
                said = refusal.reply.message;
                continue;
            }
            if (200..300).contains(&response.status) {
                if stream {
                    return Ok(response);
                }
                let Response { status, retry_after, body } = response;
                return match intermediary::look(body) {
                    Ok(body) => {
                        self.set_known();
                        Ok(Response { status, retry_after, body })
                    }
                    Err(words) => Err(CallError::Reply(Box::new(Refusal {
                        status,
                        retry_after,
                        reply: ErrorReply::default(),
                        between: Some(Between { words, page: true, known }),
                    }))),
                };
            }
            let refusal = refusal(response, known)?;
            if refusal.between.is_none() {
                self.set_known();
            }
            return Err(CallError::Reply(Box::new(refusal)));
        }
        Err(CallError::Other(Error::Auth("no token was accepted".into())))
    }

    /// One thread at a time asks for one: what a token is renewed with may be good for one use only.
    fn token(&self, renew: bool) -> Result<String, Error> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if renew {
            *cached = None;
        }
        if let Some(token) = cached.as_ref() {
            return Ok(token.clone());
        }
        let token = calling::call(|| (self.token)(TokenRequest { renew })).map_err(|why| match renew {
            true => Error::Auth(format!("no other could be had ({why})")),
            false => Error::NoToken(why),
        })?;
        *cached = Some(token.clone());
        Ok(token)
    }

    fn call<T: DeserializeOwned>(
        &self,
        source: &str,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<T, CallError> {
        let mut response = self.send(source, method, path, body, false)?;
        let bytes = read_bounded(&mut response)?;
        Ok(sync_core::json::from_slice(&bytes).map_err(|e| unreadable(path, &e))?)
    }

    pub(crate) fn capabilities(&self, source: &str) -> Result<Capabilities, CallError> {
        self.call(source, Method::Get, "/sync/capabilities", None)
    }

    pub(crate) fn schema(&self, source: &str) -> Result<SchemaReply, CallError> {
        self.call(source, Method::Get, "/sync/schema", None)
    }

    pub(crate) fn connect(&self, source: &str, pending: bool) -> Result<ConnectReply, CallError> {
        let request = ConnectRequest { has_local_pending_rows: pending };
        self.call(source, Method::Post, "/sync/connect", Some(&json(&request)))
    }

    pub(crate) fn create_push(&self, source: &str, request: &CreatePushRequest) -> Result<CreatePushReply, CallError> {
        self.call(source, Method::Post, "/sync/push-sessions", Some(&json(request)))
    }

    pub(crate) fn chunk(&self, source: &str, push_id: &str, body: &[u8]) -> Result<ChunkReply, CallError> {
        self.call(source, Method::Post, &format!("/sync/push-sessions/{push_id}/chunks"), Some(body))
    }

    pub(crate) fn commit(&self, source: &str, push_id: &str) -> Result<CommitReply, CallError> {
        self.call(source, Method::Post, &format!("/sync/push-sessions/{push_id}/commit"), None)
    }

    /// Whether the server answered 204: proof that the session was there and had not committed.
    pub(crate) fn delete_push(&self, source: &str, push_id: &str) -> Result<bool, Error> {
        match self.send(source, Method::Delete, &format!("/sync/push-sessions/{push_id}"), None, false) {
            Ok(r) => Ok(r.status == 204),
            Err(CallError::Reply(_)) => Ok(false),
            Err(CallError::Other(e)) => Err(e),
        }
    }

    pub(crate) fn pull(&self, source: &str, r: &PullRequest) -> Result<Response, CallError> {
        let mut path = format!("/sync/pull?after_bundle_seq={}", r.after_bundle_seq);
        let mut add = |name: &str, value: &dyn std::fmt::Display| path.push_str(&format!("&{name}={value}"));
        if r.max_bundles > 0 {
            add("max_bundles", &r.max_bundles);
        }
        if r.target_bundle_seq > 0 {
            add("target_bundle_seq", &r.target_bundle_seq);
        }
        if let Some(h) = &r.after_history_hash {
            add("after_history_hash", h);
        }
        if let Some(n) = &r.max_inline_rows {
            add("max_inline_rows", n);
        }
        self.send(source, Method::Get, &path, None, false)
    }

    pub(crate) fn committed_rows(
        &self,
        source: &str,
        seq: i64,
        after: Option<i64>,
        max: i64,
    ) -> Result<Response, CallError> {
        let mut path = format!("/sync/committed-bundles/{seq}/rows?max_rows={max}");
        if let Some(after) = after {
            path.push_str(&format!("&after_row_ordinal={after}"));
        }
        self.send(source, Method::Get, &path, None, false)
    }

    pub(crate) fn create_snapshot(&self, source: &str) -> Result<SnapshotSession, CallError> {
        let request = CreateSnapshotRequest::default();
        self.call(source, Method::Post, "/sync/snapshot-sessions", Some(&json(&request)))
    }

    pub(crate) fn snapshot_page(&self, source: &str, id: &str, after: i64, max: i64) -> Result<Response, CallError> {
        let path = format!("/sync/snapshot-sessions/{id}?after_row_ordinal={after}&max_rows={max}");
        self.send(source, Method::Get, &path, None, false)
    }

    pub(crate) fn digest(&self, source: &str, request: &DigestRequest) -> Result<DigestReply, CallError> {
        self.call(source, Method::Get, &format!("/sync/digest?{}", request.query()), None)
    }

    /// Best effort.
    pub(crate) fn delete_snapshot(&self, source: &str, id: &str) {
        let sent = self.send(source, Method::Delete, &format!("/sync/snapshot-sessions/{id}"), None, false);
        if sent.is_err() {
            tracing::debug!("a snapshot session was left to expire");
        }
    }

    pub(crate) fn watch(&self, source: &str, after: i64) -> Result<Response, CallError> {
        self.send(source, Method::Get, &format!("/sync/watch?after_bundle_seq={after}"), None, true)
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }
}

/// Calls are limited while it lives. A function of the app that panics ends it too.
pub(crate) struct Limited(Arc<Api>);

impl Drop for Limited {
    fn drop(&mut self) {
        self.0.set_budget(None);
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("invariant: request types always serialise")
}

/// Small replies only: an error with a megabyte of conflicts is the largest of them.
fn read_bounded(response: &mut Response) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    response.body.by_ref().take(MAX_SMALL_REPLY).read_to_end(&mut bytes).map_err(broken)?;
    Ok(bytes)
}

fn unreadable(what: &str, e: &sync_core::json::JsonError) -> Error {
    if e.is_cut() {
        Error::Offline { message: format!("the reply is not whole: {e}"), retry_after: None, lost: true }
    } else {
        Error::Protocol(format!("{what}: {e}"))
    }
}

fn refusal(mut response: Response, known: bool) -> Result<Refusal, Error> {
    let bytes = read_bounded(&mut response)?;
    let (reply, between) = match intermediary::read_error(&bytes) {
        Ok(reply) => (reply, None),
        Err(Unread::Cut(e)) => return Err(unreadable("an error reply", &e)),
        Err(Unread::Foreign { words, page }) => (ErrorReply::default(), Some(Between { words, page, known })),
    };
    Ok(Refusal { status: response.status, retry_after: response.retry_after, reply, between })
}

/// Of a reply that is not the server's.
pub(crate) fn between(status: u16, words: &str) -> String {
    if words.is_empty() {
        format!("something between this device and the server answers with status {status} and no word")
    } else {
        format!("something between this device and the server answers with status {status}: \"{words}\"")
    }
}

/// A body that broke half-way.
#[expect(clippy::needless_pass_by_value, reason = "used as a map_err function")]
pub(crate) fn broken(e: std::io::Error) -> Error {
    match TransportError::of(&e) {
        TransportError::Interrupted => Error::Stopped,
        other => Error::Offline {
            message: format!("while reading the reply: {other}"),
            retry_after: None,
            lost: matches!(other, TransportError::Broken(_)),
        },
    }
}

/// How long to wait for another device that fills the account, where the server does not say.
const SEEDING_S: u64 = 10;
const MAX_SMALL_REPLY: u64 = 16 * 1024 * 1024;
