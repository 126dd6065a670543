//! Whether a file that joins an account is a copy of one that is part of it (case C7 the other way round): then the same
//! number is the same row. Nobody can tell for sure. Where most numbers that both have carry equal rows, and some do
//! not, it is asked: numbered anew, those would take everything along that refers to them, a second time.

use std::collections::BTreeMap;

use sync_core::key::Key;
use sync_core::record;
use sync_core::schema::Schema;
use sync_core::sqlite::quote;
use sync_core::value::Value;

use crate::apply::{Applier, fit};
use crate::engine::Engine;
use crate::error::Error;
use crate::orphans::{by_key, parent_key};
use crate::settle::lacks;
use crate::stage::{Stage, Twin};
use crate::store::{Meta, OutboxState, Store};

/// How the rows under the numbers that both sides have compare.
#[derive(Debug, Default)]
pub(crate) struct Likeness {
    /// By the position of the table.
    tables: BTreeMap<usize, Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    equal: u64,
    /// Numbers that carry another row on each side.
    differ: Vec<i64>,
    /// The highest number that both sides give to the same row, by all that can be seen: the rows are equal, or equal
    /// rows refer to them.
    same_up_to: Option<i64>,
}

impl Numbers {
    fn same(&mut self, number: i64) {
        self.same_up_to = self.same_up_to.max(Some(number));
    }

    fn looks_like_a_copy(&self) -> bool {
        self.equal >= FEWEST && self.equal * 5 >= (self.equal + self.differ.len() as u64) * 4
    }

    /// How many rows differ that a copy has under the same number.
    fn in_doubt(&self) -> u64 {
        self.differ.iter().filter(|n| Some(**n) <= self.same_up_to).count() as u64
    }
}

impl Likeness {
    /// Up to which number the same number is the same row, by table, where the file is a copy.
    pub(crate) fn same_up_to(&self) -> BTreeMap<usize, i64> {
        self.tables.iter().filter_map(|(position, n)| Some((*position, n.same_up_to?))).collect()
    }

    /// What has to be asked before the file is attached, where anything has.
    pub(crate) fn question(&self, schema: &Schema) -> Option<Error> {
        let (position, most) =
            self.tables.iter().filter(|(_, n)| n.looks_like_a_copy()).max_by_key(|(_, n)| n.equal)?;
        let differing = self.tables.values().map(Numbers::in_doubt).sum();
        (differing > 0).then(|| Error::LooksLikeCopy {
            table: schema.tables()[*position].sql_name.clone(),
            equal: most.equal,
            differing,
        })
    }
}

impl Engine {
    /// Whether it has to be asked how this file's rows meet the account's, as an error; nothing is changed. Where it is
    /// not told yet, and so many rows have numbers, that takes a snapshot.
    pub(crate) fn ask_before_attaching(&mut self) -> Result<(), Error> {
        self.store.refresh(self.env.now_ms())?;
        let joins = Meta::Attached.integer(&self.store.conn)? == 0 && Meta::Joined.integer(&self.store.conn)? == 0;
        if !joins || self.attach_mode()?.is_some() || !self.store.has_many_numbers()? {
            return Ok(());
        }
        self.greet()?;
        let source = self.source_id()?;
        let mut stage = self.stage()?;
        let downloaded = match self.download_snapshot(&mut stage, &source) {
            // There is nothing yet that this file's rows could meet, or not all of it.
            Ok(None) | Err(Error::RetryLater { .. }) => return Ok(()),
            other => other,
        };
        let question = downloaded.and_then(|_| {
            let tx = self.store.begin()?;
            let mut applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
            applier.rounds = !self.api.is_ours();
            let question = applier.likeness(&stage)?.question(self.store.schema());
            drop(applier);
            tx.rollback()?;
            stage.clear()?;
            Ok(question)
        });
        self.keep_stage(stage, &question);
        question?.map_or(Ok(()), Err)
    }
}

impl Store {
    /// Bundles under the sources of this file that it did not freeze itself.
    pub(crate) fn twins(&self) -> Result<Vec<Twin>, Error> {
        let former: Option<String> = Meta::FormerSource.get(&self.conn)?;
        let mut twins: Vec<Twin> = former.and_then(|text| serde_json::from_str(&text).ok()).into_iter().collect();
        if let Some(source) = Meta::SourceId.get(&self.conn)? {
            let sent = self.outbox()?.is_some_and(|o| o.state != OutboxState::Frozen);
            twins.push(Twin { source, from: self.next_source_bundle_id()? + i64::from(sent) });
        }
        Ok(twins)
    }

    /// Before the file takes another source: what it did not freeze under this one, a copy of it did. Of a bundle in doubt
    /// nobody can tell, nor does it matter: its rows are here.
    pub(crate) fn leave_source(&self) -> Result<(), Error> {
        let Some(source) = Meta::SourceId.get(&self.conn)? else { return Ok(()) };
        let twin = Twin { source, from: self.next_source_bundle_id()? };
        Meta::FormerSource.set(&self.conn, serde_json::to_string(&twin).unwrap_or_default())
    }

    /// Whether a table has enough rows with numbers for the file to look like a copy.
    fn has_many_numbers(&self) -> Result<bool, Error> {
        for table in self.schema().tables().iter().filter(|t| t.integer_key()) {
            let sql = format!("SELECT 1 FROM main.{} LIMIT 1 OFFSET {}", quote(&table.sql_name), FEWEST - 1);
            if self.conn.prepare(&sql)?.exists([])? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Applier<'_> {
    /// Compares the file's rows with those of a snapshot.
    pub(crate) fn likeness(&self, stage: &Stage) -> Result<Likeness, Error> {
        let (store, schema) = (self.store, self.store.schema());
        let mut out = Likeness::default();
        stage.each_snapshot_row(schema.parents_first(), |r| {
            let r = self.unrounded(r)?;
            let (m, table) = (&store.managed[r.position], store.table(r.position));
            let numbered: Vec<_> = table
                .foreign_keys
                .iter()
                .filter_map(|fk| Some((fk, schema.position(&fk.parent)?)))
                .filter(|(fk, parent)| store.table(*parent).integer_key() && by_key(fk, store.table(*parent)))
                .collect();
            if !table.integer_key() && numbered.is_empty() {
                return Ok(());
            }
            let key = Key::from_stored(r.k.clone()).unpack()?;
            let Some(live) = m.sql.read(&store.conn, &key)? else { return Ok(()) };
            let theirs = r.row.as_deref().map(record::decode).transpose()?.map(|row| fit(row, table));
            let live = live.ok().filter(|live| {
                theirs.as_ref().is_some_and(|theirs| record::agrees(live, theirs) && !lacks(theirs, Some(live)))
            });
            if let [Value::Integer(number)] = key[..]
                && table.integer_key()
            {
                let numbers = out.tables.entry(r.position).or_default();
                if live.is_some() {
                    numbers.equal += 1;
                    numbers.same(number);
                } else {
                    numbers.differ.push(number);
                }
            }
            let Some(live) = live else { return Ok(()) };
            for (fk, parent) in numbered {
                if let Some([Value::Integer(number)]) = parent_key(fk, store.table(parent), &live).as_deref() {
                    out.tables.entry(parent).or_default().same(*number);
                }
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// So many equal rows of a table are no coincidence.
const FEWEST: u64 = 20;
