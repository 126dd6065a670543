//! Case C14: remote rows that only this file's schema refuses. They are set aside, what refers to them too, and all
//! come back once the schema is another, a newer version fits, or the UNIQUE value that they wait for is free.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record;
use sync_core::value::Value;
use sync_core::wire::{decode_key, decode_payload};

use crate::apply::{Applier, fit, full, is_constraint};
use crate::engine::Engine;
use crate::error::Error;
use crate::inbox::{Entry, key_json};
use crate::rekey::NUMBER_STAYS;
use crate::stage::StagedRow;
use crate::store::{Meta, Store};
use crate::whole::only_key;

/// What a transaction knows of rows that are set aside.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    /// Whether any row is, or may be.
    pub(crate) any: bool,
    /// Whether any is for a UNIQUE value.
    unique: bool,
    /// Rows set aside in this transaction: their table, and what is known of them.
    pub(crate) absent: VecDeque<(usize, Vec<Value>)>,
    /// Rows that came and whose parent was not here then.
    pub(crate) waiting: Vec<(usize, Vec<u8>)>,
    /// Rows that unsynced tables refer to, as they were before this transaction moved them under other parents.
    pub(crate) moved: BTreeMap<(usize, Vec<u8>), (Vec<Value>, Known)>,
    /// Rows that were set aside and came, as far as they are not set aside again.
    pub(crate) returned: BTreeSet<(usize, Vec<u8>)>,
    /// Rows that a snapshot brought, and that were set aside: by table, and by key as the inbox has it.
    in_vain: BTreeSet<(usize, String)>,
}

/// Why a remote row is not in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// A rule of the row itself that only this file has.
    Rule,
    /// Another row holds a UNIQUE value of it.
    Unique,
    /// The row that it refers to is set aside.
    Parent,
    /// Rows of an unsynced table refer to the row that it would change or delete.
    Local,
    /// The same: to a row of this file that has its number.
    Number,
}

impl Why {
    /// The reason of its entry in the inbox, while it is set aside. An index of our tables names all of them.
    const fn reason(self) -> &'static str {
        match self {
            Self::Rule => "set_aside",
            Self::Unique => "set_aside_unique",
            Self::Parent => "set_aside_parent",
            Self::Local | Self::Number => "set_aside_local",
        }
    }
}

/// Every entry of a row that is set aside, whatever for, as SQL.
macro_rules! any_aside {
    () => {
        "reason IN ('set_aside', 'set_aside_unique', 'set_aside_parent', 'set_aside_local')"
    };
}

impl Aside {
    pub(crate) fn new(store: &Store) -> Result<Self, Error> {
        let mark = Meta::SetAside.integer(&store.conn)?;
        Ok(Self { any: mark != 0, unique: mark == UNIQUE_TOO, ..Self::default() })
    }
}

impl Applier<'_> {
    /// A constraint that only this file has.
    pub(crate) fn set_aside(&mut self, r: &StagedRow, why: Why, said: &str) -> Result<(), Error> {
        let table = self.store.table(r.position);
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let server = r.row.as_deref().map(record::decode).transpose()?.map(|row| full(fit(row, table)));
        let message = match why {
            Why::Local => format!(
                "rows of {said}, which is not synced, refer to this row: what the server did to it waits until they are \
                 changed or deleted"
            ),
            Why::Number => format!(
                "rows of {said}, which is not synced, refer to this file's row with this key and cannot follow it to another: \
                 the server's row waits until they are changed or deleted"
            ),
            _ => format!("this file's schema refuses the server's row: {said}"),
        };
        self.note_aside(r.position, &key, r.op.name(), (why, &message), server.as_deref())?;
        // The version is not taken: a later edit conflicts, as it should, and no rebuild passes the row over.
        let m = &self.store.managed[r.position];
        if !m.sql.exists(&self.store.conn, &key)? {
            let row = server.unwrap_or_else(|| only_key(table, &key));
            if self.store.known(m.id, &r.k)? == Known::Live(0) {
                self.store.note_not_fetched(r.position, &row)?;
            }
            self.store.set_known(m.id, &r.k, Known::Never)?;
            self.aside.absent.push_back((r.position, row));
        } else if self.store.dirty(m.id, &r.k)?.is_none() {
            let known = self.store.known(m.id, &r.k)?;
            // A row of this file gave way to it and stays all the same: it goes once the server's does. Where it was an
            // edit of the version that was to come back, this file does not have that any more.
            if known == Known::Never || r.row.is_some() && known == Known::Live(r.version) {
                self.store.set_known(m.id, &r.k, Known::Live(0))?;
            }
        }
        Ok(())
    }

    pub(crate) fn note_aside(
        &mut self,
        position: usize,
        key: &[Value],
        op: &'static str,
        (why, message): (Why, &str),
        server: Option<&[Value]>,
    ) -> Result<(), Error> {
        let table = self.store.table(position);
        // One line a row, however often it is tried.
        self.store.conn.prepare_cached(TRIED)?.execute((&table.name, key_json(table, key)))?;
        self.aside.returned.remove(&(position, Key::pack(key)?.as_bytes().to_vec()));
        self.record(&Entry {
            kind: "conflict",
            at: self.now,
            table,
            key,
            op,
            reason: why.reason(),
            message,
            local: None,
            base: None,
            server,
        })?;
        if self.rebuilding {
            self.aside.in_vain.insert((position, key_json(table, key)));
        }
        self.aside.any = true;
        self.aside.unique |= why == Why::Unique;
        Meta::SetAside.keep(&self.store.conn, if self.aside.unique { UNIQUE_TOO } else { 1 })?;
        self.outcome.set_aside += 1;
        Ok(())
    }

    /// A row that waited for a UNIQUE value, and fits now that rows of its table changed, comes back by a rebuild.
    pub(crate) fn try_aside(&self, tables: impl IntoIterator<Item = usize>) -> Result<(), Error> {
        if self.aside.unique { self.try_for(tables, Why::Unique) } else { Ok(()) }
    }

    /// Rows that were set aside for this are tried in a savepoint; nothing of that is kept.
    fn try_for(&self, tables: impl IntoIterator<Item = usize>, why: Why) -> Result<(), Error> {
        let store = self.store;
        for position in tables {
            let table = store.table(position);
            let sql = concat!(
                "SELECT key, server_row FROM main._sync_inbox WHERE kind = 'conflict' AND reason = ?2 AND ",
                any_aside!(),
                " AND tbl = ?1 AND server_row IS NOT NULL AND id IN (SELECT max(id) FROM main._sync_inbox WHERE ",
                any_aside!(),
                " AND tbl = ?1 GROUP BY key) ORDER BY id LIMIT ?3"
            );
            let mut s = store.conn.prepare_cached(sql)?;
            let found: Vec<(String, String)> = s
                .query_map((&table.name, why.reason(), MOST_TRIED), |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<Result<_, _>>()?;
            for (key_text, row) in found {
                // No try of it comes to an end.
                if self.given_up.contains(&(table.name.clone(), key_text.clone())) {
                    continue;
                }
                // Another snapshot would do the same.
                if self.aside.in_vain.contains(&(position, key_text.clone())) {
                    continue;
                }
                if self.fits(position, &key_text, &row)? {
                    store.conn.prepare_cached(RETURNED)?.execute((&table.name, &key_text))?;
                    Meta::Rebuild.set(&store.conn, "rows that were set aside may fit now")?;
                }
            }
        }
        Ok(())
    }

    /// Whether a row that an entry keeps is not here so, and could be.
    fn fits(&self, position: usize, key: &str, row: &str) -> Result<bool, Error> {
        let (store, m, table) = (self.store, &self.store.managed[position], self.store.table(position));
        let json = |text: &str| sync_core::json::from_slice(text.as_bytes());
        let Ok(key) = json(key).map(|members| decode_key(table, &members)) else { return Ok(false) };
        let length = row.len() as u64;
        let (Ok(key), Ok(members)) = (key, json(row)) else { return Ok(false) };
        let Ok(row) = decode_payload(table, &key, &members) else { return Ok(false) };
        let k = Key::pack(&key)?;
        let (known, here) = (store.known(m.id, k.as_bytes())?, m.sql.exists(&store.conn, &key)?);
        // One that had to stay as it was is here, under the version that it had.
        if here && store.dirty(m.id, k.as_bytes())?.is_some()
            || !here && known != Known::Never
            || !self.parents_exist(table, &full(row.values.clone()))?
        {
            return Ok(false);
        }
        store.conn.execute_batch("SAVEPOINT _sync_fits")?;
        let written = store.bounded(position, &key, length, || {
            if here {
                m.sql.update_partial(&store.conn, &key, &row.values)
            } else {
                m.sql.insert_partial(&store.conn, &row.values)
            }
        });
        match store.take_back("_sync_fits", written)? {
            Ok(_) => Ok(true),
            Err(e) if is_constraint(&e) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Engine {
    /// Before a sync: rows that were set aside are tried again where what was against them may have changed here.
    pub(crate) fn look_again_at_aside(&self) -> Result<(), Error> {
        let store = &self.store;
        if Meta::SetAside.integer(&store.conn)? == 0 {
            return Ok(());
        }
        store.look_again_at_locals()?;
        store.look_again_at_given_up()?;
        let tx = store.begin()?;
        store.look_at_marks()?;
        if tx.query_row(COUNT_ASIDE, [], |r| r.get::<_, i64>(0))? == 0 {
            Meta::SetAside.clear(&tx)?;
        } else {
            let applier = Applier::new(store, &self.policies, self.env.now_ms())?;
            for why in [Why::Unique, Why::Rule] {
                applier.try_for(0..store.managed.len(), why)?;
            }
        }
        Ok(tx.commit()?)
    }
}

impl Store {
    /// Remote rows that waited for rows of unsynced tables are tried again once those let them.
    fn look_again_at_locals(&self) -> Result<(), Error> {
        let sql = concat!(
            "SELECT tbl, key, op, server_row FROM main._sync_inbox WHERE kind = 'conflict' AND reason = ?1 AND ",
            any_aside!(),
            " ORDER BY id"
        );
        let mut s = self.conn.prepare_cached(sql)?;
        let text = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?));
        let found: Vec<(String, String, String, Option<String>)> =
            s.query_map([Why::Local.reason()], text)?.collect::<Result<_, _>>()?;
        for (table, key, op, row) in found {
            if self.waits_for_locals(&table, &key, &op, row.as_deref())? {
                continue;
            }
            let tx = self.begin()?;
            tx.execute(RETURNED, (&table, &key))?;
            Meta::Rebuild.set(&tx, "rows that others referred to may go now")?;
            tx.commit()?;
        }
        Ok(())
    }

    /// Whether rows of unsynced tables still are against what an entry says the server did.
    fn waits_for_locals(&self, table: &str, key: &str, op: &str, row: Option<&str>) -> Result<bool, Error> {
        let Some(position) = self.schema().position(table) else { return Ok(false) };
        let (m, table) = (&self.managed[position], self.table(position));
        let json = |text: &str| sync_core::json::from_slice(text.as_bytes()).ok();
        let Some(key) = json(key).and_then(|members| decode_key(table, &members).ok()) else { return Ok(false) };
        if op == Op::Delete.name() {
            return Ok(self.kept_by_local(position, &key)?.is_some());
        }
        let own = Key::pack(&key)?;
        if self.dirty(m.id, own.as_bytes())?.is_some_and(|d| d.held.as_deref() == Some(NUMBER_STAYS)) {
            return Ok(self.local_along(position, &key)?.is_some());
        }
        let row = row.and_then(json).and_then(|members| decode_payload(table, &key, &members).ok());
        let Some(row) = row else { return Ok(false) };
        if self.held_by_local(position, &key, Some(&row.values))?.is_some() {
            return Ok(true);
        }
        // Or a row that cannot leave holds a UNIQUE value that it has there.
        for u in &table.uniques {
            let values: Option<Vec<Value>> = u.columns.iter().map(|i| row.values[*i].clone()).collect();
            let Some(values) = values.filter(|v| v.iter().all(|v| !v.is_null())) else { continue };
            for k in self.holders(position, u, &values)? {
                if k != own.as_bytes() && self.kept_by_local(position, &Key::from_stored(k).unpack()?)?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Whether a row, by table and key, is set aside.
pub(crate) const IS_ASIDE: &str =
    concat!("SELECT 1 FROM main._sync_inbox WHERE kind = 'conflict' AND ", any_aside!(), " AND tbl = ? AND key = ?");
/// Which rows are.
pub(crate) const ALL_ASIDE: &str =
    concat!("SELECT DISTINCT tbl, key FROM main._sync_inbox WHERE kind = 'conflict' AND ", any_aside!());
/// How many rows are.
pub(crate) const COUNT_ASIDE: &str = concat!(
    "SELECT count(*) FROM (SELECT DISTINCT tbl, key FROM main._sync_inbox WHERE kind = 'conflict' AND ",
    any_aside!(),
    ")"
);
/// Entries of a kind that may be forgotten: not those of rows that are set aside, which nothing else tells of.
pub(crate) const CLEAR: &str = concat!("DELETE FROM main._sync_inbox WHERE kind = ?1 AND NOT (", any_aside!(), ")");
/// Whether an entry is of a row that is set aside.
pub(crate) const ENTRY_IS_ASIDE: &str =
    concat!("SELECT 1 FROM main._sync_inbox WHERE id = ? AND kind = 'conflict' AND ", any_aside!());
/// It is tried again, and told anew where that is in vain.
const TRIED: &str =
    concat!("DELETE FROM main._sync_inbox WHERE kind = 'conflict' AND ", any_aside!(), " AND tbl = ? AND key = ?");
/// It is not any more.
pub(crate) const RETURNED: &str = concat!(
    "UPDATE main._sync_inbox SET reason = 'returned' WHERE kind = 'conflict' AND ",
    any_aside!(),
    " AND tbl = ? AND key = ?"
);
/// What is said of a row that no CHECK or other rule of the row itself refuses.
pub(crate) const UNIQUE_HELD: &str = "a UNIQUE value is held by another row, by a rule that only this file has";
/// The mark of a file in which any row is set aside for a UNIQUE value.
const UNIQUE_TOO: i64 = 2;
/// So many rows of a table are tried after each change of it.
const MOST_TRIED: i64 = 100;
