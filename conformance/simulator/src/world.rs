//! The world of one run: one server, a few devices, the model that watches, and the steps of a plan.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use sync_server::limits::Limits;

use crate::accounts::{Exported, user_name};
use crate::app::LOCAL_SCHEMA;
use crate::cover::Cover;
use crate::device::{Device, lock};
use crate::dice::Dice;
use crate::helpers::HELPERS;
use crate::ledger::Ledger;
use crate::model::{Mark, UserModel};
use crate::plan::{Plan, Planned, Step, Way};
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
    /// The server went back, or lost everything.
    pub(crate) rewritten: bool,
    /// Requests since the verb began.
    pub(crate) requests: u32,
    /// A cache answers with old pages.
    pub(crate) cached: bool,
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
    pub(crate) schema: String,
    pub(crate) models: Mutex<BTreeMap<String, UserModel>>,
    rules: bool,
    pub(crate) helpers: bool,
    pub(crate) way: Way,
    /// It does not stand there any more.
    pub(crate) clear: AtomicBool,
    pub(crate) all: Mutex<Vec<Arc<Device>>>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) run: Mutex<Running>,
    pub(crate) cover: Mutex<Cover>,
    pub(crate) violation: Mutex<Option<Violation>>,
    pub(crate) backup: Mutex<Option<(PathBuf, Marks)>>,
    /// The disk that the server is without, and what is known of it.
    pub(crate) away: Mutex<Option<(PathBuf, BTreeMap<String, UserModel>)>>,
    pub(crate) exports: Mutex<Vec<Exported>>,
    /// Pages of bundles by user and request, as they were at first.
    pub(crate) pages: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    pub(crate) writes: Mutex<u64>,
    /// Somebody was told to wait for another device.
    pub(crate) waits: Mutex<bool>,
    pub(crate) migrated: Mutex<bool>,
    /// Its data were away once.
    pub(crate) was_away: Mutex<bool>,
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
        let schema = crate::app::schema(plan.setup.numbers_again);
        let world = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            server: Server::new(dir.path(), &schema, limits, plan.setup.rules),
            schema: schema.clone(),
            dir,
            clock: AtomicI64::new(1_800_000_000_000),
            ids: Mutex::new(Dice::new(plan.seed)),
            models: Mutex::default(),
            rules: plan.setup.rules,
            helpers: plan.setup.helpers,
            way: plan.setup.way,
            clear: AtomicBool::new(false),
            all: Mutex::default(),
            ledger: Mutex::default(),
            run: Mutex::default(),
            cover: Mutex::default(),
            violation: Mutex::default(),
            backup: Mutex::default(),
            away: Mutex::default(),
            exports: Mutex::default(),
            pages: Mutex::default(),
            writes: Mutex::new(0),
            waits: Mutex::new(false),
            migrated: Mutex::new(false),
            was_away: Mutex::new(false),
            trace,
        });
        world.start_server();
        let schema = format!("{schema}{LOCAL_SCHEMA}{}", if plan.setup.helpers { HELPERS } else { "" });
        for (n, setup) in plan.setup.devices.iter().enumerate() {
            let d = Device::make(world.dir.path(), n, *setup, user_name(setup.user), &schema).expect("a device");
            lock(&world.all).push(Arc::new(d));
        }
        if plan.setup.twins {
            world.make_twins();
        }
        world
    }

    /// What is known of a user of whom nobody has heard.
    pub(crate) fn new_user(&self) -> UserModel {
        let mut user = UserModel::default();
        user.rules = self.rules;
        user
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
            Step::Away => self.go_without_data(),
            Step::Back => self.find_data_again(),
            Step::Replace(n) => self.replace_file(*n),
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
            Step::Detach(n, how) => drop(self.detach(*n, *how)),
            Step::Inbox(n, retry) => self.inbox(*n, *retry),
            Step::SwitchUser(n, to, how, joins) => self.switch_user(*n, *to, *how, *joins),
            Step::Damage(n, from_file) => self.damage(*n, *from_file),
            Step::DropTrigger(n, a) => self.drop_trigger(*n, a),
            Step::Retain(bundles) => {
                self.server.retain(*bundles);
                self.restart_server();
            }
        }
        self.covered("step", step_name(step));
        lock(&self.violation).clone().map_or(Ok(()), Err)
    }
}

/// A place for a run's files: in memory where there is such a place.
fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a directory")
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
        Step::Away => "away",
        Step::Back => "back",
        Step::Replace(_) => "replace",
        Step::BackupDevice(_) => "backup_device",
        Step::RestoreDevice(_) => "restore_device",
        Step::CopyDevice(_) => "copy_device",
        Step::Migrate(..) => "migrate",
        Step::MigrateServer => "migrate_server",
        Step::Detach(..) => "detach",
        Step::Inbox(..) => "inbox",
        Step::SwitchUser(..) => "switch_user",
        Step::Damage(..) => "damage",
        Step::DropTrigger(..) => "drop_trigger",
        Step::Retain(_) => "retain",
    }
}
