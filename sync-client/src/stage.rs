//! Where remote rows wait between the network and the app's file: a scratch database beside it.
//!
//! No transaction on the app's file spans a network call, and no page is held in memory whole. What
//! is staged may be lost at any time: it is asked for again.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use sync_core::hash::{Algorithm, BundleHasher, Digest, HashRow};
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::protocol::pull::BundleHead;
use sync_core::protocol::rows::WireRow;
use sync_core::record;
use sync_core::value::Value;
use sync_core::wire::{Form, decode_key, decode_payload, push_members};

use crate::download::{Download, Fetch};
use crate::error::{Error, cannot};
use crate::lock::beside;
use crate::mutant::{self, Mutant};
use crate::private;
use crate::store::Store;

/// The scratch database.
pub(crate) struct Stage {
    pub(crate) conn: Connection,
    path: PathBuf,
    /// A snapshot whose download was cut: what came is here, and goes with it.
    pub(crate) snapshot: Option<Download>,
    /// A large bundle whose download was cut, likewise.
    pub(crate) bundle: Option<Fetch>,
}

/// A staged row. Tables are positions in the schema of the moment.
#[derive(Debug)]
pub(crate) struct StagedRow {
    pub(crate) position: usize,
    pub(crate) k: Vec<u8>,
    pub(crate) op: Op,
    pub(crate) version: i64,
    /// A stored record, possibly without columns; `None` for DELETE.
    pub(crate) row: Option<Vec<u8>>,
}

/// A staged bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StagedBundle {
    pub(crate) seq: i64,
    pub(crate) source_id: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) rows: i64,
    pub(crate) hash: Option<String>,
    pub(crate) history: Option<String>,
    /// The rows did not come with it: they are fetched by themselves.
    pub(crate) omitted: bool,
}

impl StagedBundle {
    /// Under which sequence its rows are staged: fetched ones lie apart, since they may be there from
    /// an earlier call.
    pub(crate) const fn rows_at(&self) -> i64 {
        if self.omitted { -self.seq } else { self.seq }
    }
}

/// Bundles of a source of this file that this file did not freeze, from this one on: a copy of it did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Twin {
    pub(crate) source: String,
    pub(crate) from: i64,
}

impl Stage {
    /// Makes an empty one beside the app's file, which other users of the machine cannot read.
    pub(crate) fn create(file: &Path) -> Result<Self, Error> {
        Self::tidy(file);
        let path = beside(file, SUFFIX);
        private::create(&path).map_err(cannot("make the scratch file", &path))?;
        let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let stage = Self { conn, path, snapshot: None, bundle: None };
        stage.conn.execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -2048;
             CREATE TABLE bundle (seq INTEGER PRIMARY KEY, source TEXT, source_bundle_id INTEGER, rows INTEGER, hash TEXT,
               history TEXT, omitted INTEGER);
             CREATE TABLE row (seq INTEGER, ordinal INTEGER, t INTEGER, k BLOB, op INTEGER, v INTEGER, row BLOB,
               PRIMARY KEY (seq, ordinal)) WITHOUT ROWID;
             CREATE TABLE snapshot (t INTEGER, k BLOB, v INTEGER, row BLOB, PRIMARY KEY (t, k)) WITHOUT ROWID;",
        )?;
        Ok(stage)
    }

    /// Removes what a process that was killed has left there. With the lock on the app's file.
    pub(crate) fn tidy(file: &Path) {
        remove(&beside(file, SUFFIX));
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        Ok(self.conn.execute_batch("DELETE FROM bundle; DELETE FROM row; DELETE FROM snapshot;")?)
    }

    /// Forgets everything but the rows of one bundle that is fetched by itself.
    pub(crate) fn clear_but(&self, seq: i64) -> Result<(), Error> {
        self.conn.execute_batch("DELETE FROM bundle; DELETE FROM snapshot;")?;
        self.conn.execute("DELETE FROM row WHERE seq <> ?", [seq])?;
        Ok(())
    }

    /// Writes in one step. Of one that failed the first error is told; what it wrote is forgotten with
    /// [`Stage::clear`], or with all of this: see [`crate::engine::Engine::keep_stage`].
    pub(crate) fn step<T>(&self, write: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.conn.execute_batch("BEGIN")?;
        let written = write();
        let ended = self.conn.execute_batch("COMMIT");
        let written = written?;
        ended?;
        Ok(written)
    }

    pub(crate) fn put_row(&self, seq: i64, ordinal: i64, r: &StagedRow) -> Result<(), Error> {
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO row (seq, ordinal, t, k, op, v, row) VALUES (?, ?, ?, ?, ?, ?, ?)")?
            .execute((seq, ordinal, r.position as i64, &r.k, r.op.stored(), r.version, &r.row))?;
        Ok(())
    }

    pub(crate) fn put_snapshot_row(&self, r: &StagedRow) -> Result<(), Error> {
        self.conn.prepare_cached("INSERT OR REPLACE INTO snapshot (t, k, v, row) VALUES (?, ?, ?, ?)")?.execute((
            r.position as i64,
            &r.k,
            r.version,
            &r.row,
        ))?;
        Ok(())
    }

    /// Forgets the rows of one bundle.
    pub(crate) fn forget_rows(&self, seq: i64) -> Result<(), Error> {
        self.conn.execute("DELETE FROM row WHERE seq = ?", [seq])?;
        Ok(())
    }

    pub(crate) fn put_bundle(&self, b: &StagedBundle) -> Result<(), Error> {
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO bundle (seq, source, source_bundle_id, rows, hash, history, omitted) \
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute((b.seq, &b.source_id, b.source_bundle_id, b.rows, &b.hash, &b.history, b.omitted))?;
        Ok(())
    }

    /// The staged bundles in order.
    pub(crate) fn bundles(&self) -> Result<Vec<StagedBundle>, Error> {
        let sql = "SELECT seq, source, source_bundle_id, rows, hash, history, omitted FROM bundle ORDER BY seq";
        let mut s = self.conn.prepare_cached(sql)?;
        let rows = s.query_map([], |r| {
            Ok(StagedBundle {
                seq: r.get(0)?,
                source_id: r.get(1)?,
                source_bundle_id: r.get(2)?,
                rows: r.get(3)?,
                hash: r.get(4)?,
                history: r.get(5)?,
                omitted: r.get(6)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Hands over the rows of a bundle in order.
    pub(crate) fn each_row(&self, seq: i64, mut each: impl FnMut(StagedRow) -> Result<(), Error>) -> Result<(), Error> {
        let sql = "SELECT t, k, op, v, row FROM row WHERE seq = ? ORDER BY ordinal";
        let mut s = self.conn.prepare_cached(sql)?;
        let mut rows = s.query([seq])?;
        while let Some(r) = rows.next()? {
            each(StagedRow {
                position: r.get::<_, i64>(0)? as usize,
                k: r.get(1)?,
                op: Op::from_stored(r.get(2)?).ok_or_else(|| Error::Damaged("stage".into()))?,
                version: r.get(3)?,
                row: r.get(4)?,
            })?;
        }
        Ok(())
    }

    /// Hands over the rows of the snapshot by key, the tables in this order.
    pub(crate) fn each_snapshot_row(
        &self,
        order: &[usize],
        mut each: impl FnMut(StagedRow) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut s = self.conn.prepare_cached("SELECT k, v, row FROM snapshot WHERE t = ? ORDER BY k")?;
        for position in order {
            let mut rows = s.query([*position as i64])?;
            while let Some(r) = rows.next()? {
                each(StagedRow {
                    position: *position,
                    k: r.get(0)?,
                    op: Op::Insert,
                    version: r.get(1)?,
                    row: r.get(2)?,
                })?;
            }
        }
        Ok(())
    }

    /// The highest number that is the key of a staged row of this table, but for those of bundles that a copy of this file
    /// wrote.
    pub(crate) fn highest_number(&self, position: usize, twins: &[Twin]) -> Result<Option<i64>, Error> {
        let mut sql = "SELECT max(k) FROM (SELECT max(k) AS k FROM snapshot WHERE t = ?1 UNION ALL \
                       SELECT max(k) FROM row WHERE t = ?1"
            .to_owned();
        let mut params: Vec<&dyn rusqlite::ToSql> = Vec::new();
        let position = position as i64;
        params.push(&position);
        for Twin { source, from } in twins {
            sql.push_str(" AND seq NOT IN (SELECT seq FROM bundle WHERE source = ? AND source_bundle_id >= ?)");
            params.extend([source as &dyn rusqlite::ToSql, from]);
        }
        let k: Option<Vec<u8>> = self.conn.query_row(&(sql + ")"), &params[..], |r| r.get(0))?;
        let key = k.map(|k| Key::from_stored(k).unpack()).transpose()?;
        Ok(key.and_then(|key| match key.first() {
            Some(Value::Integer(n)) => Some(*n),
            _ => None,
        }))
    }

    /// The snapshot's row of this key: version and stored form.
    pub(crate) fn snapshot_row(&self, position: usize, k: &[u8]) -> Result<Option<(i64, Vec<u8>)>, Error> {
        let mut s = self.conn.prepare_cached("SELECT v, row FROM snapshot WHERE t = ? AND k = ?")?;
        let mut rows = s.query((position as i64, k))?;
        Ok(match rows.next()? {
            Some(r) => Some((r.get(0)?, r.get(1)?)),
            None => None,
        })
    }

    /// Whether the snapshot holds this key.
    pub(crate) fn in_snapshot(&self, position: usize, k: &[u8]) -> Result<bool, Error> {
        Ok(self.conn.prepare_cached("SELECT 1 FROM snapshot WHERE t = ? AND k = ?")?.exists((position as i64, k))?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// How its name ends.
const SUFFIX: &str = "-sync-stage";

fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("a scratch file could not be removed: {e}");
    }
}

/// Reads wire rows of one bundle: checks them, hashes them, and turns them into staged ones.
pub(crate) struct Intake<'a> {
    store: &'a Store,
    algorithm: Algorithm,
    hasher: BundleHasher,
    key: String,
    payload: String,
    /// Rows of tables that this file does not have, or that are held back.
    pub(crate) skipped: u64,
}

impl<'a> Intake<'a> {
    pub(crate) fn new(store: &'a Store, algorithm: Algorithm) -> Self {
        Self {
            store,
            algorithm,
            hasher: BundleHasher::new(algorithm),
            key: String::new(),
            payload: String::new(),
            skipped: 0,
        }
    }

    /// Goes on with a bundle of which rows were taken before.
    pub(crate) fn resume(store: &'a Store, algorithm: Algorithm, hasher: BundleHasher) -> Self {
        Self { hasher, ..Self::new(store, algorithm) }
    }

    /// The state of the bundle that is being taken.
    pub(crate) fn hasher(&self) -> BundleHasher {
        self.hasher.clone()
    }

    /// Rows taken since the last [`Intake::finish`].
    pub(crate) const fn rows(&self) -> i64 {
        self.hasher.rows()
    }

    /// Takes a bundle's row. `None` for a table that this file does not sync.
    pub(crate) fn row(&mut self, w: &WireRow) -> Result<Option<StagedRow>, Error> {
        let op = Op::parse(&w.op).ok_or_else(|| Error::Protocol(format!("unknown operation in {}", w.table)))?;
        let form = match self.algorithm {
            Algorithm::Blake3 => Form::Exact,
            Algorithm::Sha256 => Form::Reference,
        };
        self.key.clear();
        push_members(&mut self.key, &w.key, form);
        let payload = match (&w.payload, op) {
            (Some(p), Op::Insert | Op::Update) => {
                self.payload.clear();
                push_members(&mut self.payload, p, form);
                Some(self.payload.as_str())
            }
            _ => None,
        };
        self.hasher.row(HashRow {
            schema: &w.schema,
            table: &w.table,
            key: &self.key,
            op,
            row_version: w.version,
            payload,
        });
        self.stage(w, op)
    }

    /// Takes a snapshot's row.
    pub(crate) fn snapshot_row(&mut self, w: &WireRow) -> Result<Option<StagedRow>, Error> {
        self.stage(w, Op::Insert)
    }

    fn stage(&mut self, w: &WireRow, op: Op) -> Result<Option<StagedRow>, Error> {
        let Some(position) = self.store.travelling(&w.table) else {
            self.skipped += 1;
            if mutant::on(Mutant::UnknownStops) {
                return Err(Error::Argument(format!("there is no table {}", w.table)));
            }
            return Ok(None);
        };
        let table = self.store.table(position);
        let wrong = |e: sync_core::wire::WireError| Error::Protocol(e.to_string());
        let key = decode_key(table, &w.key).map_err(wrong)?;
        let k = match key.as_slice() {
            [Value::Integer(i)] if mutant::on(Mutant::SecondKeyEncoder) => Key::pack(&[Value::Text(i.to_string())])?,
            _ => Key::pack(&key)?,
        };
        let k = k.as_bytes().to_vec();
        let row = match (op, &w.payload) {
            (Op::Delete, _) => None,
            (_, None) => return Err(Error::Protocol(format!("a row of {} has no payload", table.name))),
            (_, Some(p)) => {
                let mut payload = decode_payload(table, &key, p).map_err(wrong)?;
                if mutant::on(Mutant::UnknownStops) && !payload.unknown.is_empty() {
                    return Err(Error::Argument(format!(
                        "{} has no column {}",
                        table.name,
                        payload.unknown.join(", ")
                    )));
                }
                if mutant::on(Mutant::Doubles) {
                    payload.values.iter_mut().flatten().for_each(through_a_double);
                }
                Some(record::encode_partial(&payload.values))
            }
        };
        Ok(Some(StagedRow { position, k, op, version: w.version, row }))
    }

    /// Ends a bundle: checks its hash and count against the head.
    pub(crate) fn finish(&mut self, head: &BundleHead) -> Result<Digest, Error> {
        let hasher = std::mem::replace(&mut self.hasher, BundleHasher::new(self.algorithm));
        if head.row_count.is_some_and(|n| n != hasher.rows()) {
            return Err(Error::Protocol(format!(
                "bundle {} does not have the rows that it announces",
                head.bundle_seq
            )));
        }
        let digest = hasher.finish();
        // A server that lists the algorithm hashes every bundle.
        if head.bundle_hash.is_none() && self.algorithm == Algorithm::Blake3 && !mutant::on(Mutant::Unverified) {
            return Err(Error::Protocol(format!("bundle {} came without its hash", head.bundle_seq)));
        }
        if head.bundle_hash.as_ref().is_some_and(|h| *h != digest.hex()) && !mutant::on(Mutant::Unverified) {
            return Err(Error::Protocol(format!(
                "bundle {} does not have the hash that it announces",
                head.bundle_seq
            )));
        }
        Ok(digest)
    }
}

/// [`Mutant::Doubles`].
fn through_a_double(v: &mut Value) {
    if let Value::Integer(i) = v {
        *i = *i as f64 as i64;
    }
}
