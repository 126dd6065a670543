//! The inbox: refused rows, discarded edits and settled conflicts, each with the whole row, so that
//! nothing that a person wrote goes away in silence.

use rusqlite::Connection;
use sync_core::canonical::{Escapes, push_string};
use sync_core::record::Record;
use sync_core::schema::Table;
use sync_core::value::Value;
use sync_core::wire::{Form, push_key, push_partial_payload, push_payload};

use crate::error::Error;
use crate::report::InboxRow;
use crate::store::rfc3339;

/// An entry before it is stored.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// `rejected`, `discarded` or `conflict`.
    pub(crate) kind: &'static str,
    pub(crate) at: i64,
    pub(crate) table: &'a Table,
    pub(crate) key: &'a [Value],
    pub(crate) op: &'static str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    pub(crate) local: Option<&'a [Value]>,
    pub(crate) base: Option<&'a Record>,
    pub(crate) server: Option<&'a [Value]>,
}

impl Entry<'_> {
    /// Stores the entry, in the transaction that does what it says.
    pub(crate) fn store(&self, conn: &Connection) -> Result<(), Error> {
        conn.prepare_cached(
            "INSERT INTO main._sync_inbox (kind, at, tbl, key, op, reason, message, local_row, base_row, server_row) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            self.kind,
            self.at,
            &self.table.name,
            key_json(self.table, self.key),
            self.op,
            self.reason,
            self.message,
            self.local.map(|r| row_json(self.table, r)),
            self.base.map(|r| record_json(self.table, r)),
            self.server.map(|r| row_json(self.table, r)),
        ))?;
        Ok(())
    }
}

/// Adds to the newest entry the row that a merge made of both sides.
pub(crate) fn add_merged(conn: &Connection, table: &Table, merged: &[Value]) -> Result<(), Error> {
    conn.prepare_cached(
        "UPDATE main._sync_inbox SET merged_row = ? WHERE id = (SELECT max(id) FROM main._sync_inbox)",
    )?
    .execute([row_json(table, merged)])?;
    Ok(())
}

/// A file that was not opened since an earlier version has no merged rows.
fn has_merged(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM pragma_table_info('_sync_inbox', 'main') WHERE name = 'merged_row'";
    Ok(conn.prepare(sql)?.exists([])?)
}

/// A key object, as on the wire.
pub(crate) fn key_json(table: &Table, key: &[Value]) -> String {
    let mut out = String::new();
    push_key(&mut out, table, key, Form::Exact);
    out
}

/// A row as JSON in the exact view.
pub(crate) fn row_json(table: &Table, row: &[Value]) -> String {
    let mut out = String::new();
    push_payload(&mut out, table, &table.canonical_order(), row, Form::Exact);
    out
}

fn record_json(table: &Table, row: &Record) -> String {
    let mut padded = row.clone();
    padded.resize(table.columns.len(), None);
    let mut out = String::new();
    push_partial_payload(&mut out, table, &table.canonical_order(), &padded, Form::Exact);
    out
}

/// Reads at most `limit` entries of a kind after an id, newest last.
pub(crate) fn read(conn: &Connection, kind: &str, after: i64, limit: usize) -> Result<Vec<InboxRow>, Error> {
    let mut s = conn.prepare(&format!(
        "SELECT id, kind, at, tbl, key, op, reason, message, local_row, base_row, server_row, {} \
         FROM main._sync_inbox WHERE kind = ? AND id > ? ORDER BY id LIMIT ?",
        if has_merged(conn)? { "merged_row" } else { "NULL" }
    ))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = s.query_map((kind, after, limit), |r| {
        Ok(InboxRow {
            id: r.get(0)?,
            kind: r.get(1)?,
            at: rfc3339(r.get(2)?),
            table: r.get(3)?,
            key: r.get(4)?,
            op: r.get(5)?,
            reason: r.get(6)?,
            message: r.get(7)?,
            local_row: r.get(8)?,
            base_row: r.get(9)?,
            server_row: r.get(10)?,
            merged_row: r.get(11)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A key as a person types it: the JSON object, or the bare text of a one-column key.
pub(crate) fn normalise_key(table: &Table, key: &str) -> String {
    match table.key.as_slice() {
        [only] if !key.trim_start().starts_with('{') => {
            let mut out = String::from("{");
            push_string(&mut out, &table.columns[*only].name, Escapes::Minimal);
            out.push(':');
            push_string(&mut out, key, Escapes::Minimal);
            out.push('}');
            out
        }
        _ => key.trim().to_owned(),
    }
}
