//! Connections with every setting made explicit: builds of SQLite differ in their defaults.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OpenFlags};

use crate::key::Key;

/// What a connection of ours is for.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether foreign keys act.
    pub foreign_keys: bool,
    /// Whether the schema's own triggers run. TEMP triggers always do.
    pub triggers: bool,
    /// Whether a commit is on disk before it returns (`synchronous=FULL`).
    pub durable: bool,
    /// How long a statement waits for a lock.
    pub busy: Duration,
    /// Page cache, in KiB.
    pub cache_kib: i64,
}

/// Opens a file, creating it where `create` says so, and applies the settings.
///
/// # Errors
/// When the file cannot be opened as a database.
pub fn open(path: &Path, create: bool, settings: Settings) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let conn = Connection::open_with_flags(path, flags)?;
    configure(&conn, settings)?;
    Ok(conn)
}

/// Applies the settings and registers the key function.
///
/// # Errors
/// When a setting cannot be made.
pub fn configure(conn: &Connection, settings: Settings) -> rusqlite::Result<()> {
    conn.busy_timeout(settings.busy)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, settings.foreign_keys)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, settings.triggers)?;
    conn.pragma_update(None, "recursive_triggers", false)?;
    conn.pragma_update(None, "synchronous", if settings.durable { "FULL" } else { "NORMAL" })?;
    conn.pragma_update(None, "cache_size", -settings.cache_kib)?;
    conn.set_prepared_statement_cache_capacity(256);
    register_functions(conn)
}

/// `_sync_key(k0, …)`: the stored form of a key, NULL where it has none. For statements of ours only:
/// nothing that is left in a schema calls it.
fn register_functions(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function("_sync_key", -1, flags, |ctx| {
        let mut values = Vec::with_capacity(ctx.len());
        for i in 0..ctx.len() {
            match super::value(ctx.get_raw(i), i) {
                Ok(v) => values.push(v),
                Err(_) => return Ok(None),
            }
        }
        Ok(Key::pack(&values).ok().map(|k| k.as_bytes().to_vec()))
    })
}
