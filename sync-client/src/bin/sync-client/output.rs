//! What is printed, and the exit codes.

use std::{
    fmt::Display,
    io::{self, Write as _},
    path::Path,
    process::{self, ExitCode},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde::{Serialize, Serializer};
use sync_client::{
    Error,
    report::{ErrorClass, Status},
};

use crate::text::shell;

/// Done, but a person has to look at something.
pub(crate) const SOMETHING_WAITS: u8 = 5;
pub(crate) const OTHER: u8 = 1;
const USAGE: u8 = 2;
pub(crate) const OFFLINE: u8 = 3;
pub(crate) const REFUSED: u8 = 4;

/// How a command ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// Nothing is left to do.
    Clean,
    /// Refused rows, or tables that are held back, wait for a person.
    SomethingWaits,
    /// Ended early; all is told, and this is the exit code.
    #[cfg(feature = "ingest")]
    Ended(u8),
}

impl Done {
    pub(crate) const fn with_rejected(rows: u64) -> Self {
        if rows == 0 { Self::Clean } else { Self::SomethingWaits }
    }

    /// Of a verb that leaves the file like this.
    pub(crate) const fn with(status: &Status) -> Self {
        if status.held_back.is_empty() {
            // What stays here by a documented rule waits for nobody.
            Self::with_rejected(status.rejected_rows - status.local_rows + status.set_aside_rows)
        } else {
            Self::SomethingWaits
        }
    }
}

/// How a command failed: one or two sentences, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: u8,
    class: &'static str,
    message: String,
    /// What to do next; `FILE` in it is the command's.
    advice: &'static str,
    /// What else to do next.
    more: String,
}

/// A failure as JSON.
#[derive(Serialize)]
struct Said<'a> {
    class: &'static str,
    message: &'a str,
}

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Said { class: self.class, message: &self.whole(None) }.serialize(serializer)
    }
}

impl Failure {
    const fn new(exit: u8, class: &'static str, message: String) -> Self {
        Self { exit, class, message, advice: "", more: String::new() }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, "usage", message.into())
    }

    /// Anything about this file or machine.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::new(OTHER, "local", message.into())
    }

    /// A push to a stream's target that ended early.
    #[cfg(feature = "ingest")]
    pub(crate) const fn ended(exit: u8, class: &'static str, message: String) -> Self {
        Self::new(exit, class, message)
    }

    /// What happened.
    #[cfg(feature = "ingest")]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Says it on stderr, where the result has it too.
    #[cfg(feature = "ingest")]
    pub(crate) fn say(&self) {
        let _ = writeln!(io::stderr(), "sync-client: {}", self.whole(None));
    }

    /// The exit code.
    #[cfg(feature = "ingest")]
    pub(crate) const fn exit(&self) -> u8 {
        self.exit
    }

    /// Adds what to do next.
    pub(crate) fn and(mut self, advice: &str) -> Self {
        self.more = if self.more.is_empty() { advice.to_owned() } else { format!("{} {advice}", self.more) };
        self
    }

    /// All of it, with the file that it is about.
    fn whole(&self, file: Option<&Path>) -> String {
        let name = file.map(|f| f.display().to_string());
        let mut text = match &name {
            Some(name) if ![&self.message, &self.more].iter().any(|t| t.contains(name)) => {
                format!("{name}: {}", self.message)
            }
            _ => self.message.clone(),
        };
        let advice = match &name {
            Some(name) => self.advice.replace("FILE", &shell(name)),
            None => self.advice.to_owned(),
        };
        for next in [advice, self.more.clone()].iter().filter(|t| !t.is_empty()) {
            text = format!("{}. {next}", text.trim_end_matches('.'));
        }
        text
    }

    /// The same of a file that was not made: there is none to `init`, and no changes wait.
    pub(crate) fn of_clone(error: Error) -> Self {
        let advice = match &error {
            Error::Intermediary { status: 300..=399, known: false, .. } => {
                "It redirects, which is not followed, so that the token goes nowhere else: give the final URL. Nothing was \
                 made."
            }
            Error::Intermediary { known: false, .. } if error.class() == ErrorClass::Intermediary => {
                "Is this the URL of a sync server? Nothing was made."
            }
            Error::Intermediary { .. } | Error::Failing { .. } => "Nothing was made; try again later.",
            _ => return error.into(),
        };
        Self { advice, ..error.into() }
    }

    /// Adds what to do next, where the server cannot be reached.
    pub(crate) fn when_offline(self, advice: &str) -> Self {
        if self.exit == OFFLINE { self.and(advice) } else { self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, class) = match (&error, error.class()) {
            (Error::Argument(_), _) => (USAGE, "usage"),
            (Error::Stopped, _) => (OTHER, "stopped"),
            (Error::LooksLikeCopy { .. }, _) => (SOMETHING_WAITS, "local"),
            (_, ErrorClass::Offline) => (OFFLINE, "offline"),
            (_, ErrorClass::Auth) => (REFUSED, "auth"),
            (_, ErrorClass::Refused) => (REFUSED, "refused"),
            (_, ErrorClass::Protocol) => (OTHER, "protocol"),
            (_, ErrorClass::Local) => (OTHER, "local"),
            (_, ErrorClass::Failing) => (OTHER, "failing"),
            (_, ErrorClass::Intermediary) => (REFUSED, "intermediary"),
        };
        let advice = match (&error, error.class()) {
            (Error::Stopped, _) => "Nothing is lost; the next sync goes on from here.",
            (_, ErrorClass::Auth) => "Give another with --token, or replace the one in SYNC_TOKEN or the token file.",
            (Error::Intermediary { status: 300..=399, known: false, .. }, _) => {
                "It redirects, which is not followed, so that the token goes nowhere else: `sync-client init FILE` takes \
                 the final URL."
            }
            (Error::Intermediary { known: false, .. }, ErrorClass::Intermediary) => NO_SYNC_SERVER,
            (_, ErrorClass::Failing | ErrorClass::Intermediary) => {
                "Changes wait in the file, and the next sync tries again: `sync-client pending FILE` names the rows."
            }
            (Error::OtherAccount { .. } | Error::BothHaveRows { .. }, _) => {
                "`sync-client init FILE` again with --attach merge or --attach take-remote says which."
            }
            (Error::LooksLikeCopy { .. }, _) => "`sync-client sync FILE --attach copy` or `--attach merge` says which.",
            (Error::Malformed(_), _) => {
                "`sync-client clone` makes a new file of what is there; `sqlite3 FILE .recover` gets at what was not sent."
            }
            (Error::PendingWork(_), _) => {
                "For the latter: `sync-client detach FILE` with --keep, --discard or --export; its help says what they do."
            }
            _ => "",
        };
        let message = match error {
            Error::Sqlite(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                "another program kept the file locked for longer than this waits. Nothing is lost; try again".into()
            }
            error => error.to_string(),
        };
        Self { advice, ..Self::new(exit, class, message) }
    }
}

const NO_SYNC_SERVER: &str = "Is this the URL of a sync server? `sync-client init FILE` again sets another.";

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// One JSON object instead of text.
    pub(crate) json: bool,
}

impl Output {
    /// The result: as JSON, or as text.
    pub(crate) fn result(self, object: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            line(&json(object));
        } else {
            let text = text();
            if !text.is_empty() {
                line(&text);
            }
        }
    }

    /// Something said beside the result: on stderr, and not with JSON, which carries it.
    pub(crate) fn note(self, text: impl Display) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Prints a failure, with the command's file; stderr has it in both forms, for logs.
    pub(crate) fn failure(self, failure: &Failure, file: Option<&Path>) -> ExitCode {
        #[derive(Serialize)]
        struct Wrapped<'a> {
            error: Said<'a>,
        }
        let message = &failure.whole(file);
        if self.json {
            line(&json(&Wrapped { error: Said { class: failure.class, message } }));
        }
        let _ = writeln!(io::stderr(), "sync-client: {message}");
        ExitCode::from(failure.exit)
    }
}

/// One value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("invariant: reports are plain structs with string keys")
}

/// Writes to stdout that were begun and ended: odd while one is under way.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Writes a line to stdout; false where nobody reads it any more.
pub(crate) fn line(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    WRITES.fetch_add(1, Ordering::SeqCst);
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_ok();
    WRITES.fetch_add(1, Ordering::SeqCst);
    written
}

/// Ends the process once a write to stdout has waited for a reader this long; for when it is to end anyway. Nothing is lost
/// by that, as by no other end, and the file is free for others.
pub(crate) fn end_if_stuck() {
    loop {
        let before = WRITES.load(Ordering::SeqCst);
        thread::sleep(UNREAD);
        if !before.is_multiple_of(2) && WRITES.load(Ordering::SeqCst) == before {
            process::exit(0);
        }
    }
}

/// A reader that is there takes a line sooner.
const UNREAD: Duration = Duration::from_secs(2);
