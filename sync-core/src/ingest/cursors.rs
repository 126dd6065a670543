//! Where a target stands in a kind: the latest record that it has, by time and then id.
//!
//! A cursor is what a person and other tools are told. What is sent goes by what the target has confirmed of each record:
//! an event that is found late is older than the cursor, and is sent all the same.

use std::cmp::Ordering;

use super::time::nanoseconds;

/// A place in a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The record's time, as it is written (RFC 3339).
    pub at: String,
    /// Its id.
    pub id: String,
}

impl Cursor {
    /// The later of two places; times are instants, whatever their offset.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        let order = nanoseconds(&self.at).cmp(&nanoseconds(&other.at)).then_with(|| self.id.cmp(&other.id));
        if order == Ordering::Less { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_instant_then_the_higher_id() {
        let c = |at: &str, id: &str| Cursor { at: at.into(), id: id.into() };
        let sorted = [
            c("2026-06-01T01:00:00+02:00", "z"),
            c("2026-06-01T00:00:00Z", "a"),
            c("2026-06-01T00:00:00Z", "b"),
            c("2026-06-01T00:00:00.5Z", "a"),
        ];
        for (i, a) in sorted.iter().enumerate() {
            for b in &sorted[i..] {
                assert_eq!(a.clone().later(b.clone()), *b);
                assert_eq!(b.clone().later(a.clone()), *b);
            }
        }
    }
}
