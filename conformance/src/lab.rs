//! What a check works with: fresh users, their devices, requests, and a record of what was said.

use std::io::Read;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::calls::Committed;
use crate::json::Json;
use crate::subject::Subject;

/// Why a check did not pass.
#[derive(Debug, Clone)]
pub enum Stop {
    /// The backend did something else than the protocol says.
    Fail {
        /// What the protocol says.
        expected: String,
        /// What came.
        got: String,
    },
    /// The backend does not have what the check is about.
    NotOffered(String),
    /// Nothing can be said: unreachable, overloaded, or too slow to wait for.
    Inconclusive(String),
}

/// How a check ends.
pub type Checked<T = ()> = Result<T, Stop>;

pub(crate) fn fail<T>(expected: impl Into<String>, got: impl Into<String>) -> Checked<T> {
    Err(Stop::Fail { expected: expected.into(), got: got.into() })
}

pub(crate) fn not_offered<T>(why: impl Into<String>) -> Checked<T> {
    Err(Stop::NotOffered(why.into()))
}

/// Fails with what was expected and what came, unless the condition holds.
macro_rules! want {
    ($holds:expr, $expected:expr, $($got:tt)+) => {
        if !$holds {
            return $crate::lab::fail($expected, format!($($got)+));
        }
    };
}
pub(crate) use want;

/// One request and its reply, for the transcript.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// GET, POST, …
    pub method: String,
    /// Below the base URL.
    pub path: String,
    /// Whose token it carried; empty for none.
    pub user: String,
    /// Every header but the token.
    pub headers: Vec<(String, String)>,
    /// The request's body.
    pub body: Vec<u8>,
    /// 0 where no reply came.
    pub status: u16,
    /// The beginning of the reply's body.
    pub reply: String,
}

/// The surroundings of one run of one check.
#[derive(Debug)]
pub struct Lab<'s> {
    /// The backend.
    pub subject: &'s Subject,
    deadline: Instant,
    purpose: String,
    exchanges: Mutex<Vec<Exchange>>,
    users: Mutex<Vec<String>>,
    commits: Mutex<Vec<(String, Committed)>>,
}

impl<'s> Lab<'s> {
    /// Surroundings with so much time.
    #[must_use]
    pub fn new(subject: &'s Subject, purpose: &str, time: Duration) -> Self {
        Self {
            subject,
            deadline: Instant::now() + time,
            purpose: purpose.replace('.', "-"),
            exchanges: Mutex::default(),
            users: Mutex::default(),
            commits: Mutex::default(),
        }
    }

    /// Remembers what a commit said, so that later replies can be held against it.
    pub(crate) fn committed(&self, user: &str, c: Committed) {
        self.commits.lock().expect("invariant: no panic while the list is held").push((user.to_owned(), c));
    }

    pub(crate) fn commit_of(&self, user: &str, seq: i64) -> Option<Committed> {
        let commits = self.commits.lock().expect("invariant: no panic while the list is held");
        commits.iter().find(|(u, c)| u == user && c.seq == seq).map(|(_, c)| c.clone())
    }

    /// What was said so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().expect("invariant: no panic while the record is held").clone()
    }

    /// The users that this check made up.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        self.users.lock().expect("invariant: no panic while the list is held").clone()
    }

    /// A device of a user that nobody has used. The scope does not exist yet.
    pub(crate) fn user(&self) -> Checked<Device<'_>> {
        let (user, token) = self.subject.fresh_user(&self.purpose).map_err(Stop::Inconclusive)?;
        self.users.lock().expect("invariant: no panic while the list is held").push(user.clone());
        Ok(Device { lab: self, user, token: Some(token), source: Some("device-a".to_owned()), extra: Vec::new() })
    }

    /// A device of a fresh user whose scope is initialized and empty.
    pub(crate) fn ready(&self) -> Checked<Device<'_>> {
        let device = self.user()?;
        device.connect_as(false, "initialize_empty")?;
        Ok(device)
    }

    pub(crate) fn limit(&self, name: &str) -> Option<i64> {
        self.subject.limit(name)
    }

    /// Ends the check where the backend has no exact view.
    pub(crate) fn need_exact(&self) -> Checked {
        if self.subject.exact() { Ok(()) } else { not_offered("bundle_hash_algorithms does not list blake3") }
    }

    /// Seconds of a TTL of the capabilities, where they are short enough to wait for.
    pub(crate) fn short(&self, name: &str) -> Checked<Duration> {
        match self.limit(name).and_then(|s| u64::try_from(s).ok()) {
            Some(s) if Duration::from_secs(s) <= self.subject.patience => Ok(Duration::from_secs(s)),
            Some(s) => Err(Stop::Inconclusive(format!(
                "{name} is {s} s, longer than the suite waits ({} s; --patience)",
                self.subject.patience.as_secs()
            ))),
            None => Err(Stop::Inconclusive(format!("{name} is not advertised, so the wait is unknown"))),
        }
    }

    /// Waits, but not past the deadline.
    pub(crate) fn wait(&self, time: Duration) -> Checked {
        if self.left() < time {
            return Err(Stop::Inconclusive("the check's time is up".to_owned()));
        }
        std::thread::sleep(time);
        Ok(())
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Begins the record anew.
    pub(crate) fn forget(&self) {
        self.restore(Vec::new());
    }

    pub(crate) fn restore(&self, exchanges: Vec<Exchange>) {
        *self.exchanges.lock().expect("invariant: no panic while the record is held") = exchanges;
    }

    fn record(&self, exchange: Exchange) {
        self.exchanges.lock().expect("invariant: no panic while the record is held").push(exchange);
    }
}

/// One source of one user.
#[derive(Debug, Clone)]
pub(crate) struct Device<'l> {
    pub(crate) lab: &'l Lab<'l>,
    user: String,
    token: Option<String>,
    source: Option<String>,
    extra: Vec<(String, String)>,
}

impl<'l> Device<'l> {
    /// Another source of the same user.
    pub(crate) fn source(&self, source: &str) -> Self {
        Self { source: Some(source.to_owned()), ..self.clone() }
    }

    pub(crate) fn user_id(&self) -> &str {
        &self.user
    }

    pub(crate) fn source_id(&self) -> &str {
        self.source.as_deref().unwrap_or_default()
    }

    pub(crate) fn without_source(&self) -> Self {
        Self { source: None, ..self.clone() }
    }

    pub(crate) fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    pub(crate) fn header(&self, name: &str, value: &str) -> Self {
        let mut device = self.clone();
        device.extra.push((name.to_owned(), value.to_owned()));
        device
    }

    /// The same with the exact view.
    pub(crate) fn exact(&self) -> Self {
        self.header("Oversync-Bundle-Hash", "blake3")
    }

    pub(crate) fn is_exact(&self) -> bool {
        self.extra.iter().any(|(n, _)| n == "Oversync-Bundle-Hash")
    }

    pub(crate) fn get(&self, path: &str) -> Checked<Reply> {
        self.send("GET", path, b"")
    }

    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Checked<Reply> {
        self.send("POST", path, body.as_ref())
    }

    pub(crate) fn delete(&self, path: &str) -> Checked<Reply> {
        self.send("DELETE", path, b"")
    }

    /// Sends a request; one that was put off by a rate limit is sent again.
    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Checked<Reply> {
        loop {
            let reply = self.once(method, path, body)?;
            if reply.status != 429 {
                crate::calls::examine(self, method, path, body, &reply)?;
                return Ok(reply);
            }
            let after = reply.header("retry-after").and_then(|s| s.parse().ok()).unwrap_or(1);
            let wait = Duration::from_secs(after).max(Duration::from_millis(200));
            if wait > self.lab.left() {
                return Err(Stop::Inconclusive(format!("{method} {path}: put off by a rate limit (429)")));
            }
            std::thread::sleep(wait);
        }
    }

    fn request(&self, method: &str, path: &str) -> (ureq::http::request::Builder, Vec<(String, String)>) {
        let mut headers = Vec::new();
        if let Some(source) = &self.source {
            headers.push(("Oversync-Source-ID".to_owned(), source.clone()));
        }
        headers.extend(self.extra.iter().cloned());
        if method == "POST" && !headers.iter().any(|(n, _)| n == "Content-Type") {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        let url = format!("{}{path}", self.lab.subject.base);
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if let Some(token) = &self.token {
            request = request
                .header("Authorization", if token.contains(' ') { token.clone() } else { format!("Bearer {token}") });
        }
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        (request, headers)
    }

    fn once(&self, method: &str, path: &str, body: &[u8]) -> Checked<Reply> {
        let what = format!("{method} {path}");
        let left = self.lab.left();
        if left.is_zero() {
            return Err(Stop::Inconclusive("the check's time is up".to_owned()));
        }
        self.lab.subject.turn();
        let (request, headers) = self.request(method, path);
        let agent = &self.lab.subject.agent;
        let time = left.min(REQUEST);
        let wrong = |e: ureq::http::Error| Stop::Inconclusive(format!("{what}: {e}"));
        let sent = if body.is_empty() && method != "POST" {
            let request = request.body(()).map_err(wrong)?;
            agent.run(
                agent.configure_request(request).timeout_global(Some(time)).allow_non_standard_methods(true).build(),
            )
        } else {
            let request = request.body(body).map_err(wrong)?;
            agent.run(
                agent.configure_request(request).timeout_global(Some(time)).allow_non_standard_methods(true).build(),
            )
        };
        let mut exchange = Exchange {
            method: method.to_owned(),
            path: path.to_owned(),
            user: if self.token.is_some() { self.user.clone() } else { String::new() },
            headers,
            body: body.to_vec(),
            status: 0,
            reply: String::new(),
        };
        let mut read = Vec::new();
        let reply = sent.map_err(|e| e.to_string()).and_then(|mut response| {
            response.body_mut().as_reader().read_to_end(&mut read).map_err(|e| e.to_string())?;
            Ok(response)
        });
        let response = match reply {
            Ok(response) => response,
            Err(e) => {
                exchange.reply.clone_from(&e);
                self.lab.record(exchange);
                return Err(Stop::Inconclusive(format!("{what}: no reply: {e}")));
            }
        };
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers =
            headers.map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
        exchange.status = status;
        exchange.reply = shown(&read);
        self.lab.record(exchange);
        Ok(Reply { what, status, headers, body: read })
    }

    /// Opens a stream of events. What comes is handed out line by line until the time is up.
    pub(crate) fn watch(&self, path: &str, time: Duration) -> Checked<Stream> {
        let what = format!("GET {path}");
        self.lab.subject.turn();
        let (request, headers) = self.request("GET", path);
        let agent = &self.lab.subject.agent;
        let request = request.body(()).map_err(|e| Stop::Inconclusive(format!("{what}: {e}")))?;
        let time = time.min(self.lab.left());
        let sent = agent.run(agent.configure_request(request).timeout_global(Some(time)).build());
        let response = sent.map_err(|e| Stop::Inconclusive(format!("{what}: no reply: {e}")))?;
        let mut exchange = Exchange {
            method: "GET".to_owned(),
            path: path.to_owned(),
            user: self.user.clone(),
            headers,
            body: Vec::new(),
            status: response.status().as_u16(),
            reply: "(a stream)".to_owned(),
        };
        let headers = response.headers().iter();
        let headers: Vec<_> =
            headers.map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if status != 200 {
            let mut read = Vec::new();
            // A refusal that cannot be read is judged by its status.
            let _ = body.as_reader().read_to_end(&mut read);
            exchange.reply = shown(&read);
            self.lab.record(exchange);
            return Ok(Stream::Refused(Reply { what, status, headers, body: read }));
        }
        self.lab.record(exchange);
        Ok(Stream::Open(Events { headers, reader: Box::new(std::io::BufReader::new(body.into_reader())) }))
    }
}

/// What a watch became.
pub(crate) enum Stream {
    Open(Events),
    Refused(Reply),
}

/// An open stream of events.
pub(crate) struct Events {
    pub(crate) headers: Vec<(String, String)>,
    reader: Box<dyn std::io::BufRead + Send>,
}

impl Events {
    /// The next line; `None` where the stream ended or its time is up.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match std::io::BufRead::read_line(&mut self.reader, &mut line) {
            Ok(n) if n > 0 => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
            _ => None,
        }
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    what: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// What came, for a failure.
    pub(crate) fn came(&self) -> String {
        format!("{}: status {}, {}", self.what, self.status, shown(&self.body))
    }

    /// The body of a success.
    pub(crate) fn ok(&self) -> Checked<Json> {
        want!(self.status == 200, format!("{} answers 200", endpoint(&self.what)), "{}", self.came());
        self.json()
    }

    /// A success without a body.
    pub(crate) fn done(&self) -> Checked {
        let expected = format!("{} answers 204 without a body", endpoint(&self.what));
        want!(self.status == 204 && self.body.is_empty(), expected, "{}", self.came());
        Ok(())
    }

    /// The body as JSON, with its content type.
    pub(crate) fn json(&self) -> Checked<Json> {
        let json = Json::parse(&self.body).or_else(|e| {
            fail(format!("{} answers with one JSON document", endpoint(&self.what)), format!("{e}: {}", self.came()))
        })?;
        let media = self.header("content-type").unwrap_or_default();
        want!(
            media.split(';').next().is_some_and(|m| m.trim() == "application/json"),
            format!("{} answers with the content type application/json", endpoint(&self.what)),
            "content type {media:?}: {}",
            self.came()
        );
        Ok(json)
    }

    /// An error in its one form: this status, one of these codes, a message.
    pub(crate) fn refused(&self, status: u16, codes: &[&str]) -> Checked<Json> {
        let expected = format!("{} answers {status} {}", endpoint(&self.what), codes.join(" or "));
        want!(self.status == status, expected, "{}", self.came());
        let json = Json::parse(&self.body)
            .or_else(|e| fail(format!("{expected} as {{\"error\", \"message\"}}"), format!("{e}: {}", self.came())))?;
        let code = json.get("error").and_then(Json::text);
        want!(code.is_some_and(|c| codes.contains(&c)), expected, "{}", self.came());
        let message = json.get("message").and_then(Json::text);
        want!(message.is_some_and(|m| !m.is_empty()), "an error body has a message", "{}", self.came());
        self.json()
    }

    /// A member of a body that must be there.
    pub(crate) fn need<'j>(&self, json: &'j Json, name: &str) -> Checked<&'j Json> {
        match json.get(name) {
            Some(v) => Ok(v),
            None => fail(format!("the reply to {} has {name}", endpoint(&self.what)), self.came()),
        }
    }

    pub(crate) fn need_integer(&self, json: &Json, name: &str) -> Checked<i64> {
        match self.need(json, name)?.integer() {
            Some(i) => Ok(i),
            None => fail(format!("{name} is an integer in the reply to {}", endpoint(&self.what)), self.came()),
        }
    }

    pub(crate) fn need_text(&self, json: &Json, name: &str) -> Checked<String> {
        match self.need(json, name)?.text() {
            Some(s) => Ok(s.to_owned()),
            None => fail(format!("{name} is a string in the reply to {}", endpoint(&self.what)), self.came()),
        }
    }

    pub(crate) fn need_boolean(&self, json: &Json, name: &str) -> Checked<bool> {
        match self.need(json, name)?.boolean() {
            Some(b) => Ok(b),
            None => fail(format!("{name} is a boolean in the reply to {}", endpoint(&self.what)), self.came()),
        }
    }

    /// A time that must lie ahead.
    pub(crate) fn need_future(&self, json: &Json, name: &str) -> Checked<jiff::Timestamp> {
        let text = self.need_text(json, name)?;
        match text.parse::<jiff::Timestamp>() {
            // A minute for clocks that do not agree.
            Ok(t) if t.as_second() + 60 >= jiff::Timestamp::now().as_second() && text.ends_with('Z') => Ok(t),
            _ => fail(format!("{name} is a time to come, RFC 3339, UTC"), self.came()),
        }
    }
}

/// A request without its ids and query: how failures of one kind are recognised.
fn endpoint(what: &str) -> String {
    let path = what.split('?').next().unwrap_or(what);
    let mut parts: Vec<&str> = path.split('/').collect();
    for i in 1..parts.len() {
        match parts[i - 1] {
            "push-sessions" => parts[i] = "{push_id}",
            "snapshot-sessions" => parts[i] = "{snapshot_id}",
            "committed-bundles" => parts[i] = "{bundle_seq}",
            _ => {}
        }
    }
    parts.join("/")
}

/// The beginning of a body, for people.
pub(crate) fn shown(body: &[u8]) -> String {
    if body.is_empty() {
        return "an empty body".to_owned();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).trim_end().to_owned();
    if body.len() > SHOWN { format!("{text}… ({} bytes)", body.len()) } else { text }
}

/// Something to be done at the same time as something else.
pub(crate) type Job<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

pub(crate) fn job<'a, T>(f: impl FnOnce() -> T + Send + 'a) -> Job<'a, T> {
    Box::new(f)
}

/// Runs the jobs at the same time and gives their results in order.
pub(crate) fn together<T: Send>(jobs: Vec<Job<'_, T>>) -> Vec<T> {
    let start = std::sync::Barrier::new(jobs.len());
    std::thread::scope(|scope| {
        let handles: Vec<_> = jobs
            .into_iter()
            .map(|job| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    job()
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("invariant: checks do not panic")).collect()
    })
}

const REQUEST: Duration = Duration::from_secs(30);
const SHOWN: usize = 1000;
