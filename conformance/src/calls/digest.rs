//! Digests of a snapshot by ranges (ARCHITECTURE.md, "Digests").

use sync_core::hash::RangeHasher;
use sync_core::protocol::digest::DigestRequest;

use super::read::is_hash;
use super::{Row, Session};
use crate::hashing;
use crate::json::Json;
use crate::lab::{Checked, Device, Reply, fail, not_offered, want};

/// A part of a range.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Its last row, as pages count.
    pub(crate) last: i64,
    pub(crate) digest: String,
}

impl Device<'_> {
    pub(crate) fn digest_reply(&self, request: &DigestRequest) -> Checked<Reply> {
        self.get(&format!("/sync/digest?{}", request.query()))
    }

    /// The parts of a range, held against the rows that pages of the session have. `rows` are all rows
    /// of the session, in the exact view.
    pub(crate) fn digest(&self, s: &Session, rows: &[Row], request: &DigestRequest) -> Checked<Vec<Part>> {
        let reply = self.digest_reply(request)?;
        let json = reply.ok()?;
        let same = reply.need_text(&json, "snapshot_id")? == s.id
            && reply.need_integer(&json, "snapshot_bundle_seq")? == s.seq
            && reply.need_text(&json, "table")? == request.table;
        want!(same, "a digest repeats its session, bundle and table", "{}", reply.came());
        let Some(items) = reply.need(&json, "ranges")?.items() else {
            return fail("ranges is an array", reply.came());
        };
        let (mut parts, mut sizes) = (Vec::new(), Vec::new());
        let mut after = request.after_row_ordinal;
        for item in items {
            let part =
                Part { last: reply.need_integer(item, "last_row_ordinal")?, digest: reply.need_text(item, "digest")? };
            let ordered = after < part.last && part.last <= request.until_row_ordinal;
            want!(ordered, "parts are in order, inside the range, none empty", "{}", reply.came());
            let inside = &rows[after as usize..part.last as usize];
            let key = reply.need(item, "last_key")?;
            let expected = "last_key is the key of the part's last row";
            want!(inside.last().is_some_and(|r| r.key.same(key)), expected, "{}", reply.came());
            want!(is_hash(&part.digest), "digest is 64 lowercase hex digits", "{}", reply.came());
            let computed = of(inside, &request.columns);
            let expected = "digest is the blake3 hash of the part's rows with the named columns";
            want!(part.digest == computed, expected, "{}, computed {computed}", reply.came());
            sizes.push(part.last - after);
            after = part.last;
            parts.push(part);
        }
        let whole = "parts cover the range without a gap";
        want!(after == request.until_row_ordinal, whole, "{}", reply.came());
        let even = sizes.iter().max().zip(sizes.iter().min()).is_some_and(|(a, b)| a - b <= 1);
        want!(even, "parts are equal in rows to within one", "{}", reply.came());
        Ok(parts)
    }
}

/// The digest of rows with these columns only.
fn of(rows: &[Row], columns: &[String]) -> String {
    let mut hasher = RangeHasher::default();
    for row in rows {
        let mut payload = row.payload.clone().unwrap_or(Json::Null);
        if let Json::Object(members) = &mut payload {
            members.retain(|(name, _)| columns.contains(name));
        }
        hasher.row(&hashing::exact(&row.key), &hashing::exact(&payload));
    }
    hasher.finish().hex()
}

/// The rows before a table's own, and its last one.
pub(crate) fn share(s: &Session, table: &str) -> Checked<(i64, i64)> {
    let Some(tables) = &s.tables else {
        return fail("a session of a backend with digests says how many rows each table has", "no tables".to_owned());
    };
    let mut before = 0;
    for (name, rows) in tables {
        if name == table {
            return Ok((before, before + rows));
        }
        before += rows;
    }
    not_offered(format!("no row of {table}"))
}
