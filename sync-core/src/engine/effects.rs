//! From captured changes to the rows of a bundle (reference-server §3.7).

use crate::protocol::Op;

/// What all changes of one key within a bundle come to: `None` where they cancel out.
///
/// ```
/// use sync_core::engine::effects::coalesce;
/// use sync_core::protocol::Op;
/// assert_eq!(coalesce(Op::Delete, Op::Insert), Some(Op::Update));
/// ```
#[must_use]
pub const fn coalesce(first: Op, last: Op) -> Option<Op> {
    effect(!matches!(first, Op::Insert), !matches!(last, Op::Delete))
}

/// The same from the two ends: whether the row lived before the bundle and lives after it. It does
/// not depend on the order in which triggers report what they did.
#[must_use]
pub const fn effect(lived: bool, lives: bool) -> Option<Op> {
    match (lived, lives) {
        (false, true) => Some(Op::Insert),
        (true, true) => Some(Op::Update),
        (true, false) => Some(Op::Delete),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Op::{Delete, Insert, Update};

    #[test]
    fn the_decision_table() {
        for (first, last, expected) in [
            (Insert, Insert, Some(Insert)),
            (Insert, Update, Some(Insert)),
            (Insert, Delete, None),
            (Update, Update, Some(Update)),
            (Update, Delete, Some(Delete)),
            (Update, Insert, Some(Update)),
            (Delete, Delete, Some(Delete)),
            (Delete, Insert, Some(Update)),
            (Delete, Update, Some(Update)),
        ] {
            assert_eq!(coalesce(first, last), expected, "{first:?} … {last:?}");
        }
    }
}
