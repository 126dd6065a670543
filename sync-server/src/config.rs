//! The program's command line, and what it makes of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use sync_core::protocol::UserId;

use crate::auth::JwtAuth;
use crate::limits::Limits;
use crate::service::{Environment, FaultPoint};

/// Serves the sync protocol from one SQLite file per user.
#[derive(Debug, Parser)]
#[command(name = "sync-server", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGINT or SIGTERM.
    Serve(Box<Serve>),
    /// Print a token for a user.
    #[command(about = "Print a token for a user, signed with the secret in SYNC_SERVER_SECRET")]
    Token(Token),
    /// Make, list and revoke keys, also while the server runs.
    #[cfg(feature = "ingest")]
    #[command(subcommand)]
    Keys(crate::ingest::commands::Keys),
    /// Let devices in that show a code, also while the server runs.
    #[cfg(feature = "ingest")]
    #[command(subcommand)]
    Devices(crate::ingest::commands::Devices),
    /// Make projects that devices are enrolled into, say who takes part, and configure their devices.
    #[cfg(feature = "ingest")]
    #[command(subcommand)]
    Projects(crate::ingest::projects_commands::Projects),
    /// Print a user's sums of what devices sent.
    #[cfg(feature = "ingest")]
    Rollups(crate::ingest::commands::Rollups),
}

/// `sync-server serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// The DDL of the synced tables: the same file that the app uses.
    #[cfg_attr(feature = "ingest", arg(long, value_name = "FILE", required_unless_present = "ingest"))]
    #[cfg_attr(not(feature = "ingest"), arg(long, value_name = "FILE", required = true))]
    pub schema: Option<PathBuf>,
    /// Contracts by which devices send records, with commas between them: statsai, aexy. Without --schema nothing else is served.
    #[cfg(feature = "ingest")]
    #[arg(long, value_name = "CONTRACTS", value_delimiter = ',')]
    pub ingest: Vec<Stream>,
    /// The address that devices reach the server by; where it listens by default.
    #[cfg(feature = "ingest")]
    #[arg(long, value_name = "URL", requires = "ingest")]
    pub public_url: Option<String>,
    /// The directory of the files that belong to records, or none; evidence in the data directory by default.
    #[cfg(feature = "ingest")]
    #[arg(long, value_name = "DIR|none", requires = "ingest")]
    pub evidence: Option<PathBuf>,
    /// Serve StatsAI's /v1/sync/batches, which takes no token. Only on loopback.
    #[cfg(feature = "ingest")]
    #[arg(long, requires = "ingest")]
    pub loopback_diagnostics: bool,
    /// Where the users' files live; made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Triggers that the server insists on, beside the schema.
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8787")]
    pub listen: SocketAddr,
    /// Take any bearer token as the user id. Only on loopback.
    #[arg(long)]
    pub dev: bool,
    /// Holds the secret that tokens are signed with, in place of `SYNC_SERVER_SECRET`.
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    pub secret_file: Option<PathBuf>,
    /// The one schema name on the wire.
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub wire_schema: String,
    /// The app's name, in capabilities and status.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub app_name: String,
    /// Seconds that requests in flight have after a signal.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u64,
    /// Seconds between two heartbeats of an idle watch stream.
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..))]
    pub heartbeat: u64,
    /// Threads that drive connections.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// A contract by which devices send records.
#[cfg(feature = "ingest")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stream {
    /// StatsAI's `sync_batch.v1`.
    Statsai,
    /// Aexy Tracker's event batches.
    Aexy,
}

#[cfg(feature = "ingest")]
impl Stream {
    pub(crate) fn contract(self) -> sync_core::ingest::contract::Contract {
        match self {
            Self::Statsai => sync_core::ingest::contract::Contract::statsai(),
            Self::Aexy => sync_core::ingest::contract::Contract::aexy(),
        }
    }
}

/// Limits that an operator may set; the defaults are those of [`Limits`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Bundles kept in each user's history.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub retained_bundles: Option<i64>,
    /// Decoded bytes of one request.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1024..))]
    pub max_bytes_per_request: Option<u64>,
    /// Rows of one push; 0 for no limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub max_rows_per_bundle: Option<i64>,
    /// Bytes of one row; 0 for no limit.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(i64).range(0..))]
    pub max_bytes_per_row: Option<i64>,
    /// Rows of one uploaded chunk.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub max_rows_per_push_chunk: Option<i64>,
    /// Bytes after which a pull page ends.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(i64).range(1..))]
    pub max_bytes_per_pull: Option<i64>,
    /// Seconds that a staged push lives without a chunk.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(1..))]
    pub push_session_ttl: Option<i64>,
    /// Seconds that a snapshot lives without being read.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(1..))]
    pub snapshot_session_ttl: Option<i64>,
    /// Seconds that a seeding device may be silent.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(1..))]
    pub initialization_lease_ttl: Option<i64>,
    /// Rows of a snapshot; 0 for no limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub max_rows_per_snapshot: Option<i64>,
    /// Bytes of a snapshot; 0 for no limit.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(i64).range(0..))]
    pub max_bytes_per_snapshot: Option<i64>,
    /// Rows that a user's `verify` may have hashed in a minute; 0 for no limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub max_digest_rows_per_minute: Option<i64>,
    /// Users whose files are kept open.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub open_scopes: Option<u64>,
}

/// `sync-server token`
#[derive(Debug, Args)]
pub struct Token {
    /// The user.
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// Days that the token is valid.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=36_500))]
    pub days: i64,
    /// Holds the secret, in place of `SYNC_SERVER_SECRET`.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

impl LimitArgs {
    /// The defaults with what was set.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let d = Limits::default();
        let chunk = self.max_rows_per_push_chunk.unwrap_or(d.max_rows_per_push_chunk);
        let ms = |seconds: Option<i64>, default| seconds.map_or(default, |s| s.saturating_mul(1000));
        Limits {
            retained_bundles: self.retained_bundles.unwrap_or(d.retained_bundles),
            max_bytes_per_request: self.max_bytes_per_request.unwrap_or(d.max_bytes_per_request),
            max_rows_per_bundle: self.max_rows_per_bundle.unwrap_or(d.max_rows_per_bundle),
            max_bytes_per_row: self.max_bytes_per_row.unwrap_or(d.max_bytes_per_row),
            default_rows_per_push_chunk: d.default_rows_per_push_chunk.min(chunk),
            max_rows_per_push_chunk: chunk,
            max_bytes_per_pull: self.max_bytes_per_pull.unwrap_or(d.max_bytes_per_pull),
            push_session_ttl_ms: ms(self.push_session_ttl, d.push_session_ttl_ms),
            snapshot_session_ttl_ms: ms(self.snapshot_session_ttl, d.snapshot_session_ttl_ms),
            initialization_lease_ttl_ms: ms(self.initialization_lease_ttl, d.initialization_lease_ttl_ms),
            max_rows_per_snapshot_session: self.max_rows_per_snapshot.unwrap_or(d.max_rows_per_snapshot_session),
            max_bytes_per_snapshot_session: self.max_bytes_per_snapshot.unwrap_or(d.max_bytes_per_snapshot_session),
            max_digest_rows_per_minute: self.max_digest_rows_per_minute.unwrap_or(d.max_digest_rows_per_minute),
            open_scopes: self.open_scopes.map_or(d.open_scopes, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            ..d
        }
    }
}

impl Serve {
    /// What cannot be served although each option is fine by itself.
    ///
    /// # Errors
    /// `--dev` or `--loopback-diagnostics` beyond loopback, `--rules` without `--schema`, `--evidence s3:…`.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.dev && !self.listen.ip().is_loopback() {
            return Err(ConfigError::DevBeyondLoopback(self.listen));
        }
        #[cfg(feature = "ingest")]
        if self.loopback_diagnostics && !self.listen.ip().is_loopback() {
            return Err(ConfigError::DiagnosticsBeyondLoopback(self.listen));
        }
        #[cfg(feature = "ingest")]
        if self.evidence.as_ref().and_then(|e| e.to_str()).is_some_and(|e| e.starts_with("s3:")) {
            return Err(ConfigError::Evidence);
        }
        #[cfg(feature = "ingest")]
        if self.schema.is_none() && self.rules.is_some() {
            return Err(ConfigError::RulesWithoutSchema);
        }
        Ok(())
    }

    /// Between two heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat)
    }
}

impl Token {
    /// The signed token.
    ///
    /// # Errors
    /// Where the user is blank, or as [`secret_auth`].
    pub fn issue(&self, environment: Arc<dyn Environment>) -> Result<String, ConfigError> {
        let user = UserId::parse(&self.user).ok_or(ConfigError::BlankUser)?;
        Ok(secret_auth(self.secret_file.as_deref(), environment)?.issue(&user, self.days.saturating_mul(24 * 60 * 60)))
    }
}

/// Authentication by the secret in a file, white space around it left out, or else in [`SECRET_VARIABLE`].
///
/// # Errors
/// Where it is missing or too short.
pub fn secret_auth(file: Option<&Path>, environment: Arc<dyn Environment>) -> Result<JwtAuth, ConfigError> {
    if let Some(path) = file {
        let failed = |why: String| ConfigError::SecretFile { path: path.to_owned(), why };
        let secret = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
        return JwtAuth::new(secret.trim_ascii(), environment).map_err(|e| failed(e.to_string()));
    }
    let secret = std::env::var_os(SECRET_VARIABLE).ok_or(ConfigError::NoSecret)?;
    Ok(JwtAuth::new(secret.as_encoded_bytes(), environment)?)
}

/// The fault point that [`FAULT_VARIABLE`] names.
///
/// # Errors
/// Where there is no such point.
pub fn fault_point() -> Result<Option<FaultPoint>, ConfigError> {
    let Some(name) = std::env::var_os(FAULT_VARIABLE) else { return Ok(None) };
    let point = FaultPoint::ALL.iter().copied().find(|p| name == p.name());
    point.map(Some).ok_or(ConfigError::Fault)
}

/// Holds the secret that tokens are signed with; an option would show it to everybody on the machine.
pub const SECRET_VARIABLE: &str = "SYNC_SERVER_SECRET";

/// For tests: names the [`FaultPoint`] at which the program says so and stands still.
pub const FAULT_VARIABLE: &str = "SYNC_SERVER_FAULT";

/// A command line or environment that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Anybody could be anybody.
    #[error("--dev takes any token as a user id and so listens on loopback only, not on {0}")]
    DevBeyondLoopback(SocketAddr),
    /// Anybody could send.
    #[cfg(feature = "ingest")]
    #[error("--loopback-diagnostics takes batches without a token and so listens on loopback only, not on {0}")]
    DiagnosticsBeyondLoopback(SocketAddr),
    /// A place that files cannot be put to.
    #[cfg(feature = "ingest")]
    #[error("--evidence takes a directory, or none: there is no S3 storage yet")]
    Evidence,
    /// Rules of no table.
    #[cfg(feature = "ingest")]
    #[error("--rules needs the --schema that they are for")]
    RulesWithoutSchema,
    /// A key that cannot be made like that.
    #[cfg(feature = "ingest")]
    #[error("{0}")]
    Key(String),
    /// No secret.
    #[error(
        "{SECRET_VARIABLE} is not set: put a secret of at least {} bytes there, or into a file that --secret-file names, or \
         use --dev on this machine",
        JwtAuth::MIN_SECRET_BYTES
    )]
    NoSecret,
    /// A secret that can be guessed.
    #[error("{SECRET_VARIABLE}: {0}")]
    Secret(#[from] crate::auth::SecretError),
    /// The same of a file.
    #[error("the secret in {}: {why}", path.display())]
    SecretFile {
        /// As it was given.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An unknown fault point.
    #[error("{FAULT_VARIABLE} does not name a fault point")]
    Fault,
    /// `--user ""`
    #[error("--user must not be blank")]
    BlankUser,
}
