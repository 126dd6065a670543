//! What the background worker sees of the file between two syncs: commits of the app, and that it is another file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use sync_core::sqlite::capture::log_name;
use sync_core::sqlite::connection;

use crate::lock::{beside, itself};
use crate::place::{FileId, SharedLook, close_without_log, is_empty, locked};
use crate::store::SETTINGS;

/// Notices commits of other connections, of any process, that left something in a log.
pub(crate) struct Commits {
    path: PathBuf,
    /// As of the last look.
    place: Spot,
    /// Opened by the first look that can; closed by whoever lets go of the file.
    open: SharedLook,
    /// SQLite's number of the last commit that a look was done with.
    version: Option<i64>,
    /// The same, of a moment at which the file was at its path for sure.
    at_home: Option<i64>,
}

/// What a look saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    /// The app committed something to a synced table.
    Captured,
    /// Another file is at the path now, or none.
    AnotherFile,
}

impl Commits {
    pub(crate) fn new(path: &Path, open: SharedLook) -> Self {
        Self { path: path.to_owned(), place: place(path), open, version: None, at_home: None }
    }

    /// A look that fails is taken again with the next one.
    pub(crate) fn look(&mut self) -> Seen {
        let captured = self.captured();
        // After the commits: what was seen of them is of this file where it is there still.
        if self.moved() {
            return Seen::AnotherFile;
        }
        self.at_home = self.version;
        if captured.unwrap_or(false) { Seen::Captured } else { Seen::Nothing }
    }

    /// Whether the path leads elsewhere than at the last look. What was open is closed then.
    pub(crate) fn moved(&mut self) -> bool {
        let now = place(&self.path);
        let another_file = now.file != self.place.file;
        let written_over = !another_file && self.is_written_over(&now);
        if now == self.place && !written_over {
            return false;
        }
        self.place = now;
        self.version = None;
        let seen = self.at_home.take();
        let mut open = locked(&self.open);
        open.written_over |= written_over && open.log.is_some();
        let conn = open.conn.take();
        drop(open);
        if written_over {
            close_without_log(conn.as_ref());
        }
        if let Some(conn) = conn.filter(|_| another_file)
            && let Err(e) = empty_log(&conn, seen)
        {
            tracing::debug!("the log of a file that is gone was not emptied: {e}");
        }
        true
    }

    /// Whether what is open is not what the file has become.
    fn is_written_over(&self, now: &Spot) -> bool {
        now.empty && !self.place.empty || locked(&self.open).is_past(&now.itself)
    }

    fn captured(&mut self) -> rusqlite::Result<bool> {
        let open = Arc::clone(&self.open);
        let mut open = locked(&open);
        let conn = match open.conn.take() {
            Some(conn) => conn,
            None => {
                self.version = None;
                connection::open(&self.path, false, SETTINGS)?
            }
        };
        let conn = open.conn.insert(conn);
        let version = data_version(conn)?;
        if self.version == Some(version) {
            return Ok(false);
        }
        // The app may have made tables since, or dropped one whose number is still known.
        let ids: Vec<i64> = conn
            .prepare_cached(
                "SELECT t.id FROM main._sync_table t \
                 JOIN main.sqlite_schema s ON s.type = 'table' AND s.name = '_sync_log_' || t.id",
            )?
            .query_map([], |r| r.get(0))?
            .collect::<Result<_, _>>()?;
        // What a person let go of, in another process, is in no log.
        let mut found = conn.prepare_cached("SELECT 1 FROM main._sync_dirty WHERE held IS NULL LIMIT 1")?.exists([])?;
        for id in ids {
            found = found || conn.prepare_cached(&format!("SELECT 1 FROM main.{} LIMIT 1", log_name(id)))?.exists([])?;
        }
        self.version = Some(version);
        Ok(found)
    }
}

/// What is at a path.
#[derive(PartialEq, Eq)]
struct Spot {
    /// Where links lead.
    itself: PathBuf,
    file: Option<FileId>,
    empty: bool,
    lock: Option<FileId>,
}

fn place(path: &Path) -> Spot {
    let itself = itself(path).unwrap_or_else(|_| path.to_owned());
    let lock = FileId::at(&beside(&itself, "-sync-lock"));
    Spot { file: FileId::at(&itself), empty: is_empty(&itself), lock, itself }
}

/// Ends with the worker.
impl Drop for Commits {
    fn drop(&mut self) {
        let written_over = self.is_written_over(&place(&self.path));
        let conn = locked(&self.open).conn.take();
        if written_over {
            close_without_log(conn.as_ref());
        }
    }
}

fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("PRAGMA main.data_version")?.query_row([], |r| r.get(0))
}

/// The log of a file that was replaced lies at the path still, unless it was removed too: SQLite would read it as the
/// new file's. It is written to the file that it is of, and emptied, unless somebody wrote to it since the last look,
/// who may have had the new file open.
fn empty_log(conn: &Connection, seen: Option<i64>) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::ZERO)?;
    if seen != Some(data_version(conn)?) {
        return Ok(());
    }
    conn.query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

    use super::*;

    /// A file that cannot be opened or read for a moment: the next look sees what was committed meanwhile.
    #[test]
    fn a_look_that_fails_misses_no_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let mut commits = Commits::new(&path, SharedLook::default());
        assert!(commits.look() != Seen::Captured, "it cannot be opened yet");
        let app = Connection::open(&path).unwrap();
        let captured = "INSERT INTO _sync_log_1 VALUES (1)";
        app.execute_batch(&format!("CREATE TABLE _sync_log_1 (x); {captured}")).unwrap();
        assert!(commits.look() != Seen::Captured, "it has no tables of ours yet");
        app.execute_batch(
            "CREATE TABLE _sync_dirty (held); CREATE TABLE hidden (id); INSERT INTO hidden VALUES (1), (2)",
        )
        .unwrap();
        app.execute_batch("ALTER TABLE hidden RENAME TO _sync_table").unwrap();
        assert!(commits.look() == Seen::Captured, "a table that is dropped hides no other");
        assert!(commits.look() != Seen::Captured, "nothing came since");
        app.execute_batch(captured).unwrap();
        assert!(commits.look() == Seen::Captured);
        // Whatever fails after the version was read.
        let deny = |c: AuthContext<'_>| match c.action {
            AuthAction::Read { table_name: "_sync_table", .. } => Authorization::Deny,
            _ => Authorization::Allow,
        };
        locked(&commits.open).conn.as_mut().unwrap().authorizer(Some(deny)).unwrap();
        app.execute_batch(captured).unwrap();
        assert!(commits.look() != Seen::Captured);
        locked(&commits.open).conn.as_mut().unwrap().authorizer(None::<fn(AuthContext<'_>) -> Authorization>).unwrap();
        assert!(commits.look() == Seen::Captured, "the commit is still to be told");
    }

    /// A backup is moved over a file whose app is closed, and of which much is in the log only.
    #[cfg(unix)]
    #[test]
    fn the_log_of_a_file_that_was_replaced_does_not_reach_the_new_one() {
        for written_since in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (path, backup) = (dir.path().join("a.db"), dir.path().join("backup.db"));
            let app = Connection::open(&path).unwrap();
            app.execute_batch(&format!(
                "PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('old'); VACUUM INTO '{}'; \
                 INSERT INTO t VALUES ('in the log only'); CREATE TABLE _sync_table (id); CREATE TABLE _sync_dirty (held)",
                backup.display()
            ))
            .unwrap();
            let mut commits = Commits::new(&path, SharedLook::default());
            assert_eq!(commits.look(), Seen::Nothing);
            if written_since {
                app.execute_batch("INSERT INTO t VALUES ('who knows into which file')").unwrap();
            }
            drop(app);
            let log = beside(&path, "-wal");
            let length = || std::fs::metadata(&log).unwrap().len();
            assert!(length() > 0);
            std::fs::rename(&path, dir.path().join("aside")).unwrap();
            std::fs::rename(&backup, &path).unwrap();
            assert_eq!(commits.look(), Seen::AnotherFile);
            if written_since {
                assert!(length() > 0, "it may be the new file's by now");
                continue;
            }
            assert_eq!(length(), 0);
            let rows = |path: &Path| -> i64 {
                Connection::open(path).unwrap().query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap()
            };
            assert_eq!(rows(&path), 1);
            assert_eq!(rows(&dir.path().join("aside")), 2, "the old one is whole");
        }
    }
}
