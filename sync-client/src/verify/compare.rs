//! Two files, offline: two synced ones, or a synced one and any other with the same tables.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record::Record;
use sync_core::schema::{Schema, Table};
use sync_core::sqlite::connection::configure;
use sync_core::sqlite::ordered::OrderedSql;

use super::merge::{Side, difference, merge};
use super::pending::each_in_flight;
use super::report::{CompareReport, Difference, NAMED, Remedy};
use crate::error::Error;
use crate::inbox::key_json;
use crate::store::{Meta, SETTINGS, tables_of};

/// One of the two files, read at one moment.
struct File {
    conn: Connection,
    schema: Schema,
    synced: Option<Synced>,
}

struct Synced {
    scope: Option<String>,
    checkpoint: i64,
    /// Numbers of its synced tables by name, and the columns that their logs were made for.
    tables: BTreeMap<String, (i64, Vec<String>)>,
}

/// Compares the rows of two SQLite files, table by table, without a server. What differs is said from the
/// first one's side: [`super::Kind::Missing`] is a row that only the second has.
///
/// A synced file takes part with its synced tables; its rows that are not confirmed yet are left out.
/// Columns that only one file has are not compared. Neither file is changed.
///
/// # Errors
/// SQLite's, and where a file does not exist.
pub fn compare_files(first: &Path, second: &Path) -> Result<CompareReport, Error> {
    let (first, second) = (File::open(first)?, File::open(second)?);
    let mut report = CompareReport::default();
    for table in second.schema.tables() {
        if first.schema.table(&table.name).is_none() {
            report.only_in_second.push(table.name.clone());
        }
    }
    for table in first.schema.tables() {
        let Some(other) = second.schema.table(&table.name) else {
            report.only_in_first.push(table.name.clone());
            continue;
        };
        let names = |t: &Table| -> Vec<String> { t.key.iter().map(|i| t.columns[*i].name.clone()).collect() };
        if names(table) != names(other) {
            report.other_keys.push(table.name.clone());
            continue;
        }
        compare_table((&first, table), (&second, other), &mut report)?;
    }
    Ok(report)
}

fn compare_table(first: (&File, &Table), second: (&File, &Table), report: &mut CompareReport) -> Result<(), Error> {
    let table = first.1;
    // What is in flight may be much; SQLite keeps it out of memory.
    let in_flight = Connection::open("")?;
    in_flight.execute_batch("CREATE TABLE k (k BLOB PRIMARY KEY) WITHOUT ROWID; BEGIN")?;
    for (file, table) in [first, second] {
        if let Some(t) = file.number(&table.name) {
            each_in_flight(&file.conn, t, &file.logged_key(table), |k| {
                in_flight.prepare_cached("INSERT OR IGNORE INTO k VALUES (?)")?.execute([k])?;
                Ok(())
            })?;
        }
    }
    // Above the lower checkpoint, one file knows what the other does not.
    let seq = match (&first.0.synced, &second.0.synced) {
        (Some(a), Some(b)) if a.scope == b.scope => a.checkpoint.min(b.checkpoint),
        _ => i64::MAX,
    };
    let (mine, theirs) = (OrderedSql::new(table), OrderedSql::new(second.1));
    let mut mine_read = first.0.conn.prepare(&mine.between(None, None).0)?;
    let mut mine_rows = mine_read.query([])?;
    let mut theirs_read = second.0.conn.prepare(&theirs.between(None, None).0)?;
    let mut theirs_rows = theirs_read.query([])?;
    let plain = |row: Vec<_>| -> Record { row.into_iter().map(Some).collect() };
    let at: Vec<Option<usize>> = table.columns.iter().map(|c| second.1.column(&c.name)).collect();
    merge(
        || {
            let Some(r) = mine.next(&mut mine_rows)? else { return Ok(None) };
            Ok(Some(Side { k: r.k, version: 0, row: r.row.map(plain) }))
        },
        || {
            let Some(r) = theirs.next(&mut theirs_rows)? else { return Ok(None) };
            // In the first file's order of columns.
            let row = r.row.map(|row| at.iter().map(|i| i.map(|i| row[i].clone())).collect());
            Ok(Some(Side { k: r.k, version: 0, row }))
        },
        |mine, theirs| {
            report.compared_rows += 1;
            let Some(k) = mine.as_ref().or(theirs.as_ref()).map(|s| s.k.clone()) else { return Ok(()) };
            let (mine, theirs) = (mine.map(|s| s.row), theirs.map(|s| s.row));
            let Some((kind, columns)) = difference(table, mine.as_ref(), theirs.as_ref(), true) else {
                return Ok(());
            };
            if in_flight.prepare_cached("SELECT 1 FROM k WHERE k = ?")?.exists([&k])?
                || first.0.is_unsettled(&table.name, &k, seq)?
                || second.0.is_unsettled(&table.name, &k, seq)?
            {
                report.left_out_rows += 1;
                return Ok(());
            }
            report.differing_rows += 1;
            if report.differences.len() < NAMED {
                report.differences.push(Difference {
                    table: table.name.clone(),
                    key: key_json(table, &Key::from_stored(k).unpack()?),
                    kind,
                    columns,
                    remedy: Remedy::None,
                });
            }
            Ok(())
        },
    )
}

impl File {
    fn open(path: &Path) -> Result<Self, Error> {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        configure(&conn, SETTINGS)?;
        conn.pragma_update(None, "query_only", true)?;
        // Everything below is one moment of the file.
        conn.execute_batch("BEGIN")?;
        let is_synced =
            conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_sync_meta'")?.exists([])?;
        let synced = if is_synced { Some(Synced::read(&conn)?) } else { None };
        let only: Option<Vec<String>> = synced.as_ref().map(|s| s.tables.keys().cloned().collect());
        let schema = tables_of(&conn, only.as_deref())?.schema;
        Ok(Self { conn, schema, synced })
    }

    fn number(&self, table: &str) -> Option<i64> {
        self.synced.as_ref()?.tables.get(table).map(|(t, _)| *t)
    }

    /// Where the log has the key's columns: the app may have changed the table since.
    fn logged_key(&self, table: &Table) -> Vec<usize> {
        let logged = self.synced.as_ref().and_then(|s| s.tables.get(&table.name)).map(|(_, columns)| columns);
        let at = |i: &usize| {
            let name = &table.columns[*i].sql_name;
            logged.and_then(|c| c.iter().position(|c| c.eq_ignore_ascii_case(name))).unwrap_or(*i)
        };
        table.key.iter().map(at).collect()
    }

    /// Whether the file has changed the row itself, or has heard of a version above `seq`.
    fn is_unsettled(&self, table: &str, k: &[u8], seq: i64) -> Result<bool, Error> {
        let Some(t) = self.number(table) else { return Ok(false) };
        let dirty = "SELECT 1 FROM main._sync_dirty WHERE t = ? AND k = ?";
        if self.conn.prepare_cached(dirty)?.exists((t, k))? {
            return Ok(true);
        }
        let mut s = self.conn.prepare_cached("SELECT v FROM main._sync_row WHERE t = ? AND k = ?")?;
        let mut rows = s.query((t, k))?;
        let known = Known::from_stored(rows.next()?.map(|r| r.get(0)).transpose()?);
        Ok(known.version() > seq)
    }
}

impl Synced {
    fn read(conn: &Connection) -> Result<Self, Error> {
        let mut s = conn.prepare("SELECT name, id, columns FROM main._sync_table")?;
        let mut rows = s.query([])?;
        let mut tables = BTreeMap::new();
        while let Some(r) = rows.next()? {
            let columns: String = r.get(2)?;
            let columns = serde_json::from_str(&columns).map_err(|_| Error::Damaged("columns".into()))?;
            tables.insert(r.get(0)?, (r.get(1)?, columns));
        }
        Ok(Self { scope: Meta::ScopeId.get(conn)?, checkpoint: Meta::Checkpoint.integer(conn)?, tables })
    }
}
