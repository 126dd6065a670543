//! How far history is kept (reference-server §9).

/// Bundles that one commit prunes, at most, so that a lowered limit costs no commit a long wait.
pub const BATCH: i64 = 1000;

/// The floor after a commit, where it moves. `retained` below 1 is read as 1: the newest bundle is
/// always kept.
#[must_use]
pub fn next_floor(floor: i64, latest: i64, retained: i64) -> Option<i64> {
    let target = (latest - retained.max(1)).max(0);
    (target > floor).then(|| target.min(floor + BATCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_table() {
        for (floor, latest, retained, expected) in [
            (0, 0, 10, None),
            (0, 10, 10, None),
            (0, 11, 10, Some(1)),
            (1, 11, 10, None),
            (5, 11, 10, None),
            (0, 5000, 10, Some(1000)),
            (4000, 5000, 10, Some(4990)),
            (0, 3, 0, Some(2)),
        ] {
            assert_eq!(next_floor(floor, latest, retained), expected, "{floor} {latest} {retained}");
        }
    }
}
