//! The declaration of a contract: what its paths, records, ids, stamps and sums are, as data that both ends read.
//!
//! A declaration is a TOML file, and a JSON Schema for each version of its batches. It has the members that StatsAI's
//! `sync_batch.v1` and Aexy Tracker's batches use; what other contracts need (document contracts, snapshots) is not declared
//! yet.

mod enrolled;
mod load;
#[cfg(test)]
mod tests;

use serde::Deserialize;

use super::pointer::Pointer;
use super::validate::Schema;

pub use enrolled::{Append, Cost, Enrol, Hook, Parts, Per, Rate, Rejects};
pub use load::{ContractError, check_routes};

/// What a path of a contract is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Takes a batch.
    Batch,
    /// Says what the server has of the device.
    Status,
    /// Forgets what the server has of the device.
    Reset,
    /// Begins a device login by code.
    LoginStart,
    /// Asks whether the login was approved.
    LoginPoll,
    /// Shows a person how to let a device in, and sends the browser back to it.
    LoginPage,
    /// Trades the code that the browser came back with for a session.
    LoginExchange,
    /// Trades a refresh token for a new session.
    LoginRefresh,
    /// Reads the sums of days.
    RollupsDaily,
    /// Reads the sums of months.
    RollupsMonthly,
    /// Reads totals and the last days.
    Dashboard,
    /// What a user may bind a device to.
    Bindings,
    /// Binds a device.
    Enrol,
    /// A device is there, and asks for its configuration.
    Heartbeat,
    /// Signs the upload of a file that belongs to a record.
    Presign,
    /// Sends a browser to where a person signs in.
    LoginRedirect,
    /// Makes a token for the user who asks.
    TokenCreate,
    /// Lists the user's tokens.
    TokenList,
    /// Revokes one of them.
    TokenRevoke,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `GET`, `POST` or `DELETE`.
    pub method: String,
    /// Literal, but for a segment in braces, which stands for any; a `:` in it is also met as `%3A`.
    pub path: String,
    /// What it is for.
    pub role: Role,
}

/// A step between a request and its records; a contract declares their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gate {
    /// No more bytes than the limit.
    Size,
    /// A credential of this contract.
    Auth,
    /// JSON: not too deep, no member twice.
    Decode,
    /// A known version.
    Version,
    /// The version's JSON Schema.
    Schema,
    /// Whether this very batch was taken before.
    Receipt,
    /// A device of this user, enrolled.
    Device,
    /// What it is bound to still takes its records.
    Member,
    /// The windows of the rates.
    Rate,
    /// What is not stored even when it was sent; where records are rejected one by one, which are.
    Policy,
    /// Records, sums and reply.
    Apply,
}

/// Which code writes the replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dialect {
    /// [`super::statsai`].
    Statsai,
    /// [`super::aexy`].
    Aexy,
}

/// Credentials of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Whom a credential stands for.
    pub kind: AuthKind,
    /// How the secrets of the operator's keys begin.
    pub prefix: String,
    /// The variable in which a producer may hold its token.
    pub environment: String,
}

/// Whom a credential stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuthKind {
    /// A user's device.
    Device,
    /// A user.
    Principal,
}

/// One version of a contract's batches.
#[derive(Debug)]
pub struct Version {
    /// What a batch says.
    pub is: String,
    /// What a batch may say, too: all that begins so.
    pub prefix: Option<String>,
    /// What its acknowledgement says; empty where that has no version.
    pub ack: String,
    /// Members of later versions: refused unless empty, since dropping them in silence would lose records.
    pub refuse: Vec<Pointer>,
    /// The schema of a batch.
    pub schema: Schema,
    /// The same in parts, where records are rejected one by one.
    pub parts: Option<Parts>,
}

impl Version {
    /// Whether a batch that says this is of this version.
    #[must_use]
    pub fn takes(&self, said: &str) -> bool {
        self.is == said || self.prefix.as_ref().is_some_and(|p| said.starts_with(p.as_str()))
    }
}

/// Limits of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes as they are sent.
    pub wire_bytes: u64,
    /// Bytes of the JSON.
    pub decoded_bytes: u64,
    /// Records of the kinds that [`Kind::always`] go along, of all of them together, that a producer puts into a batch.
    pub metadata_per_batch: usize,
    /// Other records that a producer puts into a batch.
    pub records_per_batch: usize,
}

/// The members of a batch beside its records.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Its id, which is also the key of its receipt; without it there are no receipts.
    pub batch: Option<Pointer>,
    /// The device that made it; information only, unless devices are enrolled.
    pub device: Pointer,
    /// When it was made.
    pub created_at: Pointer,
    /// How the same batch is answered when it comes again, by its receipt.
    pub replay: Option<Replay>,
}

/// How the same batch is answered when it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Replay {
    /// Each record of it is a duplicate.
    AllDuplicates,
}

/// In what a record's id is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// The user's device that sent it.
    Device,
    /// The user, whichever device sent it; the server remembers which did.
    Principal,
}

/// One part of a record's stamp.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Stamp {
    /// A time of the record.
    Record(Pointer),
    /// A time of its batch.
    Batch(Pointer),
}

impl TryFrom<String> for Stamp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("batch:") {
            Some(rest) => Pointer::try_from(rest.to_owned()).map(Self::Batch),
            None => Pointer::try_from(text).map(Self::Record),
        }
    }
}

/// A member that never leaves a producer and is never stored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strip {
    /// The member; it becomes null.
    pub at: Pointer,
    /// With `unless_is`: kept where this member has that text.
    pub unless_at: Option<Pointer>,
    /// See `unless_at`.
    pub unless_is: Option<String>,
}

/// A member by which a record says something of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The member; a producer sets it to true …
    pub at: Pointer,
    /// … where this one is there and not null.
    pub when: Pointer,
}

/// A kind of record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// Its plural name: the member of the batch, and of the counts.
    pub name: String,
    /// Its id.
    pub id: Pointer,
    /// In what the id is unique.
    pub scope: Scope,
    /// What tells the newer of two versions, the first part first; a missing time is the oldest. Without it the later
    /// arrival is the newer.
    #[serde(default)]
    pub newer_by: Vec<Stamp>,
    /// Members that do not make another version.
    #[serde(default)]
    pub hash_ignore: Vec<Pointer>,
    /// Scrubbed at both ends.
    #[serde(default)]
    pub strip: Vec<Strip>,
    /// What a producer makes true.
    #[serde(default)]
    pub mark: Vec<Mark>,
    /// The time of a producer's incremental cursor, with the id behind it.
    pub cursor: Option<Pointer>,
    /// Whether an incremental batch carries all current records of it.
    #[serde(default)]
    pub always: bool,
    /// Stored once; without it a later version replaces an earlier one.
    pub append: Option<Append>,
}

/// Sums by day and month.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollup {
    /// The kind that is summed up.
    pub from: String,
    /// Only records whose member here …
    pub where_at: Pointer,
    /// … has this text.
    pub where_is: String,
    /// The time whose date, as written, is the day; a record without it is in no sum.
    pub day: Pointer,
    /// What sums are kept apart by.
    pub dimensions: Vec<Pointer>,
    /// The object that has the counts.
    pub counts: Pointer,
    /// The counts, unsigned 64-bit integers.
    pub sum: Vec<String>,
    /// The cost, in cents.
    pub cents: Pointer,
}

/// A contract.
#[derive(Debug)]
pub struct Contract {
    /// Its full name.
    pub name: String,
    /// Its short name, in commands.
    pub stream: String,
    /// Who writes its replies.
    pub dialect: Dialect,
    /// Its gates, in order.
    pub order: Vec<Gate>,
    /// Where a batch says its version.
    pub version_at: Pointer,
    /// Its credentials.
    pub auth: Auth,
    /// Its paths.
    pub routes: Vec<Route>,
    /// Its versions.
    pub versions: Vec<Version>,
    /// Its limits.
    pub limits: Limits,
    /// Its batches.
    pub envelope: Envelope,
    /// Its records, in the order of the acknowledgement.
    pub kinds: Vec<Kind>,
    /// Its sums.
    pub rollup: Option<Rollup>,
    /// What one bad record does.
    pub rejects: Rejects,
    /// How its devices are bound.
    pub enrol: Option<Enrol>,
    /// What is done afterwards.
    pub hook: Option<Hook>,
    /// Its windows.
    pub rates: Vec<Rate>,
}
