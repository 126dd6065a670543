//! Conflict policies: what happens when a remote row meets a local edit of the same row.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sync_core::engine::settle::Rule;
use sync_core::value::Value;

/// A row by wire column names.
pub type RowValues = BTreeMap<String, Value>;

/// A remote row that meets a local edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Table, as on the wire.
    pub table: String,
    /// Key object, as on the wire.
    pub key: String,
    /// What this device wants: `INSERT`, `UPDATE` or `DELETE`.
    pub op: String,
    /// The local row; `None` where it was deleted here.
    pub local: Option<RowValues>,
    /// The row before the local edit, where known.
    pub base: Option<RowValues>,
    /// The server's row; `None` where it was deleted there.
    pub server: Option<RowValues>,
    /// The version that the local edit was made on; 0 for none.
    pub local_version: i64,
    /// The version of the server's row or tombstone.
    pub server_version: i64,
}

/// The answer to a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The local row stays and is pushed on top of the server's.
    KeepLocal,
    /// The server's row is taken; the local one is recorded as discarded.
    TakeServer,
    /// This row is written here and pushed. Columns that it does not name come from the server's row,
    /// or, where there is none, from the local one. The key cannot be changed.
    Merged(RowValues),
}

/// The function of a [`Policy::Custom`]. It gets values and returns values; it has no access to the file.
pub type Resolver = Arc<dyn Fn(&Conflict) -> Resolution + Send + Sync>;

/// What happens to a local edit that a remote row meets.
#[derive(Clone, Default)]
pub enum Policy {
    /// The server's row wins; the local edit is kept whole in `discarded`.
    #[default]
    ServerWins,
    /// The local row wins.
    ClientWins,
    /// The app decides.
    Custom(Resolver),
}

impl Policy {
    pub(crate) const fn rule(&self) -> Rule {
        match self {
            Self::ServerWins => Rule::ServerWins,
            Self::ClientWins => Rule::ClientWins,
            Self::Custom(_) => Rule::Ask,
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServerWins => "ServerWins",
            Self::ClientWins => "ClientWins",
            Self::Custom(_) => "Custom",
        })
    }
}

/// The policy of each table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies {
    pub(crate) default: Policy,
    pub(crate) tables: BTreeMap<String, Policy>,
}

impl Policies {
    pub(crate) fn of(&self, table: &str) -> &Policy {
        self.tables.get(table).unwrap_or(&self.default)
    }
}
