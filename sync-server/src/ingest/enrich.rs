//! What is done of records once they were taken: spans in the user's file, and whatever the host does.
//!
//! What is to be done is queued in the transaction that stores the records, once for a project and minute, and is done when
//! that minute is over. A run that fails stays queued; one that was cut off is found when the server starts. Runs may come
//! twice, and leave the same.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rusqlite::{Connection, params};
use sync_core::ingest::exact::Json;
use sync_core::ingest::spans::{Point, collapse};
use sync_core::protocol::{ApiError, UserId};

use super::{Ingest, append};
use crate::scope::fail::{Fail, Outcome};

/// One run: what of a user came to a project within a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Whose records.
    pub user: UserId,
    /// What their devices are bound to.
    pub binding: String,
    /// The number of the minute (of as many seconds as the contract says) since the Unix epoch.
    pub slot: i64,
}

/// What a host does of records that were taken. It may be called again for a run that it did before.
pub trait Enrich: fmt::Debug + Send + Sync {
    /// Does it.
    ///
    /// # Errors
    /// Where it has to be done again later; taking records goes on meanwhile.
    fn enrich(&self, run: &Run) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Between two tries of a run that failed.
const AGAIN_MS: i64 = 5 * 60 * 1000;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS _sync_ingest_span (
    stream TEXT NOT NULL, binding TEXT NOT NULL, device TEXT NOT NULL, day INTEGER NOT NULL, key TEXT NOT NULL,
    app TEXT NOT NULL, repo TEXT, branch TEXT, from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, seconds INTEGER NOT NULL,
    samples INTEGER NOT NULL, PRIMARY KEY (stream, binding, device, day, key)) STRICT, WITHOUT ROWID;";

const DAY_MS: i64 = 86_400_000;

/// A run that is queued.
struct Queued {
    binding: String,
    slot: i64,
    from_seq: i64,
}

/// Works on what is queued until nobody serves any more.
pub(super) fn work(ingest: &Weak<Ingest>, woken: &Receiver<UserId>) {
    // Who may have something queued, and from when on it is looked at.
    let mut pending: BTreeMap<UserId, i64> = BTreeMap::new();
    if let Some(ingest) = ingest.upgrade() {
        match ingest.vault.users_with_devices(&ingest.contract.stream) {
            Ok(users) => pending.extend(users.into_iter().map(|u| (u, i64::MIN))),
            Err(e) => tracing::warn!(cause = %e, "what was queued before the start waits for the next batch"),
        }
    }
    loop {
        let Some(served) = ingest.upgrade() else { return };
        let now = served.service.environment().now_ms();
        let due: Vec<UserId> = pending.iter().filter(|(_, at)| **at <= now).map(|(u, _)| u.clone()).collect();
        for user in due {
            let next = run_due(&served, &user, now).unwrap_or_else(|e| {
                tracing::warn!(code = ?e.code, "what is queued of a user cannot be done now");
                Some(now + AGAIN_MS)
            });
            match next {
                Some(at) => pending.insert(user, at),
                None => pending.remove(&user),
            };
        }
        let first = pending.values().min().map_or(AGAIN_MS, |at| at.saturating_sub(now).clamp(1000, AGAIN_MS));
        let length = served.contract.hook.as_ref().map_or(AGAIN_MS, |h| i64::from(h.seconds) * 1000);
        drop(served);
        match woken.recv_timeout(Duration::from_millis(first.unsigned_abs())) {
            Ok(user) => {
                // It was queued within this minute or just before; what failed is tried again then, too.
                let soon = now.div_euclid(length).saturating_add(1).saturating_mul(length);
                pending.entry(user).and_modify(|at| *at = (*at).min(soon)).or_insert(soon);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Does what is due of a user, and says when to look again; `None` where nothing is queued.
fn run_due(ingest: &Arc<Ingest>, user: &UserId, now: i64) -> Result<Option<i64>, ApiError> {
    let stream = ingest.contract.stream.as_str();
    let Some(hook) = &ingest.contract.hook else { return Ok(None) };
    let length = i64::from(hook.seconds) * 1000;
    let mut next: Option<i64> = None;
    let mut sooner = |at: i64| next = Some(next.map_or(at, |n: i64| n.min(at)));
    for queued in ingest.service.on_file(user, |f| f.read(|c| queued(c, stream, &hook.name)))? {
        let over = queued.slot.saturating_add(1).saturating_mul(length);
        if over > now {
            sooner(over);
            continue;
        }
        let seen = ingest.service.on_file(user, |f| f.write(|c| derive(c, stream, &queued)))?;
        let run = Run { user: user.clone(), binding: queued.binding.clone(), slot: queued.slot };
        if let Some(host) = &ingest.options.enrich {
            let done = catch_unwind(AssertUnwindSafe(|| host.enrich(&run)));
            if !matches!(done, Ok(Ok(()))) {
                tracing::warn!(slot = run.slot, "what is done of records failed, and is tried again");
                sooner(now + AGAIN_MS);
                continue;
            }
        }
        let settled =
            ingest.service.on_file(user, |f| f.write(|c| settle(c, stream, &hook.name, &queued, over, seen)))?;
        if !settled {
            sooner(now + AGAIN_MS);
        }
    }
    Ok(next)
}

fn queued(conn: &Connection, stream: &str, hook: &str) -> Outcome<Vec<Queued>> {
    if !append::there(conn)? {
        return Ok(Vec::new());
    }
    let sql =
        "SELECT binding, slot, from_seq FROM _sync_ingest_hook WHERE stream = ? AND hook = ? ORDER BY slot, binding";
    let mut s = conn.prepare_cached(sql)?;
    let rows =
        s.query_map([stream, hook], |r| Ok(Queued { binding: r.get(0)?, slot: r.get(1)?, from_seq: r.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Computes the spans of each day anew that the records of a run touch; says up to which record.
fn derive(conn: &Connection, stream: &str, queued: &Queued) -> Outcome<i64> {
    conn.execute_batch(TABLES)?;
    let binding = queued.binding.as_str();
    let mut s = conn.prepare_cached(
        "SELECT device, at_ms / ?4, max(seq) FROM _sync_ingest_sample WHERE stream = ?1 AND binding = ?2 AND seq >= ?3 \
         GROUP BY 1, 2",
    )?;
    let rows = s.query_map(params![stream, binding, queued.from_seq, DAY_MS], |r| {
        Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?))
    })?;
    let mut seen = queued.from_seq;
    for row in rows.collect::<Result<Vec<_>, _>>()? {
        let (device, day, last) = row;
        seen = seen.max(last);
        of_day(conn, (stream, binding, &device), day)?;
    }
    Ok(seen)
}

fn of_day(conn: &Connection, (stream, binding, device): (&str, &str, &str), day: i64) -> Outcome<()> {
    let mut s = conn.prepare_cached(
        "SELECT record_id, at_ms, payload FROM _sync_ingest_sample WHERE stream = ? AND binding = ? AND device = ? \
         AND at_ms >= ? AND at_ms < ? ORDER BY at_ms, device_seq, seq",
    )?;
    let mut rows = s.query(params![stream, binding, device, day * DAY_MS, (day + 1) * DAY_MS])?;
    let mut points = Vec::new();
    while let Some(r) = rows.next()? {
        let text = r.get_ref(2)?.as_str().map_err(|_| Fail::Damaged("a record"))?;
        let payload = Json::read(text.as_bytes()).map_err(|_| Fail::Damaged("a record"))?;
        points.extend(Point::read(&r.get::<_, String>(0)?, r.get(1)?, &payload));
    }
    conn.prepare_cached("DELETE FROM _sync_ingest_span WHERE stream = ? AND binding = ? AND device = ? AND day = ?")?
        .execute(params![stream, binding, device, day])?;
    let mut insert =
        conn.prepare_cached("INSERT INTO _sync_ingest_span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
    for s in collapse(points) {
        let (signal, samples) = (s.signal, i64::try_from(s.samples).unwrap_or(i64::MAX));
        insert.execute(params![
            stream,
            binding,
            device,
            day,
            s.key,
            signal.app,
            signal.repo,
            signal.branch,
            s.from_ms,
            s.to_ms,
            s.seconds,
            samples
        ])?;
    }
    Ok(())
}

/// Takes a run off the queue, unless its minute got another record meanwhile: a clock may have been set back.
fn settle(conn: &Connection, stream: &str, hook: &str, queued: &Queued, over: i64, seen: i64) -> Outcome<bool> {
    let sql = "SELECT 1 FROM _sync_ingest_sample WHERE stream = ? AND binding = ? AND seq > ? AND received_ms < ?";
    if conn.prepare_cached(sql)?.exists(params![stream, queued.binding, seen, over])? {
        return Ok(false);
    }
    conn.prepare_cached("DELETE FROM _sync_ingest_hook WHERE stream = ? AND hook = ? AND binding = ? AND slot = ?")?
        .execute(params![stream, hook, queued.binding, queued.slot])?;
    Ok(true)
}

/// A span, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Shown {
    key: String,
    device_id: String,
    bundle_id: String,
    repo: Option<String>,
    branch: Option<String>,
    from_ms: i64,
    to_ms: i64,
    seconds: i64,
    samples: i64,
}

impl Shown {
    /// One line for a person.
    pub(super) fn line(&self) -> String {
        let from = jiff::Timestamp::from_millisecond(self.from_ms).unwrap_or(jiff::Timestamp::MAX);
        let place = [&self.repo, &self.branch].map(|p| p.as_deref().unwrap_or("-"));
        format!("{from}  {} s  {}  {}  {}", self.seconds, self.bundle_id, place[0], place[1])
    }
}

/// The spans of a project in a user's file, the oldest first.
pub(super) fn spans(conn: &Connection, stream: &str, binding: &str) -> rusqlite::Result<Vec<Shown>> {
    if !conn.prepare("SELECT 1 FROM sqlite_schema WHERE name = '_sync_ingest_span'")?.exists([])? {
        return Ok(Vec::new());
    }
    let mut s = conn.prepare(
        "SELECT key, device, app, repo, branch, from_ms, to_ms, seconds, samples FROM _sync_ingest_span \
         WHERE stream = ? AND binding = ? ORDER BY from_ms, device, key",
    )?;
    let rows = s.query_map([stream, binding], |r| {
        Ok(Shown {
            key: r.get(0)?,
            device_id: r.get(1)?,
            bundle_id: r.get(2)?,
            repo: r.get(3)?,
            branch: r.get(4)?,
            from_ms: r.get(5)?,
            to_ms: r.get(6)?,
            seconds: r.get(7)?,
            samples: r.get(8)?,
        })
    })?;
    rows.collect()
}
