//! Giving a row other values in columns that rows refer to: what refers to it follows, through every key that
//! contains them. Two occasions: a number that two devices minted (case C7), and a key that the app changed while
//! SQLite was not asked to do what the schema declares.

use std::collections::BTreeSet;

use rusqlite::params_from_iter;
use sync_core::engine::change::Known;
use sync_core::engine::departure::Departure;
use sync_core::key::Key;
use sync_core::record::Record;
use sync_core::schema::ForeignKey;
use sync_core::sqlite::quote;
use sync_core::value::Value;

use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::store::Store;

/// A row that got other values.
pub(crate) struct Moved {
    pub(crate) position: usize,
    pub(crate) old_key: Vec<Value>,
    pub(crate) new_key: Vec<Value>,
    /// The row as it was; none where its text is not UTF-8.
    pub(crate) row: Option<Vec<Value>>,
}

/// Which rows follow.
pub(crate) enum Followers<'a> {
    /// Those that mean the local row, and not the row of the server that has its number. While another device's
    /// work is taken up, only intents that are of it.
    OfTheLocalRow(Option<&'a BTreeSet<(i64, Vec<u8>)>>),
    /// Those whose foreign key says ON UPDATE CASCADE.
    Declared,
}

/// Columns and their new values.
type Changes = Vec<(usize, Value)>;

/// Moves rows within a transaction, in a savepoint of the caller.
pub(crate) struct Mover<'a> {
    pub(crate) store: &'a Store,
    pub(crate) now: i64,
    pub(crate) followers: Followers<'a>,
    /// What has moved so far, each row after the one that it follows.
    pub(crate) moved: Vec<Moved>,
}

impl Mover<'_> {
    /// Sets columns of a row, and of whatever follows it. Ends since each step takes the old value out of a row.
    pub(crate) fn move_row(&mut self, position: usize, key: Vec<Value>, changes: Changes) -> Result<(), Error> {
        let mut steps = vec![(position, key, changes)];
        while let Some((position, key, changes)) = steps.pop() {
            let before = self.rewrite(position, &key, &changes)?;
            let Some(row) = before else { continue };
            self.find_followers(position, &row, &changes, &mut steps)?;
        }
        Ok(())
    }

    /// The rows that refer to what a row was, and what they are to say now.
    pub(crate) fn find_followers(
        &self,
        position: usize,
        row: &[Value],
        changes: &[(usize, Value)],
        steps: &mut Vec<(usize, Vec<Value>, Changes)>,
    ) -> Result<(), Error> {
        let (store, table) = (self.store, self.store.table(position));
        if matches!(self.followers, Followers::OfTheLocalRow(_)) && mutant::on(Mutant::Renumbered) {
            return Ok(());
        }
        for (child, fk) in store.schema().references_to(position) {
            let follow: Changes = changes
                .iter()
                .filter_map(|(i, v)| {
                    let at = fk.parent_columns.iter().position(|c| *c == table.columns[*i].name)?;
                    Some((fk.columns[at], v.clone()))
                })
                .collect();
            if follow.is_empty() || !self.may_follow(fk) {
                continue;
            }
            for key in store.children(child, fk, table, row)? {
                if self.follows(child, &key, &follow)? {
                    steps.push((child, key, follow.clone()));
                }
            }
        }
        Ok(())
    }

    fn is_imported(&self, position: usize, key: &[Value]) -> Result<bool, Error> {
        let Followers::OfTheLocalRow(Some(imported)) = &self.followers else { return Ok(false) };
        Ok(imported.contains(&(self.store.managed[position].id, Key::pack(key)?.as_bytes().to_vec())))
    }

    /// Writes a row with other values, and what that means for its intent. Triggers of the app that keep an index or
    /// a counter see a row that goes and a row that comes: a change of a key is nothing that they need know of.
    fn rewrite(
        &mut self,
        position: usize,
        key: &[Value],
        changes: &[(usize, Value)],
    ) -> Result<Option<Vec<Value>>, Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        let row = match m.sql.read(&store.conn, key)? {
            None => return Ok(None),
            Some(Ok(row)) => {
                let mut other = row.clone();
                changes.iter().for_each(|(i, v)| other[*i].clone_from(v));
                m.sql.delete(&store.conn, key)?;
                m.sql.insert(&store.conn, &other)?;
                // What refers to a number in unsynced tables means this file's row, which an imported one has written over.
                if !self.is_imported(position, key)? {
                    let only_declared = matches!(self.followers, Followers::Declared);
                    store.move_locals(position, &row, &other, only_declared)?;
                }
                Some(row)
            }
            // Text that is not UTF-8 is only known to SQLite.
            Some(Err(_)) => {
                let set: Vec<String> =
                    changes.iter().map(|(i, _)| format!("{} = ?", quote(&table.columns[*i].sql_name))).collect();
                let name = quote(&table.sql_name);
                let (or_abort, by_key) = (m.sql.or_abort, &m.sql.by_key);
                let sql = format!("UPDATE{or_abort} main.{name} SET {} WHERE {by_key}", set.join(", "));
                store
                    .conn
                    .prepare_cached(&sql)?
                    .execute(params_from_iter(changes.iter().map(|(_, v)| v).chain(key)))?;
                None
            }
        };
        let mut new_key = key.to_vec();
        for (at, column) in table.key.iter().enumerate() {
            if let Some((_, v)) = changes.iter().find(|(i, _)| i == column) {
                new_key[at] = v.clone();
            }
        }
        self.keep_intent(position, key, &new_key, row.as_ref())?;
        self.moved.push(Moved { position, old_key: key.to_vec(), new_key, row: row.clone() });
        Ok(row)
    }

    /// The intent moves along; a row that had none has one now, on the row that the server has.
    fn keep_intent(
        &self,
        position: usize,
        key: &[Value],
        new_key: &[Value],
        row: Option<&Vec<Value>>,
    ) -> Result<(), Error> {
        let (store, t) = (self.store, self.store.managed[position].id);
        let (k, new_k) = (Key::pack(key)?, Key::pack(new_key)?);
        let dirty = store.dirty(t, k.as_bytes())?;
        let since = dirty.as_ref().map_or(self.now, |d| d.since);
        let own_base = || row.map(|row| row.iter().cloned().map(Some).collect::<Record>());
        if new_key == key {
            return match dirty {
                Some(_) => store.let_go(t, k.as_bytes()),
                None => store.put_dirty(t, k.as_bytes(), since, own_base().as_ref()),
            };
        }
        if matches!(store.known(t, k.as_bytes())?, Known::Live(_)) {
            if dirty.is_none() {
                store.put_dirty(t, k.as_bytes(), since, own_base().as_ref())?;
            }
            store.note_departure(t, k.as_bytes(), Departure::Rekeyed, Some(new_k.as_bytes()))?;
        } else {
            store.drop_dirty(t, k.as_bytes())?;
        }
        store.put_dirty(t, new_k.as_bytes(), since, None)
    }

    fn may_follow(&self, fk: &ForeignKey) -> bool {
        match self.followers {
            Followers::OfTheLocalRow(_) => true,
            Followers::Declared => fk.on_update == "CASCADE",
        }
    }

    /// Whether a child means the local row. One that came from the server, or whose reference did, means
    /// the server's row, and stays.
    fn follows(&self, child: usize, key: &[Value], changes: &[(usize, Value)]) -> Result<bool, Error> {
        let Followers::OfTheLocalRow(imported) = &self.followers else { return Ok(true) };
        let (store, m) = (self.store, &self.store.managed[child]);
        let t = m.id;
        let k = Key::pack(key)?;
        let Some(dirty) = store.dirty(t, k.as_bytes())? else { return Ok(false) };
        // What another device wrote means that device's rows.
        if imported.is_some_and(|only| !only.contains(&(t, k.as_bytes().to_vec()))) {
            return Ok(false);
        }
        if !matches!(store.known(t, k.as_bytes())?, Known::Live(_)) {
            return Ok(true);
        }
        let row = m.sql.read(&store.conn, key)?.and_then(Result::ok);
        let of_the_server = |i: usize| {
            store.table(child).key.contains(&i)
                || dirty.base.as_ref().is_some_and(|b| {
                    b.get(i).is_some_and(Option::is_some) && b[i].as_ref() == row.as_ref().and_then(|r| r.get(i))
                })
        };
        Ok(!changes.iter().any(|(i, _)| of_the_server(*i)))
    }
}
