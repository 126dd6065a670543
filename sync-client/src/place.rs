//! Which file is at a path. A backup that is moved over it, or a copy made by `VACUUM INTO`, is another file under the
//! same name: what has the old one open goes on with a file that nobody else can reach. One that is copied over it is the
//! same file to the system; that it is another one shows beside it, where the log is gone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::engine::Engine;
use crate::error::Error;
use crate::lock::{OwnerLock, beside, itself};
use crate::mutant::{self, Mutant};
use crate::stage::Stage;
use crate::store::{Meta, Store};

/// What tells a file from another one that has, or had, its name. It stays the same for as long as somebody has the
/// file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId(imp::Id);

impl FileId {
    /// Of the file at a path, whichever links lead there. `None` where there is none.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(imp::id).map(Self)
    }
}

/// The log of a file, and the index of it. Nobody removes them while a connection is open that read the file: SQLite does
/// when the last one closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogId([FileId; 2]);

impl LogId {
    /// Of the file itself, no link to it. `None` where it has none: nobody has it open, or its journal is of another kind.
    pub(crate) fn of(file: &Path) -> Option<Self> {
        Some(Self([FileId::at(&beside(file, "-wal"))?, FileId::at(&beside(file, "-shm"))?]))
    }
}

/// Whether a file was emptied, as no database empties it.
pub(crate) fn is_empty(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|m| m.len() == 0)
}

/// What the background worker looks at the file with. Whoever lets go of the file may close it: SQLite keeps one index
/// of the log for all of a process, so that none of the old file may be open when the new one is opened.
#[derive(Default)]
pub(crate) struct Look {
    pub(crate) conn: Option<Connection>,
    /// The log of the file that is open, from when it was first read.
    pub(crate) log: Option<LogId>,
    /// That the file was seen written over counts until what is open is closed: it may look whole again by then.
    pub(crate) written_over: bool,
}

impl Look {
    /// Whether the log beside the file is another one than what is open reads.
    pub(crate) fn is_past(&self, file: &Path) -> bool {
        self.log.is_some_and(|log| LogId::of(file) != Some(log))
    }
}

pub(crate) type SharedLook = Arc<Mutex<Look>>;

pub(crate) fn locked(look: &SharedLook) -> MutexGuard<'_, Look> {
    look.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes a connection whose log is not the file's any more: what is in it would be written over the new file.
pub(crate) fn close_without_log(conn: Option<&Connection>) {
    let set = conn.map_or(Ok(true), |conn| conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true));
    if let Err(e) = set {
        tracing::warn!("a log that is gone may be written to the new file: {e}");
    }
}

#[cfg(unix)]
mod imp {
    use std::os::unix::fs::MetadataExt as _;

    pub(super) type Id = (u64, u64);

    pub(super) fn id(m: &std::fs::Metadata) -> Id {
        (m.dev(), m.ino())
    }
}

/// Where a file that is open cannot be replaced, when it was made tells enough.
#[cfg(not(unix))]
mod imp {
    pub(super) type Id = Option<std::time::SystemTime>;

    pub(super) fn id(m: &std::fs::Metadata) -> Id {
        m.created().ok()
    }
}

/// A file that this client owns.
#[derive(Debug)]
pub(crate) struct Place {
    /// As it was asked for: a link may lead to another file one day.
    asked: PathBuf,
    /// The file itself.
    file: PathBuf,
    id: Option<FileId>,
    lock: OwnerLock,
}

impl Place {
    /// Takes the file that is at the path now, or says who has it.
    pub(crate) fn take(asked: &Path) -> Result<Self, Error> {
        let file = itself(asked)?;
        let lock = OwnerLock::take(&file)?;
        Stage::tidy(&file);
        Ok(Self { asked: asked.to_owned(), id: FileId::at(&file), file, lock })
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Whether it is still the one that is found there, and this the one that has it.
    pub(crate) fn is_there(&self) -> bool {
        self.is_same() && self.lock.is_there()
    }

    fn is_same(&self) -> bool {
        self.id.is_some() && FileId::at(&self.asked) == self.id
    }
}

impl Engine {
    /// Whether the file that is open is not the one at the path any more.
    pub(crate) fn is_elsewhere(&self) -> bool {
        let elsewhere = self.place.as_ref().is_some_and(|place| !place.is_there()) || self.is_written_over();
        elsewhere && !mutant::on(Mutant::OldFileKept)
    }

    /// Whether the file that is open is the one at the path to the system, and another one to SQLite.
    fn is_written_over(&self) -> bool {
        self.note_log();
        let Some(place) = &self.place else { return false };
        let mut look = locked(&self.look);
        look.written_over |= is_empty(&place.file) || look.is_past(&place.file);
        look.written_over && place.is_same()
    }

    /// Remembers the log, once the file was read: later, another one may lie there.
    pub(crate) fn note_log(&self) {
        if let Some(place) = &self.place {
            let mut look = locked(&self.look);
            look.log = look.log.or_else(|| LogId::of(&place.file));
        }
    }

    /// Takes up the file that is at the path now, where it is another than the one that is open.
    pub(crate) fn follow(&mut self) -> Result<(), Error> {
        if self.place.is_some() && !self.is_elsewhere() {
            return Ok(());
        }
        self.let_go()?;
        let place = Place::take(&self.asked)?;
        let mut store = Store::open(place.file())?;
        self.env.opened(&store.conn);
        store.heed(self.stopped())?;
        if !store.installed()? || store.asleep()? {
            return Err(Error::NotInitialized);
        }
        let server: String = Meta::Server.get(&store.conn)?.unwrap_or_default();
        if server != self.server {
            return Err(Error::Argument(format!(
                "another file is at {} now, which is synced with {server}; open it anew",
                self.asked.display()
            )));
        }
        store.refresh(self.env.now_ms())?;
        // It was read, so there is a log where it has one: otherwise somebody removed that who is not done yet.
        let journal: String = store.conn.query_row("PRAGMA main.journal_mode", [], |r| r.get(0))?;
        let torn = journal == "wal" && LogId::of(place.file()).is_none();
        if !place.is_there() || torn {
            return Err(Error::Argument(format!("{} was replaced just now; try again", self.asked.display())));
        }
        tracing::info!("another file is at the path now; it is synced from here on");
        place.file().clone_into(&mut self.path);
        self.store = store;
        self.place = Some(place);
        self.note_log();
        Ok(())
    }

    /// Closes the file, and lets others have it: it is not at its path any more, or another one is.
    pub(crate) fn let_go(&mut self) -> Result<(), Error> {
        self.spare_new_file();
        self.store = Store::nowhere()?;
        self.stage = None;
        self.greeted = None;
        self.place = None;
        let mut look = locked(&self.look);
        (look.log, look.written_over) = (None, false);
        drop(look);
        Ok(())
    }

    /// Sees to it that closing the file that is open writes nothing to one that was copied over it.
    fn spare_new_file(&self) {
        if self.is_written_over() {
            close_without_log(Some(&self.store.conn));
            let look = locked(&self.look).conn.take();
            close_without_log(look.as_ref());
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.spare_new_file();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_under_the_same_name_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.db"), dir.path().join("b.db"));
        assert_eq!(FileId::at(&path), None);
        std::fs::write(&path, "one").unwrap();
        std::fs::write(&other, "one").unwrap();
        let place = Place::take(&path).unwrap();
        let id = FileId::at(&path);
        std::fs::write(&path, "two").unwrap();
        assert!(place.is_there() && FileId::at(&path) == id, "another content is the same file");
        std::fs::rename(&path, dir.path().join("aside")).unwrap();
        assert!(!place.is_there(), "none is there");
        std::fs::rename(&other, &path).unwrap();
        #[cfg(unix)]
        assert!(!place.is_there() && FileId::at(&path) != id);
        std::fs::rename(dir.path().join("aside"), &path).unwrap();
        assert!(place.is_there() && FileId::at(&path) == id, "it is back");
        std::fs::remove_file(dir.path().join("a.db-sync-lock")).unwrap();
        assert!(!place.is_there(), "somebody else may have the lock");
    }
}
