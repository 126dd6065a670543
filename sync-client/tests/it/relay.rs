//! HTTP that counts, and that may answer in the server's place.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sync_client::Client;
use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};

use crate::world::{Device, World};

/// Decides what becomes of the n-th commit's reply: `None` leaves it.
pub(crate) type Instead = Box<dyn FnMut(usize, Response) -> Response + Send>;

pub(crate) struct Relay {
    http: Http,
    /// Commits that were asked for.
    pub(crate) commits: AtomicUsize,
    instead: Mutex<Instead>,
    /// Whether the n-th commit fails before it reaches the server.
    down: Box<dyn Fn(usize) -> bool + Send + Sync>,
}

impl Relay {
    pub(crate) fn new(url: &str, instead: Instead) -> Arc<Self> {
        Self::failing(url, instead, |_| false)
    }

    pub(crate) fn failing(
        url: &str,
        instead: Instead,
        down: impl Fn(usize) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            http: Http::new(url).unwrap(),
            commits: AtomicUsize::new(0),
            instead: Mutex::new(instead),
            down: Box::new(down),
        })
    }

    pub(crate) fn counting(url: &str) -> Arc<Self> {
        Self::new(url, Box::new(|_, r| r))
    }

    pub(crate) fn commits(&self) -> usize {
        self.commits.load(Ordering::Relaxed)
    }
}

impl Transport for Relay {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if request.method != Method::Post || !request.path.ends_with("/commit") {
            return self.http.send(request);
        }
        let n = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        if (self.down)(n) {
            return Ok(bare(500));
        }
        Ok((self.instead.lock().unwrap())(n, self.http.send(request)?))
    }
}

/// An error without a word.
pub(crate) fn bare(status: u16) -> Response {
    Response { status, retry_after: None, body: Box::new(std::io::empty()) }
}

impl World {
    /// A client for a device's file that speaks through a relay. The device's own is closed.
    pub(crate) fn through(&self, device: &mut Device, relay: &Arc<Relay>) -> Client {
        device.close();
        let user = device.user.clone();
        Client::builder(&device.path)
            .server(self.url())
            .token(move |_| Ok(user.clone()))
            .all_tables()
            .transport(Arc::clone(relay) as _)
            .open()
            .unwrap()
    }
}

/// The real server, seen through something on the way.
struct Through<F>(Http, F);

impl<F> Transport for Through<F>
where
    F: Fn(&Http, &Request<'_>) -> Result<Response, TransportError> + Send + Sync,
{
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        (self.1)(&self.0, request)
    }
}

/// A client of a device's file whose requests go through a function. The device's own is closed.
pub(crate) fn through<F>(w: &World, d: &mut Device, f: F) -> Client
where
    F: Fn(&Http, &Request<'_>) -> Result<Response, TransportError> + Send + Sync + 'static,
{
    d.close();
    Client::builder(&d.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .transport(Arc::new(Through(Http::new(w.url()).unwrap(), f)))
        .open()
        .unwrap()
}
