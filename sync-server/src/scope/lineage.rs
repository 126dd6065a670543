//! Whether a caller knows this history or another one that had the same numbers (cases H1, H2).

use rusqlite::Connection;
use sync_core::hash::{Digest, history};
use sync_core::protocol::{ApiError, Code};

use super::fail::Outcome;
use super::store::{self, State};

/// Compares the caller's history hash with that of the bundle at its checkpoint, pruned or not. Where nothing
/// is remembered of it, the bundle after it may still prove the hash. False where nothing does.
///
/// # Errors
/// `checkpoint_ahead` and `history_diverged`, each with the newest bundle.
pub(crate) fn check_lineage(conn: &Connection, state: &State, after: i64, hash: Digest) -> Outcome<bool> {
    let latest = state.history.latest;
    if after > latest {
        let text = format!("bundle {after} is ahead of the latest bundle {latest}");
        return Err(ApiError::new(Code::CheckpointAhead, text).with_integer("latest_bundle_seq", latest).into());
    }
    let own = if after == 0 {
        Some(Digest::default())
    } else if after == latest {
        Some(state.history_hash)
    } else {
        match store::bundle(conn, after)? {
            Some(b) => Some(b.history_hash),
            None => store::lineage(conn, after)?,
        }
    };
    let same = match own {
        Some(own) => own == hash,
        None => match store::bundle(conn, after + 1)? {
            Some(next) => history(hash, next.blake3, next.seq) == next.history_hash,
            None => return Ok(false),
        },
    };
    if same {
        return Ok(true);
    }
    let text = format!("the history up to bundle {after} is not the one that was pulled");
    Err(ApiError::new(Code::HistoryDiverged, text).with_integer("latest_bundle_seq", latest).into())
}
