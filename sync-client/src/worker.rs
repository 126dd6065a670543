//! The background worker: one thread that syncs, one that listens to the watch stream.
//!
//! When to sync is decided by [`Schedule`]; here is only what carries it out: threads, the clock, and
//! who tells it what happened.

use std::io::{BufRead as _, BufReader};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sync_core::engine::backoff::Backoff;
use sync_core::engine::schedule::{Action, Failure, Input, Schedule};
use sync_core::protocol::watch::EventReader;

use crate::client::Shared;
use crate::commits::{Commits, Seen};
use crate::engine::Left;
use crate::error::Error;
use crate::report::{ErrorClass, SyncReport};
use crate::store::{Meta, busy};

/// The running threads.
pub(crate) struct Worker {
    signal: Arc<Signal>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
    /// The zero of the schedule's clock.
    zero: Instant,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    stop: bool,
    /// Set once the engine may be asked to watch.
    watch: bool,
    running: usize,
}

impl Worker {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, Error> {
        shared.stopping.store(false, Ordering::Relaxed);
        shared.transport.resume();
        let signal = Arc::new(Signal { state: Mutex::default(), changed: Condvar::new(), zero: Instant::now() });
        signal.lock().running = 2;
        let spawn = |name: &str, run: fn(&Weak<Shared>, &Signal)| {
            let (weak, signal) = (Arc::downgrade(shared), Arc::clone(&signal));
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
                let ending = Ending { weak: weak.clone(), signal: Arc::clone(&signal) };
                run(&weak, &signal);
                drop(ending);
            });
            thread.map_err(|source| Error::Io { what: "cannot start a thread".into(), source })
        };
        let threads = vec![spawn("sync", syncing)?, spawn("sync-watch", watching)?];
        Ok(Self { signal, threads })
    }

    pub(crate) fn wake(&self) {
        self.signal.tell(Input::Asked);
    }

    /// Somebody synced by hand, and left this.
    pub(crate) fn synced(&self, left: Left) {
        self.signal.tell(Input::SyncedByHand);
        if left == Left::Newer {
            self.signal.tell(Input::Committed);
        }
    }

    /// Tells both threads to end, and cuts what they wait for.
    pub(crate) fn end(&self, shared: &Shared) {
        self.signal.lock().stop = true;
        self.signal.tell(Input::Stop);
        shared.stopping.store(true, Ordering::Relaxed);
        shared.transport.interrupt();
    }

    /// Stops both threads. One that is stuck in the system (a connect to nowhere) is left to end by itself.
    pub(crate) fn stop(self, shared: &Shared) {
        self.end(shared);
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

    fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn tell(&self, input: Input) {
        self.lock().schedule.tell(self.now(), input);
        self.changed.notify_all();
    }

    /// Tells of a failure; in how many milliseconds the next try comes by itself.
    fn failed(&self, why: Failure, retry_after_s: Option<u64>, random: u64) -> u64 {
        let mut state = self.lock();
        let now = self.now();
        state.schedule.tell(now, Input::Failed { why, retry_after_s, random });
        state.schedule.due().map_or(0, |due| due.saturating_sub(now))
    }

    /// Waits until there is something to do.
    fn wait_for_turn(&self, commits: &mut Commits) -> Next {
        loop {
            let mut state = self.lock();
            let now = self.now();
            let left = match state.schedule.next(now) {
                Action::Stop => return Next::Stop,
                Action::Sync => return Next::Sync,
                Action::Wait(until) => Duration::from_millis(until.saturating_sub(now)),
            };
            let heeds = state.schedule.heeds_commits();
            let wait = left.min(if heeds { LOOK } else { GLANCE });
            let (state, waited) = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            drop(state);
            if !waited.timed_out() {
                continue;
            }
            match commits.look() {
                Seen::Captured if heeds => self.tell(Input::Committed),
                Seen::AnotherFile => return Next::Move,
                Seen::Captured | Seen::Nothing => {}
            }
        }
    }

    /// Waits until the path has led to the same file for a while: whoever replaces one may have more to move or to
    /// remove beside it. False for a stop.
    fn wait_for_rest(&self, commits: &mut Commits) -> bool {
        loop {
            let (state, waited) =
                self.changed.wait_timeout_while(self.lock(), REST, |s| !s.stop).unwrap_or_else(PoisonError::into_inner);
            drop(state);
            if !waited.timed_out() {
                return false;
            }
            if !commits.moved() {
                return true;
            }
        }
    }
}

/// What the thread that syncs does next.
enum Next {
    Sync,
    /// Another file is at the path, or none.
    Move,
    Stop,
}

/// What kind of failure an error is, and what the server asked for.
fn kind_of(e: &Error, pulled: bool) -> (Failure, Option<u64>) {
    match e {
        _ if pulled => (Failure::PushOnly, None),
        Error::Offline { retry_after, .. }
        | Error::Failing { retry_after, .. }
        | Error::Intermediary { retry_after, .. } => (Failure::Passing, *retry_after),
        Error::RetryLater { seconds } => (Failure::Seeding, Some(*seconds)),
        _ => match e.class() {
            ErrorClass::Offline | ErrorClass::Failing | ErrorClass::Intermediary | ErrorClass::Local => {
                (Failure::Passing, None)
            }
            ErrorClass::Auth | ErrorClass::Refused | ErrorClass::Protocol => (Failure::Lasting, None),
        },
    }
}

/// Syncs whenever there is a reason to.
fn syncing(shared: &Weak<Shared>, signal: &Signal) {
    let Some(mut commits) = shared.upgrade().map(|s| Commits::new(s.path(), Arc::clone(&s.look))) else { return };
    loop {
        let turn = signal.wait_for_turn(&mut commits);
        if matches!(turn, Next::Stop) {
            return;
        }
        let Some(s) = shared.upgrade() else { return };
        let mut held = s.engine.take();
        let Some(engine) = held.as_mut() else { return };
        if matches!(turn, Next::Move) || engine.is_elsewhere() {
            if let Err(e) = engine.let_go() {
                tracing::warn!("a file that is not at its path any more stays open: {e}");
            }
            drop(held);
            drop(s);
            if matches!(turn, Next::Sync) {
                signal.tell(Input::Synced);
            }
            if !signal.wait_for_rest(&mut commits) {
                return;
            }
            signal.tell(Input::Asked);
            continue;
        }
        let random = engine.env.random();
        s.heard.store(0, Ordering::Relaxed);
        let _hearer = busy::tell(engine.observer.as_ref(), &engine.path);
        let mut told = false;
        let mut retry = |e: &Error, pulled: bool| {
            told = true;
            let (why, retry_after_s) = kind_of(e, pulled);
            signal.failed(why, retry_after_s, random)
        };
        // A function of the app that panics must not end the syncing for good.
        let synced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            engine.sync(&mut SyncReport::default(), Some(&mut retry))
        }));
        signal.lock().watch = engine.can_watch;
        signal.changed.notify_all();
        match synced {
            Ok(Ok(Left::Everything)) => {
                signal.tell(Input::Synced);
                signal.tell(Input::Asked);
            }
            Ok(Ok(left)) => {
                // It may be noticed already, so that no look at the logs finds it.
                if left == Left::Newer {
                    signal.tell(Input::Committed);
                }
                signal.tell(Input::Synced);
            }
            // Else the schedule would wait for this sync for ever.
            Ok(Err(e)) if !told => {
                let (why, retry_after_s) = kind_of(&e, engine.pulled);
                signal.failed(why, retry_after_s, random);
            }
            Ok(Err(_)) => {}
            Err(_) => {
                tracing::error!("a function of the app panicked during a sync");
                let retry_in_ms = signal.failed(Failure::Lasting, None, random);
                // The one that panics may be the one that is told of it.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.panicked(retry_in_ms)));
            }
        }
    }
}

/// Listens to the server, where it can be listened to, and tells of its news.
fn watching(shared: &Weak<Shared>, signal: &Signal) {
    let backoff = Backoff::default();
    let mut failures = 0;
    loop {
        {
            let closed = |s: &mut State| !(s.stop || s.watch && s.schedule.may_watch());
            let state = signal.changed.wait_while(signal.lock(), closed).unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
        }
        // As with a sync: a function of the app that panics, here one that yields tokens, must not end this for good.
        let listened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listen(shared, signal)));
        let listened = listened.unwrap_or_else(|_| {
            tracing::error!("a function of the app panicked while the server was listened to");
            Listened::Ended { heard: false, random: u64::MAX }
        });
        let random = match listened {
            Listened::Closed => return,
            Listened::Ended { heard, random } => {
                failures = if heard { 1 } else { failures + 1 };
                random
            }
        };
        let wait = Duration::from_millis(backoff.wait_ms(failures, random, None).max(100));
        let state = signal.lock();
        let (state, _) =
            signal.changed.wait_timeout_while(state, wait, |s| !s.stop).unwrap_or_else(PoisonError::into_inner);
        if state.stop {
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
        let turn = s.engine.take();
        let Some(engine) = turn.as_ref() else { return Listened::Closed };
        let random = engine.env.random();
        let after = Meta::Checkpoint.integer(&engine.store.conn).unwrap_or(0);
        let Ok(source) = engine.source_id() else { return Listened::Ended { heard: false, random } };
        (Arc::clone(&engine.api), source, after, random)
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
        // What is on the way may answer with a page of its own.
        if !heard && !is_event_line(&line) {
            break;
        }
        heard = true;
        if let Some(event) = events.line(&line) {
            signal.tell(Input::News);
            heard_of(shared, signal, event.bundle_seq);
        }
    }
    Listened::Ended { heard, random }
}

/// Whether a stream of events can have such a line.
fn is_event_line(line: &str) -> bool {
    ["", "event", "data", "id", "retry"].contains(&line.trim_end().split(':').next().unwrap_or_default())
}

/// Remembers how far the server is. In the file too, where no pull will do that soon.
fn heard_of(shared: &Weak<Shared>, signal: &Signal, seq: i64) {
    let Some(s) = shared.upgrade() else { return };
    s.heard.fetch_max(seq, Ordering::Relaxed);
    let failing = !signal.lock().schedule.may_watch();
    if failing
        && let Some(turn) = s.engine.try_take()
        && let Some(engine) = turn.as_ref()
    {
        let conn = &engine.store.conn;
        let kept = Meta::LatestKnown.integer(conn).and_then(|known| Meta::LatestKnown.keep(conn, known.max(seq)));
        if let Err(e) = kept {
            tracing::debug!("what the server has was not noted: {e}");
        }
    }
}

/// How long a stop waits for its threads.
const PATIENCE: Duration = Duration::from_millis(900);
/// How often the file is looked at for local commits.
const LOOK: Duration = Duration::from_millis(20);
/// How often it is looked at while a failure is waited out.
const GLANCE: Duration = Duration::from_secs(1);
/// How long a file has to be at the path before it is opened.
const REST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_stream_of_events() {
        for (line, expected) in [
            (": heartbeat", true),
            ("event: bundle", true),
            ("data: {}", true),
            ("id", true),
            ("retry: 5", true),
            ("", true),
            ("<!doctype html>", false),
            ("Please log in: here", false),
        ] {
            assert_eq!(is_event_line(line), expected, "{line}");
        }
    }

    #[test]
    fn only_what_the_server_refuses_is_lasting() {
        let offline = |retry_after| Error::Offline { message: String::new(), retry_after, lost: false };
        let refused = |code: &str| Error::Refused { code: code.into(), message: String::new() };
        for (e, expected) in [
            (offline(None), (Failure::Passing, None)),
            (offline(Some(7)), (Failure::Passing, Some(7))),
            (Error::NoToken("no network".into()), (Failure::Passing, None)),
            (Error::Auth("unknown user".into()), (Failure::Lasting, None)),
            (
                Error::Failing { code: String::new(), message: String::new(), retry_after: Some(7) },
                (Failure::Passing, Some(7)),
            ),
            (
                Error::Intermediary { status: 403, words: String::new(), known: true, retry_after: None },
                (Failure::Passing, None),
            ),
            (Error::RetryLater { seconds: 9 }, (Failure::Seeding, Some(9))),
            (refused("status 404"), (Failure::Lasting, None)),
            (refused("push_session_not_found"), (Failure::Passing, None)),
            (Error::Protocol(String::new()), (Failure::Lasting, None)),
            (Error::SchemaMoved, (Failure::Passing, None)),
        ] {
            assert_eq!(kind_of(&e, false), expected, "{e:?}");
            assert_eq!(kind_of(&e, true), (Failure::PushOnly, None), "{e:?}");
        }
    }
}
