//! Snapshots: create, page, delete.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync_core::engine::snapshot::{check_replacement, replace};
use sync_core::protocol::digest::SnapshotTable;
use sync_core::protocol::snapshot::{CreateSnapshotRequest, SnapshotSession, SourceReplacement};
use sync_core::protocol::{ApiError, Code};

use super::{Body, Caller, FaultPoint, Inner, SnapshotPageRequest, time};
use crate::scope::fail::Outcome;
use crate::scope::pages::Piece;
use crate::scope::snapshots::{Snapshot, build, finish, not_found};
use crate::scope::{Scope, side, store};

/// A place among the builds that run at once.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Inner {
    fn place(&self) -> Result<Place<'_>, ApiError> {
        let place = Place(&self.builds);
        if self.builds.fetch_add(1, Ordering::AcqRel) >= self.limits.max_concurrent_snapshot_builds {
            let text = "too many snapshots are being built; try again later";
            return Err(ApiError::new(Code::SnapshotBuildCapacity, text).after(1));
        }
        Ok(place)
    }

    pub(super) fn create_snapshot(&self, caller: &Caller, request: &CreateSnapshotRequest) -> Outcome<SnapshotSession> {
        let scope = self.readable(caller)?;
        let state = scope.read(store::state)?;
        self.check_readable(caller, &state)?;
        let replacement = request.source_replacement.as_ref();
        let new = replacement.map(|r| check_replacement(r, caller.source.as_str())).transpose()?;
        if let Some(new) = &new {
            // Before the copy is made, so that a replacement that cannot be is not paid for.
            scope.read(|conn| self.decide(conn, caller, new.as_str()).map(drop))?;
        }
        let _place = self.place()?;
        let now = self.now();
        self.snapshots.sweep(now);
        let id = self.environment.new_id();
        let path = self.snapshots.path(&id);
        let built = self.build(&scope, caller, &path).and_then(|built| {
            if let (Some(r), Some(new)) = (replacement, &new) {
                self.replace_source(&scope, caller, new.as_str(), r)?;
            }
            Ok(built)
        });
        let (seq, history_hash, built) = match built {
            Ok(built) => built,
            Err(e) => {
                side::remove(&path);
                return Err(e);
            }
        };
        let expires_ms = self.now() + self.limits.snapshot_session_ttl_ms;
        self.snapshots.add(&id, caller.user.as_str(), seq, &built, expires_ms);
        let mut tables = Vec::with_capacity(built.tables.len());
        for (tab, rows) in &built.tables {
            tables.push(SnapshotTable { table: scope.table(*tab)?.table.name.clone(), row_count: *rows });
        }
        Ok(SnapshotSession {
            snapshot_id: id,
            snapshot_bundle_seq: seq,
            row_count: built.rows,
            byte_count: built.bytes,
            expires_at: time(expires_ms),
            history_hash: Some(history_hash),
            tables,
        })
    }

    fn build(
        &self,
        scope: &Scope,
        caller: &Caller,
        path: &std::path::Path,
    ) -> Outcome<(i64, String, crate::scope::snapshots::Built)> {
        let to = side::open(path, true)?;
        scope.read(|conn| {
            let state = store::state(conn)?;
            let built = build(conn, scope, &to, &self.limits, || self.environment.fault(FaultPoint::MidSnapshot))?;
            finish(&to, caller.user.as_str(), state.history.latest, &built)?;
            Ok((state.history.latest, state.history_hash.hex(), built))
        })
    }

    fn decide(
        &self,
        conn: &rusqlite::Connection,
        caller: &Caller,
        new: &str,
    ) -> Outcome<sync_core::engine::snapshot::Replacement> {
        let (old, fresh) = (store::source(conn, caller.source.as_str())?, store::source(conn, new)?);
        Ok(replace(caller.who(), new, old.as_ref(), fresh.as_ref())?)
    }

    fn replace_source(&self, scope: &Scope, caller: &Caller, new: &str, request: &SourceReplacement) -> Outcome<()> {
        scope.write(|conn| {
            let decided = self.decide(conn, caller, new)?;
            if decided.reserve_new {
                store::reserve(conn, new)?;
            }
            if decided.retire_previous {
                store::retire(conn, caller.source.as_str(), new, request.reason.trim())?;
            }
            Ok(())
        })
    }

    /// The caller's snapshot, which has not expired and now lives on for its term.
    pub(super) fn live_snapshot(&self, caller: &Caller, id: &str) -> Result<Arc<Snapshot>, ApiError> {
        let s = self.snapshot(caller, id)?;
        let now = self.now();
        if now > s.expires_ms.load(Ordering::Relaxed) {
            let text = format!("snapshot session {id} has expired; create a new one");
            return Err(ApiError::new(Code::SnapshotSessionExpired, text));
        }
        s.expires_ms.fetch_max(now + self.limits.snapshot_session_ttl_ms, Ordering::Relaxed);
        Ok(s)
    }

    fn snapshot(&self, caller: &Caller, id: &str) -> Result<Arc<Snapshot>, ApiError> {
        let s = self.snapshots.get(id).ok_or_else(|| not_found(id))?;
        if s.user != caller.user.as_str() {
            let text = format!("snapshot session {id} does not belong to the authenticated user");
            return Err(ApiError::new(Code::SnapshotSessionForbidden, text));
        }
        Ok(s)
    }

    pub(super) fn snapshot_page(&self, caller: &Caller, id: &str, request: SnapshotPageRequest) -> Outcome<Body> {
        let invalid = |text: &str| ApiError::new(Code::SnapshotChunkInvalid, text);
        let after = request.after_row_ordinal;
        if after < 0 {
            return Err(invalid("after_row_ordinal must be >= 0").into());
        }
        if request.max_rows.is_some_and(|n| n <= 0) {
            return Err(invalid("max_rows must be > 0").into());
        }
        let s = self.live_snapshot(caller, id)?;
        let scope = self.scope(caller)?.ok_or_else(|| not_found(id))?;
        let l = &self.limits;
        let max = request.max_rows.unwrap_or(l.default_rows_per_snapshot_chunk).min(l.max_rows_per_snapshot_chunk);
        let end = after.saturating_add(max).min(s.rows);
        let next = end.max(after);
        let more = next < s.rows;
        let pieces = VecDeque::from([
            Piece::Text(format!(
                "{{\"snapshot_id\":\"{}\",\"snapshot_bundle_seq\":{},\"next_row_ordinal\":{next},\"has_more\":{more},\"rows\":[",
                s.id, s.seq
            )),
            Piece::Frozen { snapshot: s, next: after, end, first: true },
            Piece::Text("]}\n".into()),
        ]);
        Ok(self.reply(scope, caller, pieces))
    }

    pub(super) fn delete_snapshot(&self, caller: &Caller, id: &str) -> Outcome<()> {
        self.snapshot(caller, id)?;
        self.snapshots.remove(id);
        Ok(())
    }
}
