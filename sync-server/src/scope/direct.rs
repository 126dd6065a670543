//! The direct way of a commit: for pushes of which every row has itself as its only effect.

use rusqlite::{Connection, params, params_from_iter};
use sync_core::protocol::Op;
use sync_core::schema::Affinity;
use sync_core::sqlite::connection::no_longer_than;
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::read_values;
use sync_core::value::Value;

use super::Scope;
use super::apply::length;
use super::commit::{Job, LARGE, Log, Request, begin};
use super::fail::{Fail, Outcome};
use super::reject::{Kind, kind};
use super::schema::TableInfo;
use super::staging::{self, Staged};
use super::store::Bundle;
use crate::service::FaultPoint;

/// Why the direct way was left.
pub(super) enum Left {
    /// The captured way knows what to say.
    Trouble,
    Failed(Fail),
}

impl<E: Into<Fail>> From<E> for Left {
    fn from(e: E) -> Self {
        Self::Failed(e.into())
    }
}

/// Whether every row of the push has itself as its only effect.
pub(super) fn fits(job: &Job<'_>) -> Outcome<bool> {
    let loaded = &job.scope.loaded;
    if !loaded.rules.is_empty() {
        return Ok(false);
    }
    let mut s = job.staged.prepare_cached("SELECT DISTINCT tab, op FROM row")?;
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        let at = job.scope.position(r.get(0)?)?;
        let table = &loaded.tables[at].table;
        let fits = match Op::from_stored(r.get(1)?).ok_or(Fail::Damaged("a staged row"))? {
            Op::Insert => true,
            Op::Update => loaded
                .schema
                .references_to(at)
                .all(|(_, f)| f.parent_columns.iter().all(|c| table.column(c).is_some_and(|i| table.key.contains(&i)))),
            Op::Delete => loaded.schema.references_to(at).next().is_none(),
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn commit(conn: &Connection, job: &Job<'_>) -> Result<Bundle, Left> {
    let state = begin(conn, job)?;
    let mut log = Log::new(conn, job, &state)?;
    let mut request = Request::new(job);
    let sql: Vec<Returning> = job.scope.loaded.tables.iter().map(Returning::new).collect();
    let mut versions = Versions::new(conn, log.seq)?;
    let mut parents = Parents::new(job.scope);
    let sorted = job.push.made.planned > LARGE;
    if sorted && !advance_sorted(job, &mut versions)? {
        return Err(Left::Trouble);
    }
    let mut statement = job.staged.prepare_cached(&format!("{} ORDER BY n", staging::SELECT))?;
    let mut rows = statement.query([])?;
    let mut expected = 0;
    while let Some(r) = rows.next()? {
        let row = staging::read(r)?;
        if row.ordinal != expected || row.extra.as_ref().is_some_and(|e| !e.unknown.is_empty()) {
            return Err(Left::Trouble);
        }
        expected += 1;
        let at = job.scope.position(row.tab)?;
        let t = &job.scope.loaded.tables[at];
        let key = row.key.unpack().map_err(|_| Fail::Damaged("a staged key"))?;
        request.row(job.schema, t, &row, &key);
        if !sorted && !versions.advance(&row)? {
            return Err(Left::Trouble);
        }
        // A delete takes no room: nothing was sent of which anything could be made.
        let room = row.data.as_ref().map_or(u64::MAX, |data| job.scope.room_for(length(data)));
        let after = no_longer_than(conn, room, || sql[at].apply(conn, t, &row, &key));
        let after = after.and_then(|after| after).map_err(|e| match (kind(&e), conn.is_autocommit()) {
            (Some(_), false) => Left::Trouble,
            _ => Left::Failed(e.into()),
        })?;
        match (row.op, after) {
            (Op::Delete, Some(_)) => log.row(t, row.tab, row.op, &key, None)?,
            // A key that SQLite stores in another form than it was sent in.
            (_, Some(after)) if t.sql.key_of(&after) != key => return Err(Left::Trouble),
            (_, Some(after)) => {
                if !parents.check(conn, at, &after)? {
                    return Err(Left::Trouble);
                }
                log.row(t, row.tab, row.op, &key, Some(&after))?;
            }
            (_, None) => return Err(Left::Trouble),
        }
    }
    if expected != job.push.made.planned || expected == 0 {
        return Err(Left::Trouble);
    }
    request.check()?;
    if !parents.settle(conn)? {
        return Err(Left::Trouble);
    }
    let bundle = log.finish(job, &state)?;
    (job.fault)(FaultPoint::BeforeCommit);
    match conn.execute_batch("COMMIT") {
        Ok(()) => Ok(bundle),
        Err(e) if kind(&e) == Some(Kind::ForeignKey) => Err(Left::Trouble),
        Err(e) => Err(e.into()),
    }
}

/// As [`Versions::advance`] for all rows, in key order: each page of a large table of versions is
/// then touched once.
fn advance_sorted(job: &Job<'_>, versions: &mut Versions<'_>) -> Outcome<bool> {
    let mut s = job.staged.prepare_cached("SELECT n, tab, op, base, key, NULL, NULL FROM row ORDER BY tab, key")?;
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        if !versions.advance(&staging::read(r)?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether what rows refer to is there: at once, or at the latest when all rows are.
struct Parents {
    /// By table: the columns of each foreign key, and the statement that finds its parent.
    checks: Vec<Vec<ForeignKeyCheck>>,
    waiting: Vec<(usize, usize, Vec<Value>)>,
}

struct ForeignKeyCheck {
    columns: Vec<usize>,
    sql: String,
    last: Vec<Value>,
}

impl Parents {
    /// References that may wait for their parents, at most.
    const WAITING: usize = 50_000;

    fn new(scope: &Scope) -> Self {
        let schema = &scope.loaded.schema;
        let check = |f: &sync_core::schema::ForeignKey| {
            let parent = schema.table(&f.parent)?;
            let same: Option<Vec<String>> = f
                .parent_columns
                .iter()
                .map(|c| Some(format!("{} = ?", quote(&parent.columns[parent.column(c)?].sql_name))))
                .collect();
            let sql = format!("SELECT 1 FROM main.{} WHERE {}", quote(&parent.sql_name), same?.join(" AND "));
            Some(ForeignKeyCheck { columns: f.columns.clone(), sql, last: Vec::new() })
        };
        let checks = schema.tables().iter().map(|t| t.foreign_keys.iter().filter_map(check).collect()).collect();
        Self { checks, waiting: Vec::new() }
    }

    fn check(&mut self, conn: &Connection, at: usize, row: &[Value]) -> rusqlite::Result<bool> {
        for (n, f) in self.checks[at].iter_mut().enumerate() {
            if f.columns.iter().any(|c| row[*c].is_null())
                || (!f.last.is_empty() && f.columns.iter().zip(&f.last).all(|(c, v)| row[*c] == *v))
            {
                continue;
            }
            let values: Vec<Value> = f.columns.iter().map(|c| row[*c].clone()).collect();
            if conn.prepare_cached(&f.sql)?.exists(params_from_iter(&values))? {
                f.last = values;
            } else if self.waiting.len() < Self::WAITING {
                self.waiting.push((at, n, values));
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn settle(self, conn: &Connection) -> rusqlite::Result<bool> {
        for (at, n, values) in &self.waiting {
            if !conn.prepare_cached(&self.checks[*at][*n].sql)?.exists(params_from_iter(values))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Moves rows from the version that the client saw to this bundle's, which proves that there is no
/// conflict and no second row for the same target.
struct Versions<'a> {
    insert: rusqlite::CachedStatement<'a>,
    update: rusqlite::CachedStatement<'a>,
    seq: i64,
}

impl<'a> Versions<'a> {
    fn new(conn: &'a Connection, seq: i64) -> rusqlite::Result<Self> {
        Ok(Self {
            insert: conn.prepare_cached("INSERT OR IGNORE INTO main._sync_row VALUES (?, ?, ?, 0)")?,
            update: conn.prepare_cached(
                "UPDATE main._sync_row SET version = ?, deleted = ? WHERE tab = ? AND key = ? AND version = ? AND deleted = ?",
            )?,
            seq,
        })
    }

    fn advance(&mut self, row: &Staged) -> rusqlite::Result<bool> {
        if row.base >= self.seq {
            return Ok(false);
        }
        let key = row.key.as_bytes();
        let moved = if row.op == Op::Insert && row.base == 0 {
            self.insert.execute(params![row.tab, key, self.seq])?
        } else {
            let (gone, was_gone) = (row.op == Op::Delete, row.op == Op::Insert);
            self.update.execute(params![self.seq, gone, row.tab, key, row.base, was_gone])?
        };
        Ok(moved == 1)
    }
}

/// Statements that write a complete row and return it as the table has it.
struct Returning {
    insert: String,
    update: String,
    delete: String,
    others: Vec<usize>,
}

impl Returning {
    fn new(t: &TableInfo) -> Self {
        let mut others: Vec<usize> = (0..t.table.columns.len()).filter(|i| !t.table.key.contains(i)).collect();
        if others.is_empty() {
            others.clone_from(&t.table.key);
        }
        let set: Vec<String> = others.iter().map(|i| format!("{} = ?", quote(&t.table.columns[*i].sql_name))).collect();
        let name = quote(&t.table.sql_name);
        Self {
            insert: format!("{} RETURNING {}", t.sql.insert, t.sql.columns),
            update: format!(
                "UPDATE{} main.{name} SET {} WHERE {} RETURNING {}",
                t.sql.or_abort,
                set.join(", "),
                t.sql.by_key,
                t.sql.columns
            ),
            delete: t.sql.delete.clone(),
            others,
        }
    }

    /// The row afterwards, nothing for DELETE; `None` where no row, or not a complete one, was written.
    fn apply(
        &self,
        conn: &Connection,
        t: &TableInfo,
        row: &Staged,
        key: &[Value],
    ) -> rusqlite::Result<Option<Vec<Value>>> {
        let Some(data) = &row.data else {
            return Ok((conn.prepare_cached(&self.delete)?.execute(params_from_iter(key))? == 1).then(Vec::new));
        };
        if data.len() != t.table.columns.len() || data.iter().any(Option::is_none) {
            return Ok(None);
        }
        let (mut statement, update);
        let mut rows = if row.op == Op::Insert {
            statement = conn.prepare_cached(&self.insert)?;
            statement.query(params_from_iter(data.iter().flatten()))?
        } else {
            update = self.others.iter().filter_map(|i| data[*i].as_ref()).chain(key);
            statement = conn.prepare_cached(&self.update)?;
            statement.query(params_from_iter(update))?
        };
        let Some(r) = rows.next()? else { return Ok(None) };
        let mut values = read_values(r, 0, t.table.columns.len()).ok();
        rows.next()?;
        // Older versions of SQLite return a whole number in a REAL column as an INTEGER.
        for (v, c) in values.iter_mut().flatten().zip(&t.table.columns) {
            if let (Value::Integer(i), Affinity::Real) = (&*v, c.affinity) {
                *v = Value::Real(*i as f64);
            }
        }
        Ok(values)
    }
}
