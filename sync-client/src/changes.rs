//! What the app is told of a transaction of remote rows (hop `observe`): which keys of which tables
//! changed, whether they are there or gone, and whose bundle it was. Each key is told once, as it is left.

use std::collections::BTreeMap;

use sync_core::key::Key;

use crate::error::Error;
use crate::inbox::key_json;
use crate::report::Event;
use crate::store::Store;

/// What changed so far.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// By table and key: who wrote it, and whether it is gone.
    rows: BTreeMap<(usize, Vec<u8>), (usize, bool)>,
    /// Tables of which more changed than is told one by one, and by whom.
    many: BTreeMap<usize, Vec<usize>>,
    counts: BTreeMap<usize, usize>,
    /// Who wrote.
    sources: Vec<String>,
    /// Who is writing.
    source: usize,
}

impl Changes {
    /// What follows is a bundle of this source.
    pub(crate) fn begin(&mut self, source_id: &str) {
        self.source = self.sources.iter().position(|s| s == source_id).unwrap_or_else(|| {
            self.sources.push(source_id.to_owned());
            self.sources.len() - 1
        });
    }

    /// A row was written, or is gone.
    pub(crate) fn note(&mut self, position: usize, k: &[u8], gone: bool) {
        let source = self.source;
        if let Some(by) = self.many.get_mut(&position) {
            if !by.contains(&source) {
                by.push(source);
            }
            return;
        }
        if self.rows.insert((position, k.to_vec()), (source, gone)).is_some() {
            return;
        }
        let count = self.counts.entry(position).or_default();
        *count += 1;
        if *count > MOST_TOLD {
            let mut by: Vec<usize> = Vec::new();
            let of_table = (position, Vec::new())..(position + 1, Vec::new());
            for (_, (source, _)) in self.rows.range(of_table) {
                if !by.contains(source) {
                    by.push(*source);
                }
            }
            self.rows.retain(|(p, _), _| *p != position);
            self.many.insert(position, by);
        }
    }

    /// One event a table and source.
    pub(crate) fn events(self, store: &Store) -> Result<Vec<Event>, Error> {
        let mut told: BTreeMap<(usize, usize), (Vec<String>, Vec<String>)> = BTreeMap::new();
        for ((position, k), (source, gone)) in self.rows {
            let key = key_json(store.table(position), &Key::from_stored(k).unpack()?);
            let (keys, deleted) = told.entry((position, source)).or_default();
            if gone { deleted.push(key) } else { keys.push(key) }
        }
        for (position, by) in self.many {
            told.extend(by.into_iter().map(|source| ((position, source), Default::default())));
        }
        let event = |((position, source), (keys, deleted)): ((usize, usize), _)| Event::Changed {
            table: store.table(position).name.clone(),
            keys,
            deleted,
            source_id: self.sources.get(source).cloned().unwrap_or_default(),
        };
        Ok(told.into_iter().map(event).collect())
    }
}

/// More keys of a table than these are not told one by one.
const MOST_TOLD: usize = 1000;
