//! Where a push goes, and how a file is written.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::http::Remote;
use crate::lock::beside;
use crate::private;

/// Where a push goes.
pub enum Sink<'a> {
    /// Each batch as a line, to this writer.
    Stdout(&'a mut dyn Write),
    /// One batch in a file that its owner alone may read; it is there whole or not at all, and replaces what was there.
    File(PathBuf),
    /// A server.
    Http(&'a Remote),
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind(), self.target())
    }
}

impl Sink<'_> {
    /// Its kind, as state is kept under.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Stdout(_) => "stdout",
            Self::File(_) => "file",
            Self::Http(_) => "http",
        }
    }

    /// Its name, as state is kept under.
    pub(super) fn target(&self) -> String {
        match self {
            Self::Stdout(_) => "stdout".into(),
            Self::File(path) => path.display().to_string(),
            Self::Http(remote) => remote.endpoint().url().to_owned(),
        }
    }
}

/// Writes a file under another name, and gives it its own once it is on disk.
pub(super) fn write(path: &Path, body: &[u8]) -> std::io::Result<()> {
    let fresh = beside(path, ".new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => private::create(&fresh)?,
    }
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).open(&fresh)?;
        file.write_all(body)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    if written.is_err() {
        // The error is what is told; what is left is overwritten by the next one.
        let _ = fs::remove_file(&fresh);
    }
    written?;
    // The name itself is durable once its directory is; some file systems cannot be asked.
    if let Some(Ok(dir)) =
        path.parent().map(|p| fs::File::open(if p.as_os_str().is_empty() { Path::new(".") } else { p }))
    {
        let _ = dir.sync_all();
    }
    Ok(())
}
