//! One source of one user: its headers, its requests, its event streams.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::json::Json;
use crate::lab::{Checked, Exchange, Lab, Stop};
use crate::reply::{Reply, shown};

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
    pub(crate) fn new(lab: &'l Lab<'l>, user: String, token: String, source: &str) -> Self {
        Self { lab, user, token: Some(token), source: Some(source.to_owned()), extra: Vec::new() }
    }

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

    /// Sends a request; one that was put off by a rate limit is sent again. Under load, one that the
    /// backend's storage put off is sent again too.
    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Checked<Reply> {
        loop {
            let reply = self.once(method, path, body)?;
            if self.lab.meter.is_some() && matches!(reply.status, 502 | 504) {
                // Something before the backend says that it did not answer.
                return Err(Stop::Inconclusive(reply.came()));
            }
            if reply.status != 429 && (reply.status != 503 || self.lab.meter.is_none()) {
                crate::calls::examine(self, method, path, body, &reply)?;
                return Ok(reply);
            }
            self.lab.put_off();
            let after = reply.header("retry-after").and_then(|s| s.parse().ok()).unwrap_or(1);
            let wait = Duration::from_secs(after).max(Duration::from_millis(200));
            if wait > self.lab.left() {
                let status = reply.status;
                return Err(Stop::Inconclusive(format!("{method} {path}: put off by the backend ({status})")));
            }
            if let Some(meter) = self.lab.meter {
                meter.put_off(wait);
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
        let time = self.lab.turn()?;
        let (request, headers) = self.request(method, path);
        let agent = &self.lab.subject.agent;
        let wrong = |e: ureq::http::Error| Stop::Inconclusive(format!("{what}: {e}"));
        let begun = Instant::now();
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
                if let Some(meter) = self.lab.meter {
                    meter.heard(method, path, 0, "no reply", begun.elapsed());
                }
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
        if let Some(meter) = self.lab.meter {
            let took = begun.elapsed();
            let success = (200..300).contains(&status);
            let json = if success { None } else { Json::parse(&read).ok() };
            let code = json.as_ref().and_then(|j| j.get("error")).and_then(Json::text).unwrap_or_default();
            meter.heard(method, path, status, code, took);
        }
        Ok(Reply { what, status, headers, body: read })
    }

    /// Opens a stream of events. What comes is handed out line by line until the time is up.
    pub(crate) fn watch(&self, path: &str, time: Duration) -> Checked<Stream> {
        let what = format!("GET {path}");
        self.lab.turn()?;
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
