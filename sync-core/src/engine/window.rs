//! Which bundles a pull sees (reference-server §5; protocol §8).

use crate::protocol::{ApiError, Code};

/// Bundles of a page where the caller names no number.
pub const DEFAULT_BUNDLES: i64 = 1000;

/// A scope's retained history: bundles above `floor`, up to `latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Bundles at or below are gone.
    pub floor: i64,
    /// The newest bundle; 0 before the first.
    pub latest: i64,
}

/// The bundles that a page may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The frozen end.
    pub stable: i64,
    /// Bundles above this.
    pub after: i64,
    /// Bundles of the page, at most.
    pub max_bundles: i64,
}

/// Decides a pull's window. `target` 0 is none, `max_bundles` 0 leaves the number to the server.
///
/// # Errors
/// `pull_invalid`, `history_pruned`, `checkpoint_ahead`.
pub fn window(
    history: History,
    user: &str,
    after: i64,
    target: i64,
    max_bundles: i64,
    cap: i64,
) -> Result<Window, ApiError> {
    for (name, value) in [("after_bundle_seq", after), ("target_bundle_seq", target), ("max_bundles", max_bundles)] {
        if value < 0 {
            return Err(ApiError::new(Code::PullInvalid, format!("{name} must be >= 0")));
        }
    }
    for checkpoint in [Some(after), (target > 0).then_some(target)].into_iter().flatten() {
        if checkpoint < history.floor {
            return Err(pruned(history, user, checkpoint));
        }
        if checkpoint > history.latest {
            return Err(ApiError::new(
                Code::CheckpointAhead,
                format!("bundle {checkpoint} is ahead of the latest bundle {} of user {user}", history.latest),
            )
            .with_integer("latest_bundle_seq", history.latest));
        }
    }
    let stable = if target > 0 { target } else { history.latest };
    let asked = if max_bundles == 0 { DEFAULT_BUNDLES } else { max_bundles };
    Ok(Window { stable, after, max_bundles: asked.min(cap.max(1)) })
}

/// `history_pruned`, in its own words.
#[must_use]
pub fn pruned(history: History, user: &str, checkpoint: i64) -> ApiError {
    ApiError::new(
        Code::HistoryPruned,
        format!(
            "requested checkpoint {checkpoint} is older than retained history floor {} for user {user}",
            history.floor
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_table() {
        let h = History { floor: 3, latest: 9 };
        let fresh = History { floor: 0, latest: 0 };
        let cut = History { floor: 9, latest: 9 };
        let w = |stable, after, max_bundles| Ok(Window { stable, after, max_bundles });
        for (history, after, target, max, expected) in [
            (fresh, 0, 0, 0, w(0, 0, 1000)),
            (h, 3, 0, 0, w(9, 3, 1000)),
            (h, 4, 7, 2, w(7, 4, 2)),
            (h, 9, 0, 1, w(9, 9, 1)),
            (h, 5, 0, 9999, w(9, 5, 5000)),
            (h, 9, 4, 1, w(4, 9, 1)),
            (cut, 9, 0, 1, w(9, 9, 1)),
            (h, 0, 0, 0, Err(Code::HistoryPruned)),
            (h, 2, 0, 0, Err(Code::HistoryPruned)),
            (h, 4, 2, 0, Err(Code::HistoryPruned)),
            (h, 10, 0, 0, Err(Code::CheckpointAhead)),
            (h, 4, 10, 0, Err(Code::CheckpointAhead)),
            (fresh, 1, 0, 0, Err(Code::CheckpointAhead)),
            (h, -1, 0, 0, Err(Code::PullInvalid)),
            (h, 4, -1, 0, Err(Code::PullInvalid)),
            (h, 4, 0, -1, Err(Code::PullInvalid)),
        ] {
            let got = window(history, "u", after, target, max, 5000).map_err(|e| e.code);
            assert_eq!(got, expected, "{history:?} {after} {target} {max}");
        }
        let e = window(h, "u", 10, 0, 0, 5000).unwrap_err();
        assert_eq!(e.members, [("latest_bundle_seq", "9".to_owned())]);
        let e = window(h, "u", 1, 0, 0, 5000).unwrap_err();
        assert_eq!(e.message, "requested checkpoint 1 is older than retained history floor 3 for user u");
    }
}
