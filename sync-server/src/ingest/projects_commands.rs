//! `sync-server projects`: what devices are enrolled into.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use sync_core::ingest::contract::Contract;
use sync_core::ingest::records::canonical_id;

use super::commands::{Failed, existing, look_into, print, user};
use super::enrich::spans;
use super::vault::Vault;
use crate::config::ConfigError;
use crate::service::Environment;

/// `sync-server projects`
#[derive(Debug, Subcommand)]
pub enum Projects {
    /// Make a project; its id is printed.
    Create(Create),
    /// Take a user into a project, or out of it.
    Member(Member),
    /// Say whether a project takes records.
    Tracker(Tracker),
    /// Change or show the configuration of a project's devices.
    Config(Config),
    /// What a user's samples in a project come to: spans of time by app and branch.
    Spans(Spans),
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It takes records.
    On,
    /// It takes none.
    Off,
}

/// `sync-server projects create`
#[derive(Debug, Args)]
pub struct Create {
    /// The server's data directory; made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Its name.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Its short name, one per server.
    #[arg(long, value_name = "SLUG")]
    pub slug: String,
    /// Whether it takes records.
    #[arg(long, value_enum, default_value = "on")]
    pub tracker: Switch,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A project of a server.
#[derive(Debug, Args)]
pub struct Of {
    /// The server's data directory.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// As `projects create` prints it.
    #[arg(long, value_name = "ID")]
    pub project: String,
}

impl Of {
    fn vault(&self, environment: Arc<dyn Environment>) -> Result<Vault, Failed> {
        Ok(Vault::open(existing(&self.data)?, environment)?)
    }

    fn id(&self) -> Cow<'_, str> {
        canonical_id(&self.project)
    }
}

/// `sync-server projects member`
#[derive(Debug, Args)]
pub struct Member {
    /// The project.
    #[command(flatten)]
    pub of: Of,
    /// The user.
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// Take the user out of it.
    #[arg(long)]
    pub remove: bool,
}

/// `sync-server projects tracker`
#[derive(Debug, Args)]
pub struct Tracker {
    /// The project.
    #[command(flatten)]
    pub of: Of,
    /// On or off.
    #[arg(value_enum)]
    pub switch: Switch,
}

/// `sync-server projects config`
#[derive(Debug, Args)]
pub struct Config {
    /// The project.
    #[command(flatten)]
    pub of: Of,
    /// A member and its value, as JSON: `sample_interval_s=120`; the others stay.
    #[arg(long, value_name = "KEY=JSON")]
    pub set: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `sync-server projects spans`
#[derive(Debug, Args)]
pub struct Spans {
    /// The project.
    #[command(flatten)]
    pub of: Of,
    /// Whose samples.
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl Projects {
    pub(crate) fn run(&self, environment: Arc<dyn Environment>) -> Result<(), Failed> {
        match self {
            Self::Create(create) => create.run(environment),
            Self::Member(m) => {
                let member = user(&m.user)?;
                Ok(m.of.vault(environment)?.set_member(&m.of.id(), member.as_str(), !m.remove)?)
            }
            Self::Tracker(t) => Ok(t.of.vault(environment)?.set_tracker(&t.of.id(), t.switch == Switch::On)?),
            Self::Config(config) => config.run(environment),
            Self::Spans(spans) => spans.run(),
        }
    }
}

impl Create {
    fn run(&self, environment: Arc<dyn Environment>) -> Result<(), Failed> {
        let blank = |s: &str| s.trim().is_empty();
        if blank(&self.name) || blank(&self.slug) {
            return Err(ConfigError::Key("--name and --slug must not be blank".into()).into());
        }
        let vault = Vault::open(&self.data, environment)?;
        let made = vault.create_project(self.name.trim(), self.slug.trim(), self.tracker == Switch::On)?;
        if self.json {
            return print(&json!({ "id": made.id, "name": made.name, "slug": made.slug }).to_string());
        }
        print(&made.id)
    }
}

impl Config {
    fn run(&self, environment: Arc<dyn Environment>) -> Result<(), Failed> {
        let mut changes = Map::new();
        for pair in &self.set {
            let split = pair.split_once('=').and_then(|(name, text)| Some((name, serde_json::from_str(text).ok()?)));
            let (name, value): (&str, Value) =
                split.ok_or_else(|| ConfigError::Key("--set takes KEY=JSON, such as paused=true".into()))?;
            changes.insert(name.to_owned(), value);
        }
        let contract = Contract::aexy();
        let enrol = contract.enrol.as_ref().ok_or("the contract enrols no devices")?;
        let config = self.of.vault(environment)?.set_config(enrol, &self.of.id(), changes)?.shown();
        if self.json {
            return print(&config.to_string());
        }
        for (name, value) in config.as_object().into_iter().flatten() {
            print(&format!("{name}={value}"))?;
        }
        Ok(())
    }
}

impl Spans {
    fn run(&self) -> Result<(), Failed> {
        let Some(conn) = look_into(existing(&self.of.data)?, &user(&self.user)?)? else {
            return if self.json { print("[]") } else { Ok(()) };
        };
        let found = spans(&conn, &Contract::aexy().stream, &self.of.id())?;
        if self.json {
            return print(&serde_json::to_string(&found)?);
        }
        for span in &found {
            print(&span.line())?;
        }
        Ok(())
    }
}
