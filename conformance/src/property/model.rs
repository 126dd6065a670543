//! What the protocol says of one table of one user, in memory: the conflict rules, the history, the state.

use std::collections::BTreeMap;

/// What a step does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// One row of a push.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) row: i64,
    pub(crate) op: Op,
    pub(crate) base: i64,
    pub(crate) label: String,
}

/// A row that was ever there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) version: i64,
    /// `None` for a tombstone.
    pub(crate) label: Option<String>,
}

/// A committed bundle.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub(crate) source: String,
    pub(crate) id: i64,
    pub(crate) changes: Vec<Change>,
}

/// A user's rows and their history.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) rows: BTreeMap<i64, State>,
    pub(crate) bundles: Vec<Bundle>,
}

/// The rows that live: version and label.
pub(crate) type Live = BTreeMap<i64, (i64, String)>;

impl Model {
    pub(crate) fn latest(&self) -> i64 {
        self.bundles.len() as i64
    }

    /// Whether a change conflicts (reference §3.6).
    pub(crate) fn conflicts(&self, c: &Change) -> bool {
        let Some(row) = self.rows.get(&c.row) else { return c.op != Op::Insert || c.base != 0 };
        let live = row.label.is_some();
        c.base != row.version || live == (c.op == Op::Insert)
    }

    /// Commits, unless a row conflicts.
    pub(crate) fn commit(&mut self, source: &str, id: i64, changes: &[Change]) -> bool {
        if changes.iter().any(|c| self.conflicts(c)) {
            return false;
        }
        let version = self.latest() + 1;
        for c in changes {
            let label = (c.op != Op::Delete).then(|| c.label.clone());
            self.rows.insert(c.row, State { version, label });
        }
        self.bundles.push(Bundle { source: source.to_owned(), id, changes: changes.to_vec() });
        true
    }

    /// What lives now.
    pub(crate) fn live(&self) -> Live {
        let live = self.rows.iter().filter_map(|(n, s)| Some((*n, (s.version, s.label.clone()?))));
        live.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conflict_rules_line_by_line() {
        let change = |row, op, base| Change { row, op, base, label: "x".to_owned() };
        let mut m = Model::default();
        assert!(m.commit("a", 1, &[change(1, Op::Insert, 0), change(2, Op::Insert, 0)]));
        assert!(m.commit("a", 2, &[change(2, Op::Delete, 1)]));
        for (row, op, base, conflicts) in [
            (3, Op::Insert, 0, false),
            (3, Op::Insert, 1, true),
            (3, Op::Update, 0, true),
            (3, Op::Delete, 0, true),
            (2, Op::Insert, 2, false),
            (2, Op::Insert, 0, true),
            (2, Op::Update, 2, true),
            (2, Op::Delete, 2, true),
            (1, Op::Insert, 1, true),
            (1, Op::Insert, 0, true),
            (1, Op::Update, 1, false),
            (1, Op::Update, 2, true),
            (1, Op::Delete, 1, false),
            (1, Op::Delete, 0, true),
        ] {
            assert_eq!(m.conflicts(&change(row, op, base)), conflicts, "{op:?} of {row} with base {base}");
        }
        assert_eq!(m.live(), BTreeMap::from([(1, (1, "x".to_owned()))]));
    }
}
