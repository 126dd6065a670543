//! Tables that are others on the server: no row of them is sent or taken, since values could change on the way. What
//! refers to them waits too, and the rest of the file goes on.

use std::collections::BTreeSet;

use sync_core::engine::alike::Unlike;
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::sqlite::quote;

use crate::apply::Applier;
use crate::engine::Engine;
use crate::error::Error;
use crate::report::{Event, HeldTable};
use crate::store::{Meta, Store};

/// Why a row is held that belongs to such a table.
pub(crate) const HELD_BACK: &str = "held_back";

impl Engine {
    /// Takes note of the tables that are held back as things are, for `status`. A table that is no longer, is read from
    /// the server anew: what came of it meanwhile was passed over.
    pub(crate) fn note_held_back(&mut self) -> Result<(), Error> {
        let now = self.store.held_tables();
        let was = stored(&self.store)?;
        if now == was {
            return Ok(());
        }
        let names: BTreeSet<&str> = now.iter().map(|h| h.table.as_str()).collect();
        let tx = self.store.begin_unchecked()?;
        self.store.try_all_again()?;
        let mut go = let_go(&self.store)?;
        go.extend(was.iter().map(|h| h.table.clone()).filter(|t| !names.contains(t.as_str())));
        if !go.is_empty() {
            Meta::LetGo.set(&tx, serde_json::to_string(&go).map_err(|e| Error::Damaged(e.to_string()))?)?;
            Meta::Rebuild.set(&tx, "a table that was held back can be synced now")?;
        }
        let text = serde_json::to_string(&now).map_err(|e| Error::Damaged(e.to_string()))?;
        Meta::HeldBack.set(&tx, text)?;
        tx.commit()?;
        // What was kept of a download that was cut lacks the rows of other tables than it would now.
        self.stage = None;
        for h in now.iter().filter(|h| !was.contains(h)) {
            self.tell(&Event::HeldBack { table: h.table.clone(), message: h.message.clone() });
        }
        Ok(())
    }
}

impl Store {
    /// The tables that are held back, with the sentence that says why.
    fn held_tables(&self) -> Vec<HeldTable> {
        let held = |(position, why): (&usize, &Unlike)| HeldTable {
            table: self.table(*position).name.clone(),
            message: sentence(why),
        };
        self.held_back.iter().map(held).collect()
    }

    /// Holds every row of them that would be sent.
    pub(crate) fn hold_back(&self) -> Result<(), Error> {
        for (position, why) in &self.held_back {
            let sql = "UPDATE main._sync_dirty SET held = ?2, message = ?3 WHERE t = ?1 AND held IS NULL";
            let t = self.managed[*position].id;
            self.conn.prepare_cached(sql)?.execute((t, HELD_BACK, sentence(why)))?;
        }
        Ok(())
    }

    /// The tables that were held back until now, and of which the server may have other values under versions that this
    /// file knows.
    pub(crate) fn let_go_tables(&self) -> Result<BTreeSet<usize>, Error> {
        Ok(let_go(self)?.iter().filter_map(|t| self.travelling(t)).collect())
    }

    /// After a rebuild: what it did for every table, it has still to do for those that are held back.
    pub(crate) fn rebuilt_but_held_back(&self) -> Result<(), Error> {
        let numbers: Vec<i64> = self.held_back.keys().map(|p| self.managed[*p].id).collect();
        let text = serde_json::to_string(&numbers).map_err(|e| Error::Damaged(e.to_string()))?;
        let complete = "UPDATE main._sync_table SET grown_from = NULL WHERE id NOT IN (SELECT value FROM json_each(?))";
        self.conn.execute(complete, [text])?;
        Meta::LetGo.clear(&self.conn)
    }
}

impl Applier<'_> {
    /// Rows of a table that is held back, and that refer to a row which is not here: the server's bundle does with them
    /// what its schema says, and is not told of here. They are made local work, which leaves for the inbox with its row
    /// whole, and is not looked for on the server.
    pub(crate) fn claim_held_back(&self, position: usize) -> Result<(), Error> {
        let store = self.store;
        let (m, table) = (&store.managed[position], store.table(position));
        let mut orphans = BTreeSet::new();
        for fk in &table.foreign_keys {
            let Some(parent) = store.schema().position(&fk.parent) else { continue };
            let columns: Vec<String> = fk.columns.iter().map(|i| quote(&table.columns[*i].sql_name)).collect();
            let pairs = fk.parent_columns.iter().zip(&columns);
            let same: Vec<String> = pairs.map(|(theirs, mine)| format!("p.{} = c.{mine}", quote(theirs))).collect();
            let set: Vec<String> = columns.iter().map(|c| format!("c.{c} IS NOT NULL")).collect();
            let sql = format!(
                "SELECT _sync_k FROM (SELECT _sync_key({}) AS _sync_k FROM main.{} c WHERE {} AND NOT EXISTS (SELECT 1 FROM main.{} p WHERE {})) \
                 WHERE _sync_k IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main._sync_dirty d WHERE d.t = ? AND d.k = _sync_k)",
                m.sql.key,
                quote(&table.sql_name),
                set.join(" AND "),
                quote(&store.table(parent).sql_name),
                same.join(" AND "),
            );
            let mut s = store.conn.prepare_cached(&sql)?;
            let keys = s.query_map([m.id], |r| r.get::<_, Vec<u8>>(0))?;
            orphans.extend(keys.collect::<Result<Vec<_>, _>>()?);
        }
        for k in orphans {
            let key = Key::from_stored(k.clone()).unpack()?;
            let Some(row) = m.sql.read_bytes(&store.conn, &key)? else { continue };
            if self.parent_went(table, &row)? {
                self.claim(position, &k)?;
            }
        }
        Ok(())
    }

    /// Makes a row of a table that is held back local work.
    pub(crate) fn claim(&self, position: usize, k: &[u8]) -> Result<(), Error> {
        let (store, t) = (self.store, self.store.managed[position].id);
        if store.held_back.contains_key(&position) && store.dirty(t, k)?.is_none() {
            store.put_dirty(t, k, self.now, None)?;
            store.set_known(t, k, Known::Never)?;
        }
        Ok(())
    }
}

/// The tables that were held back when the server was last asked.
fn stored(store: &Store) -> Result<Vec<HeldTable>, Error> {
    read(Meta::HeldBack.get(&store.conn)?)
}

/// The tables that were let go since the last rebuild.
fn let_go(store: &Store) -> Result<BTreeSet<String>, Error> {
    let stored: Option<String> = Meta::LetGo.get(&store.conn)?;
    stored.map_or(Ok(BTreeSet::new()), |s| serde_json::from_str(&s).map_err(|_| Error::Damaged("let_go".into())))
}

/// What is stored of tables that are held back.
pub(crate) fn read(stored: Option<String>) -> Result<Vec<HeldTable>, Error> {
    stored.map_or(Ok(Vec::new()), |s| serde_json::from_str(&s).map_err(|_| Error::Damaged("held_back".into())))
}

fn sentence(why: &Unlike) -> String {
    let named = |declared: &str| if declared.is_empty() { "without a type".into() } else { format!("as {declared}") };
    match why {
        Unlike::Type { column, here, there } if here.eq_ignore_ascii_case(there) => format!(
            "column {column} is declared {} at both ends, but the table is STRICT at one of them only, so values could \
             change on the way; declare it alike (`sync-client schema` prints this file's), and the table is synced",
            named(here)
        ),
        Unlike::Type { column, here, there } => format!(
            "column {column} is declared {} here and {} on the server, so values could change on the way; declare it \
             alike at both ends (`sync-client schema` prints this file's), and the table is synced",
            named(here),
            named(there)
        ),
        Unlike::Uuid { column } => format!(
            "BLOB column {column} is part of a key or a foreign key at one end only, so its values travel in two forms; \
             declare it alike at both ends, and the table is synced"
        ),
        Unlike::Key { here, there } => format!(
            "its key is ({}) here and ({}) on the server; declare it alike at both ends, and the table is synced",
            here.join(", "),
            there.join(", ")
        ),
        Unlike::Parent(table) => format!("it refers to {table}, which is held back"),
    }
}
