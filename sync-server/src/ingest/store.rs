//! Records in the user's file: receipts, records, who sent them, where a device stands, and sums. One transaction a batch.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, params};
use sync_core::ingest::contract::{Contract, Kind, Scope};
use sync_core::ingest::gates::{Batch, Record, Refusal};
use sync_core::ingest::outcome::{Count, Fate, Known, Stamps, fate};

use super::rollups;
use crate::scope::fail::{Fail, Outcome};

/// The tables are one set for all contracts. `scope` of a record is the device where its id is unique in that, else empty;
/// `stamp` and the counts of a receipt are texts of this crate's own.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS _sync_ingest_receipt (
    stream TEXT NOT NULL, device TEXT NOT NULL, batch TEXT NOT NULL, digest BLOB NOT NULL, version TEXT NOT NULL,
    said_device TEXT NOT NULL, counts TEXT NOT NULL, reply TEXT NOT NULL, received_ms INTEGER NOT NULL,
    PRIMARY KEY (stream, device, batch)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _sync_ingest_record (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, kind TEXT NOT NULL, scope TEXT NOT NULL,
    record_id TEXT NOT NULL, device TEXT NOT NULL, payload TEXT NOT NULL, hash BLOB NOT NULL, stamp TEXT NOT NULL,
    day TEXT, received_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL, revision INTEGER NOT NULL,
    UNIQUE (stream, kind, scope, record_id)) STRICT;
CREATE INDEX IF NOT EXISTS _sync_ingest_record_day ON _sync_ingest_record (stream, day) WHERE day IS NOT NULL;
CREATE TABLE IF NOT EXISTS _sync_ingest_owner (
    stream TEXT NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL, record_id TEXT NOT NULL,
    PRIMARY KEY (stream, device, kind, record_id)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _sync_ingest_device (
    stream TEXT NOT NULL, device TEXT NOT NULL, last_batch TEXT NOT NULL, last_ms INTEGER NOT NULL,
    PRIMARY KEY (stream, device)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _sync_ingest_rollup (
    stream TEXT NOT NULL, grain TEXT NOT NULL, bucket TEXT NOT NULL, dimensions TEXT NOT NULL, sums TEXT NOT NULL,
    PRIMARY KEY (stream, grain, bucket, dimensions)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _sync_ingest_secret (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

/// Makes the tables where they are missing.
pub(super) fn make(conn: &Connection) -> rusqlite::Result<()> {
    if there(conn)? { Ok(()) } else { conn.execute_batch(TABLES) }
}

/// Whether this user ever sent anything.
pub(super) fn there(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = '_sync_ingest_receipt'")?.exists([])
}

/// Applies a batch that passed the gates; the caller commits. What it does is a function of the file, the batch, the device
/// and the time.
///
/// The reply is written by `ack` from the counts, which are in the order of the contract's kinds.
pub(super) fn apply(
    conn: &Connection,
    contract: &Contract,
    device: &str,
    batch: &Batch,
    now_ms: i64,
    ack: impl Fn(&[Count]) -> String,
) -> Outcome<Result<String, Refusal>> {
    make(conn)?;
    let stream = contract.stream.as_str();
    let receipt: Option<(Vec<u8>, String)> = conn
        .prepare_cached(
            "SELECT digest, counts FROM _sync_ingest_receipt WHERE stream = ? AND device = ? AND batch = ?",
        )?
        .query_row([stream, device, &batch.id], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    if let Some((digest, counts)) = receipt {
        if digest != batch.digest {
            return Ok(Err(Refusal::ReceiptMismatch));
        }
        let counts = counts_from(&counts, contract.kinds.len()).ok_or(Fail::Damaged("the counts of a receipt"))?;
        return Ok(Ok(ack(&counts.into_iter().map(Count::replayed).collect::<Vec<_>>())));
    }
    let mut counts = vec![Count::default(); contract.kinds.len()];
    let mut days = BTreeSet::new();
    for record in &batch.records {
        let fate = put(conn, stream, &contract.kinds[record.kind], device, record, now_ms, &mut days)?;
        counts[record.kind].add(fate);
    }
    let reply = ack(&counts);
    conn.prepare_cached("INSERT OR REPLACE INTO _sync_ingest_device VALUES (?, ?, ?, ?)")?
        .execute(params![stream, device, batch.id, now_ms])?;
    conn.prepare_cached("INSERT INTO _sync_ingest_receipt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?.execute(params![
        stream,
        device,
        batch.id,
        batch.digest,
        contract.versions[batch.version].is,
        batch.device,
        counts_to(&counts),
        reply,
        now_ms
    ])?;
    rollups::recompute(conn, contract, &days)?;
    Ok(Ok(reply))
}

fn put(
    conn: &Connection,
    stream: &str,
    kind: &Kind,
    device: &str,
    record: &Record,
    now_ms: i64,
    days: &mut BTreeSet<String>,
) -> Outcome<Fate> {
    let scope = if kind.scope == Scope::Device { device } else { "" };
    let stored: Option<(i64, Vec<u8>, String, Option<String>)> = conn
        .prepare_cached(
            "SELECT seq, hash, stamp, day FROM _sync_ingest_record \
             WHERE stream = ? AND kind = ? AND scope = ? AND record_id = ?",
        )?
        .query_row([stream, &kind.name, scope, &record.id], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
        .optional()?;
    let known = stored.as_ref().map(|(_, hash, stamp, _)| read_known(hash, stamp, kind)).transpose()?;
    let fate = fate(known.as_ref(), &record.known);
    let stamp = record.known.stamps.to_text();
    match (fate, &stored) {
        (Fate::New, _) => {
            conn.prepare_cached(
                "INSERT INTO _sync_ingest_record (stream, kind, scope, record_id, device, payload, hash, stamp, day, \
                 received_ms, updated_ms, revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, 1)",
            )?
            .execute(params![
                stream,
                kind.name,
                scope,
                record.id,
                device,
                record.payload,
                record.known.hash,
                stamp,
                record.day,
                now_ms
            ])?;
            days.extend(record.day.clone());
        }
        (Fate::Updated, Some((seq, _, _, day))) => {
            conn.prepare_cached(
                "UPDATE _sync_ingest_record SET device = ?, payload = ?, hash = ?, stamp = ?, day = ?, updated_ms = ?, \
                 revision = revision + 1 WHERE seq = ?",
            )?
            .execute(params![
                device,
                record.payload,
                record.known.hash,
                stamp,
                record.day,
                now_ms,
                seq
            ])?;
            days.extend(day.clone().into_iter().chain(record.day.clone()));
        }
        (Fate::Confirmed, Some((seq, ..))) => {
            conn.prepare_cached("UPDATE _sync_ingest_record SET stamp = ? WHERE seq = ?")?
                .execute(params![stamp, seq])?;
        }
        _ => {}
    }
    if kind.scope == Scope::Principal {
        conn.prepare_cached("INSERT OR IGNORE INTO _sync_ingest_owner VALUES (?, ?, ?, ?)")?
            .execute([stream, device, &kind.name, &record.id])?;
    }
    Ok(fate)
}

fn read_known(hash: &[u8], stamp: &str, kind: &Kind) -> Outcome<Known> {
    let hash = hash.try_into().map_err(|_| Fail::Damaged("the hash of a record"))?;
    let stamps = Stamps::from_text(stamp, kind.newer_by.len()).ok_or(Fail::Damaged("the stamp of a record"))?;
    Ok(Known { hash, stamps })
}

fn counts_to(counts: &[Count]) -> String {
    let one = |c: &Count| format!("{} {} {}", c.accepted, c.updated, c.duplicates);
    counts.iter().map(one).collect::<Vec<_>>().join(",")
}

fn counts_from(text: &str, kinds: usize) -> Option<Vec<Count>> {
    let one = |part: &str| {
        let numbers: Vec<u64> = part.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [accepted, updated, duplicates] = numbers[..] else { return None };
        Some(Count { accepted, updated, duplicates })
    };
    text.split(',').map(one).collect::<Option<Vec<_>>>().filter(|c| c.len() == kinds)
}

/// Where a device stands: its last batch, and how many records of each kind it has sent that are still there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Standing {
    pub(super) last_batch: Option<String>,
    pub(super) mirrored: Vec<(String, i64)>,
}

/// Reads where a device stands.
pub(super) fn standing(conn: &Connection, contract: &Contract, device: &str) -> Outcome<Standing> {
    let made = there(conn)?;
    let stream = contract.stream.as_str();
    let mut standing = Standing::default();
    for kind in contract.kinds.iter().filter(|k| k.always) {
        let sql = match kind.scope {
            Scope::Device => "SELECT count(*) FROM _sync_ingest_record WHERE stream = ? AND kind = ? AND scope = ?",
            _ => "SELECT count(*) FROM _sync_ingest_owner WHERE stream = ? AND kind = ? AND device = ?",
        };
        let count =
            if made { conn.prepare_cached(sql)?.query_row([stream, &kind.name, device], |r| r.get(0))? } else { 0 };
        standing.mirrored.push((kind.name.clone(), count));
    }
    if made {
        standing.last_batch = conn
            .prepare_cached("SELECT last_batch FROM _sync_ingest_device WHERE stream = ? AND device = ?")?
            .query_row([stream, device], |r| r.get(0))
            .optional()?;
    }
    Ok(standing)
}

/// Forgets everything that a device sent, but what another one sent, too. The caller commits.
pub(super) fn reset(conn: &Connection, contract: &Contract, device: &str) -> Outcome<()> {
    make(conn)?;
    let stream = contract.stream.as_str();
    let days: BTreeSet<String> = conn
        .prepare("SELECT DISTINCT day FROM _sync_ingest_record WHERE stream = ? AND scope = ? AND day IS NOT NULL")?
        .query_map([stream, device], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    for sql in [
        "DELETE FROM _sync_ingest_record WHERE stream = ?1 AND scope = ?2",
        "DELETE FROM _sync_ingest_record WHERE stream = ?1 AND scope = '' AND EXISTS (SELECT 1 FROM _sync_ingest_owner o \
         WHERE o.stream = ?1 AND o.device = ?2 AND o.kind = _sync_ingest_record.kind AND o.record_id = \
         _sync_ingest_record.record_id) AND NOT EXISTS (SELECT 1 FROM _sync_ingest_owner o WHERE o.stream = ?1 AND \
         o.device <> ?2 AND o.kind = _sync_ingest_record.kind AND o.record_id = _sync_ingest_record.record_id)",
        "DELETE FROM _sync_ingest_owner WHERE stream = ?1 AND device = ?2",
        "DELETE FROM _sync_ingest_receipt WHERE stream = ?1 AND device = ?2",
        "DELETE FROM _sync_ingest_device WHERE stream = ?1 AND device = ?2",
    ] {
        conn.execute(sql, [stream, device])?;
    }
    rollups::recompute(conn, contract, &days)
}

/// A secret of the user that is made once; `fresh` is what it becomes.
pub(super) fn secret(conn: &Connection, name: &str, fresh: &str) -> Outcome<String> {
    make(conn)?;
    conn.execute("INSERT OR IGNORE INTO _sync_ingest_secret VALUES (?, ?)", [name, fresh])?;
    Ok(conn.query_row("SELECT value FROM _sync_ingest_secret WHERE name = ?", [name], |r| r.get(0))?)
}
