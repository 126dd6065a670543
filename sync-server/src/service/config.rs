//! What a service is made from, and why it may not come to be.

use std::path::PathBuf;

use crate::limits::Limits;

/// What a service is made from.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The directory of all files; made where it does not exist.
    pub data_dir: PathBuf,
    /// The app's own DDL.
    pub schema_sql: String,
    /// `CREATE TRIGGER` statements that the server insists on.
    pub rules_sql: Option<String>,
    /// The one schema name on the wire.
    pub wire_schema: String,
    /// The operator's name for the app; may be empty.
    pub app_name: String,
    /// What is enforced and advertised.
    pub limits: Limits,
}

impl ServiceConfig {
    /// A service of this schema in this directory, with everything else by default.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, schema_sql: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            schema_sql: schema_sql.into(),
            rules_sql: None,
            wire_schema: "main".to_owned(),
            app_name: String::new(),
            limits: Limits::default(),
        }
    }
}

/// Why a service could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// schema.sql cannot be used; the text names every table, the reason and the fix.
    #[error("{0}")]
    Schema(String),
    /// rules.sql cannot be used.
    #[error("{0}")]
    Rules(String),
    /// The schema is not the recorded one with additions; the text shows the differences.
    #[error("schema.sql does not only add to the schema that the data was written with:\n{0}")]
    SchemaChanged(String),
    /// Another process uses the directory.
    #[error("another process is using {}", .0.display())]
    InUse(PathBuf),
    /// The directory or a file in it cannot be used.
    #[error("the data directory cannot be used: {0}")]
    Io(#[from] std::io::Error),
    /// SQLite's.
    #[error("a database of the server cannot be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
}
