//! The replica check: real `sync-client` devices on the backend, with files of the profile's tables. After
//! a seeded workload every file must have the same rows, the backend's snapshot too, and nothing may be
//! left to send.

mod file;
mod transport;
mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use sync_client::{Client, ErrorClass};
use tempfile::TempDir;

use self::file::{Dump, dump, served};
use self::transport::Recorder;
use self::workload::{Edits, Workload};
use crate::checks::Story;
use crate::lab::{Checked, Device, Lab, Stop, fail, not_offered, want};
use crate::profile::Table;
use crate::random::Random;

/// Runs a story and compares what came of it.
pub(crate) fn run(lab: &Lab<'_>, story: Story) -> Checked {
    let world = World::new(lab, story)?;
    let told = match story {
        Story::Rows => world.rows(),
        Story::Links | Story::Random => world.random(story),
        Story::Together => world.together(),
        Story::Joined => world.joined(),
    };
    world.recorder.hand_over(lab);
    told.map_err(|stop| match stop {
        Stop::Fail { expected, got } => Stop::Fail { expected, got: format!("{got} (seed {})", lab.subject.seed) },
        stop => stop,
    })
}

/// One user's devices.
struct World<'l> {
    lab: &'l Lab<'l>,
    dir: TempDir,
    /// The backend as anybody sees it.
    raw: Device<'l>,
    token: String,
    recorder: Arc<Recorder>,
    tables: Vec<&'l Table>,
}

/// A file and what syncs it.
struct Replica<'l> {
    name: String,
    app: Connection,
    client: Client,
    work: Workload<'l>,
}

impl<'l> World<'l> {
    fn new(lab: &'l Lab<'_>, story: Story) -> Checked<Self> {
        let tables = file::usable(&lab.subject.profile.tables);
        let linked = tables.iter().any(|t| t.columns.iter().any(|c| c.references.is_some()));
        if tables.is_empty() {
            return not_offered("the profile has no table whose every column is of a kind that can be filled");
        }
        if story == Story::Links && !linked {
            return not_offered("the profile has no foreign key");
        }
        let (raw, token) = lab.user_and_token()?;
        let raw = if lab.subject.exact() { raw.exact() } else { raw };
        let recorder = Recorder::new(lab, raw.user_id()).map_err(|e| broken(&e))?;
        let dir = TempDir::new().map_err(|e| broken(&e))?;
        Ok(Self { lab, dir, raw, token, recorder: Arc::new(recorder), tables })
    }

    /// A file of the profile's tables, and its app.
    fn file(&self, name: &str) -> Checked<(PathBuf, Connection)> {
        let path = self.dir.path().join(format!("{name}.db"));
        let app = Connection::open(&path).map_err(|e| broken(&e))?;
        app.busy_timeout(Duration::from_secs(20)).map_err(|e| broken(&e))?;
        app.execute_batch(&file::ddl(&self.tables)).map_err(|e| broken(&e))?;
        Ok((path, app))
    }

    fn replica(&self, name: &str, edits: Edits) -> Checked<Replica<'l>> {
        let (path, app) = self.file(name)?;
        self.attach(name, path, app, edits)
    }

    fn attach(&self, name: &str, path: PathBuf, app: Connection, edits: Edits) -> Checked<Replica<'l>> {
        let token = self.token.clone();
        let names: Vec<&str> = self.tables.iter().map(|t| t.name.as_str()).collect();
        let client = Client::builder(path)
            .server(&self.lab.subject.base)
            .token(move |_| Ok(token.clone()))
            .tables(&names)
            .transport(Arc::clone(&self.recorder) as _)
            .open()
            .map_err(|e| broken(&e))?;
        Ok(Replica { name: name.to_owned(), app, client, work: self.workload(name, edits) })
    }

    fn workload(&self, name: &str, edits: Edits) -> Workload<'l> {
        let part = name.bytes().fold(0, |n, b| n * 256 + u64::from(b));
        Workload::new(self.tables.clone(), name, edits, Random::new(self.lab.subject.seed, part))
    }

    /// One device writes what it likes. No other does, so every value must arrive as it was written.
    fn rows(&self) -> Checked {
        let (mut a, b) = (self.replica("a", Edits::Own)?, self.replica("b", Edits::Own)?);
        for round in 0..ROUNDS {
            a.work.edit(&a.app, 25)?;
            let written = self.dump(&a)?;
            self.sync(&a)?;
            self.sync(&b)?;
            let waiting = a.client.rejected().map_err(|e| broken(&e))?;
            let first = waiting.first().map(|r| format!("{} {} of {}: {}", r.op, r.key, r.table, r.message));
            let expected = "rows that keep to the schema are committed";
            want!(waiting.is_empty(), expected, "round {round}: {}", first.unwrap_or_default());
            let after = self.dump(&a)?;
            let expected = "what a device wrote stays as it wrote it";
            want!(written == after, expected, "round {round}: {}", file::difference(&written, &after));
        }
        self.settle(&[a, b])
    }

    /// Devices write, and sync now and then, in any order.
    fn random(&self, story: Story) -> Checked {
        let edits = if story == Story::Links { Edits::Links } else { Edits::Shared };
        let mut all = vec![self.replica("a", edits)?, self.replica("b", edits)?];
        if story == Story::Random {
            all.push(self.replica("c", edits)?);
        }
        let mut random = Random::new(self.lab.subject.seed, 0);
        for _ in 0..STEPS {
            let n = random.below(all.len() as u64) as usize;
            let r = &mut all[n];
            r.work.edit(&r.app, 1 + random.below(6) as usize)?;
            if random.once_in(3) {
                self.sync(r)?;
            }
        }
        self.settle(&all)
    }

    /// The same at the same time.
    fn together(&self) -> Checked {
        let mut all = Vec::new();
        for name in ["a", "b", "c"] {
            all.push(self.replica(name, Edits::Shared)?);
        }
        // The first sync decides who begins.
        self.sync(&all[0])?;
        let results: Vec<Checked> = std::thread::scope(|scope| {
            let threads: Vec<_> = all
                .iter_mut()
                .map(|r| {
                    scope.spawn(move || {
                        for _ in 0..ROUNDS {
                            r.work.edit(&r.app, 8)?;
                            self.sync(r)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("invariant: devices do not panic")).collect()
        });
        results.into_iter().collect::<Checked>()?;
        self.settle(&all)
    }

    /// Others come when there is something already: one with nothing, one with rows of its own.
    fn joined(&self) -> Checked {
        let mut a = self.replica("a", Edits::Shared)?;
        for _ in 0..2 {
            a.work.edit(&a.app, 40)?;
            self.sync(&a)?;
        }
        let b = self.replica("b", Edits::Shared)?;
        let (path, app) = self.file("c")?;
        self.workload("c", Edits::Shared).edit(&app, 20)?;
        let c = self.attach("c", path, app, Edits::Shared)?;
        self.settle(&[a, b, c])
    }

    /// Syncs; what another device's seed or the backend puts off is tried again.
    fn sync(&self, r: &Replica<'_>) -> Checked {
        loop {
            let Err(e) = r.client.sync() else { return Ok(()) };
            let wait = match &e {
                sync_client::Error::RetryLater { seconds } => *seconds,
                sync_client::Error::Offline { retry_after: Some(seconds), .. } => *seconds,
                e if e.class() == ErrorClass::Offline => return Err(Stop::Inconclusive(e.to_string())),
                e if e.class() == ErrorClass::Local => return Err(broken(e)),
                e => {
                    return fail("a device that keeps to the protocol gets its syncs done", format!("{}: {e}", r.name));
                }
            };
            self.lab.wait(Duration::from_secs(wait.max(1)))?;
        }
    }

    /// Syncs all until nothing moves; then all files, and what anybody sees of the backend, are equal.
    fn settle(&self, all: &[Replica<'_>]) -> Checked {
        let mut quiet = false;
        for _ in 0..PATIENCE {
            let before = self.moved(all)?;
            for r in all {
                self.sync(r)?;
                self.give_up(r)?;
            }
            quiet = self.moved(all)? == before;
            if quiet {
                break;
            }
        }
        want!(quiet, "devices come to rest", "after {PATIENCE} rounds they still send");
        let first = self.dump(&all[0])?;
        for r in all {
            let s = r.client.status().map_err(|e| broken(&e))?;
            let clean = s.pending_rows == 0 && s.outbox_rows == 0;
            want!(clean, "nothing is left to send", "{}: {} rows, outbox {}", r.name, s.pending_rows, s.outbox);
            let own = self.dump(r)?;
            let expected = "all devices end with the same rows";
            want!(own == first, expected, "{} and {}: {}", all[0].name, r.name, file::difference(&first, &own));
        }
        let session = self.raw.snapshot()?;
        let rows = self.raw.snapshot_all(&session, 1000)?;
        let served = served(&self.tables, &rows)?;
        let expected = "the backend has the rows that its devices have";
        want!(served == first, expected, "{}", file::difference(&first, &served));
        want!(!first.values().all(|rows| rows.is_empty()), "a workload leaves rows", "none");
        Ok(())
    }

    /// How far the devices are.
    fn moved(&self, all: &[Replica<'_>]) -> Checked<Vec<(i64, u64, u64)>> {
        let status = |r: &Replica<'_>| {
            let s = r.client.status().map_err(|e| broken(&e))?;
            Ok((s.checkpoint, s.pending_rows, s.rejected_rows))
        };
        all.iter().map(status).collect()
    }

    /// What waits for a person is given up, as a person might.
    fn give_up(&self, r: &Replica<'_>) -> Checked {
        for row in r.client.rejected().map_err(|e| broken(&e))? {
            let dropped =
                if row.id == 0 { r.client.drop_row(&row.table, &row.key) } else { r.client.drop_entry(row.id) };
            dropped.map_err(|e| broken(&e))?;
        }
        Ok(())
    }

    fn dump(&self, r: &Replica<'_>) -> Checked<Dump> {
        dump(&self.tables, &r.app).map_err(|e| broken(&e))
    }
}

/// Not the backend's fault.
fn broken(e: &dyn std::error::Error) -> Stop {
    Stop::Inconclusive(format!("the suite's own device: {e}"))
}

/// When a lab's time is up.
fn deadline(lab: &Lab<'_>) -> Instant {
    Instant::now() + lab.left()
}

const ROUNDS: usize = 6;
const STEPS: usize = 40;
/// Rounds of syncs after which devices must be at rest.
const PATIENCE: usize = 20;
