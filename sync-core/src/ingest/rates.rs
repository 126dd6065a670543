//! A sliding window: what was admitted within the last seconds, and whether one more fits.

use std::collections::VecDeque;

/// What was admitted lately.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Window {
    /// When (milliseconds since the epoch) and how much, the oldest first.
    admitted: VecDeque<(i64, u64)>,
}

impl Window {
    /// Whether `cost` fits now, and if not, after how many milliseconds it will: never for more than the limit.
    ///
    /// # Errors
    /// With that time.
    pub fn ask(&mut self, limit: u64, length_ms: i64, now_ms: i64, cost: u64) -> Result<(), i64> {
        self.forget(length_ms, now_ms);
        let used: u64 = self.admitted.iter().map(|(_, cost)| cost).sum();
        let mut over = used.saturating_add(cost).saturating_sub(limit);
        if over == 0 {
            return Ok(());
        }
        for (at, cost) in &self.admitted {
            over = over.saturating_sub(*cost);
            if over == 0 {
                return Err((at + length_ms - now_ms).max(1));
            }
        }
        Err(length_ms)
    }

    /// Counts what was admitted.
    pub fn charge(&mut self, now_ms: i64, cost: u64) {
        if cost > 0 {
            self.admitted.push_back((now_ms, cost));
        }
    }

    /// Drops what is older than the window, and says whether nothing is left. A clock that was set back frees what it
    /// admitted ahead of now: a limit is no reason to lock a device out for hours.
    pub fn forget(&mut self, length_ms: i64, now_ms: i64) -> bool {
        self.admitted.retain(|(at, _)| *at > now_ms - length_ms && *at <= now_ms);
        self.admitted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_charged_and_room_comes_back_one_by_one() {
        let mut w = Window::default();
        let ask = |w: &mut Window, now, cost| {
            let asked = w.ask(3, 60_000, now, cost);
            if asked.is_ok() {
                w.charge(now, cost);
            }
            asked
        };
        for now in [0, 1_000, 2_000] {
            assert_eq!(ask(&mut w, now, 1), Ok(()));
        }
        for now in 3_000..3_100 {
            assert_eq!(ask(&mut w, now, 1), Err(60_000 - now));
        }
        assert_eq!(ask(&mut w, 3_000, 2), Err(58_000));
        assert_eq!(ask(&mut w, 3_000, 4), Err(60_000), "never fits");
        assert_eq!(ask(&mut w, 59_999, 1), Err(1));
        assert_eq!(ask(&mut w, 60_000, 1), Ok(()));
        assert_eq!(ask(&mut w, 60_000, 1), Err(1_000));
        assert_eq!(ask(&mut w, 60_000, 0), Ok(()), "nothing always fits");
        assert!(!w.forget(60_000, 60_000) && w.forget(60_000, 120_000));
        assert_eq!(ask(&mut w, 200_000, 3), Ok(()));
        assert_eq!(ask(&mut w, 100_000, 3), Ok(()), "a clock that was set back");
    }
}
