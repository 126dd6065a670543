//! Applying staged rows to the tables, in passes: a row that others block is tried again after them.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{Connection, OptionalExtension as _, params_from_iter};
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record::Record;
use sync_core::schema::{Affinity, Unique};
use sync_core::sqlite::connection::{is_too_long, no_longer_than};
use sync_core::sqlite::{placeholders, quote, value};
use sync_core::value::Value;

use super::Scope;
use super::fail::{Fail, Outcome};
use super::reject::{Kind, Rejections, kind, words};
use super::schema::TableInfo;
use super::staging::{self, Staged};

/// Rows that wait for others, by ordinal.
#[derive(Debug, Default)]
pub(crate) struct Blocked(Vec<i64>);

impl Blocked {
    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What came of one row.
enum Applied {
    Done,
    /// UNIQUE, or a foreign key that acts at once: other rows of the bundle may lift it.
    Blocked(Kind, String),
}

/// Applies rows within one transaction.
pub(crate) struct Apply<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) conn: &'a Connection,
    pub(crate) staged: &'a Connection,
    pub(crate) ordinal: &'a AtomicI64,
    pub(crate) rejections: &'a mut Rejections,
    /// What the push deletes, by table and key; filled where it is asked for.
    pub(crate) deleted: OnceCell<BTreeSet<(i64, Vec<u8>)>>,
    /// The length of the longest row; found where it is asked for.
    pub(crate) longest: OnceCell<u64>,
}

/// Bytes of what was sent of a row.
pub(crate) fn length(sent: &Record) -> u64 {
    let one = |v: &Value| match v {
        Value::Text(s) => s.len(),
        Value::Blob(b) => b.len(),
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
    };
    sent.iter().flatten().map(one).sum::<usize>() as u64
}

impl Apply<'_> {
    /// Applies a row, or remembers why not.
    pub(crate) fn row(&mut self, row: &Staged, key: &[Value], blocked: &mut Blocked) -> Outcome<()> {
        if let Some(unknown) = row.extra.as_ref().map(|e| &e.unknown).filter(|u| !u.is_empty()) {
            let message = format!("the server's table has no column {}", unknown.join(", "));
            self.rejections.add(row.ordinal, Kind::UnknownColumn, unknown.clone(), message);
            return Ok(());
        }
        match self.one(row, key)? {
            Applied::Done => {}
            Applied::Blocked(..) => blocked.0.push(row.ordinal),
        }
        Ok(())
    }

    fn one(&mut self, row: &Staged, key: &[Value]) -> Outcome<Applied> {
        let t = self.scope.table(row.tab)?;
        self.ordinal.store(row.ordinal, Ordering::Relaxed);
        if row.is_restricted()
            && let Some(child) = self.would_act_on(row.tab, key)?
        {
            let message = format!("rows of {child} refer to this row, and its delete may not act on them");
            return Ok(Applied::Blocked(Kind::ForeignKey, message));
        }
        let done = match (&row.op, &row.data) {
            (Op::Insert, Some(data)) => self.within(data, || t.sql.insert_partial(self.conn, data))?,
            (Op::Update, Some(data)) => self.within(data, || t.sql.update_partial(self.conn, key, data))?,
            // Nothing was sent of which anything could be made; however long a row is, it goes.
            (Op::Delete, _) => t.sql.delete(self.conn, key),
            (Op::Insert | Op::Update, None) => return Err(Fail::Damaged("a staged row")),
        };
        match done {
            Ok(0) => {
                // A row that a cascade of this bundle took away is gone as asked, or stays gone;
                // one that is there was kept by a rule.
                let there = t.sql.exists(self.conn, key)?;
                if row.op == Op::Insert || there {
                    let message = format!("a rule of the server ignored this {}", row.op.name());
                    self.rejections.add(row.ordinal, Kind::Rule, vec![], message);
                }
                Ok(Applied::Done)
            }
            Ok(_) => Ok(Applied::Done),
            Err(e) => {
                if self.conn.is_autocommit() {
                    return Err(e.into());
                }
                match kind(&e) {
                    Some(Kind::Unique) => Ok(Applied::Blocked(Kind::Unique, words(&e))),
                    Some(Kind::ForeignKey) => {
                        Ok(Applied::Blocked(Kind::ForeignKey, "rows that stay refer to this row".to_owned()))
                    }
                    Some(Kind::TooLarge) => {
                        self.rejections.add(row.ordinal, Kind::TooLarge, vec![], self.too_large(row));
                        Ok(Applied::Done)
                    }
                    Some(k) => {
                        let columns = if k == Kind::NotNull { missing(t, row) } else { vec![] };
                        let message = format!("{}{}", words(&e), way_out(t, row));
                        self.rejections.add(row.ordinal, k, columns, message);
                        Ok(Applied::Done)
                    }
                    None => Err(e.into()),
                }
            }
        }
    }

    /// Writes what was sent, but for what makes a row of any length of it. Where that touches what is in the tables
    /// already (an UPDATE that leaves long values alone, a cascade, a rule), the longest row has its room.
    fn within(&self, sent: &Record, write: impl Fn() -> rusqlite::Result<usize>) -> Outcome<rusqlite::Result<usize>> {
        let sent = length(sent);
        let room = self.scope.room_for(sent);
        let done = no_longer_than(self.conn, room, &write)?;
        if !done.as_ref().is_err_and(is_too_long) {
            return Ok(done);
        }
        let more = self.scope.room_for(sent + self.longest()?);
        Ok(if more > room { no_longer_than(self.conn, more, &write)? } else { done })
    }

    /// No row of the scope's tables is longer. What the schema computes does not count: it would make room for itself.
    fn longest(&self) -> Outcome<u64> {
        if let Some(longest) = self.longest.get() {
            return Ok(*longest);
        }
        let mut longest = 0;
        for t in &self.scope.loaded.tables {
            let each = t.table.columns.iter().map(|c| format!("max(length(CAST({} AS BLOB)))", quote(&c.sql_name)));
            let each = each.collect::<Vec<_>>().join(", ");
            let sql = format!("SELECT {each} FROM main.{}", quote(&t.table.sql_name));
            let sum = self.conn.query_row(&sql, [], |r| {
                (0..t.table.columns.len()).map(|i| Ok(r.get::<_, Option<i64>>(i)?.unwrap_or(0))).sum::<Result<i64, _>>()
            })?;
            longest = longest.max(sum.unsigned_abs());
        }
        Ok(*self.longest.get_or_init(|| longest))
    }

    fn too_large(&self, row: &Staged) -> String {
        format!(
            "what the server's schema makes of this row (a generated column, a DEFAULT, an index, a CHECK or a rule) is \
             longer than the {} bytes that a row of its length has: shorten what that is made from, or let the operator \
             change the schema or raise max_bytes_per_row",
            self.scope.room_for(row.data.as_ref().map_or(0, length))
        )
    }

    /// The first table of which a declared action would delete or change rows that the push does not delete, were this
    /// row deleted.
    fn would_act_on(&self, tab: i64, key: &[Value]) -> Outcome<Option<&str>> {
        let position = self.scope.position(tab)?;
        let loaded = &self.scope.loaded;
        let parent = &loaded.tables[position];
        for (at, fk) in loaded.schema.references_to(position) {
            if !acts(&fk.on_delete) {
                continue;
            }
            let child = &loaded.tables[at].table;
            let pairs = fk.parent_columns.iter().zip(&fk.columns).filter_map(|(p, c)| {
                let p = &parent.table.columns[parent.table.column(p)?];
                Some(format!("p.{} = c.{}", quote(&p.sql_name), quote(&child.columns[*c].sql_name)))
            });
            let sql = format!(
                "SELECT {} FROM (SELECT * FROM main.{} WHERE {}) p JOIN main.{} c ON {}",
                child
                    .key
                    .iter()
                    .map(|i| format!("c.{}", quote(&child.columns[*i].sql_name)))
                    .collect::<Vec<_>>()
                    .join(", "),
                quote(&parent.table.sql_name),
                parent.sql.by_key,
                quote(&child.sql_name),
                pairs.collect::<Vec<_>>().join(" AND ")
            );
            let mut s = self.conn.prepare_cached(&sql)?;
            let mut rows = s.query(params_from_iter(key))?;
            while let Some(r) = rows.next()? {
                let found: Result<Vec<Value>, _> =
                    (0..child.key.len()).map(|i| value(r.get_ref_unwrap(i), child.key[i])).collect();
                let found = found.ok().and_then(|k| Key::pack(&k).ok()).map(|k| (self.scope.id(at), k));
                let goes = match found {
                    Some((t, k)) => self.deleted()?.contains(&(t, k.as_bytes().to_vec())),
                    None => false,
                };
                if !goes {
                    return Ok(Some(&child.name));
                }
            }
        }
        Ok(None)
    }

    fn deleted(&self) -> Outcome<&BTreeSet<(i64, Vec<u8>)>> {
        if let Some(keys) = self.deleted.get() {
            return Ok(keys);
        }
        let mut s = self.staged.prepare_cached("SELECT tab, key FROM row WHERE op = ?")?;
        let keys = s.query_map([Op::Delete.stored()], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        Ok(self.deleted.get_or_init(|| keys))
    }

    /// A row that was blocked is tried again. One that a cascade took away meanwhile is refused: its own
    /// change would be lost in silence.
    fn again(&mut self, row: &Staged, key: &[Value]) -> Outcome<Applied> {
        if row.op == Op::Update && !self.scope.table(row.tab)?.sql.exists(self.conn, key)? {
            let message = "another row of this push takes this one away before its own change fits".to_owned();
            self.rejections.add(row.ordinal, Kind::Unique, vec![], message);
            return Ok(Applied::Done);
        }
        self.one(row, key)
    }

    fn fetch(&self, ordinal: i64) -> Outcome<(Staged, Vec<Value>)> {
        fetch(self.staged, ordinal)
    }

    /// Tries blocked rows again and again while that helps, from both ends in turn; unless `patient`,
    /// only while it helps much.
    fn retry(&mut self, blocked: &mut Blocked, patient: bool) -> Outcome<()> {
        while !blocked.0.is_empty() {
            let before = blocked.0.len();
            blocked.0.reverse();
            let mut left = Vec::new();
            for ordinal in std::mem::take(&mut blocked.0) {
                let (row, key) = self.fetch(ordinal)?;
                if let Applied::Blocked(..) = self.again(&row, &key)? {
                    left.push(ordinal);
                }
            }
            blocked.0 = left;
            // Chains that resolve one a pass are left to parking, which resolves them at once.
            if blocked.0.len() == before || (!patient && before - blocked.0.len() < before / 8) {
                break;
            }
        }
        Ok(())
    }

    /// More passes over what is blocked, then parking.
    pub(crate) fn unblock(&mut self, blocked: &mut Blocked) -> Outcome<()> {
        self.retry(blocked, false)?;
        for ordinal in blocked.0.clone() {
            let (row, key) = self.fetch(ordinal)?;
            if row.op == Op::Update {
                self.park(&row, &key)?;
            }
        }
        self.retry(blocked, true)
    }

    /// Settles what the first pass left: more passes, then parking, then rejections.
    pub(crate) fn settle(&mut self, mut blocked: Blocked) -> Outcome<()> {
        self.unblock(&mut blocked)?;
        let mut keys = BTreeSet::new();
        for ordinal in &blocked.0 {
            let (row, _) = self.fetch(*ordinal)?;
            keys.insert((row.tab, row.key.as_bytes().to_vec()));
        }
        for ordinal in std::mem::take(&mut blocked.0) {
            let (row, key) = self.fetch(ordinal)?;
            let Applied::Blocked(kind, words) = self.again(&row, &key)? else { continue };
            if kind == Kind::ForeignKey {
                self.rejections.add(ordinal, Kind::ForeignKey, vec![], words);
                continue;
            }
            let t = self.scope.table(row.tab)?;
            let mut found = None;
            for unique in &t.table.uniques {
                if let Some(holder) = holder(self.conn, t, unique, &row, &key)? {
                    let names = unique.columns.iter().map(|c| t.table.columns[*c].name.clone()).collect();
                    let ring = Key::pack(&holder).is_ok_and(|k| keys.contains(&(row.tab, k.as_bytes().to_vec())));
                    found = Some((if ring { Kind::UniqueRing } else { Kind::Unique }, names));
                    break;
                }
            }
            let (k, columns) = found.unwrap_or((Kind::Unique, vec![]));
            let message = match k {
                Kind::UniqueRing => "rows of this push exchange UNIQUE values in a ring that cannot be parked".into(),
                _ => words,
            };
            self.rejections.add(ordinal, k, columns, message);
        }
        Ok(())
    }

    /// Rows of this push that name others by a UNIQUE value say what they were sent to say: where the value's former
    /// owner changed after them, its cascade took them along.
    pub(crate) fn hold_on(&mut self) -> Outcome<()> {
        let loaded = &self.scope.loaded;
        for (position, t) in loaded.tables.iter().enumerate() {
            let mut columns = Vec::new();
            for fk in &t.table.foreign_keys {
                let Some(parent) = loaded.schema.position(&fk.parent) else { continue };
                let table = &loaded.tables[parent].table;
                let by_key = table.key.iter().all(|i| fk.parent_columns.contains(&table.columns[*i].name));
                let updates = "SELECT 1 FROM row WHERE tab = ? AND op = ? LIMIT 1";
                let updates = |tab: i64| self.staged.prepare_cached(updates)?.exists((tab, Op::Update.stored()));
                if acts(&fk.on_update) && !by_key && updates(self.scope.ids[parent])? {
                    columns.extend(fk.columns.iter().copied());
                }
            }
            if columns.is_empty() {
                continue;
            }
            let mut s = self.staged.prepare_cached(&format!("{} WHERE tab = ? ORDER BY n", staging::SELECT))?;
            let mut rows = s.query([self.scope.ids[position]])?;
            while let Some(r) = rows.next()? {
                let row = staging::read(r)?;
                let key = row.key.unpack().map_err(|_| Fail::Damaged("a staged key"))?;
                let (Some(data), Some(Ok(live))) = (&row.data, t.sql.read(self.conn, &key)?) else { continue };
                let moved =
                    |i: usize, v: &Option<Value>| columns.contains(&i) && v.as_ref().is_some_and(|v| *v != live[i]);
                let sent: Record =
                    data.iter().enumerate().map(|(i, v)| if moved(i, v) { v.clone() } else { None }).collect();
                if sent.iter().all(Option::is_none) {
                    continue;
                }
                self.ordinal.store(row.ordinal, Ordering::Relaxed);
                match self.within(&sent, || t.sql.update_partial(self.conn, &key, &sent))? {
                    Ok(_) => {}
                    Err(e) => match kind(&e).filter(|_| !self.conn.is_autocommit()) {
                        Some(Kind::TooLarge) => {
                            self.rejections.add(row.ordinal, Kind::TooLarge, vec![], self.too_large(&row));
                        }
                        Some(k) => self.rejections.add(row.ordinal, k, vec![], words(&e)),
                        None => return Err(e.into()),
                    },
                }
            }
        }
        Ok(())
    }

    /// Sets UNIQUE columns that a row is going to change to values that nobody has, so that a ring of
    /// values opens. Columns that it leaves as they are stay untouched, and so does a row that cannot be parked.
    fn park(&self, row: &Staged, key: &[Value]) -> Outcome<()> {
        let position = self.scope.position(row.tab)?;
        let t = &self.scope.loaded.tables[position];
        self.ordinal.store(row.ordinal, Ordering::Relaxed);
        let data = row.data.as_ref().ok_or(Fail::Damaged("a staged row"))?;
        let Some(Ok(current)) = t.sql.read(self.conn, key)? else { return Ok(()) };
        for unique in &t.table.uniques {
            let changes = |c: &usize| {
                !t.table.key.contains(c) && data.get(*c).is_some_and(|v| v.as_ref().is_some_and(|v| *v != current[*c]))
            };
            let Some(at) = unique.columns.iter().copied().find(changes) else { continue };
            let column = &t.table.columns[at];
            let own = match column.affinity {
                Affinity::Text => Value::Text(format!("\u{1}parked {}", row.ordinal)),
                Affinity::Blob => Value::Blob(format!("\u{1}parked {:016}", row.ordinal).into_bytes()),
                Affinity::Integer | Affinity::Numeric | Affinity::Real => Value::Integer(i64::MIN / 2 - row.ordinal),
            };
            let sql = format!(
                "UPDATE{} main.{} SET {} = ? WHERE {}",
                t.sql.or_abort,
                quote(&t.table.sql_name),
                quote(&column.sql_name),
                t.sql.by_key
            );
            // What follows by a cascade could not tell one parked row from another, were it NULL.
            let mut spares = if column.not_null { vec![own] } else { vec![own, Value::Null] };
            let mut children = self.scope.loaded.schema.references_to(position);
            if !column.not_null && !children.any(|(_, fk)| fk.parent_columns.contains(&column.name)) {
                spares.reverse();
            }
            for spare in spares {
                let values = std::iter::once(&spare).chain(key);
                let values: Vec<&Value> = values.collect();
                let write = || self.conn.prepare_cached(&sql)?.execute(params_from_iter(&values));
                match self.within(data, write)? {
                    Ok(_) => break,
                    Err(e) if self.conn.is_autocommit() || kind(&e).is_none() => return Err(e.into()),
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// Whether what is declared for a foreign key changes the rows that have it.
fn acts(action: &str) -> bool {
    ["CASCADE", "SET NULL", "SET DEFAULT"].contains(&action)
}

/// A staged row by its ordinal, with its key.
pub(crate) fn fetch(staged: &Connection, ordinal: i64) -> Outcome<(Staged, Vec<Value>)> {
    let mut s = staged.prepare_cached(&format!("{} WHERE n = ?", staging::SELECT))?;
    let mut rows = s.query([ordinal])?;
    let row = staging::read(rows.next()?.ok_or(Fail::Damaged("a staged row"))?)?;
    let key = row.key.unpack().map_err(|_| Fail::Damaged("a staged key"))?;
    Ok((row, key))
}

/// What an operator can do for a new row that does not know of a column.
fn way_out(t: &TableInfo, row: &Staged) -> String {
    let Some(data) = row.data.as_ref().filter(|_| row.op == Op::Insert) else { return String::new() };
    let absent = t.table.columns.iter().zip(data).filter(|(c, v)| v.is_none() && t.required.contains(&c.name));
    let lines: Vec<String> = absent.map(|(c, _)| c.line_with_default()).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "; this device's table has no such column: the server's schema.sql may give it a DEFAULT, also now: {}",
        lines.join(", ")
    )
}

/// NOT NULL columns that the row leaves or sets NULL.
fn missing(t: &TableInfo, row: &Staged) -> Vec<String> {
    let Some(data) = &row.data else { return vec![] };
    let null = |i: usize| match (&data[i], row.op) {
        (Some(v), _) => v.is_null(),
        (None, op) => op == Op::Insert,
    };
    let columns = t.table.columns.iter().enumerate();
    columns.filter(|(i, c)| c.not_null && null(*i)).map(|(_, c)| c.name.clone()).collect()
}

/// The key of another row that holds the UNIQUE value that a staged row asks for.
fn holder(
    conn: &Connection,
    t: &TableInfo,
    unique: &Unique,
    row: &Staged,
    key: &[Value],
) -> Outcome<Option<Vec<Value>>> {
    let Some(data) = &row.data else { return Ok(None) };
    let Some(values) = unique.columns.iter().map(|c| data[*c].as_ref()).collect::<Option<Vec<&Value>>>() else {
        return Ok(None);
    };
    let same: Vec<String> = unique
        .columns
        .iter()
        .zip(&unique.collations)
        .map(|(c, collation)| format!("{} = ? COLLATE {}", quote(&t.table.columns[*c].sql_name), quote(collation)))
        .collect();
    let sql = format!(
        "SELECT {0} FROM main.{1} WHERE {2} AND ({0}) IS NOT ({3})",
        t.sql.key,
        quote(&t.table.sql_name),
        same.join(" AND "),
        placeholders(key.len())
    );
    let mut s = conn.prepare_cached(&sql)?;
    let found = s
        .query_row(params_from_iter(values.into_iter().chain(key)), |r| {
            Ok((0..t.table.key.len()).map(|i| value(r.get_ref_unwrap(i), i)).collect::<Result<Vec<_>, _>>())
        })
        .optional()?;
    Ok(found.transpose()?)
}
