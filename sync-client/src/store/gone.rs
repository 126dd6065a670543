//! Tables that are not synced any more: the app dropped them, or chose others. What of them was not on the server yet is
//! told in the inbox, and holds nobody up.

use rusqlite::Connection;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::record;
use sync_core::sqlite::capture::{log_columns, log_name};
use sync_core::sqlite::quote;

use super::fold::{Rows, fold};
use super::shape::Shape;
use super::{Store, names};
use crate::apply::full;
use crate::error::Error;
use crate::inbox::Entry;

impl Store {
    /// Ends the capture of tables that are not synced any more. Their rows, where they still have them, stay.
    pub(super) fn end_capture(&self, now: i64) -> Result<(), Error> {
        let conn = &self.conn;
        for (id, name) in self.gone()? {
            self.count_logged(id, &name, now)?;
            names::drop_all(conn, names::triggers(conn)?.iter().filter(|t| t.id == id))?;
            conn.execute_batch(&format!("DROP TABLE IF EXISTS main.{}", quote(&log_name(id))))?;
        }
        Ok(())
    }

    /// What was captured last counts among what is pending.
    fn count_logged(&self, id: i64, name: &str, now: i64) -> Result<(), Error> {
        let log = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?";
        if !self.conn.prepare_cached(log)?.exists([log_name(id)])? {
            return Ok(());
        }
        let Some((_, shape)) = Shape::read(&self.conn, name)? else { return Ok(()) };
        let names = log_columns(shape.columns.len());
        let table = shape.table(name);
        if table.key.is_empty() {
            return Ok(());
        }
        let key: Vec<&str> = table.key.iter().map(|i| names[*i].as_str()).collect();
        fold(&self.conn, &Rows { id, key: &key, columns: names.len(), live: None }, now)?;
        Ok(())
    }

    /// Forgets such tables, but for those of which rows are in flight: what is there is settled first.
    pub(crate) fn forget_gone(&self, tell: bool, now: Option<i64>) -> Result<(), Error> {
        let conn = &self.conn;
        for (id, name) in self.gone()? {
            if conn.prepare_cached("SELECT 1 FROM main._sync_out WHERE t = ?")?.exists([id])? {
                continue;
            }
            if tell {
                tell_of(conn, id, &name, now)?;
            }
            for table in ["_sync_dirty", "_sync_row", "_sync_earlier"] {
                conn.execute(&format!("DELETE FROM main.{table} WHERE t = ?"), [id])?;
            }
            conn.execute("DELETE FROM main._sync_table WHERE id = ?", [id])?;
        }
        Ok(())
    }

    /// Rows of such tables in an outbox that goes back: nothing will send them, so each is kept whole in the inbox.
    pub(super) fn keep_unsent(&self) -> Result<(), Error> {
        let conn = &self.conn;
        for (id, name) in self.gone()? {
            let Some((_, shape)) = Shape::read(conn, &name)? else { continue };
            let table = shape.table(&name);
            let message = what_happened(conn, &name)?;
            let mut s =
                conn.prepare("SELECT k, op, row, base, since FROM main._sync_out WHERE t = ? ORDER BY ordinal")?;
            let mut rows = s.query([id])?;
            while let Some(r) = rows.next()? {
                let record = |i: usize| -> Result<_, Error> {
                    Ok(r.get::<_, Option<Vec<u8>>>(i)?.map(|b| record::decode(&b)).transpose()?)
                };
                let op = Op::from_stored(r.get(1)?).ok_or_else(|| Error::Damaged("outbox".into()))?;
                let local = record(2)?.map(|mut row| {
                    row.resize(table.columns.len(), None);
                    full(row)
                });
                Entry {
                    kind: "discarded",
                    at: r.get(4)?,
                    table: &table,
                    key: &Key::from_stored(r.get(0)?).unpack()?,
                    op: op.name(),
                    reason: REASON,
                    message: &format!("{message} before this change was on the server"),
                    local: local.as_deref(),
                    base: record(3)?.as_ref(),
                    server: None,
                }
                .store(conn)?;
            }
            drop(rows);
            conn.execute(
                "DELETE FROM main._sync_dirty WHERE (t, k) IN (SELECT t, k FROM main._sync_out WHERE t = ?)",
                [id],
            )?;
            conn.execute("DELETE FROM main._sync_out WHERE t = ?", [id])?;
        }
        Ok(())
    }

    /// Number and name of each table that was synced and is not any more.
    fn gone(&self) -> Result<Vec<(i64, String)>, Error> {
        let mut s = self.conn.prepare_cached("SELECT id, name FROM main._sync_table")?;
        let known: Vec<(i64, String)> = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        Ok(known.into_iter().filter(|(id, _)| self.position(*id).is_none()).collect())
    }
}

/// What was pending and not in an outbox is not known row by row any more.
fn tell_of(conn: &Connection, id: i64, name: &str, now: Option<i64>) -> Result<(), Error> {
    let (rows, since): (i64, Option<i64>) =
        conn.query_row("SELECT count(*), max(since) FROM main._sync_dirty WHERE t = ?", [id], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })?;
    if rows == 0 {
        return Ok(());
    }
    let message = what_happened(conn, name)?;
    let text =
        format!("{message} while {rows} changed rows of it were not on the server yet; the server's rows stay there");
    conn.execute(
        "INSERT INTO main._sync_inbox (kind, at, tbl, key, op, reason, message) \
         VALUES ('discarded', ?, ?, '{}', 'UPDATE', ?, ?)",
        (now.or(since).unwrap_or(0), name, REASON, text),
    )?;
    Ok(())
}

fn what_happened(conn: &Connection, name: &str) -> Result<String, Error> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE";
    let there = conn.prepare_cached(sql)?.exists([name])?;
    Ok(if there {
        format!("table {name} was taken out of those that are synced (its rows stay in this file)")
    } else {
        format!("table {name} was not in the file any more (dropped or renamed)")
    })
}

/// The reason in one word.
const REASON: &str = "table_gone";
