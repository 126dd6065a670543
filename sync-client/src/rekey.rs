//! INTEGER keys that two devices minted (case C7): the local row takes a free number.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::schema::ForeignKey;
use sync_core::sqlite::quote;
use sync_core::value::Value;

use crate::apply::Applier;
use crate::error::Error;
use crate::inbox::{Entry, key_json};
use crate::report::Event;

impl Applier<'_> {
    /// C7: the local row, which no server has, takes a free number; references in this file follow.
    pub(crate) fn rekey(&mut self, position: usize, key: &[Value], since: i64) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let table = store.table(position);
        let column = table.key[0];
        let name = quote(&table.columns[column].sql_name);
        let sql_name = quote(&table.sql_name);
        let highest: i64 = store.conn.query_row(
            &format!("SELECT coalesce(max({name}), 0) FROM main.{sql_name} WHERE typeof({name}) = 'integer'"),
            [],
            |r| r.get(0),
        )?;
        let mut free = highest + 1;
        while store.known(m.id, Key::pack(&[Value::Integer(free)])?.as_bytes())? != Known::Never {
            free += 1;
        }
        let new_key = [Value::Integer(free)];
        let Some(Ok(live)) = m.sql.read(&store.conn, key)? else { return Ok(()) };
        store.conn.execute(
            &format!("UPDATE OR ABORT main.{sql_name} SET {name} = ? WHERE {name} = ?"),
            [&new_key[0], &key[0]],
        )?;
        store.drop_dirty(m.id, Key::pack(key)?.as_bytes())?;
        store.put_dirty(m.id, Key::pack(&new_key)?.as_bytes(), since, None)?;
        for (child, fk) in store.schema().references_to(position) {
            if fk.parent_columns.as_slice() == [table.columns[column].name.clone()] {
                for child_key in self.children(child, fk, table, &live)? {
                    self.follow(child, fk, &child_key, &new_key[0])?;
                }
            }
        }
        let new_json = key_json(table, &new_key);
        let message = format!("another device used this number for another row; this row is now {new_json}");
        self.record(&Entry {
            kind: "conflict",
            at: self.now,
            table,
            key,
            op: "INSERT",
            reason: "rekeyed",
            message: &message,
            local: Some(&live),
            base: None,
            server: None,
        })?;
        self.outcome.conflicts += 1;
        let (old_key, new_key) = (key_json(table, key), new_json);
        self.outcome.events.push(Event::Rekeyed { table: table.name.clone(), old_key, new_key });
        Ok(())
    }

    /// A local child of a row that got another number follows it. Children that came from the server
    /// mean the server's row, and stay.
    fn follow(&self, child: usize, fk: &ForeignKey, child_key: &[Value], number: &Value) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[child]);
        let table = store.table(child);
        let old_k = Key::pack(child_key)?;
        let Some(dirty) = store.dirty(m.id, old_k.as_bytes())? else { return Ok(()) };
        let name = quote(&table.columns[fk.columns[0]].sql_name);
        let sql = format!("UPDATE OR ABORT main.{} SET {name} = ? WHERE {}", quote(&table.sql_name), m.sql.by_key);
        store
            .conn
            .prepare_cached(&sql)?
            .execute(rusqlite::params_from_iter(std::iter::once(number).chain(child_key)))?;
        if let Some(at) = table.key.iter().position(|i| *i == fk.columns[0]) {
            let mut new_key = child_key.to_vec();
            new_key[at] = number.clone();
            if store.known(m.id, old_k.as_bytes())? == Known::Never {
                store.drop_dirty(m.id, old_k.as_bytes())?;
            }
            store.put_dirty(m.id, Key::pack(&new_key)?.as_bytes(), dirty.since, None)?;
        }
        Ok(())
    }
}
