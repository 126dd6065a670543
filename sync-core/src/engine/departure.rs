//! How a row left its table, as its log tells (ARCHITECTURE.md, "Capture"). Only a DELETE that was seen may act on
//! other rows by what the schema declares for deletes: a key that the app changed, and a row that REPLACE evicted,
//! look the same on the wire, and would take along rows that the app has kept.

/// How a row left its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Departure {
    /// It is there, or nobody saw it go: the file was detached, or triggers were off.
    #[default]
    Unseen,
    /// By a DELETE.
    Deleted,
    /// It has another key now.
    Rekeyed,
    /// By another row that took a UNIQUE value of it (REPLACE).
    Evicted,
}

impl Departure {
    /// One integer; none where it was not seen.
    #[must_use]
    pub const fn stored(self) -> Option<i64> {
        match self {
            Self::Unseen => None,
            Self::Deleted => Some(1),
            Self::Rekeyed => Some(2),
            Self::Evicted => Some(3),
        }
    }

    /// Reads [`Departure::stored`].
    #[must_use]
    pub const fn from_stored(n: Option<i64>) -> Self {
        match n {
            Some(1) => Self::Deleted,
            Some(2) => Self::Rekeyed,
            Some(3) => Self::Evicted,
            _ => Self::Unseen,
        }
    }

    /// Whether the delete that follows from it may take other rows along, or change them.
    #[must_use]
    pub const fn may_act_on_others(self) -> bool {
        matches!(self, Self::Deleted)
    }
}

/// What an entry of a log says of the row with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// It came to be.
    Came,
    /// It was there, and was changed.
    Changed,
    /// It was deleted.
    Went,
    /// It got another key.
    Rekeyed,
    /// It held a UNIQUE value that another row was about to take.
    Threatened,
}

/// The entries of one key, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trail {
    /// Nothing speaks of a departure.
    #[default]
    Here,
    /// It may be evicted by now.
    Threatened,
    /// It left.
    Left(Departure),
}

impl Trail {
    /// The trail with one more entry.
    ///
    /// ```
    /// use sync_core::engine::departure::{Departure, Trace, Trail};
    /// let trail = Trail::default().then(Trace::Came).then(Trace::Went);
    /// assert_eq!(trail.departure(), Departure::Deleted);
    /// ```
    #[must_use]
    pub const fn then(self, trace: Trace) -> Self {
        match (self, trace) {
            (_, Trace::Came) | (Self::Threatened, Trace::Changed) => Self::Here,
            // Triggers of one change may append in either order.
            (other, Trace::Changed) => other,
            (_, Trace::Threatened) => Self::Threatened,
            (_, Trace::Rekeyed) => Self::Left(Departure::Rekeyed),
            // With recursive triggers an evicted row is deleted, too.
            (Self::Threatened, Trace::Went) => Self::Left(Departure::Evicted),
            (_, Trace::Went) => Self::Left(Departure::Deleted),
        }
    }

    /// How the row left, if it is not in its table.
    #[must_use]
    pub const fn departure(self) -> Departure {
        match self {
            Self::Here => Departure::Unseen,
            Self::Threatened => Departure::Evicted,
            Self::Left(d) => d,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_entries() {
        use Trace::{Came, Changed, Rekeyed, Threatened, Went};
        for (entries, expected) in [
            (&[][..], Departure::Unseen),
            (&[Changed], Departure::Unseen),
            (&[Came], Departure::Unseen),
            (&[Went], Departure::Deleted),
            (&[Changed, Went], Departure::Deleted),
            (&[Came, Went], Departure::Deleted),
            (&[Rekeyed], Departure::Rekeyed),
            (&[Rekeyed, Changed], Departure::Rekeyed),
            (&[Changed, Rekeyed], Departure::Rekeyed),
            (&[Rekeyed, Came], Departure::Unseen),
            (&[Rekeyed, Came, Went], Departure::Deleted),
            (&[Went, Came, Rekeyed], Departure::Rekeyed),
            (&[Threatened], Departure::Evicted),
            (&[Threatened, Went], Departure::Evicted),
            (&[Threatened, Threatened, Went], Departure::Evicted),
            // The threat came to nothing.
            (&[Threatened, Changed], Departure::Unseen),
            (&[Threatened, Changed, Went], Departure::Deleted),
            (&[Threatened, Rekeyed], Departure::Rekeyed),
            (&[Threatened, Came], Departure::Unseen),
        ] {
            let trail = entries.iter().fold(Trail::default(), |t, e| t.then(*e));
            assert_eq!(trail.departure(), expected, "{entries:?}");
        }
    }

    #[test]
    fn stored_departures() {
        for d in [Departure::Unseen, Departure::Deleted, Departure::Rekeyed, Departure::Evicted] {
            assert_eq!(Departure::from_stored(d.stored()), d);
            assert_eq!(d.may_act_on_others(), d == Departure::Deleted);
        }
        assert_eq!(Departure::from_stored(Some(99)), Departure::Unseen);
    }
}
