//! How a remote row that was set aside (case C14) is done with: it came, the server has it no more, or this file has what
//! the server has.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::value::Value;
use sync_core::wire::decode_key;

use crate::apply::Applier;
use crate::aside::{ALL_ASIDE, IS_ASIDE, RETURNED};
use crate::error::Error;
use crate::inbox::key_json;
use crate::stage::{Stage, StagedRow};
use crate::store::{Meta, Store};

/// A row that is set aside, and what this file has of it.
struct Mark {
    position: usize,
    k: Vec<u8>,
    text: String,
    known: Known,
    /// Whether there is a row with this key in its table, and whether the app has changed it.
    here: bool,
    dirty: bool,
}

impl Applier<'_> {
    /// A row came while others are set aside: one of those may be its parent, or it may be one that was and fits now.
    pub(crate) fn came_beside_absent(&mut self, r: &StagedRow) -> Result<(), Error> {
        let (store, table) = (self.store, self.store.table(r.position));
        let key = Key::from_stored(r.k.clone()).unpack()?;
        if r.row.is_none() {
            // Whatever was set aside of it, the server has nothing any more.
            store.conn.prepare_cached(RETURNED)?.execute((&table.name, key_json(table, &key)))?;
            return Ok(());
        }
        if store.conn.prepare_cached(IS_ASIDE)?.exists((&table.name, key_json(table, &key)))? {
            self.aside.returned.insert((r.position, r.k.clone()));
        }
        if table.foreign_keys.is_empty() {
            return Ok(());
        }
        let Some(Ok(row)) = store.managed[r.position].sql.read(&store.conn, &key)? else { return Ok(()) };
        if !self.parents_exist(table, &row)? || self.refers_to_absent(r.position, &row)? {
            self.aside.waiting.push((r.position, r.k.clone()));
        }
        Ok(())
    }

    /// At the end, when it is known which rows stay that came: one whose parent turned out to be set aside is so again,
    /// and nothing that refers to it may come.
    pub(crate) fn settle_returned(&mut self) -> Result<(), Error> {
        let store = self.store;
        for (position, k) in std::mem::take(&mut self.aside.returned) {
            let (table, key) = (store.table(position), Key::from_stored(k).unpack()?);
            let returned = store.conn.prepare_cached(RETURNED)?.execute((&table.name, key_json(table, &key)))?;
            // A rebuild looks at every row that is not here itself.
            if returned > 0 && !self.rebuilding && store.schema().references_to(position).next().is_some() {
                Meta::Rebuild.set(&store.conn, "rows whose parent was set aside may fit now")?;
            }
        }
        Ok(())
    }

    /// A push is known to have committed as it was sent: what it says of a row that was set aside is what both have.
    pub(crate) fn committed_beside_absent(&mut self) -> Result<(), Error> {
        let sql = "SELECT 1 FROM main._sync_out WHERE t = ? AND k = ? AND (?3 OR op = ?4)";
        for mark in self.store.marks()? {
            let t = self.store.managed[mark.position].id;
            let stands = mark.here || mark.dirty;
            if self.store.conn.prepare_cached(sql)?.exists((t, &mark.k, stands, Op::Delete.stored()))? {
                self.aside.returned.insert((mark.position, mark.k));
            }
        }
        self.settle_returned()
    }
}

impl Store {
    /// What a snapshot that is to be merged says of rows that are set aside: those that it lacks are gone, and
    /// those that are here under its version need nothing.
    pub(crate) fn settle_marks(&self, stage: &Stage, same_history: bool) -> Result<(), Error> {
        for mark in self.marks()? {
            if self.held_back.contains_key(&mark.position) {
                continue;
            }
            let stands = mark.here || mark.dirty;
            match stage.snapshot_row(mark.position, &mark.k)? {
                // One that is here and unchanged may have to stay: the merge says.
                None if mark.dirty || !mark.here => self.unmark(&mark)?,
                Some((v, _)) if same_history && mark.known == Known::Live(v) && stands => self.unmark(&mark)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// What this file knows of rows that are set aside: those that were deleted on the server since are so no more. One
    /// that is not here and has a version, a version of this client before took for here once its push had committed.
    pub(crate) fn look_at_marks(&self) -> Result<(), Error> {
        for mark in self.marks()?.into_iter().filter(|m| !m.here && !m.dirty) {
            match mark.known {
                Known::Gone(_) => self.unmark(&mark)?,
                Known::Live(v) if v > 0 => {
                    self.set_known(self.managed[mark.position].id, &mark.k, Known::Never)?;
                    Meta::Rebuild.set(&self.conn, "rows that were set aside may fit now")?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn unmark(&self, mark: &Mark) -> Result<(), Error> {
        self.conn.prepare_cached(RETURNED)?.execute((&self.table(mark.position).name, &mark.text))?;
        Ok(())
    }

    /// The rows that are set aside, as far as they belong to tables of this file.
    fn marks(&self) -> Result<Vec<Mark>, Error> {
        if Meta::SetAside.integer(&self.conn)? == 0 {
            return Ok(Vec::new());
        }
        let mut s = self.conn.prepare_cached(ALL_ASIDE)?;
        let found: Vec<(String, String)> =
            s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        let mut marks = Vec::with_capacity(found.len());
        for (table, text) in found {
            let Some(position) = self.schema().position(&table) else { continue };
            let members = sync_core::json::from_slice(text.as_bytes()).ok();
            let key: Option<Vec<Value>> = members.and_then(|m| decode_key(self.table(position), &m).ok());
            let Some(key) = key else { continue };
            let (m, k) = (&self.managed[position], Key::pack(&key)?.as_bytes().to_vec());
            let (known, dirty) = (self.known(m.id, &k)?, self.dirty(m.id, &k)?.is_some());
            let here = m.sql.exists(&self.conn, &key)?;
            marks.push(Mark { position, k, text, known, here, dirty });
        }
        Ok(marks)
    }
}
