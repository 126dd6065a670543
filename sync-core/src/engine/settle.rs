//! A remote row meets a local intent for the same key (cases C3–C7): keep the local row and rebase
//! it, or take the remote one and record what was discarded.

use super::change::{Change, Known, derive};
use super::merge::Tie;
use crate::record::Record;
use crate::value::Value;

/// What the owner of a table wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// The server's row wins; the local edit is recorded whole.
    #[default]
    ServerWins,
    /// The local row wins; it is pushed on top of the server's.
    ClientWins,
    /// Both rows become one, column by column; of a row that one side deleted, the tie rule decides.
    MergeColumns(Tie),
    /// The app's own function decides.
    Ask,
}

/// What happens to the local intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Both say the same: the intent is done, only the version is taken.
    Done,
    /// There was no intent worth keeping: the remote row is taken, nothing is recorded.
    TakeSilently,
    /// No conflict: the local row stays, on the remote version. A tombstone that this file never saw.
    RebaseSilently,
    /// The remote row is taken; the local one is recorded as discarded.
    Take,
    /// The local row stays, on the remote version; the remote row is recorded as overruled.
    Rebase,
    /// Two devices minted the same INTEGER key for different rows: the local row moves to a free one.
    Rekey,
    /// Both rows are there: merge them ([`super::merge::merge_columns`]).
    Merge(Tie),
    /// Ask the app.
    Ask,
}

/// Settles one key. `live` is the local row, `None` where it was deleted here; `remote` the server's,
/// `None` for a tombstone. `integer_key` says that the local row is a new one under a number that was minted here.
#[must_use]
pub fn settle(
    live: Option<&[Value]>,
    known: Known,
    base: Option<&Record>,
    remote: Option<&[Value]>,
    integer_key: bool,
    rule: Rule,
) -> Verdict {
    match (live, remote) {
        (None, None) => return Verdict::Done,
        (Some(l), Some(r)) if l == r => return Verdict::Done,
        _ => {}
    }
    if derive(live, known, base) == Change::Nothing {
        return Verdict::TakeSilently;
    }
    match (live, known, remote) {
        (Some(_), Known::Never | Known::Gone(_), None) => Verdict::RebaseSilently,
        (Some(_), Known::Never | Known::Gone(_), Some(_)) if integer_key => Verdict::Rekey,
        _ => match rule {
            Rule::MergeColumns(tie) if live.is_some() && remote.is_some() => Verdict::Merge(tie),
            Rule::ServerWins | Rule::MergeColumns(Tie::Server) => Verdict::Take,
            Rule::ClientWins | Rule::MergeColumns(Tie::Client) => Verdict::Rebase,
            Rule::Ask => Verdict::Ask,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let a = [Value::from(1), Value::from("a")];
        let b = [Value::from(1), Value::from("b")];
        let base_a: Record = a.iter().cloned().map(Some).collect();
        let (server, client, ask) = (Rule::ServerWins, Rule::ClientWins, Rule::Ask);
        let (merge, merge_client) = (Rule::MergeColumns(Tie::Server), Rule::MergeColumns(Tie::Client));
        let (some_a, some_b): (Option<&[Value]>, Option<&[Value]>) = (Some(&a), Some(&b));
        for (live, known, base, remote, integer_key, rule, expected) in [
            // C5: both say the same.
            (None, Known::Live(3), Some(&base_a), None, false, server, Verdict::Done),
            (some_a, Known::Never, None, some_a, true, server, Verdict::Done),
            (some_a, Known::Live(3), None, some_a, false, client, Verdict::Done),
            // Changed and changed back, or inserted and deleted: no intent.
            (some_a, Known::Live(3), Some(&base_a), some_b, false, client, Verdict::TakeSilently),
            (some_a, Known::Live(3), Some(&base_a), None, false, client, Verdict::TakeSilently),
            (None, Known::Never, None, some_b, false, client, Verdict::TakeSilently),
            (None, Known::Gone(2), None, some_b, false, ask, Verdict::TakeSilently),
            // C4: a tombstone that this file never saw, or saw before.
            (some_a, Known::Never, None, None, false, server, Verdict::RebaseSilently),
            (some_a, Known::Gone(2), None, None, false, server, Verdict::RebaseSilently),
            // C7: an INTEGER key minted twice, whatever the policy.
            (some_a, Known::Never, None, some_b, true, server, Verdict::Rekey),
            (some_a, Known::Never, None, some_b, true, client, Verdict::Rekey),
            (some_a, Known::Gone(2), None, some_b, true, client, Verdict::Rekey),
            (some_a, Known::Live(1), None, some_b, true, server, Verdict::Take),
            // The policy.
            (some_a, Known::Gone(2), None, some_b, false, client, Verdict::Rebase),
            (some_a, Known::Never, None, some_b, false, server, Verdict::Take),
            (some_a, Known::Live(3), None, some_b, false, client, Verdict::Rebase),
            (some_a, Known::Live(3), None, None, false, server, Verdict::Take),
            (some_a, Known::Live(3), None, None, false, client, Verdict::Rebase),
            (None, Known::Live(3), Some(&base_a), some_b, false, server, Verdict::Take),
            (None, Known::Live(3), Some(&base_a), some_b, false, client, Verdict::Rebase),
            (some_a, Known::Live(3), None, some_b, false, ask, Verdict::Ask),
            // All that is known is that the server had a row: a delete, or an edit, of something.
            (None, Known::Live(0), None, some_b, false, server, Verdict::Take),
            (None, Known::Live(0), None, some_b, false, client, Verdict::Rebase),
            (some_a, Known::Live(0), None, some_b, true, server, Verdict::Take),
            // A merge needs both rows; without one of them, the tie rule is all there is.
            (some_a, Known::Live(3), None, some_b, false, merge, Verdict::Merge(Tie::Server)),
            (some_a, Known::Never, None, some_b, false, merge_client, Verdict::Merge(Tie::Client)),
            (some_a, Known::Never, None, some_b, true, merge, Verdict::Rekey),
            (some_a, Known::Live(3), None, None, false, merge, Verdict::Take),
            (some_a, Known::Live(3), None, None, false, merge_client, Verdict::Rebase),
            (None, Known::Live(3), None, some_b, false, merge, Verdict::Take),
            (None, Known::Live(3), None, some_b, false, merge_client, Verdict::Rebase),
        ] {
            let got = settle(live, known, base, remote, integer_key, rule);
            assert_eq!(got, expected, "{live:?} {known:?} {base:?} {remote:?} {rule:?}");
        }
    }
}
