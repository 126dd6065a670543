//! Listing the inbox, page by page: entries that were recorded, refused rows that are still in their
//! tables, and rows whose key is NULL.

use std::path::Path;
use std::time::SystemTime;

use rusqlite::Connection;
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record;
use sync_core::schema::Table;
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::{RowSql, read_values};

use crate::context::ms_of;
use crate::error::Error;
use crate::inbox;
use crate::report::{InboxPage, InboxRow};
use crate::settle::op_of;
use crate::status::{open_any, tables};
use crate::store::{Meta, rfc3339, tables_of};

/// Reads the inbox entries of a kind: `rejected`, `discarded` or `conflict`; all of them.
///
/// # Errors
/// As [`crate::read_status`].
pub fn read_inbox(path: &Path, kind: &str) -> Result<Vec<InboxRow>, Error> {
    Ok(read_inbox_page(path, kind, None, usize::MAX)?.rows)
}

/// Reads at most `limit` entries of a kind, oldest first, after the place where an earlier page ended
/// ([`InboxPage::next`]). First come recorded entries, then refused rows that are still in their tables.
///
/// # Errors
/// [`Error::Argument`] where `after` is no such place; else as [`crate::read_status`].
pub fn read_inbox_page(path: &Path, kind: &str, after: Option<&str>, limit: usize) -> Result<InboxPage, Error> {
    let conn = open_any(path)?;
    let conn = conn.unchecked_transaction()?;
    let mut page = Page { rows: Vec::new(), limit, last: None, next: None };
    let after = Place::parse(after)?;
    if let Place::Entry(id) = after {
        for row in inbox::read(&conn, kind, id, limit.saturating_add(1))? {
            page.add(Place::Entry(row.id), row);
        }
    }
    if kind == "rejected" && page.next.is_none() {
        match &after {
            Place::Entry(_) => held(&conn, (i64::MIN, &[]), &mut page)?,
            Place::Held(t, k) => held(&conn, (*t, k), &mut page)?,
            Place::Keyless(_) => {}
        }
        if page.next.is_none() {
            keyless(&conn, if let Place::Keyless(n) = after { n } else { 0 }, &mut page)?;
        }
    }
    Ok(InboxPage { rows: page.rows, next: page.next.map(|p| p.text()) })
}

/// Where a page ended: after an entry, a refused row, or so many rows without a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Entry(i64),
    Held(i64, Vec<u8>),
    Keyless(usize),
}

impl Place {
    fn parse(text: Option<&str>) -> Result<Self, Error> {
        let Some(text) = text else { return Ok(Self::Entry(0)) };
        let wrong = || Error::Argument(format!("{text} is not where a page of the inbox ended"));
        match text.split_once('.') {
            None => text.parse().map(Self::Entry).map_err(|_| wrong()),
            Some(("keyless", n)) => n.parse().map(Self::Keyless).map_err(|_| wrong()),
            Some((t, hex)) => {
                let pairs = hex.as_bytes().chunks(2).map(|pair| {
                    let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
                    u8::from_str_radix(pair, 16).ok()
                });
                let bytes: Option<Vec<u8>> = pairs.collect();
                match (t.parse(), bytes) {
                    (Ok(t), Some(k)) => Ok(Self::Held(t, k)),
                    _ => Err(wrong()),
                }
            }
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Entry(id) => id.to_string(),
            Self::Keyless(n) => format!("keyless.{n}"),
            Self::Held(t, k) => {
                let hex: String = k.iter().map(|b| format!("{b:02x}")).collect();
                format!("{t}.{hex}")
            }
        }
    }
}

struct Page {
    rows: Vec<InboxRow>,
    limit: usize,
    last: Option<Place>,
    /// Where it ended, once it is known that more follows.
    next: Option<Place>,
}

impl Page {
    /// Adds a row at its place; one too many says that more follows.
    fn add(&mut self, at: Place, row: InboxRow) {
        if self.rows.len() < self.limit {
            self.rows.push(row);
            self.last = Some(at);
        } else if self.next.is_none() {
            self.next.clone_from(&self.last);
        }
    }
}

/// Refused rows that are still in their tables.
fn held(conn: &Connection, after: (i64, &[u8]), page: &mut Page) -> Result<(), Error> {
    let found = tables_of(conn, None)?;
    let mut list = tables(conn)?;
    list.sort_unstable();
    for (t, name) in list.into_iter().filter(|(t, _)| *t >= after.0) {
        let Some(table) = found.schema.table(&name) else { continue };
        let sql = RowSql::new(table);
        let mut s = conn.prepare(
            "SELECT d.k, d.since, d.base, r.v, d.held, d.message FROM main._sync_dirty d \
             LEFT JOIN main._sync_row r ON r.t = d.t AND r.k = d.k \
             WHERE d.t = ? AND d.held IS NOT NULL AND d.k > ? ORDER BY d.k",
        )?;
        let from: &[u8] = if t == after.0 { after.1 } else { &[] };
        let mut rows = s.query((t, from))?;
        while let Some(r) = rows.next()? {
            if page.next.is_some() {
                return Ok(());
            }
            let k: Vec<u8> = r.get(0)?;
            let key = Key::from_stored(k.clone()).unpack()?;
            let base = r.get::<_, Option<Vec<u8>>>(2)?.map(|b| record::decode(&b)).transpose()?;
            let live = sql.read(conn, &key)?.and_then(Result::ok);
            let row = InboxRow {
                id: 0,
                kind: "rejected".into(),
                at: rfc3339(r.get(1)?),
                table: name.clone(),
                key: inbox::key_json(table, &key),
                op: op_of(live.as_deref(), Known::from_stored(r.get(3)?), base.as_ref()).into(),
                reason: r.get(4)?,
                message: r.get::<_, Option<String>>(5)?.unwrap_or_default(),
                local_row: live.map(|l| inbox::row_json(table, &l)),
                base_row: None,
                server_row: None,
                merged_row: None,
            };
            page.add(Place::Held(t, k), row);
        }
    }
    Ok(())
}

/// S11: rows with NULL in their key. SQLite allows them, no other device could name them; they stay
/// here, and nothing else waits for them. At most 1,000 a table.
fn keyless(conn: &Connection, after: usize, page: &mut Page) -> Result<(), Error> {
    let mut n = 0;
    let found = tables_of(conn, None)?;
    for (_, name) in keyless_tables(conn)? {
        let Some(table) = found.schema.table(&name) else { continue };
        let sql = RowSql::new(table);
        let text = format!(
            "SELECT {} FROM main.{} WHERE {} LIMIT {MOST_KEYLESS}",
            sql.columns,
            quote(&table.sql_name),
            null_key(table)
        );
        let mut s = conn.prepare(&text)?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            n += 1;
            if n <= after {
                continue;
            }
            let row = read_values(r, 0, table.columns.len()).ok();
            let row = InboxRow {
                id: 0,
                kind: "rejected".into(),
                at: rfc3339(ms_of(SystemTime::now())),
                table: table.name.clone(),
                key: "{}".into(),
                op: "INSERT".into(),
                reason: "null_key".into(),
                message: "the key of this row is NULL, so no other device could name it; give it a key".into(),
                local_row: row.map(|r| inbox::row_json(table, &r)),
                base_row: None,
                server_row: None,
                merged_row: None,
            };
            page.add(Place::Keyless(n), row);
        }
    }
    Ok(())
}

fn null_key(table: &Table) -> String {
    let null: Vec<String> =
        table.key.iter().map(|i| format!("{} IS NULL", quote(&table.columns[*i].sql_name))).collect();
    null.join(" OR ")
}

/// Tables in which a row with NULL in its key was seen.
fn keyless_tables(conn: &Connection) -> Result<Vec<(i64, String)>, Error> {
    let seen: String = Meta::Keyless.get(conn)?.unwrap_or_default();
    Ok(tables(conn)?.into_iter().filter(|(_, name)| seen.lines().any(|s| s == name)).collect())
}

/// Recorded entries of a kind.
pub(crate) fn inbox_rows(conn: &Connection, kind: &str) -> Result<u64, Error> {
    let n: i64 =
        conn.prepare_cached("SELECT count(*) FROM main._sync_inbox WHERE kind = ?")?.query_row([kind], |r| r.get(0))?;
    Ok(n.unsigned_abs())
}

/// Refused rows that are still in their tables.
pub(crate) fn held_rows(conn: &Connection) -> Result<u64, Error> {
    let n: i64 = conn.query_row("SELECT count(*) FROM main._sync_dirty WHERE held IS NOT NULL", [], |r| r.get(0))?;
    Ok(n.unsigned_abs())
}

/// Rows with NULL in their key.
pub(crate) fn keyless_rows(conn: &Connection) -> Result<u64, Error> {
    let mut n = 0;
    let seen = keyless_tables(conn)?;
    if seen.is_empty() {
        return Ok(0);
    }
    let found = tables_of(conn, None)?;
    for (_, name) in seen {
        let Some(table) = found.schema.table(&name) else { continue };
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM main.{} WHERE {} LIMIT {MOST_KEYLESS})",
            quote(&table.sql_name),
            null_key(table)
        );
        n += conn.query_row(&sql, [], |r| r.get::<_, i64>(0))?;
    }
    Ok(n.unsigned_abs())
}

/// Rows without a key that are listed of one table.
const MOST_KEYLESS: i64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back() {
        for place in [
            Place::Entry(0),
            Place::Entry(99),
            Place::Held(3, vec![]),
            Place::Keyless(5),
            Place::Held(7, vec![0, 255, 16]),
        ] {
            assert_eq!(Place::parse(Some(&place.text())).unwrap(), place);
        }
        assert_eq!(Place::parse(None).unwrap(), Place::Entry(0));
        for wrong in ["", "x", "1.0", "1.zz", ".00", "1.é"] {
            assert!(Place::parse(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
