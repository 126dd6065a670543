//! `GET /sync/watch`: the event that catches up, wake-ups, heartbeats, and the end of a stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sync_core::protocol::watch::{EventReader, WatchEvent};
use sync_server::RouterOptions;
use sync_server::limits::Limits;

use crate::http::{World, user};

/// A stream, line by line.
struct Stream {
    lines: BufReader<TcpStream>,
    head: String,
}

impl Stream {
    fn open(addr: SocketAddr, user: &str, after: i64) -> Self {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(
            stream,
            "GET /sync/watch?after_bundle_seq={after} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user}\r\n\
             Oversync-Source-ID: watcher\r\n\r\n"
        )
        .unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).unwrap(), 0, "{head}");
        }
        Self { lines, head: head.to_ascii_lowercase() }
    }

    /// The next piece of the stream; `None` at its end.
    fn piece(&mut self) -> Option<String> {
        let mut size = String::new();
        if self.lines.read_line(&mut size).ok()? == 0 {
            return None;
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut piece = vec![0; size + 2];
        self.lines.read_exact(&mut piece).unwrap();
        piece.truncate(size);
        if size == 0 { None } else { Some(String::from_utf8(piece).unwrap()) }
    }

    fn event(&mut self) -> WatchEvent {
        loop {
            let piece = self.piece().expect("the stream goes on");
            let mut reader = EventReader::default();
            if let Some(event) = piece.lines().filter_map(|l| reader.line(l)).next() {
                return event;
            }
        }
    }
}

#[test]
fn a_stream_catches_up_and_wakes() {
    let world = World::new();
    let phone = world.ready("ada", "phone");
    let mut quiet = Stream::open(world.addr, "ada", 0);
    assert!(quiet.head.starts_with("http/1.1 200"), "{}", quiet.head);
    for header in
        ["content-type: text/event-stream\r\n", "cache-control: no-cache, no-store\r\n", "x-accel-buffering: no\r\n"]
    {
        assert!(quiet.head.contains(header), "{}", quiet.head);
    }
    phone.push(1, &[user("u1", "n")]);
    let event = quiet.event();
    assert_eq!((event.bundle_seq, event.source_id.as_deref(), event.source_bundle_id), (1, Some("phone"), Some(1)));

    let mut behind = Stream::open(world.addr, "ada", 0);
    assert_eq!(behind.event(), WatchEvent { bundle_seq: 1, source_id: None, source_bundle_id: None });
    let mut level = Stream::open(world.addr, "ada", 1);
    let bob = world.ready("bob", "phone");
    bob.push(1, &[user("u1", "n")]);
    phone.push(2, &[user("u2", "n")]);
    for stream in [&mut quiet, &mut behind, &mut level] {
        let event = stream.event();
        assert_eq!((event.bundle_seq, event.source_bundle_id), (2, Some(2)));
    }
}

#[test]
fn an_idle_stream_beats() {
    let options = RouterOptions { heartbeat: Duration::from_millis(20), ..RouterOptions::default() };
    let world = World::with_options(Limits::default(), options);
    let phone = world.ready("ada", "phone");
    let mut stream = Stream::open(world.addr, "ada", 0);
    for _ in 0..3 {
        assert_eq!(stream.piece().as_deref(), Some(": heartbeat\n\n"));
    }
    phone.push(1, &[user("u1", "n")]);
    assert_eq!(stream.event().bundle_seq, 1);
}

#[test]
fn streams_end_when_the_service_closes_or_the_server_stops() {
    let mut world = World::new();
    world.ready("ada", "phone");
    let mut stream = Stream::open(world.addr, "ada", 0);
    world.service.close();
    assert_eq!(stream.piece(), None);
    drop(stream);
    let refused = world.client("ada", "phone").get("/sync/watch");
    assert_eq!(refused.error(), "service_unavailable");

    world = World::new();
    world.ready("ada", "phone");
    let mut stream = Stream::open(world.addr, "ada", 0);
    let begun = std::time::Instant::now();
    world.server.take().unwrap().stop().unwrap();
    assert_eq!(stream.piece(), None);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_scope_that_is_not_ready_cannot_be_watched() {
    let world = World::new();
    let phone = world.client("ada", "phone");
    assert_eq!(phone.get("/sync/watch").error(), "scope_uninitialized");
    phone.post("/sync/connect", r#"{"has_local_pending_rows":true}"#);
    assert_eq!(phone.get("/sync/watch").error(), "scope_initializing");
}
