//! What the app was told is written: each text by its token. At the end every one has to be somewhere: in
//! the rows, in an inbox, or knowingly overwritten by the app itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Id, State, tokens_of};

/// Everything that apps wrote and were told is committed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// Token: who wrote it, when.
    written: BTreeMap<u64, (usize, u64)>,
    /// Overwritten or deleted by an app that saw it.
    superseded: BTreeSet<u64>,
    /// Lost with a device's backup or its power: nobody can have it.
    forgiven: BTreeSet<u64>,
    /// The same, but the server had it: until it goes back, too.
    with_server: BTreeSet<u64>,
    /// Tokens of rows that got another key: a delete of them there says nothing of who else took that key.
    moved: BTreeSet<(Id, u64)>,
    /// Tokens of rows that an app deleted: the row, by whom, when.
    deleted: BTreeMap<u64, (Id, usize, u64)>,
    now: u64,
}

impl Ledger {
    /// An app committed: what was before, what is now.
    pub(crate) fn note(&mut self, device: usize, before: &State, after: &State) {
        self.now += 1;
        let (old, new) = (all_tokens(before), all_tokens(after));
        for t in new.difference(&old) {
            self.written.entry(*t).or_insert((device, self.now));
        }
        self.superseded.extend(old.difference(&new));
        for (id, row) in after.iter().filter(|(id, _)| !before.contains_key(*id)) {
            self.moved.extend(row.values().flat_map(tokens_of).filter(|t| old.contains(t)).map(|t| (id.clone(), t)));
        }
        for (id, row) in before.iter().filter(|(id, _)| !after.contains_key(*id)) {
            for t in row.values().flat_map(tokens_of).filter(|t| !new.contains(t)) {
                self.deleted.insert(t, (id.clone(), device, self.now));
            }
        }
    }

    /// What only an inbox had went with it.
    pub(crate) fn give_up(&mut self, tokens: impl IntoIterator<Item = u64>) {
        self.with_server.extend(tokens);
        self.server_went_back();
    }

    /// What only an inbox had, which goes by right.
    pub(crate) fn forget(&mut self, tokens: impl IntoIterator<Item = u64>) {
        self.forgiven.extend(tokens);
    }

    /// A person put a row back over what stood there, knowingly.
    pub(crate) fn put_back(&mut self, before: &State, after: &State) {
        let new = all_tokens(after);
        self.superseded.extend(all_tokens(before).difference(&new));
    }

    /// The moment, for [`Ledger::forgive`].
    #[must_use]
    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    /// A device went back to what it was then: what it wrote since, and no server has, is gone by right.
    pub(crate) fn forgive(&mut self, device: usize, since: u64, committed: &BTreeSet<u64>) {
        for (t, _) in self.written.iter().filter(|(_, (d, at))| *d == device && *at > since) {
            if committed.contains(t) {
                self.with_server.insert(*t)
            } else {
                self.forgiven.insert(*t)
            };
        }
        self.deleted.retain(|_, (_, d, at)| *d != device || *at <= since);
    }

    /// The server went back as well: what a device lost may be lost with it.
    pub(crate) fn server_went_back(&mut self) {
        let lost = std::mem::take(&mut self.with_server);
        self.forgiven.extend(lost);
    }

    /// Tokens that are nowhere, with their writers.
    #[must_use]
    pub(crate) fn missing(&self, found: &BTreeSet<u64>) -> Vec<(u64, usize)> {
        self.written
            .iter()
            .filter(|(t, _)| !found.contains(t) && !self.superseded.contains(t) && !self.forgiven.contains(t))
            .map(|(t, (device, _))| (*t, *device))
            .collect()
    }

    /// Rows that are there although an app deleted them, as they were.
    pub(crate) fn resurrected(&self, there: &BTreeSet<(Id, u64)>) -> Vec<&Id> {
        let same = |(t, (id, _, _)): &(&u64, &(Id, usize, u64))| {
            let known = (id.clone(), **t);
            there.contains(&known) && !self.moved.contains(&known)
        };
        self.deleted.iter().filter(same).map(|(_, (id, _, _))| id).collect()
    }
}

/// Every token in these rows.
#[must_use]
pub(crate) fn all_tokens(state: &State) -> BTreeSet<u64> {
    state.values().flat_map(|row| row.values().flat_map(tokens_of)).collect()
}
