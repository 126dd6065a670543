//! INTEGER keys that two devices minted (case C7): the local row takes a free number, and what refers to
//! it in this file follows, through every key that contains the number.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::sqlite::quote;
use sync_core::value::Value;

use crate::apply::{Applier, is_constraint};
use crate::error::Error;
use crate::inbox::{Entry, key_json};
use crate::moving::{Followers, Moved, Mover};
use crate::orphans::parent_key;
use crate::report::Event;
use crate::settle::is_new;

impl Applier<'_> {
    /// The row whose number was minted twice where a remote row has the key of this local one: the row
    /// itself, or the local row that its key refers to. `None` where the key was not minted here: then
    /// both sides mean the same row.
    pub(crate) fn minted(
        &self,
        position: usize,
        key: &[Value],
        row: &[Value],
    ) -> Result<Option<(usize, Vec<Value>)>, Error> {
        self.minted_within(position, key, row, self.store.managed.len())
    }

    fn minted_within(
        &self,
        position: usize,
        key: &[Value],
        row: &[Value],
        depth: usize,
    ) -> Result<Option<(usize, Vec<Value>)>, Error> {
        let store = self.store;
        let table = store.table(position);
        let mut own = table.integer_key();
        for fk in table.foreign_keys.iter().filter(|f| f.columns.iter().any(|c| table.key.contains(c))) {
            let Some(parent) = store.schema().position(&fk.parent).filter(|p| *p != position && depth > 0) else {
                continue;
            };
            own = false;
            let Some(parent_key) = parent_key(fk, store.table(parent), row) else { continue };
            let Ok(k) = Key::pack(&parent_key) else { continue };
            let m = &store.managed[parent];
            let known = store.known(m.id, k.as_bytes())?;
            if store.dirty(m.id, k.as_bytes())?.is_none_or(|d| !is_new(known, &d)) {
                continue;
            }
            if let Some(Ok(parent_row)) = m.sql.read(&store.conn, &parent_key)?
                && let Some(found) = self.minted_within(parent, &parent_key, &parent_row, depth - 1)?
            {
                return Ok(Some(found));
            }
        }
        Ok((own && !self.is_same_number(position, key)).then(|| (position, key.to_vec())))
    }

    /// Whether the file is a copy in which the same number is the same row.
    fn is_same_number(&self, position: usize, key: &[Value]) -> bool {
        let up_to = self.same_up_to.get(&position);
        matches!((up_to, key), (Some(up_to), [Value::Integer(number)]) if number <= up_to)
    }

    /// C7: the local row, which no server has, takes a free number; references in this file follow. Where rows of an
    /// unsynced table cannot, and would refer to another row then, it keeps its number, and that table is returned.
    pub(crate) fn rekey(&mut self, position: usize, key: &[Value]) -> Result<Option<String>, Error> {
        let store = self.store;
        let column = store.table(position).key[0];
        for _ in 0..TRIES {
            let number = self.free_number(position)?;
            store.conn.execute_batch("SAVEPOINT _sync_rekey")?;
            let followers = Followers::OfTheLocalRow(self.imported.as_ref());
            let mut mover = Mover { store, now: self.now, followers, moved: Vec::new() };
            match mover.move_row(position, key.to_vec(), vec![(column, number)]) {
                Ok(()) => {
                    let moved = mover.moved;
                    store.conn.execute_batch("RELEASE _sync_rekey")?;
                    self.record_moves(&moved)?;
                    return Ok(None);
                }
                // A stray row that refers to no row holds the number.
                Err(Error::Sqlite(e)) if is_constraint(&e) => {
                    store.take_back("_sync_rekey", Ok(()))?;
                }
                Err(e) => return Err(e),
            }
        }
        if let Some(local) = store.local_along(position, key)? {
            let message = format!(
                "another device used this number for another row, and rows of {local}, which is not synced, refer to this \
                 one and cannot follow it to another number: it is sent once they are changed or deleted"
            );
            store.hold(store.managed[position].id, Key::pack(key)?.as_bytes(), NUMBER_STAYS, &message)?;
            return Ok(Some(local));
        }
        let message = "another device used this number for another row, and no other number fits";
        self.displace(position, key, "number_taken", message, None)?;
        Ok(None)
    }

    /// A number above every one that is here, known, or about to come; where there is none above, below.
    ///
    /// What a copy of this file sent does not count: where both had the same rows when it was made, the copy found the
    /// same number for this row as is found here, and under the same number equal rows are the same row.
    fn free_number(&mut self, position: usize) -> Result<Value, Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        let (column, name) = (quote(&table.columns[table.key[0]].sql_name), quote(&table.sql_name));
        let last = match self.numbered.get(&position) {
            Some(n) => *n,
            None => {
                let sql = format!("SELECT max({column}) FROM main.{name} WHERE typeof({column}) = 'integer'");
                let here: Option<i64> = store.conn.query_row(&sql, [], |r| r.get(0))?;
                let coming = self.stage.map(|s| s.highest_number(position, &self.twins)).transpose()?.flatten();
                here.max(coming).unwrap_or(0).max(0)
            }
        };
        let mut number = last;
        loop {
            number = match number.checked_add(1) {
                Some(n) => n,
                None => store.conn.query_row(
                    &format!(
                        "SELECT coalesce(min(a.{column} + 1), 1) FROM main.{name} a WHERE a.{column} > 0 \
                         AND NOT EXISTS (SELECT 1 FROM main.{name} b WHERE b.{column} = a.{column} + 1)"
                    ),
                    [],
                    |r| r.get(0),
                )?,
            };
            let key = [Value::Integer(number)];
            let k = Key::pack(&key)?;
            if store.known(m.id, k.as_bytes())? == Known::Never
                && store.dirty(m.id, k.as_bytes())?.is_none()
                && !m.sql.exists(&store.conn, &key)?
            {
                break;
            }
        }
        self.numbered.insert(position, number);
        Ok(Value::Integer(number))
    }

    fn record_moves(&mut self, moved: &[Moved]) -> Result<(), Error> {
        self.outcome.conflicts += 1;
        for m in moved {
            if m.new_key != m.old_key {
                self.changed(m.position, Key::pack(&m.old_key)?.as_bytes(), true);
            }
            self.changed(m.position, Key::pack(&m.new_key)?.as_bytes(), false);
        }
        for (n, m) in moved.iter().filter(|m| m.new_key != m.old_key).enumerate() {
            let table = self.store.table(m.position);
            if let Some(imported) = &mut self.imported {
                imported.insert((self.store.managed[m.position].id, Key::pack(&m.new_key)?.as_bytes().to_vec()));
            }
            let (old_key, new_key) = (key_json(table, &m.old_key), key_json(table, &m.new_key));
            let message = if n == 0 && self.from_twin {
                format!(
                    "a copy of this file sent another row under this number; this row is now {new_key}: if both are the \
                     same, edited in one of the files, delete one of them"
                )
            } else if n == 0 {
                format!("another device used this number for another row; this row is now {new_key}")
            } else {
                format!("the row that this key refers to got another number; this row is now {new_key}")
            };
            self.record(&Entry {
                kind: "conflict",
                at: self.now,
                table,
                key: &m.old_key,
                op: "INSERT",
                reason: "rekeyed",
                message: &message,
                local: m.row.as_deref(),
                base: None,
                server: None,
            })?;
            self.outcome.events.push(Event::Rekeyed { table: table.name.clone(), old_key, new_key });
        }
        Ok(())
    }
}

/// Why a row of this file is not sent: it keeps a number that another device used, too.
pub(crate) const NUMBER_STAYS: &str = "number_stays";
/// Numbers that are tried before the row gives way.
const TRIES: u32 = 100;
