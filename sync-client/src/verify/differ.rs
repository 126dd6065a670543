//! Row by row: which rows of the staged ranges differ from the file's, at one moment of the file.

use rusqlite::params_from_iter;
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record;
use sync_core::sqlite::ordered::OrderedSql;
use sync_core::value::Value;

use super::merge::{Side, difference, merge};
use super::pending::each_in_flight;
use super::report::{Difference, NAMED, Remedy, VerifyReport};
use super::scratch::{Reach, Scratch};
use crate::apply::fit;
use crate::aside::IS_ASIDE;
use crate::engine::Engine;
use crate::error::Error;
use crate::inbox::key_json;
use crate::store::Store;

impl Engine {
    /// Notes every row that differs and is not left out.
    pub(super) fn find_differences(&self, scratch: &Scratch<'_>, report: &mut VerifyReport) -> Result<(), Error> {
        let store = &self.store;
        let _tx = store.begin_read()?;
        for (position, m) in store.managed.iter().enumerate() {
            each_in_flight(&store.conn, m.id, &store.table(position).key, |k| scratch.leave_out(position, &k))?;
        }
        scratch.each_reach(|reach| self.differ(scratch, &reach, report))
    }

    fn differ(&self, scratch: &Scratch<'_>, reach: &Reach, report: &mut VerifyReport) -> Result<(), Error> {
        let store = &self.store;
        let (table, t) = (store.table(reach.position), store.managed[reach.position].id);
        let exact = self.api.is_ours();
        let unpack = |k: &Vec<u8>| Key::from_stored(k.clone()).unpack();
        let low: Option<Vec<Value>> = reach.lower.as_ref().map(unpack).transpose()?;
        let high: Option<Vec<Value>> = reach.upper.as_ref().map(unpack).transpose()?;
        let sql = OrderedSql::new(table);
        let (select, bound) = sql.between(low.as_deref(), high.as_deref());
        let mut s = store.conn.prepare_cached(&select)?;
        let mut rows = s.query(params_from_iter(bound))?;
        let mine = || {
            let Some(r) = sql.next(&mut rows)? else { return Ok(None) };
            Ok(Some(Side { k: r.k, version: 0, row: r.row.map(|row| row.into_iter().map(Some).collect()) }))
        };
        scratch.server_rows(reach, |theirs| {
            merge(mine, theirs, |mine, theirs| {
                report.compared_rows += 1;
                let server_version = theirs.as_ref().map(|s| s.version);
                let Some(k) = mine.as_ref().or(theirs.as_ref()).map(|s| s.k.clone()) else { return Ok(()) };
                let (mine, theirs) = (mine.map(|s| s.row), theirs.map(|s| s.row.map(|row| fit(row, table))));
                let Some((kind, columns)) = difference(table, mine.as_ref(), theirs.as_ref(), exact) else {
                    return Ok(());
                };
                if scratch.is_left_out(reach.position, &k)?
                    || store.is_unsettled(t, &k, report.bundle_seq)?
                    || self.is_set_aside(reach.position, &k, server_version)?
                {
                    report.left_out_rows += 1;
                    return scratch.put_found(reach.position, &k, None);
                }
                scratch.put_found(reach.position, &k, Some(kind))?;
                report.differing_rows += 1;
                if report.differences.len() < NAMED {
                    let again = store.repaired(t, &k)?.is_some();
                    report.differences.push(Difference {
                        table: table.name.clone(),
                        key: key_json(table, &Key::from_stored(k).unpack()?),
                        kind,
                        columns,
                        remedy: if again { Remedy::Again } else { Remedy::None },
                    });
                }
                Ok(())
            })
        })
    }

    /// C14: what the server has, or that it has nothing, waits in the inbox, since this file does not take it.
    fn is_set_aside(&self, position: usize, k: &[u8], server_version: Option<i64>) -> Result<bool, Error> {
        let (table, t) = (self.store.table(position), self.store.managed[position].id);
        if let Some(version) = server_version
            && self.store.known(t, k)? == Known::Live(version)
        {
            return Ok(false);
        }
        let key = key_json(table, &Key::from_stored(k.to_vec()).unpack()?);
        Ok(self.store.conn.prepare_cached(IS_ASIDE)?.exists((&table.name, key))?)
    }

    /// Forgets repairs that held: rows that do not differ any more.
    pub(super) fn forget_repairs(&self, scratch: &Scratch<'_>, tables: &[usize]) -> Result<(), Error> {
        let mut held = Vec::new();
        self.store.each_repaired(|t, k| {
            if let Some(position) = self.store.position(t).filter(|p| tables.contains(p))
                && !scratch.is_found(position, &k)?
            {
                held.push((t, k));
            }
            Ok(())
        })?;
        if held.is_empty() {
            return Ok(());
        }
        let tx = self.store.begin()?;
        for (t, k) in held {
            self.store.forget_repaired(t, &k)?;
        }
        Ok(tx.commit()?)
    }
}

impl Store {
    /// Whether the server's state at this bundle is not what the file should have: the row is changed here, or
    /// newer than the bundle.
    pub(super) fn is_unsettled(&self, t: i64, k: &[u8], seq: i64) -> Result<bool, Error> {
        Ok(self.dirty(t, k)?.is_some() || self.known(t, k)?.version() > seq)
    }
}

/// A stored row of the server as the columns of today have it.
pub(super) fn fitted(store: &Store, position: usize, stored: &[u8]) -> Result<record::Record, Error> {
    Ok(fit(record::decode(stored)?, store.table(position)))
}
