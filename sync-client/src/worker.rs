//! The background worker: one thread that syncs, one that listens to the watch stream.
//!
//! Woken by local commits, by the stream, by a timer and by hand. While the server cannot be reached
//! it waits, longer each time, and is quiet.

use std::io::{BufRead as _, BufReader};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use sync_core::engine::backoff::Backoff;
use sync_core::protocol::watch::EventReader;
use sync_core::sqlite::connection;

use crate::client::Shared;
use crate::error::Error;
use crate::store::SETTINGS;

/// The running threads.
pub(crate) struct Worker {
    signal: Arc<Signal>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads wait for.
#[derive(Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    wake: bool,
    /// Set once the engine may be asked to watch.
    watch: bool,
    running: usize,
}

impl Worker {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, Error> {
        shared.stopping.store(false, Ordering::Relaxed);
        shared.transport.resume();
        let signal = Arc::new(Signal::default());
        signal.lock().running = 2;
        let spawn = |name: &str, run: fn(&Weak<Shared>, &Signal)| {
            let (weak, signal) = (Arc::downgrade(shared), Arc::clone(&signal));
            std::thread::Builder::new().name(name.into()).spawn(move || {
                let ending = Ending { weak: weak.clone(), signal: Arc::clone(&signal) };
                run(&weak, &signal);
                drop(ending);
            })
        };
        let threads = vec![spawn("sync", syncing)?, spawn("sync-watch", watching)?];
        Ok(Self { signal, threads })
    }

    pub(crate) fn wake(&self) {
        self.signal.lock().wake = true;
        self.signal.changed.notify_all();
    }

    /// Stops both threads. One that is stuck in the system (a connect to nowhere) is left to end by itself.
    pub(crate) fn stop(self, shared: &Shared) {
        self.signal.lock().stop = true;
        self.signal.changed.notify_all();
        shared.stopping.store(true, Ordering::Relaxed);
        shared.transport.interrupt();
        let state = self.signal.lock();
        let (state, waited) = self
            .signal
            .changed
            .wait_timeout_while(state, PATIENCE, |s| s.running > 0)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        let me = std::thread::current().id();
        if !waited.timed_out() {
            for t in self.threads {
                if t.thread().id() != me && t.join().is_err() {
                    tracing::error!("a sync thread had panicked");
                }
            }
            shared.transport.resume();
            shared.stopping.store(false, Ordering::Relaxed);
        }
    }
}

/// Counts a thread out, also one that panicked. The last one of a stop lets the verbs work again.
struct Ending {
    weak: Weak<Shared>,
    signal: Arc<Signal>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let last = {
            let mut state = self.signal.lock();
            state.running -= 1;
            state.stop && state.running == 0
        };
        if last && let Some(shared) = self.weak.upgrade() {
            shared.transport.resume();
            shared.stopping.store(false, Ordering::Relaxed);
        }
        self.signal.changed.notify_all();
    }
}

impl Signal {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `until`, a wake-up (where `wakes`), or a stop.
    fn wait(&self, until: Instant, wakes: bool) -> Woken {
        let mut state = self.lock();
        loop {
            if state.stop {
                return Woken::Stop;
            }
            if wakes && std::mem::take(&mut state.wake) {
                return Woken::Called;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::InTime;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Stop,
    Called,
    InTime,
}

/// Syncs whenever there is a reason to.
fn syncing(shared: &Weak<Shared>, signal: &Signal) {
    let backoff = Backoff::default();
    let mut failures = 0;
    let mut commits = None;
    loop {
        let Some(s) = shared.upgrade() else { return };
        let mut wait = None;
        {
            let mut guard = s.engine.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(engine) = guard.as_mut() else { return };
            let random = engine.env.random();
            let mut retry = |e: &Error| {
                let asked = match e {
                    Error::Offline { retry_after, .. } => *retry_after,
                    Error::RetryLater { seconds } => Some((*seconds).min(30)),
                    _ => None,
                };
                failures += 1;
                let ms = backoff.wait_ms(failures, random, asked).max(50);
                wait = Some(Duration::from_millis(ms));
                ms
            };
            // A function of the app that panics must not end the syncing for good.
            let synced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.sync(Some(&mut retry))));
            match synced {
                Ok(Ok(_)) => failures = 0,
                Ok(Err(_)) => {}
                Err(_) => {
                    tracing::error!("a function of the app panicked during a sync");
                    wait = Some(Duration::from_millis(backoff.most_ms));
                }
            }
            signal.lock().watch = engine.can_watch;
            signal.changed.notify_all();
        }
        let commits = commits.get_or_insert_with(|| Commits::new(&s));
        drop(s);
        let stopped = match wait {
            Some(wait) => signal.wait(Instant::now() + wait, true) == Woken::Stop,
            None => wait_for_work(signal, commits),
        };
        if stopped {
            return;
        }
    }
}

/// Waits for a wake-up, a local commit that was captured, or the timer. True for a stop.
fn wait_for_work(signal: &Signal, commits: &mut Commits) -> bool {
    let timer = Instant::now() + POLL;
    loop {
        match signal.wait(Instant::now() + LOOK, true) {
            Woken::Stop => return true,
            Woken::Called => return false,
            Woken::InTime if Instant::now() >= timer || commits.captured() => return false,
            Woken::InTime => {}
        }
    }
}

/// Notices commits of other connections, of any process, that left something in a log.
struct Commits {
    conn: Option<Connection>,
    version: i64,
    looks: Vec<String>,
}

impl Commits {
    fn new(shared: &Shared) -> Self {
        let conn = connection::open(shared.path(), false, SETTINGS).ok();
        let mut looks = Vec::new();
        if let Some(conn) = &conn
            && let Ok(mut s) = conn.prepare("SELECT id FROM main._sync_table")
            && let Ok(rows) = s.query_map([], |r| r.get::<_, i64>(0))
        {
            looks = rows.flatten().map(|id| format!("SELECT 1 FROM main._sync_log_{id} LIMIT 1")).collect();
        }
        Self { conn, version: -1, looks }
    }

    fn captured(&mut self) -> bool {
        let Some(conn) = &self.conn else { return false };
        let version = conn
            .prepare_cached("PRAGMA main.data_version")
            .and_then(|mut s| s.query_row([], |r| r.get::<_, i64>(0)))
            .unwrap_or(self.version);
        if std::mem::replace(&mut self.version, version) == version {
            return false;
        }
        self.looks.iter().any(|sql| conn.prepare_cached(sql).and_then(|mut s| s.exists([])).unwrap_or(false))
    }
}

/// Listens to the server, where it can be listened to, and wakes the other thread.
fn watching(shared: &Weak<Shared>, signal: &Signal) {
    let backoff = Backoff::default();
    let mut failures = 0;
    loop {
        {
            let state = signal.lock();
            let state =
                signal.changed.wait_while(state, |s| !s.stop && !s.watch).unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
        }
        let random = match listen(shared, signal) {
            Listened::Closed => return,
            Listened::Ended { heard, random } => {
                failures = if heard { 1 } else { failures + 1 };
                random
            }
        };
        let wait = Duration::from_millis(backoff.wait_ms(failures, random, None).max(100));
        if signal.wait(Instant::now() + wait, false) == Woken::Stop {
            return;
        }
    }
}

enum Listened {
    /// The client is gone.
    Closed,
    /// The stream ended or could not be had.
    Ended { heard: bool, random: u64 },
}

fn listen(shared: &Weak<Shared>, signal: &Signal) -> Listened {
    let Some(s) = shared.upgrade() else { return Listened::Closed };
    let (api, source, after, random) = {
        // The request is sent without the lock: a proxy may hold back the head of a stream for long.
        let guard = s.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(engine) = guard.as_ref() else { return Listened::Closed };
        let after = crate::store::Meta::Checkpoint.integer(&engine.store.conn).unwrap_or(0);
        let Ok(source) = engine.source_id() else { return Listened::Closed };
        (Arc::clone(&engine.api), source, after, engine.env.random())
    };
    drop(s);
    let Ok(response) = api.watch(&source, after) else { return Listened::Ended { heard: false, random } };
    let mut events = EventReader::default();
    let mut heard = false;
    for line in BufReader::new(response.body).lines() {
        let Ok(line) = line else { break };
        if signal.lock().stop {
            break;
        }
        heard = true;
        if events.line(&line).is_some() {
            signal.lock().wake = true;
            signal.changed.notify_all();
        }
    }
    Listened::Ended { heard, random }
}

/// How long a stop waits for its threads.
const PATIENCE: Duration = Duration::from_millis(900);
/// How often the file is looked at for local commits.
const LOOK: Duration = Duration::from_millis(20);
/// How often the server is asked without any reason.
const POLL: Duration = Duration::from_secs(60);
