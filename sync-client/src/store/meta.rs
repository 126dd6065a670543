//! Named values: identity, checkpoint, and what was last heard.

use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, OptionalExtension as _};

use crate::error::Error;

/// The names of the values in `_sync_meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Format,
    Server,
    WireSchema,
    /// `*` or a JSON array of table names.
    Tables,
    SourceId,
    /// The one that this file goes on under where the history that it wrote in is gone.
    NextSourceId,
    NextSourceBundleId,
    ScopeId,
    Attached,
    Checkpoint,
    HistoryHash,
    LatestKnown,
    InitializationId,
    /// Why the next pull has to be a rebuild.
    Rebuild,
    /// With a rewritten history, and where the server cannot be asked for it: the highest bundle that it may share
    /// with this file.
    Fork,
    /// The columns of the frozen rows' tables when they were frozen.
    OutboxColumns,
    /// The push session of the outbox, where it takes more than one chunk and at least one arrived.
    PushSession,
    /// Whether the last push met rows that changed on the server: another try before a pull would be in vain.
    PullFirst,
    /// A row left its table while the outbox was in flight: confirming that has to look at the rows.
    OutboxDisturbed,
    /// Rows were withdrawn until the outbox comes back.
    Withdrawn,
    /// Counts the times that local changes were noticed: the newest place of a [`crate::report::Mark`].
    Noticed,
    /// What the outbox holds all changes up to, where no other waits.
    OutboxThrough,
    /// Every change up to this one is on the server or in the inbox.
    SyncedThrough,
    /// Names of tables in which a row with NULL in its key was seen, one a line.
    Keyless,
    /// Whether any row is set aside, or may be; 2 where one is for a UNIQUE value.
    SetAside,
    /// SQLite's number of the schema that was last read.
    SchemaSeen,
    LastSuccess,
    LastErrorAt,
    LastErrorClass,
    LastError,
    RetryAfter,
    /// The conflict rules that the file remembers, as JSON.
    Policies,
    /// How the first attach treats rows that are on both sides; none where nobody said.
    AttachMode,
    /// Whether the file was attached since it was made a synced one: the mode is for the first time only.
    Joined,
    /// When the file was detached, keeping what is needed to go on.
    Detached,
    /// The file was detached and is a synced one again; whether it may go on is not asked yet.
    Resume,
    /// The rows here are another account's.
    Switched,
    /// Exports that were imported into this file.
    Imported,
    /// The export that a detach was about to write.
    Exporting,
    /// The columns of each table when the file was detached.
    KeptColumns,
    /// Where the search for a row that the server does not name stands.
    Search,
    /// The part of a large dirty set that is pushed now.
    Part,
    /// What the server last said of its tables and limits.
    ServerTables,
    /// The tables that are held back, each with the sentence that says why, as JSON.
    HeldBack,
    /// Up to which bundle the history that was set aside is that of today.
    EarlierFork,
    /// Integers beyond 2^53 came back from this server rounded.
    ServerRounds,
    /// Times came back from this server in another spelling.
    ServerRespells,
    /// Tables that were held back and are not any more, as JSON: the next rebuild compares all of their rows.
    LetGo,
    /// The file with certificate authorities of one's own.
    Ca,
    /// The app's journal mode, where it was not WAL before the file was a synced one.
    JournalMode,
    /// Whether the server was reached when it was last spoken to.
    Reached,
    /// What the rows of tables without PRIMARY KEY are known by, where the server says so, as JSON.
    Keys,
    /// The checkpoint of the last push that was refused without a word on why.
    WordlessAt,
    /// Commits of the outbox whose replies were lost.
    LostCommits,
    /// The bundle that waits for the fate of the outbox, whose rows it touches.
    WaitingBundle,
    /// The checkpoint's bundle, where the server has no history hash: see [`crate::same_bundle`].
    CheckpointBundle,
    /// The source that this file had before, and the first bundle of it that this file did not freeze, as JSON.
    FormerSource,
    /// Rows whose writing did not come to an end, and under which triggers, as JSON.
    GivenUp,
}

impl Meta {
    const fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Server => "server",
            Self::WireSchema => "wire_schema",
            Self::Tables => "tables",
            Self::SourceId => "source_id",
            Self::NextSourceId => "next_source_id",
            Self::NextSourceBundleId => "next_source_bundle_id",
            Self::ScopeId => "scope_id",
            Self::Attached => "attached",
            Self::Checkpoint => "checkpoint",
            Self::HistoryHash => "history_hash",
            Self::LatestKnown => "latest_known",
            Self::InitializationId => "initialization_id",
            Self::Rebuild => "rebuild",
            Self::Fork => "fork",
            Self::Ca => "ca",
            Self::JournalMode => "journal_mode",
            Self::Reached => "reached",
            Self::OutboxColumns => "outbox_columns",
            Self::PushSession => "push_session",
            Self::PullFirst => "pull_first",
            Self::OutboxDisturbed => "outbox_disturbed",
            Self::Withdrawn => "withdrawn",
            Self::Noticed => "noticed",
            Self::OutboxThrough => "outbox_through",
            Self::SyncedThrough => "synced_through",
            Self::Keyless => "keyless",
            Self::SetAside => "set_aside",
            Self::SchemaSeen => "schema_seen",
            Self::LastSuccess => "last_success",
            Self::LastErrorAt => "last_error_at",
            Self::LastErrorClass => "last_error_class",
            Self::LastError => "last_error",
            Self::RetryAfter => "retry_after",
            Self::Policies => "policies",
            Self::AttachMode => "attach_mode",
            Self::Joined => "joined",
            Self::Detached => "detached",
            Self::Resume => "resume",
            Self::Switched => "switched",
            Self::Imported => "imported",
            Self::Exporting => "exporting",
            Self::KeptColumns => "kept_columns",
            Self::Search => "search",
            Self::Part => "part",
            Self::ServerTables => "server_tables",
            Self::HeldBack => "held_back",
            Self::EarlierFork => "earlier_fork",
            Self::ServerRounds => "server_rounds",
            Self::ServerRespells => "server_respells",
            Self::LetGo => "let_go",
            Self::Keys => "keys",
            Self::WordlessAt => "wordless_at",
            Self::LostCommits => "lost_commits",
            Self::WaitingBundle => "waiting_bundle",
            Self::CheckpointBundle => "checkpoint_bundle",
            Self::FormerSource => "former_source",
            Self::GivenUp => "given_up",
        }
    }

    /// Reads the value.
    pub(crate) fn get<T: FromSql>(self, conn: &Connection) -> Result<Option<T>, Error> {
        Ok(conn
            .prepare_cached("SELECT value FROM main._sync_meta WHERE name = ?")?
            .query_row([self.name()], |r| r.get(0))
            .optional()?)
    }

    /// Reads an integer, 0 where there is none.
    pub(crate) fn integer(self, conn: &Connection) -> Result<i64, Error> {
        Ok(self.get(conn)?.unwrap_or(0))
    }

    /// Writes the value where it is another: an unchanged one costs no commit.
    pub(crate) fn keep<T: ToSql + FromSql + PartialEq>(self, conn: &Connection, value: T) -> Result<(), Error> {
        if self.get::<T>(conn)?.as_ref() == Some(&value) { Ok(()) } else { self.set(conn, value) }
    }

    /// Writes the value.
    pub(crate) fn set(self, conn: &Connection, value: impl ToSql) -> Result<(), Error> {
        conn.prepare_cached("INSERT OR REPLACE INTO main._sync_meta (name, value) VALUES (?, ?)")?
            .execute((self.name(), value))?;
        Ok(())
    }

    /// Forgets the value.
    pub(crate) fn clear(self, conn: &Connection) -> Result<(), Error> {
        conn.prepare_cached("DELETE FROM main._sync_meta WHERE name = ?")?.execute([self.name()])?;
        Ok(())
    }
}
