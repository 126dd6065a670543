//! [`Http`] against small servers on the loopback address, each a thread that plays one part.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use super::{Http, Method, Request, Response, Transport, TransportError};

/// Only a guard against a test that hangs: nothing below takes that long.
const GUARD: Duration = Duration::from_secs(5);

fn get(path: &str) -> Request<'_> {
    Request {
        method: Method::Get,
        path,
        source_id: "source-1",
        token: "secret-token",
        body: None,
        exact: false,
        compress: false,
        stream: false,
        timeout: None,
    }
}

/// A request as it came: its head in lower case, and its body.
struct Seen {
    head: String,
    body: Vec<u8>,
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { head, body })
}

/// Serves one connection after the other; the part says what to do with each.
fn serve(part: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            part(stream.unwrap());
        }
    });
    url
}

/// Answers every request of every connection alike, and hands over what it saw.
fn serve_reply(reply: impl Into<Vec<u8>>) -> (String, mpsc::Receiver<Seen>) {
    let (reply, (sender, seen)) = (reply.into(), mpsc::channel());
    let url = serve(move |mut stream| {
        while let Some(request) = read_request(&stream) {
            let _ = sender.send(request);
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
    });
    (url, seen)
}

fn with_length(head: &str, body: &[u8]) -> Vec<u8> {
    let mut reply = format!("{head}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    reply.extend_from_slice(body);
    reply
}

fn text(mut response: Response) -> String {
    let mut text = String::new();
    response.body.read_to_string(&mut text).unwrap();
    text
}

fn failure(result: Result<Response, TransportError>) -> TransportError {
    result.map(|reply| reply.status).unwrap_err()
}

#[test]
fn a_request_carries_what_the_protocol_asks_for() {
    let (url, seen) = serve_reply(with_length("HTTP/1.1 200 OK", b"{}"));
    let http = Http::new(&format!("{url}/api/v1/")).unwrap();
    let body = br#"{"has_local_pending_rows":true}"#;
    let post = Request { method: Method::Post, body: Some(body), exact: true, ..get("/sync/connect") };
    assert_eq!(text(http.send(&post).unwrap()), "{}");
    let request = seen.recv_timeout(GUARD).unwrap();
    assert!(request.head.starts_with("post /api/v1/sync/connect http/1.1\r\n"), "{}", request.head);
    for line in [
        "authorization: bearer secret-token",
        "cache-control: no-cache",
        "oversync-source-id: source-1",
        "oversync-bundle-hash: blake3",
        "content-type: application/json",
        "accept-encoding: zstd, gzip",
    ] {
        assert!(request.head.contains(&format!("{line}\r\n")), "no {line} in {}", request.head);
    }
    assert_eq!(request.body, body);

    assert_eq!(text(http.send(&get("/sync/pull?after_bundle_seq=1")).unwrap()), "{}");
    let request = seen.recv_timeout(GUARD).unwrap();
    assert!(request.head.starts_with("get /api/v1/sync/pull?after_bundle_seq=1 http/1.1\r\n"), "{}", request.head);
    assert!(!request.head.contains("oversync-bundle-hash") && !request.head.contains("content-"), "{}", request.head);

    let bare = Request { method: Method::Post, ..get("/sync/push-sessions/x/commit") };
    assert_eq!(text(http.send(&bare).unwrap()), "{}");
    assert!(seen.recv_timeout(GUARD).unwrap().head.contains("content-length: 0\r\n"));
}

#[test]
fn large_bodies_are_compressed_where_the_server_takes_it() {
    let (url, seen) = serve_reply(with_length("HTTP/1.1 200 OK", b""));
    let http = Http::new(&url).unwrap();
    let body = vec![b'x'; 100_000];
    let post = Request { method: Method::Post, body: Some(&body), ..get("/sync/push-sessions/x/chunks") };
    http.send(&post).unwrap();
    assert_eq!(seen.recv_timeout(GUARD).unwrap().body, body);
    http.send(&Request { compress: true, ..post }).unwrap();
    let packed = seen.recv_timeout(GUARD).unwrap();
    assert!(packed.head.contains("content-encoding: zstd\r\n"), "{}", packed.head);
    assert_eq!(zstd::decode_all(packed.body.as_slice()).unwrap(), body);
    http.send(&Request { compress: true, body: Some(b"{}"), ..post }).unwrap();
    assert_eq!(seen.recv_timeout(GUARD).unwrap().body, b"{}");
}

#[test]
fn statuses_are_replies() {
    for (status, expected) in [("409 Conflict", 409), ("401 Unauthorized", 401), ("503 Service Unavailable", 503)] {
        let head = format!("HTTP/1.1 {status}\r\nRetry-After: 7");
        let (url, _seen) = serve_reply(with_length(&head, br#"{"error":"x"}"#));
        let reply = Http::new(&url).unwrap().send(&get("/sync/pull")).unwrap();
        assert_eq!((reply.status, reply.retry_after), (expected, Some(7)));
        assert_eq!(text(reply), r#"{"error":"x"}"#);
    }
    let (url, _seen) = serve_reply("HTTP/1.1 204 No Content\r\n\r\n");
    let reply = Http::new(&url).unwrap().send(&Request { method: Method::Delete, ..get("/sync/x") }).unwrap();
    assert_eq!((reply.status, text(reply)), (204, String::new()));
}

#[test]
fn connections_are_reused() {
    let (sender, connections) = mpsc::channel();
    let url = serve(move |mut stream| {
        sender.send(()).unwrap();
        while read_request(&stream).is_some() {
            stream.write_all(&with_length("HTTP/1.1 200 OK", b"{}")).unwrap();
        }
    });
    let http = Http::new(&url).unwrap();
    for _ in 0..3 {
        assert_eq!(text(http.send(&get("/sync/pull")).unwrap()), "{}");
    }
    assert_eq!(connections.try_iter().count(), 1);
}

#[test]
fn encodings_are_undone() {
    let body = "row ".repeat(10_000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    let encoded = [("gzip", gzip.finish().unwrap()), ("zstd", zstd::encode_all(body.as_bytes(), 3).unwrap())];
    for (name, bytes) in encoded {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {name}");
        let (url, _seen) = serve_reply(with_length(&head, &bytes));
        assert_eq!(text(Http::new(&url).unwrap().send(&get("/sync/pull")).unwrap()), body, "{name}");

        // The same, but less than was promised.
        let cut = &bytes[..bytes.len() / 2];
        let (url, _seen) = serve_reply(with_length(&head, cut));
        let mut reply = Http::new(&url).unwrap().send(&get("/sync/pull")).unwrap();
        assert!(reply.body.read_to_end(&mut Vec::new()).is_err(), "{name} cut short");
    }
    let (url, _seen) = serve_reply(with_length("HTTP/1.1 200 OK\r\nContent-Encoding: br", b"x"));
    let error = failure(Http::new(&url).unwrap().send(&get("/sync/pull")));
    assert!(matches!(error, TransportError::Broken(_)), "{error:?}");
}

#[test]
fn a_body_cut_short_is_an_error_for_good() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
    ] {
        let url = serve(move |mut stream| {
            read_request(&stream);
            stream.write_all(reply.as_bytes()).unwrap();
        });
        let mut reply = Http::new(&url).unwrap().send(&get("/sync/pull")).unwrap();
        let mut read = Vec::new();
        let error = reply.body.read_to_end(&mut read).unwrap_err();
        assert!(matches!(TransportError::of(&error), TransportError::Broken(_)), "{error:?}");
        assert!(read.len() <= 5);
        reply.body.read(&mut [0; 8]).unwrap_err();
    }
}

#[test]
fn what_is_not_http_is_broken() {
    for reply in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let url = serve(move |mut stream| {
            read_request(&stream);
            stream.write_all(reply.as_bytes()).unwrap();
        });
        let error = failure(Http::new(&url).unwrap().send(&get("/sync/pull")));
        assert!(matches!(error, TransportError::Broken(_)), "{reply:?}: {error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn nobody_there_is_offline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = failure(Http::new(&format!("http://{address}")).unwrap().send(&get("/sync/pull")));
    assert!(matches!(&error, TransportError::Offline(why) if why.contains(&address.to_string())), "{error:?}");
    // Reserved: no resolver may know it.
    let error = failure(Http::new("http://host.invalid").unwrap().send(&get("/sync/pull")));
    assert!(matches!(&error, TransportError::Offline(why) if why.contains("host.invalid")), "{error:?}");
}

#[test]
fn redirects_do_not_carry_the_token_away() {
    let (elsewhere, seen) = serve_reply(with_length("HTTP/1.1 200 OK", b"{}"));
    for status in ["301 Moved Permanently", "307 Temporary Redirect"] {
        let head = format!("HTTP/1.1 {status}\r\nLocation: {elsewhere}/sync/pull");
        let (url, _seen) = serve_reply(with_length(&head, b""));
        let http = Http::new(&url).unwrap();
        assert!((300..400).contains(&http.send(&get("/sync/pull")).unwrap().status));
        let post = Request { method: Method::Post, body: Some(b"{}"), ..get("/sync/connect") };
        assert!((300..400).contains(&http.send(&post).unwrap().status));
    }
    assert!(seen.try_recv().is_err());
}

#[test]
fn bad_urls_and_tokens_are_refused() {
    for (url, word) in [
        ("ftp://host", "http"),
        ("host:8080", "http"),
        ("", "URL"),
        ("http://user:pass@host", "password"),
        ("http://host/?x=1", "query"),
        ("http://host/#x", "fragment"),
    ] {
        let error = Http::new(url).unwrap_err();
        assert!(matches!(&error, TransportError::Invalid(why) if why.contains(word)), "{url}: {error:?}");
        assert!(!error.to_string().contains("pass@"), "{error}");
    }
    let http = Http::new("http://127.0.0.1:9").unwrap();
    let error = failure(http.send(&Request { token: "a\nb", ..get("/sync/pull") }));
    assert!(matches!(&error, TransportError::Invalid(why) if !why.contains("a\nb")), "{error:?}");
}

/// Runs the call on a thread, interrupts it once the server saw it, and returns how it ended.
fn interrupted<T: Send + 'static>(
    http: &Arc<Http>,
    reached: &mpsc::Receiver<()>,
    call: impl FnOnce(&Http) -> T + Send + 'static,
) -> T {
    let (sender, ended) = mpsc::channel();
    let caller = Arc::clone(http);
    thread::spawn(move || sender.send(call(&caller)));
    reached.recv_timeout(GUARD).unwrap();
    http.interrupt();
    ended.recv_timeout(GUARD).unwrap()
}

/// A server that says `reply` and then nothing more, with the connection open.
fn silent_after(reply: &'static str) -> (String, mpsc::Receiver<()>) {
    let (sender, reached) = mpsc::channel();
    let url = serve(move |mut stream| {
        let sender = sender.clone();
        thread::spawn(move || {
            read_request(&stream);
            stream.write_all(reply.as_bytes()).unwrap();
            sender.send(()).unwrap();
            // Until the client closes.
            let _ = stream.read(&mut [0]);
        });
    });
    (url, reached)
}

#[test]
fn interrupt_ends_the_wait_for_a_head() {
    let (url, reached) = silent_after("");
    let http = Arc::new(Http::new(&url).unwrap());
    let result = interrupted(&http, &reached, |http| failure(http.send(&get("/sync/pull"))));
    assert_eq!(result, TransportError::Interrupted);
    assert_eq!(failure(http.send(&get("/sync/pull"))), TransportError::Interrupted);
    http.resume();
    let result = interrupted(&http, &reached, |http| failure(http.send(&get("/sync/pull"))));
    assert_eq!(result, TransportError::Interrupted);
}

#[test]
fn interrupt_ends_reads_of_bodies_and_event_streams() {
    for (stream, reply) in [
        (false, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"),
        (false, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n12345"),
        (true, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"),
    ] {
        let (url, _reached) = silent_after(reply);
        let http = Arc::new(Http::new(&url).unwrap());
        // Not before the head was read.
        let (read, reached) = mpsc::channel();
        let (error, mut response) = interrupted(&http, &reached, move |http| {
            let request = Request { stream, ..get("/sync/watch") };
            let mut response = http.send(&request).unwrap();
            read.send(()).unwrap();
            let error = response.body.read_to_end(&mut Vec::new()).unwrap_err();
            (error, response)
        });
        assert_eq!(TransportError::of(&error), TransportError::Interrupted, "{reply}");
        http.resume();
        let again = response.body.read(&mut [0; 8]).unwrap_err();
        assert_eq!(TransportError::of(&again), TransportError::Interrupted, "{reply}");
    }
}

#[test]
fn interrupt_ends_an_upload_that_nobody_reads() {
    let (sender, reached) = mpsc::channel();
    let held = Mutex::new(Vec::new());
    let url = serve(move |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        // The connection stays open and nobody reads on.
        held.lock().unwrap().push(stream);
        sender.send(()).unwrap();
    });
    let http = Arc::new(Http::new(&url).unwrap());
    let result = interrupted(&http, &reached, |http| {
        let body = vec![b'x'; 64 * 1024 * 1024];
        failure(http.send(&Request { method: Method::Post, body: Some(&body), ..get("/sync/x") }))
    });
    assert_eq!(result, TransportError::Interrupted);
}

#[test]
fn interrupt_ends_a_lookup_or_connect_that_cannot_be_woken() {
    let gate = Arc::new(super::gate::Gate::default());
    let (reached, begun) = mpsc::channel();
    let (never, forever) = mpsc::channel::<()>();
    let (sender, ended) = mpsc::channel();
    let waiting = Arc::clone(&gate);
    thread::spawn(move || {
        let result = waiting.wait_for(Duration::from_secs(60), move || {
            reached.send(()).unwrap();
            Ok(forever.recv().is_ok())
        });
        sender.send(result).unwrap();
    });
    begun.recv_timeout(GUARD).unwrap();
    gate.close();
    assert_eq!(ended.recv_timeout(GUARD).unwrap(), Err(TransportError::Interrupted));
    gate.open();
    assert_eq!(gate.wait_for(GUARD, || Ok(7)), Ok(7));
    assert_eq!(gate.pause(Duration::ZERO), Ok(()));
    let (never_either, blocked) = mpsc::channel::<()>();
    assert_eq!(gate.wait_for(Duration::ZERO, move || Ok(blocked.recv().is_ok())), Err(TransportError::Timeout));
    drop((never, never_either));
}

/// What a server asked for may be minutes: a stop does not wait for its end.
#[test]
fn interrupt_ends_a_pause() {
    let http = Arc::new(Http::new("http://127.0.0.1:1").unwrap());
    let (sender, ended) = mpsc::channel();
    let waiting = Arc::clone(&http);
    thread::spawn(move || sender.send(waiting.pause(Duration::from_secs(600))).unwrap());
    http.interrupt();
    assert_eq!(ended.recv_timeout(GUARD).unwrap(), Err(TransportError::Interrupted));
    assert_eq!(http.pause(Duration::ZERO), Err(TransportError::Interrupted));
    http.resume();
    assert_eq!(http.pause(Duration::ZERO), Ok(()));
}
