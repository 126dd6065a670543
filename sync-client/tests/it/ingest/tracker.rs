//! A tracker's file, and the real server of Aexy's contract with a project for it.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use sync_client::TokenRequest;
use sync_client::ingest::{Endpoint, How, Pushed, Remote, Sink, Stream};
use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_server::ingest::{IngestOptions, aexy};
use sync_server::service::{Service, ServiceConfig};
use sync_server::{Server, standalone};
use tempfile::TempDir;

use super::FULL;
use super::web::program;
use crate::cli::{DDL, Ran};
use crate::world::Clock;

pub(super) const PROJECT: &str = "77777777-7777-4777-8777-777777777777";

/// A server whose users come in by their names, with a project that ada takes part in, and a producer's directory.
pub(super) struct Real {
    pub(super) server: Server,
    pub(super) data: TempDir,
    pub(super) dir: TempDir,
    pub(super) clock: Arc<Clock>,
}

impl Real {
    pub(super) fn new() -> Self {
        let (data, clock) = (TempDir::new().unwrap(), Arc::new(Clock::default()));
        let config = ServiceConfig::new(data.path(), DDL);
        let service = Service::open(config, Arc::clone(&clock) as Arc<_>).unwrap();
        let options = IngestOptions { dev: true, ..IngestOptions::new("http://here") };
        let routes = aexy(service, data.path(), options).unwrap();
        let server = Server::start("127.0.0.1:0", standalone(routes)).unwrap();
        let real = Self { server, data, dir: TempDir::new().unwrap(), clock };
        real.keys(&format!(
            "INSERT INTO project VALUES ('{PROJECT}', 'P', 'p', 1, '{{}}', 0); INSERT INTO member VALUES ('{PROJECT}', 'ada')"
        ));
        real
    }

    /// What the operator's commands write.
    pub(super) fn keys(&self, sql: &str) {
        Connection::open(self.data.path().join("keys.db")).unwrap().execute_batch(sql).unwrap();
    }

    pub(super) fn configure(&self, config: &Value) {
        self.keys(&format!("UPDATE project SET config = '{config}'"));
    }

    pub(super) fn endpoint(&self) -> String {
        format!("{}/api/v1/tracker/events:batch", self.server.url())
    }

    pub(super) fn run(&self, args: &[&str]) -> Ran {
        Ran::from(program(&self.dir, args).env_remove("AEXY_TOKEN").output().unwrap())
    }

    pub(super) fn add(&self, events: &[Value]) -> Ran {
        fs::write(self.dir.path().join("events.json"), Value::from(events).to_string()).unwrap();
        self.run(&["stream", "add", "app.db", "aexy", "events", "--input", "events.json", "--json"])
    }

    pub(super) fn enrol(&self) -> Value {
        let args = ["stream", "enrol", "app.db", "aexy", "--project", PROJECT, "--auth-token", "ada", "--json"];
        self.run(&[&args[..], &["--endpoint", &self.endpoint()]].concat()).ends(0).json()
    }

    pub(super) fn push(&self, more: &[&str]) -> Ran {
        let endpoint = self.endpoint();
        let args = ["stream", "push", "app.db", "aexy", "--sink", "http", "--endpoint", &endpoint, "--json"];
        self.run(&[&args[..], &["--auth-token", "ada"], more].concat())
    }

    pub(super) fn status(&self) -> Value {
        self.run(&["stream", "status", "app.db", "aexy", "--json"]).json()
    }

    pub(super) fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("app.db")
    }

    /// What the server stored: number and id.
    pub(super) fn stored(&self) -> Vec<(i64, String)> {
        let scopes = fs::read_dir(self.data.path().join("scopes")).unwrap().map(|e| e.unwrap().path());
        let mut all = Vec::new();
        for path in scopes.filter(|p| p.extension().is_some_and(|e| e == "db")) {
            let conn = Connection::open(path).unwrap();
            let mut s = conn.prepare("SELECT device_seq, record_id FROM _sync_ingest_sample ORDER BY seq").unwrap();
            all.extend(s.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap));
        }
        all
    }

    pub(super) fn seqs(&self) -> Vec<i64> {
        self.stored().into_iter().map(|(seq, _)| seq).collect()
    }

    /// The stream in the file, and the server behind a transport that loses replies.
    pub(super) fn flaky(&self, lose_every: u64) -> (Stream, Remote, Arc<Flaky>) {
        let endpoint = Endpoint::parse(&self.endpoint()).unwrap();
        let inner = Http::new(endpoint.base()).unwrap();
        let flaky = Arc::new(Flaky { inner, lose_every, sent: AtomicU64::new(0), batches: Mutex::default() });
        let tokens = Arc::new(|_: TokenRequest| Ok("ada".to_owned()));
        let remote = Remote::new(endpoint, Arc::clone(&flaky) as Arc<dyn Transport>, tokens);
        (Stream::open(&self.file(), "aexy").unwrap(), remote, flaky)
    }
}

/// Delivers every request, and loses each so many-th reply of a batch.
#[derive(Debug)]
pub(super) struct Flaky {
    pub(super) inner: Http,
    pub(super) lose_every: u64,
    pub(super) sent: AtomicU64,
    pub(super) batches: Mutex<Vec<Value>>,
}

impl Transport for Flaky {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let reply = self.inner.send(request)?;
        if request.path.ends_with(":batch") {
            self.batches.lock().unwrap().push(serde_json::from_slice(request.body.unwrap()).unwrap());
            if (self.sent.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(self.lose_every) {
                return Err(TransportError::Broken("cut".into()));
            }
        }
        Ok(reply)
    }

    fn pause(&self, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
}

/// An event without number and time, which are filled in.
pub(super) fn event(n: u64) -> Value {
    json!({ "event_id": format!("aaaaaaaa-0000-4000-8000-{n:012x}"), "interval_s": 60,
        "active_app": { "name": "VS Code", "bundle_id": "com.microsoft.VSCode" } })
}

pub(super) fn events(range: std::ops::Range<u64>) -> Vec<Value> {
    range.map(event).collect()
}

pub(super) fn push(stream: &Stream, remote: &Remote) -> Pushed {
    stream.push(&mut Sink::Http(remote), &How { verify: true, ..FULL }).unwrap()
}
