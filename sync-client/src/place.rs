//! Which file is at a path. A backup that is moved over it, or a copy made by `VACUUM INTO`, is another file under the
//! same name: what has the old one open goes on with a file that nobody else can reach.

use std::path::{Path, PathBuf};

use crate::engine::Engine;
use crate::error::Error;
use crate::lock::{OwnerLock, itself};
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
        self.id.is_some() && FileId::at(&self.asked) == self.id && self.lock.is_there()
    }
}

impl Engine {
    /// Whether the file that is open is not the one at the path any more.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.place.as_ref().is_some_and(|place| !place.is_there())
    }

    /// Takes up the file that is at the path now, where it is another than the one that is open.
    pub(crate) fn follow(&mut self) -> Result<(), Error> {
        if self.place.as_ref().is_some_and(Place::is_there) {
            return Ok(());
        }
        self.let_go()?;
        let place = Place::take(&self.asked)?;
        let mut store = Store::open(place.file())?;
        self.env.opened(&store.conn);
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
        if !place.is_there() {
            return Err(Error::Argument(format!("{} was replaced just now; try again", self.asked.display())));
        }
        tracing::info!("another file is at the path now; it is synced from here on");
        place.file().clone_into(&mut self.path);
        self.store = store;
        self.place = Some(place);
        Ok(())
    }

    /// Closes the file, and lets others have it: it is not at its path any more, or another one is.
    pub(crate) fn let_go(&mut self) -> Result<(), Error> {
        self.store = Store::nowhere()?;
        self.stage = None;
        self.greeted = None;
        self.place = None;
        Ok(())
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
