//! Staged pushes: each in a side file of its own, fed chunk by chunk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, Row, params};
use sync_core::engine::admit::{Session, Who};
use sync_core::hash::Digest;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::{self, Record};

use super::fail::{Fail, Outcome};
use super::{lock, side};

/// Connections to side files that are kept open between chunks.
const KEPT_OPEN: usize = 32;

/// What a session was made with.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) user: String,
    pub(crate) source: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) planned: i64,
    pub(crate) initialization_id: Option<String>,
    pub(crate) request_hash: Option<String>,
    /// The caller's checkpoint and its history hash there.
    pub(crate) lineage: Option<(i64, Digest)>,
}

/// A session.
pub(crate) struct Push {
    pub(crate) id: String,
    pub(crate) made: Made,
    pub(crate) expires_ms: AtomicI64,
    /// Replaced, deleted or committed while somebody still held it.
    gone: AtomicBool,
    path: PathBuf,
    stamp: String,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    conn: Option<Connection>,
    next: i64,
}

/// A staged row.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) ordinal: i64,
    pub(crate) tab: i64,
    pub(crate) op: Op,
    pub(crate) base: i64,
    pub(crate) key: Key,
    pub(crate) data: Option<Record>,
    pub(crate) extra: Option<Extra>,
}

impl Staged {
    /// Whether it is a delete that may not act on other rows.
    pub(crate) fn is_restricted(&self) -> bool {
        self.op == Op::Delete && self.extra.as_ref().is_some_and(|e| e.restrict)
    }
}

/// What is rare in a staged row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// Payload members that the table has no column for.
    pub(crate) unknown: Vec<String>,
    /// Positions of key columns that the payload did not repeat.
    pub(crate) unsent: Vec<usize>,
    /// A delete that may not act on other rows.
    pub(crate) restrict: bool,
}

impl Extra {
    fn write(&self) -> Option<String> {
        let restrict = self.restrict.then(|| "r".to_owned());
        let unsent = self.unsent.iter().map(|p| format!("k{p}"));
        let unknown = self.unknown.iter().map(|u| format!("u{u}"));
        let parts: Vec<String> = restrict.into_iter().chain(unsent).chain(unknown).collect();
        (!parts.is_empty()).then(|| parts.join("\u{1f}"))
    }

    fn read(text: &str) -> Self {
        let mut out = Self::default();
        for part in text.split('\u{1f}') {
            match part.split_at_checked(1) {
                Some(("k", p)) => out.unsent.extend(p.parse::<usize>().ok()),
                Some(("u", name)) => out.unknown.push(name.to_owned()),
                Some(("r", _)) => out.restrict = true,
                _ => {}
            }
        }
        out
    }
}

pub(crate) const SELECT: &str = "SELECT n, tab, op, base, key, data, extra FROM row";

/// Reads a row of [`SELECT`].
pub(crate) fn read(r: &Row<'_>) -> Outcome<Staged> {
    let data = match r.get_ref(5)? {
        rusqlite::types::ValueRef::Null => None,
        v => {
            let raw = v.as_blob().map_err(|_| Fail::Damaged("a staged row"))?;
            Some(record::decode(raw).map_err(|_| Fail::Damaged("a staged row"))?)
        }
    };
    Ok(Staged {
        ordinal: r.get(0)?,
        tab: r.get(1)?,
        op: Op::from_stored(r.get(2)?).ok_or(Fail::Damaged("a staged row"))?,
        base: r.get(3)?,
        key: Key::from_stored(r.get(4)?),
        data,
        extra: r.get_ref(6)?.as_str_or_null().ok().flatten().map(Extra::read),
    })
}

impl Push {
    /// For the checks of the engine.
    pub(crate) fn session(&self) -> Session<'_> {
        Session { push_id: &self.id, owner: self.who(), expires_ms: self.expires_ms.load(Ordering::Relaxed) }
    }

    /// Its owner.
    pub(crate) fn who(&self) -> Who<'_> {
        Who { user: &self.made.user, source: &self.made.source }
    }

    /// Whether it has ceased to exist.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Holds the session: one chunk or commit at a time.
    pub(crate) fn hold<T>(&self, f: impl FnOnce(&mut Held<'_>) -> Outcome<T>) -> Outcome<T> {
        let mut inner = lock(&self.inner);
        if self.is_gone() {
            return Err(sync_core::engine::admit::session_not_found(&self.id).into());
        }
        if inner.conn.is_none() {
            inner.conn = Some(self.open()?);
        }
        let Inner { conn, next } = &mut *inner;
        let conn = conn.as_ref().ok_or(Fail::Damaged("a staging file"))?;
        let result = f(&mut Held { push: self, conn, next });
        if !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK")?;
        }
        if self.is_gone() {
            inner.conn = None;
            side::remove(&self.path);
        }
        result
    }

    fn open(&self) -> Outcome<Connection> {
        let conn = side::open(&self.path, true)?;
        // There may be a file: of a try that found no room to fill it.
        let made = conn.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'session'")?.exists([])?;
        if !made {
            let m = &self.made;
            conn.execute_batch(
                "PRAGMA journal_mode = WAL; BEGIN;
                 CREATE TABLE row (n INTEGER PRIMARY KEY, tab, op, base, key BLOB, data BLOB, extra TEXT);
                 CREATE TABLE session (user, source, source_bundle_id, planned, initialization_id, request_hash,
                                       after, history BLOB, next INTEGER, expires_ms INTEGER, stamp TEXT);",
            )?;
            conn.execute(
                "INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
                params![
                    m.user,
                    m.source,
                    m.source_bundle_id,
                    m.planned,
                    m.initialization_id,
                    m.request_hash,
                    m.lineage.map(|(after, _)| after),
                    m.lineage.map(|(_, hash)| hash.0),
                    self.expires_ms.load(Ordering::Relaxed),
                    self.stamp
                ],
            )?;
            conn.execute_batch("COMMIT")?;
        }
        Ok(conn)
    }
}

/// A session that is held.
pub(crate) struct Held<'a> {
    push: &'a Push,
    pub(crate) conn: &'a Connection,
    next: &'a mut i64,
}

impl Held<'_> {
    /// Rows so far.
    pub(crate) fn next(&self) -> i64 {
        *self.next
    }

    /// Begins a chunk; dropped without [`Held::accept`] it leaves no trace.
    pub(crate) fn begin(&self) -> Outcome<()> {
        Ok(self.conn.execute_batch("BEGIN IMMEDIATE")?)
    }

    /// Stores a row.
    pub(crate) fn put(&self, row: &Staged) -> Outcome<()> {
        let mut s = self.conn.prepare_cached("INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?)")?;
        s.execute(params![
            row.ordinal,
            row.tab,
            row.op.stored(),
            row.base,
            row.key.as_bytes(),
            row.data.as_ref().map(|d| record::encode_partial(d)),
            row.extra.as_ref().and_then(Extra::write)
        ])?;
        Ok(())
    }

    /// Ends a chunk: it counts from here on.
    pub(crate) fn accept(&mut self, rows: i64, expires_ms: i64) -> Outcome<()> {
        self.conn.execute("UPDATE session SET next = ?, expires_ms = ?", params![*self.next + rows, expires_ms])?;
        self.conn.execute_batch("COMMIT")?;
        *self.next += rows;
        self.push.expires_ms.store(expires_ms, Ordering::Relaxed);
        Ok(())
    }
}

/// The sessions.
#[derive(Debug)]
pub(crate) struct Pushes {
    dir: PathBuf,
    /// Names the schema under which rows are staged: they are stored by the positions of columns.
    stamp: String,
    all: Mutex<BTreeMap<String, Arc<Push>>>,
}

impl Pushes {
    /// Takes over what a former run left; drops what cannot be read, or was staged under another schema:
    /// a session that is gone proves nothing, and its client creates it again.
    pub(crate) fn load(dir: PathBuf, stamp: String) -> std::io::Result<Self> {
        let mut all = BTreeMap::new();
        for (id, path) in side::list(&dir)? {
            let read = side::open(&path, false).and_then(|c| {
                c.query_row(
                    "SELECT user, source, source_bundle_id, planned, initialization_id, request_hash, next, expires_ms, \
                            after, history \
                     FROM session WHERE stamp = ?",
                    [&stamp],
                    |r| {
                        let made = Made {
                            user: r.get(0)?,
                            source: r.get(1)?,
                            source_bundle_id: r.get(2)?,
                            planned: r.get(3)?,
                            initialization_id: r.get(4)?,
                            request_hash: r.get(5)?,
                            lineage: match (r.get(8)?, r.get::<_, Option<Vec<u8>>>(9)?) {
                                (Some(after), Some(hash)) => Digest::from_bytes(&hash).map(|hash| (after, hash)),
                                _ => None,
                            },
                        };
                        Ok((made, r.get(6)?, r.get(7)?))
                    },
                )
            });
            match read {
                Ok((made, next, expires_ms)) => {
                    let push = Push {
                        id: id.clone(),
                        made,
                        expires_ms: AtomicI64::new(expires_ms),
                        gone: AtomicBool::new(false),
                        path,
                        stamp: stamp.clone(),
                        inner: Mutex::new(Inner { conn: None, next }),
                    };
                    all.insert(id, Arc::new(push));
                }
                Err(_) => side::remove(&path),
            }
        }
        Ok(Self { dir, stamp, all: Mutex::new(all) })
    }

    /// A session by its id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Push>> {
        lock(&self.all).get(id).map(Arc::clone)
    }

    /// Makes a session, in place of one for the same tuple; drops what has expired.
    pub(crate) fn create(&self, id: &str, made: Made, now_ms: i64, expires_ms: i64) {
        let mut all = lock(&self.all);
        let old: Vec<String> = all
            .values()
            .filter(|p| {
                let same = p.made.user == made.user
                    && p.made.source == made.source
                    && p.made.source_bundle_id == made.source_bundle_id;
                same || now_ms > p.expires_ms.load(Ordering::Relaxed)
            })
            .map(|p| p.id.clone())
            .collect();
        for id in old {
            if let Some(p) = all.remove(&id) {
                drop_files(&p);
            }
        }
        let push = Push {
            id: id.to_owned(),
            made,
            expires_ms: AtomicI64::new(expires_ms),
            gone: AtomicBool::new(false),
            path: self.dir.join(format!("{id}.db")),
            stamp: self.stamp.clone(),
            inner: Mutex::default(),
        };
        all.insert(id.to_owned(), Arc::new(push));
    }

    /// Ends a session.
    pub(crate) fn remove(&self, id: &str) {
        if let Some(p) = lock(&self.all).remove(id) {
            drop_files(&p);
        }
    }

    /// Closes side files that nobody is writing, where there are many.
    pub(crate) fn trim(&self) {
        let all = lock(&self.all);
        let mut open = 0;
        for p in all.values() {
            if let Ok(mut inner) = p.inner.try_lock()
                && inner.conn.is_some()
            {
                open += 1;
                if open > KEPT_OPEN {
                    inner.conn = None;
                }
            }
        }
    }
}

/// Whoever holds the session removes its files when done; nobody waits for them.
fn drop_files(p: &Push) {
    p.gone.store(true, Ordering::Release);
    if let Ok(mut inner) = p.inner.try_lock() {
        inner.conn = None;
        side::remove(&p.path);
    }
}
