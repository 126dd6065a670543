//! What a person decides about the inbox: `retry`, `drop`, `clear`. Nothing that an entry keeps goes away
//! before what it says is done, and what cannot be done says why in a sentence.

use rusqlite::{Connection, OptionalExtension as _};
use sync_core::engine::change::Known;
use sync_core::json::{Members, Scalar};
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::{self, Record};
use sync_core::schema::Table;
use sync_core::value::Value;
use sync_core::wire::{decode_key, decode_payload};

use crate::along::WENT_ALONG;
use crate::apply::{Applier, is_constraint, is_unique};
use crate::aside::{CLEAR, ENTRY_IS_ASIDE, IS_ASIDE};
use crate::engine::Engine;
use crate::error::Error;
use crate::inbox;
use crate::settle::op_of;
use crate::stage::StagedRow;
use crate::store::Meta;
use crate::whole::Finished;

/// What an entry says of the row that it keeps.
struct Kept {
    id: i64,
    kind: String,
    table: String,
    key: String,
    op: String,
    reason: String,
    /// The whole local row; none for a DELETE.
    local: Option<String>,
    /// The row that it lost to, where there was one.
    server: Option<String>,
}

impl Kept {
    /// Whether what it lost to is another version of the same row.
    fn lost_to_its_like(&self, table: &Table, key: &[Value]) -> bool {
        let members = self.server.as_ref().and_then(|row| sync_core::json::from_slice(row.as_bytes()).ok());
        members.is_some_and(|members| decode_payload(table, key, &members).is_ok())
    }
}

impl Engine {
    pub(crate) fn retry(&self, table: &str, key: &str) -> Result<bool, Error> {
        let (position, key_text, key) = self.find(table, key)?;
        let t = self.store.managed[position].id;
        let k = Key::pack(&key)?;
        let tx = self.store.begin()?;
        self.store.absorb(self.env.now_ms())?;
        if self.store.dirty(t, k.as_bytes())?.is_some_and(|d| d.held.is_some()) {
            self.store.let_go(t, k.as_bytes())?;
            tx.commit()?;
            return Ok(true);
        }
        let name = &self.store.table(position).name;
        if tx.prepare_cached(IS_ASIDE)?.exists((name, &key_text))? {
            Meta::Rebuild.set(&tx, TRIED_AGAIN)?;
            tx.commit()?;
            return Ok(true);
        }
        let entry = kept(&tx, "kind = 'rejected' AND tbl = ?1 AND key = ?2", (name, &key_text))?;
        let Some(entry) = entry else { return Ok(false) };
        self.put_back(&tx, &entry)?;
        tx.commit()?;
        Ok(true)
    }

    pub(crate) fn retry_entry(&self, id: i64) -> Result<bool, Error> {
        let tx = self.store.begin()?;
        self.store.absorb(self.env.now_ms())?;
        let Some(entry) = kept(&tx, "id = ?1", [id])? else { return Ok(false) };
        if tx.prepare_cached(ENTRY_IS_ASIDE)?.exists([id])? {
            Meta::Rebuild.set(&tx, TRIED_AGAIN)?;
            tx.commit()?;
            return Ok(true);
        }
        if entry.kind == "conflict" {
            let text =
                format!("entry {id} is a conflict that was settled for the local row: there is nothing to retry");
            return Err(Error::Argument(text));
        }
        self.put_back(&tx, &entry)?;
        tx.commit()?;
        Ok(true)
    }

    /// Makes the table say again what the entry keeps, as a local edit of now, and removes the entry.
    fn put_back(&self, tx: &Connection, entry: &Kept) -> Result<(), Error> {
        if entry.reason == "unnameable" {
            return Err(Error::Argument(format!("entry {} names no single row; give its rows other keys", entry.id)));
        }
        if entry.reason == WENT_ALONG {
            return Err(Error::Argument(format!(
                "entry {} is a row of {}, which is not synced: write it again with SQL, once what it refers to is back, and \
                 `drop` the entry",
                entry.id, entry.table
            )));
        }
        let (position, _, key) = self.find(&entry.table, &entry.key)?;
        let (table, m) = (self.store.table(position), &self.store.managed[position]);
        let k = Key::pack(&key)?;
        let live = match m.sql.read(tx, &key)? {
            Some(Ok(row)) => Some(row),
            Some(Err(_)) => {
                return Err(Error::Argument(format!("the row {} holds text that is not valid UTF-8", entry.key)));
            }
            None => None,
        };
        let applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
        match &entry.local {
            None => self.delete_again(position, &key, live.as_deref())?,
            Some(text) => {
                let members =
                    sync_core::json::from_slice(text.as_bytes()).map_err(|e| Error::Damaged(e.to_string()))?;
                let row = decode_payload(table, &key, &members)
                    .map_err(|e| Error::Argument(format!("the row does not fit its table any more: {e}")))?;
                // A row that was new here and left its table: its key came free.
                if entry.op == Op::Insert.name()
                    && !entry.lost_to_its_like(table, &key)
                    && live.as_ref().is_some_and(|live| !record::agrees(live, &row.values))
                {
                    return Err(Error::Argument(format!(
                        "{} {} cannot be put back: another row has its key by now; give that one another key first",
                        entry.table, entry.key
                    )));
                }
                self.write_again(&applier, position, &key, row.values, live.as_deref())?;
            }
        }
        self.keep_overwritten(tx, entry, position, &key, live.as_deref())?;
        match self.store.dirty(m.id, k.as_bytes())? {
            Some(_) => self.store.let_go(m.id, k.as_bytes())?,
            None => {
                let base: Option<Record> = live.map(|row| row.into_iter().map(Some).collect());
                self.store.put_dirty(m.id, k.as_bytes(), self.env.now_ms(), base.as_ref())?;
            }
        }
        self.store.notice()?;
        tx.execute("DELETE FROM main._sync_inbox WHERE id = ?", [entry.id])?;
        Ok(())
    }

    /// A row that an entry was put back over, where the entry does not show it itself.
    fn keep_overwritten(
        &self,
        tx: &Connection,
        entry: &Kept,
        position: usize,
        key: &[Value],
        live: Option<&[Value]>,
    ) -> Result<(), Error> {
        let (store, table, m) = (&self.store, self.store.table(position), &self.store.managed[position]);
        let Some(live) = live else { return Ok(()) };
        let stands = m.sql.read(tx, key)?.is_some_and(|now| now.is_ok_and(|now| now == live));
        let k = Key::pack(key)?;
        let dirty = store.dirty(m.id, k.as_bytes())?;
        // What the server has of the same row is in its history, and seen by whoever puts an edit back.
        if stands || dirty.is_none() && entry.lost_to_its_like(table, key) {
            return Ok(());
        }
        let base = dirty.and_then(|d| d.base);
        inbox::Entry {
            kind: "discarded",
            at: self.env.now_ms(),
            table,
            key,
            op: op_of(Some(live), store.known(m.id, k.as_bytes())?, base.as_ref()),
            reason: "put_back_over",
            message: "an entry of the inbox was put back over this row",
            local: Some(live),
            base: base.as_ref(),
            server: None,
        }
        .store(tx)
    }

    fn delete_again(&self, position: usize, key: &[Value], live: Option<&[Value]>) -> Result<(), Error> {
        let table = self.store.table(position);
        let Some(live) = live else { return Ok(()) };
        for (child, fk) in self.store.schema().references_to(position) {
            // A row that refers to itself stands in its own way only.
            let others = self.store.children(child, fk, table, live)?;
            if let Some(first) = others.iter().find(|other| child != position || *other != key) {
                let child = self.store.table(child);
                return Err(Error::Argument(format!(
                    "{} {} cannot be deleted: {} {} refers to it; delete or change that one first",
                    table.name,
                    inbox::key_json(table, key),
                    child.name,
                    inbox::key_json(child, first)
                )));
            }
        }
        self.store.managed[position].sql.delete(&self.store.conn, key)?;
        Ok(())
    }

    fn write_again(
        &self,
        applier: &Applier<'_>,
        position: usize,
        key: &[Value],
        row: Record,
        live: Option<&[Value]>,
    ) -> Result<(), Error> {
        let (table, m) = (self.store.table(position), &self.store.managed[position]);
        let what = || format!("{} {} cannot be put back", table.name, inbox::key_json(table, key));
        let values: Vec<Value> = row.iter().map(|v| v.clone().unwrap_or(Value::Null)).collect();
        for fk in &table.foreign_keys {
            if let Some(parent) = self.store.schema().position(&fk.parent)
                && parent_is_another(position, parent, key, fk, &values, table)
                && !applier.store.refers_to_a_row(fk, parent, &values)?
            {
                return Err(Error::Argument(format!(
                    "{}: the row of {} that it refers to is not there; bring that one back first",
                    what(),
                    fk.parent
                )));
            }
        }
        for (child, fk) in self.store.schema().references_to(position) {
            let Some(live) = live else { break };
            let lost = |c: &String| table.column(c).is_some_and(|i| row[i].as_ref().is_some_and(|v| *v != live[i]));
            if fk.parent_columns.iter().any(lost)
                && let Some(first) = self.store.children(child, fk, table, live)?.first()
            {
                let child = self.store.table(child);
                return Err(Error::Argument(format!(
                    "{}: {} {} refers to it by a value that it would lose; change that one first",
                    what(),
                    child.name,
                    inbox::key_json(child, first)
                )));
            }
        }
        let written = if live.is_some() {
            m.sql.update_partial(&self.store.conn, key, &row)
        } else {
            m.sql.insert_partial(&self.store.conn, &row)
        };
        match written {
            Ok(_) => Ok(()),
            Err(e) if is_unique(&e) => {
                let k = Key::pack(key)?.as_bytes().to_vec();
                let staged =
                    StagedRow { position, k, op: Op::Insert, version: 0, row: Some(record::encode_partial(&row)) };
                let others = applier.blockers(&staged)?;
                let other = others.first().map_or_else(|| "another row".into(), |(_, k)| inbox::key_json(table, k));
                Err(Error::Argument(format!("{}: {other} has the same unique value; change one of them first", what())))
            }
            Err(e) if is_constraint(&e) => Err(Error::Argument(format!("{}: {e}", what()))),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) fn drop_row(&self, table: &str, key: &str) -> Result<bool, Error> {
        let (position, key_text, key) = self.find(table, key)?;
        let t = self.store.managed[position].id;
        let k = Key::pack(&key)?;
        let entries = |tx: &Connection| {
            tx.execute(
                "UPDATE main._sync_inbox SET kind = 'discarded', reason = 'dropped', message = ?3 \
                 WHERE kind = 'rejected' AND ((tbl = ?1 AND key = ?2) OR reason = 'dropped')",
                (&self.store.table(position).name, &key_text, GIVEN_UP),
            )
        };
        let tx = self.store.begin()?;
        self.store.absorb(self.env.now_ms())?;
        if self.store.dirty(t, k.as_bytes())?.is_none_or(|d| d.held.is_none()) {
            let told = entries(&tx)?;
            tx.commit()?;
            return Ok(told > 0);
        }
        let mut applier = Applier::new(&self.store, &self.policies, self.env.now_ms())?;
        if !matches!(self.store.known(t, k.as_bytes())?, Known::Live(_))
            && let Some(local) = self.store.kept_by_local(position, &key)?
        {
            return Err(Error::Argument(format!(
                "{table} {key_text} cannot be given up: rows of {local}, which is not synced, refer to it; change or \
                 delete those first"
            )));
        }
        applier.displace(position, &key, "dropped", GIVEN_UP, None)?;
        match applier.finish(tx)? {
            Finished::Whole(whole) if !whole.outcome().away => {
                entries(&self.store.conn)?;
                whole.commit()?;
            }
            undone => {
                drop(undone);
                let tx = self.store.begin()?;
                self.store.absorb(self.env.now_ms())?;
                self.give_up_in_place(position, &key)?;
                entries(&tx)?;
                tx.commit()?;
            }
        }
        Ok(true)
    }

    /// The server's row is not known here: the local one stays until the next sync brings that, so that what refers to
    /// it stands. In a transaction of the caller.
    fn give_up_in_place(&self, position: usize, key: &[Value]) -> Result<(), Error> {
        let (store, m) = (&self.store, &self.store.managed[position]);
        let k = Key::pack(key)?;
        let Some(dirty) = store.dirty(m.id, k.as_bytes())? else { return Ok(()) };
        let live = m.sql.read_bytes(&store.conn, key)?;
        inbox::Entry {
            kind: "discarded",
            at: self.env.now_ms(),
            table: store.table(position),
            key,
            op: op_of(live.as_deref(), store.known(m.id, k.as_bytes())?, dirty.base.as_ref()),
            reason: "dropped",
            message: GIVEN_UP_LATER,
            local: live.as_deref(),
            base: dirty.base.as_ref(),
            server: None,
        }
        .store(&store.conn)?;
        if store.outbox()?.is_some() {
            Meta::OutboxDisturbed.set(&store.conn, 1)?;
        }
        store.drop_dirty(m.id, k.as_bytes())?;
        self.clear_unshared(position, key)?;
        store.fetch_again(m.id, k.as_bytes())
    }

    /// Empties the columns of a row that the server lacks: no row of the server's could, and only what was given up put
    /// anything there. One that this schema insists on stays.
    fn clear_unshared(&self, position: usize, key: &[Value]) -> Result<(), Error> {
        let (table, m) = (self.store.table(position), &self.store.managed[position]);
        let mut empty: Record = vec![None; table.columns.len()];
        for i in self.store.offered.lacking(table) {
            if !table.key.contains(&i) && !table.columns[i].not_null {
                empty[i] = Some(Value::Null);
            }
        }
        if empty.iter().all(Option::is_none) {
            return Ok(());
        }
        match m.sql.update_partial(&self.store.conn, key, &empty) {
            Err(e) if !is_constraint(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn drop_entry(&self, id: i64) -> Result<bool, Error> {
        let dropped = self.store.conn.execute(
            "UPDATE main._sync_inbox SET kind = 'discarded', reason = 'dropped', message = ?2 \
             WHERE kind = 'rejected' AND id = ?1",
            (id, GIVEN_UP),
        )?;
        Ok(dropped > 0)
    }

    pub(crate) fn clear_entry(&self, id: i64) -> Result<bool, Error> {
        if self.store.conn.prepare_cached(ENTRY_IS_ASIDE)?.exists([id])? {
            let text =
                format!("entry {id} is of a row that is set aside, and nothing else tells of it: retry it instead");
            return Err(Error::Argument(text));
        }
        Ok(self.store.conn.execute("DELETE FROM main._sync_inbox WHERE id = ?", [id])? > 0)
    }

    pub(crate) fn clear_all(&self, kind: &str) -> Result<u64, Error> {
        if !["rejected", "discarded", "conflict"].contains(&kind) {
            return Err(Error::Argument(format!("{kind} is no kind of entry: rejected, discarded or conflict")));
        }
        Ok(self.store.conn.execute(CLEAR, [kind])? as u64)
    }

    fn find(&self, table: &str, key: &str) -> Result<(usize, String, Vec<Value>), Error> {
        let position = self
            .store
            .schema()
            .position(&table.to_ascii_lowercase())
            .ok_or_else(|| Error::Argument(format!("{table} is not a synced table of this file")))?;
        let t = self.store.table(position);
        let text = inbox::normalise_key(t, key);
        let mut members: Members = sync_core::json::from_slice(text.as_bytes())
            .map_err(|e| Error::Argument(format!("the key is not a JSON object: {e}")))?;
        // Keys travel as text; a person and a program may write a number as one.
        for (_, value) in &mut members.0 {
            if let Scalar::Integer(number) = value {
                *value = Scalar::Text(number.to_string());
            }
        }
        let values = decode_key(t, &members).map_err(|e| Error::Argument(e.to_string()))?;
        Ok((position, inbox::key_json(t, &values), values))
    }
}

/// Whether a reference leads to another row than the one that is put back.
fn parent_is_another(
    position: usize,
    parent: usize,
    key: &[Value],
    fk: &sync_core::schema::ForeignKey,
    row: &[Value],
    table: &Table,
) -> bool {
    if position != parent {
        return true;
    }
    let itself = fk.columns.iter().zip(&fk.parent_columns).all(|(child, name)| {
        let own = table.key.iter().position(|i| table.columns[*i].name == *name).map(|at| &key[at]);
        own == Some(&row[*child])
    });
    !itself
}

/// The newest entry that a condition holds for.
fn kept(conn: &Connection, condition: &str, values: impl rusqlite::Params) -> Result<Option<Kept>, Error> {
    let sql = format!(
        "SELECT id, kind, tbl, key, op, reason, local_row, server_row FROM main._sync_inbox WHERE {condition} ORDER BY id DESC LIMIT 1"
    );
    Ok(conn
        .query_row(&sql, values, |r| {
            Ok(Kept {
                id: r.get(0)?,
                kind: r.get(1)?,
                table: r.get(2)?,
                key: r.get(3)?,
                op: r.get(4)?,
                reason: r.get(5)?,
                local: r.get(6)?,
                server: r.get(7)?,
            })
        })
        .optional()?)
}

/// Why a rebuild is owed.
const TRIED_AGAIN: &str = "a row that was set aside is tried again";
const GIVEN_UP: &str = "this refused change was given up here";
const GIVEN_UP_LATER: &str = "this refused change was given up here; the server's row comes back with the next sync";
