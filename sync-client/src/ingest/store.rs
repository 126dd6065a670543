//! The tables of ingest in the app's file.

use rusqlite::{Connection, OptionalExtension as _, params};

use sync_core::ingest::contract::Contract;

use super::report::IngestError;

/// Everything but the outbox belongs to whoever pushes; only the outbox is written by the app, by its own SQL too, so that
/// it is told at once of what is no text.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS main._sync_ingest_outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, kind TEXT NOT NULL, record TEXT NOT NULL,
    fault TEXT, CHECK (typeof(stream) = 'text' AND typeof(kind) = 'text' AND typeof(record) = 'text'));
CREATE TABLE IF NOT EXISTS main._sync_ingest_record (
    stream TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, seq INTEGER NOT NULL, payload TEXT NOT NULL,
    hash BLOB NOT NULL, at TEXT, fault TEXT, told INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (stream, kind, id));
CREATE TABLE IF NOT EXISTS main._sync_ingest_device (
    stream TEXT PRIMARY KEY NOT NULL, device_id TEXT NOT NULL, batch_number INTEGER);
CREATE TABLE IF NOT EXISTS main._sync_ingest_target (
    id INTEGER PRIMARY KEY, stream TEXT NOT NULL, sink TEXT NOT NULL, target TEXT NOT NULL, last_success_at INTEGER,
    last_batch TEXT, failure_count INTEGER NOT NULL DEFAULT 0, retry_at INTEGER, last_error TEXT,
    UNIQUE (stream, sink, target));
CREATE TABLE IF NOT EXISTS main._sync_ingest_cursor (
    target INTEGER NOT NULL, kind TEXT NOT NULL, at TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (target, kind));
CREATE TABLE IF NOT EXISTS main._sync_ingest_sent (
    target INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (target, kind, id))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main._sync_ingest_refused (
    target INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, hash BLOB NOT NULL, reason TEXT NOT NULL,
    times INTEGER NOT NULL, waits INTEGER NOT NULL, PRIMARY KEY (target, kind, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main._sync_ingest_batch (
    target INTEGER PRIMARY KEY, batch_id TEXT NOT NULL, body BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS main._sync_ingest_member (
    target INTEGER NOT NULL, ordinal INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, hash BLOB NOT NULL, at TEXT,
    PRIMARY KEY (target, ordinal)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main._sync_ingest_number (stream TEXT PRIMARY KEY NOT NULL, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS main._sync_ingest_config (stream TEXT PRIMARY KEY NOT NULL, config TEXT NOT NULL);";

/// Makes the tables where they are not there.
pub(super) fn ensure(conn: &Connection) -> Result<(), IngestError> {
    let there = "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name GLOB '_sync_ingest_*'";
    // Statements that change nothing would still take the write lock of the app's file.
    if conn.query_row(there, [], |r| r.get::<_, i64>(0))? < 11 {
        conn.execute_batch(TABLES)?;
    }
    Ok(())
}

/// The device of a stream in this file, made at first use.
pub(super) fn device(conn: &Connection, contract: &Contract, random: impl Fn() -> u64) -> Result<String, IngestError> {
    let stream = &contract.stream;
    let known = conn
        .query_row("SELECT device_id FROM main._sync_ingest_device WHERE stream = ?", [stream], |r| r.get(0))
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    let made = if contract.enrol.is_some() {
        uuid::Builder::from_random_bytes(((u128::from(random()) << 64) | u128::from(random())).to_be_bytes())
            .into_uuid()
            .to_string()
    } else {
        format!("dev_{:016x}", random())
    };
    conn.execute("INSERT INTO main._sync_ingest_device (stream, device_id) VALUES (?, ?)", (stream, &made))?;
    Ok(made)
}

/// Takes the number of a new batch: higher than every one that this file gave.
pub(super) fn take_number(conn: &Connection, stream: &str, now_ms: i64) -> Result<i64, IngestError> {
    let last = conn.query_row("SELECT max(batch_number) FROM main._sync_ingest_device", [], |r| r.get(0))?;
    let number = sync_core::ingest::batches::next_number(last, now_ms);
    conn.execute("UPDATE main._sync_ingest_device SET batch_number = ?2 WHERE stream = ?1", (stream, number))?;
    Ok(number)
}

/// What is known of a target.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) id: i64,
    pub(super) last_batch: Option<String>,
    pub(super) retry_at: Option<i64>,
}

/// The target of a stream, noted at first use.
pub(super) fn target(conn: &Connection, stream: &str, sink: &str, name: &str) -> Result<Target, IngestError> {
    conn.execute(
        "INSERT OR IGNORE INTO main._sync_ingest_target (stream, sink, target) VALUES (?, ?, ?)",
        (stream, sink, name),
    )?;
    let sql =
        "SELECT id, last_batch, retry_at FROM main._sync_ingest_target WHERE stream = ? AND sink = ? AND target = ?";
    Ok(conn.query_row(sql, (stream, sink, name), |r| {
        Ok(Target { id: r.get(0)?, last_batch: r.get(1)?, retry_at: r.get(2)? })
    })?)
}

/// A record in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its kind, by position in the contract.
    pub(super) kind: usize,
    pub(super) id: String,
    pub(super) hash: Vec<u8>,
    pub(super) at: Option<String>,
}

/// A batch that was frozen, and not settled yet.
#[derive(Debug, Clone)]
pub(super) struct Frozen {
    pub(super) batch_id: String,
    pub(super) body: Vec<u8>,
    pub(super) members: Vec<Member>,
}

/// Notes a batch before it is sent.
pub(super) fn freeze(conn: &Connection, kinds: &[&str], target: i64, batch: &Frozen) -> Result<(), IngestError> {
    thaw(conn, target)?;
    let digest = sync_core::ingest::batches::digest(&batch.body);
    conn.execute(
        "INSERT INTO main._sync_ingest_batch (target, batch_id, body, digest) VALUES (?, ?, ?, ?)",
        params![target, batch.batch_id, batch.body, digest],
    )?;
    let mut s = conn.prepare_cached(
        "INSERT INTO main._sync_ingest_member (target, ordinal, kind, id, hash, at) VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    for (n, m) in batch.members.iter().enumerate() {
        s.execute(params![target, n as i64, kinds[m.kind], m.id, m.hash, m.at])?;
    }
    Ok(())
}

/// Forgets the frozen batch: it is settled, or it was refused and its records go under another id.
pub(super) fn thaw(conn: &Connection, target: i64) -> Result<(), IngestError> {
    conn.execute("DELETE FROM main._sync_ingest_batch WHERE target = ?", [target])?;
    conn.execute("DELETE FROM main._sync_ingest_member WHERE target = ?", [target])?;
    Ok(())
}

/// The frozen batch of a target.
pub(super) fn frozen(conn: &Connection, kinds: &[&str], target: i64) -> Result<Option<Frozen>, IngestError> {
    let sql = "SELECT batch_id, body, digest FROM main._sync_ingest_batch WHERE target = ?";
    let found = conn
        .query_row(sql, [target], |r| Ok((r.get::<_, String>(0)?, r.get::<_, Vec<u8>>(1)?, r.get::<_, Vec<u8>>(2)?)))
        .optional()?;
    let Some((batch_id, body, digest)) = found else { return Ok(None) };
    if sync_core::ingest::batches::digest(&body) != digest.as_slice() {
        return Err(IngestError::Damaged);
    }
    let mut s = conn
        .prepare_cached("SELECT kind, id, hash, at FROM main._sync_ingest_member WHERE target = ? ORDER BY ordinal")?;
    let mut rows = s.query([target])?;
    let mut members = Vec::new();
    while let Some(r) = rows.next()? {
        let name: String = r.get(0)?;
        let kind = kinds.iter().position(|k| *k == name).ok_or(IngestError::Damaged)?;
        members.push(Member { kind, id: r.get(1)?, hash: r.get(2)?, at: r.get(3)? });
    }
    Ok(Some(Frozen { batch_id, body, members }))
}
