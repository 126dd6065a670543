//! The hops of a row, written down as they are observed: what an app's SQL did, what the client says
//! of itself ([`Event`]), and what goes over the wire (a transport that looks on).

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};
use sync_client::{Builder, Event};
use sync_core::protocol::watch::EventReader;

use crate::Result;
use crate::show;

/// One leg of the way, in the order of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// The app changed rows.
    AppSql,
    /// Triggers noted which.
    Capture,
    /// The client froze them as one bundle.
    Freeze,
    /// They were uploaded.
    Push,
    /// The server committed them.
    Commit,
    /// The server told a listening device.
    Watch,
    /// A device fetched what it lacks.
    Pull,
    /// It wrote the rows to its file.
    Apply,
    /// A remote row met a local edit.
    Settle,
}

impl Hop {
    /// Every hop, in order.
    pub const ALL: [Self; 9] = [
        Self::AppSql,
        Self::Capture,
        Self::Freeze,
        Self::Push,
        Self::Commit,
        Self::Watch,
        Self::Pull,
        Self::Apply,
        Self::Settle,
    ];

    /// The name in print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AppSql => "app SQL",
            Self::Capture => "capture",
            Self::Freeze => "freeze",
            Self::Push => "push",
            Self::Commit => "commit",
            Self::Watch => "watch",
            Self::Pull => "pull",
            Self::Apply => "apply",
            Self::Settle => "settle",
        }
    }
}

/// A hop that was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Since recording began.
    pub at: Duration,
    /// The device.
    pub device: &'static str,
    /// Which.
    pub hop: Hop,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.1} ms  {:<8} {:<3} {}", self.at.as_secs_f64() * 1e3, self.hop.name(), self.device, self.text)
    }
}

/// Writes hops down. Clones write to the same list.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    began: Option<Instant>,
    ended: bool,
    seen: Vec<Seen>,
    failed: Option<String>,
    checkpoints: Vec<(&'static str, i64)>,
    listening: Vec<&'static str>,
}

impl Default for Recorder {
    fn default() -> Self {
        let state = Mutex::new(State::default());
        Self(Arc::new(Shared { state, changed: Condvar::new() }))
    }
}

impl Recorder {
    /// Lets a device's client be observed.
    ///
    /// # Errors
    /// Where the URL cannot be used.
    pub fn observe(&self, device: &'static str, url: &str, client: Builder) -> Result<Builder> {
        let wire = Onlooker { device, http: Http::new(url)?, recorder: self.clone() };
        let recorder = self.clone();
        Ok(client.transport(Arc::new(wire)).on_event(move |e| recorder.event(device, e)))
    }

    /// Begins to write down; before, nothing is.
    pub fn begin(&self) {
        self.lock().began = Some(Instant::now());
    }

    /// Ends writing down.
    pub fn end(&self) {
        self.lock().ended = true;
    }

    /// Writes a hop down.
    pub fn note(&self, device: &'static str, hop: Hop, text: String) {
        let mut state = self.lock();
        if let (Some(began), false) = (state.began, state.ended) {
            state.seen.push(Seen { at: began.elapsed(), device, hop, text });
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// Waits until a device's watch stream is open.
    ///
    /// # Errors
    /// After half a minute, or with the device's first failure.
    pub fn wait_listening(&self, device: &'static str) -> Result<()> {
        self.wait(device, "listens to the server", |s| s.listening.contains(&device))
    }

    /// Waits until a device has applied a bundle.
    ///
    /// # Errors
    /// As [`Recorder::wait_listening`].
    pub fn wait_checkpoint(&self, device: &'static str, at_least: i64) -> Result<()> {
        self.wait(device, "applies what it was told of", |s| {
            s.checkpoints.iter().any(|(d, c)| *d == device && *c >= at_least)
        })
    }

    fn wait(&self, device: &str, what: &str, until: impl Fn(&State) -> bool) -> Result<()> {
        let waiting = |s: &mut State| s.failed.is_none() && !until(s);
        let state = self.lock();
        let (state, timeout) = self
            .0
            .changed
            .wait_timeout_while(state, Duration::from_secs(30), waiting)
            .unwrap_or_else(PoisonError::into_inner);
        match &state.failed {
            Some(why) => Err(format!("device {device}: {why}").into()),
            None if timeout.timed_out() => Err(format!("waited 30 s until device {device} {what}").into()),
            None => Ok(()),
        }
    }

    fn event(&self, device: &'static str, event: &Event) {
        match event {
            Event::Frozen { rows } => {
                self.note(device, Hop::Freeze, format!("{} frozen as one bundle", show::rows(*rows)))
            }
            Event::Uploaded { rows, total } => {
                self.note(device, Hop::Push, format!("{} of {} uploaded", show::count(*rows), show::rows(*total)));
            }
            Event::Committed { bundle_seq, rows } => {
                let rows = show::rows(*rows);
                self.note(device, Hop::Commit, format!("the server made them bundle {bundle_seq} ({rows})"));
            }
            Event::Applied { rows, checkpoint } => {
                self.note(
                    device,
                    Hop::Apply,
                    format!("{} written so far, up to bundle {checkpoint}", show::rows(*rows)),
                );
                self.lock().checkpoints.push((device, *checkpoint));
            }
            Event::Inbox { kind, table, key, message } => {
                self.note(device, Hop::Settle, format!("{kind}: {table} {key}: {message}"));
            }
            Event::Unanswered { table, key, message } => {
                self.note(device, Hop::Settle, format!("{table} {key}: {message}"));
            }
            Event::Failed { message, .. } => self.lock().failed = Some(message.clone()),
            // A new number is told by the inbox, too.
            Event::Rekeyed { .. }
            | Event::HeldBack { .. }
            | Event::Started
            | Event::Pulling { .. }
            | Event::Downloaded { .. }
            | Event::Changed { .. }
            | Event::Waiting { .. }
            | Event::Finished { .. } => {}
        }
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a way was gone: its legs, each on its device, in this order, with anything in between.
///
/// # Errors
/// With the first leg that did not come in its turn.
pub fn in_order(seen: &[Seen], way: &[(&str, Hop)]) -> Result<()> {
    let mut left = seen.iter();
    for (device, hop) in way {
        if !left.any(|s| s.device == *device && s.hop == *hop) {
            return Err(format!("the hop {:?} of device {device} did not come in its turn", hop.name()).into());
        }
    }
    Ok(())
}

/// A transport that looks on: pulls and watch events are told by nobody else.
struct Onlooker {
    device: &'static str,
    http: Http,
    recorder: Recorder,
}

impl Transport for Onlooker {
    fn send(&self, request: &Request<'_>) -> std::result::Result<Response, TransportError> {
        let path = request.path.split('?').next().unwrap_or_default();
        let mut response = self.http.send(request)?;
        match (request.method, path) {
            (Method::Post, path) if path.ends_with("/commit") && response.status == 409 => {
                self.recorder.note(
                    self.device,
                    Hop::Push,
                    "refused: some rows are newer on the server, pull first".into(),
                );
            }
            (Method::Get, "/sync/pull") if response.status == 200 => {
                let after = request.path.split(['?', '&']).find_map(|q| q.strip_prefix("after_bundle_seq="));
                self.recorder.note(self.device, Hop::Pull, format!("asks for bundles after {}", after.unwrap_or("0")));
            }
            (Method::Get, "/sync/watch") if response.status == 200 => {
                self.recorder.lock().listening.push(self.device);
                self.recorder.0.changed.notify_all();
                response.body = Box::new(Overheard {
                    device: self.device,
                    recorder: self.recorder.clone(),
                    body: response.body,
                    line: Vec::new(),
                    events: EventReader::default(),
                });
            }
            _ => {}
        }
        Ok(response)
    }

    fn interrupt(&self) {
        self.http.interrupt();
    }

    fn resume(&self) {
        self.http.resume();
    }
}

/// A watch stream, with its events written down before the client reads them.
struct Overheard {
    device: &'static str,
    recorder: Recorder,
    body: Box<dyn Read + Send>,
    line: Vec<u8>,
    events: EventReader,
}

impl Read for Overheard {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buf)?;
        for b in &buf[..n] {
            if *b != b'\n' {
                self.line.push(*b);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if let Some(e) = self.events.line(&String::from_utf8_lossy(&line)) {
                self.recorder.note(
                    self.device,
                    Hop::Watch,
                    format!("the server says: there is bundle {}", e.bundle_seq),
                );
            }
        }
        Ok(n)
    }
}
