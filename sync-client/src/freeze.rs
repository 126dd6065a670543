//! Freezing: intents become one numbered, immutable bundle, in one durable transaction (hop `freeze`).
//!
//! Upserts go parents first, then deletes children first. An intent that means nothing ends here; a
//! row that cannot travel is held back, and nothing else waits for it.

use rusqlite::OptionalExtension as _;
use sync_core::engine::bisect::Take;
use sync_core::engine::change::{Change, Known, derive};
use sync_core::engine::departure::Departure;
use sync_core::hash::{Digest, RequestHasher};
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::protocol::capabilities::Limits;
use sync_core::record::{self, Record};
use sync_core::value::Value;
use sync_core::wire::{Form, key_can_travel, push_key, push_partial_payload};

use crate::departed::STILL_REFERRED_TO;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::report::Event;
use crate::store::{Meta, Outbox, OutboxState, Store};
use crate::subset::Subset;
use crate::ties;

/// What a freeze did.
#[derive(Debug, Default)]
pub(crate) struct Frozen {
    /// `None` where nothing has to be pushed.
    pub(crate) outbox: Option<Outbox>,
    /// What the app has to be told: rows that followed a key which it changed.
    pub(crate) events: Vec<Event>,
}

impl Store {
    /// Freezes what is pending, within the server's limits.
    ///
    /// What needs a held row waits with it. More rows than the server takes at once go in parts, and while a
    /// row is searched that the server does not name, less goes than there is.
    ///
    /// A large log is folded in a transaction of its own before: the app may write between the two, and what
    /// it writes is folded in the second one.
    pub(crate) fn freeze(&self, limits: &Limits, now: i64) -> Result<Frozen, Error> {
        if self.much_logged()? {
            let tx = self.begin()?;
            self.absorb(now)?;
            tx.commit()?;
        }
        let tx = self.begin()?;
        self.absorb(now)?;
        tx.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_deletes (t, k, since, base, v, departure, heir); \
             CREATE TEMP TABLE IF NOT EXISTS _sync_done (t, k);",
        )?;
        self.hold_back()?;
        let events = self.settle_departures(now)?;
        let any = self.any_dirty(true)?;
        let outbox = self.freeze_some(limits)?;
        if mutant::on(Mutant::CleanupLost) && outbox.is_none() {
            return Ok(Frozen::default());
        }
        if any && !self.any_dirty(true)? {
            let through = if outbox.is_none() { Meta::SyncedThrough } else { Meta::OutboxThrough };
            through.set(&tx, Meta::Noticed.integer(&tx)?)?;
        }
        tx.commit()?;
        Ok(Frozen { outbox, events })
    }

    fn freeze_some(&self, limits: &Limits) -> Result<Option<Outbox>, Error> {
        let mut search = self.search()?;
        let mut remade = false;
        while self.any_dirty(true)? {
            self.settle_waiting()?;
            let part = self.part(limits.max_rows_per_bundle)?;
            let searching = !search.is_idle();
            let mut again = false;
            for take in search.choices() {
                // A search is among rows that once were one part.
                let part = part.filter(|_| take == Take::Rest);
                let subset = Subset::new(part, searching.then_some(take));
                // Parts that are new can do no better.
                let in_order = remade && take == Take::Rest;
                let Pass { rows, request_hash, holds, early } = self.pass(limits, &subset, in_order)?;
                if !holds.is_empty() || !early.is_empty() {
                    // Whatever needs these rows has to wait too: once more without them.
                    self.conn.execute_batch("DELETE FROM main._sync_out")?;
                    for (t, k, reason, message) in holds {
                        self.hold(t, &k, reason, &message)?;
                    }
                    if !early.is_empty() {
                        remade = true;
                        self.order_anew(&early)?;
                    }
                    again = true;
                    break;
                }
                self.forget_frozen(subset.is_whole())?;
                if rows > 0 {
                    search.take(take);
                    self.set_search(&search)?;
                    return self.head(rows, request_hash).map(Some);
                }
                search.nothing_in(take);
                if let Take::Kept(group) = take {
                    // The search knows nothing of it any more: its rows, should they wait again, are like any others.
                    self.conn
                        .prepare_cached("DELETE FROM main._sync_suspect WHERE g = ? AND kept")?
                        .execute([group])?;
                }
                if matches!(take, Take::Range(..)) {
                    again = true;
                    break;
                }
            }
            if !again && part.is_none() {
                break;
            }
        }
        self.set_search(&search)?;
        Ok(None)
    }

    /// The head of an outbox whose rows are there.
    fn head(&self, rows: i64, request_hash: Digest) -> Result<Outbox, Error> {
        let conn = &self.conn;
        let source_id: String = Meta::SourceId.get(conn)?.ok_or_else(|| Error::Damaged("source".into()))?;
        let outbox = Outbox {
            state: OutboxState::Frozen,
            source_id,
            source_bundle_id: self.next_source_bundle_id()?,
            rows,
            request_hash,
            bundle_seq: 0,
        };
        self.set_outbox(&outbox)?;
        let mut s = conn.prepare("SELECT DISTINCT t FROM main._sync_out")?;
        let tables: Vec<i64> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
        Meta::OutboxColumns.set(conn, self.columns_of(&tables))?;
        Ok(outbox)
    }

    /// Freezes the rows of a subset; with `in_order`, whether or not what they refer to goes with them.
    fn pass(&self, limits: &Limits, subset: &Subset, in_order: bool) -> Result<Pass, Error> {
        self.conn.execute_batch("DELETE FROM temp._sync_deletes; DELETE FROM temp._sync_done")?;
        let mut f = Freezer {
            store: self,
            subset,
            schema_name: Meta::WireSchema.get(&self.conn)?.unwrap_or_else(|| "main".into()),
            hasher: RequestHasher::default(),
            ordinal: 0,
            max_row: most(limits.max_bytes_per_row),
            key: String::new(),
            payload: String::new(),
            holds: Vec::new(),
            in_order,
            early: Vec::new(),
        };
        for position in self.schema().parents_first() {
            f.upserts(*position)?;
        }
        for position in self.schema().parents_first().iter().rev() {
            f.deletes(*position)?;
        }
        Ok(Pass { rows: f.ordinal, request_hash: f.hasher.finish(), holds: f.holds, early: f.early })
    }

    /// The part of a large dirty set that goes now, where it has to be parted.
    fn part(&self, max_rows: i64) -> Result<Option<i64>, Error> {
        let conn = &self.conn;
        if ties::any(conn, "_sync_part")? {
            let sql = "SELECT p.n FROM main._sync_part p CROSS JOIN main._sync_dirty d ON d.t = p.t AND d.k = p.k \
                       WHERE p.n >= ? AND d.held IS NULL AND NOT EXISTS \
                       (SELECT 1 FROM main._sync_suspect s WHERE s.t = p.t AND s.k = p.k AND s.kept) \
                       ORDER BY p.n LIMIT 1";
            let from = Meta::Part.integer(conn)?;
            if let Some(n) = conn.prepare_cached(sql)?.query_row([from], |r| r.get(0)).optional()? {
                Meta::Part.keep(conn, n)?;
                return Ok(Some(n));
            }
            conn.execute_batch("DELETE FROM main._sync_part")?;
            Meta::Part.clear(conn)?;
        }
        if max_rows <= 0 {
            return Ok(None);
        }
        // What a search keeps back is not among those that are parted, but goes group by group.
        let sql = "SELECT count(*) FROM (SELECT 1 FROM main._sync_dirty d WHERE held IS NULL AND NOT EXISTS \
                   (SELECT 1 FROM main._sync_suspect s WHERE s.t = d.t AND s.k = d.k AND s.kept) LIMIT ?)";
        let pending: i64 = conn.prepare_cached(sql)?.query_row([max_rows.saturating_add(1)], |r| r.get(0))?;
        if pending <= max_rows {
            return Ok(None);
        }
        self.make_parts(max_rows)?;
        if ties::any(conn, "_sync_part")? { self.part(max_rows) } else { Ok(None) }
    }

    /// Ends the intents that are frozen now, or that meant nothing. Those that were not looked at stay.
    fn forget_frozen(&self, whole: bool) -> Result<(), Error> {
        let conn = &self.conn;
        if !whole {
            conn.execute_batch(
                "INSERT INTO temp._sync_done SELECT t, k FROM main._sync_out; \
                 DELETE FROM main._sync_dirty WHERE (t, k) IN (SELECT t, k FROM temp._sync_done)",
            )?;
        } else if conn.prepare("SELECT 1 FROM main._sync_dirty WHERE held IS NOT NULL")?.exists([])? {
            conn.execute("DELETE FROM main._sync_dirty WHERE held IS NULL", [])?;
        } else {
            conn.execute("DELETE FROM main._sync_dirty", [])?;
        }
        Ok(())
    }
}

/// A row that cannot travel: table, key, the reason in one word and for a person.
type Hold = (i64, Vec<u8>, &'static str, String);

/// What came of freezing the rows of a subset.
struct Pass {
    rows: i64,
    request_hash: Digest,
    /// Rows that cannot travel.
    holds: Vec<Hold>,
    /// Rows that refer to others which are to go later.
    early: Vec<(i64, Vec<u8>)>,
}

/// A limit of 0 is none.
const fn most(limit: i64) -> i64 {
    if limit > 0 { limit } else { i64::MAX }
}

/// A pending row, as it is remembered.
struct Intent {
    k: Vec<u8>,
    since: i64,
    base: Option<Vec<u8>>,
    departure: Departure,
    heir: Option<Vec<u8>>,
}

struct Freezer<'a> {
    store: &'a Store,
    subset: &'a Subset,
    schema_name: String,
    hasher: RequestHasher,
    ordinal: i64,
    max_row: i64,
    key: String,
    payload: String,
    holds: Vec<Hold>,
    in_order: bool,
    early: Vec<(i64, Vec<u8>)>,
}

impl Freezer<'_> {
    fn upserts(&mut self, position: usize) -> Result<(), Error> {
        let store = self.store;
        let m = &store.managed[position];
        let table = store.table(position);
        let lacking = store.offered.lacking(table);
        let mut pending = store.conn.prepare(&self.subset.sql())?;
        let mut deletes = store.conn.prepare_cached(
            "INSERT INTO temp._sync_deletes (t, k, since, base, v, departure, heir) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?;
        let mut rows = pending.query([m.id])?;
        while let Some(r) = rows.next()? {
            let intent = Intent {
                k: r.get(0)?,
                since: r.get(1)?,
                base: r.get(2)?,
                departure: Departure::from_stored(r.get(4)?),
                heir: r.get(5)?,
            };
            let known = Known::from_stored(r.get(3)?);
            let key = Key::from_stored(intent.k.clone()).unpack()?;
            let k = intent.k.clone();
            let live = match m.sql.read(&store.conn, &key)? {
                None => None,
                Some(Ok(row)) => Some(row),
                Some(Err(e)) => {
                    let column = &table.columns[e.0].name;
                    let message =
                        format!("column {column} holds text that is not valid UTF-8; correct it or delete the row");
                    self.holds.push((m.id, k, "not_utf8", message));
                    continue;
                }
            };
            if store.offered.lacks(table) {
                let message =
                    "the server does not have this table; add it to the server's schema (see `sync-client schema`)";
                self.holds.push((m.id, k, "unknown_table", message.into()));
                continue;
            }
            let base_record = intent.base.as_deref().map(record::decode).transpose()?;
            match derive(live.as_deref(), known, base_record.as_ref()) {
                Change::Nothing if self.subset.is_whole() => {}
                Change::Nothing => {
                    store
                        .conn
                        .prepare_cached("INSERT INTO temp._sync_done (t, k) VALUES (?, ?)")?
                        .execute((m.id, &k))?;
                }
                Change::Push(Op::Delete, v) => {
                    if !intent.departure.may_act_on_others()
                        && let Some(message) = store.still_referred_to(position, &key, base_record.as_ref())?
                    {
                        self.holds.push((m.id, k, STILL_REFERRED_TO, message));
                        continue;
                    }
                    let Intent { since, base, departure, heir, .. } = &intent;
                    deletes.execute((m.id, &k, since, base, v, departure.stored(), heir))?;
                }
                Change::Push(op, v) => {
                    if !key_can_travel(table, &key) {
                        let message = "the key is not of the column's kind: a BLOB key has 16 bytes (a UUID), an \
                                       INTEGER key is a number, a TEXT key is text";
                        self.holds.push((m.id, k, "key_form", message.into()));
                        continue;
                    }
                    let live = live.unwrap_or_default();
                    if !self.in_order && store.goes_too_early(self.subset, table, &live)? {
                        self.early.push((m.id, k));
                        continue;
                    }
                    let mut row: Record = live.into_iter().map(Some).collect();
                    // What says nothing need not wait until the server has the column too.
                    let lacks = |i: &&usize| row.get(**i).is_some_and(|v| v.as_ref().is_some_and(|v| !v.is_null()));
                    if let Some(i) = lacking.iter().find(lacks) {
                        let column = &table.columns[*i];
                        let mut message = format!(
                            "the server's table has no column {} yet; the row is sent once it has",
                            column.name
                        );
                        if column.not_null {
                            let line = column.line_with_default();
                            message.push_str(&format!(" (where it has no default here, its schema.sql says: {line})"));
                        }
                        self.holds.push((m.id, k, "unknown_column", message));
                        continue;
                    }
                    lacking.iter().for_each(|i| row[*i] = None);
                    if mutant::on(Mutant::WrongDecoder) {
                        row.iter_mut().flatten().for_each(hex_for_bytes);
                    }
                    self.payload.clear();
                    push_partial_payload(&mut self.payload, table, &m.order, &row, Form::Exact);
                    if self.payload.len() as i64 > self.max_row {
                        let message =
                            format!("this row is larger than the {} bytes that the server takes", self.max_row);
                        self.holds.push((m.id, k, "too_large", message));
                        continue;
                    }
                    self.put(position, &intent, &key, (op, v), Some(&record::encode_partial(&row)))?;
                }
            }
        }
        Ok(())
    }

    fn deletes(&mut self, position: usize) -> Result<(), Error> {
        let m = &self.store.managed[position];
        let mut s = self.store.conn.prepare_cached(
            "SELECT k, since, base, departure, heir, v FROM temp._sync_deletes WHERE t = ? ORDER BY k",
        )?;
        let mut rows = s.query([m.id])?;
        while let Some(r) = rows.next()? {
            let intent = Intent {
                k: r.get(0)?,
                since: r.get(1)?,
                base: r.get(2)?,
                departure: Departure::from_stored(r.get(3)?),
                heir: r.get(4)?,
            };
            let key = Key::from_stored(intent.k.clone()).unpack()?;
            self.put(position, &intent, &key, (Op::Delete, r.get(5)?), None)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        position: usize,
        intent: &Intent,
        key: &[Value],
        (op, base_version): (Op, i64),
        row: Option<&[u8]>,
    ) -> Result<(), Error> {
        let table = self.store.table(position);
        self.key.clear();
        push_key(&mut self.key, table, key, Form::Exact);
        let payload = row.map(|_| self.payload.as_str());
        self.hasher.row(&self.schema_name, &table.name, &self.key, op, base_version, payload);
        self.store
            .conn
            .prepare_cached(
                "INSERT INTO main._sync_out (ordinal, t, k, op, base_version, row, base, since, departure, heir) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute((
                self.ordinal,
                self.store.managed[position].id,
                &intent.k,
                op.stored(),
                base_version,
                row,
                &intent.base,
                intent.since,
                intent.departure.stored(),
                &intent.heir,
            ))?;
        self.ordinal += 1;
        Ok(())
    }
}

/// [`Mutant::WrongDecoder`].
fn hex_for_bytes(v: &mut Value) {
    if let Value::Blob(b) = v {
        *b = b.iter().flat_map(|b| format!("{b:02x}").into_bytes()).collect();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rusqlite::Connection;

    use super::*;
    use crate::store::Selection;

    /// Between its commits the app gets the write lock.
    #[test]
    fn a_large_log_is_folded_before_the_freeze_takes_the_lock() {
        for (rows, commits) in [(100, 1), (20_001, 2)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app.db");
            let app = Connection::open(&path).unwrap();
            app.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
            let mut store = Store::open(&path).unwrap();
            store.install("http://localhost", &Selection::All, "source", 0).unwrap();
            let numbers = format!("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
            app.execute_batch(&format!("{numbers} INSERT INTO t SELECT i FROM n")).unwrap();
            let count = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&count);
            let commit = move || {
                counted.fetch_add(1, Ordering::Relaxed);
                false
            };
            store.conn.commit_hook(Some(commit)).unwrap();
            let outbox = store.freeze(&Limits::default(), 1).unwrap().outbox.unwrap();
            assert_eq!((outbox.rows, count.load(Ordering::Relaxed)), (rows, commits));
        }
    }
}
