//! One device: a file, the app's own connection to it, the client, and what happens to files: they
//! are copied while in use, lose their power, go back to a backup.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use sync_client::Client;

use crate::model::{Id, Row, State, TABLES, Val};
use crate::plan::{DeviceSetup, Joins};
use crate::power::{Log, Undurable};

/// Locks; a run that failed under a lock is judged by what it left.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One device.
pub(crate) struct Device {
    /// Its number.
    pub(crate) index: usize,
    /// What its app is like.
    pub(crate) setup: DeviceSetup,
    /// Whose it is.
    pub(crate) user: Mutex<String>,
    /// What was said becomes of the file's rows when it joins an account, if anything.
    pub(crate) joins: Mutex<Option<Joins>>,
    /// Whose account the file was last of, and that account's scope.
    pub(crate) joined: Mutex<String>,
    pub(crate) scope: Mutex<String>,
    /// The outbox after the last verb.
    pub(crate) outbox: Mutex<String>,
    dir: PathBuf,
    generation: AtomicU32,
    path: Mutex<PathBuf>,
    /// The app's own connection.
    pub(crate) app: Mutex<Option<Connection>>,
    /// The client, while its process runs.
    pub(crate) client: Mutex<Option<Client>>,
    /// A second writer, while it holds the lock.
    pub(crate) neighbour: Mutex<Option<Connection>>,
    /// Pages that the disk has room for; 0 for no end.
    pub(crate) room: AtomicU32,
    /// A migration dropped the capture since the client last looked.
    pub(crate) unseen: AtomicBool,
    /// The user's backup, the ledger's moment, whose it was, and as what it last joined.
    pub(crate) backup: Mutex<Option<(PathBuf, u64, String, String)>>,
    /// The files as a crash left them.
    pub(crate) crashed: Mutex<Option<Crashed>>,
    /// Commits of the app that the power may take.
    undurable: Mutex<Undurable>,
}

/// What a crash left.
#[derive(Debug, Clone)]
pub(crate) struct Crashed {
    path: PathBuf,
    /// The ledger's moment up to which the app's commits survived.
    pub(crate) survived: Option<u64>,
}

impl Device {
    /// A device with an empty file of this schema.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn make(
        dir: &Path,
        index: usize,
        setup: DeviceSetup,
        user: &str,
        schema: &str,
    ) -> rusqlite::Result<Self> {
        let path = dir.join(format!("device-{index}.db"));
        let conn = Connection::open(&path)?;
        conn.execute_batch(schema)?;
        drop(conn);
        let device = Self::of_file(dir, index, setup, user, path);
        device.open_app()?;
        Ok(device)
    }

    /// A device whose file is there.
    #[must_use]
    pub(crate) fn of_file(dir: &Path, index: usize, setup: DeviceSetup, user: &str, path: PathBuf) -> Self {
        Self {
            index,
            setup,
            user: Mutex::new(user.to_owned()),
            joins: Mutex::new(Some(setup.joins).filter(|j| *j != Joins::Merge)),
            joined: Mutex::new(user.to_owned()),
            scope: Mutex::default(),
            outbox: Mutex::new("none".into()),
            dir: dir.to_owned(),
            generation: AtomicU32::new(0),
            path: Mutex::new(path),
            app: Mutex::default(),
            client: Mutex::default(),
            neighbour: Mutex::default(),
            room: AtomicU32::new(0),
            unseen: AtomicBool::new(false),
            backup: Mutex::default(),
            crashed: Mutex::default(),
            undurable: Mutex::default(),
        }
    }

    /// Where the file is now.
    pub(crate) fn path(&self) -> PathBuf {
        lock(&self.path).clone()
    }

    /// The app starts.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn open_app(&self) -> rusqlite::Result<()> {
        let conn = Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.busy_timeout(std::time::Duration::ZERO)?;
        conn.set_prepared_statement_cache_capacity(128);
        conn.pragma_update(None, "foreign_keys", self.setup.foreign_keys)?;
        conn.pragma_update(None, "recursive_triggers", true)?;
        conn.pragma_update(None, "synchronous", if self.setup.durable { "FULL" } else { "NORMAL" })?;
        *lock(&self.app) = Some(conn);
        *lock(&self.undurable) = Undurable::default();
        Ok(())
    }

    /// Every process on this device ends in order.
    pub(crate) fn close(&self) {
        *lock(&self.client) = None;
        *lock(&self.neighbour) = None;
        *lock(&self.app) = None;
    }

    /// A fresh path for this device.
    pub(crate) fn next_path(&self, what: &str) -> PathBuf {
        let n = self.generation.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("device-{}-{what}-{n}.db", self.index))
    }

    /// Goes on with another file.
    pub(crate) fn use_file(&self, path: PathBuf) {
        *lock(&self.path) = path;
    }

    /// The app committed something at this moment of the ledger.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn committed(&self, conn: &Connection, before: Log, moment: u64) -> rusqlite::Result<()> {
        if self.setup.durable { Ok(()) } else { lock(&self.undurable).committed(conn, before, moment) }
    }

    /// Copies the files as they are on the disk at this moment; with `power`, without some of the app's last
    /// commits that were not durable.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn crash(&self, power: Option<u32>) -> std::io::Result<()> {
        let to = self.next_path("crash");
        copy_file(&self.path(), &to)?;
        let mut survived = None;
        if let Some(n) = power
            && let Some(conn) = lock(&self.app).as_ref()
            && let Ok(Some((left, moment))) = lock(&self.undurable).lose(conn, n)
        {
            survived = Some(moment - 1);
            std::fs::OpenOptions::new().write(true).open(suffixed(&to, "-wal"))?.set_len(left)?;
        }
        *lock(&self.crashed) = Some(Crashed { path: to, survived });
        Ok(())
    }

    /// Puts a copy of the file in its place, with all that was committed. False where somebody is writing.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn take_copy(&self) -> std::io::Result<bool> {
        let emptied = lock(&self.app).as_ref().and_then(|c| {
            // Until it reads, a connection does not know that there is a log by now.
            c.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0)).ok()?;
            c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0)).ok()
        });
        if emptied != Some(0) {
            return Ok(false);
        }
        let (path, copy) = (self.path(), self.next_path("copy"));
        std::fs::copy(&path, &copy)?;
        *lock(&self.app) = None;
        std::fs::rename(copy, &path)?;
        for suffix in ["-wal", "-shm"] {
            let beside = suffixed(&path, suffix);
            if beside.exists() {
                std::fs::remove_file(beside)?;
            }
        }
        self.open_app().map_err(std::io::Error::other)?;
        Ok(true)
    }

    /// The device starts again from what its crash left.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn come_back(&self) -> rusqlite::Result<Option<u64>> {
        self.close();
        let Some(left) = lock(&self.crashed).take() else { return Ok(None) };
        self.use_file(left.path);
        self.open_app()?;
        Ok(left.survived)
    }

    /// Every row of the app.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn rows(&self) -> rusqlite::Result<State> {
        let app = lock(&self.app);
        rows(app.as_ref().expect("invariant: the app runs"))
    }
}

/// Copies a database file and its log, whoever has it open. In this process only SQLite's own memory
/// keeps writers apart, so nothing is torn.
///
/// # Errors
/// The file system's.
pub(crate) fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    let (wal, to_wal) = (suffixed(from, "-wal"), suffixed(to, "-wal"));
    if wal.exists() {
        std::fs::copy(wal, to_wal)?;
    }
    Ok(())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Every row of the app's tables, typed.
///
/// # Errors
/// SQLite's.
pub(crate) fn rows(conn: &Connection) -> rusqlite::Result<State> {
    let mut out = State::new();
    for def in TABLES {
        let mut s = match conn.prepare_cached(&format!("SELECT * FROM {}", def.name)) {
            Ok(s) => s,
            Err(e) if def.name == "extras" && e.to_string().contains("no such table") => continue,
            Err(e) => return Err(e),
        };
        let names: Vec<Arc<str>> = s.column_names().map(Into::into).collect();
        let mut found = s.query([])?;
        while let Some(r) = found.next()? {
            let row: Row = names.iter().enumerate().map(|(i, n)| (Arc::clone(n), val(r.get_ref_unwrap(i)))).collect();
            let key: Vec<Val> = def.key.iter().map(|k| row[*k].clone()).collect();
            out.insert((def.name, key), row);
        }
    }
    Ok(out)
}

fn val(v: ValueRef<'_>) -> Val {
    match v {
        ValueRef::Null => Val::Null,
        ValueRef::Integer(i) => Val::Int(i),
        ValueRef::Real(r) => Val::Real(r.to_bits()),
        ValueRef::Text(t) => Val::Text(String::from_utf8_lossy(t).into_owned()),
        ValueRef::Blob(b) => Val::Blob(b.to_vec()),
    }
}

/// What the client's own tables say.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Whether the file is attached and owes no rebuild.
    pub(crate) settled: bool,
    /// The account's scope, once the file met it.
    pub(crate) scope: String,
    /// The checkpoint.
    pub(crate) checkpoint: i64,
    /// Rows whose latest state the server may not have.
    pub(crate) intents: std::collections::BTreeSet<Id>,
    /// Of these, rows that a refusal holds back.
    pub(crate) held: std::collections::BTreeSet<Id>,
    /// Rows that were set aside, or left their table.
    pub(crate) aside: std::collections::BTreeSet<Id>,
    /// Rows that this file means to have from the server.
    pub(crate) fetched: std::collections::BTreeSet<Id>,
    /// State of the outbox.
    pub(crate) outbox: String,
    /// The kind and the reason of each inbox entry.
    pub(crate) reasons: Vec<String>,
    /// Every inbox entry, as text.
    pub(crate) inbox: Vec<String>,
}

impl Seen {
    /// Whether the row may be another one here than on the server.
    pub(crate) fn in_motion(&self, id: &Id) -> bool {
        [&self.intents, &self.aside, &self.fetched].into_iter().any(|of| of.contains(id))
    }
}

/// Reads the client's own tables. `None` where the file is not a synced one.
///
/// # Errors
/// SQLite's.
pub(crate) fn seen(conn: &Connection) -> rusqlite::Result<Option<Seen>> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = '_sync_meta'";
    if conn.query_row(sql, [], |r| r.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let meta = |name: &str| -> rusqlite::Result<i64> {
        conn.query_row("SELECT count(*), max(CAST(value AS INTEGER)) FROM _sync_meta WHERE name = ?", [name], |r| {
            Ok(if r.get::<_, i64>(0)? == 0 { 0 } else { r.get::<_, Option<i64>>(1)?.unwrap_or(1) })
        })
    };
    let count = |name: &str| -> rusqlite::Result<i64> {
        conn.query_row("SELECT count(*) FROM _sync_meta WHERE name = ?", [name], |r| r.get(0))
    };
    let mut out = Seen {
        settled: meta("attached")? != 0 && count("rebuild")? == 0,
        scope: conn.query_row(
            "SELECT coalesce(max(CAST(value AS TEXT)), '') FROM _sync_meta WHERE name = 'scope_id'",
            [],
            |r| r.get(0),
        )?,
        checkpoint: meta("checkpoint")?,
        outbox: conn.query_row("SELECT coalesce(max(state), 'none') FROM _sync_outbox", [], |r| r.get(0))?,
        ..Seen::default()
    };
    let mut s = conn.prepare_cached("SELECT id, name FROM _sync_table")?;
    let tables: Vec<(i64, String)> = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
    for (t, name) in tables {
        let Some(def) = crate::model::table(&name) else { continue };
        let mut s = conn.prepare_cached(
            "SELECT k, held IS NOT NULL, 0 FROM _sync_dirty WHERE t = ?1 \
             UNION ALL SELECT k, 0, 0 FROM _sync_out WHERE t = ?1 \
             UNION ALL SELECT k, 0, 1 FROM _sync_row WHERE t = ?1 AND v = 0",
        )?;
        let mut found = s.query([t])?;
        while let Some(r) = found.next()? {
            let key = sync_core::key::Key::from_stored(r.get(0)?).unpack().unwrap_or_default();
            let id = (def.name, key.into_iter().map(of_value).collect::<Vec<_>>());
            if r.get::<_, bool>(1)? {
                out.held.insert(id.clone());
            }
            if r.get::<_, bool>(2)? {
                out.fetched.insert(id);
            } else {
                out.intents.insert(id);
            }
        }
        let columns: Vec<String> = conn
            .prepare_cached("SELECT name FROM pragma_table_info(?)")?
            .query_map([def.name], |r| r.get(0))?
            .collect::<Result<_, _>>()?;
        let at: Vec<String> =
            def.key.iter().map(|k| format!("c{}", columns.iter().position(|c| c == k).unwrap_or_default())).collect();
        // A detached file has no logs.
        let log = format!("_sync_log_{t}");
        if conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = ?")?.exists([&log])? {
            let mut s = conn.prepare_cached(&format!("SELECT DISTINCT {} FROM {log}", at.join(", ")))?;
            let mut found = s.query([])?;
            while let Some(r) = found.next()? {
                let key = (0..at.len()).map(|i| val(r.get_ref_unwrap(i))).collect();
                out.intents.insert((def.name, key));
            }
        }
    }
    let mut s = conn.prepare_cached(
        "SELECT tbl, key, reason, kind || ' ' || reason, kind || ' ' || op || ' ' || tbl || ' ' || key || ' ' || reason || ': ' ||
           coalesce(local_row, '') || ' / ' || coalesce(server_row, '') FROM _sync_inbox",
    )?;
    let mut found = s.query([])?;
    while let Some(r) = found.next()? {
        let (table, key, reason): (String, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
        if reason.starts_with("set_aside")
            && let Some(def) = crate::model::table(&table)
            && let Ok(json) = serde_json::from_str(&key)
            && let Ok(key) = crate::wire::read_key(def, &json)
        {
            out.aside.insert((def.name, key));
        }
        out.reasons.push(r.get(3)?);
        out.inbox.push(r.get(4)?);
    }
    Ok(Some(out))
}

fn of_value(v: sync_client::Value) -> Val {
    match v {
        sync_client::Value::Null => Val::Null,
        sync_client::Value::Integer(i) => Val::Int(i),
        sync_client::Value::Real(r) => Val::Real(r.to_bits()),
        sync_client::Value::Text(s) => Val::Text(s),
        sync_client::Value::Blob(b) => Val::Blob(b),
    }
}
