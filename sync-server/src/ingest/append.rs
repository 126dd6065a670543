//! Enrolled devices and their records in the user's file, where records are stored once and rejected one by one.

use rusqlite::{Connection, OptionalExtension as _, params};
use sync_core::ingest::contract::Contract;
use sync_core::ingest::records::{Rejected, Sample, Tally};

use crate::scope::fail::Outcome;

/// One set for all such contracts. `device` and `record_id` are as they are compared; what a device is bound to is stamped
/// on a record when it is first taken.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS _sync_ingest_enrolled (
    stream TEXT NOT NULL, device TEXT NOT NULL, spelled TEXT NOT NULL, binding TEXT NOT NULL, name TEXT, platform TEXT NOT NULL,
    high_seq INTEGER NOT NULL DEFAULT 0, last_seen_ms INTEGER, PRIMARY KEY (stream, device)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _sync_ingest_sample (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, kind TEXT NOT NULL, device TEXT NOT NULL,
    record_id TEXT NOT NULL, binding TEXT NOT NULL, device_seq INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    payload TEXT NOT NULL, received_ms INTEGER NOT NULL, UNIQUE (stream, kind, device, record_id)) STRICT;
CREATE INDEX IF NOT EXISTS _sync_ingest_sample_at ON _sync_ingest_sample (stream, binding, device, at_ms);
CREATE TABLE IF NOT EXISTS _sync_ingest_hook (
    stream TEXT NOT NULL, hook TEXT NOT NULL, binding TEXT NOT NULL, slot INTEGER NOT NULL, from_seq INTEGER NOT NULL,
    PRIMARY KEY (stream, hook, binding, slot)) STRICT, WITHOUT ROWID;
";

/// Makes the tables where they are missing.
fn make(conn: &Connection) -> rusqlite::Result<()> {
    if there(conn)? { Ok(()) } else { conn.execute_batch(TABLES) }
}

/// Whether this user ever enrolled a device.
pub(super) fn there(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = '_sync_ingest_hook'")?.exists([])
}

/// An enrolled device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// As it is compared.
    pub(super) key: String,
    /// As it was spelled when it was enrolled last.
    pub(super) spelled: String,
    /// What it is bound to.
    pub(super) binding: String,
    /// The highest number of its records.
    pub(super) high_seq: i64,
    /// When it last sent or asked something, in milliseconds since the epoch.
    pub(super) last_seen_ms: Option<i64>,
}

/// What a device says of itself when it is enrolled.
#[derive(Debug, Clone)]
pub(super) struct Enrolment<'a> {
    pub(super) key: &'a str,
    pub(super) spelled: &'a str,
    pub(super) binding: &'a str,
    pub(super) name: Option<&'a str>,
    pub(super) platform: &'a str,
}

/// Binds a device, or binds it to something else; its records and their highest number stay.
pub(super) fn enrol(conn: &Connection, stream: &str, e: &Enrolment<'_>) -> Outcome<()> {
    make(conn)?;
    conn.execute(
        "INSERT INTO _sync_ingest_enrolled (stream, device, spelled, binding, name, platform) VALUES (?, ?, ?, ?, ?, ?) \
         ON CONFLICT (stream, device) DO UPDATE SET spelled = excluded.spelled, binding = excluded.binding, \
         name = excluded.name, platform = excluded.platform",
        params![stream, e.key, e.spelled, e.binding, e.name, e.platform],
    )?;
    Ok(())
}

/// A device of this user; `None` where it was never enrolled.
pub(super) fn device(conn: &Connection, stream: &str, key: &str) -> Outcome<Option<Device>> {
    if !there(conn)? {
        return Ok(None);
    }
    let sql =
        "SELECT spelled, binding, high_seq, last_seen_ms FROM _sync_ingest_enrolled WHERE stream = ? AND device = ?";
    let found = conn.prepare_cached(sql)?.query_row([stream, key], |r| {
        Ok(Device {
            key: key.to_owned(),
            spelled: r.get(0)?,
            binding: r.get(1)?,
            high_seq: r.get(2)?,
            last_seen_ms: r.get(3)?,
        })
    });
    Ok(found.optional()?)
}

/// The device was heard of.
pub(super) fn seen(conn: &Connection, stream: &str, key: &str, now_ms: i64) -> Outcome<()> {
    let sql = "UPDATE _sync_ingest_enrolled SET last_seen_ms = max(?3, coalesce(last_seen_ms, ?3)) \
               WHERE stream = ?1 AND device = ?2";
    conn.prepare_cached(sql)?.execute(params![stream, key, now_ms])?;
    Ok(())
}

/// What a batch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) tally: Tally,
    /// The highest number of the device's records now.
    pub(super) high_seq: i64,
    /// What the device is bound to.
    pub(super) binding: String,
}

/// Stores what is new of a batch, and queues what is to be done afterwards; the caller commits. `None` where the device is
/// not enrolled.
///
/// What it does is a function of the file, the records, the device and the time.
pub(super) fn apply(
    conn: &Connection,
    contract: &Contract,
    key: &str,
    records: Vec<Result<Sample, Rejected>>,
    now_ms: i64,
) -> Outcome<Option<Applied>> {
    let stream = contract.stream.as_str();
    let Some(device) = device(conn, stream, key)? else { return Ok(None) };
    let mut insert = conn.prepare_cached(
        "INSERT INTO _sync_ingest_sample (stream, kind, device, record_id, binding, device_seq, at_ms, payload, received_ms) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (stream, kind, device, record_id) DO NOTHING",
    )?;
    let (mut tally, mut high_seq, mut first) = (Tally::default(), device.high_seq, None);
    for record in records {
        let sample = match record {
            Ok(sample) => sample,
            Err(rejected) => {
                tally.rejected.push(rejected);
                continue;
            }
        };
        let kind = &contract.kinds[sample.kind].name;
        let (id, seq, at) = (&sample.id, sample.seq, sample.at_ms);
        let stored = insert.execute(params![stream, kind, key, id, device.binding, seq, at, sample.payload, now_ms])?;
        if stored > 0 {
            tally.accepted += 1;
            first = first.or_else(|| Some(conn.last_insert_rowid()));
        } else {
            tally.duplicates += 1;
        }
        high_seq = high_seq.max(seq);
    }
    conn.prepare_cached("UPDATE _sync_ingest_enrolled SET high_seq = ? WHERE stream = ? AND device = ?")?
        .execute(params![high_seq, stream, key])?;
    seen(conn, stream, key, now_ms)?;
    if let (Some(hook), Some(first)) = (&contract.hook, first) {
        let slot = now_ms.div_euclid(i64::from(hook.seconds) * 1000);
        conn.prepare_cached("INSERT OR IGNORE INTO _sync_ingest_hook VALUES (?, ?, ?, ?, ?)")?.execute(params![
            stream,
            hook.name,
            device.binding,
            slot,
            first
        ])?;
    }
    Ok(Some(Applied { tally, high_seq, binding: device.binding }))
}
