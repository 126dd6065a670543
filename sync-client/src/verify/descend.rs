//! One table's rows against a snapshot, by digests: what is left are the ranges that differ, with the
//! server's rows staged.

use rusqlite::params_from_iter;
use sync_core::engine::digest::{Ends, Part, Parts, Reach as Steps, Span, descend};
use sync_core::hash::{Digest, RangeHasher};
use sync_core::key::Key;
use sync_core::protocol::Code;
use sync_core::protocol::capabilities::Capabilities;
use sync_core::protocol::digest::{DigestReply, DigestRequest};
use sync_core::protocol::snapshot::SnapshotSession;
use sync_core::sqlite::ordered::OrderedSql;
use sync_core::value::Value;
use sync_core::wire::{Form, decode_key, push_key};

use super::merge::push_named;
use super::scratch::{Reach, Scratch};
use crate::api::{CallError, Refusal};
use crate::engine::Engine;
use crate::error::Error;

/// One table, asked range by range.
pub(super) struct TableEnds<'a> {
    engine: &'a Engine,
    scratch: &'a Scratch<'a>,
    session: &'a SnapshotSession,
    source: &'a str,
    position: usize,
    columns: Vec<String>,
    /// Positions of these columns in canonical order.
    order: Vec<usize>,
    /// The table's last row in the snapshot: what this file has above its key belongs to the last range.
    end: i64,
    /// Rows of ranges that both ends have alike.
    pub(super) equal_rows: i64,
    /// Rows that were staged.
    pub(super) downloaded_rows: i64,
}

/// Compares the tables of a snapshot by digests, and stages what may differ.
pub(super) fn compare_tables(
    engine: &Engine,
    scratch: &Scratch<'_>,
    (session, source): (&SnapshotSession, &str),
    server: &Capabilities,
    tables: &[usize],
) -> Result<(u64, u64), Error> {
    let (mut equal, mut downloaded) = (0, 0);
    let mut before = 0;
    let mut shares = std::collections::BTreeMap::new();
    for t in &session.tables {
        shares.insert(t.table.as_str(), (before, before + t.row_count));
        before += t.row_count;
    }
    let most = server.bundle_limits.max_rows_per_digest;
    let steps = Steps { most: if most > 0 { most } else { i64::MAX }, leaf: LEAF_ROWS };
    for position in tables {
        let table = engine.store.table(*position);
        let Some((after, end)) = shares.get(table.name.as_str()).copied() else {
            scratch.put_reach(&Reach { position: *position, lower: None, upper: None })?;
            continue;
        };
        let theirs = server.registered_table_specs.iter().find(|s| s.table == table.name);
        let order: Vec<usize> = table
            .canonical_order()
            .into_iter()
            .filter(|i| theirs.is_none_or(|s| s.columns.contains(&table.columns[*i].name)))
            .collect();
        let mut ends = TableEnds {
            engine,
            scratch,
            session,
            source,
            position: *position,
            columns: order.iter().map(|i| table.columns[*i].name.clone()).collect(),
            order,
            end,
            equal_rows: 0,
            downloaded_rows: 0,
        };
        descend(&mut ends, after, end, steps)?;
        equal += ends.equal_rows;
        downloaded += ends.downloaded_rows;
    }
    Ok((equal.unsigned_abs(), downloaded.unsigned_abs()))
}

impl Ends for TableEnds<'_> {
    type Key = Vec<u8>;
    type Error = Error;

    fn compare(&mut self, span: &Span<Vec<u8>>) -> Result<Parts<Vec<u8>>, Error> {
        self.engine.check_stopped()?;
        let table = self.engine.store.table(self.position);
        let request = DigestRequest {
            snapshot_id: self.session.snapshot_id.clone(),
            table: table.name.clone(),
            columns: self.columns.clone(),
            after_row_ordinal: span.after,
            until_row_ordinal: span.until,
            max_ranges: Some(PARTS),
        };
        if request.query().len() > LONGEST_QUERY {
            return Ok(None);
        }
        let reply = match self.engine.api.digest(self.source, &request) {
            Ok(reply) => reply,
            Err(CallError::Reply(r)) if is_withheld(&r) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let ranges = self.read(span, &reply)?;
        let uppers: Vec<&[u8]> = ranges.iter().map(|r| r.1.as_slice()).collect();
        let mine = self.digests(span.lower.as_deref(), &uppers, span.until == self.end)?;
        let mut from = span.after;
        let mut parts = Vec::with_capacity(ranges.len());
        for ((until, upper, theirs), mine) in ranges.into_iter().zip(mine) {
            let equal = theirs == mine;
            if equal {
                self.equal_rows += until - from;
            }
            from = until;
            parts.push(Part { until, upper, equal });
        }
        Ok(Some(parts))
    }

    fn rows(&mut self, span: &Span<Vec<u8>>) -> Result<Vec<u8>, Error> {
        self.engine.check_stopped()?;
        let last = self.engine.fetch(self.scratch.stage, self.source, self.session, span.after..span.until)?;
        let Some((_, last)) = last.filter(|(position, _)| *position == self.position) else {
            return Err(Error::Protocol("a snapshot's rows are not those of the table that it names".into()));
        };
        self.downloaded_rows += span.rows();
        let upper = (span.until != self.end).then(|| last.clone());
        self.scratch.put_reach(&Reach { position: self.position, lower: span.lower.clone(), upper })?;
        Ok(last)
    }
}

impl TableEnds<'_> {
    /// The parts that the server cut the span into: at least two where it has two rows, in order, without a gap.
    fn read(&self, span: &Span<Vec<u8>>, reply: &DigestReply) -> Result<Vec<(i64, Vec<u8>, Digest)>, Error> {
        let wrong = || Error::Protocol("digests do not cover the range that was asked for".into());
        let table = self.engine.store.table(self.position);
        let mut out: Vec<(i64, Vec<u8>, Digest)> = Vec::with_capacity(reply.ranges.len());
        for r in &reply.ranges {
            let key = decode_key(table, &r.last_key_members()).map_err(|e| Error::Protocol(e.to_string()))?;
            let k = Key::pack(&key)?.as_bytes().to_vec();
            let (after, lower) = match out.last() {
                Some((until, upper, _)) => (*until, Some(upper)),
                None => (span.after, span.lower.as_ref()),
            };
            if r.last_row_ordinal <= after || lower.is_some_and(|l| *l >= k) {
                return Err(wrong());
            }
            out.push((r.last_row_ordinal, k, Digest::from_hex(&r.digest).ok_or_else(wrong)?));
        }
        let whole = out.last().is_some_and(|(until, ..)| *until == span.until);
        if whole && (out.len() > 1 || span.rows() == 1) { Ok(out) } else { Err(wrong()) }
    }

    /// This file's digests of the same ranges, in one pass over its rows at one moment.
    fn digests(&self, lower: Option<&[u8]>, uppers: &[&[u8]], open: bool) -> Result<Vec<Digest>, Error> {
        let store = &self.engine.store;
        let table = store.table(self.position);
        let unpack = |k: &[u8]| Key::from_stored(k.to_vec()).unpack();
        let low: Option<Vec<Value>> = lower.map(unpack).transpose()?;
        let high: Option<Vec<Value>> = uppers.last().filter(|_| !open).map(|k| unpack(k)).transpose()?;
        let sql = OrderedSql::new(table);
        let tx = store.begin_read()?;
        let (select, bound) = sql.between(low.as_deref(), high.as_deref());
        let mut s = tx.prepare_cached(&select)?;
        let mut rows = s.query(params_from_iter(bound))?;
        let mut hasher = RangeHasher::default();
        let mut out = Vec::with_capacity(uppers.len());
        let (mut key, mut payload) = (String::new(), String::new());
        while let Some(r) = sql.next(&mut rows)? {
            while out.len() + 1 < uppers.len() && r.k.as_slice() > uppers[out.len()] {
                out.push(hasher.finish());
            }
            key.clear();
            payload.clear();
            push_key(&mut key, table, &Key::from_stored(r.k).unpack()?, Form::Exact);
            // What cannot be read is no row that a server has: an empty payload is like none of its.
            if let Ok(row) = &r.row {
                push_named(&mut payload, table, &self.order, row);
            }
            hasher.row(&key, &payload);
        }
        while out.len() < uppers.len() {
            out.push(hasher.finish());
        }
        Ok(out)
    }
}

/// Whether an answer means that this digest is not to be had, now or at all: the rows are read instead.
fn is_withheld(r: &Refusal) -> bool {
    match r.reply.code() {
        Some(code) => {
            matches!(code, Code::RateLimited | Code::DigestInvalid | Code::NotFound | Code::MethodNotAllowed)
        }
        None => matches!(r.status, 404 | 405 | 414 | 429 | 431 | 501),
    }
}

/// Parts that a range is cut into.
const PARTS: i64 = 64;
/// Ranges up to this many rows are compared row by row.
const LEAF_ROWS: i64 = 64;
/// Proxies refuse longer ones.
const LONGEST_QUERY: usize = 6000;
