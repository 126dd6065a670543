//! What a power cut may take: commits of an app that does not wait for the disk (`synchronous=NORMAL`). A commit of the
//! client, a checkpoint and a log that begins anew make all before them durable.

use std::path::Path;

use rusqlite::Connection;

/// Where a file's write-ahead log stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Log {
    /// Another one in each log that begins anew.
    salt: [u8; 8],
    frames: i64,
    /// Frames that are in the database file by now.
    copied: i64,
}

impl Log {
    /// Reads it.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn of(conn: &Connection) -> rusqlite::Result<Self> {
        let (frames, copied): (i64, i64) =
            conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], |r| Ok((r.get(1)?, r.get(2)?)))?;
        let wal = conn.path().map(|p| format!("{p}-wal")).unwrap_or_default();
        Ok(Self { salt: salt(Path::new(&wal)).unwrap_or_default(), frames: frames.max(0), copied: copied.max(0) })
    }
}

/// The header of a log has it after the format, the page size and a count.
fn salt(wal: &Path) -> std::io::Result<[u8; 8]> {
    use std::io::Read as _;
    let mut header = [0; 24];
    std::fs::File::open(wal)?.read_exact(&mut header)?;
    let mut salt = [0; 8];
    salt.copy_from_slice(&header[16..]);
    Ok(salt)
}

/// The app's commits that the power may take.
#[derive(Debug, Default)]
pub(crate) struct Undurable {
    data_version: i64,
    salt: [u8; 8],
    /// The log's frames before each, and the ledger's moment.
    commits: Vec<(i64, u64)>,
}

impl Undurable {
    /// The app committed something at this moment of the ledger; its log stood at `before` then.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn committed(&mut self, conn: &Connection, before: Log, moment: u64) -> rusqlite::Result<()> {
        let now = self.forget_durable(conn)?;
        // It began the log anew.
        let frames = if before.salt == now.salt { before.frames } else { 0 };
        if frames >= now.copied {
            self.commits.push((frames, moment));
        }
        Ok(())
    }

    /// One that the power takes, and all after it: the length of the log that is left, and the moment.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn lose(&mut self, conn: &Connection, n: u32) -> rusqlite::Result<Option<(u64, u64)>> {
        self.forget_durable(conn)?;
        let taken = (!self.commits.is_empty()).then(|| self.commits[n as usize % self.commits.len()]);
        Ok(taken.map(|(frames, moment)| (if frames == 0 { 0 } else { HEADER + frames.unsigned_abs() * FRAME }, moment)))
    }

    /// Somebody else's commit shows in `data_version`.
    fn forget_durable(&mut self, conn: &Connection) -> rusqlite::Result<Log> {
        let version: i64 = conn.query_row("PRAGMA data_version", [], |r| r.get(0))?;
        let log = Log::of(conn)?;
        if version != self.data_version || log.salt != self.salt {
            self.commits.clear();
        }
        (self.data_version, self.salt) = (version, log.salt);
        self.commits.retain(|(before, _)| *before >= log.copied);
        Ok(log)
    }
}

/// Bytes of a log's header.
const HEADER: u64 = 32;
/// Bytes of a frame: its header and a page.
const FRAME: u64 = 24 + 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_disk_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let conn = Connection::open(dir.path().join("app.db")).unwrap();
            conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
            conn
        };
        let conn = open();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        let mut undurable = Undurable::default();
        let commit = |u: &mut Undurable, moment: i64| {
            let before = Log::of(&conn).unwrap();
            conn.execute("INSERT INTO t VALUES (?)", [moment]).unwrap();
            u.committed(&conn, before, moment.unsigned_abs()).unwrap();
        };
        let checkpoint = || conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        commit(&mut undurable, 1);
        commit(&mut undurable, 2);
        assert_eq!(undurable.lose(&conn, 0).unwrap().map(|l| l.1), Some(1));
        assert_eq!(undurable.lose(&conn, 1).unwrap().map(|l| l.1), Some(2));
        checkpoint();
        assert_eq!(undurable.lose(&conn, 0).unwrap(), None, "a checkpoint makes them durable");
        commit(&mut undurable, 3);
        assert_eq!(undurable.lose(&conn, 0).unwrap(), Some((0, 3)), "the log begins anew");
        commit(&mut undurable, 4);
        assert!(undurable.lose(&conn, 1).unwrap().is_some_and(|(left, moment)| left > HEADER && moment == 4));
        open().execute("INSERT INTO t VALUES (5)", []).unwrap();
        assert_eq!(undurable.lose(&conn, 0).unwrap(), None, "somebody else's commit makes them durable");
    }
}
