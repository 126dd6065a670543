//! Stopping: what waits on the network is woken at once, without asking it first.
//!
//! Established connections are woken by shutting their sockets down; name lookups and connects,
//! which cannot be woken, run on threads of their own and are left behind.

use std::{
    io,
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::TransportError;

/// One socket, which another thread can cut.
#[derive(Debug)]
pub(super) struct Wire {
    /// The socket. Both directions go through the shared reference.
    pub(super) stream: TcpStream,
    cut: AtomicBool,
    traffic: Arc<AtomicU64>,
}

impl Wire {
    /// Whether it was cut on purpose; an end or an error of the socket then means nothing else.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// Counts bytes that went either way.
    pub(super) fn count(&self, bytes: usize) {
        self.traffic.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        // Fails only where the socket is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    turn: u64,
    wires: Vec<Weak<Wire>>,
}

/// Open until [`Gate::close`]; what began before a close stays stopped after [`Gate::open`].
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes over all its sockets.
    traffic: Arc<AtomicU64>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call; its number tells later whether it was stopped.
    pub(super) fn enter(&self) -> Result<u64, TransportError> {
        let state = self.state();
        if state.closed { Err(TransportError::Interrupted) } else { Ok(state.turn) }
    }

    /// Whether the call of that number was stopped.
    pub(super) fn stopped(&self, turn: u64) -> bool {
        let state = self.state();
        state.closed || state.turn != turn
    }

    /// Stops everything.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.turn += 1;
        for wire in state.wires.drain(..) {
            if let Some(wire) = wire.upgrade() {
                wire.cut();
            }
        }
        self.changed.notify_all();
    }

    /// Allows calls again.
    pub(super) fn open(&self) {
        self.state().closed = false;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits for that long, or until the next stop.
    pub(super) fn pause(&self, time: Duration) -> Result<(), TransportError> {
        let turn = self.enter()?;
        let stopped = |state: &State| state.closed || state.turn != turn;
        let waits = |state: &mut State| !stopped(state);
        let (state, _) =
            self.changed.wait_timeout_while(self.state(), time, waits).unwrap_or_else(PoisonError::into_inner);
        if stopped(&state) { Err(TransportError::Interrupted) } else { Ok(()) }
    }

    /// Takes a new socket under its control.
    pub(super) fn adopt(&self, stream: TcpStream) -> Result<Arc<Wire>, TransportError> {
        let mut state = self.state();
        if state.closed {
            return Err(TransportError::Interrupted);
        }
        let wire = Arc::new(Wire { stream, cut: AtomicBool::new(false), traffic: Arc::clone(&self.traffic) });
        state.wires.retain(|known| known.strong_count() > 0);
        state.wires.push(Arc::downgrade(&wire));
        Ok(wire)
    }

    /// Bytes that went over all its sockets so far.
    pub(super) fn traffic(&self) -> u64 {
        self.traffic.load(Ordering::Relaxed)
    }

    /// Runs a call that cannot be woken, and waits for it no longer than `limit` or the next stop.
    pub(super) fn wait_for<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, TransportError> {
        let turn = self.enter()?;
        let slot = Arc::new(Mutex::new(None));
        let (gate, filled) = (Arc::clone(self), Arc::clone(&slot));
        thread::Builder::new()
            .name("sync-connect".into())
            .spawn(move || {
                let result = job();
                *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                // Under the lock, so that it cannot fall between a waiter's look and its wait.
                let _state = gate.state();
                gate.changed.notify_all();
            })
            .map_err(|error| TransportError::Broken(error.to_string()))?;
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        loop {
            if state.closed || state.turn != turn {
                return Err(TransportError::Interrupted);
            }
            if let Some(result) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return result.map_err(|error| TransportError::of(&error));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TransportError::Timeout);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
