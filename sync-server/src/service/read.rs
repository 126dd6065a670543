//! What is read of history: pull, committed rows, watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sync_core::engine::connect::{Lifecycle, uninitialized};
use sync_core::engine::window::{self, window};
use sync_core::hash::Digest;
use sync_core::protocol::pull::PullRequest;
use sync_core::protocol::watch::WatchEvent;
use sync_core::protocol::{ApiError, Code};

use super::{Body, Caller, CommittedRowsRequest, Inner, Watch, time};
use crate::scope::fail::Outcome;
use crate::scope::lineage::check_lineage;
use crate::scope::pages::{Piece, Reply, page};
use crate::scope::store::{self, State};
use crate::scope::{Scope, store::Bundle};

impl Inner {
    /// The caller's scope, initialized.
    pub(super) fn readable(&self, caller: &Caller) -> Outcome<Arc<Scope>> {
        let scope = self.scope(caller)?.ok_or_else(|| uninitialized(caller.user.as_str()))?;
        Self::note_view(caller, &scope);
        Ok(scope)
    }

    pub(super) fn check_readable(&self, caller: &Caller, state: &State) -> Result<(), ApiError> {
        let now = self.now();
        state
            .lifecycle
            .readable(caller.user.as_str(), now, time)
            .map_err(|e| self.asked_again(&state.lifecycle, now, e))
    }

    /// Tells who has to wait for a seeding when to ask again.
    pub(super) fn asked_again(&self, lifecycle: &Lifecycle, now_ms: i64, e: ApiError) -> ApiError {
        match lifecycle.lease(now_ms).filter(|_| e.code == Code::ScopeInitializing) {
            None => e,
            Some(lease) => {
                let seconds = lease.retry_after_s(now_ms, self.limits.initialization_lease_ttl_ms);
                e.with_text("lease_expires_at", &time(lease.expires_ms))
                    .with_integer("retry_after_seconds", seconds)
                    .after(seconds.unsigned_abs())
            }
        }
    }

    pub(super) fn reply(&self, scope: Arc<Scope>, caller: &Caller, pieces: VecDeque<Piece>) -> Body {
        Box::new(Reply {
            gate: Arc::clone(&self.gate),
            scope,
            schema: Arc::clone(&self.schema),
            algorithm: caller.algorithm,
            pieces,
        })
    }

    pub(super) fn pull(&self, caller: &Caller, request: &PullRequest) -> Outcome<Body> {
        let user = caller.user.as_str();
        if request.max_inline_rows.is_some_and(|n| n < 0) {
            return Err(ApiError::new(Code::PullInvalid, "max_inline_rows must be >= 0").into());
        }
        let hash = match request.after_history_hash.as_deref() {
            None => None,
            Some(text) => Some(Digest::from_hex(text).ok_or_else(|| {
                ApiError::new(Code::PullInvalid, "after_history_hash must be 64 lowercase hex digits")
            })?),
        };
        let scope = self.readable(caller)?;
        let (window, rows, bundles, more) = scope.read(|conn| {
            let state = store::state(conn)?;
            self.check_readable(caller, &state)?;
            let (after, target) = (request.after_bundle_seq, request.target_bundle_seq);
            let cap = self.limits.max_bundles_per_pull;
            // Before anything is said of what was pruned: it may have been another history's.
            let shared = match hash.filter(|_| (0..state.history.floor).contains(&after)) {
                Some(hash) => check_lineage(conn, &state, after, hash)?,
                None => false,
            };
            let w = window(state.history, user, after, target, request.max_bundles, cap).map_err(|e| {
                if e.code != Code::HistoryPruned {
                    return e;
                }
                self.pruned.fetch_add(1, Ordering::Relaxed);
                if shared { e.with_json("history_shared", "true".into()) } else { e }
            })?;
            if let Some(hash) = hash {
                check_lineage(conn, &state, after, hash)?;
            }
            let max_bytes = self.limits.max_bytes_per_pull;
            let (bundles, more) = page(conn, w.after, w.stable, w.max_bundles, max_bytes, request.max_inline_rows)?;
            let rows = match request.max_inline_rows {
                Some(_) => Some(store::rows_between(conn, w.after, w.stable)?),
                None => None,
            };
            Ok((w, rows, bundles, more))
        })?;
        let mut pieces = VecDeque::with_capacity(bundles.len() * 4 + 2);
        let rows = rows.map(|n| format!("\"row_count\":{n},")).unwrap_or_default();
        pieces.push_back(Piece::Text(format!("{{\"stable_bundle_seq\":{},{rows}\"bundles\":[", window.stable)));
        for (n, b) in bundles.into_iter().enumerate() {
            let omitted = request.max_inline_rows.is_some_and(|m| b.row_count > m);
            let rows = all_rows(&b);
            pieces.push_back(Piece::Text(if n > 0 { ",{".into() } else { "{".into() }));
            pieces.push_back(Piece::Head(Box::new(b)));
            if omitted {
                pieces.push_back(Piece::Text(",\"rows\":[],\"rows_omitted\":true}".into()));
            } else {
                pieces.push_back(Piece::Text(",\"rows\":[".into()));
                pieces.push_back(rows);
                pieces.push_back(Piece::Text("]}".into()));
            }
        }
        pieces.push_back(Piece::Text(format!("],\"has_more\":{more}}}\n")));
        Ok(self.reply(scope, caller, pieces))
    }

    pub(super) fn committed_rows(&self, caller: &Caller, seq: i64, request: CommittedRowsRequest) -> Outcome<Body> {
        let invalid = |text: &str| ApiError::new(Code::CommittedBundleChunkInvalid, text);
        if seq <= 0 {
            return Err(invalid("bundle_seq must be > 0").into());
        }
        if request.after_row_ordinal.is_some_and(|n| n < 0) {
            return Err(invalid("after_row_ordinal must be >= 0").into());
        }
        if request.max_rows.is_some_and(|n| n <= 0) {
            return Err(invalid("max_rows must be > 0").into());
        }
        let not_found =
            || ApiError::new(Code::CommittedBundleNotFound, format!("committed bundle {seq} was not found"));
        let scope = self.scope(caller)?.ok_or_else(not_found)?;
        Self::note_view(caller, &scope);
        let bundle = scope.read(|conn| {
            let state = store::state(conn)?;
            if seq <= state.history.floor {
                return Err(window::pruned(state.history, caller.user.as_str(), seq).into());
            }
            Ok(store::bundle(conn, seq)?.ok_or_else(not_found)?)
        })?;
        let l = &self.limits;
        let max = request.max_rows.unwrap_or(l.default_rows_per_committed_bundle_chunk);
        let max = max.min(l.max_rows_per_committed_bundle_chunk);
        let from = request.after_row_ordinal.map_or(0, |n| n.saturating_add(1)).min(bundle.row_count);
        let to = from.saturating_add(max).min(bundle.row_count);
        let next = if to > from { to - 1 } else { request.after_row_ordinal.unwrap_or(0) };
        let (start, end, version) = (bundle.first_row + from, bundle.first_row + to, bundle.seq);
        let more = to < bundle.row_count;
        let pieces = VecDeque::from([
            Piece::Text("{".into()),
            Piece::Head(Box::new(bundle)),
            Piece::Text(",\"rows\":[".into()),
            Piece::Rows { next: start, end, version, first: true },
            Piece::Text(format!("],\"next_row_ordinal\":{next},\"has_more\":{more}}}\n")),
        ]);
        Ok(self.reply(scope, caller, pieces))
    }

    pub(super) fn watch(&self, caller: &Caller, after: i64) -> Outcome<Watch> {
        if after < 0 {
            return Err(ApiError::new(Code::InvalidRequest, "after_bundle_seq must be >= 0").into());
        }
        let scope = self.readable(caller)?;
        // Subscribed before the newest is read, so that nothing falls between.
        let newest = self
            .hub
            .watch(&scope.name, 0)
            .ok_or_else(|| ApiError::new(Code::ServiceUnavailable, "Sync service is shutting down"))?;
        let state = scope.read(store::state)?;
        self.check_readable(caller, &state)?;
        let latest = state.history.latest;
        let event = WatchEvent { bundle_seq: latest, source_id: None, source_bundle_id: None };
        Ok(Watch { first: (latest > after).then_some(event), newest })
    }
}

fn all_rows(b: &Bundle) -> Piece {
    Piece::Rows { next: b.first_row, end: b.first_row + b.row_count, version: b.seq, first: true }
}
