//! In somebody else's application, and at the end of a server's life.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use sync_core::protocol::UserId;
use sync_server::auth::{AuthError, Authenticate, DevAuth};
use sync_server::limits::Limits;
use sync_server::service::{Environment, FaultPoint};
use sync_server::{Server, router, serve};

use crate::http::{Client, Panics, TestEnvironment, World, chunk, open, open_with, parse, user};

#[test]
fn under_a_path_of_an_application() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(dir.path(), Limits::default(), &TestEnvironment::new());
    let app = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .nest("/{tenant}/api/v1", router(service, DevAuth))
        .fallback(|| async { "the application's own" });
    let server = Server::start("127.0.0.1:0", app).unwrap();
    let client = Client::new(format!("{}/acme/api/v1", server.url()), "ada", "phone");
    assert_eq!(client.post("/sync/connect", "{}").json()["resolution"], "initialize_empty");
    assert_eq!(client.push(1, &[user("u", "n")]).json()["bundle_seq"], 1);
    assert_eq!(client.get("/sync/committed-bundles/1/rows").json()["row_count"], 1);
    assert_eq!(client.get("/sync/nothing").error(), "not_found");
    assert_eq!(client.get("/sync/connect").error(), "method_not_allowed");
    assert_eq!(client.get("/health").status, 200);
    let outside = Client::new(server.url(), "ada", "phone");
    assert_eq!(outside.get("/hello").body, b"hello");
    assert_eq!(outside.get("/elsewhere").body, b"the application's own");
    server.stop().unwrap();
}

#[test]
fn merged_into_an_application_and_served_by_its_own_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(dir.path(), Limits::default(), &TestEnvironment::new());
    let app = Router::new().route("/", get(|| async { "home" })).merge(router(service, DevAuth));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let serving = runtime.spawn(serve(listener, app, async { drop(stopped.await) }, Duration::from_secs(5)));
    let client = Client::new(url, "ada", "phone");
    assert_eq!(client.get("/").body, b"home");
    assert_eq!(client.post("/sync/connect", "{}").status, 200);
    drop(client);
    stop.send(()).unwrap();
    runtime.block_on(serving).unwrap().unwrap();
}

#[test]
fn what_is_in_flight_finishes_before_a_stop() {
    let mut world = World::new();
    let client = world.ready("ada", "phone");
    let push_id = client.create(1, 1);
    let body = chunk(0, &[user("u", "n")]);
    let (first, rest) = body.as_bytes().split_at(body.len() / 2);
    let mut stream = TcpStream::connect(world.addr).unwrap();
    write!(
        stream,
        "POST /sync/push-sessions/{push_id}/chunks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada\r\n\
         Oversync-Source-ID: phone\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    // The interim reply says that the handler has begun to read.
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(first).unwrap();
    let server = world.server.take().unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    while TcpStream::connect(world.addr).is_ok() {
        std::thread::yield_now();
    }
    stream.write_all(rest).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(parse(&reply).json()["next_expected_row_ordinal"], 1);
    stopping.join().unwrap().unwrap();
}

#[test]
fn a_panic_is_one_failed_request_and_is_counted() {
    for (point, after) in
        [(FaultPoint::BeforeChunkStored, 0), (FaultPoint::BeforeCommit, 1), (FaultPoint::AfterCommit, 1)]
    {
        let dir = tempfile::tempdir().unwrap();
        let service = open_with(dir.path(), Limits::default(), Arc::new(Panics(TestEnvironment::new(), point)));
        let server = Server::start("127.0.0.1:0", router(service, DevAuth)).unwrap();
        let client = Client::new(server.url(), "ada", "phone");
        client.post("/sync/connect", "{}");
        let push_id = client.create(1, 1);
        let reply = client.upload(&push_id, 0, &[user("u", "n")]);
        let reply = if after == 0 { reply } else { client.commit(&push_id) };
        assert_eq!(reply.error(), "internal_error", "{point:?}");
        assert_eq!(client.get("/status").json()["panics"], 1);
        assert_eq!(client.get("/sync/pull").status, 200);
        let bob = Client::new(server.url(), "bob", "phone");
        assert_eq!(bob.post("/sync/connect", "{}").status, 200);
    }
}

/// A host whose authentication fails in the worst way.
struct Broken;

impl Authenticate for Broken {
    fn authenticate(&self, _: &HeaderMap) -> Result<UserId, AuthError> {
        panic!("on purpose")
    }
}

#[test]
fn a_panic_of_the_hosts_authentication_is_counted_too() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(dir.path(), Limits::default(), &TestEnvironment::new());
    let server = Server::start("127.0.0.1:0", router(service, Broken)).unwrap();
    let client = Client::new(server.url(), "ada", "phone");
    assert_eq!(client.get("/sync/pull").error(), "internal_error");
    assert_eq!(client.get("/status").json()["panics"], 1);
}

/// Commits stand still until they are let go.
struct Held(Arc<TestEnvironment>, Mutex<bool>, Condvar);

impl Environment for Held {
    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    fn new_id(&self) -> String {
        self.0.new_id()
    }

    fn fault(&self, point: FaultPoint) {
        if point == FaultPoint::BeforeCommit {
            drop(self.2.wait_while(self.1.lock().unwrap(), |held| *held).unwrap());
        }
    }
}

#[test]
fn one_user_cannot_take_every_thread() {
    let dir = tempfile::tempdir().unwrap();
    let environment = Arc::new(Held(TestEnvironment::new(), Mutex::new(true), Condvar::new()));
    let service = open_with(dir.path(), Limits::default(), Arc::clone(&environment) as Arc<dyn Environment>);
    let server = Server::start("127.0.0.1:0", router(service, DevAuth)).unwrap();
    let status = Client::new(server.url(), "", "");
    let bob = Client::new(server.url(), "bob", "phone");
    let mut devices = Vec::new();
    for i in 0..100 {
        let client = Client::new(server.url(), "ada", &format!("device-{i}"));
        client.post("/sync/connect", "{}");
        let push_id = client.create(1, 1);
        client.upload(&push_id, 0, &[user(&format!("u{i}"), "n")]);
        devices.push((client, push_id));
    }
    std::thread::scope(|scope| {
        for (client, push_id) in &devices {
            scope.spawn(move || assert_eq!(client.commit(push_id).status, 200));
        }
        while status.get("/status").json()["inflight_operations"].as_i64().unwrap() < 16 {
            std::thread::yield_now();
        }
        assert_eq!(bob.post("/sync/connect", "{}").json()["resolution"], "initialize_empty");
        assert_eq!(bob.get("/sync/pull").status, 200);
        *environment.1.lock().unwrap() = false;
        environment.2.notify_all();
    });
    let ada = Client::new(server.url(), "ada", "last");
    assert_eq!(ada.get("/sync/pull").json()["stable_bundle_seq"], 100);
}
