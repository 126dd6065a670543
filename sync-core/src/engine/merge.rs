//! Two versions of one row become one, column by column: a column that one side changed is that
//! side's, and where both did, differently, the tie rule decides.

use super::change::Known;
use crate::record::Record;
use crate::value::Value;

/// Whose value is taken of a column that both sides changed differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tie {
    /// The server's.
    #[default]
    Server,
    /// This device's.
    Client,
}

/// A merged row, and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The row.
    pub row: Vec<Value>,
    /// Columns whose local value was discarded, by position.
    pub lost_local: Vec<usize>,
    /// Columns whose server value was discarded, by position.
    pub lost_server: Vec<usize>,
}

/// Merges the local row and the server's. The base counts only where it is the row at a known version;
/// a column that it lacks, and every column where there is none, may have changed on both sides.
///
/// Rows of different lengths are cut to the shorter: both are under the columns of today.
///
/// ```
/// use sync_core::engine::change::Known;
/// use sync_core::engine::merge::{Tie, merge_columns};
/// use sync_core::value::Value;
/// let row = |name: &str, age: i64| vec![Value::from(name), Value::from(age)];
/// let base = row("x", 1).into_iter().map(Some).collect();
/// let merged = merge_columns(&row("y", 1), Known::Live(3), Some(&base), &row("x", 2), Tie::Server);
/// assert_eq!(merged.row, row("y", 2));
/// assert!(merged.lost_local.is_empty());
/// ```
#[must_use]
pub fn merge_columns(local: &[Value], known: Known, base: Option<&Record>, server: &[Value], tie: Tie) -> Merged {
    let base = base.filter(|_| matches!(known, Known::Live(_)));
    let mut merged = Merged { row: Vec::with_capacity(local.len()), lost_local: Vec::new(), lost_server: Vec::new() };
    for (i, (ours, theirs)) in local.iter().zip(server).enumerate() {
        let before = base.and_then(|b| b.get(i)?.as_ref());
        let value = match before {
            _ if ours == theirs => theirs,
            Some(b) if b == ours => theirs,
            Some(b) if b == theirs => ours,
            _ if tie == Tie::Server => {
                merged.lost_local.push(i);
                theirs
            }
            _ => {
                merged.lost_server.push(i);
                ours
            }
        };
        merged.row.push(value.clone());
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(width: usize) -> impl Strategy<Value = Vec<Value>> {
        // Few values, so that columns are often equal.
        proptest::collection::vec((0..3i64).prop_map(Value::from), width)
    }

    #[test]
    fn every_row_of_the_table() {
        let (a, b, c) = (Some("a"), "b", "c");
        let live = Known::Live(3);
        for (base, local, server, known, tie, expected, lost_local, lost_server) in [
            (a, "a", "a", live, Tie::Server, "a", 0, 0),
            (a, b, "a", live, Tie::Server, b, 0, 0),
            (a, "a", b, live, Tie::Client, b, 0, 0),
            (a, b, b, live, Tie::Server, b, 0, 0),
            (a, b, c, live, Tie::Server, c, 1, 0),
            (a, b, c, live, Tie::Client, b, 0, 1),
            // Without a base, each column that differs is a tie.
            (None, b, "a", live, Tie::Server, "a", 1, 0),
            (None, b, "a", live, Tie::Client, b, 0, 1),
            (None, b, b, live, Tie::Client, b, 0, 0),
            // What was there before a row that no server had, or that was deleted, is no base.
            (a, b, "a", Known::Never, Tie::Server, "a", 1, 0),
            (a, "a", b, Known::Gone(2), Tie::Client, "a", 0, 1),
        ] {
            let record: Option<Record> = base.map(|v| vec![Some(Value::from(v))]);
            let got = merge_columns(&[Value::from(local)], known, record.as_ref(), &[Value::from(server)], tie);
            assert_eq!(
                (got.row, got.lost_local.len(), got.lost_server.len()),
                (vec![Value::from(expected)], lost_local, lost_server),
                "{base:?} {local} {server} {known:?} {tie:?}"
            );
        }
    }

    #[test]
    fn a_column_that_the_base_lacks_is_a_tie() {
        let base: Record = vec![Some(Value::from(1))];
        let (local, server) = ([Value::from(1), Value::from(8)], [Value::from(2), Value::from(9)]);
        let merged = merge_columns(&local, Known::Live(1), Some(&base), &server, Tie::Client);
        assert_eq!(merged.row, [Value::from(2), Value::from(8)]);
        assert_eq!(merged.lost_server, [1]);
    }

    proptest! {
        #[test]
        fn of_equal_sides_nothing_changes(row in rows(5), base in proptest::option::of(rows(5)), client: bool) {
            let tie = if client { Tie::Client } else { Tie::Server };
            let base: Option<Record> = base.map(|b| b.into_iter().map(Some).collect());
            let merged = merge_columns(&row, Known::Live(1), base.as_ref(), &row, tie);
            prop_assert_eq!(merged, Merged { row, lost_local: vec![], lost_server: vec![] });
        }

        #[test]
        fn what_one_side_changed_survives(base in rows(6), local in rows(6), server in rows(6), client: bool) {
            let tie = if client { Tie::Client } else { Tie::Server };
            let record: Record = base.iter().cloned().map(Some).collect();
            let merged = merge_columns(&local, Known::Live(1), Some(&record), &server, tie);
            for i in 0..6 {
                let (b, l, s, m) = (&base[i], &local[i], &server[i], &merged.row[i]);
                prop_assert!(m == l || m == s, "a value from nowhere");
                if b == s { prop_assert_eq!(m, l); }
                if b == l { prop_assert_eq!(m, s); }
                // What is named as lost is lost, and nothing else is: both sides had changed it.
                let both = b != l && b != s && l != s;
                prop_assert_eq!(merged.lost_local.contains(&i), both && !client);
                prop_assert_eq!(merged.lost_server.contains(&i), both && client);
            }
        }

        #[test]
        fn the_sides_are_alike(base in rows(4), local in rows(4), server in rows(4)) {
            let record: Record = base.into_iter().map(Some).collect();
            let one = merge_columns(&local, Known::Live(1), Some(&record), &server, Tie::Client);
            let other = merge_columns(&server, Known::Live(1), Some(&record), &local, Tie::Server);
            prop_assert_eq!((one.row, one.lost_server), (other.row, other.lost_local));
        }
    }
}
