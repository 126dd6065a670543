//! Local rows that hold a UNIQUE value of a remote one by an index which only SQLite can read: a partial one, or one over
//! an expression or a generated column (case C1).

use std::collections::BTreeSet;

use rusqlite::params_from_iter;
use sync_core::key::Key;
use sync_core::record;
use sync_core::value::Value;

use crate::apply::{Applier, fit, is_constraint};
use crate::error::Error;
use crate::orphans::UNIQUE_TAKEN;
use crate::settle::over;
use crate::stage::StagedRow;

/// A local row in the way, and the remote one that it is in the way of, where that was looked for.
struct Evicted {
    position: usize,
    key: Vec<Value>,
    server: Option<Vec<Value>>,
}

impl Applier<'_> {
    /// The rows that have to wait are written over whatever is in their way, to see what goes, and nothing of that is
    /// kept; local intents among it leave the table. Whether there were any.
    pub(crate) fn evict(&mut self, blocked: &[StagedRow]) -> Result<bool, Error> {
        if !self.any_dirty {
            return Ok(false);
        }
        let tables: BTreeSet<usize> = blocked.iter().map(|r| r.position).collect();
        let mut evicted = Vec::new();
        for position in tables {
            let rows: Vec<&StagedRow> = blocked.iter().filter(|r| r.position == position).collect();
            self.store.conn.execute_batch("SAVEPOINT _sync_evict")?;
            let found = self.in_the_way_of(position, &rows);
            evicted.append(&mut self.store.take_back("_sync_evict", found)?);
        }
        let mut any = false;
        for e in &evicted {
            if self.store.kept_by_local(e.position, &e.key)?.is_some() {
                continue;
            }
            any = true;
            self.displace(e.position, &e.key, "unique", UNIQUE_TAKEN, e.server.as_deref())?;
        }
        Ok(any)
    }

    fn in_the_way_of(&self, position: usize, rows: &[&StagedRow]) -> Result<Vec<Evicted>, Error> {
        let (store, m, table) = (self.store, &self.store.managed[position], self.store.table(position));
        let mut s = store.conn.prepare_cached("SELECT k FROM main._sync_dirty WHERE t = ?")?;
        let keys: Vec<Vec<u8>> = s.query_map([m.id], |r| r.get(0))?.collect::<Result<_, _>>()?;
        let waiting: BTreeSet<&[u8]> = rows.iter().map(|r| r.k.as_slice()).collect();
        let mut here = Vec::new();
        for k in keys.into_iter().filter(|k| !waiting.contains(k.as_slice())) {
            let key = Key::from_stored(k).unpack()?;
            if m.sql.exists(&store.conn, &key)? {
                here.push(key);
            }
        }
        let mut whole = Vec::new();
        for r in rows {
            let Some(stored) = &r.row else { continue };
            let key = Key::from_stored(r.k.clone()).unpack()?;
            let live = m.sql.read(&store.conn, &key)?.and_then(Result::ok);
            whole.push(over(fit(record::decode(stored)?, table), live.as_deref()));
            m.sql.delete(&store.conn, &key)?;
        }
        let one_by_one = here.len().saturating_mul(whole.len()) <= MOST_LOOKS;
        let mut evicted = Vec::new();
        for row in whole {
            match store.conn.prepare_cached(&m.sql.replace)?.execute(params_from_iter(&row)) {
                Ok(_) => {}
                Err(e) if is_constraint(&e) => continue,
                Err(e) => return Err(e.into()),
            }
            if one_by_one {
                self.note_evicted(position, &mut here, Some(&row), &mut evicted)?;
            }
        }
        self.note_evicted(position, &mut here, None, &mut evicted)?;
        Ok(evicted)
    }

    /// Moves what is not here any more from the one list to the other.
    fn note_evicted(
        &self,
        position: usize,
        here: &mut Vec<Vec<Value>>,
        server: Option<&[Value]>,
        evicted: &mut Vec<Evicted>,
    ) -> Result<(), Error> {
        let m = &self.store.managed[position];
        for key in std::mem::take(here) {
            if m.sql.exists(&self.store.conn, &key)? {
                here.push(key);
            } else {
                evicted.push(Evicted { position, key, server: server.map(<[Value]>::to_vec) });
            }
        }
        Ok(())
    }
}

/// So many rows are looked at to say of each which one it was in the way of.
const MOST_LOOKS: usize = 100_000;
