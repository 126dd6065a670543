//! Large replies: stored rows become wire text piece by piece, each in a short read of its own.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::{Connection, params};
use sync_core::canonical::{Escapes, push_string};
use sync_core::hash::{Algorithm, BundleHasher, Digest, HashRow};
use sync_core::json::Members;
use sync_core::protocol::rows::RowText;
use sync_core::protocol::{ApiError, Code, Op};
use sync_core::wire::{Form, decode_value, push_members, push_value};

use super::Scope;
use super::fail::{Fail, Outcome};
use super::schema::TableInfo;
use super::snapshots::Snapshot;
use super::store::{self, Bundle};
use crate::service::Gate;

/// Where a piece of a reply ends, in bytes.
const PIECE: usize = 64 * 1024;

/// The form in which rows go to a caller.
pub(crate) const fn form(algorithm: Algorithm) -> Form {
    match algorithm {
        Algorithm::Blake3 => Form::Exact,
        Algorithm::Sha256 => Form::Plain,
    }
}

/// A stored payload, which is in the exact form, in another form. In most rows both views are alike.
pub(crate) fn payload<'a>(t: &TableInfo, stored: &'a str, form: Form) -> Outcome<Cow<'a, str>> {
    let tagged = || stored.get(1..).is_some_and(|rest| rest.contains("{\"$"));
    if form == Form::Exact || (form == Form::Plain && !tagged()) {
        return Ok(Cow::Borrowed(stored));
    }
    let members: Members = sync_core::json::from_slice(stored.as_bytes()).map_err(|_| Fail::Damaged("a payload"))?;
    let mut out = String::with_capacity(stored.len() + 16);
    out.push('{');
    let escapes = if form == Form::Reference { Escapes::Html } else { Escapes::Minimal };
    for (n, (name, scalar)) in members.0.iter().enumerate() {
        let column = t.table.column(name).ok_or(Fail::Damaged("a payload's column"))?;
        let column = &t.table.columns[column];
        let value = decode_value(&t.table, column, scalar).map_err(|_| Fail::Damaged("a payload's value"))?;
        if n > 0 {
            out.push(',');
        }
        push_string(&mut out, name, escapes);
        out.push(':');
        push_value(&mut out, column, &value, form);
    }
    out.push('}');
    Ok(Cow::Owned(out))
}

/// A stored key in another form: they differ in escapes only.
pub(crate) fn key(stored: &str, form: Form) -> Outcome<Cow<'_, str>> {
    if form != Form::Reference {
        return Ok(Cow::Borrowed(stored));
    }
    let members: Members = sync_core::json::from_slice(stored.as_bytes()).map_err(|_| Fail::Damaged("a key"))?;
    let mut out = String::with_capacity(stored.len() + 8);
    push_members(&mut out, &members, Form::Reference);
    Ok(Cow::Owned(out))
}

/// Reads rows `from..to` of the bundle log until `each` says to stop. Returns where it stopped.
fn scan(
    conn: &Connection,
    from: i64,
    to: i64,
    mut each: impl FnMut(i64, Op, &str, Option<&str>) -> Outcome<bool>,
) -> Outcome<i64> {
    let mut s =
        conn.prepare_cached("SELECT n, tab, op, key, payload FROM _sync_bundle_row WHERE n >= ? AND n < ? ORDER BY n")?;
    let mut rows = s.query(params![from, to])?;
    let mut next = from;
    while let Some(r) = rows.next()? {
        if r.get::<_, i64>(0)? != next {
            break;
        }
        let op = Op::from_stored(r.get(2)?).ok_or(Fail::Damaged("an op"))?;
        let text = |i| r.get_ref(i).map_err(Fail::from).map(|v| v.as_str_or_null());
        let key = text(3)?.map_err(|_| Fail::Damaged("a key"))?.ok_or(Fail::Damaged("a key"))?;
        let payload = text(4)?.map_err(|_| Fail::Damaged("a payload"))?;
        next += 1;
        if !each(r.get(1)?, op, key, payload)? {
            break;
        }
    }
    if next == from && from < to {
        // Pruned while it was being read.
        return Err(ApiError::new(Code::HistoryPruned, "the bundle was pruned while it was read").into());
    }
    Ok(next)
}

/// The `sha256` bundle hash: computed on demand, then remembered.
pub(crate) fn sha256(scope: &Scope, schema: &str, b: &Bundle) -> Outcome<Digest> {
    if let Some(known) = b.sha256 {
        return Ok(known);
    }
    let mut hasher = BundleHasher::new(Algorithm::Sha256);
    let (mut next, end) = (b.first_row, b.first_row + b.row_count);
    while next < end {
        let mut read = 0;
        next = scope.read(|conn| {
            scan(conn, next, end, |tab, op, k, p| {
                let t = scope.table(tab)?;
                let p_form = p.map(|p| payload(t, p, Form::Reference)).transpose()?;
                hasher.row(HashRow {
                    schema,
                    table: &t.table.name,
                    key: &key(k, Form::Reference)?,
                    op,
                    row_version: b.seq,
                    payload: p_form.as_deref(),
                });
                read += k.len() + p.map_or(0, str::len);
                Ok(read < 16 * PIECE)
            })
        })?;
    }
    let hash = hasher.finish();
    // Failing to remember it costs time later, nothing else.
    let remembered = scope
        .write(|conn| Ok(conn.execute("UPDATE _sync_bundle SET sha256 = ? WHERE seq = ?", params![hash.0, b.seq])?));
    if remembered.is_err() {
        tracing::debug!("a bundle hash was not remembered");
    }
    Ok(hash)
}

/// The bundle hash in the caller's algorithm.
pub(crate) fn bundle_hash(scope: &Scope, schema: &str, b: &Bundle, algorithm: Algorithm) -> Outcome<Digest> {
    match algorithm {
        Algorithm::Blake3 => Ok(b.blake3),
        Algorithm::Sha256 => sha256(scope, schema, b),
    }
}

/// A part of a reply that is still to be written.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Ready.
    Text(String),
    /// The members of a bundle before its rows, without the brace.
    Head(Box<Bundle>),
    /// Rows of the bundle log.
    Rows { next: i64, end: i64, version: i64, first: bool },
    /// Rows of a snapshot.
    Frozen { snapshot: Arc<Snapshot>, next: i64, end: i64, first: bool },
}

/// A large reply, written as it is taken.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) gate: Arc<Gate>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) schema: Arc<str>,
    pub(crate) algorithm: Algorithm,
    pub(crate) pieces: VecDeque<Piece>,
}

impl Reply {
    fn fill(&mut self, out: &mut String) -> Outcome<()> {
        let _inside = self.gate.enter()?;
        while out.len() < PIECE {
            let Some(piece) = self.pieces.pop_front() else { break };
            match piece {
                Piece::Text(text) => out.push_str(&text),
                Piece::Head(bundle) => self.head(&bundle, out)?,
                Piece::Rows { next, end, version, first } if next < end => {
                    let next = self.rows(out, next, end, version, first)?;
                    self.pieces.push_front(Piece::Rows { next, end, version, first: false });
                }
                Piece::Frozen { snapshot, next, end, first } if next < end => {
                    let next = snapshot.rows(next, end, |tab, version, k, p| {
                        if !(first && out.ends_with('[')) {
                            out.push(',');
                        }
                        let t = self.scope.table(tab)?;
                        let p = payload(t, p, form(self.algorithm))?;
                        RowText {
                            schema: &self.schema,
                            table: &t.table.name,
                            key: k,
                            op: None,
                            version: ("row_version", version),
                            payload: Some(&p),
                        }
                        .push(out);
                        Ok(out.len() < PIECE)
                    })?;
                    self.pieces.push_front(Piece::Frozen { snapshot, next, end, first: false });
                }
                Piece::Rows { .. } | Piece::Frozen { .. } => {}
            }
        }
        Ok(())
    }

    fn head(&self, b: &Bundle, out: &mut String) -> Outcome<()> {
        use std::fmt::Write as _;
        let hash = bundle_hash(&self.scope, &self.schema, b, self.algorithm)?;
        let mut source = String::new();
        push_string(&mut source, &b.source, Escapes::Minimal);
        write!(
            out,
            "\"bundle_seq\":{},\"source_id\":{source},\"source_bundle_id\":{},\"row_count\":{},\"bundle_hash\":\"{}\",\
             \"history_hash\":\"{}\"",
            b.seq,
            b.source_bundle_id,
            b.row_count,
            hash.hex(),
            b.history_hash.hex()
        )
        .expect("invariant: writing to a String does not fail");
        Ok(())
    }

    fn rows(&self, out: &mut String, next: i64, end: i64, version: i64, first: bool) -> Outcome<i64> {
        let form = form(self.algorithm);
        let mut first = first;
        self.scope.read(|conn| {
            scan(conn, next, end, |tab, op, k, p| {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                let t = self.scope.table(tab)?;
                let p = p.map(|p| payload(t, p, form)).transpose()?;
                RowText {
                    schema: &self.schema,
                    table: &t.table.name,
                    key: k,
                    op: Some(op),
                    version: ("row_version", version),
                    payload: p.as_deref(),
                }
                .push(out);
                Ok(out.len() < PIECE)
            })
        })
    }
}

impl Iterator for Reply {
    type Item = Result<Vec<u8>, ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.pieces.is_empty() {
            return None;
        }
        let mut out = String::with_capacity(PIECE + 4096);
        match self.fill(&mut out) {
            Ok(()) => Some(Ok(out.into_bytes())),
            Err(e) => {
                self.pieces.clear();
                Some(Err(e.into_api()))
            }
        }
    }
}

/// The bundles of a pull page: as many as fit, at least one. Says whether the window has more.
pub(crate) fn page(
    conn: &Connection,
    after: i64,
    stable: i64,
    max_bundles: i64,
    max_bytes: i64,
    max_inline_rows: Option<i64>,
) -> Outcome<(Vec<Bundle>, bool)> {
    let mut page = Vec::new();
    let mut bytes = 0i64;
    let mut more = false;
    store::bundles(conn, after, stable, |b| {
        let full = page.len() as i64 >= max_bundles || (max_bytes > 0 && bytes >= max_bytes);
        if full {
            more = true;
            return false;
        }
        bytes += if max_inline_rows.is_some_and(|m| b.row_count > m) { 256 } else { b.bytes };
        page.push(b);
        true
    })?;
    Ok((page, more))
}
