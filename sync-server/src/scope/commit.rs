//! The commit of a staged push: all of it or nothing.
//!
//! Two ways lead to the same bundle. The *direct* one is for pushes of which every row has itself as
//! its only effect: it applies, hashes and logs row by row, and gives up at the first trouble. The
//! *captured* one takes everything: it captures what foreign-key actions and rules do, collects every
//! conflict or every offender, and says so.

use rusqlite::{Connection, params};
use sync_core::engine::admit::{check_lease, check_sequence, session_not_found};
use sync_core::engine::conflict::RowState;
use sync_core::engine::connect::Lifecycle;
use sync_core::engine::retention::next_floor;
use sync_core::hash::{Algorithm, BundleHasher, Digest, HashRow, RequestHasher, history};
use sync_core::key::Key;
use sync_core::protocol::{ApiError, Code, Op};
use sync_core::value::Value;
use sync_core::wire::{Form, push_key, push_partial_payload, push_payload};

use super::direct::Left;
use super::fail::Outcome;
use super::lineage::check_lineage;
use super::schema::TableInfo;
use super::staging::{Push, Staged};
use super::store::{self, Bundle, State};
use super::{Scope, capture, captured, direct};
use crate::service::FaultPoint;

/// Rows from which a push gets a larger page cache for as long as it commits: keys that come in no
/// order touch every page of an index, and a page that left the cache is written more than once.
pub(super) const LARGE: i64 = 5000;

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
        if direct::fits(job)? {
            match direct::commit(&w.conn, job) {
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
        let done = captured::commit(w, job);
        if !w.conn.is_autocommit() {
            w.conn.execute_batch("ROLLBACK")?;
        }
        capture::stop(&w.conn, job.scope.loaded.tables.len())?;
        done
    })
}

/// Begins the transaction and checks what may have changed since the push was staged.
pub(super) fn begin(conn: &Connection, job: &Job<'_>) -> Outcome<State> {
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
    // The scope's file may have gone back to a backup since the push was staged.
    if let Some((after, hash)) = made.lineage {
        check_lineage(conn, &state, after, hash)?;
    }
    Ok(state)
}

/// Writes the bundle's rows and hashes them.
pub(super) struct Log<'a> {
    conn: &'a Connection,
    schema: &'a str,
    pub(super) seq: i64,
    first_row: i64,
    pub(super) blake3: BundleHasher,
    sha256: Option<BundleHasher>,
    bytes: i64,
    key: String,
    payload: String,
    other: (String, String),
}

impl<'a> Log<'a> {
    pub(super) fn new(conn: &'a Connection, job: &Job<'a>, state: &State) -> Outcome<Self> {
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
    pub(super) fn row(&mut self, t: &TableInfo, tab: i64, op: Op, key: &[Value], row: Option<&[Value]>) -> Outcome<()> {
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
    pub(super) fn finish(self, job: &Job<'_>, state: &State) -> Outcome<Bundle> {
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
pub(super) struct Request<'a> {
    expected: Option<&'a str>,
    hasher: RequestHasher,
    key: String,
    payload: String,
}

impl<'a> Request<'a> {
    pub(super) fn new(job: &'a Job<'_>) -> Self {
        Self {
            expected: job.push.made.request_hash.as_deref(),
            hasher: RequestHasher::default(),
            key: String::new(),
            payload: String::new(),
        }
    }

    pub(super) fn row(&mut self, schema: &str, t: &TableInfo, row: &Staged, key: &[Value]) {
        // Values of columns that the table lacks are not kept: the row is refused for them, which says more
        // than that the hash is another.
        if row.extra.as_ref().is_some_and(|e| !e.unknown.is_empty()) {
            self.expected = None;
        }
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

    pub(super) fn check(self) -> Result<(), ApiError> {
        match self.expected {
            Some(expected) if self.hasher.finish().hex() != expected => {
                Err(ApiError::new(Code::PushCommitInvalid, "request_hash does not match the staged rows"))
            }
            _ => Ok(()),
        }
    }
}

/// `push_commit_invalid` for a push that is not all there.
pub(crate) fn incomplete(staged: i64, planned: i64) -> ApiError {
    let text = format!("staged row count {staged} does not match planned_row_count {planned}");
    ApiError::new(Code::PushCommitInvalid, text)
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

pub(super) fn row_state(conn: &Connection, tab: i64, key: &Key) -> Outcome<Option<RowState>> {
    let mut s = conn.prepare_cached("SELECT version, deleted FROM main._sync_row WHERE tab = ? AND key = ?")?;
    let mut rows = s.query(params![tab, key.as_bytes()])?;
    Ok(match rows.next()? {
        None => None,
        Some(r) => Some(RowState { version: r.get(0)?, deleted: r.get(1)? }),
    })
}
