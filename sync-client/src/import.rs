//! Taking up another device's pending work: a bundle in doubt is settled under its own tuple, so that it is
//! committed once; the rest become intents of this file, settled against what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sync_core::engine::change::{Change, Known, derive};
use sync_core::key::Key;
use sync_core::protocol::push::{CreatePushReply, CreatePushRequest};
use sync_core::protocol::{Code, Op};
use sync_core::record::{self, Record};
use sync_core::value::Value;

use crate::apply::{Applier, fit, full, is_constraint, is_unique};
use crate::asking::{Answers, Attempt};
use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::Error;
use crate::export::{Export, ExportedRow, Sent};
use crate::inbox::Entry;
use crate::lineage::Lineage;
use crate::report::{PullReport, PushReport};
use crate::settle::{is_new, op_of};
use crate::stage::StagedRow;
use crate::store::{Dirty, Meta};
use crate::whole::{Finished, NOT_WHOLE};

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Rows that are changes of this file now, and go with the next push.
    pub rows: u64,
    /// Rows that met another change, or do not fit here; `discarded`, `conflicts` and `rejected` tell of them.
    pub conflicts: u64,
    /// Refused rows that wait in `rejected` here now.
    pub refused_rows: u64,
    /// Rows that turned out to be on the server already, though the other device never heard so.
    pub committed_rows: u64,
    /// The export had been imported into this file before: nothing was done.
    pub already: bool,
}

/// An imported row under this file's columns.
struct Incoming {
    position: usize,
    key: Vec<Value>,
    row: ExportedRow,
}

impl Engine {
    pub(crate) fn import(&mut self, path: &Path) -> Result<Imported, Error> {
        let export = Export::open(path)?;
        let (mut push, mut pull) = (PushReport::default(), PullReport::default());
        self.connected(&mut pull)?;
        // A file that never met a server has work of no account yet.
        let elsewhere = export.head.scope_id.is_some() || export.head.sent.is_some();
        if elsewhere && export.head.scope_id != Meta::ScopeId.get::<String>(&self.store.conn)? {
            return Err(Error::Argument(
                "this export is of another account than the file: nothing was imported or sent".into(),
            ));
        }
        if self.imported()?.contains(&export.head.id) {
            return Ok(Imported { already: true, ..Imported::default() });
        }
        let columns = self.columns_here(&export)?;
        self.settle_doubt(&mut push, &mut pull)?;
        self.pull_part(&mut pull)?;
        let committed = match &export.head.sent {
            Some(sent) => self.had_committed(sent)?,
            None => false,
        };
        if committed {
            self.pull_part(&mut pull)?;
        }
        for unfit in [Unfit::Undo, Unfit::Displace] {
            // What is half uploaded is changes of this file, which imported ones have to meet.
            self.thaw()?;
            let versions_count = self.versions_count(&export)?;
            let done = self.asking(|a| self.take_up(&export, committed, versions_count, &columns, unfit, a))?;
            if let Some(imported) = done {
                return Ok(imported);
            }
            Meta::Rebuild.set(&self.store.conn, NOT_WHOLE)?;
            self.pull_part(&mut pull)?;
        }
        Err(Error::Damaged("import".into()))
    }

    /// Whether the versions in an export are of the history that the server has now. Where it cannot be asked, they
    /// are taken to be.
    fn versions_count(&self, export: &Export) -> Result<bool, Error> {
        let (seq, hash) = (export.head.checkpoint, export.head.history_hash.clone());
        if seq == 0 || !self.api.is_ours() {
            return Ok(true);
        }
        Ok(self.lineage_at(&self.source_id()?, seq, hash)? == Lineage::Same)
    }

    /// Settles a tuple of another source: whether its bundle is history. Where it is not, no late request
    /// can make it so: its session is gone.
    fn had_committed(&self, sent: &Sent) -> Result<bool, Error> {
        let request = CreatePushRequest {
            source_bundle_id: sent.source_bundle_id,
            planned_row_count: sent.rows,
            initialization_id: None,
            request_hash: self.api.is_ours().then(|| sent.request_hash.hex()),
            ..CreatePushRequest::default()
        };
        for _ in 0..TRIES {
            match self.api.create_push(&sent.source_id, &request) {
                Ok(reply) if reply.status == CreatePushReply::ALREADY_COMMITTED => {
                    let hash = reply.committed.and_then(|c| c.request_hash);
                    return Ok(hash.is_none_or(|h| h == sent.request_hash.hex()));
                }
                Ok(reply) => {
                    let id = reply.push_id.ok_or_else(|| Error::Protocol("the reply lacks the push session".into()))?;
                    if self.api.delete_push(&sent.source_id, &id)? {
                        return Ok(false);
                    }
                }
                Err(e) => match e.code() {
                    // It was sent, and its bundle is no longer kept.
                    Some(Code::HistoryPruned) => return Ok(true),
                    Some(Code::SourceSequenceOutOfOrder | Code::SourceRetired) => return Ok(false),
                    _ => return Err(e.into()),
                },
            }
        }
        Err(Error::Protocol("a push session could not be ended".into()))
    }

    /// Where each column of the export stands here, by the export's tables. What this file lacks would be
    /// lost.
    fn columns_here(&self, export: &Export) -> Result<BTreeMap<i64, (usize, Vec<usize>)>, Error> {
        let mut out = BTreeMap::new();
        for (t, (name, columns)) in &export.tables {
            let lacks = |what: String| {
                Error::Argument(format!("this file does not have {what}, which the export has; update the app first"))
            };
            let position =
                self.store.schema().position(name).ok_or_else(|| lacks(format!("the synced table {name}")))?;
            let at = columns.iter().map(|c| {
                self.store.table(position).column(c).ok_or_else(|| lacks(format!("the column {c} of table {name}")))
            });
            out.insert(*t, (position, at.collect::<Result<_, _>>()?));
        }
        Ok(out)
    }

    fn imported(&self) -> Result<BTreeSet<String>, Error> {
        let stored: Option<String> = Meta::Imported.get(&self.store.conn)?;
        stored.map_or(Ok(BTreeSet::new()), |s| serde_json::from_str(&s).map_err(|_| Error::Damaged("imported".into())))
    }

    /// `None` where references would be broken until a rebuild, and nothing was done.
    fn take_up(
        &self,
        export: &Export,
        committed: bool,
        versions_count: bool,
        columns: &BTreeMap<i64, (usize, Vec<usize>)>,
        unfit: Unfit,
        answers: &Answers,
    ) -> Result<Attempt<Option<Imported>>, Error> {
        let store = &self.store;
        let tx = store.begin()?;
        store.absorb(self.env.now_ms())?;
        let mut incoming = Vec::new();
        export.each(!committed, |mut row| {
            let Some((position, at)) = columns.get(&row.t) else { return Ok(()) };
            let width = store.table(*position).columns.len();
            let here = |r: Record| {
                let mut out: Record = vec![None; width];
                for (v, i) in r.into_iter().zip(at) {
                    out[*i] = v;
                }
                out
            };
            row.row = row.row.map(here);
            row.base = row.base.map(here);
            let key = Key::from_stored(row.k.clone()).unpack()?;
            incoming.push(Incoming { position: *position, key, row });
            Ok(())
        })?;
        let mut applier = Applier::new(store, &self.policies, self.env.now_ms())?;
        applier.answers = Some(answers);
        applier.any_dirty = true;
        applier.begin_bundle("", false)?;
        let one_history = versions_count && (export.head.checkpoint > 0 || export.head.scope_id.is_none());
        applier.take_up(incoming, Versions { count: versions_count, one_history })?;
        if let Some(asks) = applier.asks() {
            return Ok(asks);
        }
        let whole = match unfit {
            Unfit::Undo => match applier.finish(tx)? {
                Finished::Whole(whole) => whole,
                Finished::Undone => return Ok(Attempt::Undone(None)),
            },
            Unfit::Displace => applier.finish_displacing(tx)?,
        };
        let refused_rows = export.copy_refused(&store.conn)?;
        let mut ids = self.imported()?;
        ids.insert(export.head.id.clone());
        Meta::Imported.set(&store.conn, serde_json::to_string(&ids).map_err(|e| Error::Damaged(e.to_string()))?)?;
        self.env.fault(FaultPoint::Importing);
        let outcome = whole.commit()?;
        outcome.events.iter().for_each(|e| self.tell(e));
        let committed_rows = match &export.head.sent {
            Some(sent) if committed => sent.rows.unsigned_abs(),
            _ => 0,
        };
        Ok(Attempt::Kept(Some(Imported {
            rows: outcome.applied,
            conflicts: outcome.conflicts,
            refused_rows,
            committed_rows,
            already: false,
        })))
    }
}

/// What becomes of a changed row of this file that would refer to one which only a rebuild can bring.
#[derive(Debug, Clone, Copy)]
enum Unfit {
    /// Nothing is taken up before that rebuild.
    Undo,
    /// It leaves for the inbox: the rebuild was in vain.
    Displace,
}

/// A change of this file that steps aside while an imported row gets another number.
struct Edit {
    position: usize,
    key: Vec<Value>,
    k: Vec<u8>,
    row: Record,
    dirty: Dirty,
}

/// What the exporting file knew of the server's rows.
#[derive(Debug, Clone, Copy)]
struct Versions {
    /// Whether its versions are of the history that the server has now.
    count: bool,
    /// Whether it was of no other history, as far as it can be known: one of this account that had pulled nothing may
    /// have met a server without its data.
    one_history: bool,
}

impl Applier<'_> {
    /// Makes another device's intents this file's.
    fn take_up(&mut self, mut incoming: Vec<Incoming>, versions: Versions) -> Result<(), Error> {
        let order: BTreeMap<usize, usize> =
            self.store.schema().parents_first().iter().enumerate().map(|(n, p)| (*p, n)).collect();
        incoming.sort_by_key(|i| (order[&i.position], i.row.k.clone()));
        let (mut left, mut edits) = (Vec::with_capacity(incoming.len()), Vec::new());
        for i in incoming {
            if self.own_change_gives_way(&i, &mut edits)? {
                left.push(i);
            }
        }
        self.imported = Some(BTreeSet::new());
        let mut clashes = Vec::new();
        for i in &left {
            self.write_incoming(i, versions, &mut clashes)?;
        }
        for (r, known) in clashes {
            let t = self.store.managed[r.position].id;
            let Some(dirty) = self.store.dirty(t, &r.k)? else { continue };
            let (k, never) = (r.k.clone(), r.version == 0);
            self.meet_now(r, known, &dirty)?;
            if never {
                self.store.set_known(t, &k, Known::Never)?;
            }
        }
        self.end_bundle()?;
        // Rows that were written back are not imported ones.
        self.outcome.applied = 0;
        for (t, k) in self.imported.clone().unwrap_or_default() {
            let Some(position) = self.store.position(t).filter(|_| self.store.dirty(t, &k).is_ok_and(|d| d.is_some()))
            else {
                continue;
            };
            let key = Key::from_stored(k).unpack()?;
            let (m, table) = (&self.store.managed[position], self.store.table(position));
            match m.sql.read(&self.store.conn, &key)? {
                Some(Ok(row)) if !self.parents_exist(table, &row)? => {
                    let message = "the row that this one refers to is neither here nor on the server";
                    self.displace(position, &key, "parent_deleted", message, None)?;
                }
                None if self.keep_referred_to(position, &key)? => {}
                _ => self.outcome.applied += 1,
            }
        }
        edits.into_iter().try_for_each(|edit| self.edit_again(edit))
    }

    /// An imported delete of a row that rows of this file refer to is not taken. Whether it was so.
    fn keep_referred_to(&mut self, position: usize, key: &[Value]) -> Result<bool, Error> {
        let (store, table) = (self.store, self.store.table(position));
        let k = Key::pack(key)?.as_bytes().to_vec();
        let Some(base) = store.dirty(store.managed[position].id, &k)?.and_then(|d| d.base) else { return Ok(false) };
        let row = full(base);
        for (child, fk) in store.schema().references_to(position) {
            if !self.store.children(child, fk, table, &row)?.is_empty() {
                let message = "this row was deleted on the other device, but rows of this file refer to it: it stays";
                self.undo_delete(position, &k, key, Some(&row), message)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// This device's own change of the same row stays, and the imported one is kept in the inbox; of a number
    /// that both minted, this device's row takes another. True where the imported row can be written.
    fn own_change_gives_way(&mut self, i: &Incoming, edits: &mut Vec<Edit>) -> Result<bool, Error> {
        let (store, m) = (self.store, &self.store.managed[i.position]);
        let Some(dirty) = store.dirty(m.id, &i.row.k)? else { return Ok(true) };
        let live = match m.sql.read(&store.conn, &i.key)? {
            Some(Ok(row)) => Some(row),
            Some(Err(_)) => return Ok(false),
            None => None,
        };
        if same(live.as_deref(), i.row.row.as_ref()) {
            return Ok(false);
        }
        // The other device's change stands on just what is here, whoever wrote that.
        if let (Some(live), Some(base), Some(_)) = (&live, &i.row.base, &i.row.row)
            && base.iter().all(Option::is_some)
            && record::agrees(live, base)
        {
            return Ok(true);
        }
        // What is noted may mean nothing: set back by the app, or on its way when the file was detached.
        let here = store.known(m.id, &i.row.k)?;
        if derive(live.as_deref(), here, dirty.base.as_ref()) == Change::Nothing {
            store.drop_dirty(m.id, &i.row.k)?;
            return Ok(true);
        }
        let incoming = Dirty { since: i.row.since, base: i.row.base.clone(), held: None };
        let both_new = is_new(i.row.known, &incoming) && is_new(here, &dirty);
        if let Some(row) = live.as_deref().filter(|_| both_new && i.row.row.is_some())
            && let Some((position, key)) = self.minted(i.position, &i.key, row)?
        {
            self.rekey(position, &key)?;
            return Ok(true);
        }
        if live.is_none() && both_new {
            return Ok(true);
        }
        // A number that the server has for this file's row, and the other device for another one: that takes another, as
        // if nothing had changed here; then the edit is made again.
        if let (Some(row), Some(edited), Some(base)) = (&i.row.row, &live, &dirty.base)
            && is_new(i.row.known, &incoming)
            && matches!(here, Known::Live(v) if v > 0)
            && self.minted(i.position, &i.key, &full(row.clone()))?.is_some_and(|(p, k)| p == i.position && k == i.key)
        {
            match m.sql.update_partial(&store.conn, &i.key, base) {
                Ok(_) => {
                    let row = edited.iter().cloned().map(Some).collect();
                    store.drop_dirty(m.id, &i.row.k)?;
                    edits.push(Edit { position: i.position, key: i.key.clone(), k: i.row.k.clone(), row, dirty });
                    return Ok(true);
                }
                Err(e) if is_constraint(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let message = "this file has a change of its own of this row: the imported one was not taken";
        self.not_taken(i, "discarded", "import", message, live.as_deref())?;
        Ok(false)
    }

    /// Makes a change of this file again that stepped aside.
    fn edit_again(&mut self, edit: Edit) -> Result<(), Error> {
        let Edit { position, key, k, row, dirty } = edit;
        let (store, m) = (self.store, &self.store.managed[position]);
        match m.sql.update_partial(&store.conn, &key, &row) {
            Ok(_) => store.put_dirty(m.id, &k, dirty.since, dirty.base.as_ref()),
            Err(e) if is_constraint(&e) => {
                self.outcome.conflicts += 1;
                self.changed(position, &k, false);
                self.record(&Entry {
                    kind: "discarded",
                    at: self.now,
                    table: store.table(position),
                    key: &key,
                    op: "UPDATE",
                    reason: "import",
                    message: "the imported rows leave no room for this file's change of this row",
                    local: Some(&full(row)),
                    base: dirty.base.as_ref(),
                    server: None,
                })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Writes an imported row over this file's, as if the app had. Where the two do not stand on the same
    /// row of the server, they clash, and are settled once all are here.
    fn write_incoming(
        &mut self,
        i: &Incoming,
        versions: Versions,
        clashes: &mut Vec<(StagedRow, Known)>,
    ) -> Result<(), Error> {
        let (store, m, conn) = (self.store, &self.store.managed[i.position], &self.store.conn);
        let live = match m.sql.read(conn, &i.key)? {
            Some(Ok(row)) => Some(row),
            Some(Err(_)) => return Ok(()),
            None => None,
        };
        if same(live.as_deref(), i.row.row.as_ref()) {
            return Ok(());
        }
        if let Some(local) = store.held_by_local(i.position, &i.key, i.row.row.as_ref())? {
            let message = format!("rows of {local}, which is not synced, refer to this file's row: it stays as it is");
            return self.not_taken(i, "discarded", "still_referred_to", &message, live.as_deref());
        }
        let here = store.known(m.id, &i.row.k)?;
        let own = store.dirty(m.id, &i.row.k)?.filter(|_| live.is_some());
        let unchanged = match (&live, &i.row.base) {
            // Versions may fit by chance where the server's history is another one by now; rows do not.
            (Some(live), Some(base)) => same(Some(live), Some(base)),
            _ if here == i.row.known => match here {
                Known::Live(v) => v > 0 && versions.count,
                Known::Never | Known::Gone(_) => true,
            },
            // A tombstone that the other device never saw, or saw before.
            (None, _) => i.row.row.is_some() && !matches!(i.row.known, Known::Live(_)),
            _ => false,
        };
        let written = match (&i.row.row, &live) {
            (Some(row), Some(_)) => m.sql.update_partial(conn, &i.key, row),
            (Some(row), None) => m.sql.insert_partial(conn, row),
            (None, _) => m.sql.delete(conn, &i.key),
        };
        match written {
            Ok(_) => {}
            Err(e) if is_unique(&e) || is_constraint(&e) => {
                let reason = if is_unique(&e) { "unique" } else { "constraint" };
                let message = "this file's rows leave no room for the imported one";
                return self.not_taken(i, "rejected", reason, message, live.as_deref());
            }
            Err(e) => return Err(e.into()),
        }
        self.changed(i.position, &i.row.k, i.row.row.is_none());
        if let Some(imported) = &mut self.imported {
            imported.insert((m.id, i.row.k.clone()));
        }
        if let (Some(row), None, Known::Gone(_), false) = (&i.row.row, &live, here, versions.one_history) {
            let message = "this row was deleted; an export from a history which the server has lost brought it again";
            let row = full(fit(row.clone(), store.table(i.position)));
            self.tell_of_undone_delete(i.position, &i.key, &row, message)?;
        }
        if let Some(own) = own {
            // On top of a change that is this file's already.
            return store.put_dirty(m.id, &i.row.k, own.since, own.base.as_ref());
        }
        if unchanged {
            let base: Option<Record> = live.map(|row| row.into_iter().map(Some).collect());
            return store.put_dirty(m.id, &i.row.k, i.row.since, base.as_ref());
        }
        store.set_known(m.id, &i.row.k, i.row.known)?;
        store.put_dirty(m.id, &i.row.k, i.row.since, i.row.base.as_ref())?;
        let r = StagedRow {
            position: i.position,
            k: i.row.k.clone(),
            op: if live.is_some() { Op::Update } else { Op::Delete },
            version: here.version(),
            row: live.as_deref().map(record::encode),
        };
        clashes.push((r, i.row.known));
        Ok(())
    }

    fn not_taken(
        &mut self,
        i: &Incoming,
        kind: &'static str,
        reason: &str,
        message: &str,
        here: Option<&[Value]>,
    ) -> Result<(), Error> {
        let table = self.store.table(i.position);
        let local = i.row.row.clone().map(|r| full(fit(r, table)));
        self.outcome.conflicts += 1;
        self.record(&Entry {
            kind,
            at: self.now,
            table,
            key: &i.key,
            op: op_of(local.as_deref(), i.row.known, i.row.base.as_ref()),
            reason,
            message,
            local: local.as_deref(),
            base: i.row.base.as_ref(),
            server: here,
        })
    }
}

/// Whether a row is what a record says; what that does not mention is not compared.
fn same(row: Option<&[Value]>, record: Option<&Record>) -> bool {
    match (row, record) {
        (None, None) => true,
        (Some(row), Some(record)) => record::agrees(row, record),
        _ => false,
    }
}

/// Times that a session is ended before the server is given up.
const TRIES: u32 = 3;
