//! Detaching: the file is an ordinary one again, and remembers where it was (case C12).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::{self, Record};
use sync_core::value::Value;

use crate::apply::{Applier, fit};
use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::{Error, cannot};
use crate::export::Export;
use crate::inbox::Entry;
use crate::lock::{OwnerLock, itself};
use crate::mutant::{self, Mutant};
use crate::settle::op_of;
use crate::stage::{Stage, StagedRow};
use crate::status::read_status;
use crate::store::{Meta, OutboxState, Store};
use crate::whole::only_key;

/// What becomes of work that is not on the server yet when a file is detached. Every way leaves the rows
/// in their tables, ends the capture, and keeps what is needed to go on: the versions of the rows, the
/// history that they are of, and the inbox. Attached to the same account again, the file goes on where it
/// was: what others deleted meanwhile goes here too, and what the app wrote meanwhile is pushed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Detach {
    /// Refuses where there is any: rows that wait, are on their way, are held, or are in `rejected`.
    #[default]
    WhenClean,
    /// Keeps it: the edited rows stay as they are, and are pushed when the file is attached to the same
    /// account again.
    KeepData,
    /// Undoes it: each row goes back to what was last known of the server, rows that no server has go, and
    /// each edit is kept whole in `discarded`. Where the server's row is not known, the edit stays until the
    /// file is attached again. What was sent and not answered may be on the server all the same.
    Discard,
    /// Moves it into a new file, readable by its owner only, which [`crate::Client::import`] takes up on
    /// another device of the same account; a push in doubt is settled there, so that nothing is committed twice.
    /// Here it is undone as by `Discard`.
    Export(PathBuf),
}

/// What a detach did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Detached {
    /// Changed rows that stay and wait for the next attach: also those that cannot be undone, nor moved into an export,
    /// since rows of an unsynced table refer to them.
    pub kept_rows: u64,
    /// Edits that were undone; they are in `discarded`.
    pub discarded_rows: u64,
    /// Rows in the export.
    pub exported_rows: u64,
}

impl Engine {
    /// Also where the app did to its schema what sync refuses: this is the way out.
    pub(crate) fn detach(&mut self, how: &Detach) -> Result<Detached, Error> {
        let missing = self.store.missing()?;
        if *how != Detach::KeepData && !missing.is_empty() {
            return Err(Error::Damaged(format!("{} missing; `detach --keep` works, too", missing.join(", "))));
        }
        if *how == Detach::WhenClean {
            let status = read_status(&self.path)?;
            let pending = status.pending_rows + status.rejected_rows;
            if pending > 0 {
                return Err(Error::PendingWork(pending));
            }
        }
        if let Detach::Export(path) = how {
            self.name_export(path)?;
        }
        let outcome = self.store.begin_leaving(self.env.now_ms()).and_then(|()| self.leave(how));
        let detached = self.store.end(outcome)?;
        if let Some(was) = self.store.earlier_journal() {
            self.store.give_journal_back(&was);
        }
        Ok(detached)
    }

    /// Gives the export an id that this file remembers before there is an export: what a try that was cut has left under
    /// this name is known by it, and made anew.
    fn name_export(&self, path: &Path) -> Result<(), Error> {
        let conn = &self.store.conn;
        let begun: Option<String> = Meta::Exporting.get(conn)?;
        if let Some(id) = &begun {
            Export::tidy(path, id);
        }
        if path.exists() {
            if begun.is_none() || Export::open(path).ok().map(|e| e.head.id) != begun {
                return Err(Error::Argument(format!("{} exists already; choose another name", path.display())));
            }
            std::fs::remove_file(path).map_err(cannot("remove the export of an earlier try,", path))?;
        }
        Meta::Exporting.set(conn, self.env.new_id())
    }

    /// In a transaction of the caller.
    fn leave(&self, how: &Detach) -> Result<Detached, Error> {
        let conn = &self.store.conn;
        self.store.absorb(self.env.now_ms())?;
        let mut detached = Detached::default();
        match how {
            _ if mutant::on(Mutant::DetachWipes) => {
                self.release_unanswered(false)?;
                self.undo_pending("wiped", "", &Stays::default())?;
                conn.execute("DELETE FROM main._sync_inbox WHERE reason = 'wiped'", [])?;
            }
            // A write that came since is kept, not refused.
            Detach::WhenClean | Detach::KeepData => {
                let waiting = "SELECT (SELECT count(*) FROM main._sync_dirty) + (SELECT count(*) FROM main._sync_out)";
                detached.kept_rows = conn.query_row(waiting, [], |r| r.get::<_, i64>(0))?.unsigned_abs();
            }
            Detach::Discard => {
                let message = "this change was not on the server yet when the file was detached, and was undone";
                self.release_unanswered(false)?;
                let stays = self.store.stays(false)?;
                detached.discarded_rows = self.undo_pending("detached", message, &stays)?;
                detached.kept_rows = self.tell_of_those_that_stay(&stays)?;
            }
            Detach::Export(path) => {
                if self.store.outbox()?.is_some_and(|o| o.state == OutboxState::Frozen) {
                    self.store.release_outbox()?;
                }
                let id: String = Meta::Exporting.get(conn)?.ok_or_else(|| Error::Damaged("exporting".into()))?;
                let stays = self.store.stays(true)?;
                detached.exported_rows = self.store.export(path, &id, self.env.now_ms(), &stays)?;
                self.env.fault(FaultPoint::Exporting);
                self.release_unanswered(stays.outbox)?;
                let message = "this change was moved into an export when the file was detached";
                self.undo_pending("exported", message, &stays)?;
                detached.kept_rows = self.tell_of_those_that_stay(&stays)?;
            }
        }
        // Rows of tables that cannot be detached row by row: the app dropped them, or they cannot be synced any more.
        if matches!(how, Detach::Discard | Detach::Export(_)) {
            self.store.forget_gone(true, Some(self.env.now_ms()))?;
        }
        self.store.fall_asleep(self.env.now_ms())?;
        Meta::Exporting.clear(conn)?;
        self.env.fault(FaultPoint::Detaching);
        Ok(detached)
    }

    /// Rows of which no commit was answered are among the intents again; those that may be on the server all the same are
    /// remembered until the end. With `stays` nothing is released.
    fn release_unanswered(&self, stays: bool) -> Result<(), Error> {
        self.store.conn.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_in_doubt (t INTEGER, k BLOB, row BLOB, PRIMARY KEY (t, k)) \
             WITHOUT ROWID; DELETE FROM temp._sync_in_doubt",
        )?;
        if stays {
            return Ok(());
        }
        self.store.conn.execute_batch(
            "INSERT INTO temp._sync_in_doubt SELECT t, k, row FROM main._sync_out \
               WHERE row IS NOT NULL AND EXISTS (SELECT 1 FROM main._sync_outbox WHERE state = 'sent')",
        )?;
        match self.store.outbox()?.map(|o| o.state) {
            // It is on the server: not pending, and confirmed when the file is attached again.
            None | Some(OutboxState::Committed) => Ok(()),
            Some(OutboxState::Frozen) => self.store.release_outbox(),
            // Somebody else may take up the tuple that is in doubt.
            Some(OutboxState::Sent) => {
                self.store.release_outbox()?;
                Meta::SourceId.set(&self.store.conn, self.env.new_id())?;
                Meta::NextSourceBundleId.set(&self.store.conn, 1)
            }
        }
    }

    fn tell_of_those_that_stay(&self, stays: &Stays) -> Result<u64, Error> {
        let store = &self.store;
        for (position, k) in &stays.rows {
            let Some(dirty) = store.dirty(store.managed[*position].id, k)? else { continue };
            self.tell_that_it_stays(*position, k, dirty.base.as_ref())?;
        }
        if stays.outbox {
            let mut s = store.conn.prepare("SELECT t, k, base FROM main._sync_out ORDER BY ordinal")?;
            let mut rows = s.query([])?;
            while let Some(r) = rows.next()? {
                let (t, k): (i64, Vec<u8>) = (r.get(0)?, r.get(1)?);
                let base = r.get::<_, Option<Vec<u8>>>(2)?.map(|b| record::decode(&b)).transpose()?;
                if let (Some(position), None) = (store.position(t), store.dirty(t, &k)?) {
                    self.tell_that_it_stays(position, &k, base.as_ref())?;
                }
            }
        }
        Ok(stays.rows.len() as u64)
    }

    fn tell_that_it_stays(&self, position: usize, k: &[u8], base: Option<&Record>) -> Result<(), Error> {
        let (store, m) = (&self.store, &self.store.managed[position]);
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let live = m.sql.read_bytes(&store.conn, &key)?;
        Entry {
            kind: "conflict",
            at: self.env.now_ms(),
            table: store.table(position),
            key: &key,
            op: op_of(live.as_deref(), store.known(m.id, k)?, base),
            reason: "stayed",
            message: STAYED,
            local: live.as_deref(),
            base,
            server: None,
        }
        .store(&store.conn)
    }

    /// Takes back every intent but those that stay, recorded whole. In a transaction of the caller, who has released an
    /// outbox that is not to stay.
    fn undo_pending(&self, reason: &'static str, message: &str, stays: &Stays) -> Result<u64, Error> {
        let (store, now) = (&self.store, self.env.now_ms());
        store.conn.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_sent (t INTEGER, k BLOB, row BLOB, PRIMARY KEY (t, k)) WITHOUT ROWID; \
             DELETE FROM temp._sync_sent; \
             INSERT INTO temp._sync_sent SELECT t, k, row FROM main._sync_out;",
        )?;
        let mut undone = 0;
        let mut back = Vec::new();
        let mut unknown = Vec::new();
        for position in 0..store.managed.len() {
            let t = store.managed[position].id;
            let mut s = store.conn.prepare("SELECT k FROM main._sync_dirty WHERE t = ? ORDER BY k")?;
            let keys: Vec<Vec<u8>> = s.query_map([t], |r| r.get(0))?.collect::<Result<_, _>>()?;
            for k in keys.into_iter().filter(|k| !stays.rows.contains(&(position, k.clone()))) {
                undone += u64::from(self.undo(position, k, reason, message, &mut back, &mut unknown)?);
            }
        }
        // Last: no intent is left that could be taken for one of the app's.
        let mut applier = Applier::new(store, &self.policies, now)?;
        applier.begin_bundle("", false)?;
        let unversioned: Vec<(i64, Vec<u8>)> = back
            .iter()
            .filter(|(r, _)| r.version == 0)
            .map(|(r, _)| (store.managed[r.position].id, r.k.clone()))
            .collect();
        for (r, known) in back {
            applier.write_or_defer(r, known)?;
        }
        applier.end_bundle()?;
        // A deleted row that nobody here knows does not come back now, nor does one stay that refers to a row which
        // went: so goes what refers to it.
        for (position, k) in &unknown {
            let (m, key) = (&store.managed[*position], Key::from_stored(k.clone()).unpack()?);
            match m.sql.read(&store.conn, &key)? {
                None => {}
                Some(Ok(row)) if !applier.parents_exist(store.table(*position), &row)? => {
                    m.sql.delete(&store.conn, &key)?;
                    applier.changed(*position, k, true);
                    applier.withdraw_children(*position, row);
                    continue;
                }
                Some(_) => continue,
            }
            applier.withdraw_children(*position, only_key(store.table(*position), &key));
        }
        // The server never had these: nothing of them comes back.
        for (t, k) in unversioned {
            store.set_known(t, &k, Known::Never)?;
        }
        applier.gives_way(reason, stays.rows.clone());
        applier.finish_here()?;
        for (position, k) in unknown {
            store.set_known(store.managed[position].id, &k, Known::Live(0))?;
            Meta::Rebuild.set(&store.conn, "a row has to be fetched again")?;
        }
        store.conn.execute("UPDATE main._sync_inbox SET kind = 'discarded' WHERE kind = 'rejected'", [])?;
        Ok(undone)
    }

    /// Ends one intent; what has to be written is added to `back`, and a row that stays though nobody here
    /// knows what the server has to `unknown`. False where it meant nothing.
    fn undo(
        &self,
        position: usize,
        k: Vec<u8>,
        reason: &str,
        message: &str,
        back: &mut Vec<(StagedRow, Known)>,
        unknown: &mut Vec<(usize, Vec<u8>)>,
    ) -> Result<bool, Error> {
        let store = &self.store;
        let (m, table) = (&store.managed[position], store.table(position));
        let key = Key::from_stored(k.clone()).unpack()?;
        let Some(dirty) = store.dirty(m.id, &k)? else { return Ok(false) };
        let live: Option<Vec<Value>> = match m.sql.read(&store.conn, &key)? {
            // Not readable as text: it stays as it is, since nothing could record it.
            Some(Err(_)) => return Ok(false),
            Some(Ok(row)) => Some(row),
            None => None,
        };
        let known = store.known(m.id, &k)?;
        let target = match (self.row_in("_sync_sent", m.id, &k)?, known) {
            // A column that was not sent is as it was before the edit.
            (Some(row), _) => Ok(row.map(|row| {
                let before = dirty.base.clone().unwrap_or_default().into_iter().chain(std::iter::repeat(None));
                fit(row, table).into_iter().zip(before).map(|(sent, before)| sent.or(before)).collect::<Record>()
            })),
            // What it stands on is what an earlier one of these left.
            (None, Known::Live(0)) => Err(()),
            (None, Known::Live(_)) => dirty.base.clone().map(|b| Some(fit(b, table))).ok_or(()),
            (None, Known::Never | Known::Gone(_)) => Ok(None),
        };
        // A column that came since, or that the server lacks: only this edit can have put anything there.
        let target = target.map(|row| {
            row.map(|row: Record| {
                let now = |v: Option<Value>, nullable| v.or(if nullable { Some(Value::Null) } else { None });
                row.into_iter().zip(&table.columns).map(|(v, c)| now(v, !c.not_null)).collect::<Record>()
            })
        });
        store.drop_dirty(m.id, &k)?;
        // One that was sent may be on the server, and come back: that it was deleted here is told.
        let in_doubt = if live.is_none() { self.row_in("_sync_in_doubt", m.id, &k)?.flatten() } else { None };
        let same = match (&live, &target) {
            (Some(live), Ok(Some(row))) => record::agrees(live, row),
            (None, Ok(None)) => in_doubt.is_none(),
            _ => false,
        };
        if same {
            return Ok(false);
        }
        let not_here = format!("{message}; the server's row is not known here, and comes back with the next attach");
        Entry {
            kind: "discarded",
            at: self.env.now_ms(),
            table,
            key: &key,
            op: if in_doubt.is_some() { "DELETE" } else { op_of(live.as_deref(), known, dirty.base.as_ref()) },
            reason,
            message: if target.is_ok() { message } else { &not_here },
            local: live.as_deref(),
            base: dirty.base.as_ref().or(in_doubt.as_ref()),
            server: None,
        }
        .store(&store.conn)?;
        let Ok(target) = target else {
            unknown.push((position, k));
            return Ok(true);
        };
        let r = StagedRow {
            position,
            k,
            op: if target.is_some() { Op::Update } else { Op::Delete },
            version: known.version(),
            row: target.as_ref().map(|row| record::encode_partial(row)),
        };
        back.push((r, if live.is_some() { Known::Live(known.version()) } else { Known::Never }));
        Ok(true)
    }

    /// The row as it is in a committed outbox, or one in doubt, as remembered in a temporary table: `Some(None)` where
    /// that deleted it.
    fn row_in(&self, table: &str, t: i64, k: &[u8]) -> Result<Option<Option<Record>>, Error> {
        let sql = format!("SELECT row FROM temp.{table} WHERE t = ? AND k = ?");
        let mut s = self.store.conn.prepare_cached(&sql)?;
        let mut rows = s.query((t, k))?;
        let Some(r) = rows.next()? else { return Ok(None) };
        let stored: Option<Vec<u8>> = r.get(0)?;
        Ok(Some(stored.map(|b| record::decode(&b)).transpose()?))
    }
}

const STAYED: &str = "rows of a table that is not synced refer to this row, or to one that it needs or was sent with: \
     when the file was detached this change was neither undone nor moved into an export; it is sent once the file is attached again";

/// Intents: table, by position, and stored key.
pub(crate) type Intents = BTreeSet<(usize, Vec<u8>)>;

/// What cannot be undone, nor moved elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Stays {
    pub(crate) rows: Intents,
    /// Whether a bundle in doubt does, whole: it cannot be divided, nor be in two places. Its rows are among the others.
    pub(crate) outbox: bool,
}

impl Store {
    /// New rows that cannot leave their tables: rows of an unsynced table refer to them, and nothing else is declared for
    /// those, or can be done. Also, where the others are to be moved elsewhere, whatever changes refer to them: without
    /// them it would be refused there.
    fn stays(&self, moving: bool) -> Result<Stays, Error> {
        let mut stays = Stays::default();
        if self.locals.targets.is_empty() {
            return Ok(stays);
        }
        for (position, m) in self.managed.iter().enumerate() {
            for k in self.keys_in("_sync_dirty", m.id)? {
                if self.cannot_leave(position, &k)? {
                    stays.rows.insert((position, k));
                }
            }
        }
        if moving && self.outbox()?.is_some_and(|o| o.state == OutboxState::Sent) {
            let mut sent = Vec::new();
            for (position, m) in self.managed.iter().enumerate() {
                for k in self.keys_in("_sync_out", m.id)? {
                    stays.outbox = stays.outbox || self.cannot_leave(position, &k)?;
                    sent.push((position, k));
                }
            }
            if stays.outbox {
                stays.rows.extend(sent);
            }
        }
        if moving {
            self.take_followers(&mut stays.rows)?;
        }
        Ok(stays)
    }

    fn keys_in(&self, table: &str, t: i64) -> Result<Vec<Vec<u8>>, Error> {
        let mut s = self.conn.prepare_cached(&format!("SELECT k FROM main.{table} WHERE t = ?"))?;
        Ok(s.query_map([t], |r| r.get(0))?.collect::<Result<_, _>>()?)
    }

    fn cannot_leave(&self, position: usize, k: &[u8]) -> Result<bool, Error> {
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let new = !matches!(self.known(self.managed[position].id, k)?, Known::Live(_));
        Ok(new && self.kept_by_local(position, &key)?.is_some())
    }

    /// Adds the changed rows that refer to these, directly or not.
    fn take_followers(&self, rows: &mut Intents) -> Result<(), Error> {
        let mut todo: Vec<(usize, Vec<u8>)> = rows.iter().cloned().collect();
        while let Some((position, k)) = todo.pop() {
            let Some(row) = self.managed[position].sql.read_bytes(&self.conn, &Key::from_stored(k).unpack()?)? else {
                continue;
            };
            for (child, fk) in self.schema().references_to(position) {
                for key in self.children(child, fk, self.table(position), &row)? {
                    let found = (child, Key::pack(&key)?.as_bytes().to_vec());
                    if self.dirty(self.managed[child].id, &found.1)?.is_some() && rows.insert(found.clone()) {
                        todo.push(found);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Removes everything of ours from a file, synced or detached, whatever state it is in: its rows stay,
/// nothing else does. Work that is not on the server is only in the rows from then on, and the inbox is gone.
///
/// # Errors
/// [`Error::NotInitialized`] where there is nothing of ours; [`Error::Owned`] where it is being synced;
/// [`Error::NewerFormat`] where a newer version has made tables that this one does not know; SQLite's.
pub fn forget(path: &Path) -> Result<(), Error> {
    let path = itself(path)?;
    let _lock = OwnerLock::take(&path)?;
    Stage::tidy(&path);
    let store = Store::open(&path)?;
    if !store.anything_of_ours()? {
        return Err(Error::NotInitialized);
    }
    let was = store.earlier_journal();
    store.uninstall()?;
    if let Some(was) = was {
        store.give_journal_back(&was);
    }
    Ok(())
}
