//! Digests of a frozen snapshot by ranges of keys: one scan a request, rate limited for each user.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use sync_core::engine::budget::Budget;
use sync_core::engine::digest::cut;
use sync_core::hash::RangeHasher;
use sync_core::json::{Members, Scalar};
use sync_core::protocol::digest::{DigestRange, DigestReply, DigestRequest};
use sync_core::protocol::{ApiError, Code};
use sync_core::wire::{Form, push_members};

use super::{Caller, Inner};
use crate::limits::MIN_DIGEST_COST;
use crate::scope::fail::{Fail, Outcome};
use crate::scope::lock;
use crate::scope::snapshots::{Snapshot, not_found};

/// What is left to each user that asked lately.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<BTreeMap<String, Budget>>);

impl Budgets {
    fn take(&self, user: &str, cost: i64, per_minute: i64, now_ms: i64) -> Result<(), ApiError> {
        if per_minute <= 0 {
            return Ok(());
        }
        let mut all = lock(&self.0);
        if all.len() >= REMEMBERED {
            all.retain(|_, b| !b.is_full(per_minute, now_ms));
        }
        let budget = all.entry(user.to_owned()).or_insert_with(|| Budget::full(per_minute, now_ms));
        budget.take(cost, per_minute, now_ms).map_err(|seconds| {
            let text = format!("digests of more than {per_minute} rows a minute; try again in {seconds} s");
            ApiError::new(Code::RateLimited, text).after(seconds)
        })
    }
}

/// Users after whom those with a full budget are forgotten.
const REMEMBERED: usize = 10_000;

fn invalid(text: impl Into<String>) -> ApiError {
    ApiError::new(Code::DigestInvalid, text)
}

impl Inner {
    pub(super) fn digest(&self, caller: &Caller, request: &DigestRequest) -> Outcome<DigestReply> {
        let s = self.live_snapshot(caller, &request.snapshot_id)?;
        let scope = self.scope(caller)?.ok_or_else(|| not_found(&request.snapshot_id))?;
        let position = scope
            .loaded
            .schema
            .position(&request.table)
            .ok_or_else(|| invalid(format!("table {} is not registered", request.table)))?;
        let table = &scope.loaded.tables[position].table;
        let columns: BTreeSet<&str> = request.columns.iter().map(String::as_str).collect();
        if let Some(unknown) = columns.iter().find(|c| table.column(c).is_none()) {
            return Err(invalid(format!("table {} has no column {unknown}", table.name)).into());
        }
        let (after, until) = (request.after_row_ordinal, request.until_row_ordinal);
        let share = rows_of(&s, scope.id(position));
        if after < share.0 || until > share.1 || after >= until {
            let text = format!("the rows of {} are {} to {} of this snapshot", table.name, share.0 + 1, share.1);
            return Err(invalid(text).into());
        }
        let (rows, most) = (until - after, self.limits.max_rows_per_digest);
        if most > 0 && rows > most {
            return Err(invalid(format!("{rows} rows are more than max_rows_per_digest {most}")).into());
        }
        let per_minute = self.limits.max_digest_rows_per_minute;
        self.digests.take(caller.user.as_str(), rows.max(MIN_DIGEST_COST), per_minute, self.now())?;
        let limit = self.limits.max_ranges_per_digest.max(1);
        let ends: Vec<i64> = cut(after, until, request.max_ranges.unwrap_or(limit).min(limit)).collect();
        // Stored payloads have every column of the table.
        let whole = columns.len() == table.columns.len();
        let ranges = hash(&s, after, &ends, |stored| {
            if whole { Ok(Cow::Borrowed(stored)) } else { pick(stored, &columns).map(Cow::Owned) }
        })?;
        Ok(DigestReply { snapshot_id: s.id.clone(), snapshot_bundle_seq: s.seq, table: table.name.clone(), ranges })
    }
}

/// Rows before a table's own, and its last one.
fn rows_of(s: &Snapshot, tab: i64) -> (i64, i64) {
    let mut before = 0;
    for (t, rows) in &s.tables {
        if *t == tab {
            return (before, before + rows);
        }
        before += rows;
    }
    (before, before)
}

fn hash(
    s: &Snapshot,
    after: i64,
    ends: &[i64],
    payload: impl Fn(&str) -> Outcome<Cow<'_, str>>,
) -> Outcome<Vec<DigestRange>> {
    let until = ends.last().copied().unwrap_or(after);
    let mut hasher = RangeHasher::default();
    let mut ranges = Vec::with_capacity(ends.len());
    let mut at = after;
    let read = s.rows(after, until, |_, _, key, stored| {
        hasher.row(key, &payload(stored)?);
        at += 1;
        if ends.get(ranges.len()) == Some(&at) {
            ranges.push(DigestRange {
                last_row_ordinal: at,
                last_key: key_object(key)?,
                digest: hasher.finish().hex(),
            });
        }
        Ok(true)
    })?;
    if read != until || at != until { Err(Fail::Damaged("a snapshot")) } else { Ok(ranges) }
}

fn key_object(stored: &str) -> Outcome<BTreeMap<String, String>> {
    let members: Members = sync_core::json::from_slice(stored.as_bytes()).map_err(|_| Fail::Damaged("a key"))?;
    let text = |(name, value)| match value {
        Scalar::Text(s) => Ok((name, s)),
        _ => Err(Fail::Damaged("a key")),
    };
    members.0.into_iter().map(text).collect()
}

/// A stored payload with these members only.
fn pick(stored: &str, columns: &BTreeSet<&str>) -> Outcome<String> {
    let mut members: Members =
        sync_core::json::from_slice(stored.as_bytes()).map_err(|_| Fail::Damaged("a payload"))?;
    members.0.retain(|(name, _)| columns.contains(name.as_str()));
    let mut out = String::with_capacity(stored.len());
    push_members(&mut out, &members, Form::Exact);
    Ok(out)
}
