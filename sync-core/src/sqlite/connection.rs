//! Connections with every setting made explicit: builds of SQLite differ in their defaults.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::limits::Limit;
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

/// How long one row may get by what its schema makes of it, where so many bytes of it were sent: generated columns,
/// DEFAULTs, indexes and CHECKs may come to any length, whatever the row says. Several copies of what was sent fit, and
/// whatever is short beside the memory of any machine; SQLite's own limit, a gigabyte for each value, is not.
#[must_use]
pub fn room_for(sent: u64) -> u64 {
    const SMALL: u64 = 16 << 20;
    const COPIES: u64 = 8;
    SMALL.max(sent.saturating_mul(COPIES))
}

/// Writes with no value and no row longer than this: beyond it SQLite fails ([`is_too_long`]) before it takes the memory.
///
/// # Errors
/// SQLite's.
pub fn no_longer_than<T>(conn: &Connection, bytes: u64, write: impl FnOnce() -> T) -> rusqlite::Result<T> {
    /// Puts the limit back, also where `write` panics: the connection is used again.
    struct Back<'a>(&'a Connection, i32);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            // It was this before.
            let _ = self.0.set_limit(Limit::SQLITE_LIMIT_LENGTH, self.1);
        }
    }
    let before = conn.limit(Limit::SQLITE_LIMIT_LENGTH)?;
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX).min(before);
    let _back = Back(conn, before);
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes)?;
    Ok(write())
}

/// Whether a value or a row was longer than it may be.
#[must_use]
pub fn is_too_long(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code() == Some(rusqlite::ErrorCode::TooBig)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_schema_makes_of_a_row_has_a_bound() {
        let conn = Connection::open_in_memory().unwrap();
        let ddl = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, g BLOB GENERATED ALWAYS AS (zeroblob(n)) STORED)";
        conn.execute_batch(ddl).unwrap();
        let insert = |n: i64| conn.execute("INSERT INTO t (n) VALUES (?)", [n]);
        let written = |n: i64| no_longer_than(&conn, 1000, || insert(n)).unwrap();
        written(900).unwrap();
        for n in [1000, 500_000_000, i64::MAX] {
            assert!(is_too_long(&written(n).unwrap_err()), "{n}");
        }
        // Nothing stays of it: what is longer is read and written as ever, also after a panic.
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            no_longer_than(&conn, 1000, || -> () { panic!("inside") })
        }));
        assert!(panicked.is_err());
        insert(2000).unwrap();
        let longest: i64 = conn.query_row("SELECT max(length(g)) FROM t", [], |r| r.get(0)).unwrap();
        assert_eq!(longest, 2000);
        assert_eq!(room_for(0), 16 << 20);
        assert_eq!(room_for(8 << 20), 64 << 20);
    }
}
