//! The commit of a staged push: all of it or nothing.
//!
//! Two ways lead to the same bundle. The *direct* one is for pushes of which every row has itself as
//! its only effect: it applies, hashes and logs row by row, and gives up at the first trouble. The
//! *captured* one takes everything: it captures what foreign-key actions and rules do, collects every
//! conflict or every offender, and says so.

use rusqlite::{Connection, params, params_from_iter};
use sync_core::canonical::{Escapes, push_string};
use sync_core::engine::admit::{check_lease, check_sequence, session_not_found};
use sync_core::engine::conflict::{Conflict, RowState, check};
use sync_core::engine::connect::Lifecycle;
use sync_core::engine::effects::effect;
use sync_core::engine::retention::next_floor;
use sync_core::hash::{Algorithm, BundleHasher, Digest, HashRow, RequestHasher, history};
use sync_core::key::Key;
use sync_core::protocol::{ApiError, Code, Op};
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::read_values;
use sync_core::value::Value;
use sync_core::wire::{Form, push_key, push_partial_payload, push_payload};

use super::apply::{Apply, Blocked, fetch};
use super::fail::{Fail, Outcome};
use super::pages::form;
use super::reject::{Kind, MAX_BYTES, Rejections, kind};
use super::schema::TableInfo;
use super::staging::{self, Push, Staged};
use super::store::{self, Bundle, State};
use super::{Scope, Writer, capture};
use crate::service::FaultPoint;

/// Conflicts that are listed, at most.
const MAX_CONFLICTS: usize = 1000;

/// Rows from which a push gets a larger page cache for as long as it commits: keys that come in no
/// order touch every page of an index, and a page that left the cache is written more than once.
const LARGE: i64 = 5000;
const LARGE_CACHE_KIB: i64 = 20 * 1024;

/// A commit, as asked for.
pub(crate) struct Job<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) push: &'a Push,
    pub(crate) staged: &'a Connection,
    pub(crate) schema: &'a str,
    pub(crate) algorithm: Algorithm,
    pub(crate) now_ms: i64,
    pub(crate) retained: i64,
    pub(crate) fault: &'a dyn Fn(FaultPoint),
}

/// Why the direct way was left.
enum Left {
    /// The captured way knows what to say.
    Trouble,
    Failed(Fail),
}

impl<E: Into<Fail>> From<E> for Left {
    fn from(e: E) -> Self {
        Self::Failed(e.into())
    }
}

/// Commits a staged push.
pub(crate) fn commit(job: &Job<'_>) -> Outcome<Bundle> {
    let large = job.push.made.planned > LARGE;
    if large {
        job.scope.with_writer(|w| Ok(w.conn.pragma_update(None, "cache_size", -LARGE_CACHE_KIB)?))?;
    }
    let done = commit_all(job);
    if large {
        job.scope.with_writer(|w| {
            w.conn.pragma_update(None, "cache_size", -super::WRITER_CACHE_KIB)?;
            Ok(w.conn.execute_batch("PRAGMA shrink_memory")?)
        })?;
    }
    done
}

fn commit_all(job: &Job<'_>) -> Outcome<Bundle> {
    job.scope.with_writer(|w| {
        if direct_fits(job)? {
            match direct(&w.conn, job) {
                Ok(bundle) => return Ok(bundle),
                Err(Left::Failed(e)) => return Err(e),
                Err(Left::Trouble) => {
                    if !w.conn.is_autocommit() {
                        w.conn.execute_batch("ROLLBACK")?;
                    }
                }
            }
        }
        capture::start(&w.conn, &job.scope.loaded.tables, |at| job.scope.id(at))?;
        let done = captured(w, job);
        if !w.conn.is_autocommit() {
            w.conn.execute_batch("ROLLBACK")?;
        }
        capture::stop(&w.conn, job.scope.loaded.tables.len())?;
        done
    })
}

/// Begins the transaction and checks what may have changed since the push was staged.
fn begin(conn: &Connection, job: &Job<'_>) -> Outcome<State> {
    conn.execute_batch("BEGIN IMMEDIATE; PRAGMA defer_foreign_keys = ON")?;
    let state = store::state(conn)?;
    let made = &job.push.made;
    let who = job.push.who();
    // Replaced by a newer session for the same tuple, or committed before a crash.
    if job.push.is_gone() || store::bundle_of(conn, who.source, made.source_bundle_id)?.is_some() {
        return Err(session_not_found(&job.push.id).into());
    }
    match &made.initialization_id {
        Some(id) => check_lease(id, who, &state.lifecycle, job.now_ms)?,
        None if state.lifecycle != Lifecycle::Initialized => {
            return Err(ApiError::new(Code::InitializationStale, "scope is not initialized").into());
        }
        None => {}
    }
    check_sequence(made.source_bundle_id, who, store::source(conn, who.source)?.as_ref())?;
    Ok(state)
}

/// Writes the bundle's rows and hashes them.
struct Log<'a> {
    conn: &'a Connection,
    schema: &'a str,
    seq: i64,
    first_row: i64,
    blake3: BundleHasher,
    sha256: Option<BundleHasher>,
    bytes: i64,
    key: String,
    payload: String,
    other: (String, String),
}

impl<'a> Log<'a> {
    fn new(conn: &'a Connection, job: &Job<'a>, state: &State) -> Outcome<Self> {
        Ok(Self {
            conn,
            schema: job.schema,
            seq: state.history.latest + 1,
            first_row: store::next_row(conn)?,
            blake3: BundleHasher::new(Algorithm::Blake3),
            sha256: (job.algorithm == Algorithm::Sha256).then(|| BundleHasher::new(Algorithm::Sha256)),
            bytes: 0,
            key: String::new(),
            payload: String::new(),
            other: Default::default(),
        })
    }

    /// Takes the next row; `row` is its content, `None` where it is deleted.
    fn row(&mut self, t: &TableInfo, tab: i64, op: Op, key: &[Value], row: Option<&[Value]>) -> Outcome<()> {
        let table = &t.table;
        self.key.clear();
        self.payload.clear();
        push_key(&mut self.key, table, key, Form::Exact);
        if let Some(row) = row {
            push_payload(&mut self.payload, table, &t.order, row, Form::Exact);
        }
        let payload = row.is_some().then_some(self.payload.as_str());
        let n = self.first_row + self.blake3.rows();
        let mut s = self.conn.prepare_cached("INSERT INTO main._sync_bundle_row VALUES (?, ?, ?, ?, ?)")?;
        s.execute(params![n, tab, op.stored(), self.key, payload])?;
        let line =
            HashRow { schema: self.schema, table: &table.name, key: &self.key, op, row_version: self.seq, payload };
        self.blake3.row(line);
        self.bytes += (self.key.len() + self.payload.len() + 64) as i64;
        if let Some(sha256) = &mut self.sha256 {
            let (key_text, payload_text) = &mut self.other;
            key_text.clear();
            payload_text.clear();
            push_key(key_text, table, key, Form::Reference);
            if let Some(row) = row {
                push_payload(payload_text, table, &t.order, row, Form::Reference);
            }
            sha256.row(HashRow { key: key_text, payload: row.is_some().then_some(payload_text.as_str()), ..line });
        }
        Ok(())
    }

    /// Ends the bundle: log, history, source, lifecycle, retention.
    fn finish(self, job: &Job<'_>, state: &State) -> Outcome<Bundle> {
        let made = &job.push.made;
        let row_count = self.blake3.rows();
        let blake3 = self.blake3.finish();
        let bundle = Bundle {
            seq: self.seq,
            source: made.source.clone(),
            source_bundle_id: made.source_bundle_id,
            first_row: self.first_row,
            row_count,
            bytes: self.bytes,
            blake3,
            sha256: self.sha256.map(BundleHasher::finish),
            history_hash: history(state.history_hash, blake3, self.seq),
            request_hash: made.request_hash.as_deref().and_then(Digest::from_hex),
        };
        store::append(self.conn, &bundle, job.now_ms)?;
        store::activate(self.conn, &made.source, made.source_bundle_id)?;
        if state.lifecycle != Lifecycle::Initialized {
            store::set_lifecycle(self.conn, &Lifecycle::Initialized, &made.source, job.now_ms)?;
        }
        if let Some(floor) = next_floor(state.history.floor, self.seq, job.retained) {
            store::prune(self.conn, floor)?;
        }
        Ok(bundle)
    }
}

/// Hashes the rows as they were uploaded, where the client said what they come to.
struct Request<'a> {
    expected: Option<&'a str>,
    hasher: RequestHasher,
    key: String,
    payload: String,
}

impl<'a> Request<'a> {
    fn new(job: &'a Job<'_>) -> Self {
        Self {
            expected: job.push.made.request_hash.as_deref(),
            hasher: RequestHasher::default(),
            key: String::new(),
            payload: String::new(),
        }
    }

    fn row(&mut self, schema: &str, t: &TableInfo, row: &Staged, key: &[Value]) {
        if self.expected.is_none() {
            return;
        }
        self.key.clear();
        self.payload.clear();
        push_key(&mut self.key, &t.table, key, Form::Exact);
        let payload = row.data.as_ref().map(|data| {
            match row.extra.as_ref().filter(|e| !e.unsent.is_empty()) {
                None => push_partial_payload(&mut self.payload, &t.table, &t.order, data, Form::Exact),
                Some(extra) => {
                    let mut sent = data.clone();
                    for at in &extra.unsent {
                        sent[*at] = None;
                    }
                    push_partial_payload(&mut self.payload, &t.table, &t.order, &sent, Form::Exact);
                }
            }
            self.payload.as_str()
        });
        self.hasher.row(schema, &t.table.name, &self.key, row.op, row.base, payload);
    }

    fn check(self) -> Result<(), ApiError> {
        match self.expected {
            Some(expected) if self.hasher.finish().hex() != expected => {
                Err(ApiError::new(Code::PushCommitInvalid, "request_hash does not match the staged rows"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether every row of the push has itself as its only effect.
fn direct_fits(job: &Job<'_>) -> Outcome<bool> {
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

fn direct(conn: &Connection, job: &Job<'_>) -> Result<Bundle, Left> {
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
        let after = sql[at].apply(conn, t, &row, &key).map_err(|e| match (kind(&e), conn.is_autocommit()) {
            (Some(_), false) => Left::Trouble,
            _ => Left::Failed(e.into()),
        })?;
        match (row.op, after) {
            (Op::Delete, Some(_)) => log.row(t, row.tab, row.op, &key, None)?,
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
                "UPDATE OR ABORT main.{name} SET {} WHERE {} RETURNING {}",
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
        let values = read_values(r, 0, t.table.columns.len()).ok();
        rows.next()?;
        Ok(values)
    }
}

fn captured(w: &Writer, job: &Job<'_>) -> Outcome<Bundle> {
    let conn = &w.conn;
    let state = begin(conn, job)?;
    refuse_duplicates(job)?;
    let mut rejections = Rejections::default();
    let mut conflicts = Conflicts::default();
    let mut blocked = Blocked::default();
    let mut request = Request::new(job);
    let mut apply =
        Apply { scope: job.scope, conn, staged: job.staged, ordinal: &w.ordinal, rejections: &mut rejections };
    let mut statement = job.staged.prepare_cached(&format!("{} ORDER BY n", staging::SELECT))?;
    let mut rows = statement.query([])?;
    let mut expected = 0;
    while let Some(r) = rows.next()? {
        let row = staging::read(r)?;
        if row.ordinal != expected {
            let text = format!("staged rows are not contiguous at row_ordinal {expected}");
            return Err(ApiError::new(Code::PushCommitInvalid, text).into());
        }
        expected += 1;
        let key = row.key.unpack().map_err(|_| Fail::Damaged("a staged key"))?;
        request.row(job.schema, job.scope.table(row.tab)?, &row, &key);
        match check(row.op, row_state(conn, row.tab, &row.key)?, row.base) {
            Err(c) => conflicts.add(row.ordinal, c),
            Ok(()) if conflicts.is_empty() => apply.row(&row, &key, &mut blocked)?,
            Ok(()) => {}
        }
    }
    drop(rows);
    if expected != job.push.made.planned {
        return Err(incomplete(expected, job.push.made.planned).into());
    }
    request.check()?;
    if !conflicts.is_empty() {
        // What was applied so far must not show in the rows that the answer carries.
        conn.execute_batch("ROLLBACK; BEGIN")?;
        return Err(conflicts.into_error(conn, job)?.into());
    }
    apply.settle(blocked)?;
    orphans(conn, job.scope, &mut rejections)?;
    if !rejections.is_empty() {
        return Err(rejected(rejections, job)?);
    }
    let mut log = Log::new(conn, job, &state)?;
    log_effects(conn, job, &mut log, &mut rejections)?;
    if rejections.is_empty() && log.blake3.rows() == 0 {
        for ordinal in 0..expected {
            let text = "the push comes to nothing: a rule of the server undoes it";
            rejections.add(ordinal, Kind::NoEffect, vec![], text.into());
            if rejections.truncated {
                break;
            }
        }
    }
    if !rejections.is_empty() {
        return Err(rejected(rejections, job)?);
    }
    let bundle = log.finish(job, &state)?;
    (job.fault)(FaultPoint::BeforeCommit);
    match conn.execute_batch("COMMIT") {
        Ok(()) => Ok(bundle),
        Err(e) if kind(&e) == Some(Kind::ForeignKey) => {
            // Found by SQLite alone: no row can be singled out, so the push is named as a whole.
            for ordinal in 0..expected {
                rejections.add(ordinal, Kind::ForeignKey, vec![], "the push leaves a foreign key unsatisfied".into());
                if rejections.truncated {
                    break;
                }
            }
            Err(rejected(rejections, job)?)
        }
        Err(e) => Err(e.into()),
    }
}

/// `push_commit_invalid` for a push that is not all there.
pub(crate) fn incomplete(staged: i64, planned: i64) -> ApiError {
    let text = format!("staged row count {staged} does not match planned_row_count {planned}");
    ApiError::new(Code::PushCommitInvalid, text)
}

fn refuse_duplicates(job: &Job<'_>) -> Outcome<()> {
    let mut s = job.staged.prepare_cached("SELECT tab, key FROM row GROUP BY tab, key HAVING count(*) > 1 LIMIT 1")?;
    let mut rows = s.query([])?;
    let Some(r) = rows.next()? else { return Ok(()) };
    let t = job.scope.table(r.get(0)?)?;
    let key = Key::from_stored(r.get(1)?).unpack().map_err(|_| Fail::Damaged("a staged key"))?;
    let text =
        format!("duplicate target row in staged push session: {}.{} {}", job.schema, t.table.name, key_text(&key));
    Err(ApiError::new(Code::PushCommitInvalid, text).into())
}

/// A key as it stands in messages.
pub(crate) fn key_text(key: &[Value]) -> String {
    let one = |v: &Value| match v {
        Value::Integer(i) => i.to_string(),
        Value::Text(s) => s.clone(),
        Value::Blob(b) => uuid::Uuid::from_slice(b).map(|u| u.to_string()).unwrap_or_default(),
        Value::Null | Value::Real(_) => String::new(),
    };
    key.iter().map(one).collect::<Vec<_>>().join(",")
}

fn row_state(conn: &Connection, tab: i64, key: &Key) -> Outcome<Option<RowState>> {
    let mut s = conn.prepare_cached("SELECT version, deleted FROM main._sync_row WHERE tab = ? AND key = ?")?;
    let mut rows = s.query(params![tab, key.as_bytes()])?;
    Ok(match rows.next()? {
        None => None,
        Some(r) => Some(RowState { version: r.get(0)?, deleted: r.get(1)? }),
    })
}

/// Turns what was captured into the rows of the bundle, in the order in which keys were first touched.
fn log_effects(conn: &Connection, job: &Job<'_>, log: &mut Log<'_>, rejections: &mut Rejections) -> Outcome<()> {
    let tables = &job.scope.loaded.tables;
    {
        let mut put = conn.prepare("INSERT OR IGNORE INTO temp._sync_effect (tab, key, n) VALUES (?, ?, ?)")?;
        let width = tables.iter().map(|t| t.table.columns.len()).max().unwrap_or(0);
        let columns: String = (0..width).map(|i| format!(", c{i}")).collect();
        let mut s = conn.prepare(&format!("SELECT n, tab, ordinal{columns} FROM temp._sync_captured ORDER BY n"))?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let tab: i64 = r.get(1)?;
            let t = job.scope.table(tab)?;
            let key: Result<Vec<Value>, _> =
                t.table.key.iter().map(|i| sync_core::sqlite::value(r.get_ref_unwrap(3 + i), *i)).collect();
            let key = key.ok().filter(|k| sync_core::wire::key_can_travel(&t.table, k));
            let Some(packed) = key.and_then(|k| Key::pack(&k).ok()) else {
                let text = format!("a rule of the server wrote a row of {} whose key cannot travel", t.table.name);
                rejections.add(r.get(2)?, Kind::Rule, vec![], text);
                continue;
            };
            put.execute(params![tab, packed.as_bytes(), r.get::<_, i64>(0)?])?;
        }
    }
    let mut upsert = conn.prepare_cached(
        "INSERT INTO main._sync_row VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (tab, key) DO UPDATE SET version = ?3, deleted = ?4",
    )?;
    let mut s = conn.prepare(
        "SELECT e.tab, e.key, c.ordinal FROM temp._sync_effect e JOIN temp._sync_captured c USING (n) ORDER BY e.n",
    )?;
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        let tab: i64 = r.get(0)?;
        let t = job.scope.table(tab)?;
        let packed = Key::from_stored(r.get(1)?);
        let key = packed.unpack().map_err(|_| Fail::Damaged("a captured key"))?;
        let lived = row_state(conn, tab, &packed)?.is_some_and(|s| !s.deleted);
        let Ok(row) = t.sql.read(conn, &key)?.transpose() else {
            let text = format!("a rule of the server wrote text into {} that is not UTF-8", t.table.name);
            rejections.add(r.get(2)?, Kind::Rule, vec![], text);
            continue;
        };
        let Some(op) = effect(lived, row.is_some()) else { continue };
        log.row(t, tab, op, &key, row.as_deref())?;
        upsert.execute(params![tab, packed.as_bytes(), log.seq, row.is_none()])?;
    }
    Ok(())
}

/// Finds rows that refer to nothing, by the keys that were touched: SQLite's own counter cannot say
/// which, and an orphan that was there before hides a new one.
fn orphans(conn: &Connection, scope: &Scope, rejections: &mut Rejections) -> Outcome<()> {
    let tables = &scope.loaded.tables;
    for (at, t) in tables.iter().enumerate() {
        for f in &t.table.foreign_keys {
            let Some(parent_at) = scope.loaded.schema.position(&f.parent) else { continue };
            let parent = &tables[parent_at].table;
            let pairs: Vec<(usize, usize)> =
                f.columns.iter().zip(&f.parent_columns).filter_map(|(c, p)| Some((*c, parent.column(p)?))).collect();
            let name = |t: &TableInfo, i: usize| quote(&t.table.columns[i].sql_name);
            let parent_name = quote(&parent.sql_name);
            let child_name = quote(&t.table.sql_name);
            let all =
                |each: &dyn Fn(&(usize, usize)) -> String| pairs.iter().map(each).collect::<Vec<_>>().join(" AND ");
            let p = &tables[parent_at];
            let columns: Vec<String> = f.columns.iter().map(|c| t.table.columns[*c].name.clone()).collect();
            // Touched children whose parent is missing.
            let keys: Vec<String> = t.table.key.iter().map(|i| format!("t.{} = c.c{i}", name(t, *i))).collect();
            let sql = format!(
                "SELECT DISTINCT c.ordinal FROM temp._sync_captured c JOIN main.{child_name} t ON {} \
                 WHERE c.tab = ? AND c.op = {} AND {} AND NOT EXISTS (SELECT 1 FROM main.{parent_name} p WHERE {})",
                keys.join(" AND "),
                capture::CAME,
                all(&|(c, _)| format!("t.{} IS NOT NULL", name(t, *c))),
                all(&|(c, q)| format!("p.{} = t.{}", name(p, *q), name(t, *c))),
            );
            let found = ordinals(conn, &sql, scope.id(at))?;
            for ordinal in found {
                let text = format!("{} refers to a row of {} that does not exist", t.table.name, parent.name);
                rejections.add(ordinal, Kind::ForeignKey, columns.clone(), text);
            }
            // Rows that a removed parent leaves behind.
            let sql = format!(
                "SELECT DISTINCT c.ordinal FROM temp._sync_captured c WHERE c.tab = ? AND c.op = {} \
                 AND EXISTS (SELECT 1 FROM main.{child_name} t WHERE {}) \
                 AND NOT EXISTS (SELECT 1 FROM main.{parent_name} p WHERE {})",
                capture::WENT,
                all(&|(c, q)| format!("t.{} = c.c{q}", name(t, *c))),
                all(&|(_, q)| format!("p.{} = c.c{q}", name(p, *q))),
            );
            for ordinal in ordinals(conn, &sql, scope.id(parent_at))? {
                let text = format!("rows of {} refer to this row of {}", t.table.name, parent.name);
                rejections.add(ordinal, Kind::ForeignKey, vec![], text);
            }
        }
    }
    Ok(())
}

fn ordinals(conn: &Connection, sql: &str, tab: i64) -> Outcome<Vec<i64>> {
    let mut s = conn.prepare_cached(sql)?;
    let rows = s.query_map([tab], |r| r.get(0))?;
    Ok(rows.take(20_000).collect::<Result<_, _>>()?)
}

fn rejected(rejections: Rejections, job: &Job<'_>) -> Outcome<Fail> {
    let e = rejections.into_error(Code::PushRejected, job.schema, |ordinal| {
        let (row, key) = fetch(job.staged, ordinal)?;
        let t = job.scope.table(row.tab)?;
        let mut text = String::new();
        push_key(&mut text, &t.table, &key, Form::Exact);
        Ok::<_, Fail>((t.table.name.clone(), text))
    })?;
    Ok(e.into())
}

/// Conflicts of a push, as many as are listed.
#[derive(Default)]
struct Conflicts {
    list: Vec<(i64, Conflict)>,
    truncated: bool,
}

impl Conflicts {
    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn add(&mut self, ordinal: i64, c: Conflict) {
        if self.list.len() < MAX_CONFLICTS {
            self.list.push((ordinal, c));
        } else {
            self.truncated = true;
        }
    }

    fn into_error(mut self, conn: &Connection, job: &Job<'_>) -> Outcome<ApiError> {
        let mut message = String::new();
        let mut first = String::new();
        let mut all = String::from("[");
        for (n, (ordinal, c)) in self.list.iter().enumerate() {
            let (row, key) = fetch(job.staged, *ordinal)?;
            let t = job.scope.table(row.tab)?;
            let json = conflict_json(conn, job, t, &row, &key, c)?;
            if n == 0 {
                message = c.message(row.op, job.schema, &t.table.name, &key_text(&key));
                first.clone_from(&json);
            } else if all.len() + json.len() > MAX_BYTES {
                self.truncated = true;
                break;
            } else {
                all.push(',');
            }
            all.push_str(&json);
        }
        all.push(']');
        let e = ApiError::new(Code::PushConflict, message).with_json("conflict", first).with_json("conflicts", all);
        Ok(if self.truncated { e.with_json("conflicts_truncated", "true".into()) } else { e })
    }
}

fn conflict_json(
    conn: &Connection,
    job: &Job<'_>,
    t: &TableInfo,
    row: &Staged,
    key: &[Value],
    c: &Conflict,
) -> Outcome<String> {
    use std::fmt::Write as _;
    let mut out = String::from("{\"schema\":");
    push_string(&mut out, job.schema, Escapes::Minimal);
    out.push_str(",\"table\":");
    push_string(&mut out, &t.table.name, Escapes::Minimal);
    out.push_str(",\"key\":");
    push_key(&mut out, &t.table, key, Form::Exact);
    write!(
        out,
        ",\"op\":\"{}\",\"base_row_version\":{},\"server_row_version\":{},\"server_row_deleted\":{},\"server_row\":",
        row.op.name(),
        row.base,
        c.server_version,
        c.server_deleted
    )
    .expect("invariant: writing to a String does not fail");
    match t.sql.read(conn, key)?.transpose()? {
        Some(values) if c.server_version > 0 && !c.server_deleted => {
            push_payload(&mut out, &t.table, &t.order, &values, form(job.algorithm));
        }
        _ => out.push_str("null"),
    }
    out.push('}');
    Ok(out)
}
