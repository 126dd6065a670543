//! The client's own HTTP, with the suite's pace and record.

use std::io::{Cursor, Read as _};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};

use crate::lab::{Exchange, Lab};
use crate::reply::shown;
use crate::subject::Pace;

/// Passes requests on and keeps what was said.
pub(super) struct Recorder {
    http: Http,
    pace: Arc<Pace>,
    user: String,
    deadline: Instant,
    exchanges: Mutex<Vec<Exchange>>,
}

impl Recorder {
    pub(super) fn new(lab: &Lab<'_>, user: &str) -> Result<Self, TransportError> {
        Ok(Self {
            http: Http::new(&lab.subject.base)?,
            pace: lab.subject.pace(),
            user: user.to_owned(),
            deadline: super::deadline(lab),
            exchanges: Mutex::default(),
        })
    }

    /// What the devices said is part of what the check said.
    pub(super) fn hand_over(&self, lab: &Lab<'_>) {
        let mut exchanges = self.exchanges.lock().expect("invariant: no panic while the record is held");
        let own = lab.exchanges();
        lab.restore(exchanges.drain(..).chain(own).collect());
    }

    fn record(&self, request: &Request<'_>, status: u16, reply: String) {
        let mut headers = vec![("Oversync-Source-ID".to_owned(), request.source_id.to_owned())];
        if request.exact {
            headers.push(("Oversync-Bundle-Hash".to_owned(), "blake3".to_owned()));
        }
        let method = match request.method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        };
        let exchange = Exchange {
            method: method.to_owned(),
            path: request.path.to_owned(),
            user: self.user.clone(),
            headers,
            body: request.body.unwrap_or_default().to_vec(),
            status,
            reply,
        };
        self.exchanges.lock().expect("invariant: no panic while the record is held").push(exchange);
    }
}

impl Transport for Recorder {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !self.pace.turn(self.deadline) {
            return Err(TransportError::Timeout);
        }
        let timeout = Some(request.timeout.map_or(left, |t| t.min(left)));
        let mut response = match self.http.send(&Request { timeout, ..*request }) {
            Ok(response) => response,
            Err(e) => {
                self.record(request, 0, e.to_string());
                return Err(e);
            }
        };
        let mut body = Vec::new();
        let read = response.body.read_to_end(&mut body);
        self.record(request, response.status, shown(&body));
        read.map_err(|e| TransportError::of(&e))?;
        Ok(Response { body: Box::new(Cursor::new(body)), ..response })
    }

    fn interrupt(&self) {
        self.http.interrupt();
    }

    fn resume(&self) {
        self.http.resume();
    }

    fn traffic(&self) -> Option<u64> {
        self.http.traffic()
    }
}
