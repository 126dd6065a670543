//! A server on loopback with a clock of its own, and a client that says what came back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use sync_server::auth::DevAuth;
use sync_server::limits::Limits;
use sync_server::service::{Environment, FaultPoint, Service, ServiceConfig};
use sync_server::{RouterOptions, Server, router_with, standalone};
use tempfile::TempDir;

/// An [`Environment`] that panics at a fault point.
#[derive(Debug)]
pub(crate) struct Panics(pub(crate) Arc<TestEnvironment>, pub(crate) FaultPoint);

impl Environment for Panics {
    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    fn new_id(&self) -> String {
        self.0.new_id()
    }

    fn fault(&self, point: FaultPoint) {
        assert!(point != self.1, "on purpose");
    }
}

/// Time that moves when a test says so; ids that are UUIDs and never repeat.
#[derive(Debug)]
pub(crate) struct TestEnvironment {
    now: AtomicI64,
    ids: AtomicU64,
}

impl TestEnvironment {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { now: AtomicI64::new(1_790_000_000_000), ids: AtomicU64::new(1) })
    }

    pub(crate) fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Environment for TestEnvironment {
    fn now_ms(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    fn new_id(&self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.ids.fetch_add(1, Ordering::SeqCst))
    }
}

pub(crate) const SCHEMA: &str = "
    CREATE TABLE users(id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, score REAL) WITHOUT ROWID;
    CREATE TABLE posts(
        id TEXT PRIMARY KEY NOT NULL,
        author TEXT REFERENCES users(id),
        title TEXT UNIQUE,
        stars INTEGER CHECK (stars >= 0)
    );
";

/// A service, the server before it, and the directory below it.
pub(crate) struct World {
    pub(crate) environment: Arc<TestEnvironment>,
    pub(crate) service: Service,
    pub(crate) server: Option<Server>,
    pub(crate) addr: SocketAddr,
    _dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        Self::with_options(limits, RouterOptions::default())
    }

    pub(crate) fn with_options(limits: Limits, options: RouterOptions) -> Self {
        let dir = TempDir::new().unwrap();
        let environment = TestEnvironment::new();
        let service = open(dir.path(), limits, &environment);
        let server = Server::start("127.0.0.1:0", standalone(router_with(service.clone(), DevAuth, options))).unwrap();
        Self { environment, service, addr: server.addr(), server: Some(server), _dir: dir }
    }

    pub(crate) fn client(&self, user: &str, source: &str) -> Client {
        Client::new(format!("http://{}", self.addr), user, source)
    }

    /// A user whose scope is initialized and empty.
    pub(crate) fn ready(&self, user: &str, source: &str) -> Client {
        let client = self.client(user, source);
        let reply = client.post("/sync/connect", "{}");
        assert_eq!(reply.json()["resolution"], "initialize_empty", "{reply:?}");
        client
    }
}

pub(crate) fn open(dir: &std::path::Path, limits: Limits, environment: &Arc<TestEnvironment>) -> Service {
    open_with(dir, limits, Arc::clone(environment) as Arc<dyn Environment>)
}

pub(crate) fn open_with(dir: &std::path::Path, limits: Limits, environment: Arc<dyn Environment>) -> Service {
    let config = ServiceConfig {
        data_dir: dir.to_owned(),
        schema_sql: SCHEMA.to_owned(),
        rules_sql: None,
        wire_schema: "main".to_owned(),
        app_name: "test".to_owned(),
        limits,
    };
    Service::open(config, environment).unwrap()
}

/// A user's device.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Client {
    pub(crate) fn new(base: String, token: &str, source: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .new_agent();
        let headers = vec![
            ("Authorization".to_owned(), format!("Bearer {token}")),
            ("Oversync-Source-ID".to_owned(), source.to_owned()),
        ];
        Self { agent, base, headers }
    }

    /// The same with a header set, or left out where the value is empty.
    pub(crate) fn header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        if !value.is_empty() {
            client.headers.push((name.to_owned(), value.to_owned()));
        }
        client
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, b"")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, body.as_bytes())
    }

    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, b"")
    }

    /// `None` where the connection broke.
    pub(crate) fn try_post(&self, path: &str, body: &str) -> Option<Reply> {
        self.try_send("POST", path, body.as_bytes()).ok()
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        self.try_send(method, path, body).unwrap()
    }

    fn try_send(&self, method: &str, path: &str, body: &[u8]) -> Result<Reply, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = if body.is_empty() && method != "POST" {
            self.agent.run(request.body(()).unwrap())
        } else {
            self.agent.run(request.body(body.to_vec()).unwrap())
        };
        let mut response = response?;
        let headers = response
            .headers()
            .iter()
            .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect();
        let mut body = Vec::new();
        response.body_mut().as_reader().read_to_end(&mut body)?;
        Ok(Reply { status: response.status().as_u16(), headers, body })
    }

    /// Creates a push session and says its id.
    pub(crate) fn create(&self, source_bundle_id: i64, rows: usize) -> String {
        let reply = self.post(
            "/sync/push-sessions",
            &format!(r#"{{"source_bundle_id":{source_bundle_id},"planned_row_count":{rows}}}"#),
        );
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["push_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn upload(&self, push_id: &str, start: usize, rows: &[String]) -> Reply {
        self.post(&format!("/sync/push-sessions/{push_id}/chunks"), &chunk(start, rows))
    }

    pub(crate) fn commit(&self, push_id: &str) -> Reply {
        self.post(&format!("/sync/push-sessions/{push_id}/commit"), "")
    }

    /// Pushes rows from beginning to end.
    pub(crate) fn push(&self, source_bundle_id: i64, rows: &[String]) -> Reply {
        let push_id = self.create(source_bundle_id, rows.len());
        let reply = self.upload(&push_id, 0, rows);
        assert_eq!(reply.status, 200, "{reply:?}");
        self.commit(&push_id)
    }
}

pub(crate) fn chunk(start: usize, rows: &[String]) -> String {
    format!(r#"{{"start_row_ordinal":{start},"rows":[{}]}}"#, rows.join(","))
}

/// An INSERT of a user.
pub(crate) fn user(id: &str, name: &str) -> String {
    row("users", id, "INSERT", 0, &format!(r#"{{"id":"{id}","name":"{name}","score":1.5}}"#))
}

pub(crate) fn row(table: &str, id: &str, op: &str, base: i64, payload: &str) -> String {
    format!(
        r#"{{"schema":"main","table":"{table}","key":{{"id":"{id}"}},"op":"{op}","base_row_version":{base},"payload":{payload}}}"#
    )
}

/// What came back.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{self:?}");
        assert_eq!(self.body.last(), Some(&b'\n'), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks that this is an error of the table, in its one form, and says its code.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        let json = self.json();
        let text = json["error"].as_str().unwrap_or_else(|| panic!("no code: {self:?}"));
        assert!(json["message"].as_str().is_some_and(|m| !m.is_empty()), "no message: {self:?}");
        let code = sync_core::protocol::Code::parse(text).unwrap_or_else(|| panic!("unknown code: {self:?}"));
        assert_eq!(self.status, code.status(), "{self:?}");
        let later = matches!(self.status, 429 | 503) || text == "scope_initializing";
        assert_eq!(self.header("retry-after").is_some(), later, "{self:?}");
        text.to_owned()
    }
}

/// Sends bytes as they are on a connection of their own and reads one reply to its end.
pub(crate) fn raw(addr: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A server may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    parse(&bytes)
}

/// Reads a reply from its bytes; a body in chunks is joined.
pub(crate) fn parse(bytes: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no reply: {text:?}"));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<_> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let mut reply = Reply { status, headers, body: bytes[end + 4..].to_vec() };
    if reply.header("transfer-encoding") == Some("chunked") {
        let mut rest = std::mem::take(&mut reply.body);
        while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
            if size == 0 || rest.len() < at + 2 + size {
                break;
            }
            reply.body.extend_from_slice(&rest[at + 2..at + 2 + size]);
            rest.drain(..at + 4 + size);
        }
    }
    reply
}
