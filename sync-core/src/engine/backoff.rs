//! How long to wait before trying again: exponential, with full jitter, never shorter than the
//! server asked for. Randomness is an input.

/// The waiting times of a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait, in milliseconds.
    pub first_ms: u64,
    /// The longest wait of all, in milliseconds.
    pub most_ms: u64,
}

impl Default for Backoff {
    /// 500 ms, doubling up to a minute.
    fn default() -> Self {
        Self { first_ms: 500, most_ms: 60_000 }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row (1 for the first), in milliseconds: a uniform
    /// share of `first_ms · 2^(failures-1)`, capped. `random` is any 64 random bits.
    ///
    /// ```
    /// use sync_core::engine::backoff::Backoff;
    /// let b = Backoff::default();
    /// assert!(b.wait_ms(1, u64::MAX, None) <= 500);
    /// assert_eq!(b.wait_ms(1, 0, Some(7)), 7_000);
    /// ```
    #[must_use]
    pub fn wait_ms(&self, failures: u32, random: u64, retry_after_s: Option<u64>) -> u64 {
        let doubled = self.first_ms.saturating_mul(1u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
        let ceiling = doubled.min(self.most_ms).max(1);
        let jittered = ((u128::from(ceiling) * u128::from(random)) >> 64) as u64;
        jittered.max(retry_after_s.unwrap_or(0).saturating_mul(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_with_full_jitter() {
        let b = Backoff { first_ms: 100, most_ms: 1000 };
        for (failures, most) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (80, 1000), (u32::MAX, 1000)] {
            assert_eq!(b.wait_ms(failures, u64::MAX, None), most - 1);
            assert_eq!(b.wait_ms(failures, 0, None), 0);
            assert_eq!(b.wait_ms(failures, 1 << 63, None), most / 2);
        }
        assert_eq!(b.wait_ms(1, u64::MAX, Some(2)), 2000);
    }
}
