//! The protocol's calls as a well-behaved client makes them, and strict readers of the replies:
//! whatever comes is compared with what the protocol promises, also in the steps before a check's point.

mod digest;
mod examine;
mod pull;
mod push;
mod read;
mod snapshot;

pub(crate) use self::digest::{Part, share};
pub(crate) use self::examine::examine;
pub(crate) use self::read::{check_hash, check_members, committed_already, read_committed, read_session};
use crate::json::Json;

/// A committed row, or a row of a snapshot (`op` is empty then).
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) key: Json,
    pub(crate) op: String,
    pub(crate) version: i64,
    pub(crate) payload: Option<Json>,
}

impl Row {
    /// Whether it is the same row: table and key.
    pub(crate) fn is(&self, schema: &str, table: &str, key: &Json) -> bool {
        self.schema == schema && self.table == table && self.key.same(key)
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        let payloads = match (&self.payload, &other.payload) {
            (Some(a), Some(b)) => a.same(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.is(&other.schema, &other.table, &other.key)
            && self.op == other.op
            && self.version == other.version
            && payloads
    }

    pub(crate) fn shown(&self) -> String {
        let payload = self.payload.as_ref().map_or_else(|| "none".to_owned(), Json::to_string);
        format!("{} {}.{} {} version {} payload {payload}", self.op, self.schema, self.table, self.key, self.version)
    }
}

pub(crate) fn shown_rows(rows: &[Row]) -> String {
    let mut text: Vec<String> = rows.iter().take(5).map(Row::shown).collect();
    if rows.len() > 5 {
        text.push(format!("and {} more", rows.len() - 5));
    }
    if text.is_empty() { "no rows".to_owned() } else { text.join("; ") }
}

/// What a connect said.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    pub(crate) resolution: String,
    pub(crate) id: Option<String>,
    pub(crate) lease: Option<jiff::Timestamp>,
    pub(crate) body: Json,
}

/// The head of a committed bundle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Committed {
    pub(crate) seq: i64,
    pub(crate) source: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) row_count: i64,
    pub(crate) hash: String,
    pub(crate) history: Option<String>,
}

/// A bundle of a pull.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub(crate) seq: i64,
    pub(crate) source: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) rows: Vec<Row>,
    pub(crate) row_count: Option<i64>,
    pub(crate) hash: Option<String>,
    pub(crate) history: Option<String>,
    pub(crate) omitted: bool,
}

/// A page of a pull.
#[derive(Debug, Clone)]
pub(crate) struct Pulled {
    pub(crate) stable: i64,
    pub(crate) bundles: Vec<Bundle>,
    pub(crate) more: bool,
}

impl Pulled {
    pub(crate) fn seqs(&self) -> Vec<i64> {
        self.bundles.iter().map(|b| b.seq).collect()
    }
}

/// A page of rows.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    pub(crate) next: i64,
    pub(crate) more: bool,
}

/// A snapshot session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) seq: i64,
    pub(crate) row_count: i64,
    pub(crate) byte_count: Option<i64>,
    pub(crate) expires: jiff::Timestamp,
    pub(crate) history: Option<String>,
    /// Rows of each table, in the order of the rows; an addition.
    pub(crate) tables: Option<Vec<(String, i64)>>,
}

pub(crate) const RESOLUTIONS: [&str; 4] =
    ["remote_authoritative", "initialize_local", "initialize_empty", "retry_later"];
