//! The peer over HTTP on loopback, and the program that speaks to it.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use sync_server::Server;
use tempfile::TempDir;

use super::peer::{Answer, Peer};
use crate::cli::Ran;

/// Where a batch stands still: nowhere, before it is taken, after it is taken.
pub(crate) const NOWHERE: u8 = 0;
pub(crate) const BEFORE: u8 = 1;
pub(crate) const AFTER: u8 = 2;

struct Shared {
    peer: Arc<Peer>,
    stands: AtomicU8,
    reached: Mutex<mpsc::Sender<()>>,
}

pub(crate) struct Web {
    server: Server,
    pub(crate) peer: Arc<Peer>,
    shared: Arc<Shared>,
    reached: mpsc::Receiver<()>,
    pub(crate) dir: TempDir,
}

impl Web {
    pub(crate) fn new() -> Self {
        let (tell, reached) = mpsc::channel();
        let peer = Arc::new(Peer::default());
        let shared = Arc::new(Shared { peer: Arc::clone(&peer), stands: NOWHERE.into(), reached: Mutex::new(tell) });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = Server::start("127.0.0.1:0", router).unwrap();
        Self { server, peer, shared, reached, dir: TempDir::new().unwrap() }
    }

    /// The batches' route.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}/api/sync/batches", self.server.url())
    }

    pub(crate) fn stand_still(&self, at: u8) {
        self.shared.stands.store(at, Ordering::SeqCst);
    }

    /// Waits until a batch stands still.
    pub(crate) fn stands(&self) {
        self.reached.recv().unwrap();
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::from(program(&self.dir, args).output().unwrap())
    }

    pub(crate) fn push(&self, more: &[&str]) -> Ran {
        let endpoint = self.endpoint();
        let args = ["stream", "push", "app.db", "statsai", "--sink", "http", "--endpoint", &endpoint];
        self.run(&[&args[..], more].concat())
    }

    /// Puts records into the outbox.
    pub(crate) fn add(&self, kind: &str, records: &[Value]) {
        let text = Value::Array(records.to_vec()).to_string();
        std::fs::write(self.dir.path().join("records.json"), text).unwrap();
        self.run(&["stream", "add", "app.db", "statsai", kind, "--input", "records.json"]).ends(0);
    }
}

/// The program with a configuration directory of its own, and without the caller's tokens.
pub(crate) fn program(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = crate::cli::program(dir, args);
    let home = dir.path().join("config");
    command.env_remove("STATSAI_SYNC_TOKEN").env("XDG_CONFIG_HOME", &home).env("HOME", &home).env("APPDATA", &home);
    command.stdin(Stdio::null());
    command
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let is_batch = uri.path() == "/api/sync/batches";
    let stands = if is_batch { shared.stands.load(Ordering::SeqCst) } else { NOWHERE };
    if stands != BEFORE {
        let told = if is_batch { shared.peer.kept().answers.pop_front() } else { None };
        let (status, text, retry_after) = match told {
            Some(Answer::Instead(status, text, retry_after)) => {
                shared.peer.kept().tokens.push(token);
                (status, text, retry_after)
            }
            _ => shared.peer.handle(uri.path(), &token, is_batch.then_some(body.as_ref())),
        };
        if stands == NOWHERE {
            let mut reply = (StatusCode::from_u16(status).unwrap(), text).into_response();
            if let Some(seconds) = retry_after {
                reply.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            return reply;
        }
    }
    shared.reached.lock().unwrap().send(()).unwrap();
    std::future::pending().await
}
