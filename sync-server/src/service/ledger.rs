//! `server.db`: the recorded schema, and counters over all users. Nothing that the protocol decides
//! on lives here.

use std::path::Path;
use std::sync::Mutex;

use rusqlite::{Connection, OpenFlags, params};
use sync_core::engine::window::History;
use sync_core::schema::Affinity;
use sync_core::sqlite::connection::{self, Settings, is_too_long, no_longer_than, room_for};
use sync_core::sqlite::introspect::{Known, introspect};
use sync_core::sqlite::rows::RowSql;
use sync_core::value::Value;

use super::OpenError;
use crate::scope::schema::{Loaded, make, sentence};
use crate::scope::{ddl, lock};

/// The file's name in the data directory.
pub(crate) const LEDGER: &str = "server.db";

/// The open file.
#[derive(Debug)]
pub(crate) struct Ledger {
    conn: Mutex<Connection>,
}

/// Counters over all users.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) latest_max: i64,
    pub(crate) floor_min: i64,
    pub(crate) floor_max: i64,
    pub(crate) window_min: i64,
    pub(crate) window_max: i64,
    pub(crate) bundles: i64,
    pub(crate) bytes: i64,
}

impl Ledger {
    /// What the rows of tables without PRIMARY KEY are known by: it was chosen when a table was first seen, and another
    /// order of its columns in the schema file must not choose again. Changes nothing.
    pub(crate) fn keys(path: &Path) -> rusqlite::Result<Known> {
        let mut known = Known::new();
        if !path.exists() {
            return Ok(known);
        }
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if !conn.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'key_column'")?.exists([])? {
            return Ok(known);
        }
        let mut s = conn.prepare("SELECT tbl, name FROM key_column ORDER BY tbl, n")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            known.entry(r.get(0)?).or_default().push(r.get(1)?);
        }
        Ok(known)
    }

    /// The statements that make the tables of the data; none where nothing was recorded yet. Changes nothing.
    #[cfg(feature = "ingest")]
    pub(crate) fn recorded(path: &Path) -> rusqlite::Result<Vec<String>> {
        if !path.exists() {
            return Ok(Vec::new());
        }
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if !conn.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'schema'")?.exists([])? {
            return Ok(Vec::new());
        }
        conn.prepare("SELECT sql FROM schema ORDER BY n")?.query_map([], |r| r.get(0))?.collect()
    }

    /// Opens the file and accepts the schema where it only adds to the recorded one.
    pub(crate) fn open(path: &Path, loaded: &Loaded) -> Result<Self, OpenError> {
        let settings = Settings {
            foreign_keys: false,
            triggers: false,
            durable: false,
            busy: std::time::Duration::from_secs(5),
            cache_kib: 256,
        };
        let mut conn = connection::open(path, true, settings)?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        let tx = conn.transaction()?;
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema (n INTEGER PRIMARY KEY, sql TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS key_column (
                 tbl TEXT NOT NULL, n INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (tbl, n)) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS scope (
                 name TEXT PRIMARY KEY, latest INTEGER, floor INTEGER, bundles INTEGER, bytes INTEGER) WITHOUT ROWID;",
        )?;
        let recorded: Vec<String> =
            tx.prepare("SELECT sql FROM schema ORDER BY n")?.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
        if recorded != loaded.statements {
            let old = make(&recorded)?;
            fill(&old)?;
            let had = ddl::objects(&old)?;
            let plan = ddl::additions(&had, &loaded.objects, &loaded.order).map_err(|differences| {
                // Rows of users are in it, so it is not left out as a table is that nobody has yet; it is named as gone,
                // though schema.sql has it.
                let unfit = loaded.left_out.iter().filter(|r| had.has_table(&r.table));
                let why: Vec<String> = unfit.map(|r| format!("\nas it stands now, {}", sentence(r))).collect();
                OpenError::SchemaChanged(differences + &why.concat())
            })?;
            for sql in &plan {
                old.execute_batch(sql).map_err(|e| OpenError::SchemaChanged(format!("{sql}\n  {e}")))?;
            }
            tx.execute("DELETE FROM schema", [])?;
            for sql in &loaded.statements {
                tx.execute("INSERT INTO schema (sql) VALUES (?)", [sql])?;
            }
        }
        for table in loaded.schema.tables().iter().filter(|t| !t.primary_key) {
            for (n, column) in table.key.iter().enumerate() {
                tx.execute(
                    "INSERT OR IGNORE INTO key_column (tbl, n, name) VALUES (?, ?, ?)",
                    params![table.name, n as i64, table.columns[*column].name],
                )?;
            }
        }
        tx.commit()?;
        Ok(Self { conn: Mutex::new(conn) })
    }

    /// Notes where a scope stands. Failing to is repaired when the scope is opened next.
    pub(crate) fn count(&self, name: &str, history: History, bundles: i64, bytes: i64) {
        let done = lock(&self.conn).execute(
            "INSERT OR REPLACE INTO scope VALUES (?, ?, ?, ?, ?)",
            params![name, history.latest, history.floor, bundles, bytes],
        );
        if let Err(e) = done {
            tracing::warn!(cause = %e, "counters were not written");
        }
    }

    /// Adds everything up.
    pub(crate) fn totals(&self) -> rusqlite::Result<Totals> {
        lock(&self.conn).query_row(
            "SELECT coalesce(max(latest), 0), coalesce(min(floor), 0), coalesce(max(floor), 0), \
             coalesce(min(latest - floor), 0), coalesce(max(latest - floor), 0), coalesce(sum(bundles), 0), \
             coalesce(sum(bytes), 0) FROM scope",
            [],
            |r| {
                Ok(Totals {
                    latest_max: r.get(0)?,
                    floor_min: r.get(1)?,
                    floor_max: r.get(2)?,
                    window_min: r.get(3)?,
                    window_max: r.get(4)?,
                    bundles: r.get(5)?,
                    bytes: r.get(6)?,
                })
            },
        )
    }
}

/// Puts a row into each table, since SQLite refuses some additions only where there are rows.
fn fill(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON")?;
    for t in introspect(conn, None)?.schema.tables() {
        let values = t.columns.iter().map(|c| match c.affinity {
            Affinity::Integer | Affinity::Numeric => Value::Integer(1),
            Affinity::Real => Value::Real(1.0),
            Affinity::Text => Value::Text("x".into()),
            Affinity::Blob => Value::Blob(vec![0; 16]),
        });
        let values: Vec<Value> = values.collect();
        match no_longer_than(conn, room_for(0), || RowSql::new(t).insert(conn, &values))? {
            // What the schema makes of any row is more than a scope takes: such a table has none.
            Err(e) if is_too_long(&e) => {}
            done => done.map(|_| ())?,
        }
    }
    conn.execute_batch("PRAGMA foreign_keys = ON; PRAGMA ignore_check_constraints = OFF")
}
