//! What one user's devices pushed, so that whatever is served can be held against it.

use std::collections::BTreeMap;

use crate::calls::{Bundle, Committed, Row};
use crate::json::Json;
use crate::lab::{Checked, fail, want};
use crate::profile::Table;
use crate::property::model::{Change, Live, Model, Op};

/// One device's push: its number among the user's devices, and its source bundle id.
pub(super) type Tuple = (usize, i64);

/// A push that was sent, or is about to be.
#[derive(Debug, Clone)]
pub(super) struct Pushed {
    /// Labels are short, as [`label`] makes them.
    pub(super) changes: Vec<Change>,
    /// Its commit was asked for: it may be there.
    sent: bool,
    seq: Option<i64>,
    hash: Option<String>,
}

/// What a conflict said of a row.
#[derive(Debug, Clone, Copy)]
struct Claim {
    row: i64,
    version: i64,
    deleted: bool,
}

/// All pushes of one user's devices.
#[derive(Debug)]
pub(super) struct Ledger<'l> {
    user: String,
    table: &'l Table,
    /// Bytes of a row's text.
    bytes: usize,
    pushed: BTreeMap<Tuple, Pushed>,
    by_seq: BTreeMap<i64, Tuple>,
    claims: Vec<Claim>,
}

impl<'l> Ledger<'l> {
    pub(super) fn new(user: &str, table: &'l Table, bytes: usize) -> Self {
        let (pushed, by_seq) = (BTreeMap::new(), BTreeMap::new());
        Self { user: user.to_owned(), table, bytes, pushed, by_seq, claims: Vec::new() }
    }

    /// A row's text: whose it is, what it is, and as much more as makes its size.
    pub(super) fn text(&self, label: &str) -> String {
        let text = format!("{} {label} ", self.user);
        format!("{text}{}", "x".repeat(self.bytes.saturating_sub(text.len())))
    }

    /// Notes what is about to be pushed, in place of what was refused or given up.
    pub(super) fn push(&mut self, tuple: Tuple, changes: Vec<Change>) {
        self.pushed.insert(tuple, Pushed { changes, sent: false, seq: None, hash: None });
    }

    /// The commit is about to be asked for.
    pub(super) fn sent(&mut self, tuple: Tuple) {
        if let Some(p) = self.pushed.get_mut(&tuple) {
            p.sent = true;
        }
    }

    /// It is known that nothing was committed.
    pub(super) fn withdraw(&mut self, tuple: Tuple) -> Checked {
        let known = self.pushed.get(&tuple).and_then(|p| p.seq);
        want!(known.is_none(), "a push that was refused is not served", "{tuple:?} is bundle {known:?}");
        self.pushed.remove(&tuple);
        Ok(())
    }

    pub(super) fn committed(&mut self, tuple: Tuple, c: &Committed) -> Checked {
        self.place(tuple, c.seq)?;
        let p = &self.pushed[&tuple];
        let rows = p.changes.len() as i64;
        want!(c.row_count == rows, "a commit has the rows that were pushed", "{c:?}, pushed {rows} rows");
        self.same_hash(tuple, &c.hash)
    }

    /// The one place in history of a push.
    fn place(&mut self, tuple: Tuple, seq: i64) -> Checked {
        let Some(p) = self.pushed.get_mut(&tuple) else {
            return fail("a bundle is a push that was committed", format!("bundle {seq} of {tuple:?}"));
        };
        want!(p.sent, "a push is not served before its commit", "bundle {seq} of {tuple:?}");
        let before = *p.seq.get_or_insert(seq);
        want!(before == seq, "each push is committed once", "{tuple:?} is bundle {before} and bundle {seq}");
        let other = *self.by_seq.entry(seq).or_insert(tuple);
        want!(other == tuple, "each bundle is one push", "bundle {seq} is {other:?} and {tuple:?}");
        Ok(())
    }

    fn same_hash(&mut self, tuple: Tuple, hash: &str) -> Checked {
        let Some(p) = self.pushed.get_mut(&tuple) else { return Ok(()) };
        let before = p.hash.get_or_insert_with(|| hash.to_owned());
        want!(before == hash, "a bundle has one hash, whoever asks", "{before} and {hash} of {tuple:?}");
        Ok(())
    }

    /// Holds a pulled bundle against its push; what it says of rows.
    pub(super) fn pulled(&mut self, b: &Bundle) -> Checked<Vec<Change>> {
        let Some(device) = device_of(&b.source) else {
            return fail("bundles are of the user's own sources", format!("bundle {} of {}", b.seq, b.source));
        };
        let tuple = (device, b.source_bundle_id);
        self.place(tuple, b.seq)?;
        if let Some(hash) = &b.hash {
            self.same_hash(tuple, hash)?;
        }
        let changes = self.pushed[&tuple].changes.clone();
        let expected = "a bundle has the rows that were pushed and no others";
        want!(b.rows.len() == changes.len(), expected, "{} rows of {}", b.rows.len(), changes.len());
        for (n, c) in changes.iter().enumerate() {
            let key = self.table.row_key(c.row);
            // Mostly in upload order, which is no must.
            let at = if b.rows[n].key.same(&key) { Some(n) } else { b.rows.iter().position(|r| r.key.same(&key)) };
            let Some(row) = at.map(|n| &b.rows[n]) else {
                return fail(expected, format!("bundle {} lacks {key}", b.seq));
            };
            self.own(row)?;
            let payload = match &row.payload {
                Some(p) => c.op != Op::Delete && p.same(&self.table.full(c.row, &self.text(&c.label))),
                None => c.op == Op::Delete,
            };
            let same = row.is(&self.table.schema, &self.table.name, &key) && row.op == c.op.name() && payload;
            want!(same, expected, "{}, pushed {} of {key} as {}", row.shown(), c.op.name(), c.label);
        }
        Ok(changes)
    }

    /// Holds a row of a snapshot against the push that it is from; its number and label.
    pub(super) fn snapshot_row(&mut self, row: &Row) -> Checked<(i64, String)> {
        self.own(row)?;
        let found = self.label_of(row).and_then(|label| {
            let (tuple, at) = place_of(label)?;
            let change = self.pushed.get(&tuple)?.changes.get(at)?;
            (change.label == label && change.op != Op::Delete).then(|| (tuple, change.clone()))
        });
        let expected = "a snapshot's rows are rows that were pushed";
        let Some((tuple, c)) = found else { return fail(expected, row.shown()) };
        self.place(tuple, row.version)?;
        let same = row.is(&self.table.schema, &self.table.name, &self.table.row_key(c.row))
            && row.payload.as_ref().is_some_and(|p| p.same(&self.table.full(c.row, &self.text(&c.label))));
        want!(same, expected, "{}, pushed as {}", row.shown(), c.label);
        Ok((c.row, c.label))
    }

    /// The short label in a row's text.
    fn label_of<'r>(&self, row: &'r Row) -> Option<&'r str> {
        let text = row.payload.as_ref()?.get(&self.table.label()?.name).and_then(Json::text)?;
        text.strip_prefix(&self.user)?.split_whitespace().next()
    }

    /// No row is of another user.
    fn own(&self, row: &Row) -> Checked {
        let column = self.table.label().map(|c| c.name.as_str()).unwrap_or_default();
        let text = row.payload.as_ref().and_then(|p| p.get(column)).and_then(Json::text);
        let own = text.is_none_or(|t| t.strip_prefix(&self.user).is_some_and(|rest| rest.starts_with(' ')));
        want!(own, "a user gets its own rows and nobody else's", "{}", row.shown());
        Ok(())
    }

    /// Notes what a conflict said: whether it was so is seen in the end.
    pub(super) fn claim(&mut self, row: i64, version: i64, deleted: bool) {
        self.claims.push(Claim { row, version, deleted });
    }

    /// Holds the whole history against the protocol, bundle by bundle; what lives in the end.
    pub(super) fn history(&self, latest: i64) -> Checked<Live> {
        let mut model = Model::default();
        // Every state that a row was in: version and whether it was deleted.
        let mut states: BTreeMap<i64, Vec<(i64, bool)>> = BTreeMap::new();
        for (n, (seq, tuple)) in self.by_seq.iter().enumerate() {
            let next = n as i64 + 1;
            want!(*seq == next, "bundles count 1, 2, 3 without a gap", "bundle {seq} after {n}");
            let p = &self.pushed[tuple];
            let expected = "a commit has no row whose version is another than it says";
            let stale: Vec<&Change> = p.changes.iter().filter(|c| model.conflicts(c)).collect();
            want!(stale.is_empty(), expected, "bundle {seq} of {tuple:?} has {stale:?}");
            model.commit(&tuple.0.to_string(), tuple.1, &p.changes);
            for c in &p.changes {
                states.entry(c.row).or_default().push((*seq, c.op == Op::Delete));
            }
        }
        let known = self.by_seq.len() as i64;
        want!(known == latest, "history is the pushes that were committed", "{latest} bundles, {known} pushes");
        for c in &self.claims {
            let found = states.get(&c.row).is_some_and(|s| s.contains(&(c.version, c.deleted)));
            let unknown = c.version == 0 && !c.deleted;
            want!(
                found || unknown,
                "a conflict says what the row is or was",
                "{c:?}, the row was {:?}",
                states.get(&c.row)
            );
        }
        Ok(model.live())
    }
}

pub(super) fn source(device: usize) -> String {
    format!("device-{device}")
}

fn device_of(source: &str) -> Option<usize> {
    source.strip_prefix("device-")?.parse().ok()
}

/// Names a row of a push: device, source bundle id, attempt, place.
pub(super) fn label(tuple: Tuple, attempt: u64, at: usize) -> String {
    format!("d{}.b{}.a{attempt}.r{at}", tuple.0, tuple.1)
}

fn place_of(label: &str) -> Option<(Tuple, usize)> {
    let mut parts = label.split('.');
    let mut part = |mark: char| parts.next()?.strip_prefix(mark);
    let (device, id) = (part('d')?.parse().ok()?, part('b')?.parse().ok()?);
    part('a')?;
    Some(((device, id), part('r')?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Stop;
    use crate::profile::Profile;

    const PROFILE: &str = "name = \"x\"\n[token]\nkind = \"user\"\n[[tables]]\nname = \"t\"\nkey = [\"id\"]\ncolumns = [\n{ name = \"id\", kind = \"text\", required = true },\n{ name = \"body\", kind = \"text\" },\n]\n";

    fn change(tuple: Tuple, at: usize, row: i64, op: Op, base: i64) -> Change {
        Change { row, op, base, label: label(tuple, 0, at) }
    }

    fn committed(seq: i64, rows: i64) -> Committed {
        let source = source(0);
        Committed { seq, source, source_bundle_id: 1, row_count: rows, hash: "h".to_owned(), history: None }
    }

    fn why(result: Checked<impl std::fmt::Debug>) -> String {
        match result {
            Err(Stop::Fail { expected, .. }) => expected,
            other => format!("{other:?}"),
        }
    }

    /// Two pushes of one row, each committed as said.
    fn pair(seqs: [i64; 2], base: i64) -> Checked<Live> {
        let profile = Profile::parse(PROFILE).unwrap();
        let mut l = Ledger::new("ada", &profile.tables[0], 0);
        for (tuple, seq, op, base) in [((0, 1), seqs[0], Op::Insert, 0), ((1, 1), seqs[1], Op::Update, base)] {
            l.push(tuple, vec![change(tuple, 0, 7, op, base)]);
            l.sent(tuple);
            l.committed(tuple, &Committed { hash: format!("{tuple:?}"), ..committed(seq, 1) })?;
        }
        l.history(2)
    }

    #[test]
    fn history_is_held_against_the_protocol() {
        let live = pair([1, 2], 1).unwrap();
        assert_eq!(live, Live::from([(7, (2, label((1, 1), 0, 0)))]));
        for (seqs, base, expected) in [
            ([1, 1], 1, "each bundle is one push"),
            ([1, 3], 1, "bundles count 1, 2, 3 without a gap"),
            ([2, 1], 1, "a commit has no row whose version is another than it says"),
            ([1, 2], 0, "a commit has no row whose version is another than it says"),
        ] {
            assert_eq!(why(pair(seqs, base)), expected, "{seqs:?} {base}");
        }
    }

    #[test]
    fn a_push_is_committed_once_and_not_before_it_is_asked_for() {
        let profile = Profile::parse(PROFILE).unwrap();
        let mut l = Ledger::new("ada", &profile.tables[0], 0);
        l.push((0, 1), vec![change((0, 1), 0, 7, Op::Insert, 0)]);
        assert_eq!(why(l.committed((0, 1), &committed(1, 1))), "a push is not served before its commit");
        l.sent((0, 1));
        assert_eq!(why(l.committed((0, 1), &committed(1, 2))), "a commit has the rows that were pushed");
        l.committed((0, 1), &committed(1, 1)).unwrap();
        assert_eq!(why(l.committed((0, 1), &committed(2, 1))), "each push is committed once");
        assert_eq!(why(l.withdraw((0, 1))), "a push that was refused is not served");
        assert_eq!(why(l.committed((3, 1), &committed(2, 1))), "a bundle is a push that was committed");
    }

    #[test]
    fn rows_of_a_snapshot_are_their_users_and_were_pushed() {
        let profile = Profile::parse(PROFILE).unwrap();
        let t = &profile.tables[0];
        let mut l = Ledger::new("ada", t, 60);
        l.push((0, 1), vec![change((0, 1), 0, 7, Op::Insert, 0)]);
        l.sent((0, 1));
        let row = |text: &str, version: i64| Row {
            schema: t.schema.clone(),
            table: t.name.clone(),
            key: t.row_key(7),
            op: String::new(),
            version,
            payload: Some(t.full(7, text)),
        };
        let good = l.text(&label((0, 1), 0, 0));
        assert_eq!(good.len(), 60);
        assert_eq!(l.snapshot_row(&row(&good, 4)).unwrap(), (7, label((0, 1), 0, 0)));
        assert_eq!(why(l.snapshot_row(&row(&good, 5))), "each push is committed once");
        let refused = l.text(&label((0, 1), 1, 0));
        assert_eq!(why(l.snapshot_row(&row(&refused, 4))), "a snapshot's rows are rows that were pushed");
        let other = good.replace("ada", "adam");
        assert_eq!(why(l.snapshot_row(&row(&other, 4))), "a user gets its own rows and nobody else's");
    }

    #[test]
    fn a_conflict_must_have_been_so() {
        let profile = Profile::parse(PROFILE).unwrap();
        let mut l = Ledger::new("ada", &profile.tables[0], 0);
        l.push((0, 1), vec![change((0, 1), 0, 7, Op::Insert, 0)]);
        l.sent((0, 1));
        l.committed((0, 1), &committed(1, 1)).unwrap();
        l.claim(7, 1, false);
        l.claim(8, 0, false);
        assert!(l.history(1).is_ok());
        l.claim(7, 1, true);
        assert_eq!(why(l.history(1)), "a conflict says what the row is or was");
    }
}
