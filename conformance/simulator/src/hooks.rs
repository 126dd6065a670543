//! Where the client meets the world: its network, its clock, its fault points. At each of these hooks
//! something may happen that was planned.

use std::io::{self, Read};
use std::panic::resume_unwind;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use sync_client::context::{Environment, FaultPoint};
use sync_client::transport::{Request, Response, Transport, TransportError};

use crate::device::lock;
use crate::plan::Fault;
use crate::server::{Endpoint, Owned, Reply};
use crate::world::World;

/// A place in a verb where something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// A request is about to be sent.
    Send(Endpoint),
    /// Its reply is there.
    Received(Endpoint),
    /// A fault point of the client.
    Client(FaultPoint),
}

impl Point {
    /// The phase that it is in.
    const fn phase(self) -> Phase {
        use FaultPoint as P;
        match self {
            Self::Send(e) | Self::Received(e) => match e {
                Endpoint::Capabilities | Endpoint::Connect | Endpoint::Other => Phase::Connect,
                Endpoint::CreatePush | Endpoint::Chunk | Endpoint::DeletePush => Phase::Push,
                Endpoint::Commit => Phase::Commit,
                Endpoint::Pull | Endpoint::CommittedRows => Phase::Pull,
                Endpoint::CreateSnapshot | Endpoint::SnapshotPage | Endpoint::DeleteSnapshot | Endpoint::Digest => {
                    Phase::Snapshot
                }
            },
            Self::Client(p) => match p {
                P::Frozen | P::Uploading => Phase::Push,
                P::BeforeCommit | P::AfterCommit => Phase::Commit,
                P::Staged | P::Asking | P::Applying => Phase::Pull,
                P::Downloading | P::Rebuilding | P::Repairing => Phase::Snapshot,
                P::Exporting | P::Detaching | P::Importing => Phase::Connect,
            },
        }
    }
}

/// Parts of a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Connect,
    Push,
    Commit,
    Pull,
    Snapshot,
}

impl Phase {
    pub(crate) const ALL: [Self; 5] = [Self::Connect, Self::Push, Self::Commit, Self::Pull, Self::Snapshot];

    /// Its name, for coverage.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Push => "push",
            Self::Commit => "commit",
            Self::Pull => "pull",
            Self::Snapshot => "snapshot",
        }
    }

    /// The faults that can happen in it, by name. A disk is full for a whole verb, and only bundles are
    /// tampered with, or kept in a cache: a server's other replies are taken for true.
    pub(crate) fn faults(self) -> impl Iterator<Item = &'static str> {
        let possible = move |f: &&&str| match **f {
            "disk_full" => false,
            "tampered" | "stale" => matches!(self, Self::Pull),
            _ => true,
        };
        Fault::NAMES.iter().filter(possible).copied()
    }
}

/// The payload of an unwinding that is the client's death, not a bug.
#[derive(Debug)]
pub(crate) struct ClientCrash;

impl Fault {
    /// Every name.
    pub(crate) const NAMES: &[&str] = &[
        "request_lost",
        "reply_lost",
        "duplicated",
        "late",
        "cut",
        "status",
        "tampered",
        "stale",
        "crash_client",
        "power_cut",
        "crash_server",
        "restart_server",
        "restore",
        "wipe",
        "app",
        "sync",
        "busy",
        "clock",
        "disk_full",
        "migrate",
    ];

    /// Its name, for coverage.
    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::RequestLost => "request_lost",
            Self::ReplyLost => "reply_lost",
            Self::Duplicated => "duplicated",
            Self::Late(_) => "late",
            Self::Cut(_) => "cut",
            Self::Status(_) => "status",
            Self::Tampered(_) => "tampered",
            Self::Stale => "stale",
            Self::CrashClient => "crash_client",
            Self::PowerCut(_) => "power_cut",
            Self::CrashServer(_) => "crash_server",
            Self::RestartServer => "restart_server",
            Self::Restore => "restore",
            Self::Wipe => "wipe",
            Self::App(_) => "app",
            Self::Sync(_) => "sync",
            Self::Busy(_) => "busy",
            Self::Clock(_) => "clock",
            Self::DiskFull(_) => "disk_full",
            Self::Migrate(_) => "migrate",
        }
    }

    /// Whether it happens to a request.
    #[must_use]
    pub(crate) const fn of_network(&self) -> bool {
        matches!(
            self,
            Self::RequestLost
                | Self::ReplyLost
                | Self::Duplicated
                | Self::Late(_)
                | Self::Cut(_)
                | Self::Status(_)
                | Self::Tampered(_)
                | Self::Stale
        )
    }

    const fn possible_at(&self, point: Point) -> bool {
        match self {
            Self::DiskFull(_) => false,
            // What bundles say is verified; a server's other replies are taken for true.
            Self::Tampered(_) | Self::Stale => matches!(point, Point::Send(Endpoint::Pull)),
            f if f.of_network() => matches!(point, Point::Send(_)),
            _ => true,
        }
    }
}

impl World {
    /// Something may happen here. A fault of the network is handed back to the request that it hits.
    pub(crate) fn hook(&self, device: usize, point: Point) -> Option<Fault> {
        let mut network = None;
        loop {
            let planned = {
                let mut run = lock(&self.run);
                if run.depth != 1 || run.device != device {
                    return None;
                }
                if network.is_none() {
                    run.hooks += 1;
                    network = Some(());
                }
                if run.busy_until.is_some_and(|at| run.hooks >= at) {
                    run.busy_until = None;
                    *lock(&self.device(device).neighbour) = None;
                }
                let hooks = run.hooks;
                let at = run.armed.iter().position(|p| p.at < hooks && p.what.possible_at(point));
                at.map(|i| {
                    run.fired = true;
                    run.armed.remove(i)
                })
            };
            let planned = planned?;
            self.covered("fault", planned.what.name());
            self.covered("pair", &format!("{} × {}", planned.what.name(), point.phase().name()));
            if planned.what.of_network() {
                return Some(planned.what);
            }
            self.happen(device, planned.what);
        }
    }

    fn happen(&self, device: usize, what: Fault) {
        let d = self.device(device);
        match what {
            Fault::CrashClient | Fault::PowerCut(_) => {
                let power = if let Fault::PowerCut(n) = what { Some(n) } else { None };
                d.crash(power).expect("the files are copied");
                resume_unwind(Box::new(ClientCrash));
            }
            Fault::CrashServer(n) => {
                let all = sync_server::service::FaultPoint::ALL;
                *lock(&self.server.armed) = Some(all[n % all.len()]);
            }
            Fault::RestartServer => self.restart_server(),
            Fault::Restore => self.restore(),
            Fault::Wipe => self.wipe(),
            Fault::App(step) => self.app(&step),
            Fault::Sync(other) => {
                let other = other % self.devices();
                if other != device {
                    lock(&self.run).depth += 1;
                    self.plain_sync(other);
                    lock(&self.run).depth -= 1;
                }
            }
            Fault::Busy(n) => {
                if let Ok(conn) = rusqlite::Connection::open(d.path())
                    && conn.busy_timeout(std::time::Duration::ZERO).is_ok()
                    && conn.execute_batch("BEGIN IMMEDIATE").is_ok()
                {
                    *lock(&d.neighbour) = Some(conn);
                    let mut run = lock(&self.run);
                    run.busy_until = Some(run.hooks + 1 + n % 8);
                }
            }
            Fault::Clock(ms) => {
                self.clock.fetch_add(ms, Ordering::Relaxed);
            }
            Fault::Migrate(kind) => self.migrate(device, kind),
            Fault::RequestLost
            | Fault::ReplyLost
            | Fault::Duplicated
            | Fault::Late(_)
            | Fault::Cut(_)
            | Fault::Status(_)
            | Fault::Tampered(_)
            | Fault::Stale
            | Fault::DiskFull(_) => {}
        }
    }
}

/// A device's network.
pub(crate) struct Link {
    pub(crate) world: Weak<World>,
    pub(crate) device: usize,
}

impl Transport for Link {
    fn send(&self, r: &Request<'_>) -> Result<Response, TransportError> {
        let world = self.world.upgrade().ok_or(TransportError::Interrupted)?;
        let endpoint = Endpoint::of(r.method, r.path);
        world.covered("request", &format!("{endpoint:?}"));
        world.clock.fetch_add(7, Ordering::Relaxed);
        if world.too_many() {
            return Err(TransportError::Interrupted);
        }
        world.deliver_late();
        let fault = world.hook(self.device, Point::Send(endpoint));
        let request = Owned {
            method: r.method,
            path: r.path.to_owned(),
            source: r.source_id.to_owned(),
            user: r.token.to_owned(),
            body: r.body.map(<[u8]>::to_vec),
            exact: r.exact,
        };
        let broken = |why: &str| TransportError::Broken(why.to_owned());
        let reply = match &fault {
            Some(Fault::RequestLost) => return Err(broken("the request was lost")),
            Some(Fault::Late(n)) => {
                lock(&world.run).late.push((1 + n % 6, request));
                return Err(TransportError::Timeout);
            }
            Some(Fault::Status(status)) => Reply {
                status: *status,
                retry_after: matches!(status, 429 | 503).then_some(2),
                body: b"<html>a proxy's own words</html>".to_vec(),
            },
            Some(Fault::Duplicated) => {
                world.handle(&request);
                world.handle(&request).ok_or_else(|| broken("the server died"))?
            }
            _ => match world.stopped(endpoint, &request) {
                Some(answer) => answer?,
                None => world.handle(&request).ok_or_else(|| broken("the server died"))?,
            },
        };
        let reply = world.altered(endpoint, reply);
        let reply =
            if endpoint == Endpoint::Pull { world.cached(r, reply, fault == Some(Fault::Stale)) } else { reply };
        let more = world.hook(self.device, Point::Received(endpoint));
        debug_assert!(more.is_none(), "faults of the network hit requests");
        let body: Box<dyn Read + Send> = match fault {
            Some(Fault::ReplyLost) => return Err(broken("the reply was lost")),
            Some(Fault::Tampered(n)) => Box::new(io::Cursor::new(tampered(reply.body, n))),
            Some(Fault::Cut(n)) => {
                let mut bytes = reply.body;
                bytes.truncate(n as usize % (bytes.len() + 1));
                Box::new(Severed(io::Cursor::new(bytes)))
            }
            _ => Box::new(io::Cursor::new(reply.body)),
        };
        Ok(Response { status: reply.status, retry_after: reply.retry_after, body })
    }
}

/// A page of bundles without one of them, or with another text in one of its rows, with the hashes or without.
fn tampered(body: Vec<u8>, n: u32) -> Vec<u8> {
    let mut page: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    match page["bundles"].as_array_mut() {
        Some(bundles) if bundles.len() > 1 && n.is_multiple_of(2) => {
            bundles.remove(n as usize / 2 % (bundles.len() - 1));
        }
        Some(bundles) if n % 4 == 3 => {
            let unhashed: Vec<_> =
                bundles.iter_mut().filter_map(|b| b.as_object_mut()?.remove("bundle_hash")).collect();
            if !unhashed.is_empty() {
                return page.to_string().replacen("\"<w", "\"<v", 1).into_bytes();
            }
        }
        _ => return String::from_utf8_lossy(&body).replacen("\"<w", "\"<v", 1).into_bytes(),
    }
    page.to_string().into_bytes()
}

/// A body that breaks at its end.
struct Severed(io::Cursor<Vec<u8>>);

impl Read for Severed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            n => Ok(n),
        }
    }
}

/// A device's clock, ids and fault points.
pub(crate) struct ClientEnv {
    pub(crate) world: Weak<World>,
    pub(crate) device: usize,
}

impl Environment for ClientEnv {
    fn now_ms(&self) -> i64 {
        self.world.upgrade().map_or(0, |w| w.clock.load(Ordering::Relaxed))
    }

    fn new_id(&self) -> String {
        self.world.upgrade().map_or_else(String::new, |w| w.new_id())
    }

    fn random(&self) -> u64 {
        self.world.upgrade().map_or(0, |w| lock(&w.ids).next())
    }

    fn fault(&self, point: FaultPoint) {
        if let Some(w) = self.world.upgrade() {
            w.covered("client", point.name());
            w.hook(self.device, Point::Client(point));
        }
    }

    fn opened(&self, conn: &rusqlite::Connection) {
        let Some(w) = self.world.upgrade() else { return };
        // Nobody waits in one thread.
        conn.busy_timeout(std::time::Duration::ZERO).expect("a timeout");
        let room = w.device(self.device).room.load(Ordering::Relaxed);
        if room > 0 {
            let pages: i64 = conn.query_row("PRAGMA page_count", [], |r| r.get(0)).expect("a page count");
            conn.pragma_update(None, "max_page_count", pages + i64::from(room)).expect("a limit");
        }
    }
}

/// The server's clock, ids and fault points.
pub(crate) struct ServerEnv(pub(crate) Weak<World>);

impl sync_server::service::Environment for ServerEnv {
    fn now_ms(&self) -> i64 {
        self.0.upgrade().map_or(0, |w| w.clock.load(Ordering::Relaxed))
    }

    fn new_id(&self) -> String {
        self.0.upgrade().map_or_else(String::new, |w| w.new_id())
    }

    fn fault(&self, point: sync_server::service::FaultPoint) {
        if let Some(w) = self.0.upgrade() {
            let dies = *lock(&w.server.armed) == Some(point);
            w.covered(if dies { "server dies" } else { "server" }, point.name());
            w.server.fault(point);
        }
    }
}
