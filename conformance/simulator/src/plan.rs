//! A plan: everything that happens in one run, in order. The seed makes it; shrinking takes parts of it
//! away; a file keeps it.

use serde::{Deserialize, Serialize};

use crate::app::Sql;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Also seeds ids and jitter inside the run.
    pub seed: u64,
    /// Who takes part.
    pub setup: Setup,
    /// What happens.
    pub steps: Vec<Step>,
}

/// The world before the first step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The devices.
    pub devices: Vec<DeviceSetup>,
    /// Bundles that the server keeps.
    pub retained: i64,
    /// Rows of a chunk and of a page.
    pub page_rows: i64,
    /// Rows of a bundle; 0 for no limit.
    pub bundle_rows: i64,
    /// Whether the server has rules.
    #[serde(default)]
    pub rules: bool,
    /// Whether SQLite gives the number of a deleted row to a new one (a key without AUTOINCREMENT).
    #[serde(default)]
    pub numbers_again: bool,
    /// Whether the files are copies of one, with a few rows changed, that become known to the account as strangers.
    #[serde(default)]
    pub twins: bool,
    /// Whether the apps keep helpers beside the table with INTEGER keys.
    #[serde(default)]
    pub helpers: bool,
    /// What stands between the devices and the server until faults stop.
    #[serde(default)]
    pub way: Way,
}

/// What stands between the devices and the server for a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Nothing.
    #[default]
    Clear,
    /// The server refuses rows without naming them, with a 500.
    NoNames,
    /// A proxy has a page of its own for every error reply.
    NoWords,
    /// A filter answers some texts with this status, or with a reset where it is 0.
    Filter(u16),
    /// A proxy takes no large requests.
    Narrow,
    /// The server is of the June dialect: it rounds, and names no row. It stays.
    June,
}

/// One device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSetup {
    /// What wins.
    pub policy: Wins,
    /// Whether the app has foreign keys on.
    pub foreign_keys: bool,
    /// Whether the app's commits are durable (`synchronous=FULL`) or may be lost with the power.
    pub durable: bool,
    /// Whether an edit of a note or a tag brings back what it belongs to.
    #[serde(default)]
    pub keep: bool,
    /// Whose it is at first: 0 or 1.
    #[serde(default)]
    pub user: u8,
    /// What becomes of its rows when it joins an account.
    #[serde(default)]
    pub joins: Joins,
}

/// What becomes of a file's rows when it joins an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Joins {
    /// Both sides are kept.
    #[default]
    Merge,
    /// The account's rows replace them.
    TakeRemote,
    /// Nothing happens where both have rows; a person then says `Merge`.
    Fail,
    /// The file is a copy of one that the account has.
    Copy,
}

/// A conflict policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wins {
    /// The default.
    Server,
    /// The local row.
    Client,
    /// A function of the app's that merges column by column.
    Custom,
    /// Column by column; the server's where both changed.
    Columns,
    /// Column by column; the local one's where both changed.
    OwnColumns,
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The app writes, each statement by itself or in one transaction.
    App(AppStep),
    /// A verb of the client, with what goes wrong meanwhile.
    Verb(VerbStep),
    /// Time passes.
    Wait(i64),
    /// The client's process ends in order and starts again.
    Reopen(usize),
    /// The server stops in order and starts again.
    RestartServer,
    /// The server's operator makes a backup.
    Backup,
    /// The server's operator goes back to the last backup.
    Restore,
    /// The server's disk is lost, with everything.
    Wipe,
    /// The server starts without its data: its disk is not there.
    Away,
    /// Its disk is there again.
    Back,
    /// The user makes a backup of a device's file.
    BackupDevice(usize),
    /// The user goes back to it.
    RestoreDevice(usize),
    /// The file is copied to a new device, which goes on with it.
    CopyDevice(usize),
    /// The app migrates its schema while nothing syncs.
    Migrate(usize, Migration),
    /// The server gets the newest schema.
    MigrateServer,
    /// Detach; the next verb attaches again.
    Detach(usize, Leave),
    /// A person retries or drops what waits in the inbox.
    Inbox(usize, bool),
    /// Another user signs in on a device: it is detached so, and joins that account so.
    SwitchUser(usize, u8, Leave, Joins),
    /// A row of a device changes behind everybody's back, and `verify` repairs it, with the server's row or the
    /// file's.
    Damage(usize, bool),
    /// A copy of the file takes its place, while the client has it open.
    Replace(usize),
    /// A trigger of ours goes, and the app writes on.
    DropTrigger(u8, AppStep),
    /// The server keeps so many bundles from now on.
    Retain(i64),
}

/// What an app does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStep {
    /// Which device.
    pub device: usize,
    /// The statements.
    pub sql: Vec<Sql>,
    /// In one transaction.
    pub together: bool,
    /// Which is rolled back.
    pub undone: bool,
}

/// A verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerbStep {
    /// Which device.
    pub device: usize,
    /// Which verb.
    pub verb: Verb,
    /// What goes wrong, or happens meanwhile.
    pub faults: Vec<Planned>,
}

/// The client's verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Push and pull until done.
    Sync,
    /// Push only.
    Push,
    /// Pull only.
    Pull,
    /// Everything anew.
    Rebuild,
    /// Only join the account.
    Attach,
    /// Push and pull for a moment.
    Brief,
    /// Push and pull for a few bytes.
    Frugal,
    /// Compare the file with the server.
    Verify,
    /// The same, and repair what differs.
    Repair,
    /// Take up what another device exported.
    Import,
}

impl Verb {
    /// Every verb.
    pub const ALL: &[Self] = &[
        Self::Sync,
        Self::Push,
        Self::Pull,
        Self::Rebuild,
        Self::Attach,
        Self::Brief,
        Self::Frugal,
        Self::Verify,
        Self::Repair,
        Self::Import,
    ];
}

/// What becomes of pending work in a detach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leave {
    /// There may be none.
    Clean,
    /// It stays.
    Keep,
    /// It is undone.
    Discard,
    /// It moves into a file that another device can import.
    Export,
}

/// Something that happens during a verb: at its `at`-th hook, or at the next one where it can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Hooks before it.
    pub at: u32,
    /// What.
    pub what: Fault,
}

/// What can happen during a verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The request never arrives.
    RequestLost,
    /// The server does it, and nobody hears.
    ReplyLost,
    /// The request arrives twice.
    Duplicated,
    /// The request is given up, and arrives after so many others.
    Late(u32),
    /// The reply breaks after so many bytes.
    Cut(u32),
    /// A proxy answers with this status.
    Status(u16),
    /// A page of bundles arrives with one left out, or with another text in a row.
    Tampered(u32),
    /// A cache answers with what the same page of bundles was when it was first asked for.
    Stale,
    /// The client dies here; its file stays as it is.
    CrashClient,
    /// The power goes: what was not durable may be gone.
    PowerCut(u32),
    /// The server dies at its next fault point of this number.
    CrashServer(usize),
    /// The server restarts in order.
    RestartServer,
    /// The server's operator goes back to the last backup.
    Restore,
    /// The server loses everything.
    Wipe,
    /// An app writes, on this or another device.
    App(AppStep),
    /// Another device syncs.
    Sync(usize),
    /// A second writer holds the file's write lock until so many hooks later.
    Busy(u32),
    /// The clock jumps.
    Clock(i64),
    /// The disk has room for so many more pages only, until the verb ends.
    DiskFull(u32),
    /// The app changes its schema.
    Migrate(Migration),
}

/// Schema changes of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Migration {
    /// `ALTER TABLE … ADD COLUMN`.
    AddColumn,
    /// A new table.
    AddTable,
    /// A new index.
    AddIndex,
    /// Create, copy, drop, rename.
    RebuildTable,
    /// Rename, create, copy; the old table stays as a backup.
    RenameAside,
    /// Two tables get each other's names.
    SwapNames,
}

impl Migration {
    /// Every kind.
    pub const ALL: &[Self] =
        &[Self::AddColumn, Self::AddTable, Self::AddIndex, Self::RebuildTable, Self::RenameAside, Self::SwapNames];
}
