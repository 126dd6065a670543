//! Where the token comes from: the command line, the environment, or a file that only its owner can read.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use sync_client::{Error, TokenRequest};

use crate::output::Failure;

const VARIABLE: &str = "SYNC_TOKEN";

/// A token, or where to read it again: an app may replace the file while `watch` runs.
#[derive(Clone)]
pub(crate) enum Source {
    /// Given with `--token` or in `SYNC_TOKEN`.
    Fixed(String),
    /// In the file beside the synced one.
    File(PathBuf),
}

impl Source {
    /// The first of `--token`, `SYNC_TOKEN` and the file beside `file`.
    pub(crate) fn find(given: Option<&str>, file: &Path) -> Option<Self> {
        let fixed = given.map(str::to_owned).or_else(|| std::env::var(VARIABLE).ok());
        if let Some(token) = fixed.as_deref().map(bare).filter(|token| !token.is_empty()) {
            return Some(Self::Fixed(token.to_owned()));
        }
        let path = beside(file);
        path.exists().then_some(Self::File(path))
    }

    /// The same; none is a failure that says how to give one.
    pub(crate) fn require(given: Option<&str>, file: &Path) -> Result<Self, Failure> {
        let source = Self::find(given, file).ok_or_else(|| {
            // A file that is not synced needs more than a token.
            if file.is_file()
                && let Err(error @ Error::NotInitialized) = sync_client::read_status(file)
            {
                return error.into();
            }
            let path = beside(file);
            Failure::usage(format!(
                "There is no token: set {VARIABLE}, give --token, or put it into {} (mode 0600).",
                path.display()
            ))
        })?;
        // Loose permissions, and what no request can carry, are named now rather than after a try.
        source.check()?;
        Ok(source)
    }

    /// The token as it is now.
    pub(crate) fn read(&self) -> Result<String, String> {
        match self {
            Self::Fixed(token) => can_be_sent(token, || format!("the token given with --token or {VARIABLE}")),
            Self::File(path) => {
                can_be_sent(&read_private(path)?, || format!("the token in the file {}", path.display()))
            }
        }
    }

    /// Whether it can be had and sent.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let failure = match self {
            Self::Fixed(_) => Failure::usage,
            Self::File(_) => Failure::local,
        };
        self.read().map(drop).map_err(failure)
    }

    /// Answers a client that asks for tokens. Where the server refused one, only another will do.
    pub(crate) fn answers(self) -> impl Fn(TokenRequest) -> Result<String, String> + Send + Sync + 'static {
        let last = Mutex::new(None);
        move |request| {
            let token = self.read()?;
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if request.renew && last.as_ref() == Some(&token) {
                return Err(match &self {
                    Self::Fixed(_) => format!("it was given with --token or {VARIABLE}"),
                    Self::File(path) => format!("it is the one in {}", path.display()),
                });
            }
            *last = Some(token.clone());
            Ok(token)
        }
    }
}

/// `FILE-sync-token`.
pub(crate) fn beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push("-sync-token");
    PathBuf::from(name)
}

/// Keeps a token beside the file, readable by its owner alone from the first moment on.
pub(crate) fn keep(file: &Path, token: &str) -> Result<PathBuf, Failure> {
    let path = beside(file);
    write_private(&path, token)
        .map_err(|error| Failure::local(format!("The token cannot be kept in {}: {error}.", path.display())))?;
    Ok(path)
}

/// Writes a file that its owner alone can read from the first moment on; it is there whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut fresh = OsString::from(path);
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let written = remove(&fresh)
        .and_then(|()| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut new = options.open(&fresh)?;
            writeln!(new, "{text}")?;
            new.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = remove(&fresh);
    }
    written
}

/// Forgets the token of a file.
pub(crate) fn forget(file: &Path) -> io::Result<()> {
    remove(&beside(file))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A token without what editors and shells put around it.
pub(crate) fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// A header has no control characters; the token itself is never told.
pub(crate) fn can_be_sent(token: &str, which: impl Fn() -> String) -> Result<String, String> {
    if token.chars().any(char::is_control) {
        let what = if token.contains('\n') { "more than one line" } else { "characters that no request can carry" };
        return Err(format!("{} has {what}", which()));
    }
    Ok(token.to_owned())
}

pub(crate) fn read_private(path: &Path) -> Result<String, String> {
    let failed = |error: io::Error| format!("the token file {} cannot be read: {error}", path.display());
    // One handle for both the check and the read, so that they see the same file.
    let open = fs::File::open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(&open.metadata().map_err(failed)?) & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!(
                "Other users can read the token file {path} (mode {mode:04o}). Run `chmod 600 {path}`, and think \
                 of replacing the token",
                path = path.display()
            ));
        }
    }
    let text = io::read_to_string(open).map_err(failed)?;
    let token = bare(&text);
    if token.is_empty() { Err(format!("the token file {} is empty", path.display())) } else { Ok(token.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_token_is_private_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.db");
        assert!(Source::find(None, &file).is_none() || std::env::var(VARIABLE).is_ok());
        for token in ["first", "second"] {
            let path = keep(&file, token).unwrap();
            assert_eq!(path, dir.path().join("app.db-sync-token"));
            assert_eq!(Source::File(path).read().unwrap(), token);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        forget(&file).unwrap();
        forget(&file).unwrap();
    }

    #[test]
    fn what_editors_leave_around_a_token_is_not_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = keep(&dir.path().join("app.db"), "\u{feff} secret\r\n\n").unwrap();
        assert_eq!(Source::File(path.clone()).read().unwrap(), "secret");
        for (wrong, said) in [("two\nlines", "more than one line"), ("a\u{7}b", "no request can carry")] {
            keep(&dir.path().join("app.db"), wrong).unwrap();
            let message = Source::File(path.clone()).read().unwrap_err();
            assert!(message.contains("app.db-sync-token") && message.contains(said), "{message}");
            let message = Source::Fixed(wrong.into()).read().unwrap_err();
            assert!(message.contains("--token or SYNC_TOKEN") && !message.contains(wrong), "{message}");
        }
    }

    #[test]
    fn a_refused_token_is_not_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.db");
        let answer = Source::File(keep(&file, "old").unwrap()).answers();
        assert_eq!(answer(TokenRequest { renew: false }).unwrap(), "old");
        assert!(answer(TokenRequest { renew: true }).unwrap_err().contains("app.db-sync-token"));
        keep(&file, "new").unwrap();
        assert_eq!(answer(TokenRequest { renew: true }).unwrap(), "new");
    }

    #[cfg(unix)]
    #[test]
    fn loose_permissions_are_refused_whoever_made_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = keep(&dir.path().join("app.db"), "secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o644, 0o640, 0o604, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let message = Source::File(path.clone()).read().unwrap_err();
            assert!(message.contains("chmod 600") && !message.contains("secret"), "{message}");
        }
    }
}
