//! Repairing rows that differ, in one transaction that looks again: the app may have written meanwhile.
//!
//! Nobody knows who is right about a row that changed unseen: a write that no trigger saw, a row that
//! `REPLACE` evicted, a damaged page. So whatever is overwritten is kept whole in `discarded`, and what the
//! file's side wins goes the usual way, under the table's policy.

use std::collections::BTreeMap;

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::Record;
use sync_core::sqlite::NotUtf8;
use sync_core::value::Value;

use super::differ::fitted;
use super::merge::difference;
use super::report::{Kind, Remedy, Repair, VerifyReport};
use super::scratch::{Found, Scratch};
use crate::apply::{Applier, Written, full};
use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::Error;
use crate::inbox::{Entry, key_json};
use crate::report::Event;
use crate::rounding::sharper;
use crate::stage::StagedRow;
use crate::whole::Finished;

/// A row that differs, as both ends have it now.
struct Row {
    key: Vec<Value>,
    known: Known,
    /// The file's: `None` where it has none.
    live: Option<Result<Vec<Value>, NotUtf8>>,
    /// The server's version, stored row, and the same as a record.
    server: Option<(i64, Vec<u8>, Record)>,
}

impl Row {
    /// A missing row that is no deletion: the file was never known to have it.
    const fn never_held(&self) -> bool {
        self.live.is_none() && !matches!(self.known, Known::Live(_))
    }
}

/// How far the repair of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// Nothing was done, or it needs no second look.
    Settled = 0,
    /// The server's row was written, or is about to be.
    Server = 1,
    /// It became a change made here.
    File = 2,
    /// The server's row does not fit yet: another one is in the way.
    Waits = 3,
}

impl Engine {
    /// Repairs what was found.
    pub(super) fn repair(&self, scratch: &Scratch<'_>, way: Repair, report: &mut VerifyReport) -> Result<(), Error> {
        let store = &self.store;
        self.env.fault(FaultPoint::Staged);
        let tx = store.begin()?;
        store.absorb(self.env.now_ms())?;
        let mut applier = Applier::new(store, &self.policies, self.env.now_ms())?;
        applier.begin_bundle("", false)?;
        let mut said = Said::new(report);
        scratch.each_found(|f, _| {
            let (tried, remedy) = self.first_try(&mut applier, scratch, &f, way, said.report.bundle_seq)?;
            scratch.set_tried(&f, tried as i64)?;
            if tried == Tried::Settled {
                said.say(self, &f, remedy)?;
            }
            Ok(())
        })?;
        self.try_again(&mut applier, scratch, said.report.bundle_seq)?;
        applier.end_bundle()?;
        let Finished::Whole(whole) = applier.finish(tx)? else {
            return self.repair_by_rebuild(scratch, way, said.report);
        };
        // What was written may have had to leave again.
        scratch.each_found(|f, tried| {
            let remedy = match tried {
                t if t == Tried::Server as i64 && self.is_alike(scratch, &f)? => Remedy::FromServer,
                t if t == Tried::Server as i64 || t == Tried::Waits as i64 => Remedy::Refused,
                t if t == Tried::File as i64 => Remedy::FromFile,
                _ => return Ok(()),
            };
            if remedy != Remedy::Refused {
                store.put_repaired(store.managed[f.position].id, &f.k, way, said.report.bundle_seq)?;
            }
            said.say(self, &f, remedy)
        })?;
        self.env.fault(FaultPoint::Repairing);
        let outcome = whole.commit()?;
        self.tell(&Event::Applied { rows: outcome.applied, checkpoint: report.bundle_seq });
        outcome.events.iter().for_each(|e| self.tell(e));
        Ok(())
    }

    /// The server's rows would not leave every reference whole, since nobody here knows what the server has of another
    /// one. Those that are to be overwritten are kept, and called unknown: the rebuild that follows brings them, and
    /// whatever else they need.
    fn repair_by_rebuild(&self, scratch: &Scratch<'_>, way: Repair, report: &mut VerifyReport) -> Result<(), Error> {
        let store = &self.store;
        let tx = store.begin()?;
        store.absorb(self.env.now_ms())?;
        let mut said = Said::new(report);
        scratch.each_found(|f, _| {
            let t = store.managed[f.position].id;
            let row = self.row(scratch, &f)?;
            let remedy = match self.spared(scratch, &f, way, said.report.bundle_seq)? {
                Some(remedy) => remedy,
                None if way == Repair::FromFile && !row.never_held() => {
                    self.take_file(&f, &row)?;
                    Remedy::FromFile
                }
                None if matches!(row.live, Some(Err(_))) => Remedy::Refused,
                None => {
                    if let Some(entry) = self.overwritten(&f, &row, full_server(&row).as_deref()) {
                        entry.store(&store.conn)?;
                    }
                    store.fetch_again(t, &f.k)?;
                    Remedy::FromServer
                }
            };
            if matches!(remedy, Remedy::FromServer | Remedy::FromFile) {
                store.put_repaired(t, &f.k, way, said.report.bundle_seq)?;
            }
            said.say(self, &f, remedy)
        })?;
        self.env.fault(FaultPoint::Repairing);
        Ok(tx.commit()?)
    }

    /// Why a row is not touched, where it is not.
    fn spared(&self, scratch: &Scratch<'_>, f: &Found, way: Repair, seq: i64) -> Result<Option<Remedy>, Error> {
        let (store, t) = (&self.store, self.store.managed[f.position].id);
        // In flight when it was compared, or changed by the app since.
        if scratch.is_left_out(f.position, &f.k)? || store.is_unsettled(t, &f.k, seq)? || self.is_alike(scratch, f)? {
            return Ok(Some(Remedy::Overtaken));
        }
        Ok((store.repaired(t, &f.k)? == Some(way.stored())).then_some(Remedy::Again))
    }

    fn first_try(
        &self,
        applier: &mut Applier<'_>,
        scratch: &Scratch<'_>,
        f: &Found,
        way: Repair,
        seq: i64,
    ) -> Result<(Tried, Remedy), Error> {
        if let Some(remedy) = self.spared(scratch, f, way, seq)? {
            return Ok((Tried::Settled, remedy));
        }
        let row = self.row(scratch, f)?;
        if way == Repair::FromFile && !row.never_held() {
            self.take_file(f, &row)?;
            return Ok((Tried::File, Remedy::FromFile));
        }
        if matches!(row.live, Some(Err(_))) {
            // It could not be kept whole anywhere else.
            return Ok((Tried::Settled, Remedy::Refused));
        }
        let tried = if self.write_server(applier, f, &row, seq)? { Tried::Server } else { Tried::Waits };
        Ok((tried, Remedy::FromServer))
    }

    /// Rows that were blocked, until no more of them fit. Then local changes in their way leave the table, and
    /// rings of UNIQUE values are put in anew. What another row holds from them for good stays as it is.
    fn try_again(&self, applier: &mut Applier<'_>, scratch: &Scratch<'_>, seq: i64) -> Result<(), Error> {
        loop {
            let mut more = false;
            scratch.each_found(|f, tried| {
                if tried == Tried::Waits as i64 && self.write_server(applier, &f, &self.row(scratch, &f)?, seq)? {
                    more = true;
                    scratch.set_tried(&f, Tried::Server as i64)?;
                }
                Ok(())
            })?;
            if !more {
                break;
            }
        }
        let mut give_way = Vec::new();
        scratch.each_found(|f, tried| {
            if tried != Tried::Waits as i64 {
                return Ok(());
            }
            let row = self.row(scratch, &f)?;
            let Some(r) = staged(&f, &row) else { return Ok(()) };
            let blockers = applier.blockers(&r)?;
            let mut all = !blockers.is_empty();
            for (k, _) in blockers {
                all &= self.store.dirty(self.store.managed[f.position].id, &k)?.is_some()
                    || scratch.tried(f.position, &k)? == Some(Tried::Waits as i64);
            }
            if all {
                give_way.push((f, row, r));
            }
            Ok(())
        })?;
        for (f, row, r) in give_way {
            scratch.set_tried(&f, Tried::Server as i64)?;
            self.discard(applier, &f, &row)?;
            applier.write_or_defer(r, presence(&row))?;
        }
        Ok(())
    }

    fn row(&self, scratch: &Scratch<'_>, f: &Found) -> Result<Row, Error> {
        let (store, m) = (&self.store, &self.store.managed[f.position]);
        let key = Key::from_stored(f.k.clone()).unpack()?;
        let live = m.sql.read(&store.conn, &key)?;
        let server = match scratch.server_row(f)? {
            Some((version, stored)) => {
                let row = fitted(store, f.position, &stored)?;
                Some((version, stored, row))
            }
            None => None,
        };
        Ok(Row { key, known: store.known(m.id, &f.k)?, live, server })
    }

    /// Writes the server's row, or its absence. False where this file cannot take it as things are.
    fn write_server(&self, applier: &mut Applier<'_>, f: &Found, row: &Row, seq: i64) -> Result<bool, Error> {
        let store = &self.store;
        let r = staged(f, row).unwrap_or_else(|| StagedRow {
            position: f.position,
            k: f.k.clone(),
            op: Op::Delete,
            version: seq,
            row: None,
        });
        if !matches!(applier.write(&r, presence(row))?, Written::Yes) {
            return Ok(false);
        }
        applier.done(&r)?;
        self.discard(applier, f, row)?;
        if row.server.is_none() {
            applier.missing.insert((f.position, f.k.clone()));
            // The tombstone's own version is not known, where there is one: the server names it if it matters.
            store.set_known(store.managed[f.position].id, &f.k, Known::Never)?;
        }
        Ok(true)
    }

    /// Keeps what the file had, in the transaction that overwrites it.
    fn discard(&self, applier: &mut Applier<'_>, f: &Found, row: &Row) -> Result<(), Error> {
        let theirs = full_server(row);
        let Some(entry) = self.overwritten(f, row, theirs.as_deref()) else { return Ok(()) };
        // Of very many entries not each is told: events are held in memory until the end.
        if applier.outcome.events.len() < ENTRIES_TOLD { applier.record(&entry) } else { entry.store(&self.store.conn) }
    }

    /// What is kept of a row that is overwritten, where there is anything.
    fn overwritten<'e>(&'e self, f: &Found, row: &'e Row, theirs: Option<&'e [Value]>) -> Option<Entry<'e>> {
        if row.never_held() {
            return None;
        }
        Some(Entry {
            kind: "discarded",
            at: self.env.now_ms(),
            table: self.store.table(f.position),
            key: &row.key,
            op: match f.kind {
                Kind::Missing => "DELETE",
                Kind::Extra => "INSERT",
                Kind::Different => "UPDATE",
            },
            reason: "verify",
            message: "this row differed from the server's, unseen by sync; the repair took the server's",
            local: row.live.as_ref().and_then(|l| l.as_deref().ok()),
            base: None,
            server: theirs,
        })
    }

    /// What the file has, or lacks, becomes a change made here.
    fn take_file(&self, f: &Found, row: &Row) -> Result<(), Error> {
        let store = &self.store;
        let t = store.managed[f.position].id;
        // A number that only came rounded says nothing against the server's exact one.
        if let (Some(Ok(live)), Some((_, _, theirs)), false) = (&row.live, &row.server, self.api.is_ours())
            && let Some(sharper) = sharper(live, theirs)
        {
            store.managed[f.position].sql.update_partial(&store.conn, &row.key, &sharper)?;
        }
        let base = match &row.server {
            // The row that this file was known to have: pushed on top of it.
            Some((version, _, base)) if row.known == Known::Live(*version) => Some(base),
            // Somebody else has changed it since: the server will refuse it, and the policy settles it.
            Some(_) => None,
            None => {
                if let Known::Live(_) = row.known {
                    store.set_known(t, &f.k, Known::Never)?;
                }
                None
            }
        };
        store.put_dirty(t, &f.k, self.env.now_ms(), base)
    }

    fn is_alike(&self, scratch: &Scratch<'_>, f: &Found) -> Result<bool, Error> {
        let store = &self.store;
        let key = Key::from_stored(f.k.clone()).unpack()?;
        let mine = store.managed[f.position].sql.read(&store.conn, &key)?;
        let mine = mine.map(|row| row.map(|row| row.into_iter().map(Some).collect::<Record>()));
        let theirs = match scratch.server_row(f)? {
            Some((_, stored)) => Some(Ok(fitted(store, f.position, &stored)?)),
            None => None,
        };
        Ok(difference(store.table(f.position), mine.as_ref(), theirs.as_ref(), self.api.is_ours()).is_none())
    }
}

/// Entries of the inbox that are told one by one.
const ENTRIES_TOLD: usize = 1000;

/// What the comparison says of each row, as it turns out.
struct Said<'a> {
    report: &'a mut VerifyReport,
    named: BTreeMap<(String, String), usize>,
}

impl<'a> Said<'a> {
    fn new(report: &'a mut VerifyReport) -> Self {
        let named = report.differences.iter().enumerate().map(|(i, d)| ((d.table.clone(), d.key.clone()), i)).collect();
        Self { report, named }
    }

    fn say(&mut self, engine: &Engine, f: &Found, remedy: Remedy) -> Result<(), Error> {
        let table = engine.store.table(f.position);
        let key = key_json(table, &Key::from_stored(f.k.clone()).unpack()?);
        if let Some(i) = self.named.get(&(table.name.clone(), key)) {
            self.report.differences[*i].remedy = remedy;
        }
        match remedy {
            Remedy::FromServer | Remedy::FromFile => self.report.repaired_rows += 1,
            Remedy::Overtaken => {
                self.report.differing_rows -= 1;
                self.report.left_out_rows += 1;
            }
            Remedy::None | Remedy::Again | Remedy::Refused => {}
        }
        Ok(())
    }
}

/// The server's row, where it has one.
fn staged(f: &Found, row: &Row) -> Option<StagedRow> {
    let (version, stored, _) = row.server.as_ref()?;
    let op = if row.live.is_some() { Op::Update } else { Op::Insert };
    Some(StagedRow { position: f.position, k: f.k.clone(), op, version: *version, row: Some(stored.clone()) })
}

/// The server's row, what it does not mention as NULL.
fn full_server(row: &Row) -> Option<Vec<Value>> {
    row.server.as_ref().map(|(_, _, r)| full(r.clone()))
}

/// What a write of the server's row will find.
const fn presence(row: &Row) -> Known {
    if row.live.is_some() { Known::Live(row.known.version()) } else { Known::Never }
}
