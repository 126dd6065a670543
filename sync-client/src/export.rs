//! Pending work in a file of its own, for another device of the same account: a small SQLite database with
//! the bundle in doubt, every other intent with its base and version, and the refused rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use sync_core::engine::change::{Change, Known, derive};
use sync_core::hash::Digest;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::{self, Record};

use crate::detach::Stays;
use crate::error::{Error, cannot};
use crate::lock::beside;
use crate::private;
use crate::store::{Meta, OutboxState, Store};

/// What an export says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Names the export, so that it is imported once.
    pub(crate) id: String,
    pub(crate) scope_id: Option<String>,
    /// The bundle whose commit was sent and not answered.
    pub(crate) sent: Option<Sent>,
    /// The checkpoint of the exporting file and the hash of its history: versions are of that history.
    pub(crate) checkpoint: i64,
    pub(crate) history_hash: Option<String>,
}

/// The tuple and the hash under which a bundle is in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) source_id: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) rows: i64,
    pub(crate) request_hash: Digest,
}

/// One exported intent. Rows are under the exporting file's columns.
#[derive(Debug)]
pub(crate) struct ExportedRow {
    pub(crate) t: i64,
    pub(crate) k: Vec<u8>,
    pub(crate) since: i64,
    pub(crate) known: Known,
    pub(crate) base: Option<Record>,
    /// `None` where it was deleted.
    pub(crate) row: Option<Record>,
}

/// An export that was opened to be read.
pub(crate) struct Export {
    conn: Connection,
    pub(crate) head: Head,
    /// Name and columns of each table that has rows in it, by its number in the export.
    pub(crate) tables: BTreeMap<i64, (String, Vec<String>)>,
}

impl Store {
    /// Writes what is pending into a new file, durably. In a transaction of the caller, in which the logs
    /// were absorbed and an outbox of which nothing was sent was released. Returns how many rows it has.
    pub(crate) fn export(&self, path: &Path, id: &str, now: i64, stays: &Stays) -> Result<u64, Error> {
        let fresh = half_made(path, id);
        private::create(&fresh).map_err(cannot("make the export", path))?;
        let written = self.write_export(&fresh, id, now, stays);
        let rows = match written {
            Ok(rows) => rows,
            Err(e) => {
                let _ = std::fs::remove_file(&fresh);
                return Err(e);
            }
        };
        if let Err(e) = std::fs::rename(&fresh, path) {
            let _ = std::fs::remove_file(&fresh);
            return Err(cannot("make the export", path)(e));
        }
        // The name is durable too, where a directory can be synced.
        if let Ok(dir) =
            std::fs::File::open(path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")))
        {
            let _ = dir.sync_all();
        }
        Ok(rows)
    }

    fn write_export(&self, path: &Path, id: &str, now: i64, stays: &Stays) -> Result<u64, Error> {
        let mut out = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        out.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;")?;
        let to = out.transaction()?;
        to.execute_batch(TABLES)?;
        let sent = self.outbox()?.filter(|o| o.state == OutboxState::Sent && !stays.outbox);
        to.execute(
            "INSERT INTO export VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                FORMAT,
                id,
                Meta::ScopeId.get::<String>(&self.conn)?,
                now,
                sent.as_ref().map(|o| &o.source_id),
                sent.as_ref().map(|o| o.source_bundle_id),
                sent.as_ref().map(|o| o.rows),
                sent.as_ref().map(|o| o.request_hash.0.as_slice()),
                Meta::Checkpoint.integer(&self.conn)?,
                Meta::HistoryHash.get::<String>(&self.conn)?,
            ),
        )?;
        let committed = self.outbox()?.filter(|o| o.state == OutboxState::Committed).map(|o| o.bundle_seq);
        let mut n = self.write_pending(&to, committed, stays)?;
        if sent.is_some() {
            n += self.write_sent(&to)?;
        }
        n += self.write_refused(&to)?;
        to.commit()?;
        out.close().map_err(|(_, e)| e)?;
        Ok(n)
    }

    /// `committed` is the bundle of an outbox that is on the server and did not come back yet, 0 where its number is
    /// not known: what was sent is not pending, a newer edit stands on it.
    fn write_pending(&self, to: &Connection, committed: Option<i64>, stays: &Stays) -> Result<u64, Error> {
        self.conn.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_sending (t INTEGER, k BLOB, ordinal INTEGER, PRIMARY KEY (t, k)) \
             WITHOUT ROWID; DELETE FROM temp._sync_sending; \
             INSERT INTO temp._sync_sending SELECT t, k, ordinal FROM main._sync_out;",
        )?;
        let mut n = 0;
        let mut put = to.prepare("INSERT INTO pending VALUES (?, ?, ?, ?, ?, ?)")?;
        for (position, m) in self.managed.iter().enumerate() {
            let table = self.table(position);
            let columns = serde_json::to_string(&table.columns.iter().map(|c| &c.name).collect::<Vec<_>>())
                .map_err(|e| Error::Damaged(e.to_string()))?;
            to.execute("INSERT INTO tbl VALUES (?, ?, ?)", (m.id, &table.name, columns))?;
            let mut s = self.conn.prepare(
                "SELECT d.k, d.since, d.base, r.v, s.ordinal, o.op, o.row \
                 FROM main._sync_dirty d LEFT JOIN main._sync_row r ON r.t = d.t AND r.k = d.k \
                 LEFT JOIN temp._sync_sending s ON s.t = d.t AND s.k = d.k \
                 LEFT JOIN main._sync_out o ON o.ordinal = s.ordinal WHERE d.t = ? ORDER BY d.k",
            )?;
            let mut rows = s.query([m.id])?;
            while let Some(r) = rows.next()? {
                let (k, mut base): (Vec<u8>, Option<Vec<u8>>) = (r.get(0)?, r.get(2)?);
                // What stays is sent from here.
                if stays.rows.contains(&(position, k.clone())) {
                    continue;
                }
                let live = match m.sql.read(&self.conn, &Key::from_stored(k.clone()).unpack()?)? {
                    // Text that is not UTF-8 cannot travel; the row stays here.
                    Some(Err(_)) => continue,
                    Some(Ok(row)) => Some(row),
                    None => None,
                };
                let (mut known, sending): (Option<i64>, Option<i64>) = (r.get(3)?, r.get(4)?);
                if let (Some(bundle), Some(_)) = (committed, sending) {
                    (known, base) = match Op::from_stored(r.get(5)?) {
                        Some(Op::Delete) => ((bundle > 0).then_some(-bundle), None),
                        _ => (Some(bundle), r.get(6)?),
                    };
                }
                let record = base.as_deref().map(record::decode).transpose()?;
                let means = derive(live.as_deref(), Known::from_stored(known), record.as_ref());
                if means == Change::Nothing && (sending.is_none() || committed.is_some()) {
                    continue;
                }
                put.execute((m.id, k, r.get::<_, i64>(1)?, known, base, live.as_deref().map(record::encode)))?;
                n += 1;
            }
        }
        Ok(n)
    }

    fn write_sent(&self, to: &Connection) -> Result<u64, Error> {
        let mut n = 0;
        let mut put = to.prepare("INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?)")?;
        let mut s = self.conn.prepare("SELECT t, k, since, op, base_version, base, row FROM main._sync_out")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let (op, v): (i64, i64) = (r.get(3)?, r.get(4)?);
            // What the row was known to be: an INSERT stands on nothing, or on a tombstone.
            let known = if op == Op::Insert.stored() { -v } else { v };
            put.execute((
                r.get::<_, i64>(0)?,
                r.get::<_, Vec<u8>>(1)?,
                r.get::<_, i64>(2)?,
                known,
                r.get::<_, Option<Vec<u8>>>(5)?,
                r.get::<_, Option<Vec<u8>>>(6)?,
            ))?;
            n += 1;
        }
        Ok(n)
    }

    fn write_refused(&self, to: &Connection) -> Result<u64, Error> {
        let mut n = 0;
        let mut put = to.prepare("INSERT INTO refused VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        let mut s = self.conn.prepare(
            "SELECT at, tbl, key, op, reason, message, local_row, base_row, server_row FROM main._sync_inbox \
             WHERE kind = 'rejected' ORDER BY id",
        )?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            for i in 0..9 {
                put.raw_bind_parameter(i + 1, r.get::<_, rusqlite::types::Value>(i)?)?;
            }
            put.raw_execute()?;
            n += 1;
        }
        Ok(n)
    }
}

/// What an export is called until it is whole: a name that nobody else has given to anything.
fn half_made(path: &Path, id: &str) -> PathBuf {
    beside(path, &format!("-{id}"))
}

impl Export {
    /// Removes what a try that was cut has left of this export before it had its name.
    pub(crate) fn tidy(path: &Path, id: &str) {
        for suffix in ["", "-journal"] {
            let _ = std::fs::remove_file(beside(&half_made(path, id), suffix));
        }
    }

    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let no_export = || Error::Argument(format!("{} is not an export of a synced file", path.display()));
        if !path.is_file() {
            return Err(Error::Argument(format!("there is no file {}", path.display())));
        }
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let found = conn
            .query_row(
                "SELECT format, id, scope_id, source_id, source_bundle_id, rows, request_hash, checkpoint, \
                 history_hash FROM export",
                [],
                |r| {
                    let sent = match r.get::<_, Option<String>>(3)? {
                        None => None,
                        Some(source_id) => Some(Sent {
                            source_id,
                            source_bundle_id: r.get(4)?,
                            rows: r.get(5)?,
                            request_hash: Digest::from_bytes(&r.get::<_, Vec<u8>>(6)?).unwrap_or_default(),
                        }),
                    };
                    let head = Head {
                        id: r.get(1)?,
                        scope_id: r.get(2)?,
                        sent,
                        checkpoint: r.get(7)?,
                        history_hash: r.get(8)?,
                    };
                    Ok((r.get::<_, i64>(0)?, head))
                },
            )
            .optional();
        let (format, head) = found.ok().flatten().ok_or_else(no_export)?;
        if format > FORMAT {
            return Err(Error::NewerFormat(format));
        }
        let mut tables = BTreeMap::new();
        let mut s = conn.prepare(
            "SELECT id, name, columns FROM tbl WHERE id IN (SELECT t FROM pending UNION SELECT t FROM sent) \
             OR name IN (SELECT tbl FROM refused)",
        )?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let columns = serde_json::from_str(&r.get::<_, String>(2)?).map_err(|_| no_export())?;
            tables.insert(r.get(0)?, (r.get(1)?, columns));
        }
        drop(rows);
        drop(s);
        Ok(Self { conn, head, tables })
    }

    /// The intents; with `sent`, those of the bundle in doubt go under the newer ones of their keys.
    pub(crate) fn each(&self, sent: bool, mut each: impl FnMut(ExportedRow) -> Result<(), Error>) -> Result<(), Error> {
        let with = "SELECT s.t, s.k, s.since, nullif(s.v, 0), s.base, CASE WHEN p.k IS NULL THEN s.row ELSE p.row END \
             FROM sent s LEFT JOIN pending p ON p.t = s.t AND p.k = s.k \
             UNION ALL SELECT t, k, since, v, base, row FROM pending p \
             WHERE NOT EXISTS (SELECT 1 FROM sent s WHERE s.t = p.t AND s.k = p.k) ORDER BY 1, 2";
        let without = "SELECT t, k, since, v, base, row FROM pending ORDER BY t, k";
        let mut s = self.conn.prepare(if sent { with } else { without })?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let record = |i: usize| -> Result<Option<Record>, Error> {
                Ok(r.get::<_, Option<Vec<u8>>>(i)?.map(|b| record::decode(&b)).transpose()?)
            };
            each(ExportedRow {
                t: r.get(0)?,
                k: r.get(1)?,
                since: r.get(2)?,
                known: Known::from_stored(r.get(3)?),
                base: record(4)?,
                row: record(5)?,
            })?;
        }
        Ok(())
    }

    /// Copies the refused rows into a file's inbox; returns how many.
    pub(crate) fn copy_refused(&self, to: &Connection) -> Result<u64, Error> {
        let mut put = to.prepare(
            "INSERT INTO main._sync_inbox (kind, at, tbl, key, op, reason, message, local_row, base_row, server_row) \
             VALUES ('rejected', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        let mut s = self.conn.prepare(
            "SELECT at, tbl, key, op, reason, message, local_row, base_row, server_row FROM refused ORDER BY rowid",
        )?;
        let mut rows = s.query([])?;
        let mut n = 0;
        while let Some(r) = rows.next()? {
            for i in 0..9 {
                put.raw_bind_parameter(i + 1, r.get::<_, rusqlite::types::Value>(i)?)?;
            }
            put.raw_execute()?;
            n += 1;
        }
        Ok(n)
    }
}

/// The version of this file format.
const FORMAT: i64 = 1;

/// Keys and rows are stored forms; columns by their wire names; a version below zero is a tombstone's.
const TABLES: &str = "
CREATE TABLE export (format INTEGER NOT NULL, id TEXT NOT NULL, scope_id TEXT, at INTEGER NOT NULL, source_id TEXT,
  source_bundle_id INTEGER, rows INTEGER, request_hash BLOB, checkpoint INTEGER NOT NULL, history_hash TEXT);
CREATE TABLE tbl (id INTEGER PRIMARY KEY, name TEXT NOT NULL, columns TEXT NOT NULL);
CREATE TABLE pending (t INTEGER NOT NULL, k BLOB NOT NULL, since INTEGER NOT NULL, v INTEGER, base BLOB, row BLOB,
  PRIMARY KEY (t, k)) WITHOUT ROWID;
CREATE TABLE sent (t INTEGER NOT NULL, k BLOB NOT NULL, since INTEGER NOT NULL, v INTEGER, base BLOB, row BLOB,
  PRIMARY KEY (t, k)) WITHOUT ROWID;
CREATE TABLE refused (at INTEGER NOT NULL, tbl TEXT NOT NULL, key TEXT NOT NULL, op TEXT NOT NULL, reason TEXT NOT NULL,
  message TEXT NOT NULL, local_row TEXT, base_row TEXT, server_row TEXT);
";
