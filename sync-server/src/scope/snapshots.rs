//! Frozen snapshots: a sorted copy of a scope's live rows in a side file, so that nothing pins the
//! scope while a slow reader pages through.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, params};
use sync_core::key::Key;
use sync_core::protocol::{ApiError, Code};
use sync_core::wire::{Form, push_key, push_payload};

use super::fail::{Fail, Outcome};
use super::{Scope, lock, side};
use crate::limits::Limits;

/// A snapshot that can be read.
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) seq: i64,
    pub(crate) rows: i64,
    /// The scope's numbers of its tables with their rows, in the order of the rows.
    pub(crate) tables: Vec<(i64, i64)>,
    pub(crate) expires_ms: AtomicI64,
    path: PathBuf,
    conn: Mutex<Option<Connection>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("id", &self.id).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Reads rows after `next`, up to `end`, until `each` says to stop. Returns where it stopped.
    pub(crate) fn rows(
        &self,
        next: i64,
        end: i64,
        mut each: impl FnMut(i64, i64, &str, &str) -> Outcome<bool>,
    ) -> Outcome<i64> {
        let gone = || Fail::from(not_found(&self.id));
        let mut slot = lock(&self.conn);
        let conn = match slot.take() {
            Some(c) => c,
            None if self.path.exists() => side::open(&self.path, false)?,
            None => return Err(gone()),
        };
        let mut at = next;
        {
            let mut s =
                conn.prepare_cached("SELECT n, tab, version, key, payload FROM row WHERE n > ? AND n <= ? ORDER BY n")?;
            let mut rows = s.query(params![next, end])?;
            while let Some(r) = rows.next()? {
                at = r.get(0)?;
                let text = |i| r.get_ref(i)?.as_str().map_err(|_| Fail::Damaged("a snapshot"));
                if !each(r.get(1)?, r.get(2)?, text(3)?, text(4)?)? {
                    break;
                }
            }
        }
        *slot = Some(conn);
        if at == next && next < end { Err(gone()) } else { Ok(at) }
    }
}

/// `snapshot_session_not_found`, in its own words.
pub(crate) fn not_found(id: &str) -> ApiError {
    ApiError::new(Code::SnapshotSessionNotFound, format!("snapshot session {id} was not found"))
}

/// What a build yields.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) rows: i64,
    pub(crate) bytes: i64,
    /// As in [`Snapshot`].
    pub(crate) tables: Vec<(i64, i64)>,
}

/// Copies the live rows of a scope, tables by name and rows by key, in the read transaction of `from`.
pub(crate) fn build(
    from: &Connection,
    scope: &Scope,
    to: &Connection,
    limits: &Limits,
    mut midway: impl FnMut(),
) -> Outcome<Built> {
    to.execute_batch(
        "PRAGMA journal_mode = OFF; CREATE TABLE row (n INTEGER PRIMARY KEY, tab, version, key TEXT, payload TEXT);
         CREATE TABLE part (n INTEGER PRIMARY KEY, tab INTEGER, rows INTEGER);
         CREATE TABLE meta (user TEXT, seq INTEGER, rows INTEGER); BEGIN;",
    )?;
    let mut built = Built::default();
    let mut list =
        from.prepare_cached("SELECT key, version FROM _sync_row WHERE tab = ? AND deleted = 0 ORDER BY key")?;
    let mut put = to.prepare("INSERT INTO row VALUES (?, ?, ?, ?, ?)")?;
    let (mut key_text, mut payload) = (String::new(), String::new());
    for (at, t) in scope.loaded.tables.iter().enumerate() {
        let before = built.rows;
        let mut rows = list.query([scope.id(at)])?;
        while let Some(r) = rows.next()? {
            let key = Key::from_stored(r.get(0)?).unpack().map_err(|_| Fail::Damaged("a key"))?;
            let row = t.sql.read(from, &key)?.ok_or(Fail::Damaged("a row that history has"))??;
            key_text.clear();
            payload.clear();
            push_key(&mut key_text, &t.table, &key, Form::Exact);
            push_payload(&mut payload, &t.table, &t.order, &row, Form::Exact);
            built.rows += 1;
            built.bytes += payload.len() as i64;
            exceeded("row_count", built.rows, limits.max_rows_per_snapshot_session)?;
            exceeded("byte_count", built.bytes, limits.max_bytes_per_snapshot_session)?;
            put.execute(params![built.rows, scope.id(at), r.get::<_, i64>(1)?, key_text, payload])?;
            if built.rows == 1 {
                midway();
            }
        }
        if built.rows > before {
            built.tables.push((scope.id(at), built.rows - before));
        }
    }
    Ok(built)
}

/// Ends a build: a file with this row is complete.
pub(crate) fn finish(to: &Connection, user: &str, seq: i64, built: &Built) -> Outcome<()> {
    for (tab, rows) in &built.tables {
        to.execute("INSERT INTO part (tab, rows) VALUES (?, ?)", [tab, rows])?;
    }
    to.execute("INSERT INTO meta VALUES (?, ?, ?)", params![user, seq, built.rows])?;
    Ok(to.execute_batch("COMMIT")?)
}

fn exceeded(dimension: &str, actual: i64, limit: i64) -> Outcome<()> {
    if limit <= 0 || actual <= limit {
        return Ok(());
    }
    let text = format!("the snapshot's {dimension} exceeds the limit of {limit}");
    Err(ApiError::new(Code::SnapshotSessionLimitExceeded, text)
        .with_text("dimension", dimension)
        .with_integer("actual", actual)
        .with_integer("limit", limit)
        .into())
}

/// User, place in history, rows, and tables with their rows.
type SnapshotMeta = (String, i64, i64, Vec<(i64, i64)>);

fn read_meta(path: &Path) -> rusqlite::Result<SnapshotMeta> {
    let conn = side::open(path, false)?;
    let tables = conn
        .prepare("SELECT tab, rows FROM part ORDER BY n")?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    conn.query_row("SELECT user, seq, rows FROM meta", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, tables)))
}

/// The snapshots that can be read.
#[derive(Debug)]
pub(crate) struct Snapshots {
    dir: PathBuf,
    all: Mutex<BTreeMap<String, Arc<Snapshot>>>,
}

impl Snapshots {
    /// Takes over what a former run left, for one more term each; drops what is incomplete.
    pub(crate) fn load(dir: PathBuf, expires_ms: i64) -> std::io::Result<Self> {
        let mut all = BTreeMap::new();
        for (id, path) in side::list(&dir)? {
            match read_meta(&path) {
                Ok((user, seq, rows, tables)) => {
                    let s = Snapshot {
                        id: id.clone(),
                        user,
                        seq,
                        rows,
                        tables,
                        expires_ms: AtomicI64::new(expires_ms),
                        path,
                        conn: Mutex::new(None),
                    };
                    all.insert(id, Arc::new(s));
                }
                Err(_) => side::remove(&path),
            }
        }
        Ok(Self { dir, all: Mutex::new(all) })
    }

    pub(crate) fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.db"))
    }

    pub(crate) fn add(&self, id: &str, user: &str, seq: i64, built: &Built, expires_ms: i64) {
        let s = Snapshot {
            id: id.to_owned(),
            user: user.to_owned(),
            seq,
            rows: built.rows,
            tables: built.tables.clone(),
            expires_ms: AtomicI64::new(expires_ms),
            path: self.path(id),
            conn: Mutex::new(None),
        };
        lock(&self.all).insert(id.to_owned(), Arc::new(s));
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Snapshot>> {
        lock(&self.all).get(id).map(Arc::clone)
    }

    pub(crate) fn remove(&self, id: &str) {
        if let Some(s) = lock(&self.all).remove(id) {
            side::remove(&s.path);
        }
    }

    /// Drops what has expired.
    pub(crate) fn sweep(&self, now_ms: i64) {
        let mut all = lock(&self.all);
        all.retain(|_, s| {
            let keep = now_ms <= s.expires_ms.load(Ordering::Relaxed);
            if !keep {
                side::remove(&s.path);
            }
            keep
        });
    }
}
