//! From what the app appended to the current records: the last one of a kind and id holds.

use rusqlite::{Connection, params};
use sync_core::ingest::batches::{complete, prepare};
use sync_core::ingest::contract::Contract;

use super::numbered::{is_numbered, reached, take_seq};
use super::report::IngestError;

/// Rows that are read at once.
const PAGE: i64 = 500;

/// Takes up what the outbox has of a stream. What is no record stays there, with the reason.
pub(super) fn fold(conn: &Connection, contract: &Contract) -> Result<(), IngestError> {
    let mut after = 0;
    loop {
        let rows = page(conn, &contract.stream, after)?;
        let Some((last, ..)) = rows.last() else { return Ok(()) };
        after = *last;
        for (seq, kind, record) in &rows {
            let fault = match contract.kinds.iter().position(|k| k.name == *kind) {
                None => "there is no such kind".to_owned(),
                Some(position) => match prepare(contract, position, &numbered(conn, contract, position, record)?) {
                    Err(why) => why.to_string(),
                    Ok(prepared) => {
                        let fault = prepared.fault.as_ref().map(|v| v.path.as_str());
                        keep(conn, contract, kind, *seq, &prepared, fault)?;
                        conn.prepare_cached("DELETE FROM main._sync_ingest_outbox WHERE seq = ?")?.execute([seq])?;
                        continue;
                    }
                },
            };
            conn.execute("UPDATE main._sync_ingest_outbox SET fault = ?2 WHERE seq = ?1", (seq, fault))?;
        }
    }
}

/// A record with a number, where its kind has one: given out here, once it is known how far the server is.
fn numbered(conn: &Connection, contract: &Contract, kind: usize, record: &[u8]) -> Result<Vec<u8>, IngestError> {
    let (true, Ok(text)) = (is_numbered(contract), std::str::from_utf8(record)) else { return Ok(record.to_vec()) };
    let stream = &contract.stream;
    let (text, seq) = complete(&contract.kinds[kind], text, None, || take_seq(conn, stream).map(Some))?;
    if let Some(seq) = seq {
        reached(conn, stream, seq)?;
    }
    Ok(text.into_bytes())
}

fn page(conn: &Connection, stream: &str, after: i64) -> Result<Vec<(i64, String, Vec<u8>)>, IngestError> {
    let mut s = conn.prepare_cached(
        "SELECT seq, kind, record FROM main._sync_ingest_outbox WHERE stream = ?1 AND seq > ?2 AND fault IS NULL \
         ORDER BY seq LIMIT ?3",
    )?;
    let rows = s.query_map(params![stream, after, PAGE], |r| {
        Ok((r.get(0)?, text(r, 1)?, r.get_ref(2)?.as_bytes()?.to_vec()))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A text that an app gave, to be shown: it may be no UTF-8.
pub(super) fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?).into_owned())
}

fn keep(
    conn: &Connection,
    contract: &Contract,
    kind: &str,
    seq: i64,
    record: &sync_core::ingest::batches::Prepared,
    fault: Option<&str>,
) -> Result<(), IngestError> {
    conn.prepare_cached(
        "INSERT INTO main._sync_ingest_record (stream, kind, id, seq, payload, hash, at, fault) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (stream, kind, id) DO UPDATE SET seq = excluded.seq, payload = excluded.payload, \
         hash = excluded.hash, at = excluded.at, fault = excluded.fault, told = 0",
    )?
    .execute(params![contract.stream, kind, record.id, seq, record.payload, record.hash, record.at, fault])?;
    // Whoever adds a record again wants it tried again.
    conn.prepare_cached(
        "DELETE FROM main._sync_ingest_refused WHERE kind = ?2 AND id = ?3 AND waits \
         AND target IN (SELECT id FROM main._sync_ingest_target WHERE stream = ?1)",
    )?
    .execute((&contract.stream, kind, &record.id))?;
    Ok(())
}
