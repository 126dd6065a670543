//! A proxy that breaks what passes through it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// A request on its way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
    }

    pub(crate) fn set_header(&mut self, name: &str, value: &str) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        if !value.is_empty() {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Whether this is a request to an endpoint; `{}` stands for any id.
    pub(crate) fn is(&self, method: &str, pattern: &str) -> bool {
        let (a, b): (Vec<&str>, Vec<&str>) = (self.path.split('/').collect(), pattern.split('/').collect());
        self.method == method && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| b == "{}" || *a == b)
    }

    pub(crate) fn id(&self) -> String {
        self.path.split('/').nth(3).unwrap_or_default().to_owned()
    }

    /// The value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
    }

    pub(crate) fn set_parameter(&mut self, name: &str, value: Option<String>) {
        let mut parts: Vec<String> = self.query.split('&').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        parts.retain(|p| !p.starts_with(&format!("{name}=")));
        parts.extend(value.map(|v| format!("{name}={v}")));
        self.query = parts.join("&");
    }

    /// Changes a JSON body.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        if let Ok(json) = serde_json::from_slice::<Value>(&self.body) {
            let mut changed = json.clone();
            change(&mut changed);
            if changed != json {
                self.body = changed.to_string().into_bytes();
            }
        }
    }
}

/// A reply on its way back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(status: u16, json: &Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: json.to_string().into_bytes() }
    }

    pub(crate) fn value(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    pub(crate) fn code(&self) -> String {
        self.value().and_then(|v| v["error"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Changes a JSON body.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        if let Some(mut json) = self.value() {
            change(&mut json);
            self.body = json.to_string().into_bytes();
        }
    }
}

/// What a broken variant remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) texts: Mutex<BTreeMap<String, String>>,
    pub(crate) count: AtomicUsize,
}

impl Memory {
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.texts.lock().unwrap().get(key).cloned()
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        self.texts.lock().unwrap().entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }

    pub(crate) fn next(&self) -> usize {
        self.count.fetch_add(1, Ordering::SeqCst)
    }
}

/// What happens to requests and replies.
pub(crate) trait Break: Send + Sync {
    /// Before the server sees it; a reply ends it here.
    fn request(&self, _request: &mut Request, _memory: &Memory, _server: SocketAddr) -> Option<Reply> {
        None
    }

    /// Before the caller sees it.
    fn reply(&self, _request: &Request, _reply: &mut Reply, _memory: &Memory) {}

    /// A line of an event stream; `None` swallows it.
    fn line(&self, line: String) -> Option<String> {
        Some(line)
    }
}

/// Passes everything on.
pub(crate) struct Nothing;

impl Break for Nothing {}

/// A proxy on a port of its own, for as long as the test runs.
pub(crate) fn proxy(server: SocketAddr, broken: Arc<dyn Break>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let memory = Arc::new(Memory::default());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (broken, memory) = (Arc::clone(&broken), Arc::clone(&memory));
            std::thread::spawn(move || {
                // A caller that goes away is its own affair.
                let _ = serve(stream, server, broken.as_ref(), &memory);
            });
        }
    });
    url
}

fn serve(mut caller: TcpStream, server: SocketAddr, broken: &dyn Break, memory: &Memory) -> std::io::Result<()> {
    let mut request = read_request(&caller)?;
    if let Some(reply) = broken.request(&mut request, memory, server) {
        return write_reply(&mut caller, &reply);
    }
    let mut upstream = BufReader::new(send(&request, server)?);
    let (status, headers) = read_head(&mut upstream)?;
    let stream = headers.iter().any(|(n, v)| n == "content-type" && v.starts_with("text/event-stream"));
    if !stream {
        let body = read_body(&mut upstream, &headers)?;
        let mut reply = Reply { status, headers, body };
        broken.reply(&request, &mut reply, memory);
        return write_reply(&mut caller, &reply);
    }
    let mut head = format!("HTTP/1.1 {status} OK\r\nconnection: close\r\n");
    for (name, value) in headers.iter().filter(|(n, _)| n != "transfer-encoding" && n != "connection") {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    caller.write_all(format!("{head}\r\n").as_bytes())?;
    let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
    let mut line = String::new();
    loop {
        line.clear();
        if upstream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        // Each event is one chunk, so chunk sizes are lines of their own.
        let size = chunked && line.trim_end().chars().all(|c| c.is_ascii_hexdigit()) && !line.trim_end().is_empty();
        if !size && let Some(line) = broken.line(line.clone()) {
            caller.write_all(line.as_bytes())?;
            caller.flush()?;
        }
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let headers = read_headers(&mut reader)?;
    let body = read_body_of(&mut reader, &headers, false)?;
    Ok(Request { method, path, query, headers, body })
}

/// Sends a request on a connection of its own.
fn send(request: &Request, server: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    let mut head = format!("{} {}{query} HTTP/1.1\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        if !["connection", "content-length", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", request.body.len()));
    stream.write_all(head.as_bytes())?;
    // A server may refuse a body before it has read all of it.
    let _ = stream.write_all(&request.body);
    Ok(stream)
}

/// Asks the server aside.
pub(crate) fn ask(request: &Request, server: SocketAddr) -> Reply {
    let mut upstream = BufReader::new(send(request, server).unwrap());
    let (status, headers) = read_head(&mut upstream).unwrap();
    let body = read_body(&mut upstream, &headers).unwrap();
    Reply { status, headers, body }
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<(u16, Vec<(String, String)>)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(502);
    Ok((status, read_headers(reader)?))
}

fn read_headers(reader: &mut impl BufRead) -> std::io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut bytes = Vec::new();
        reader.read_until(b'\n', &mut bytes)?;
        // Sources outside ASCII are sent byte for byte; here they only have to stay outside.
        let line = String::from_utf8_lossy(&bytes).into_owned();
        let Some((name, value)) = line.split_once(':') else { return Ok(headers) };
        let value = value.trim_end_matches(['\r', '\n']);
        headers.push((name.to_ascii_lowercase(), value.strip_prefix(' ').unwrap_or(value).to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    read_body_of(reader, headers, true)
}

fn read_body_of(reader: &mut impl BufRead, headers: &[(String, String)], to_end: bool) -> std::io::Result<Vec<u8>> {
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|v| v == "chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.take(size).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match header("content-length").and_then(|n| n.parse().ok()) {
        Some(n) => reader.take(n).read_to_end(&mut body).map(drop)?,
        None if to_end => reader.read_to_end(&mut body).map(drop)?,
        None => {}
    }
    Ok(body)
}

fn write_reply(caller: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Reply\r\n", reply.status);
    for (name, value) in &reply.headers {
        if !["connection", "content-length", "transfer-encoding"].contains(&name.as_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if reply.status != 204 {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    head.push_str("connection: close\r\n\r\n");
    caller.write_all(head.as_bytes())?;
    caller.write_all(&reply.body)?;
    caller.flush()
}
