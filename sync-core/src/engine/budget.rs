//! How much a caller may ask for in a while: a budget that fills again with time.

/// What is left of a budget, and when that was so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    left: i64,
    at_ms: i64,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub const fn full(per_minute: i64, now_ms: i64) -> Self {
        Self { left: per_minute, at_ms: now_ms }
    }

    /// Takes `cost`, as long as anything is left: what is taken beyond is missing later. A clock that went
    /// back adds nothing.
    ///
    /// # Errors
    /// The whole seconds after which something is left again.
    pub fn take(&mut self, cost: i64, per_minute: i64, now_ms: i64) -> Result<(), u64> {
        let per_minute = per_minute.max(1);
        let passed = i128::from(now_ms.saturating_sub(self.at_ms).max(0));
        let filled = i128::from(self.left) + passed * i128::from(per_minute) / 60_000;
        self.left = i64::try_from(filled.min(i128::from(per_minute))).unwrap_or(per_minute);
        self.at_ms = now_ms;
        if self.left > 0 {
            self.left = self.left.saturating_sub(cost.max(1));
            return Ok(());
        }
        let missing = u128::from(self.left.unsigned_abs()) + 1;
        let ms = (missing * 60_000).div_ceil(u128::from(per_minute.unsigned_abs()));
        Err(u64::try_from(ms.div_ceil(1000)).unwrap_or(u64::MAX))
    }

    /// Whether it would be full by now: then nothing is lost by forgetting it.
    #[must_use]
    pub fn is_full(&self, per_minute: i64, now_ms: i64) -> bool {
        let passed = i128::from(now_ms.saturating_sub(self.at_ms).max(0));
        i128::from(self.left) + passed * i128::from(per_minute.max(1)) / 60_000 >= i128::from(per_minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_empties_and_fills() {
        let mut b = Budget::full(600, 0);
        assert!(b.is_full(600, 0));
        assert_eq!(b.take(100, 600, 0), Ok(()));
        assert!(!b.is_full(600, 0));
        // More than is left, once: the debt is paid by waiting.
        assert_eq!(b.take(1000, 600, 0), Ok(()));
        assert_eq!(b.take(1, 600, 0), Err(51));
        assert_eq!(b.take(1, 600, 50_000), Err(1));
        assert_eq!(b.take(1, 600, 51_000), Ok(()));
        assert_eq!(b.take(1, 600, 50_000), Ok(()), "9 are left, and no time is taken back");
        assert!(!b.is_full(600, 60_000), "98 are left");
        assert!(b.is_full(600, 120_000));
        assert_eq!(Budget::full(1, 0).take(5, 1, 0), Ok(()));
    }
}
