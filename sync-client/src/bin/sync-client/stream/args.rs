//! The command line of `stream`.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Stream {
    /// Put records into FILE's outbox; nothing is sent
    #[command(
        after_help = "With --json: {\"added\", \"invalid\": [{\"kind\", \"id\", \"reason\"}], \"left_out\"}; invalid are those that \
        the contract's schema is against: they are kept, and will not be sent like this; left_out are those that the server's \
        configuration keeps out, by a pause or by their app"
    )]
    Add(Add),
    /// Send what a target has not: each batch is frozen before it is sent, and the same again until it is settled
    #[command(after_help = PUSH)]
    Push(Push),
    /// Bind FILE's device to a project at the server, which says how it is to sample
    #[command(after_help = "With --json: {\"device_id\", \"project_id\", \"config\"}")]
    Enrol(Enrol),
    /// What each target has, and what waits
    #[command(
        after_help = "With --json: {\"stream\", \"device_id\", \"config\" (aexy), \"records\": {kind: n}, \"invalid\": [{\"kind\", \"id\", \"reason\"}], \
        \"targets\": [{\"sink\", \"target\", \"last_success_at\", \"last_batch_id\", \"cursors\": {kind: {\"at\", \"id\"}}, \
        \"failure_count\", \"last_error\", \"retry_after\", \"in_flight\", \"waiting\": {kind: n}, \
        \"quarantined\": [{\"kind\", \"id\", \"reason\"}]}]}"
    )]
    Status(Status),
    /// Keep a token for a stream, or get one: a person approves a code elsewhere
    #[command(
        after_help = "With --json, without SECRET: {\"user_code\", \"verification_uri\", \"expires_at\"} first, and \
        {\"logged_in\": true, \"file\"} once it is approved"
    )]
    Login(Login),
    /// Print the JSON Schema that batches are checked against
    #[command(after_help = "It is JSON, with --json too")]
    Schema(Schema),
}

const PUSH: &str = "\
Ends with 3 where the same push may pass later, 4 where the server refuses, 5 where a record waits for a person: one that the
server refused, or that the schema is against. Such a record is left out until it is added again.
With --json: {\"sink\", \"target\", \"mode\": full|since_last, \"dry_run\", \"counts\": {kind: n}, \"batches\": [{\"batch_id\", \
\"counts\"}], \"rebuilt\", \"quarantined\": [{\"kind\", \"id\", \"reason\"}], \"invalid\": [the same], \"verified\", \"error\": \
{\"class\", \"message\"} or null}; with --sink stdout the batches alone, one a line";

impl Stream {
    /// The file that it is about, where it is about one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Add(Add { file, .. })
            | Self::Push(Push { file, .. })
            | Self::Enrol(Enrol { file, .. })
            | Self::Status(Status { file, .. }) => Some(file),
            Self::Login(_) | Self::Schema(_) => None,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Add {
    /// The SQLite file; made where it is missing
    pub(crate) file: PathBuf,
    /// The stream: statsai, aexy
    pub(crate) stream: String,
    /// The kind of the records, as the batch names their list: events, summaries …
    pub(crate) kind: String,
    /// One JSON record, or an array of them; - is standard input
    #[arg(long, value_name = "F.json", default_value = "-")]
    pub(crate) input: PathBuf,
}

/// Where batches go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum To {
    /// Standard output, one batch a line
    Stdout,
    /// A file that you alone can read
    File,
    /// A server
    Http,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Push {
    /// The SQLite file; made where it is missing
    pub(crate) file: PathBuf,
    /// The stream: statsai, aexy
    pub(crate) stream: String,
    /// Where batches go; what is known of one target is that target's alone
    #[arg(long, value_enum)]
    pub(crate) sink: To,
    /// The file, with --sink file; it is replaced
    #[arg(long, value_name = "F", required_if_eq("sink", "file"))]
    pub(crate) output: Option<PathBuf>,
    /// The full URL of the batch route, with --sink http; without it the one of the login
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Only what the target has not confirmed, and all current metadata; without it all current records
    #[arg(long)]
    pub(crate) since_last: bool,
    /// Only count what would be sent
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Compare the server's state afterwards; a difference ends with 4
    #[arg(long)]
    pub(crate) verify: bool,
    /// Another device id than FILE's, this once
    #[arg(long, value_name = "D")]
    pub(crate) device: Option<String>,
    /// The token. `STATSAI_SYNC_TOKEN`, `AEXY_TOKEN` or `stream login` is better: others see arguments
    #[arg(long, value_name = "T")]
    pub(crate) auth_token: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Enrol {
    /// The SQLite file; made where it is missing
    pub(crate) file: PathBuf,
    /// The stream: aexy
    pub(crate) stream: String,
    /// The project
    #[arg(long, value_name = "ID")]
    pub(crate) project: String,
    /// The full URL of the batch route; without it the one of the login
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Another device id than FILE's, this once
    #[arg(long, value_name = "D")]
    pub(crate) device: Option<String>,
    /// The device's name, for people
    #[arg(long, value_name = "N")]
    pub(crate) name: Option<String>,
    /// The token. `AEXY_TOKEN` or `stream login` is better: others see arguments
    #[arg(long, value_name = "T")]
    pub(crate) auth_token: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Status {
    /// The SQLite file
    pub(crate) file: PathBuf,
    /// The stream: statsai, aexy
    pub(crate) stream: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Login {
    /// The stream: statsai, aexy
    pub(crate) stream: String,
    /// A token to keep; - reads it from standard input. Without it a code is to be approved
    pub(crate) secret: Option<String>,
    /// The full URL of the batch route
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Schema {
    /// The contract: `statsai.sync_batch`, `aexy.events_batch`
    pub(crate) name: String,
}
