//! One contract's outbox and targets in a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use sync_core::ingest::batches::{complete, prepare};
use sync_core::ingest::contract::Contract;
use sync_core::sqlite::connection::{self, Settings};

use super::fold::fold;
use super::numbered;
use super::report::{Appended, Cursor, Faulty, IngestError, Mode, StreamStatus, TargetStatus};
use super::select::{self, Done};
use super::store;
use crate::context::{Environment, System};
use crate::store::{busy, rfc3339};

/// The contract of a stream.
///
/// # Errors
/// [`IngestError::UnknownStream`].
pub fn contract(stream: &str) -> Result<Contract, IngestError> {
    Contract::of(stream).ok_or_else(|| IngestError::UnknownStream(stream.to_owned()))
}

/// Puts a record, as JSON, into a file's outbox, in whatever transaction the connection is in. The outbox is made where it
/// is not there. The record is looked at when it is pushed: what is no record is told of then and stays in the outbox. What a
/// server's configuration says of capturing is for the app to keep to ([`Stream::config`]).
///
/// # Errors
/// SQLite's.
pub fn append(conn: &Connection, stream: &str, kind: &str, record: &str) -> Result<(), IngestError> {
    store::ensure(conn)?;
    conn.prepare_cached("INSERT INTO main._sync_ingest_outbox (stream, kind, record) VALUES (?, ?, ?)")?
        .execute((stream, kind, record))?;
    Ok(())
}

/// A stream in a file.
pub struct Stream {
    conn: Connection,
    path: PathBuf,
    pub(super) contract: Contract,
    pub(super) env: Arc<dyn Environment>,
}

const SETTINGS: Settings =
    Settings { foreign_keys: false, triggers: true, durable: true, busy: Duration::from_secs(15), cache_kib: 8 * 1024 };

impl Stream {
    /// Opens a stream in a file, which is made where it is missing.
    ///
    /// # Errors
    /// Where there is no such stream, or the file is none.
    pub fn open(path: &Path, stream: &str) -> Result<Self, IngestError> {
        Self::open_with(path, stream, Arc::new(System))
    }

    /// The same with another clock and randomness.
    ///
    /// # Errors
    /// As [`Stream::open`].
    pub fn open_with(path: &Path, stream: &str, env: Arc<dyn Environment>) -> Result<Self, IngestError> {
        let contract = contract(stream)?;
        let mut conn = connection::open(path, true, SETTINGS)?;
        busy::wait_patiently(&mut conn)?;
        Ok(Self { conn, path: path.to_owned(), contract, env })
    }

    pub(super) const fn conn(&self) -> &Connection {
        &self.conn
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn begin(&self) -> Result<Transaction<'_>, IngestError> {
        Ok(Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?)
    }

    pub(super) fn kinds(&self) -> Vec<&str> {
        self.contract.kinds.iter().map(|k| k.name.as_str()).collect()
    }

    /// Puts records of a kind into the outbox, all or none. Those that the schema is against are taken and named.
    ///
    /// # Errors
    /// Where there is no such kind, or one of them is no record.
    pub fn add<'a>(&self, kind: &str, records: impl IntoIterator<Item = &'a str>) -> Result<Appended, IngestError> {
        let position =
            self.contract.kinds.iter().position(|k| k.name == kind).ok_or_else(|| IngestError::UnknownKind {
                stream: self.contract.stream.clone(),
                kinds: self.kinds().join(", "),
                given: kind.to_owned(),
            })?;
        let mut appended = Appended { added: 0, invalid: Vec::new(), left_out: 0 };
        let tx = self.begin()?;
        store::ensure(&tx)?;
        let config = numbered::config(&tx, &self.contract)?;
        let now = rfc3339(self.env.now_ms().div_euclid(1000) * 1000);
        let spec = &self.contract.kinds[position];
        for record in records {
            if config.as_ref().is_some_and(|c| numbered::is_left_out(c, record)) {
                appended.left_out += 1;
                continue;
            }
            appended.added += 1;
            // A number is given when it is pushed, and until then any will do.
            let (record, _) = complete(spec, record, Some(&now), || Ok::<_, IngestError>(None))?;
            let (shown, _) = complete(spec, &record, None, || Ok::<_, IngestError>(Some(0)))?;
            let prepared = prepare(&self.contract, position, shown.as_bytes())
                .map_err(|why| IngestError::NoRecord { number: appended.added, why: why.to_string() })?;
            append(&tx, &self.contract.stream, kind, &record)?;
            if let Some(fault) = prepared.fault {
                appended.invalid.push(Faulty { kind: kind.to_owned(), id: Some(prepared.id), reason: fault.path });
            }
        }
        tx.commit()?;
        Ok(appended)
    }

    /// What the stream has, and what is known of its targets. It writes nothing.
    ///
    /// # Errors
    /// SQLite's.
    pub fn status(&self) -> Result<StreamStatus, IngestError> {
        // Rolled back: looking leaves no trace in the file.
        let tx = self.begin()?;
        store::ensure(&tx)?;
        fold(&tx, &self.contract)?;
        let stream = &self.contract.stream;
        let mut records = select::count(&self.contract, []);
        let mut s = tx.prepare("SELECT kind, count(*) FROM main._sync_ingest_record WHERE stream = ? GROUP BY kind")?;
        for row in s.query_map([stream], |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?)))? {
            let (kind, n) = row?;
            records.insert(kind, n.unsigned_abs());
        }
        let sql = "SELECT device_id FROM main._sync_ingest_device WHERE stream = ?";
        let device_id = tx.query_row(sql, [stream], |r| r.get(0)).optional()?;
        let sql = "SELECT id, sink, target, last_success_at, last_batch, failure_count, last_error, retry_at \
                   FROM main._sync_ingest_target WHERE stream = ? ORDER BY id";
        let mut s = tx.prepare(sql)?;
        let found: Vec<(i64, TargetStatus)> = s
            .query_map([stream], |r| {
                Ok((
                    r.get(0)?,
                    TargetStatus {
                        sink: r.get(1)?,
                        target: r.get(2)?,
                        last_success_at: r.get::<_, Option<i64>>(3)?.map(rfc3339),
                        last_batch_id: r.get(4)?,
                        failure_count: r.get::<_, i64>(5)?.unsigned_abs(),
                        last_error: r.get(6)?,
                        retry_after: r.get::<_, Option<i64>>(7)?.map(rfc3339),
                        cursors: BTreeMap::new(),
                        in_flight: None,
                        waiting: BTreeMap::new(),
                        quarantined: Vec::new(),
                    },
                ))
            })?
            .collect::<Result<_, _>>()?;
        let mut targets = Vec::with_capacity(found.len());
        for (id, mut target) in found {
            let sql = "SELECT kind, at, id FROM main._sync_ingest_cursor WHERE target = ?";
            let mut s = tx.prepare_cached(sql)?;
            let rows = s.query_map([id], |r| Ok((r.get(0)?, Cursor { at: r.get(1)?, id: r.get(2)? })))?;
            target.cursors = rows.collect::<Result<_, _>>()?;
            let sql = "SELECT batch_id FROM main._sync_ingest_batch WHERE target = ?";
            target.in_flight = tx.query_row(sql, params![id], |r| r.get(0)).optional()?;
            let chosen = select::select(&tx, &self.contract, id, Mode::Full, &Done::new())?;
            let mut waits = Vec::new();
            for (m, _) in chosen {
                let sql = "SELECT 1 FROM main._sync_ingest_sent WHERE target = ? AND kind = ? AND id = ? AND hash = ?";
                let kind = &self.contract.kinds[m.kind].name;
                if !tx.prepare_cached(sql)?.exists(params![id, kind, m.id, m.hash])? {
                    waits.push(m.kind);
                }
            }
            target.waiting = select::count(&self.contract, waits);
            target.quarantined = select::quarantined(&tx, id)?;
            targets.push(target);
        }
        let invalid = select::invalid(&tx, stream, false)?;
        let config = numbered::config(&tx, &self.contract)?.map(|c| c.shown());
        Ok(StreamStatus { stream: stream.clone(), device_id, config, records, invalid, targets })
    }
}
