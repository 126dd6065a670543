//! A remote row meets a local intent for the same key (cases C3–C7): the policy's verdict is carried
//! out, and whatever loses is recorded whole.

use sync_core::engine::change::{Change, Known, derive};
use sync_core::engine::merge::{Merged, Tie, merge_columns};
use sync_core::engine::settle::{Verdict, settle};
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::{self, Record};
use sync_core::schema::Table;
use sync_core::value::Value;

use crate::apply::{Applier, fit, is_constraint, is_unique, version_of};
use crate::aside::Why;
use crate::asking::Decided;
use crate::conflict::{Conflict, Resolution, RowValues};
use crate::error::Error;
use crate::inbox::{Entry, add_merged, key_json};
use crate::mutant::{self, Mutant};
use crate::stage::StagedRow;
use crate::store::Dirty;

/// Both sides of a key, as they meet.
struct Met<'m> {
    key: Vec<Value>,
    /// The row here; none where it was deleted.
    live: Option<Vec<Value>>,
    known: Known,
    dirty: &'m Dirty,
    /// The remote row as it was sent; none for a tombstone.
    sent: Option<Record>,
    /// The same, with what it does not mention from here.
    remote: Option<Vec<Value>>,
    /// The local row that takes another number, where that was minted twice.
    minted: Option<(usize, Vec<Value>)>,
    /// What the app decided, where it was asked.
    resolution: Option<Resolution>,
}

impl Applier<'_> {
    /// A remote row meets a local intent for the same key. In a table that keeps its edits, a remote
    /// delete waits for the end of its bundle.
    pub(crate) fn meet(&mut self, r: StagedRow, known: Known, dirty: &Dirty) -> Result<(), Error> {
        if r.row.is_none() && self.keep.table(r.position) {
            self.keep.wait(r);
            return Ok(());
        }
        self.meet_now(r, known, dirty)
    }

    pub(crate) fn meet_now(&mut self, r: StagedRow, known: Known, dirty: &Dirty) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[r.position]);
        let table = store.table(r.position);
        let key = Key::from_stored(r.k.clone()).unpack()?;
        let Some(Ok(live)) = m.sql.read(&store.conn, &key)?.map_or(Some(Ok(None)), |row| Some(row.map(Some))) else {
            // Text that is not UTF-8 cannot be compared: the row waits in the inbox as it is. Its version stays, so that
            // it meets this row once it is corrected; from its base nobody can tell any more whether it is an edit.
            let sql = "UPDATE main._sync_dirty SET base = NULL WHERE t = ? AND k = ?";
            store.conn.prepare_cached(sql)?.execute((m.id, &r.k))?;
            return Ok(());
        };
        let sent = r.row.as_deref().map(record::decode).transpose()?.map(|row| fit(row, table));
        let unsent = sent.clone().filter(|sent| lacks(sent, live.as_deref()));
        let remote = sent.clone().map(|row| over(row, live.as_deref()));
        let rule = self.policies.rule(&table.name);
        let minted = match (&live, known) {
            (Some(row), Known::Never | Known::Gone(_)) if remote.is_some() && is_new(known, dirty) => {
                self.minted(r.position, &key, row)?
            }
            _ => None,
        };
        let verdict =
            |rule| settle(live.as_deref(), known, dirty.base.as_ref(), remote.as_deref(), minted.is_some(), rule);
        let (mut verdict, by_policy, mut resolution) =
            (verdict(rule), verdict(self.policies.rule_unanswered(&table.name)), None);
        if verdict == Verdict::Ask {
            let conflict = Conflict {
                table: table.name.clone(),
                key: key_json(table, &key),
                op: op_of(live.as_deref(), known, dirty.base.as_ref()).into(),
                local: live.as_ref().map(|row| named(table, row)),
                base: dirty.base.as_ref().map(|b| named_record(table, b)),
                server: remote.as_ref().map(|row| named(table, row)),
                local_version: known.version(),
                server_version: r.version,
            };
            match self.decided(conflict) {
                Decided::ByApp(answer) => resolution = Some(answer),
                Decided::ByPolicy => verdict = by_policy,
                // As if the server's had won, so that no more is met than has to be asked about.
                Decided::Open => verdict = Verdict::Take,
            }
        }
        let (t, k) = (m.id, r.k.clone());
        self.note_undone_delete(&r, known)?;
        self.carry_out(verdict, r, &Met { key, live, known, dirty, sent, remote, minted, resolution })?;
        // Values in columns that the server lacks have nowhere to go yet: the intent stays for their sake.
        match unsent {
            Some(base) if verdict != Verdict::Rekey && store.dirty(t, &k)?.is_none() => {
                store.put_dirty(t, &k, dirty.since, Some(&base))
            }
            _ => Ok(()),
        }
    }

    fn carry_out(&mut self, verdict: Verdict, r: StagedRow, met: &Met<'_>) -> Result<(), Error> {
        let Met { key, live, known, dirty, sent, remote, minted, resolution } = met;
        let (known, base) = (*known, dirty.base.as_ref());
        let (store, m) = (self.store, &self.store.managed[r.position]);
        let table = store.table(r.position);
        let op = op_of(live.as_deref(), known, base);
        let at = self.now;
        let entry = |kind, reason: &'static str, message: &'static str| Entry {
            kind,
            at,
            table,
            key,
            op,
            reason,
            message,
            local: live.as_deref(),
            base,
            server: remote.as_deref(),
        };
        match verdict {
            Verdict::Done => {
                store.drop_dirty(m.id, &r.k)?;
                store.set_known(m.id, &r.k, version_of(&r))?;
                // Also a row that both deleted: what refers to it may be here.
                self.came(&r)
            }
            Verdict::TakeSilently => {
                store.drop_dirty(m.id, &r.k)?;
                self.write_or_defer(r, presence(live.as_deref(), known))
            }
            Verdict::RebaseSilently => {
                store.set_known(m.id, &r.k, version_of(&r))?;
                store.put_dirty(m.id, &r.k, dirty.since, None)
            }
            Verdict::Take => {
                let won = if remote.is_some() {
                    "the server's row won over this local edit"
                } else {
                    "the row was deleted on the server, and that won over this local edit"
                };
                let e = entry("discarded", "server_wins", won);
                self.take(r, live.as_deref(), known, &e)
            }
            Verdict::Rebase => {
                let e = entry("conflict", "client_wins", "this local edit won over the server's row");
                self.rebase(&r, dirty.since, sent.as_ref(), &e)
            }
            Verdict::Rekey => {
                if let Some((position, key)) = minted
                    && let Some(local) = self.rekey(*position, key)?
                {
                    return self.set_aside(&r, Why::Number, &local);
                }
                if store.dirty(m.id, &r.k)?.is_some() {
                    let e = entry("discarded", "server_wins", "the server's row won over this local edit");
                    return self.take(r, live.as_deref(), known, &e);
                }
                self.write_or_defer(r, Known::Never)
            }
            Verdict::Merge(tie) => {
                let (Some(ours), Some(theirs)) = (live.as_deref(), remote.as_deref()) else { return Ok(()) };
                let merged = merge_columns(ours, known, base, theirs, tie);
                if merged.row != ours && merged.row != theirs {
                    let before = self.before(r.position, &r.k)?;
                    let written = m.sql.update(&store.conn, key, &merged.row);
                    if matches!(&written, Err(e) if is_unique(e) || is_constraint(e)) {
                        let why = "both rows were merged into one that the schema refuses: the server's won";
                        let e = entry("discarded", "merge_columns", why);
                        return self.take(r, live.as_deref(), known, &e);
                    }
                    written?;
                    self.written(before)?;
                    self.changed(r.position, &r.k, false);
                }
                let message = merge_message(table, &merged, tie);
                let kind = if merged.lost_local.is_empty() { "conflict" } else { "discarded" };
                let e = Entry { message: &message, ..entry(kind, "merge_columns", "") };
                if merged.row == theirs {
                    return self.take(r, live.as_deref(), known, &e);
                }
                self.rebase(&r, dirty.since, sent.as_ref(), &e)?;
                self.came(&StagedRow { row: Some(record::encode(&merged.row)), ..r })?;
                add_merged(&store.conn, table, &merged.row)
            }
            Verdict::Ask => match resolution {
                None | Some(Resolution::TakeServer) => {
                    let e = entry("discarded", "resolver", "the app's own function took the server's row");
                    self.take(r, live.as_deref(), known, &e)
                }
                Some(Resolution::KeepLocal) => {
                    let e = entry("conflict", "resolver", "the app's own function kept the local row");
                    self.rebase(&r, dirty.since, sent.as_ref(), &e)
                }
                Some(Resolution::Merged(values)) => {
                    let merged = merge(table, key, values, remote.as_deref().or(live.as_deref()));
                    let written = match live {
                        Some(_) => m.sql.update(&store.conn, key, &merged),
                        None => m.sql.insert(&store.conn, &merged),
                    };
                    if matches!(&written, Err(e) if is_unique(e) || is_constraint(e)) {
                        let why = "the app's own function merged both rows into one that the schema refuses";
                        let e = entry("discarded", "resolver", why);
                        return self.take(r, live.as_deref(), known, &e);
                    }
                    let written = written?;
                    if live.as_ref() != Some(&merged) {
                        self.changed(r.position, &r.k, false);
                    }
                    let e = entry("conflict", "resolver", "the app's own function merged both rows");
                    self.rebase(&r, dirty.since, sent.as_ref(), &e)?;
                    debug_assert_eq!(written, 1, "the row is there or it is not");
                    self.came(&StagedRow { row: Some(record::encode(&merged)), ..r })?;
                    add_merged(&store.conn, table, &merged)
                }
            },
        }
    }

    fn take(&mut self, r: StagedRow, live: Option<&[Value]>, known: Known, e: &Entry<'_>) -> Result<(), Error> {
        self.record(e)?;
        self.outcome.conflicts += 1;
        self.store.drop_dirty(self.store.managed[r.position].id, &r.k)?;
        self.write_or_defer(r, presence(live, known))
    }

    fn rebase(&mut self, r: &StagedRow, since: i64, base: Option<&Record>, e: &Entry<'_>) -> Result<(), Error> {
        self.record(e)?;
        self.outcome.conflicts += 1;
        let t = self.store.managed[r.position].id;
        let known = if mutant::on(Mutant::UpdateOfNothing) { Known::Live(r.version) } else { version_of(r) };
        self.store.set_known(t, &r.k, known)?;
        self.store.put_dirty(t, &r.k, since, base)?;
        if r.row.is_none() { self.note_brought_back(r.position, &r.k) } else { Ok(()) }
    }

    /// A row over whose tombstone this file goes on is no new one: it has itself as its base.
    pub(crate) fn note_brought_back(&self, position: usize, k: &[u8]) -> Result<(), Error> {
        let (store, m) = (self.store, &self.store.managed[position]);
        let key = Key::from_stored(k.to_vec()).unpack()?;
        if let (Some(Ok(row)), Some(dirty)) = (m.sql.read(&store.conn, &key)?, store.dirty(m.id, k)?) {
            let row: Record = row.into_iter().map(Some).collect();
            store.put_dirty(m.id, k, dirty.since, Some(&row))?;
        }
        Ok(())
    }
}

/// Whether the app made this row anew: nobody had it before, or what was there was deleted, and a number came free.
pub(crate) const fn is_new(known: Known, dirty: &Dirty) -> bool {
    match known {
        Known::Never => true,
        Known::Gone(_) => dirty.base.is_none(),
        Known::Live(_) => false,
    }
}

/// What a write of the remote row will find: the row's presence decides, not the version.
const fn presence(live: Option<&[Value]>, known: Known) -> Known {
    match live {
        Some(_) => Known::Live(known.version()),
        None => Known::Never,
    }
}

/// Whether the local row has values in columns that the remote one does not mention.
pub(crate) fn lacks(remote: &Record, live: Option<&[Value]>) -> bool {
    live.is_some_and(|live| remote.iter().zip(live).any(|(r, l)| r.is_none() && !l.is_null()))
}

/// A remote row whose absent columns come from the local one.
pub(crate) fn over(row: Record, live: Option<&[Value]>) -> Vec<Value> {
    row.into_iter()
        .enumerate()
        .map(|(i, v)| v.or_else(|| live.and_then(|l| l.get(i).cloned())).unwrap_or(Value::Null))
        .collect()
}

fn merge(table: &Table, key: &[Value], values: &RowValues, rest: Option<&[Value]>) -> Vec<Value> {
    let mut row: Vec<Value> = table
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| {
            values.get(&c.name).cloned().or_else(|| rest.and_then(|r| r.get(i).cloned())).unwrap_or(Value::Null)
        })
        .collect();
    for (i, k) in table.key.iter().zip(key) {
        row[*i] = k.clone();
    }
    row
}

/// What a merge did, in a sentence; columns by name, values never.
fn merge_message(table: &Table, merged: &Merged, tie: Tie) -> String {
    let (both, whose) = match tie {
        Tie::Server => (&merged.lost_local, "the server's"),
        Tie::Client => (&merged.lost_server, "this device's"),
    };
    let mut message = String::from("both rows were merged column by column");
    if !both.is_empty() {
        let names: Vec<&str> = both.iter().map(|i| table.columns[*i].name.as_str()).collect();
        message.push_str(&format!("; of what both sides changed ({}), {whose} was taken", names.join(", ")));
    }
    message
}

fn named(table: &Table, row: &[Value]) -> RowValues {
    table.columns.iter().zip(row).map(|(c, v)| (c.name.clone(), v.clone())).collect()
}

fn named_record(table: &Table, row: &Record) -> RowValues {
    table.columns.iter().zip(row).filter_map(|(c, v)| Some((c.name.clone(), v.clone()?))).collect()
}

/// What this device wanted, in the protocol's word.
pub(crate) fn op_of(live: Option<&[Value]>, known: Known, base: Option<&Record>) -> &'static str {
    match derive(live, known, base) {
        Change::Push(op, _) => op.name(),
        Change::Nothing => Op::Update.name(),
    }
}
