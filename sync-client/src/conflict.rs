//! Conflict policies: what happens when a remote row meets a local edit of the same row.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use sync_core::engine::merge::Tie;
use sync_core::engine::settle::Rule;
use sync_core::value::Value;

use crate::error::Error;
use crate::question::Question;
use crate::store::Meta;

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

/// The function of a [`Policy::Custom`]. It gets values and returns values, on a thread of its own. While it runs,
/// nothing is locked, and the app may write; what it answers is applied only if both rows are still what they were, else it
/// is asked again. A verb of its [`crate::Client`] is an error at once, since the sync waits for it.
pub type Resolver = Arc<dyn Fn(&Conflict) -> Resolution + Send + Sync>;

/// The function of a [`Policy::Ask`]: it takes the question, to be answered from wherever, and returns at once.
pub type Asker = Arc<dyn Fn(Question) + Send + Sync>;

/// What happens to a local edit that a remote row meets.
#[derive(Clone, Default)]
pub enum Policy {
    /// The server's row wins; the local edit is kept whole in `discarded`.
    #[default]
    ServerWins,
    /// The local row wins.
    ClientWins,
    /// Both rows become one: a column that one side changed is that side's, and where both changed it
    /// differently, the tie rule decides; so it does for every column that differs where it is not known
    /// how the row was before, and for a row that one side deleted. A merge that discards a local value
    /// keeps the local row whole in `discarded`, any other is told of in `conflicts`. Where the schema
    /// refuses the merged row, the server's wins.
    MergeColumns(Tie),
    /// The app decides. All conflicts of a transaction are asked about one after the other, and what is not answered within
    /// [`crate::Builder::answer_within`], or by a panic, is decided by the policy that was given before this one, or that
    /// the file remembers, else by [`Policy::ServerWins`]; [`crate::Event::Unanswered`] says so.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use sync_client::{Policy, Resolution};
    /// let policy = Policy::Custom(Arc::new(|c| match &c.server {
    ///     Some(_) => Resolution::KeepLocal,
    ///     None => Resolution::TakeServer, // it was deleted there
    /// }));
    /// # drop(policy);
    /// ```
    Custom(Resolver),
    /// The same for an app that needs time, to show it to somebody: questions are handed over all at once.
    Ask(Asker),
}

/// What asks the app.
#[derive(Clone)]
pub(crate) enum Function {
    Returns(Resolver),
    Takes(Asker),
}

impl Policy {
    const fn rule(&self) -> Rule {
        match self {
            Self::ServerWins => Rule::ServerWins,
            Self::ClientWins => Rule::ClientWins,
            Self::MergeColumns(tie) => Rule::MergeColumns(*tie),
            Self::Custom(_) | Self::Ask(_) => Rule::Ask,
        }
    }

    fn function(&self) -> Option<Function> {
        match self {
            Self::Custom(f) => Some(Function::Returns(Arc::clone(f))),
            Self::Ask(f) => Some(Function::Takes(Arc::clone(f))),
            Self::ServerWins | Self::ClientWins | Self::MergeColumns(_) => None,
        }
    }

    /// The name by which the command line and a file know the policy; none for a function.
    const fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::ServerWins => "server-wins",
            Self::ClientWins => "client-wins",
            Self::MergeColumns(Tie::Server) => "merge",
            Self::MergeColumns(Tie::Client) => "merge-client",
            Self::Custom(_) | Self::Ask(_) => return None,
        })
    }
}

/// Reads `server-wins`, `client-wins`, `merge` (ties are the server's) or `merge-client`.
impl FromStr for Policy {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [Self::ServerWins, Self::ClientWins, Self::MergeColumns(Tie::Server), Self::MergeColumns(Tie::Client)]
            .into_iter()
            .find(|p| p.name() == Some(s))
            .ok_or_else(|| "the policies are server-wins, client-wins, merge and merge-client".into())
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("custom"))
    }
}

/// The rules of each table.
#[derive(Clone, Default)]
pub(crate) struct Policies {
    /// No functions: these decide where the app is not asked, or does not answer.
    default: Option<Policy>,
    tables: BTreeMap<String, Policy>,
    /// What asks the app, of any table without a policy of its own, and of single ones.
    asks: Option<Function>,
    table_asks: BTreeMap<String, Function>,
    /// Tables whose local edits bring a parent back that was deleted on the server.
    pub(crate) keep: BTreeSet<String>,
}

/// [`Policies`] as a file keeps them.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Kept {
    default: Option<String>,
    tables: BTreeMap<String, String>,
    keep: BTreeSet<String>,
}

impl Policies {
    /// A function stands before the policy that was there, anything else in place of it.
    pub(crate) fn set(&mut self, policy: Policy) {
        self.asks = policy.function();
        if self.asks.is_none() {
            self.default = Some(policy);
        }
    }

    pub(crate) fn set_table(&mut self, table: String, policy: Policy) {
        match policy.function() {
            Some(f) => {
                self.table_asks.insert(table, f);
            }
            None => {
                self.table_asks.remove(&table);
                self.tables.insert(table, policy);
            }
        }
    }

    /// What decides where the app does not. No function.
    pub(crate) fn of(&self, table: &str) -> &Policy {
        self.tables.get(table).or(self.default.as_ref()).unwrap_or(&Policy::ServerWins)
    }

    /// What asks the app about this table.
    pub(crate) fn function(&self, table: &str) -> Option<Function> {
        let general = || self.asks.as_ref().filter(|_| !self.tables.contains_key(table));
        self.table_asks.get(table).or_else(general).cloned()
    }

    pub(crate) fn rule(&self, table: &str) -> Rule {
        if self.function(table).is_some() { Rule::Ask } else { self.of(table).rule() }
    }

    /// The rule where the app does not answer.
    pub(crate) fn rule_unanswered(&self, table: &str) -> Rule {
        self.of(table).rule()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.default.is_none() && self.tables.is_empty() && self.keep.is_empty() && !self.has_functions()
    }

    fn has_functions(&self) -> bool {
        self.asks.is_some() || !self.table_asks.is_empty()
    }

    /// Keeps these in the file, in place of what it had.
    pub(crate) fn remember(&self, conn: &Connection) -> Result<(), Error> {
        if self.has_functions() {
            let why = "a function cannot be kept in a file: give it each time the file is opened";
            return Err(Error::Argument(why.into()));
        }
        let name = |p: &Policy| p.name().map(str::to_owned);
        let kept = Kept {
            default: self.default.as_ref().and_then(name),
            tables: self.tables.iter().filter_map(|(t, p)| Some((t.clone(), name(p)?))).collect(),
            keep: self.keep.clone(),
        };
        Meta::Policies.keep(conn, serde_json::to_string(&kept).map_err(|e| Error::Damaged(e.to_string()))?)
    }

    /// These over what the file remembers: the default over its default, a table's over that table's.
    pub(crate) fn over_remembered(mut self, conn: &Connection) -> Result<Self, Error> {
        let Some(stored) = Meta::Policies.get::<String>(conn)? else { return Ok(self) };
        let kept: Kept = serde_json::from_str(&stored).map_err(|_| Error::Damaged("policies".into()))?;
        let policy = |s: &str| s.parse::<Policy>().map_err(|_| Error::Damaged("policies".into()));
        if self.default.is_none() {
            self.default = kept.default.as_deref().map(policy).transpose()?;
        }
        for (table, name) in kept.tables {
            if let Entry::Vacant(e) = self.tables.entry(table) {
                e.insert(policy(&name)?);
            }
        }
        self.keep.extend(kept.keep);
        Ok(self)
    }
}
