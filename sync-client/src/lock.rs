//! One owner of a file's syncing at a time: an advisory lock on a file beside it. The app's own
//! connections do not notice.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, cannot};
use crate::place::FileId;

/// Held as long as it lives; the system frees it when the process dies.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    file: File,
    path: PathBuf,
    id: Option<FileId>,
}

/// Lock files that this process holds.
static HELD: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// Who has a lock, where it is in [`HELD`].
pub(crate) const THIS_PROCESS: &str = "this process";

impl OwnerLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(database: &Path) -> Result<Self, Error> {
        let path = beside(database, "-sync-lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(cannot("make the lock file", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if held().contains(&path) => {
                return Err(Error::Owned { by: THIS_PROCESS.into() });
            }
            Err(TryLockError::WouldBlock) => {
                let mut by = String::new();
                file.read_to_string(&mut by).map_err(cannot("read the lock file", &path))?;
                let by = if by.trim().is_empty() { "unknown".to_owned() } else { by.trim().to_owned() };
                return Err(Error::Owned { by });
            }
            Err(TryLockError::Error(e)) => return Err(cannot("lock", &path)(e)),
        }
        let mut sign = || {
            file.set_len(0)?;
            file.rewind()?;
            let program = std::env::current_exe().ok();
            let program = program.as_deref().and_then(Path::file_stem).map(|p| p.to_string_lossy().into_owned());
            match program {
                Some(program) => writeln!(file, "process {}, {program}", std::process::id()),
                None => writeln!(file, "process {}", std::process::id()),
            }
        };
        sign().map_err(cannot("write the lock file", &path))?;
        held().push(path.clone());
        Ok(Self { file, id: FileId::at(&path), path })
    }

    /// Whether others meet this lock: they do not where its file was removed.
    pub(crate) fn is_there(&self) -> bool {
        self.id.is_some() && FileId::at(&self.path) == self.id
    }
}

fn held() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that this process is just starting holds a copy of the file until it runs its program: closing
/// ours would not free the lock.
impl Drop for OwnerLock {
    fn drop(&mut self) {
        // First: whoever takes the lock next may be of this process too.
        held().retain(|path| *path != self.path);
        let _ = self.file.unlock();
    }
}

/// The file itself, whichever link leads to it: there is one owner of it, and one place for what lies beside it.
pub(crate) fn itself(database: &Path) -> Result<PathBuf, Error> {
    database.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Argument(format!("there is no file {}", database.display())),
        _ => cannot("find", database)(e),
    })
}

/// A path beside the database, with a suffix of its own.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    database.with_file_name(name)
}
