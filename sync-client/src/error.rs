//! What can go wrong, in the words of the person whom it stops.

use std::path::Path;

use sync_core::engine::patience::Later;
use sync_core::protocol::Code;
use sync_core::protocol::code::Retry;
use sync_core::sqlite::introspect::Refusal;

use crate::lock::THIS_PROCESS;
use crate::report::ErrorClass;
use crate::transport::TransportError;

/// Why a verb failed. Nothing local is lost by any of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no reply, or the server fails for now: try again later.
    #[error("{message}")]
    Offline {
        /// What happened.
        message: String,
        /// What the server asked for, in seconds.
        retry_after: Option<u64>,
        /// The connection broke half-way: the request may have arrived, and the same again may settle it at
        /// once. Verbs have tried so before they say this.
        lost: bool,
    },
    /// [`crate::Client::stop`] was called.
    #[error("stopped")]
    Stopped,
    /// The token is refused, and there is no other.
    #[error("the server refuses the token: {0}")]
    Auth(String),
    /// Whoever yields tokens has none for now: try again later. Nothing was sent.
    #[error("no token could be had: {0}")]
    NoToken(String),
    /// The server was reached, and fails. It may be this file's rows, it may be the server.
    #[error("the server fails ({code}): {message}")]
    Failing {
        /// The protocol's code.
        code: String,
        /// The server's words.
        message: String,
        /// What the server asked for, in seconds.
        retry_after: Option<u64>,
    },
    /// The reply is not the server's: a proxy, a filter or a login page on the way answers in its place.
    #[error("{}", crate::api::between(*status, words))]
    Intermediary {
        /// HTTP status.
        status: u16,
        /// The first words of the reply.
        words: String,
        /// The server itself was heard before: it is not the URL.
        known: bool,
        /// What was asked for, in seconds.
        retry_after: Option<u64>,
    },
    /// The server refuses the request for good.
    #[error("the server refuses this ({code}): {message}")]
    Refused {
        /// The protocol's code.
        code: String,
        /// The server's words.
        message: String,
    },
    /// Another device is seeding the scope.
    #[error("another device is filling this account for the first time; try again in {seconds} s")]
    RetryLater {
        /// How long to wait.
        seconds: u64,
    },
    /// The reply breaks the protocol.
    #[error("the server breaks the protocol: {0}")]
    Protocol(String),
    /// A reply is older than what this file knows of the server: something on the way keeps replies. It may pass.
    #[error(
        "an old reply came: it ends at bundle {said}, and the server has bundle {known} already; a cache between this \
         device and the server must not keep its replies (they say `Cache-Control: no-store`)"
    )]
    OldReply {
        /// Where the reply says that the history ends.
        said: i64,
        /// What the server is known to have.
        known: i64,
    },
    /// Replies come, and none of them takes the sync any further.
    #[error(
        "the server answers, but nothing moves: what waits is neither taken nor refused (`pending` lists it); nothing \
         is lost, and a later sync tries again"
    )]
    NoProgress,
    /// The token belongs to another user than the file was attached to.
    #[error(
        "this file belongs to another account on the server: nothing was sent; use the token that it was attached \
         with, or detach the file first"
    )]
    WrongScope,
    /// A detached file meets another account, and nobody said what becomes of its rows.
    #[error(
        "the {rows} rows in this file are from another account, or it cannot be told whose: nothing was sent; say whether they go \
         along (attach with merge) or the account's rows replace them (take-remote)"
    )]
    OtherAccount {
        /// Rows in the synced tables.
        rows: u64,
    },
    /// [`crate::Attach::Fail`]: this file and the account both have rows.
    #[error(
        "this file has {local} rows and the account has {remote}: nothing was changed or sent; attach with merge to \
         keep both, or with take-remote to replace this file's"
    )]
    BothHaveRows {
        /// Rows in the synced tables of this file.
        local: u64,
        /// Rows on the server.
        remote: u64,
    },
    /// Nobody said how the file is attached, and by its numbers it looks like a copy of one that is part of the account:
    /// see [`crate::Attach::Copy`] and [`crate::Client::attach_as`].
    #[error(
        "this file looks like a copy of one that this account has already ({equal} rows of {table} are equal under the \
         same number), but {differing} rows differ under a number that both have: nothing was changed or sent; say \
         whether it is one (attach with copy: the same number is the same row, and of two that differ both are kept) or \
         not (merge: rows that differ get other numbers, and with them what refers to them)"
    )]
    LooksLikeCopy {
        /// The table with most equal rows.
        table: String,
        /// Its rows that are equal on both sides under the same number.
        equal: u64,
        /// Rows, of all tables, that are not.
        differing: u64,
    },
    /// The file is not a synced one.
    #[error("this file is not synced yet: name a server and tables first (sync-client init)")]
    NotInitialized,
    /// Another process of ours, or another client of this one, has the file.
    #[error("{}", owned(by))]
    Owned {
        /// Who: `process 4277, sync-client` (its number and its program), or `this process`.
        by: String,
    },
    /// Tables that cannot be synced.
    #[error("{}", refusals(.0))]
    Schema(Vec<Refusal>),
    /// The app removed or renamed a column that other devices have.
    #[error("{}; nothing was sent, and nothing is lost", removed(table, column, renamed.as_deref()))]
    RemovedColumn {
        /// As in the schema.
        table: String,
        /// As it was in the schema.
        column: String,
        /// The column that stands in its place, where it was renamed.
        renamed: Option<String>,
    },
    /// The app gave a column another type than other devices have.
    #[error(
        "column {column} of table {table} was {was} and is {now} now, but the server and other devices still have it as \
         {was}: make it {was} again, and put what needs the other type into a column of another name; nothing was sent, \
         and nothing is lost"
    )]
    RetypedColumn {
        /// As in the schema.
        table: String,
        /// As in the schema.
        column: String,
        /// Its declared type before.
        was: String,
        /// Its declared type now.
        now: String,
    },
    /// The app gave a table another primary key than other devices have.
    #[error(
        "the primary key of table {table} was ({was}) and is ({now}) now, but the server and other devices know its \
         rows by the old one: bring that back, or make a table of another name; nothing was sent, and nothing is lost"
    )]
    ChangedKey {
        /// As in the schema.
        table: String,
        /// The key's columns before.
        was: String,
        /// The key's columns now.
        now: String,
    },
    /// Detaching would lose work.
    #[error("{0} changed rows are not on the server yet; sync first, or say what becomes of them")]
    PendingWork(u64),
    /// The schema changed under a transaction of ours; the verb reads it again and goes on.
    #[error("the file's schema changed meanwhile; try again")]
    SchemaMoved,
    /// What triggers do with a row that came does not come to an end.
    #[error("{}", endless(table, key, triggers))]
    Endless {
        /// As in the schema.
        table: String,
        /// The row's key, as JSON.
        key: String,
        /// The triggers of the app on that table.
        triggers: Vec<String>,
    },
    /// An argument that makes no sense.
    #[error("{0}")]
    Argument(String),
    /// The file was written by a newer version.
    #[error("this file was synced by a newer version (format {0}); update this program")]
    NewerFormat(i64),
    /// SQLite.
    #[error("the database: {0}")]
    Sqlite(#[source] rusqlite::Error),
    /// SQLite finds pages of the file that do not belong together. So does a file look to which a backup was copied while its
    /// log lay beside it: SQLite takes the log for the new file's.
    #[error(
        "the file itself is damaged ({0}), and what is in it is not to be trusted. Where a backup was copied over it, its \
         log was left beside it, or another program had it open: stop what has it open, copy the backup over it again, \
         and remove the -wal and -shm beside it as well. What was synced is on the server in any case"
    )]
    Malformed(#[source] rusqlite::Error),
    /// The system: a file beside the app's, an export, a thread.
    #[error("{what}: {source}")]
    Io {
        /// What could not be done, and to which file.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something of ours in the file is not readable.
    #[error("the sync state in this file is damaged ({0}); `detach --forget` and init again keeps every row")]
    Damaged(String),
}

impl Error {
    /// The class, for status and exit codes.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Offline { .. } | Self::NoToken(_) | Self::Stopped | Self::RetryLater { .. } => ErrorClass::Offline,
            _ if self.begins_anew() => ErrorClass::Offline,
            // A proxy that does not reach the server.
            Self::Intermediary { status: 429 | 502..=504, .. } => ErrorClass::Offline,
            Self::Intermediary { .. } => ErrorClass::Intermediary,
            Self::Failing { .. } => ErrorClass::Failing,
            Self::Auth(_) => ErrorClass::Auth,
            Self::Refused { .. } | Self::WrongScope | Self::OtherAccount { .. } => ErrorClass::Refused,
            Self::Protocol(_) | Self::OldReply { .. } | Self::NoProgress => ErrorClass::Protocol,
            _ => ErrorClass::Local,
        }
    }

    /// What the server said of when to come back.
    pub(crate) const fn later(&self) -> Option<Later> {
        match self {
            Self::Offline { retry_after: Some(seconds), .. } => Some(Later::Asked(*seconds)),
            Self::RetryLater { seconds } => Some(Later::Seeding(*seconds)),
            _ => None,
        }
    }

    /// Whether the server forgot a step that had begun, a session that expired or that it lost: the step can
    /// be taken again from its beginning.
    pub(crate) fn begins_anew(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if Code::parse(code).is_some_and(|c| c.retry() == Retry::Recover))
    }

    /// Whether there is no answer of the server, or only that it fails: the same again later may have one.
    pub(crate) const fn is_no_answer(&self) -> bool {
        matches!(self, Self::Offline { .. } | Self::Failing { .. } | Self::Intermediary { .. })
    }

    /// Whether a pull is worth a try after a push that ended so: everything but what is wrong with this file or
    /// account, or a wait that was asked for.
    pub(crate) fn lets_pull(&self) -> bool {
        match self {
            Self::Offline { retry_after, .. }
            | Self::Failing { retry_after, .. }
            | Self::Intermediary { retry_after, .. } => retry_after.is_none(),
            Self::Refused { .. } | Self::Protocol(_) => true,
            _ => false,
        }
    }

    /// Whether the reply is not the server's and has this status: what the server said is lost on the way.
    pub(crate) fn is_wordless(&self, statuses: &[u16]) -> bool {
        matches!(self, Self::Intermediary { status, .. } if statuses.contains(status))
    }

    /// Whether the server refused with this code.
    pub(crate) fn is_code(&self, c: Code) -> bool {
        matches!(self, Self::Refused { code, .. } if code == c.as_str())
    }
}

/// Of something that could not be done to a file.
pub(crate) fn cannot(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let what = format!("cannot {what} {}", path.display());
    move |source| Error::Io { what, source }
}

/// Nothing but a stop interrupts a statement.
impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        // Tables of ours hold what we wrote: pages that do not belong together show so, too.
        if matches!(e, rusqlite::Error::InvalidColumnType(..)) {
            return Self::Malformed(e);
        }
        match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => Self::Stopped,
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => Self::Malformed(e),
            _ => Self::Sqlite(e),
        }
    }
}

impl From<TransportError> for Error {
    fn from(e: TransportError) -> Self {
        match e {
            TransportError::Interrupted => Self::Stopped,
            TransportError::Invalid(why) => Self::Argument(why),
            other => Self::Offline {
                message: other.to_string(),
                retry_after: None,
                lost: matches!(other, TransportError::Broken(_)),
            },
        }
    }
}

impl From<sync_core::key::KeyError> for Error {
    fn from(e: sync_core::key::KeyError) -> Self {
        Self::Damaged(e.to_string())
    }
}

impl From<sync_core::record::RecordError> for Error {
    fn from(e: sync_core::record::RecordError) -> Self {
        Self::Damaged(e.to_string())
    }
}

fn owned(by: &str) -> String {
    if by == THIS_PROCESS {
        return "this file is being synced by this process already: use clones of that client, or drop it first; one that \
                was dropped inside a sync has the file until that has ended"
            .into();
    }
    format!("this file is being synced by another process ({by}); stop it first, or leave the syncing to it")
}

/// What is said of a row that is set aside for it, too.
pub(crate) fn without_end(triggers: &[String]) -> String {
    let which = match triggers {
        [] => "what its writing sets off".into(),
        [one] => format!("trigger {one}"),
        more => format!("one of the triggers {}", more.join(", ")),
    };
    format!("{which} does not come to an end")
}

fn endless(table: &str, key: &str, triggers: &[String]) -> String {
    format!(
        "the row {key} of table {table} cannot be written here: {}; nothing is lost, and once that is changed or dropped the \
         next sync goes on",
        without_end(triggers)
    )
}

fn removed(table: &str, column: &str, renamed: Option<&str>) -> String {
    match renamed {
        Some(now) => format!(
            "column {column} of table {table} is called {now} now, but the server and other devices still have it as \
             {column}: rename it back (ALTER TABLE {table} RENAME COLUMN {now} TO {column}); for another name, add a \
             column and copy the values"
        ),
        None => format!(
            "column {column} of table {table} was removed, but the server and other devices still have it: add it again \
             (ALTER TABLE {table} ADD COLUMN {column} …) and leave it unused, or detach the file and sync it again, to go \
             on without the column here"
        ),
    }
}

fn refusals(list: &[Refusal]) -> String {
    let lines: Vec<String> =
        list.iter().map(|r| format!("table {} cannot be synced: {}; {}", r.table, r.reason, r.fix)).collect();
    lines.join("\n")
}
