//! Why rows are refused: SQLite's errors, sorted, and the replies that name every offender.

use rusqlite::ffi;
use sync_core::canonical::{Escapes, push_integer, push_string};
use sync_core::protocol::{ApiError, Code};

/// Bytes of a list of offenders, at most.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// The kinds of protocol §7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unique,
    UniqueRing,
    NotNull,
    Check,
    ForeignKey,
    UnknownColumn,
    Type,
    TooLarge,
    Rule,
    NoEffect,
}

impl Kind {
    /// The name on the wire.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unique => "unique",
            Self::UniqueRing => "unique_ring",
            Self::NotNull => "not_null",
            Self::Check => "check",
            Self::ForeignKey => "foreign_key",
            Self::UnknownColumn => "unknown_column",
            Self::Type => "type",
            Self::TooLarge => "too_large",
            Self::Rule => "rule",
            Self::NoEffect => "no_effect",
        }
    }
}

/// What an error of SQLite says about the row: `None` where it is not the row's fault.
pub(crate) fn kind(e: &rusqlite::Error) -> Option<Kind> {
    let rusqlite::Error::SqliteFailure(e, _) = e else { return None };
    Some(match e.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            Kind::Unique
        }
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Kind::ForeignKey,
        ffi::SQLITE_CONSTRAINT_NOTNULL => Kind::NotNull,
        ffi::SQLITE_CONSTRAINT_CHECK => Kind::Check,
        ffi::SQLITE_CONSTRAINT_DATATYPE | ffi::SQLITE_MISMATCH => Kind::Type,
        ffi::SQLITE_TOOBIG => Kind::TooLarge,
        code if code & 0xff == ffi::SQLITE_CONSTRAINT => Kind::Rule,
        _ => return None,
    })
}

/// SQLite's own words for a constraint: names, never values.
pub(crate) fn words(e: &rusqlite::Error) -> String {
    match e {
        rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
        other => other.to_string(),
    }
}

/// One refused row, before it is looked up.
#[derive(Debug, Clone)]
pub(crate) struct Rejection {
    pub(crate) ordinal: i64,
    pub(crate) kind: &'static str,
    pub(crate) columns: Vec<String>,
    pub(crate) message: String,
}

/// Refused rows, one entry each, within bounds.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    pub(crate) list: Vec<Rejection>,
    bytes: usize,
    pub(crate) truncated: bool,
}

impl Rejections {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a row, once.
    pub(crate) fn add(&mut self, ordinal: i64, kind: Kind, columns: Vec<String>, message: String) {
        self.add_named(ordinal, kind.name(), columns, message);
    }

    pub(crate) fn add_named(&mut self, ordinal: i64, kind: &'static str, columns: Vec<String>, message: String) {
        // Almost always the newest: rows come in order.
        if self.list.last().is_some_and(|r| r.ordinal == ordinal) || self.list.iter().any(|r| r.ordinal == ordinal) {
            return;
        }
        if self.bytes > MAX_BYTES || self.list.len() >= 10_000 {
            self.truncated = true;
            return;
        }
        self.bytes += message.len() + columns.iter().map(String::len).sum::<usize>() + 200;
        self.list.push(Rejection { ordinal, kind, columns, message });
    }

    /// The error, with every row's schema, table and key (ready JSON) as `target` says them.
    pub(crate) fn into_error<E>(
        mut self,
        code: Code,
        schema: &str,
        mut target: impl FnMut(i64) -> Result<(String, String), E>,
    ) -> Result<ApiError, E> {
        self.list.sort_by_key(|r| r.ordinal);
        let mut json = String::from("[");
        for (n, r) in self.list.iter().enumerate() {
            let (table, key) = target(r.ordinal)?;
            let from = json.len();
            if n > 0 {
                json.push(',');
            }
            json.push_str("{\"row_ordinal\":");
            push_integer(&mut json, r.ordinal);
            for (name, value) in [("schema", schema), ("table", table.as_str())] {
                json.push_str(",\"");
                json.push_str(name);
                json.push_str("\":");
                push_string(&mut json, value, Escapes::Minimal);
            }
            json.push_str(",\"key\":");
            json.push_str(&key);
            json.push_str(",\"kind\":\"");
            json.push_str(r.kind);
            json.push_str("\",\"columns\":[");
            for (n, c) in r.columns.iter().enumerate() {
                if n > 0 {
                    json.push(',');
                }
                push_string(&mut json, c, Escapes::Minimal);
            }
            json.push_str("],\"message\":");
            push_string(&mut json, &r.message, Escapes::Minimal);
            json.push('}');
            if json.len() > MAX_BYTES && n > 0 {
                json.truncate(from);
                self.truncated = true;
                break;
            }
        }
        json.push(']');
        let first = self.list.first().map_or_else(String::new, |r| r.message.clone());
        let message = match code {
            Code::PushRejected => format!("the server's schema refuses {} row(s): {first}", self.list.len()),
            _ => first,
        };
        let e = ApiError::new(code, message).with_json("rejections", json);
        Ok(if self.truncated { e.with_json("rejections_truncated", "true".into()) } else { e })
    }
}
