//! The public verbs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sync_core::sqlite::introspect::{Found, statements};

use crate::attach::Attach;
use crate::budget::Deadline;
use crate::builder::Builder;
use crate::calling;
use crate::context::Environment;
use crate::detach::{Detach, Detached};
use crate::engine::{Engine, Left};
use crate::error::Error;
use crate::import::Imported;
use crate::listing::{read_inbox, read_inbox_page};
use crate::place::SharedLook;
use crate::report::{
    Attached, Event, InboxPage, InboxRow, Mark, PendingRow, PullReport, PushReport, Status, SyncReport, SyncWithin,
};
use crate::status::{read_mark, read_pending, read_status};
use crate::store::{Meta, busy};
use crate::transport::Transport;
use crate::turn::Turns;
use crate::unattached::until_there_is_a_place;
use crate::worker::Worker;

/// Syncs one SQLite file. Clones share it. The app keeps writing plain SQL on connections of its own.
///
/// Every verb works at once and blocks until it is done; [`Client::start`] does the same in the
/// background. None of them loses a local write: what cannot be sent waits, and says why.
///
/// Where another file is moved over this one, a restored backup for example, the client takes up that one, with its next
/// verb and in the background.
///
/// When the last clone is dropped, the background worker ends, as by [`Client::stop`], and the file is free.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    /// `None` once detached.
    pub(crate) engine: Turns<Option<Engine>>,
    pub(crate) look: SharedLook,
    env: Arc<dyn Environment>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) stopping: Arc<std::sync::atomic::AtomicBool>,
    /// The newest bundle that the watch stream told of since the last sync began.
    pub(crate) heard: AtomicI64,
    worker: Mutex<Option<Worker>>,
    found: Found,
    /// [`Builder::patience`].
    patience: Duration,
}

impl Client {
    /// Begins to open a file.
    #[must_use]
    pub fn builder(path: impl Into<PathBuf>) -> Builder {
        Builder::new(path.into())
    }

    pub(crate) fn new(engine: Engine, patience: Duration) -> Self {
        let shared = Shared {
            path: engine.asked.clone(),
            transport: Arc::clone(engine.api.transport()),
            stopping: Arc::clone(&engine.stopping),
            heard: AtomicI64::new(0),
            found: engine.store.found.clone(),
            env: Arc::clone(&engine.env),
            look: Arc::clone(&engine.look),
            engine: Turns::new(Some(engine)),
            worker: Mutex::new(None),
            patience,
        };
        let shared = Arc::new(shared);
        Self { _last: Arc::new(Last(Arc::clone(&shared))), shared }
    }

    /// Connects the file to its scope. Local rows stay: equal ones are recognised, others are pushed,
    /// clashes are settled by the policy. [`Client::sync`] attaches by itself.
    ///
    /// # Errors
    /// The network's and the server's.
    pub fn attach(&self) -> Result<Attached, Error> {
        let mut pull = PullReport::default();
        let attached = self.patiently(|e| {
            let outcome = e.again(|e| {
                e.greet()?;
                let attached = e.attach(&mut pull)?;
                e.in_time(attached)?;
                Ok(attached)
            });
            if matches!(outcome, Err(Error::RetryLater { .. })) { outcome } else { e.noted(outcome) }
        });
        match attached {
            Err(Error::RetryLater { .. }) => Ok(Attached::RetryLater),
            other => other,
        }
    }

    /// Says what happens to this file's rows when it is attached for the first time, as [`Builder::attach`] does: the
    /// answer to [`Error::LooksLikeCopy`], after which the same verb goes on. Does nothing where the file is attached.
    ///
    /// # Errors
    /// SQLite's.
    pub fn attach_as(&self, mode: Attach) -> Result<(), Error> {
        self.with(|e| e.attach_as(mode))
    }

    /// Whether it has to be asked how this file's rows meet the account's, before anything is attached: see
    /// [`Error::LooksLikeCopy`]. Where this may be, reads the account's snapshot for it. Changes nothing.
    ///
    /// # Errors
    /// [`Error::LooksLikeCopy`] is the question; the network's and the server's.
    pub fn ask_before_attaching(&self) -> Result<(), Error> {
        self.patiently(|e| e.again(Engine::ask_before_attaching))
    }

    /// Pushes what is pending.
    ///
    /// # Errors
    /// The network's and the server's. Nothing pending is lost.
    pub fn push(&self) -> Result<PushReport, Error> {
        let (mut push, mut pull) = (PushReport::default(), PullReport::default());
        self.patiently(|e| {
            let outcome = e.again(|e| {
                e.connected(&mut pull)?;
                e.push_part(&mut push, &mut pull)?;
                Ok(push.clone())
            });
            e.noted(outcome)
        })
    }

    /// Pulls what other devices committed.
    ///
    /// # Errors
    /// The network's and the server's.
    pub fn pull(&self) -> Result<PullReport, Error> {
        let (mut push, mut pull) = (PushReport::default(), PullReport::default());
        self.patiently(|e| {
            let outcome = e.again(|e| {
                e.connected(&mut pull)?;
                match e.settle_doubt(&mut push, &mut pull) {
                    // What waits for it says so itself.
                    Err(error) if error.lets_pull() => {}
                    settled => settled?,
                }
                e.pull_part(&mut pull)?;
                Ok(pull.clone())
            });
            e.noted(outcome)
        })
    }

    /// Pushes and pulls until nothing is left to do of what there was when it began: an app that goes on writing is not
    /// chased.
    ///
    /// # Errors
    /// The network's and the server's; also [`Error::RetryLater`] while another device seeds the scope.
    pub fn sync(&self) -> Result<SyncReport, Error> {
        let mut report = SyncReport::default();
        let mut left = self.patiently(|e| e.sync(&mut report, None))?;
        if left == Left::Everything {
            left = self.patiently(|e| e.sync(&mut report, None))?;
        }
        self.tell_worker(|w| w.synced(left));
        Ok(report)
    }

    /// The same, but ends at a safe point once `time` is over or about `bytes` went over the network:
    /// for phones, which give an app a few seconds in the background. A request in flight at the
    /// deadline is cut. What was reached is durable, and the next call goes on from there. Where another sync of
    /// this file runs, it is waited for, within `time`. The deadline is
    /// the environment's clock; bytes may go over by one page, or by a chunk of 16 kB.
    ///
    /// # Errors
    /// As [`Client::sync`]; running into a limit is not an error.
    pub fn sync_within(&self, time: Duration, bytes: Option<u64>) -> Result<SyncWithin, Error> {
        calling::not_inside()?;
        let deadline = Deadline::after(time, &self.shared.env);
        let Some(mut turn) = self.shared.engine.take_within(|| deadline.time_left()) else {
            return Ok(SyncWithin { more: true, ..SyncWithin::default() });
        };
        let done = through_migrations(&mut turn, |e| e.sync_within(&deadline, bytes))?;
        drop(turn);
        if !done.more {
            self.tell_worker(|w| w.synced(Left::Nothing));
        }
        Ok(done)
    }

    /// Downloads everything again and merges it: local work survives.
    ///
    /// # Errors
    /// The network's and the server's.
    pub fn rebuild(&self) -> Result<PullReport, Error> {
        let (mut push, mut pull) = (PushReport::default(), PullReport::default());
        self.patiently(|e| {
            let outcome = e.again(|e| {
                e.connected(&mut pull)?;
                e.settle_doubt(&mut push, &mut pull)?;
                if !pull.rebuilt {
                    Meta::Rebuild.set(&e.store.conn, "asked for")?;
                    // What a row came to no end over may be mended otherwise than in its triggers.
                    Meta::GivenUp.clear(&e.store.conn)?;
                    e.pull_part(&mut pull)?;
                }
                Ok(pull.clone())
            });
            e.noted(outcome)
        })
    }

    /// Makes the file an ordinary one again: every row stays, the capture ends, and what is not on the
    /// server yet becomes what [`Detach`] says. The client is closed afterwards; a builder with server and
    /// tables makes the file a synced one again, and [`crate::forget`] removes what is left of ours.
    /// [`Builder::detach`] does it where the file cannot be opened for what the app did to its schema.
    ///
    /// # Errors
    /// [`Error::PendingWork`]; [`Error::Damaged`]; SQLite's.
    pub fn detach(&self, how: Detach) -> Result<Detached, Error> {
        calling::not_inside()?;
        self.stop();
        let mut engine = self.shared.engine.take();
        let open = engine.as_mut().ok_or_else(closed)?;
        open.follow()?;
        let detached = open.detach(&how)?;
        *engine = None;
        Ok(detached)
    }

    /// Takes up the pending work of another device of the same account, which [`Detach::Export`] wrote. It
    /// is settled against what this file has, and goes with the next push. An export is taken up once.
    ///
    /// # Errors
    /// [`Error::Argument`] where the file is no export, is of another account, or has columns that this
    /// file lacks; the network's and the server's. Nothing is changed then.
    pub fn import(&self, path: impl AsRef<Path>) -> Result<Imported, Error> {
        self.patiently(|e| match e.import(path.as_ref()) {
            Err(e @ Error::Argument(_)) => Err(e),
            outcome => e.noted(outcome),
        })
    }

    /// The sync state. Never waits for a sync.
    ///
    /// # Errors
    /// SQLite's.
    pub fn status(&self) -> Result<Status, Error> {
        let mut status = read_status(&self.shared.path)?;
        status.latest_known = status.latest_known.max(self.shared.heard.load(Ordering::Relaxed));
        Ok(status)
    }

    /// The place of the newest local commit, now. Taken after a commit of the app, it answers later whether
    /// that commit is settled: once [`Status::synced_through`] is not below it. Never waits for a sync.
    ///
    /// # Errors
    /// SQLite's.
    pub fn mark(&self) -> Result<Mark, Error> {
        read_mark(&self.shared.path)
    }

    /// What waits to be pushed, since when and why.
    ///
    /// # Errors
    /// SQLite's.
    pub fn pending(&self) -> Result<Vec<PendingRow>, Error> {
        read_pending(&self.shared.path)
    }

    /// Rows that wait for a person: refused by the server, or displaced by one of its rows.
    ///
    /// # Errors
    /// SQLite's.
    pub fn rejected(&self) -> Result<Vec<InboxRow>, Error> {
        read_inbox(&self.shared.path, "rejected")
    }

    /// Local edits that lost, each with the whole row.
    ///
    /// # Errors
    /// SQLite's.
    pub fn discarded(&self) -> Result<Vec<InboxRow>, Error> {
        read_inbox(&self.shared.path, "discarded")
    }

    /// Conflicts that were settled otherwise: the local row won, was merged, or took another number.
    ///
    /// # Errors
    /// SQLite's.
    pub fn conflicts(&self) -> Result<Vec<InboxRow>, Error> {
        read_inbox(&self.shared.path, "conflict")
    }

    /// Some entries of a kind (`rejected`, `discarded`, `conflict`), for inboxes that are large.
    ///
    /// # Errors
    /// As [`read_inbox_page`].
    pub fn inbox_page(&self, kind: &str, after: Option<&str>, limit: usize) -> Result<InboxPage, Error> {
        read_inbox_page(&self.shared.path, kind, after, limit)
    }

    /// Lets a refused row be pushed again, or puts a displaced row back. `key` is the key object as in
    /// [`InboxRow::key`], or the bare text of a one-column key. False where no such row waits.
    ///
    /// # Errors
    /// [`Error::Argument`] where the row cannot be put back: another row has its unique value, or the row
    /// that it refers to is gone. It names that row, and the entry stays. SQLite's.
    pub fn retry(&self, table: &str, key: &str) -> Result<bool, Error> {
        self.with(|e| e.retry(table, key))
    }

    /// Puts the local row of an entry of `rejected` or `discarded` back, as a new local edit: it is pushed
    /// with the next sync. False where there is no such entry.
    ///
    /// # Errors
    /// As [`Client::retry`]; also for an entry of `conflicts`, which was settled for the local row already.
    pub fn retry_entry(&self, id: i64) -> Result<bool, Error> {
        self.with(|e| e.retry_entry(id))
    }

    /// Gives up a refused local change: where the server has the row, its state there comes back,
    /// otherwise the row goes. The local row is kept in `discarded`, and so are entries of `rejected` for
    /// this row. False where no such row waits.
    ///
    /// # Errors
    /// SQLite's.
    pub fn drop_row(&self, table: &str, key: &str) -> Result<bool, Error> {
        self.with(|e| e.drop_row(table, key))
    }

    /// Gives up one entry of `rejected`; it is kept in `discarded`. False where there is no such entry.
    ///
    /// # Errors
    /// SQLite's.
    pub fn drop_entry(&self, id: i64) -> Result<bool, Error> {
        self.with(|e| e.drop_entry(id))
    }

    /// Forgets one entry of the inbox, the row that it keeps included. False where there is none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn clear_entry(&self, id: i64) -> Result<bool, Error> {
        self.with(|e| e.clear_entry(id))
    }

    /// Forgets every recorded entry of a kind (`rejected`, `discarded`, `conflict`), the rows that they keep
    /// included. Refused rows that are still in their tables stay. Returns how many went.
    ///
    /// # Errors
    /// [`Error::Argument`] for another kind; SQLite's.
    pub fn clear_all(&self, kind: &str) -> Result<u64, Error> {
        self.with(|e| e.clear_all(kind))
    }

    /// Starts the background worker: it syncs at once, after local commits, when the server says that
    /// something changed, and now and then. Does nothing where it runs already.
    ///
    /// # Errors
    /// The system's, where no thread can be had.
    pub fn start(&self) -> Result<(), Error> {
        let mut worker = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = Some(Worker::start(&self.shared)?);
        }
        Ok(())
    }

    /// Stops the background worker and whatever it is doing; returns within a second. Inside a
    /// function of the app that a sync calls, where it would wait for itself, it does nothing.
    pub fn stop(&self) {
        if calling::is_inside() {
            return;
        }
        let worker = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(w) = worker {
            w.stop(&self.shared);
        }
    }

    /// Makes the background worker sync now, also while it waits after a failure: good to call when the
    /// network comes back or the user asks. Called often it does no harm: a server that is down is tried
    /// at most twice a second, and never before the time that it named itself (`Retry-After`).
    pub fn wake(&self) {
        self.tell_worker(Worker::wake);
    }

    /// The statements that make the synced tables, parents first, for the server's schema file.
    ///
    /// # Errors
    /// SQLite's.
    pub fn schema_ddl(&self) -> Result<Vec<String>, Error> {
        self.with(|e| Ok(statements(&e.store.conn, e.store.schema())?))
    }

    /// Which tables are synced, which cannot be, and what to know about them, as of [`Builder::open`].
    #[must_use]
    pub fn introspection(&self) -> &Found {
        &self.shared.found
    }

    fn tell_worker(&self, tell: impl FnOnce(&Worker)) {
        if let Some(w) = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            tell(w);
        }
    }

    /// The same for what asks the server, again where that says when to come back, as long as the patience lasts.
    /// Meanwhile the engine is free.
    pub(crate) fn patiently<T>(&self, mut verb: impl FnMut(&mut Engine) -> Result<T, Error>) -> Result<T, Error> {
        let wait = |event: Event, time: Duration| {
            self.with(|e| {
                e.tell(&event);
                Ok(())
            })?;
            Ok(self.shared.transport.pause(time)?)
        };
        until_there_is_a_place(self.shared.patience, || self.shared.env.random(), wait, || self.with(&mut verb))
    }

    /// Does something with the engine, once it is free.
    pub(crate) fn with<T>(&self, f: impl FnMut(&mut Engine) -> Result<T, Error>) -> Result<T, Error> {
        calling::not_inside()?;
        through_migrations(&mut self.shared.engine.take(), f)
    }
}

/// Does something with the engine and the file that is at its path, again where the app migrated its schema meanwhile.
fn through_migrations<T>(
    engine: &mut Option<Engine>,
    mut f: impl FnMut(&mut Engine) -> Result<T, Error>,
) -> Result<T, Error> {
    let engine = engine.as_mut().ok_or_else(closed)?;
    let _hearer = busy::tell(engine.observer.as_ref(), &engine.path);
    engine.follow()?;
    for _ in 0..MIGRATIONS {
        match engine.store.refresh(engine.env.now_ms()).and_then(|()| f(engine)) {
            Err(Error::SchemaMoved) => {}
            // What failed is a file that is gone.
            Err(_) if engine.is_elsewhere() => engine.follow()?,
            other => return other,
        }
    }
    f(engine)
}

/// Goes with the last clone of a client. A worker that syncs has the rest for as long as it does.
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        let worker = self.0.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        match worker {
            // Inside a function of the app that its own thread calls, it would wait for itself.
            Some(w) if calling::is_inside() => w.end(&self.0),
            Some(w) => w.stop(&self.0),
            None => {}
        }
    }
}

/// Schema changes during one verb after which it gives up.
const MIGRATIONS: u32 = 10;

fn closed() -> Error {
    Error::Argument("this client was detached; open the file again".into())
}

/// Where a file is.
impl Shared {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
