//! The world of one run: one server, a few devices, the model that watches, and the steps of a plan.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use sync_client::{Client, Conflict, Error, ErrorClass, Policy, Repair, Resolution, Tie};
use sync_server::limits::Limits;

use crate::app::{LOCAL_SCHEMA, SCHEMA, migration};
use crate::cover::Cover;
use crate::device::{Device, frames, lock};
use crate::dice::Dice;
use crate::hooks::{ClientCrash, ClientEnv, Link};
use crate::ledger::Ledger;
use crate::model::{Mark, UserModel};
use crate::plan::{AppStep, Fault, Migration, Plan, Planned, Step, Verb, VerbStep, Wins};
use crate::server::{Owned, Server};

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// What was seen.
    pub message: String,
}

impl Violation {
    /// Of this invariant.
    pub fn new(invariant: &'static str, message: impl Into<String>) -> Self {
        Self { invariant, message: message.into() }
    }
}

/// What a run is in the middle of.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) device: usize,
    /// Verbs inside verbs; faults hit the outermost.
    pub(crate) depth: u32,
    pub(crate) hooks: u32,
    pub(crate) armed: Vec<Planned>,
    pub(crate) fired: bool,
    /// Requests since the verb began.
    pub(crate) requests: u32,
    pub(crate) busy_until: Option<u32>,
    /// Requests that arrive after so many others.
    pub(crate) late: Vec<(u32, Owned)>,
}

/// What a backup of the server remembers for the model.
type Marks = BTreeMap<String, Mark>;

/// One run.
pub(crate) struct World {
    pub(crate) me: Weak<Self>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: AtomicI64,
    pub(crate) ids: Mutex<Dice>,
    pub(crate) server: Server,
    pub(crate) models: Mutex<BTreeMap<String, UserModel>>,
    pub(crate) all: Mutex<Vec<Arc<Device>>>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) run: Mutex<Running>,
    pub(crate) cover: Mutex<Cover>,
    pub(crate) violation: Mutex<Option<Violation>>,
    pub(crate) backup: Mutex<Option<(PathBuf, Marks)>>,
    writes: Mutex<u64>,
    /// Somebody was told to wait for another device.
    pub(crate) waits: Mutex<bool>,
    pub(crate) migrated: Mutex<bool>,
    trace: bool,
}

impl World {
    /// The world of a plan before its first step. `trace` prints what happens.
    ///
    /// # Panics
    /// Where a file cannot be made.
    #[must_use]
    pub(crate) fn new(plan: &Plan, trace: bool) -> Arc<Self> {
        let dir = scratch();
        let rows = plan.setup.page_rows;
        let limits = Limits {
            retained_bundles: plan.setup.retained,
            max_rows_per_push_chunk: rows,
            default_rows_per_push_chunk: rows,
            max_rows_per_committed_bundle_chunk: rows * 3,
            max_rows_per_snapshot_chunk: rows * 2,
            max_bundles_per_pull: rows.max(2),
            max_rows_per_bundle: plan.setup.bundle_rows,
            ..Limits::default()
        };
        let world = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            server: Server::new(dir.path(), SCHEMA, limits),
            dir,
            clock: AtomicI64::new(1_800_000_000_000),
            ids: Mutex::new(Dice::new(plan.seed)),
            models: Mutex::default(),
            all: Mutex::default(),
            ledger: Mutex::default(),
            run: Mutex::default(),
            cover: Mutex::default(),
            violation: Mutex::default(),
            backup: Mutex::default(),
            writes: Mutex::new(0),
            waits: Mutex::new(false),
            migrated: Mutex::new(false),
            trace,
        });
        world.start_server();
        let schema = format!("{SCHEMA}{LOCAL_SCHEMA}");
        for (n, setup) in plan.setup.devices.iter().enumerate() {
            let d = Device::make(world.dir.path(), n, *setup, "ada", &schema).expect("a device");
            lock(&world.all).push(Arc::new(d));
        }
        world
    }

    /// How many devices there are.
    pub(crate) fn devices(&self) -> usize {
        lock(&self.all).len()
    }

    /// The device of this number, around the corner.
    pub(crate) fn device(&self, n: usize) -> Arc<Device> {
        let all = lock(&self.all);
        Arc::clone(&all[n % all.len()])
    }

    pub(crate) fn covered(&self, group: &str, name: &str) {
        lock(&self.cover).hit(group, name);
    }

    pub(crate) fn new_id(&self) -> String {
        let mut dice = lock(&self.ids);
        let (a, b) = (dice.next(), dice.next());
        let (hi, lo) = (a >> 32, a & 0xffff_ffff);
        format!(
            "{hi:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            lo >> 16,
            lo & 0xfff,
            (b >> 48) & 0xfff,
            b & 0xffff_ffff_ffff
        )
    }

    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{}", what());
        }
    }

    /// Keeps the first violation.
    pub(crate) fn fail(&self, v: Violation) {
        self.tell(|| format!("    VIOLATION {}: {}", v.invariant, v.message));
        lock(&self.violation).get_or_insert(v);
    }

    /// Does one step.
    ///
    /// # Errors
    /// The invariant that it broke.
    pub(crate) fn step(&self, step: &Step) -> Result<(), Violation> {
        self.tell(|| serde_json::to_string(step).unwrap_or_default());
        match step {
            Step::App(a) => self.app(a),
            Step::Verb(v) => self.verb(v),
            Step::Wait(ms) => {
                self.clock.fetch_add(*ms, Ordering::Relaxed);
            }
            Step::Reopen(n) => {
                let d = self.device(*n);
                *lock(&d.client) = None;
                self.open(&d);
            }
            Step::RestartServer => self.restart_server(),
            Step::Backup => self.back_up(),
            Step::Restore => self.restore(),
            Step::Wipe => self.wipe(),
            Step::BackupDevice(n) => self.back_up_device(*n),
            Step::RestoreDevice(n) => self.restore_device(*n),
            Step::CopyDevice(n) => self.copy_device(*n),
            Step::Migrate(n, kind) => {
                let d = self.device(*n);
                *lock(&d.client) = None;
                self.migrate(*n, *kind);
                self.open(&d);
            }
            Step::MigrateServer => self.migrate_server(),
            Step::Detach(n, how) => self.detach(*n, *how),
            Step::Inbox(n, retry) => self.inbox(*n, *retry),
        }
        self.covered("step", step_name(step));
        lock(&self.violation).clone().map_or(Ok(()), Err)
    }

    /// The client's process starts, where it does not run.
    pub(crate) fn open(&self, d: &Arc<Device>) {
        if lock(&d.client).is_some() {
            return;
        }
        let user = lock(&d.user).clone();
        let builder = Client::builder(d.path())
            .server("http://simulated")
            .token(move |_| Ok(user.clone()))
            .all_tables()
            .policy(policy(d.setup.policy));
        let builder = if d.setup.keep { builder.keep_edits_of("notes").keep_edits_of("tags") } else { builder };
        let opened = builder
            .transport(Arc::new(Link { world: self.me.clone(), device: d.index }))
            .environment(Arc::new(ClientEnv { world: self.me.clone(), device: d.index }))
            .open();
        match opened {
            Ok(c) => *lock(&d.client) = Some(c),
            Err(e) if d.room.load(Ordering::Relaxed) > 0 => self.tell(|| format!("    not opened: {e}")),
            Err(e) => self.fail(Violation::new("opens", format!("device {}: {e}", d.index))),
        }
    }

    fn verb(&self, v: &VerbStep) {
        let d = self.device(v.device);
        let room = v.faults.iter().find_map(|f| if let Fault::DiskFull(n) = f.what { Some(n) } else { None });
        if let Some(n) = room {
            *lock(&d.client) = None;
            d.room.store(1 + n % 12, Ordering::Relaxed);
            self.covered("fault", "disk_full");
        }
        self.open(&d);
        {
            let mut run = lock(&self.run);
            run.device = d.index;
            run.depth = 1;
            run.hooks = 0;
            run.fired = room.is_some();
            run.armed.clone_from(&v.faults);
            run.armed.sort_by_key(|p| p.at);
        }
        self.covered("verb", &format!("{:?}", v.verb));
        let outcome = self.call(&d, v.verb);
        let fired = {
            let mut run = lock(&self.run);
            run.depth = 0;
            run.armed.clear();
            run.busy_until = None;
            *lock(&d.neighbour) = None;
            run.fired || !run.late.is_empty()
        };
        *lock(&self.server.armed) = None;
        self.judge(&d, outcome, fired);
        if room.is_some() {
            d.room.store(0, Ordering::Relaxed);
            *lock(&d.client) = None;
            self.open(&d);
        }
        self.check_device(&d);
    }

    /// A sync that nothing is planned for, also inside another device's verb.
    pub(crate) fn plain_sync(&self, n: usize) {
        let d = self.device(n);
        self.open(&d);
        let outcome = self.call(&d, Verb::Sync);
        // Inside another device's verb, the server may be about to die.
        let faulty = lock(&self.run).depth > 0;
        self.judge(&d, outcome, faulty);
    }

    fn call(&self, d: &Arc<Device>, verb: Verb) -> Result<(), Option<Error>> {
        let Some(client) = lock(&d.client).clone() else { return Ok(()) };
        d.unseen.store(false, Ordering::Relaxed);
        if lock(&self.run).depth <= 1 {
            lock(&self.run).requests = 0;
        }
        let called = catch_unwind(AssertUnwindSafe(|| match verb {
            Verb::Sync => client.sync().map(drop),
            Verb::Push => client.push().map(drop),
            Verb::Pull => client.pull().map(drop),
            Verb::Rebuild => client.rebuild().map(drop),
        }));
        drop(client);
        match called {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(Some(e)),
            Err(p) if p.is::<ClientCrash>() => {
                let moment = lock(&self.ledger).now();
                let survived = d.come_back().expect("the file opens after a crash");
                if let Some(at) = survived.filter(|at| *at < moment) {
                    self.forgive(d, at);
                }
                self.tell(|| "    the client died".into());
                Err(None)
            }
            Err(p) => {
                let text = p
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                    .unwrap_or_default();
                self.fail(Violation::new("panic", text));
                Ok(())
            }
        }
    }

    /// Without a fault no verb may fail; with one, only by an error that says "later".
    fn judge(&self, d: &Device, outcome: Result<(), Option<Error>>, fired: bool) {
        let e = match outcome {
            Ok(()) => return self.covered("outcome", "ok"),
            Err(None) => return self.covered("outcome", "died"),
            Err(Some(e)) => e,
        };
        self.tell(|| format!("    error: {e}"));
        self.covered("outcome", &format!("{:?}", e.class()));
        let excused = match &e {
            Error::RetryLater { .. } => {
                *lock(&self.waits) = true;
                true
            }
            Error::Offline { .. } | Error::Stopped => fired,
            Error::Sqlite(s) => {
                use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull};
                fired && matches!(s.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | DiskFull))
            }
            // A session that is gone: the next sync begins it anew.
            Error::Refused { .. } => fired && e.class() == ErrorClass::Offline,
            _ => false,
        };
        if !excused {
            self.fail(Violation::new("no verb fails without a cause", format!("device {}: {e}", d.index)));
        }
    }

    /// Compares a device at rest with the server, by digests.
    pub(crate) fn verify(&self, n: usize) {
        let d = self.device(n);
        self.open(&d);
        let Some(c) = lock(&d.client).clone() else { return };
        match c.verify(Repair::No) {
            Ok(report) if report.differing_rows == 0 => self.covered("verify", "equal"),
            Ok(report) => {
                let text = format!("device {n}: {:?}", report.differences);
                self.fail(Violation::new("digests agree where rows do", text));
            }
            Err(e) => self.fail(Violation::new("digests agree where rows do", format!("device {n}: {e}"))),
        }
    }

    /// The app writes.
    pub(crate) fn app(&self, a: &AppStep) {
        let d = self.device(a.device);
        let Ok(before) = d.rows() else { return };
        let app = lock(&d.app);
        let Some(conn) = app.as_ref() else { return };
        let frames = frames(conn).unwrap_or(0);
        if a.together && conn.execute_batch("BEGIN").is_err() {
            return;
        }
        for sql in &a.sql {
            let w = {
                let mut writes = lock(&self.writes);
                *writes += 1;
                *writes
            };
            let text = sql.text(w);
            let done = conn.execute_batch(&text);
            self.tell(|| format!("    {}: {text} {done:?}", d.index));
            self.covered("sql", &format!("{:?}", sql.0));
            if done.is_ok() {
                self.covered("sql done", &format!("{:?}", sql.0));
            }
        }
        if !conn.is_autocommit() {
            let end = if a.undone { "ROLLBACK" } else { "COMMIT" };
            if conn.execute_batch(end).is_err() {
                conn.execute_batch("ROLLBACK").unwrap_or(());
            }
        }
        let Ok(after) = crate::device::rows(conn) else { return };
        if before != after {
            let mut ledger = lock(&self.ledger);
            ledger.note(d.index, &before, &after);
            d.committed(conn, frames, ledger.now()).expect("frames are counted");
        }
    }

    /// The app changes its schema, with whatever runs beside it.
    pub(crate) fn migrate(&self, n: usize, kind: Migration) {
        let d = self.device(n);
        let Ok(before) = d.rows() else { return };
        let app = lock(&d.app);
        let Some(conn) = app.as_ref() else { return };
        let w = {
            let mut writes = lock(&self.writes);
            *writes += 1;
            *writes
        };
        let frames = frames(conn).unwrap_or(0);
        let done = conn.execute_batch(&migration(kind, w).replace("{w}", &format!("<w{w}>")));
        self.tell(|| format!("    {}: {kind:?} {done:?}", d.index));
        if !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK").unwrap_or(());
        }
        conn.pragma_update(None, "foreign_keys", d.setup.foreign_keys).expect("a pragma");
        if done.is_ok() {
            d.unseen.store(true, Ordering::Relaxed);
            self.covered("migration", &format!("{kind:?}"));
        }
        if let Ok(after) = crate::device::rows(conn)
            && done.is_ok()
        {
            let mut ledger = lock(&self.ledger);
            ledger.note(d.index, &before, &after);
            d.committed(conn, frames, ledger.now()).expect("frames are counted");
        }
    }

    /// A person goes through what was refused.
    fn inbox(&self, n: usize, retry: bool) {
        let d = self.device(n);
        self.open(&d);
        let Some(c) = lock(&d.client).clone() else { return };
        let rows = match c.rejected() {
            Ok(rows) => rows,
            Err(e) => return self.fail(Violation::new("inbox", format!("device {n}: {e}"))),
        };
        for r in rows.iter().filter(|r| r.key != "{}").take(3) {
            let before = d.rows().unwrap_or_default();
            let done = if retry { c.retry(&r.table, &r.key) } else { c.drop_row(&r.table, &r.key) };
            if retry {
                lock(&self.ledger).put_back(&before, &d.rows().unwrap_or_default());
            }
            self.covered("inbox", if retry { "retried" } else { "dropped" });
            self.tell(|| format!("    {} {} {}: {done:?}", if retry { "retry" } else { "drop" }, r.table, r.key));
            match done {
                Ok(_) => {}
                // A row that does not fit cannot be put back.
                Err(Error::Argument(_)) if retry => {}
                Err(e) => self.fail(Violation::new("inbox", format!("device {n}, {} {}: {e}", r.table, r.key))),
            }
        }
    }
}

/// A place for a run's files: in memory where there is such a place.
fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a directory")
}

fn policy(wins: Wins) -> Policy {
    match wins {
        Wins::Server => Policy::ServerWins,
        Wins::Client => Policy::ClientWins,
        Wins::Custom => Policy::Custom(Arc::new(merge)),
        Wins::Columns => Policy::MergeColumns(Tie::Server),
        Wins::OwnColumns => Policy::MergeColumns(Tie::Client),
    }
}

/// The app's own function: a column that changed here only stays, everything else is the server's.
fn merge(c: &Conflict) -> Resolution {
    let (Some(local), Some(base), Some(server)) = (&c.local, &c.base, &c.server) else {
        return Resolution::TakeServer;
    };
    let mut merged = server.clone();
    for (name, v) in local {
        if base.get(name).is_some_and(|b| b != v) && base.get(name) == server.get(name) {
            merged.insert(name.clone(), v.clone());
        }
    }
    Resolution::Merged(merged)
}

fn step_name(step: &Step) -> &'static str {
    match step {
        Step::App(_) => "app",
        Step::Verb(_) => "verb",
        Step::Wait(_) => "wait",
        Step::Reopen(_) => "reopen",
        Step::RestartServer => "restart_server",
        Step::Backup => "backup",
        Step::Restore => "restore",
        Step::Wipe => "wipe",
        Step::BackupDevice(_) => "backup_device",
        Step::RestoreDevice(_) => "restore_device",
        Step::CopyDevice(_) => "copy_device",
        Step::Migrate(..) => "migrate",
        Step::MigrateServer => "migrate_server",
        Step::Detach(..) => "detach",
        Step::Inbox(..) => "inbox",
    }
}
