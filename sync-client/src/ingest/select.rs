//! What a push takes, and what is counted of a stream.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, params};
use sync_core::ingest::contract::Contract;

use super::fold::text;
use super::report::{Faulty, IngestError, Mode, Quarantined};
use super::store::Member;

/// Records that a push has delivered already: kind, id, hash.
pub(super) type Done = BTreeSet<(usize, String, Vec<u8>)>;

/// The records for a target, in the order of the contract's kinds and then as they were added, with the bytes of each.
pub(super) fn select(
    conn: &Connection,
    contract: &Contract,
    target: i64,
    mode: Mode,
    done: &Done,
) -> Result<Vec<(Member, usize)>, IngestError> {
    let mut s = conn.prepare(
        "SELECT r.id, r.hash, r.at, octet_length(r.payload), s.hash IS r.hash FROM main._sync_ingest_record r \
         LEFT JOIN main._sync_ingest_sent s ON s.target = ?1 AND s.kind = r.kind AND s.id = r.id \
         WHERE r.stream = ?2 AND r.kind = ?3 AND r.fault IS NULL AND NOT EXISTS (SELECT 1 FROM main._sync_ingest_refused q \
         WHERE q.target = ?1 AND q.kind = r.kind AND q.id = r.id AND q.hash = r.hash AND q.waits) ORDER BY r.seq",
    )?;
    let mut found = Vec::new();
    for (kind, spec) in contract.kinds.iter().enumerate() {
        let mut rows = s.query(params![target, contract.stream, spec.name])?;
        while let Some(r) = rows.next()? {
            let confirmed: bool = r.get(4)?;
            let only_new = mode == Mode::SinceLast || spec.append.is_some();
            if confirmed && only_new && !spec.always {
                continue;
            }
            let member = Member { kind, id: r.get(0)?, hash: r.get(1)?, at: r.get(2)? };
            let bytes: i64 = r.get(3)?;
            if !done.contains(&(kind, member.id.clone(), member.hash.clone())) {
                found.push((member, usize::try_from(bytes).unwrap_or(usize::MAX)));
            }
        }
    }
    Ok(found)
}

/// The records of members as they are now: a newer version takes the place of the one that was chosen.
pub(super) fn load(
    conn: &Connection,
    contract: &Contract,
    members: Vec<Member>,
) -> Result<Vec<(Member, String)>, IngestError> {
    let mut s = conn.prepare_cached(
        "SELECT payload, hash, at FROM main._sync_ingest_record WHERE stream = ? AND kind = ? AND id = ? AND fault IS NULL",
    )?;
    let mut loaded = Vec::with_capacity(members.len());
    for m in members {
        let now = s
            .query_row(params![contract.stream, contract.kinds[m.kind].name, m.id], |r| {
                Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?))
            })
            .optional()?;
        if let Some((payload, hash, at)) = now {
            loaded.push((Member { hash, at, ..m }, payload));
        }
    }
    Ok(loaded)
}

/// Counts by the contract's kinds, all of them.
pub(super) fn count(contract: &Contract, members: impl IntoIterator<Item = usize>) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = contract.kinds.iter().map(|k| (k.name.clone(), 0)).collect();
    for kind in members {
        *counts.entry(contract.kinds[kind].name.clone()).or_default() += 1;
    }
    counts
}

/// How many records of a kind a target has confirmed.
pub(super) fn confirmed(conn: &Connection, target: i64, kind: &str) -> Result<u64, IngestError> {
    let sql = "SELECT count(*) FROM main._sync_ingest_sent WHERE target = ? AND kind = ?";
    Ok(conn.query_row(sql, params![target, kind], |r| r.get::<_, i64>(0))?.unsigned_abs())
}

/// The highest number that a target has confirmed; 0 where there is none.
pub(super) fn highest_confirmed(conn: &Connection, contract: &Contract, target: i64) -> Result<i64, IngestError> {
    let Some(append) = contract.kinds.iter().find_map(|k| k.append.as_ref()) else { return Ok(0) };
    let at = format!("${}", append.seq.to_string().replace('/', "."));
    let sql = "SELECT coalesce(max(json_extract(r.payload, ?3)), 0) FROM main._sync_ingest_sent s \
               JOIN main._sync_ingest_record r ON r.stream = ?2 AND r.kind = s.kind AND r.id = s.id AND r.hash = s.hash \
               WHERE s.target = ?1";
    Ok(conn.query_row(sql, params![target, contract.stream, at], |r| r.get(0))?)
}

/// What cannot be sent to any target: what is no record, and what the schema is against. `untold` leaves out what a push
/// has told of before.
pub(super) fn invalid(conn: &Connection, stream: &str, untold: bool) -> Result<Vec<Faulty>, IngestError> {
    let mut found = Vec::new();
    let mut read = |sql: &str| -> Result<(), IngestError> {
        let mut s = conn.prepare(sql)?;
        let rows = s.query_map([stream], |r| Ok(Faulty { kind: text(r, 0)?, id: r.get(1)?, reason: r.get(2)? }))?;
        for row in rows {
            found.push(row?);
        }
        Ok(())
    };
    let told = if untold { " AND NOT told" } else { "" };
    read(&format!(
        "SELECT kind, id, fault FROM main._sync_ingest_record WHERE stream = ? AND fault IS NOT NULL{told} ORDER BY seq"
    ))?;
    if !untold {
        read(
            "SELECT kind, NULL, fault FROM main._sync_ingest_outbox WHERE stream = ? AND fault IS NOT NULL ORDER BY seq",
        )?;
    }
    Ok(found)
}

/// What a target refused.
pub(super) fn quarantined(conn: &Connection, target: i64) -> Result<Vec<Quarantined>, IngestError> {
    let sql = "SELECT kind, id, reason FROM main._sync_ingest_refused WHERE target = ? AND waits ORDER BY kind, id";
    let mut s = conn.prepare(sql)?;
    let rows = s.query_map([target], |r| Ok(Quarantined { kind: r.get(0)?, id: r.get(1)?, reason: r.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
