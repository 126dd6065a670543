//! A server and the devices of one user: real programs, real files.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::Outcome;
use crate::model::{Batch, Model, SCHEMA};
use crate::process::{Process, Programs, run};

/// The user, and so the token of a server that runs with `--dev`.
pub(crate) const USER: &str = "ann";

/// A file, and the app's own connection to it.
pub(crate) struct Device {
    pub(crate) name: &'static str,
    pub(crate) conn: Connection,
    /// Under which it writes, as the first check found it.
    pub(crate) source: Option<String>,
}

impl Device {
    pub(crate) fn file(&self) -> String {
        file_of(self.name)
    }
}

pub(crate) fn file_of(device: &str) -> String {
    format!("{device}.db")
}

/// Everything of one run.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) programs: Programs,
    pub(crate) devices: Vec<Device>,
    pub(crate) model: Model,
    /// Sources of all devices that ever were.
    pub(crate) sources: BTreeSet<String>,
    server: Option<Process>,
    port: u16,
}

/// What `sync-client status` says.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) pending: i64,
    pub(crate) checkpoint: i64,
    pub(crate) source: String,
}

impl World {
    /// A server with two devices, `a` and `b`, that are in step.
    pub(crate) fn new(programs: Programs) -> Outcome<Self> {
        let mut world = Self::unseeded(programs)?;
        world.sync(0)?;
        world.join("b")?;
        Ok(world)
    }

    /// A server that has nothing, and the device `a` with rows, ready for its first sync.
    pub(crate) fn unseeded(programs: Programs) -> Outcome<Self> {
        let dir = TempDir::new()?;
        std::fs::write(dir.path().join("schema.sql"), SCHEMA)?;
        // Freed at once, so that the server can come back under the address that the files remember.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut world = Self {
            dir,
            programs,
            devices: Vec::new(),
            model: Model::default(),
            sources: BTreeSet::new(),
            server: None,
            port,
        };
        world.start_server(None)?;
        Connection::open(world.path("a"))?.execute_batch(SCHEMA)?;
        world.open("a")?;
        world.edit(0, Batch { fresh: 220, shared: true, tangled: false })?;
        let url = world.url();
        world.client(&["init", "a.db", "--server", &url, "--all", "--token", USER])?;
        Ok(world)
    }

    /// A device joins that has nothing yet.
    pub(crate) fn join(&mut self, name: &'static str) -> Outcome<()> {
        self.client(&["clone", &self.url(), &file_of(name), "--token", USER])?;
        self.open(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn path(&self, device: &str) -> PathBuf {
        self.dir.path().join(file_of(device))
    }

    /// Adds a device whose file is there.
    pub(crate) fn open(&mut self, name: &'static str) -> Outcome<()> {
        let conn = Connection::open(self.path(name))?;
        conn.busy_timeout(Duration::from_secs(20))?;
        conn.execute_batch("PRAGMA foreign_keys = ON")?;
        self.devices.push(Device { name, conn, source: None });
        Ok(())
    }

    /// Starts the server, to stand still at `fault`.
    pub(crate) fn start_server(&mut self, fault: Option<&str>) -> Outcome<()> {
        let mut command = std::process::Command::new(&self.programs.server);
        command.current_dir(self.dir.path()).env("RUST_LOG", "warn").env_remove("SYNC_SERVER_FAULT");
        command.args(["serve", "--schema", "schema.sql", "--data", "data", "--dev"]);
        // Small chunks, so that an upload has several.
        command.args(["--max-rows-per-push-chunk", "100", "--listen", &format!("127.0.0.1:{}", self.port)]);
        if let Some(fault) = fault {
            command.env("SYNC_SERVER_FAULT", fault);
        }
        let mut server = Process::start("sync-server", &mut command)?;
        server.wait_for("listening on")?;
        self.server = Some(server);
        Ok(())
    }

    pub(crate) fn server(&mut self) -> Outcome<&mut Process> {
        self.server.as_mut().ok_or_else(|| "the server is not running".into())
    }

    /// `kill -9` of the server. Whether it was running until then.
    pub(crate) fn kill_server(&mut self) -> Outcome<bool> {
        self.server.take().ok_or("the server is not running")?.kill()
    }

    /// The app writes.
    pub(crate) fn edit(&mut self, device: usize, batch: Batch) -> Outcome<()> {
        let d = &mut self.devices[device];
        self.model.edit(&mut d.conn, d.name, batch)
    }

    /// Runs a command of the client, which must succeed.
    pub(crate) fn client(&self, args: &[&str]) -> Outcome<String> {
        run(&format!("sync-client {}", args.join(" ")), &mut self.programs.client(self.dir.path(), args))
    }

    /// Starts a command of the client, to stand still at `fault`.
    pub(crate) fn start_client(&self, args: &[&str], fault: Option<&str>) -> Outcome<Process> {
        let mut command = self.programs.client(self.dir.path(), args);
        if let Some(fault) = fault {
            command.env("SYNC_CLIENT_FAULT", fault);
        }
        Process::start(format!("sync-client {}", args.join(" ")), &mut command)
    }

    pub(crate) fn sync(&self, device: usize) -> Outcome<()> {
        let file = self.devices[device].file();
        let ended = self.start_client(&["sync", &file], None)?.end()?;
        match ended.code {
            // 5 is done, too: the inbox has something for a person, which the check looks at.
            Some(0 | 5) => Ok(()),
            code => Err(format!("sync of {file} ended with {code:?}:\n{}{}", ended.stdout, ended.stderr).into()),
        }
    }

    pub(crate) fn status(&self, device: &str) -> Outcome<Status> {
        let said: Value = serde_json::from_str(&self.client(&["status", &file_of(device), "--json"])?)?;
        let number = |name: &str| said[name].as_i64().ok_or_else(|| format!("the status lacks {name}"));
        Ok(Status {
            pending: number("pending_rows")?,
            checkpoint: number("checkpoint")?,
            source: said["source_id"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Whether a device has something to send, or to fetch.
    pub(crate) fn in_flight(&self, device: &str, latest: i64) -> Outcome<bool> {
        let status = self.status(device)?;
        Ok(status.pending > 0 || status.checkpoint < latest)
    }

    /// Syncs every device until each has what the others had.
    pub(crate) fn settle(&self) -> Outcome<()> {
        for _ in 0..2 {
            for device in 0..self.devices.len() {
                self.sync(device)?;
            }
        }
        Ok(())
    }
}
