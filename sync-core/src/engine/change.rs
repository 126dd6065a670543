//! What a captured change means (ARCHITECTURE.md, "Capture"): derived when the outbox is frozen, from
//! the base, the live row and the last known version, never recorded by a trigger.

use crate::protocol::Op;
use crate::record::Record;
use crate::value::Value;

/// What this file last heard from the server about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Never,
    /// A row at this version; 0 where all that is known is that there was one.
    Live(i64),
    /// A tombstone at this version.
    Gone(i64),
}

impl Known {
    /// One integer: negative for a tombstone, none where nothing was heard.
    #[must_use]
    pub const fn from_stored(v: Option<i64>) -> Self {
        match v {
            None => Self::Never,
            Some(v) if v >= 0 => Self::Live(v),
            Some(v) => Self::Gone(-v),
        }
    }

    /// The version, 0 where there is none or it is not known.
    #[must_use]
    pub const fn version(self) -> i64 {
        match self {
            Self::Never => 0,
            Self::Live(v) | Self::Gone(v) => v,
        }
    }
}

/// What has to be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: never there, or changed and changed back.
    Nothing,
    /// This operation on this base version.
    Push(Op, i64),
}

/// Derives the meaning of a change.
///
/// ```
/// use sync_core::engine::change::{Change, Known, derive};
/// use sync_core::{protocol::Op, value::Value};
/// let row = [Value::from(1)];
/// assert_eq!(derive(Some(&row), Known::Gone(9), None), Change::Push(Op::Insert, 9));
/// assert_eq!(derive(None, Known::Never, None), Change::Nothing);
/// ```
#[must_use]
pub fn derive(live: Option<&[Value]>, known: Known, base: Option<&Record>) -> Change {
    match (live, known) {
        (None, Known::Never | Known::Gone(_)) => Change::Nothing,
        (None, Known::Live(v)) => Change::Push(Op::Delete, v),
        (Some(_), Known::Never) => Change::Push(Op::Insert, 0),
        (Some(_), Known::Gone(v)) => Change::Push(Op::Insert, v),
        (Some(row), Known::Live(v)) => {
            if base.is_some_and(|b| equals_base(row, b)) {
                Change::Nothing
            } else {
                Change::Push(Op::Update, v)
            }
        }
    }
}

/// Whether a row is what it was: the base holds every column and each is the same.
#[must_use]
pub fn equals_base(row: &[Value], base: &Record) -> bool {
    row.len() == base.len() && row.iter().zip(base).all(|(r, b)| b.as_ref() == Some(r))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let row = [Value::from("k"), Value::from(1)];
        let same: Record = row.iter().cloned().map(Some).collect();
        let other: Record = vec![Some(Value::from("k")), Some(Value::from(2))];
        let shorter: Record = vec![Some(Value::from("k"))];
        let push = Change::Push;
        for (live, known, base, expected) in [
            (true, Known::Never, None, push(Op::Insert, 0)),
            (true, Known::Never, Some(&other), push(Op::Insert, 0)),
            (true, Known::Gone(9), None, push(Op::Insert, 9)),
            (true, Known::Live(7), None, push(Op::Update, 7)),
            (true, Known::Live(7), Some(&other), push(Op::Update, 7)),
            (true, Known::Live(7), Some(&shorter), push(Op::Update, 7)),
            (true, Known::Live(7), Some(&same), Change::Nothing),
            (false, Known::Never, None, Change::Nothing),
            (false, Known::Never, Some(&other), Change::Nothing),
            (false, Known::Gone(9), Some(&other), Change::Nothing),
            (false, Known::Live(7), Some(&same), push(Op::Delete, 7)),
            (false, Known::Live(7), None, push(Op::Delete, 7)),
            (false, Known::Live(0), None, push(Op::Delete, 0)),
        ] {
            assert_eq!(derive(live.then_some(&row), known, base), expected, "{live} {known:?} {base:?}");
        }
    }

    #[test]
    fn stored_versions() {
        assert_eq!(Known::from_stored(None), Known::Never);
        assert_eq!(Known::from_stored(Some(4)), Known::Live(4));
        assert_eq!(Known::from_stored(Some(0)), Known::Live(0));
        assert_eq!(Known::from_stored(Some(-4)), Known::Gone(4));
        assert_eq!(Known::Gone(4).version(), 4);
    }
}
