//! What the suite has to be told about a backend: how to get tokens, which tables there are, and
//! what the backend does not do.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::json::Json;

/// A profile, as its TOML file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The backend's name, for the report.
    pub name: String,
    /// How to get a token for a fresh user.
    pub token: Token,
    /// Begins every user id that the suite makes up.
    #[serde(default = "default_prefix")]
    pub user_prefix: String,
    /// Requests per second over all checks; 0 for no bound.
    #[serde(default = "default_rate")]
    pub requests_per_second: u32,
    /// Bundles that the backend keeps in each user's history, where it is few enough to be exceeded.
    pub retained_bundles: Option<i64>,
    /// The synced tables.
    #[serde(default)]
    pub tables: Vec<Table>,
    /// What the backend does not do.
    #[serde(default)]
    pub exclude: Vec<Exclusion>,
}

/// How to get a token for a user.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Token {
    /// The token is the user id itself: a server in development mode.
    User,
    /// Signed here with HS256.
    Jwt {
        /// The secret itself ...
        secret: Option<String>,
        /// ... or the environment variable that holds it.
        secret_env: Option<String>,
        /// Further claims.
        #[serde(default)]
        claims: BTreeMap<String, toml::Value>,
    },
    /// Asked for with a request.
    SignIn {
        /// Below the base URL, or a URL of its own. `{user}` becomes the user id, here and in `body`.
        url: String,
        /// The JSON body.
        body: String,
        /// The member of the reply that is the token.
        #[serde(default = "default_member")]
        member: String,
    },
    /// Printed by a program.
    Command {
        /// Program and arguments; `{user}` becomes the user id.
        command: Vec<String>,
    },
    /// A list of users that are still unused.
    List {
        /// Tokens of users without any data, one user a token.
        tokens: Vec<String>,
    },
}

/// A synced table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// On the wire.
    #[serde(default = "default_schema")]
    pub schema: String,
    /// On the wire.
    pub name: String,
    /// The key's columns in their order.
    pub key: Vec<String>,
    /// Every column that travels.
    pub columns: Vec<Column>,
}

/// A column.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// On the wire.
    pub name: String,
    /// What it holds.
    #[serde(default)]
    pub kind: Kind,
    /// NOT NULL.
    #[serde(default)]
    pub required: bool,
    /// UNIQUE within a user's rows.
    #[serde(default)]
    pub unique: bool,
    /// The table whose key it refers to.
    pub references: Option<String>,
    /// What a delete of that row does here.
    pub on_delete: Option<OnDelete>,
    /// What a row gets that is sent without this column.
    pub default: Option<toml::Value>,
    /// A value that the schema refuses at commit.
    pub refuses: Option<toml::Value>,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Any text.
    #[default]
    Text,
    /// A UUID, dashed and lowercase on the wire.
    Uuid,
    /// A 64-bit integer.
    Integer,
    /// A double.
    Real,
    /// Bytes, base64 on the wire.
    Blob,
    /// `true` and `false`.
    Boolean,
    /// A time with an offset.
    Timestamp,
    /// Anything else: left `null`, or out.
    Other,
}

/// What a foreign key does when its parent goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// The child goes too.
    Cascade,
    /// The reference becomes NULL.
    SetNull,
    /// Refused at commit.
    Refuse,
}

/// A check that the backend is known not to pass.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// The check's id.
    pub check: String,
    /// The statement that is not kept.
    pub statement: String,
    /// Why. Must not be empty.
    pub reason: String,
}

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not TOML, or not a profile.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// It contradicts itself.
    #[error("{0}")]
    Content(String),
}

impl Profile {
    /// Reads a profile and checks what can be checked without the backend.
    ///
    /// # Errors
    /// Malformed TOML, unknown members, an exclusion without a reason, an unknown check or statement,
    /// a key or reference that names nothing.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        let wrong = |what: String| Err(ProfileError::Content(what));
        for e in &profile.exclude {
            if e.reason.trim().is_empty() {
                return wrong(format!("the exclusion of {} has no reason", e.check));
            }
            let Some(check) = crate::checks::all().into_iter().find(|c| c.id == e.check) else {
                return wrong(format!("there is no check {}, which an exclusion names", e.check));
            };
            if !check.covers.contains(&e.statement.as_str()) {
                return wrong(format!("the check {} does not cover the statement {}", e.check, e.statement));
            }
        }
        for t in &profile.tables {
            for k in &t.key {
                if t.column(k).is_none() {
                    return wrong(format!("{}.{k} is in the key but is no column", t.name));
                }
            }
            if t.key.is_empty() {
                return wrong(format!("the table {} has no key", t.name));
            }
            for r in t.columns.iter().filter_map(|c| c.references.as_ref()) {
                if !profile.tables.iter().any(|p| p.name == *r) {
                    return wrong(format!("{} refers to {r}, which is no table of the profile", t.name));
                }
            }
        }
        Ok(profile)
    }
}

impl Table {
    /// A column by its name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// `schema.table`
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    pub(crate) fn is_key(&self, column: &str) -> bool {
        self.key.iter().any(|k| k == column)
    }
}

/// A value of a profile as JSON.
pub(crate) fn json(value: &toml::Value) -> Json {
    match value {
        toml::Value::String(s) => Json::Text(s.clone()),
        toml::Value::Integer(i) => Json::from(*i),
        toml::Value::Float(f) => serde_json::Number::from_f64(*f).map_or(Json::Null, |n| Json::Number(n.to_string())),
        toml::Value::Boolean(b) => Json::Bool(*b),
        toml::Value::Datetime(d) => Json::Text(d.to_string()),
        toml::Value::Array(a) => Json::Array(a.iter().map(json).collect()),
        toml::Value::Table(t) => Json::Object(t.iter().map(|(n, v)| (n.clone(), json(v))).collect()),
    }
}

fn default_prefix() -> String {
    "conformance".to_owned()
}

const fn default_rate() -> u32 {
    50
}

fn default_member() -> String {
    "token".to_owned()
}

fn default_schema() -> String {
    "main".to_owned()
}
