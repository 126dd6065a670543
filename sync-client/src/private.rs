//! Files with rows in them that are not the app's own: their owner alone may read them.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

/// Makes an empty file; an error where there is one.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}
