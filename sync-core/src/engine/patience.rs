//! How long a verb that somebody waits for waits itself, where the server says when to come back. What runs in the
//! background has a [`super::schedule`] for that.

/// Why a verb would have to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// The server has no place now, or fails for now; `Retry-After` in seconds.
    Asked(u64),
    /// Another device fills the scope, which may be done long before the end of its lease.
    Seeding(u64),
}

/// The wait before the next try, in milliseconds; `None` where what is left of the patience is less than what was asked
/// for. Waits are spread by `random`, any 64 random bits: who was sent away together does not come back together.
///
/// ```
/// use sync_core::engine::patience::{Later, wait_ms};
/// assert_eq!(wait_ms(Later::Asked(3), 30_000, 0), Some(3_000));
/// assert_eq!(wait_ms(Later::Asked(31), 30_000, 0), None);
/// assert_eq!(wait_ms(Later::Seeding(900), 30_000, 0), Some(5_000));
/// ```
#[must_use]
pub fn wait_ms(later: Later, left_ms: u64, random: u64) -> Option<u64> {
    let asked_ms = match later {
        Later::Asked(seconds) => seconds.max(1).saturating_mul(1000),
        Later::Seeding(seconds) => seconds.clamp(1, MOST_SEEDING_S) * 1000,
    };
    let spread = ((u128::from(SPREAD_MS) * u128::from(random)) >> 64) as u64;
    (asked_ms <= left_ms).then(|| asked_ms.saturating_add(spread).min(left_ms))
}

/// A seeding is asked after at least this often, in seconds.
const MOST_SEEDING_S: u64 = 5;
/// Waits are up to this much longer, in milliseconds.
const SPREAD_MS: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_table() {
        for (later, left_ms, shortest, longest) in [
            (Later::Asked(1), 30_000, Some(1_000), Some(1_499)),
            (Later::Asked(0), 30_000, Some(1_000), Some(1_499)),
            (Later::Asked(30), 30_000, Some(30_000), Some(30_000)),
            (Later::Asked(31), 30_000, None, None),
            (Later::Asked(1), 999, None, None),
            (Later::Asked(1), 0, None, None),
            (Later::Asked(u64::MAX), u64::MAX, Some(u64::MAX), Some(u64::MAX)),
            (Later::Seeding(2), 30_000, Some(2_000), Some(2_499)),
            (Later::Seeding(0), 30_000, Some(1_000), Some(1_499)),
            (Later::Seeding(900), 30_000, Some(5_000), Some(5_499)),
            (Later::Seeding(900), 4_999, None, None),
            (Later::Seeding(u64::MAX), 5_000, Some(5_000), Some(5_000)),
        ] {
            assert_eq!(wait_ms(later, left_ms, 0), shortest, "{later:?} of {left_ms}");
            assert_eq!(wait_ms(later, left_ms, u64::MAX), longest, "{later:?} of {left_ms}");
        }
    }
}
