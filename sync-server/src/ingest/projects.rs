//! Projects, in `keys.db`: who takes part in them, whether they take records, and how their devices are configured.
//!
//! They are several users', so they are in no user's file; as with keys, each request asks anew.

use rusqlite::{OptionalExtension as _, Transaction, params};
use serde_json::{Map, Value};
use sync_core::ingest::config::Config;
use sync_core::ingest::contract::Enrol;

use super::vault::{Vault, VaultError};

pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS project (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, slug TEXT NOT NULL UNIQUE, tracker INTEGER NOT NULL, config TEXT NOT NULL,
    created_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS member (
    project TEXT NOT NULL REFERENCES project (id), user_id TEXT NOT NULL, PRIMARY KEY (user_id, project)
) STRICT, WITHOUT ROWID;
";

/// A project, as one user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Project {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) slug: String,
    /// Whether it takes records.
    pub(crate) tracker: bool,
    /// Whether the user takes part in it.
    pub(crate) member: bool,
    /// What differs from the default configuration.
    pub(crate) set: Map<String, Value>,
}

impl Project {
    /// Its devices' configuration; that of one whose records it does not take says so.
    pub(crate) fn config(&self, enrol: &Enrol) -> Result<Config, VaultError> {
        let mut set = self.set.clone();
        if !(self.member && self.tracker) {
            set.insert("paused".into(), true.into());
        }
        Config::of(enrol, &set).map_err(|_| VaultError::Damaged)
    }
}

/// A change of a project that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("there is no project with this id")]
    Unknown,
    #[error("there is a project with this slug already")]
    Slug,
    #[error(transparent)]
    Config(#[from] sync_core::ingest::config::ConfigFault),
}

impl From<rusqlite::Error> for ProjectError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Vault(e.into())
    }
}

const COLUMNS: &str = "p.id, p.name, p.slug, p.tracker, p.config, m.user_id IS NOT NULL";

fn read(r: &rusqlite::Row<'_>) -> rusqlite::Result<Project> {
    let config: String = r.get(4)?;
    let set = serde_json::from_str(&config)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, e.into()))?;
    Ok(Project { id: r.get(0)?, name: r.get(1)?, slug: r.get(2)?, tracker: r.get(3)?, member: r.get(5)?, set })
}

impl Vault {
    /// A project; `None` where there is none.
    pub(crate) fn project(&self, id: &str, user: &str) -> Result<Option<Project>, VaultError> {
        self.read(|conn| {
            let sql = format!(
                "SELECT {COLUMNS} FROM project p LEFT JOIN member m ON m.project = p.id AND m.user_id = ?2 WHERE p.id = ?1"
            );
            Ok(conn.prepare_cached(&sql)?.query_row([id, user], read).optional()?)
        })
    }

    /// The projects that a user may bind a device to, by name.
    pub(crate) fn projects(&self, user: &str) -> Result<Vec<Project>, VaultError> {
        self.read(|conn| {
            let sql = format!(
                "SELECT {COLUMNS} FROM member m JOIN project p ON p.id = m.project WHERE m.user_id = ? AND p.tracker \
                 ORDER BY p.name, p.id"
            );
            let mut s = conn.prepare_cached(&sql)?;
            Ok(s.query_map([user], read)?.collect::<Result<_, _>>()?)
        })
    }

    /// Makes a project without members.
    pub(crate) fn create_project(&self, name: &str, slug: &str, tracker: bool) -> Result<Project, ProjectError> {
        let (id, now) = (self.new_id(), self.now());
        self.change(|tx| {
            let sql = "INSERT INTO project VALUES (?, ?, ?, ?, '{}', ?) ON CONFLICT (slug) DO NOTHING";
            match tx.execute(sql, params![id, name, slug, tracker, now])? {
                0 => Err(ProjectError::Slug),
                _ => Ok(()),
            }
        })?;
        Ok(Project { id, name: name.into(), slug: slug.into(), tracker, member: false, set: Map::new() })
    }

    /// Takes a user into a project, or out of it.
    pub(crate) fn set_member(&self, project: &str, user: &str, takes_part: bool) -> Result<(), ProjectError> {
        self.change(|tx| {
            known(tx, project)?;
            let sql = if takes_part {
                "INSERT OR IGNORE INTO member (project, user_id) VALUES (?, ?)"
            } else {
                "DELETE FROM member WHERE project = ? AND user_id = ?"
            };
            tx.execute(sql, [project, user])?;
            Ok(())
        })
    }

    /// Whether a project takes records.
    pub(crate) fn set_tracker(&self, project: &str, on: bool) -> Result<(), ProjectError> {
        self.change(|tx| {
            known(tx, project)?;
            tx.execute("UPDATE project SET tracker = ? WHERE id = ?", params![on, project])?;
            Ok(())
        })
    }

    /// Changes members of a project's configuration, all or none.
    pub(crate) fn set_config(
        &self,
        enrol: &Enrol,
        project: &str,
        changes: Map<String, Value>,
    ) -> Result<Config, ProjectError> {
        self.change(|tx| {
            let sql = "SELECT config FROM project WHERE id = ?";
            let found: Option<String> = tx.query_row(sql, [project], |r| r.get(0)).optional()?;
            let before = found.ok_or(ProjectError::Unknown)?;
            let mut set: Map<String, Value> = serde_json::from_str(&before).map_err(|_| VaultError::Damaged)?;
            set.extend(changes);
            let config = Config::of(enrol, &set)?;
            let text = Value::Object(config.set(enrol)).to_string();
            tx.execute("UPDATE project SET config = ? WHERE id = ?", [text.as_str(), project])?;
            Ok(config)
        })
    }

    fn change<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T, ProjectError>) -> Result<T, ProjectError> {
        let mut refused = None;
        let done = self.write(|tx| match f(tx) {
            Ok(value) => Ok(Some(value)),
            Err(ProjectError::Vault(e)) => Err(e),
            Err(other) => {
                refused = Some(other);
                Ok(None)
            }
        })?;
        done.ok_or(refused.unwrap_or(ProjectError::Unknown))
    }
}

fn known(tx: &Transaction<'_>, project: &str) -> Result<(), ProjectError> {
    let there = tx.prepare_cached("SELECT 1 FROM project WHERE id = ?")?.exists([project])?;
    if there { Ok(()) } else { Err(ProjectError::Unknown) }
}
