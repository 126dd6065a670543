//! What is noted of a target once it is known what became of a batch. Each is part of one transaction.

use rusqlite::{Connection, OptionalExtension as _, params};
use sync_core::ingest::acks::NotTaken;
use sync_core::ingest::contract::Contract;
use sync_core::ingest::cursors::Cursor;

use super::report::IngestError;
use super::store::{Frozen, Member, thaw};

/// How often a server has to name a record before it is put aside: once may be the server's mistake.
const NAMED: i64 = 2;

/// The target took the batch.
pub(super) fn confirm(
    conn: &Connection,
    contract: &Contract,
    target: i64,
    batch: &Frozen,
    now_ms: i64,
) -> Result<(), IngestError> {
    let mut sent = conn
        .prepare_cached("INSERT OR REPLACE INTO main._sync_ingest_sent (target, kind, id, hash) VALUES (?, ?, ?, ?)")?;
    let mut cursors: Vec<Option<Cursor>> = vec![None; contract.kinds.len()];
    for m in &batch.members {
        let kind = &contract.kinds[m.kind].name;
        sent.execute(params![target, kind, m.id, m.hash])?;
        forgive(conn, target, kind, &m.id)?;
        if let Some(at) = &m.at {
            let here = Cursor { at: at.clone(), id: m.id.clone() };
            let cursor = &mut cursors[m.kind];
            *cursor = Some(match cursor.take() {
                Some(c) => c.later(here),
                None => here,
            });
        }
    }
    for (kind, cursor) in contract.kinds.iter().zip(cursors) {
        let Some(reached) = cursor else { continue };
        let sql = "SELECT at, id FROM main._sync_ingest_cursor WHERE target = ? AND kind = ?";
        let before = conn
            .query_row(sql, params![target, kind.name], |r| Ok(Cursor { at: r.get(0)?, id: r.get(1)? }))
            .optional()?;
        let now = before.map_or_else(|| reached.clone(), |b| b.later(reached.clone()));
        conn.execute(
            "INSERT OR REPLACE INTO main._sync_ingest_cursor (target, kind, at, id) VALUES (?, ?, ?, ?)",
            params![target, kind.name, now.at, now.id],
        )?;
    }
    conn.execute(
        "UPDATE main._sync_ingest_target SET last_success_at = ?2, last_batch = ?3, failure_count = 0, retry_at = NULL, \
         last_error = NULL WHERE id = ?1",
        params![target, now_ms, batch.batch_id],
    )?;
    thaw(conn, target)
}

/// The target took each record of the batch but these, by position, which it rejects for good.
pub(super) fn confirm_each(
    conn: &Connection,
    contract: &Contract,
    target: i64,
    batch: &Frozen,
    rejected: &[(usize, String)],
    now_ms: i64,
) -> Result<Frozen, IngestError> {
    let mut taken = batch.clone();
    let mut position = 0;
    taken.members.retain(|_| {
        position += 1;
        !rejected.iter().any(|(p, _)| p + 1 == position)
    });
    confirm(conn, contract, target, &taken, now_ms)?;
    for (position, reason) in rejected {
        let Some(m) = batch.members.get(*position) else { continue };
        refuse(conn, target, &contract.kinds[m.kind].name, m, reason, NAMED)?;
    }
    Ok(taken)
}

fn forgive(conn: &Connection, target: i64, kind: &str, id: &str) -> Result<(), IngestError> {
    conn.prepare_cached("DELETE FROM main._sync_ingest_refused WHERE target = ? AND kind = ? AND id = ?")?
        .execute(params![target, kind, id])?;
    Ok(())
}

/// The target refuses this record by itself: it is put aside, and the batch is not sent again as it was.
pub(super) fn put_aside(
    conn: &Connection,
    contract: &Contract,
    target: i64,
    member: &Member,
    reason: &str,
) -> Result<(), IngestError> {
    refuse(conn, target, &contract.kinds[member.kind].name, member, reason, NAMED)?;
    thaw(conn, target)
}

fn refuse(
    conn: &Connection,
    target: i64,
    kind: &str,
    member: &Member,
    reason: &str,
    times: i64,
) -> Result<(), IngestError> {
    conn.execute(
        "INSERT OR REPLACE INTO main._sync_ingest_refused (target, kind, id, hash, reason, times, waits) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        params![target, kind, member.id, member.hash, reason, times, times >= NAMED],
    )?;
    Ok(())
}

/// An acknowledgement named records of the batch as not taken. Returns the positions of those that are put aside now, since
/// they were named before; then the batch is not sent again as it was.
pub(super) fn named(
    conn: &Connection,
    contract: &Contract,
    target: i64,
    batch: &Frozen,
    list: &[NotTaken],
) -> Result<Vec<usize>, IngestError> {
    let mut aside = Vec::new();
    for (position, m) in batch.members.iter().enumerate() {
        let kind = &contract.kinds[m.kind].name;
        let Some(why) = list.iter().find(|n| n.kind == *kind && n.id.as_deref() == Some(m.id.as_str())) else {
            continue;
        };
        let sql = "SELECT times FROM main._sync_ingest_refused WHERE target = ? AND kind = ? AND id = ? AND hash = ?";
        let before: Option<i64> = conn.query_row(sql, params![target, kind, m.id, m.hash], |r| r.get(0)).optional()?;
        let times = before.unwrap_or(0) + 1;
        refuse(conn, target, kind, m, &why.reason, times)?;
        if times >= NAMED {
            aside.push(position);
        }
    }
    if !aside.is_empty() {
        thaw(conn, target)?;
    }
    Ok(aside)
}

/// A push to the target failed. Until `retry_at` (milliseconds since the epoch) nothing is sent.
pub(super) fn failed(conn: &Connection, target: i64, why: &str, retry_at: Option<i64>) -> Result<(), IngestError> {
    conn.execute(
        "UPDATE main._sync_ingest_target SET failure_count = failure_count + 1, last_error = ?2, retry_at = ?3 WHERE id = ?1",
        params![target, why, retry_at],
    )?;
    Ok(())
}

/// The target's state is not what was known: everything counts as unsent, but for what it refused.
pub(super) fn forget(conn: &Connection, target: i64) -> Result<(), IngestError> {
    conn.execute("DELETE FROM main._sync_ingest_sent WHERE target = ?", [target])?;
    conn.execute("DELETE FROM main._sync_ingest_cursor WHERE target = ?", [target])?;
    conn.execute("UPDATE main._sync_ingest_target SET last_batch = NULL WHERE id = ?", [target])?;
    Ok(())
}
