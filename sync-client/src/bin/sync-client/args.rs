//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use sync_client::{Attach, Policy};

/// Keeps a SQLite file in sync with a server. Apps go on writing plain SQL to it.
#[derive(Debug, Parser)]
#[command(name = "sync-client", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print one JSON object to stdout (watch: one a line) instead of text; each command's help shows it.
    /// Failures print {"error": {"class", "message"}} and the same exit code.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something else went wrong
  2  the command line is wrong, or no token was given
  3  the server cannot be reached
  4  the server, or something on the way to it, refuses (the token, or the request)
  5  something waits for a person: see `sync-client rejected FILE` and `sync-client status FILE`, what verify
     and compare name, or what a first sync asks";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make FILE a synced file: its rows stay, its apps keep working
    #[command(after_help = "With --json: {\"file\", \"server\", \"tables\": [name], \
        \"refused\": [{\"table\", \"reason\", \"fix\"}], \"notes\": [{\"table\", \"text\"}], \"token_file\", \"online\": bool or null, \
        \"changed\": [what another init changed]}")]
    Init(Init),
    /// Make a new FILE from the server's schema and fill it
    #[command(after_help = "With --json: {\"file\", \"server\", \"tables\": [name], \"token_file\", \
        \"not_synced\": [{\"table\", \"reason\", \"fix\"}], \"left_out\": [{\"what\", \"why\"}], \"unfilled\": [name], \"report\"}: \
        tables of the server that this file cannot sync (exit code 5), what of the app's objects was not made, full-text indexes that only the app can fill, and the report as in sync")]
    Clone(Clone),
    /// Print the DDL of the tables that can be synced, ready for `sync-server serve --schema`
    #[command(after_help = "Tables that cannot be synced are named on stderr, with the reason and what to change.\n\
        With --json: {\"tables\": [name], \"statements\": [sql], \"app_objects\": [sql], \"refused\": [{\"table\", \"reason\", \"fix\"}], \
        \"notes\": [{\"table\", \"text\"}]}")]
    Schema(Schema),
    /// Push and pull until nothing is left to do
    #[command(
        after_help = "With --json: {\"report\": {\"push\": {\"committed_rows\", \"bundles\", \"rejected_rows\"}, \
        \"pull\": {\"bundles\", \"applied_rows\", \"conflicts\", \"set_aside\", \"rebuilt\", \"checkpoint\"}, \
        \"rounds\"}, \"pending_rows\", \"rejected_rows\", \"local_rows\", \"set_aside_rows\", \"held_back\": [{\"table\", \"message\"}]}; held_back names \
        tables whose columns are declared otherwise on the server: none of their rows is sent or taken"
    )]
    Sync(Work),
    /// Keep syncing until stopped (Ctrl-C, SIGTERM)
    #[command(after_help = "With --json: one object a line, named by its member \"event\": started; frozen {rows}; \
        uploaded {rows, total}; committed {bundle_seq, rows}; downloaded {rows, total or null}; \
        applied {rows, checkpoint}; changed {table, keys, deleted, source_id}; inbox {kind, table, key, message}; \
        unanswered {table, key, message}; held_back {table, message}; rekeyed {table, old_key, new_key}; waiting {message, ms or null}; \
        finished {report}; \
        failed {class: offline|auth|refused|local|protocol, message, retry_in_ms or null}.")]
    Watch(Watch),
    /// What waits, since when, and why
    #[command(after_help = "With --json: {\"server\", \"attached\", \"source_id\", \"tables\", \"pending_rows\", \
        \"pending_more\", \"outbox_rows\", \"outbox\", \"oldest_pending\", \"position\", \"synced_through\", \
        \"rejected_rows\", \"local_rows\" (of these, rows that stay in this file by their key), \"held_back\" as in sync, \"server_rounds\", \"server_respells\", \"discarded_rows\", \"conflicts\", \"set_aside_rows\", \
        \"checkpoint\", \"latest_known\", \"last_success\", \"last_error\": {\"at\", \"class\", \"message\"} or null, \
        \"retry_after_seconds\", \"ca\": path or null, \"online\": bool or null}; position is the place of the newest local commit, and every commit up to \
        synced_through is settled")]
    Status(File),
    /// The rows that wait to be sent
    #[command(after_help = "With --json: {\"rows\": [{\"table\", \"key\", \"op\", \"since\", \"why\"}]}")]
    Pending(File),
    /// The rows that the server refuses, with the reason
    #[command(after_help = INBOX_JSON)]
    Rejected(Pages),
    /// The local changes that a policy or a person gave up, kept whole
    #[command(after_help = INBOX_JSON)]
    Discarded(Pages),
    /// The conflicts that were settled
    #[command(after_help = INBOX_JSON)]
    Conflicts(Pages),
    /// Send a refused row again with the next sync, or put the local row of an entry back
    #[command(after_help = "With --json: {\"changed\": bool}")]
    Retry(Row),
    /// Give up a refused local change, or clear what the inbox says of a row
    #[command(after_help = "With --json: {\"changed\": bool}")]
    Drop(Row),
    /// Forget entries of the inbox, the rows that they keep included
    #[command(after_help = "With --json: {\"cleared\": number}")]
    Clear(Clear),
    /// Read everything anew from the server; local changes stay
    #[command(
        after_help = "With --json: {\"report\": the pull report as in sync, \"pending_rows\", \"rejected_rows\", \"local_rows\", \"set_aside_rows\", \
        \"held_back\" as in sync}"
    )]
    Rebuild(Work),
    /// Compare every row with the server's, name those that differ, and repair them where asked
    #[command(after_help = VERIFY_JSON)]
    Verify(Verify),
    /// Compare two files row by row, without a server
    #[command(after_help = COMPARE_JSON)]
    Compare(Compare),
    /// Make FILE an ordinary file again; its rows stay, and it remembers where it was
    #[command(after_help = "With --json: {\"detached\": true, \"kept_rows\", \"discarded_rows\", \"exported_rows\"}")]
    Detach(Detach),
    /// Take up the changes that another device of this account moved into an export with `detach`
    #[command(
        after_help = "With --json: {\"rows\", \"conflicts\", \"refused_rows\", \"committed_rows\", \"already\"}: \
        rows that are changes of FILE now; that met another change or do not fit; that wait in rejected; that were on \
        the server already; whether the export had been imported before"
    )]
    Import(Import),
    /// Send records to a server once, by a declared contract: an outbox in FILE, and targets
    #[cfg(feature = "ingest")]
    #[command(subcommand)]
    Stream(crate::stream::args::Stream),
}

impl Command {
    /// The file that it is about, where it is about one.
    pub(crate) fn file(&self) -> Option<&Path> {
        Some(match self {
            #[cfg(feature = "ingest")]
            Self::Stream(stream) => return stream.file(),
            Self::Init(Init { file, .. })
            | Self::Clone(Clone { file, .. })
            | Self::Schema(Schema { file, .. })
            | Self::Status(File { file })
            | Self::Pending(File { file })
            | Self::Rejected(Pages { file, .. })
            | Self::Discarded(Pages { file, .. })
            | Self::Conflicts(Pages { file, .. })
            | Self::Retry(Row { file, .. })
            | Self::Drop(Row { file, .. })
            | Self::Clear(Clear { file, .. })
            | Self::Detach(Detach { file, .. }) => file,
            Self::Sync(work) | Self::Rebuild(work) => &work.file,
            Self::Watch(watch) => &watch.work.file,
            Self::Verify(verify) => &verify.work.file,
            Self::Import(import) => &import.work.file,
            Self::Compare(compare) => &compare.first,
        })
    }
}

const INBOX_JSON: &str = "With --json: {\"rows\": [{\"id\", \"kind\", \"at\", \"table\", \"key\", \"op\", \"reason\", \
    \"message\", \"local_row\", \"base_row\", \"server_row\", \"merged_row\"}], \"next\"}; rows are JSON text or null; \"next\": what to give \
    to --after, or null";

const VERIFY_JSON: &str = "Ends with 5 where rows differ that were not repaired.\n\
    With --json: {\"bundle_seq\", \"compared_rows\", \"downloaded_rows\", \"left_out_rows\", \"differing_rows\", \
    \"repaired_rows\", \"differences\": [{\"table\", \"key\", \"kind\": missing|extra|different, \"columns\", \
    \"remedy\": none|from_server|from_file|again|refused|overtaken}], \"skipped_tables\"}";

const COMPARE_JSON: &str = "Ends with 5 where something differs. Rows that a synced file has not sent yet are left out.\n\
    With --json: {\"compared_rows\", \"left_out_rows\", \"differing_rows\", \"differences\" as in verify, from the \
    first file's side, \"only_in_first\": [table], \"only_in_second\": [table], \"other_keys\": [table]}";

/// A token given by hand.
#[derive(Debug, ClapArgs)]
pub(crate) struct Token {
    /// The token (against a `--dev` server: the user id). `SYNC_TOKEN` is better: others see arguments
    #[arg(long = "token", value_name = "TOKEN", value_parser = token)]
    pub(crate) given: Option<String>,
}

/// Nothing in place of a token is a mistake of whoever called this, such as a variable that is not set.
fn token(given: &str) -> Result<String, String> {
    let token = given.trim();
    if token.is_empty() { Err("there is no token in it; nothing was changed".into()) } else { Ok(token.to_owned()) }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Init {
    /// The SQLite file
    pub(crate) file: PathBuf,
    /// The server's base URL; it may carry a path
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) token: Token,
    #[command(flatten)]
    pub(crate) trust: Trust,
    /// Do not ask the server whether it is there and takes the token
    #[arg(long)]
    pub(crate) offline: bool,
    /// What becomes of FILE's rows when it is first synced: merge (both sides' rows are kept; where both have another
    /// row under one number, FILE's gets another), copy (FILE is a copy of one that the account has: the same number
    /// is the same row), take-remote (the server's replace them; `discarded` keeps what goes) or fail (where both have
    /// rows, nothing happens). Without it: merge, but a file that looks like a copy, and a detached one that meets
    /// another account, are not synced
    #[arg(long, value_name = "MODE")]
    pub(crate) attach: Option<Attach>,
    #[command(flatten)]
    pub(crate) wait: Patience,
    #[command(flatten)]
    pub(crate) rules: Rules,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// The tables to sync
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) tables: Vec<String>,
    /// Sync every table that can be, and name the others
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Clone {
    /// The server's base URL
    pub(crate) url: String,
    /// The file to make
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) token: Token,
    #[command(flatten)]
    pub(crate) trust: Trust,
    #[command(flatten)]
    pub(crate) wait: Patience,
    #[command(flatten)]
    pub(crate) rules: Rules,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Schema {
    /// The SQLite file, synced or not
    pub(crate) file: PathBuf,
    /// Only these tables
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) tables: Option<Vec<String>>,
}

/// Whom to trust beside the system's authorities.
#[derive(Debug, ClapArgs)]
pub(crate) struct Trust {
    /// Certificate authorities of your own, in PEM, for an https URL; FILE remembers where they are
    #[arg(long, value_name = "PEM")]
    pub(crate) ca: Option<PathBuf>,
}

/// How long to wait for the server.
#[derive(Debug, ClapArgs)]
pub(crate) struct Patience {
    /// Wait up to so many seconds, in all, where the server has no place now or another device fills the account, and
    /// it says when to come back (watch keeps trying by itself)
    #[arg(long = "wait", value_name = "SECONDS", default_value_t = 30)]
    pub(crate) seconds: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Work {
    /// The synced file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) token: Token,
    /// What becomes of FILE's rows where this is its first sync: as in `init`
    #[arg(long, value_name = "MODE")]
    pub(crate) attach: Option<Attach>,
    #[command(flatten)]
    pub(crate) wait: Patience,
    #[command(flatten)]
    pub(crate) rules: Rules,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) work: Work,
    /// For a program that starts this one: print JSON, take commands, one JSON object a line, and end when standard
    /// input is closed, as it is when that program ends in whatever way
    #[arg(long)]
    pub(crate) stdin: bool,
    /// Ask that program about each conflict, and wait so long for its answers; then the policy decides
    #[arg(long, value_name = "SECONDS", requires = "stdin")]
    pub(crate) ask: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) work: Work,
    /// Whose rows to take where they differ
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) repair: Option<Repair>,
}

/// Whose row is right.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Repair {
    /// The server's; what the file had is kept in `discarded`
    Server,
    /// The file's: the next sync sends it
    File,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Compare {
    /// A file, synced or not
    pub(crate) first: PathBuf,
    /// Another one
    pub(crate) second: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct File {
    /// The synced file
    pub(crate) file: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Row {
    /// The synced file
    pub(crate) file: PathBuf,
    /// The row's table
    #[arg(required_unless_present = "id", conflicts_with = "id", requires = "key")]
    pub(crate) table: Option<String>,
    /// The row's key: its text, or the key object as JSON where it has several columns
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
    /// The entry, by its number in place of table and key
    #[arg(long, value_name = "N")]
    pub(crate) id: Option<i64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pages {
    /// The synced file
    pub(crate) file: PathBuf,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Go on where an earlier list ended, as it said
    #[arg(long, value_name = "PLACE")]
    pub(crate) after: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Clear {
    /// The synced file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) what: Entries,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct Entries {
    /// This entry
    #[arg(long, value_name = "N")]
    pub(crate) id: Option<i64>,
    /// Every entry of this kind
    #[arg(long, value_enum)]
    pub(crate) kind: Option<Kind>,
}

impl Kind {
    /// As the library names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Discarded => "discarded",
            Self::Conflict => "conflict",
        }
    }
}

/// The kinds of entries.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// Rows that had to leave their tables; refused rows in their tables stay
    Rejected,
    /// Local changes that were given up
    Discarded,
    /// Conflicts that were settled
    Conflict,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) work: Work,
    /// What `detach --export` wrote
    pub(crate) export: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Detach {
    /// The synced file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) pending: Pending,
}

/// What becomes of changes that are not on the server yet; without one of these a detach refuses where
/// there are any.
#[derive(Debug, ClapArgs)]
#[group(multiple = false)]
pub(crate) struct Pending {
    /// The changed rows stay as they are, and go to the server when FILE is synced with the same account
    /// again
    #[arg(long)]
    pub(crate) keep: bool,
    /// They are undone: rows go back to what the server had, rows that it never had go. `discarded` keeps
    /// them whole
    #[arg(long)]
    pub(crate) discard: bool,
    /// They are moved into this new file, which `import` takes up on another device of the same account. Here
    /// they are undone
    #[arg(long, value_name = "EXPORT")]
    pub(crate) export: Option<PathBuf>,
    /// Remove everything of ours, the inbox too, also from a file that is detached or damaged. The rows stay,
    /// and nothing is known of them
    #[arg(long)]
    pub(crate) forget: bool,
}

/// What becomes of a row that both sides changed.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct Rules {
    /// What becomes of a row that both sides changed: server-wins (what else holds), client-wins, or
    /// merge, column by column (columns that both changed: the server's; merge-client: this file's).
    /// Alone it is for all tables, TABLE=RULE for one; may be given several times. `init` and `clone`
    /// keep it in the file; elsewhere it is for that run
    #[arg(long = "policy", value_name = "[TABLE=]RULE", value_parser = policy)]
    pub(crate) policies: Vec<(Option<String>, Policy)>,
    /// Keep edits in this table also where another device deleted the row that they refer to: it comes
    /// back. Remembered like a policy
    #[arg(long, value_name = "TABLE")]
    pub(crate) keep: Vec<String>,
}

fn policy(given: &str) -> Result<(Option<String>, Policy), String> {
    Ok(match given.rsplit_once('=') {
        Some((table, rule)) => (Some(table.to_ascii_lowercase()), rule.parse()?),
        None => (None, given.parse()?),
    })
}
