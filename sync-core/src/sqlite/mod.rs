//! What both ends do to a SQLite file. Everything goes through SQLite itself: no code of this
//! project opens a database, `-wal` or `-shm` file in another way (ARCHITECTURE.md, "One copy of SQLite").

pub mod capture;
pub mod connection;
mod copies;
mod declared;
pub mod guest;
pub mod introspect;
pub mod keys;
pub mod ledgers;
pub mod locals;
pub mod ordered;
pub mod others;
pub mod rows;
pub mod sql;
pub mod stubs;
pub mod survey;
pub mod triggers;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use crate::value::Value;

/// An identifier, quoted, so that a table named `order` or `my tab` works.
///
/// ```
/// assert_eq!(sync_core::sqlite::quote("my \"tab\""), "\"my \"\"tab\"\"\"");
/// ```
#[must_use]
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Several identifiers, quoted, with commas.
#[must_use]
pub fn quote_all<'a>(identifiers: impl IntoIterator<Item = &'a str>) -> String {
    identifiers.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// `?, ?, …`
#[must_use]
pub fn placeholders(n: usize) -> String {
    vec!["?"; n].join(", ")
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(i) => ValueRef::Integer(*i),
            Self::Real(r) => ValueRef::Real(*r),
            Self::Text(s) => ValueRef::Text(s.as_bytes()),
            Self::Blob(b) => ValueRef::Blob(b),
        }))
    }
}

/// A stored text that is not valid UTF-8: it cannot travel, and nothing else waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("column {0} holds text that is not valid UTF-8")]
pub struct NotUtf8(pub usize);

/// Copies a value out of SQLite, exactly.
///
/// # Errors
/// When text is not valid UTF-8.
pub fn value(v: ValueRef<'_>, column: usize) -> Result<Value, NotUtf8> {
    Ok(match v {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => Value::Integer(i),
        ValueRef::Real(r) => Value::Real(r),
        ValueRef::Text(t) => Value::Text(std::str::from_utf8(t).map_err(|_| NotUtf8(column))?.to_owned()),
        ValueRef::Blob(b) => Value::Blob(b.to_vec()),
    })
}
