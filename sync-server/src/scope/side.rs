//! Side files: one SQLite file for each staged push and each snapshot, beside the scopes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use sync_core::sqlite::connection::{self, Settings};

/// Opens a side file. What it holds may be lost in a power cut, never damaged.
pub(crate) fn open(path: &Path, create: bool) -> rusqlite::Result<Connection> {
    let settings =
        Settings { foreign_keys: false, triggers: false, durable: false, busy: Duration::from_secs(5), cache_kib: 512 };
    connection::open(path, create, settings)
}

/// Removes a side file and what SQLite keeps beside it. One that is still open goes when it is closed.
pub(crate) fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        if let Err(e) = std::fs::remove_file(&name)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(cause = %e, "a side file could not be removed");
        }
    }
}

/// The side files of a directory, and the ids that they are named for.
pub(crate) fn list(dir: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if let (Some(stem), Some("db")) =
            (path.file_stem().and_then(|s| s.to_str()), path.extension().and_then(|s| s.to_str()))
        {
            out.push((stem.to_owned(), path.clone()));
        }
    }
    Ok(out)
}
