//! Applying remote rows inside one transaction on the app's file. Nothing fires, nothing cascades: a
//! bundle already holds every effect. A row that meets a local intent is settled; a local row that a
//! remote one makes impossible leaves the table for the inbox, whole.

use std::collections::{BTreeMap, BTreeSet};

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::{self, Record};
use sync_core::schema::Table;
use sync_core::sqlite::connection::is_too_long;
use sync_core::value::Value;

use crate::aside::{Aside, Why};
use crate::asking::Answers;
use crate::changes::Changes;
use crate::conflict::{Conflict, Policies};
use crate::detach::Intents;
use crate::effects::{DeletedValues, Taken};
use crate::error::Error;
use crate::inbox::{Entry, key_json};
use crate::keep::Keep;
use crate::mutant::{self, Mutant};
use crate::orphans::UNIQUE_TAKEN;
use crate::release::Watch;
use crate::renamed::Before;
use crate::report::Event;
use crate::stage::{Stage, StagedRow, Twin};
use crate::store::Store;
use crate::whole::Holes;

/// What a transaction of remote rows did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) applied: u64,
    pub(crate) conflicts: u64,
    pub(crate) set_aside: u64,
    pub(crate) events: Vec<Event>,
    /// Whether a row left that only a rebuild brings back.
    pub(crate) away: bool,
}

/// Applies rows. Lives as long as the transaction.
pub(crate) struct Applier<'a> {
    pub(crate) store: &'a Store,
    pub(crate) policies: &'a Policies,
    /// What the app said of conflicts; none where it is not asked, and policies decide.
    pub(crate) answers: Option<&'a Answers>,
    /// What it has to be asked: then the transaction is undone.
    pub(crate) questions: Vec<Conflict>,
    pub(crate) now: i64,
    /// Whether there is any intent at all: most of the time there is none, and nothing to look up.
    pub(crate) any_dirty: bool,
    pub(crate) own: bool,
    /// The rows come from a server that sends numbers as doubles.
    pub(crate) rounds: bool,
    /// Rows that a UNIQUE value blocks for now, and whether they are being tried again.
    pub(crate) blocked: Vec<StagedRow>,
    pub(crate) unblocking: bool,
    /// Tables in which rows came, those from which rows went, and the lowest version that came: for the
    /// search for orphans.
    pub(crate) touched: BTreeSet<usize>,
    pub(crate) went: BTreeSet<usize>,
    pub(crate) lowest: i64,
    /// Intents whose row is not here, though a row that came refers to it.
    pub(crate) referred_to: BTreeSet<(usize, Vec<u8>)>,
    /// Rows whose UNIQUE values others may refer to, as they were.
    pub(crate) renamed: Vec<Before>,
    /// Rows that a snapshot lacks: the server deleted them, in versions that it does not name.
    pub(crate) missing: BTreeSet<(usize, Vec<u8>)>,
    /// Whether anything is kept of a history before this one.
    pub(crate) earlier: bool,
    /// Where the rows come from, and the last number that a local row got in a table.
    pub(crate) stage: Option<&'a Stage>,
    /// Whether the stage has a whole snapshot, which is being merged.
    pub(crate) rebuilding: bool,
    /// Tables that were held back until this rebuild.
    pub(crate) let_go: BTreeSet<usize>,
    pub(crate) numbered: BTreeMap<usize, i64>,
    /// Where the file is a copy of one that is part of the account: up to which number rows are the same.
    pub(crate) same_up_to: BTreeMap<usize, i64>,
    pub(crate) keep: Keep,
    /// While another device's work is taken up: the intents that are of it.
    pub(crate) imported: Option<BTreeSet<(i64, Vec<u8>)>>,
    /// Rows whose writing did not come to an end: it is not tried again.
    pub(crate) given_up: BTreeSet<(String, String)>,
    /// Bundles that a copy of this file wrote.
    pub(crate) twins: Vec<Twin>,
    /// Whether the bundle that is applied is one of them.
    pub(crate) from_twin: bool,
    pub(crate) aside: Aside,
    /// The bundle of an own push that a snapshot contains, 0 where only that it committed is known.
    pub(crate) pushed: Option<i64>,
    /// What the server deleted with it, as far as it is known.
    pub(crate) removed: Intents,
    pub(crate) taken: Taken,
    /// What they were referred to by, as far as it was asked for.
    pub(crate) deleted_values: DeletedValues,
    /// Whether a push of this file is on its way back, and the rows that refer to what it deleted.
    pub(crate) on_its_way: bool,
    pub(crate) leaving: Vec<(usize, Vec<u8>)>,
    pub(crate) holes: Holes,
    changes: Changes,
    /// Refused rows whose cause may go away with a row that comes.
    pub(crate) watch: Option<Watch>,
    pub(crate) outcome: Outcome,
}

/// How writing a remote row went.
pub(crate) enum Written {
    Yes,
    /// A UNIQUE value is held by another row.
    Blocked,
    /// A constraint that only this file has.
    Refused(String),
    /// Rows of this unsynced table refer to what would go or change.
    Referred(String),
}

impl<'a> Applier<'a> {
    pub(crate) fn new(store: &'a Store, policies: &'a Policies, now: i64) -> Result<Self, Error> {
        let let_go = store.let_go_tables()?;
        let any_dirty = !let_go.is_empty() || store.any_dirty(false)?;
        Ok(Self {
            store,
            policies,
            answers: None,
            questions: Vec::new(),
            now,
            any_dirty,
            keep: Keep::new(store, policies, any_dirty)?,
            imported: None,
            watch: if any_dirty { Watch::new(store)? } else { None },
            own: false,
            rounds: false,
            blocked: Vec::new(),
            unblocking: false,
            touched: BTreeSet::new(),
            went: BTreeSet::new(),
            lowest: i64::MAX,
            referred_to: BTreeSet::new(),
            renamed: Vec::new(),
            missing: BTreeSet::new(),
            earlier: store.any_earlier()?,
            stage: None,
            rebuilding: false,
            let_go,
            numbered: BTreeMap::new(),
            same_up_to: BTreeMap::new(),
            aside: Aside::new(store)?,
            given_up: store.given_up()?,
            twins: store.twins()?,
            from_twin: false,
            pushed: None,
            removed: Intents::new(),
            taken: Taken::new(),
            deleted_values: DeletedValues::new(),
            on_its_way: false,
            leaving: Vec::new(),
            holes: Holes::default(),
            changes: Changes::default(),
            outcome: Outcome::default(),
        })
    }

    pub(crate) fn begin_bundle(&mut self, source_id: &str, own: bool) -> Result<(), Error> {
        self.changes.begin(source_id);
        self.own = own;
        self.from_twin = !own && self.twins.iter().any(|t| t.source == source_id);
        if own {
            // Not an index on the outbox: a schema of ours that changed would have to be read again.
            self.store.conn.execute_batch(
                "CREATE TEMP TABLE IF NOT EXISTS _sync_came (t INTEGER, k BLOB, PRIMARY KEY (t, k)) WITHOUT ROWID; \
                 DELETE FROM temp._sync_came;",
            )?;
            self.store.remember_frozen()?;
        }
        Ok(())
    }

    /// Takes one row of the bundle.
    pub(crate) fn row(&mut self, r: StagedRow) -> Result<(), Error> {
        let r = self.unrounded(r)?;
        let t = self.store.managed[r.position].id;
        if self.own {
            return self.own_row(r, t);
        }
        let known = self.store.known(t, &r.k)?;
        if known.version() >= r.version {
            return Ok(());
        }
        if self.any_dirty
            && let Some(dirty) = self.store.dirty(t, &r.k)?
        {
            return self.meet(r, known, &dirty);
        }
        self.note_undone_delete(&r, known)?;
        self.write_or_defer(r, known)
    }

    pub(crate) fn write_or_defer(&mut self, r: StagedRow, known: Known) -> Result<(), Error> {
        let before = self.before(r.position, &r.k)?;
        self.note_move(&r, known)?;
        match self.write(&r, known)? {
            Written::Yes => {
                self.written(before)?;
                self.done(&r)
            }
            Written::Blocked if mutant::on(Mutant::OnePass) => Err(Error::Damaged("UNIQUE constraint failed".into())),
            Written::Blocked => {
                self.blocked.push(r);
                Ok(())
            }
            Written::Refused(why) => self.set_aside(&r, Why::Rule, &why),
            Written::Referred(table) => self.set_aside(&r, Why::Local, &table),
        }
    }

    /// Writes a remote row in place, and its version.
    pub(crate) fn write(&self, r: &StagedRow, known: Known) -> Result<Written, Error> {
        let (m, conn) = (&self.store.managed[r.position], &self.store.conn);
        let key = Key::from_stored(r.k.clone()).unpack()?;
        if !self.given_up.is_empty() {
            let table = self.store.table(r.position);
            if self.given_up.contains(&(table.name.clone(), key_json(table, &key))) {
                return Ok(Written::Refused(NO_END.into()));
            }
        }
        if let Some(table) = self.held_by_local(r, &key)? {
            return Ok(Written::Referred(table));
        }
        let written = match &r.row {
            None => {
                self.keep.remember(self.store, r.position, &r.k, &key)?;
                self.store.bounded(r.position, &key, 0, || m.sql.delete(conn, &key).map(|_| ()))?
            }
            Some(stored) => {
                let row = fit(record::decode(stored)?, self.store.table(r.position));
                self.store.bounded(r.position, &key, stored.len() as u64, || {
                    let updated = match known {
                        Known::Live(_) => m.sql.update_partial(conn, &key, &row)?,
                        _ => 0,
                    };
                    if updated > 0 {
                        return Ok(());
                    }
                    match m.sql.insert_partial(conn, &row) {
                        Err(e) if is_unique(&e) && m.sql.exists(conn, &key)? => {
                            m.sql.update_partial(conn, &key, &row).map(|_| ())
                        }
                        other => other.map(|_| ()),
                    }
                })?
            }
        };
        match written {
            Ok(()) => {
                self.store.set_known(m.id, &r.k, version_of(r))?;
                Ok(Written::Yes)
            }
            Err(e) if is_unique(&e) => Ok(Written::Blocked),
            Err(e) if is_too_long(&e) => Ok(Written::Refused(TOO_LONG.into())),
            Err(e) if is_constraint(&e) => Ok(Written::Refused(e.to_string())),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) fn done(&mut self, r: &StagedRow) -> Result<(), Error> {
        if !self.own {
            self.outcome.applied += 1;
        }
        self.changed(r.position, &r.k, r.row.is_none());
        self.came(r)
    }

    /// A row came, and stands in the file as it came: what is tied to it may have to be settled.
    pub(crate) fn came(&mut self, r: &StagedRow) -> Result<(), Error> {
        self.touched.insert(r.position);
        if let Some(w) = &mut self.watch {
            w.touch(self.store.managed[r.position].id, &r.k, self.own.then_some(r.op));
        }
        self.lowest = self.lowest.min(r.version);
        if self.aside.any {
            self.came_beside_absent(r)?;
        }
        match &r.row {
            None => {
                self.went.insert(r.position);
            }
            Some(row) if self.any_dirty => self.note_missing_parents(r, row)?,
            Some(_) => {}
        }
        if self.on_its_way && r.row.is_some() { self.note_leaving(r) } else { Ok(()) }
    }

    /// The unsynced table whose rows do not let a remote row be written, where there is one.
    fn held_by_local(&self, r: &StagedRow, key: &[Value]) -> Result<Option<String>, Error> {
        if self.store.locals.targets.is_empty() {
            return Ok(None);
        }
        let row = r.row.as_deref().map(record::decode).transpose()?.map(|row| fit(row, self.store.table(r.position)));
        self.store.held_by_local(r.position, key, row.as_ref())
    }

    /// A row of the file was written, or is gone: the app is told.
    pub(crate) fn changed(&mut self, position: usize, k: &[u8], gone: bool) {
        self.changes.note(position, k, gone);
    }

    /// Rows that were blocked get another chance, then their blockers give way.
    pub(crate) fn end_bundle(&mut self) -> Result<(), Error> {
        self.unblocking = true;
        while !self.blocked.is_empty() {
            let before = self.blocked.len();
            for r in std::mem::take(&mut self.blocked) {
                let known = self.store.known(self.store.managed[r.position].id, &r.k)?;
                self.write_or_defer(r, known)?;
            }
            // A pass costs as much where it frees one row as where it frees them all.
            if before - self.blocked.len() < before.div_ceil(8) {
                self.unblock()?;
            }
        }
        self.unblocking = false;
        if self.own {
            self.own_rows_gone()?;
        }
        self.settle_kept()
    }

    /// Blocked rows wait for one another: local intents in the way leave the table; what is left are rings and long
    /// lines of UNIQUE values (S4), which are taken out and put in again.
    fn unblock(&mut self) -> Result<(), Error> {
        let mut moved = false;
        let mut blocked = Vec::new();
        for r in std::mem::take(&mut self.blocked) {
            match self.kept_in_its_way(&r)? {
                Some(table) => self.set_aside(&r, Why::Local, &table)?,
                None => blocked.push(r),
            }
        }
        for r in &blocked {
            for (k, key) in self.blockers(r)? {
                if self.any_dirty && self.store.dirty(self.store.managed[r.position].id, &k)?.is_some() {
                    let table = self.store.table(r.position);
                    let server = r.row.as_deref().map(record::decode).transpose()?.map(|row| full(fit(row, table)));
                    self.displace(r.position, &key, "unique", UNIQUE_TAKEN, server.as_deref())?;
                    moved = true;
                }
            }
        }
        if !moved && !self.evict(&blocked)? {
            return self.put_in_again(blocked);
        }
        self.blocked.extend(blocked);
        Ok(())
    }

    /// The unsynced table whose rows refer to a local row that holds a UNIQUE value of a blocked one, and cannot leave.
    fn kept_in_its_way(&self, r: &StagedRow) -> Result<Option<String>, Error> {
        if self.store.locals.targets.is_empty() || !self.any_dirty {
            return Ok(None);
        }
        for (k, key) in self.blockers(r)? {
            if self.store.dirty(self.store.managed[r.position].id, &k)?.is_some()
                && let Some(table) = self.store.kept_by_local(r.position, &key)?
            {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }

    /// The other rows that hold a UNIQUE value of this one.
    pub(crate) fn blockers(&self, r: &StagedRow) -> Result<Vec<StoredAndTyped>, Error> {
        let table = self.store.table(r.position);
        let Some(stored) = &r.row else { return Ok(Vec::new()) };
        let row = fit(record::decode(stored)?, table);
        let mut out = Vec::new();
        for u in &table.uniques {
            let values: Option<Vec<Value>> = u.columns.iter().map(|i| row[*i].clone()).collect();
            let Some(values) = values.filter(|v| v.iter().all(|v| !v.is_null())) else { continue };
            for k in self.store.holders(r.position, u, &values)? {
                if k != r.k {
                    let key = Key::from_stored(k.clone()).unpack()?;
                    out.push((k, key));
                }
            }
        }
        Ok(out)
    }

    /// The app is told, at the end, which rows were written.
    pub(crate) fn tell_changes(&mut self) -> Result<(), Error> {
        self.outcome.events.extend(std::mem::take(&mut self.changes).events(self.store)?);
        Ok(())
    }

    /// Stores an inbox entry and tells of it.
    pub(crate) fn record(&mut self, e: &Entry<'_>) -> Result<(), Error> {
        e.store(&self.store.conn)?;
        self.outcome.events.push(Event::Inbox {
            kind: e.kind.into(),
            table: e.table.name.clone(),
            key: key_json(e.table, e.key),
            message: e.message.into(),
        });
        Ok(())
    }
}

/// A key in both of its forms.
type StoredAndTyped = (Vec<u8>, Vec<Value>);

/// What a remote row makes known.
pub(crate) const fn version_of(r: &StagedRow) -> Known {
    match r.op {
        Op::Delete => Known::Gone(r.version),
        Op::Insert | Op::Update => Known::Live(r.version),
    }
}

/// A record under the columns of today: columns added since are absent.
pub(crate) fn fit(mut row: Record, table: &Table) -> Record {
    row.resize(table.columns.len(), None);
    row
}

/// A row in which absent columns are NULL.
pub(crate) fn full(row: Record) -> Vec<Value> {
    row.into_iter().map(|v| v.unwrap_or(Value::Null)).collect()
}

pub(crate) fn is_unique(e: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE};
    matches!(e, rusqlite::Error::SqliteFailure(f, _)
        if [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE].contains(&f.extended_code))
}

/// Whether the file's schema does not take a row: also one of which it makes more than a row may come to.
pub(crate) fn is_constraint(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
    matches!(e.sqlite_error_code(), Some(ConstraintViolation | TypeMismatch | TooBig))
}

/// Of a row that was given up.
pub(crate) const NO_END: &str = "what its triggers do with the row does not come to an end; once they are changed or \
                                 dropped here, it comes";

/// Of a row that is short, and comes to more than a device should have to hold.
const TOO_LONG: &str = "what it makes of the row (a generated column, a DEFAULT, an index, a CHECK or a trigger) is too \
                        long; once that is changed here, or the row is, it comes";

#[cfg(test)]
mod tests;
