//! The operator's commands: keys, device logins, sums. They work on the data directory, also while a server runs on it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use sync_core::ingest::contract::Contract;
use sync_core::protocol::UserId;
use sync_core::sqlite::connection::{self, Settings};

use super::rollups::{View, view};
use super::sessions::hex;
use super::vault::{Kind, Listed, NewKey, Vault};
use super::{keys, store};
use crate::config::ConfigError;
use crate::scope::Scopes;
use crate::service::Environment;

pub(super) type Failed = Box<dyn std::error::Error>;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum For {
    /// Row sync, in place of a signed token.
    Sync,
    /// StatsAI: the token of a device.
    Statsai,
    /// Aexy Tracker: the token of a developer.
    Aexy,
}

/// `sync-server keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key; its secret is shown this once.
    Create(Create),
    /// List keys and device logins, without their secrets.
    List(List),
    /// Revoke a key or a device login, at once.
    Revoke(Revoke),
}

/// `sync-server keys create`
#[derive(Debug, Args)]
pub struct Create {
    /// The server's data directory; made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Whose key it is.
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// What it is for.
    #[arg(long = "for", value_name = "WHAT")]
    pub stream: For,
    /// The device that it stands for (statsai); one is made where none is named.
    #[arg(long, value_name = "ID")]
    pub device: Option<String>,
    /// When it expires: days from now, or an instant in RFC 3339. Without it, never.
    #[arg(long, value_name = "DAYS|RFC3339")]
    pub expires: Option<String>,
    /// A name, for the list.
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `sync-server keys list`
#[derive(Debug, Args)]
pub struct List {
    /// The server's data directory.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Only this user's.
    #[arg(long, value_name = "ID")]
    pub user: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `sync-server keys revoke`
#[derive(Debug, Args)]
pub struct Revoke {
    /// The server's data directory.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// As `keys list` shows it.
    #[arg(value_name = "KEY_ID")]
    pub key_id: String,
}

/// `sync-server devices`
#[derive(Debug, Subcommand)]
pub enum Devices {
    /// Let in a device that shows a code.
    Approve(Approve),
}

/// `sync-server devices approve`
#[derive(Debug, Args)]
pub struct Approve {
    /// The server's data directory.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The code that the device shows.
    #[arg(value_name = "CODE")]
    pub code: String,
    /// Whose device it is.
    #[arg(long, value_name = "ID")]
    pub user: String,
}

/// `sync-server rollups`
#[derive(Debug, Args)]
pub struct Rollups {
    /// The server's data directory.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Whose sums.
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// By day; the default.
    #[arg(long, group = "view")]
    pub daily: bool,
    /// By month.
    #[arg(long, group = "view")]
    pub monthly: bool,
    /// Totals, by provider, and the last 30 days.
    #[arg(long, group = "view")]
    pub dashboard: bool,
    /// Print JSON, as over HTTP.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn print(text: &str) -> Result<(), Failed> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

pub(super) fn user(text: &str) -> Result<UserId, ConfigError> {
    UserId::parse(text).ok_or(ConfigError::BlankUser)
}

impl Keys {
    pub(crate) fn run(&self, environment: Arc<dyn Environment>) -> Result<(), Failed> {
        match self {
            Self::Create(create) => create.run(environment),
            Self::List(list) => list.run(environment),
            Self::Revoke(revoke) => {
                let vault = Vault::open(existing(&revoke.data)?, environment)?;
                if vault.revoke(&revoke.key_id)? {
                    return Ok(());
                }
                Err("there is no key with this id: sync-server keys list shows those that there are".into())
            }
        }
    }
}

impl Create {
    fn run(&self, environment: Arc<dyn Environment>) -> Result<(), Failed> {
        let user = user(&self.user)?;
        if self.stream != For::Statsai && self.device.is_some() {
            return Err(ConfigError::Key("--device is for statsai: the other keys are a user's".into()).into());
        }
        if self.device.as_ref().is_some_and(|d| d.trim().is_empty()) {
            return Err(ConfigError::Key("--device must not be blank".into()).into());
        }
        let expires_ms = self.expires.as_deref().map(|e| expiry(e, environment.now_ms())).transpose()?;
        let vault = Vault::open(&self.data, environment)?;
        let name = self.name.as_deref();
        let made = format!("dev_{}", &hex(&vault.random())[..16]);
        let device = (self.stream == For::Statsai).then(|| self.device.as_deref().unwrap_or(&made));
        let (stream, secret, key_id) = if self.stream == For::Aexy {
            let aexy = Contract::aexy();
            let of = (aexy.stream.as_str(), aexy.auth.prefix.as_str());
            let (secret, token) = vault.make_token(of, user.as_str(), name, expires_ms)?;
            ("aexy", secret, token.id)
        } else {
            let statsai = Contract::statsai();
            let (stream, prefix) = match self.stream {
                For::Statsai => ("statsai", statsai.auth.prefix.as_str()),
                _ => (keys::SYNC, keys::PREFIX),
            };
            let secret = format!("{prefix}{}", hex(&vault.random()));
            let key_id = format!("key_{}", &hex(&vault.random())[..16]);
            let id = key_id.clone();
            let key = NewKey { key_id: id, stream, user: user.as_str(), kind: Kind::Key, device, name, expires_ms };
            vault.insert(&secret, &key)?;
            (stream, secret, key_id)
        };
        let user = user.as_str();
        if !self.json {
            let device = device.map_or_else(String::new, |d| format!(", device {d}"));
            // Beside the secret, which alone goes to stdout; without a reader nothing is lost.
            let _ = writeln!(std::io::stderr(), "{key_id} for {user}{device}; the secret is not shown again");
            return print(&secret);
        }
        print(
            &json!({ "key_id": key_id, "secret": secret, "user": user, "for": stream, "device": device,
                "expires_at": expires_ms.map(time) })
            .to_string(),
        )
    }
}

/// Days from now, or an instant.
fn expiry(text: &str, now_ms: i64) -> Result<i64, ConfigError> {
    let at = match text.parse::<i64>() {
        Ok(days) => days.checked_mul(86_400_000).and_then(|ms| ms.checked_add(now_ms)),
        Err(_) => text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond),
    };
    at.filter(|at| *at > now_ms && jiff::Timestamp::from_millisecond(*at).is_ok()).ok_or_else(|| {
        ConfigError::Key("--expires takes days from now, or an instant to come such as 2030-01-31T00:00:00Z".into())
    })
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX).to_string()
}

impl List {
    fn run(&self, environment: Arc<dyn Environment>) -> Result<(), Failed> {
        let listed = Vault::open(existing(&self.data)?, environment)?.list(self.user.as_deref())?;
        if self.json {
            let all: Vec<Value> = listed.iter().map(shown).collect();
            return print(&Value::from(all).to_string());
        }
        for k in &listed {
            let state = match (k.revoked_ms, k.expires_ms) {
                (Some(at), _) => format!("revoked {}", time(at)),
                (None, Some(at)) => format!("until {}", time(at)),
                (None, None) => "valid".to_owned(),
            };
            let device = k.device.as_deref().unwrap_or("-");
            let name = k.name.as_deref().unwrap_or_default();
            print(format!("{}  {}  {}  {device}  {state}  {name}", k.key_id, k.user, k.stream).trim_end())?;
        }
        Ok(())
    }
}

fn shown(k: &Listed) -> Value {
    json!({
        "key_id": k.key_id, "user": k.user, "for": k.stream, "device": k.device, "name": k.name, "profiles": [],
        "created_at": time(k.created_ms), "expires_at": k.expires_ms.map(time), "revoked_at": k.revoked_ms.map(time),
        "last_used_at": k.last_used_ms.map(time),
    })
}

impl Devices {
    pub(crate) fn run(&self, environment: Arc<dyn Environment>) -> Result<(), Failed> {
        let Self::Approve(approve) = self;
        let user = user(&approve.user)?;
        if Vault::open(existing(&approve.data)?, environment)?.approve(&approve.code, user.as_str())? {
            return Ok(());
        }
        Err("no device waits under this code: it may have expired, then begin the login on the device again".into())
    }
}

impl Rollups {
    pub(crate) fn run(&self, environment: &Arc<dyn Environment>) -> Result<(), Failed> {
        let user = user(&self.user)?;
        let which = match (self.monthly, self.dashboard) {
            (true, _) => View::Monthly,
            (_, true) => View::Dashboard,
            _ => View::Daily,
        };
        let contract = Contract::statsai();
        let now = environment.now_ms();
        let shown = match look_into(existing(&self.data)?, &user)? {
            Some(conn) => view(&*conn.unchecked_transaction()?, &contract, which, now)?,
            None => {
                let nobody = rusqlite::Connection::open_in_memory()?;
                debug_assert!(!store::there(&nobody)?);
                view(&nobody, &contract, which, now)?
            }
        };
        if self.json {
            return print(&shown.to_string());
        }
        let rows = shown.get("rollups").or_else(|| shown.get("providers")).and_then(Value::as_array);
        for row in rows.into_iter().flatten() {
            print(&line(row))?;
        }
        Ok(())
    }
}

/// One row for a person.
fn line(row: &Value) -> String {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let cents = row["cost"]["estimated_api_equivalent_usd"].as_i64().unwrap_or(0);
    let dollars =
        format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
    let parts = ["bucket", "provider", "provider_account_id", "project_id"].map(text);
    format!("{}  {} tokens  {dollars} USD", parts.join("  "), row["usage"]["total_tokens"])
}

/// A user's file, to be read only; `None` where the user has none.
pub(super) fn look_into(data: &Path, user: &UserId) -> Result<Option<rusqlite::Connection>, Failed> {
    let path = data.join("scopes").join(format!("{}.db", Scopes::name(user.as_str())));
    if !path.exists() {
        return Ok(None);
    }
    let busy = Duration::from_secs(5);
    let settings = Settings { foreign_keys: false, triggers: false, durable: false, busy, cache_kib: 512 };
    let conn = connection::open(&path, false, settings)?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(Some(conn))
}

pub(super) fn existing(data: &Path) -> Result<&Path, Failed> {
    if data.is_dir() { Ok(data) } else { Err(format!("there is no data directory {}", data.display()).into()) }
}
