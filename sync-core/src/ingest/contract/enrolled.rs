//! What contracts declare whose devices are enrolled and whose records are taken one by one.

use serde::Deserialize;

use super::Role;
use crate::ingest::pointer::Pointer;
use crate::ingest::validate::Schema;

/// What one bad record does to its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejects {
    /// The batch is refused.
    #[default]
    Whole,
    /// It is named in the reply; the others are taken.
    PerRecord,
}

/// Records that are stored once and never change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// Characters of an id, at most. An id that is a UUID is the same in upper and lower case.
    pub most_id: usize,
    /// The producer's number of it.
    pub seq: Pointer,
    /// When it happened; UTC where it has no offset.
    pub time: Pointer,
    /// Seconds before now from which on it is taken, …
    pub past_s: u32,
    /// … and after now.
    pub future_s: u32,
    /// The reason of a rejection outside of them.
    pub outside: String,
    /// Members that the server derives: refused in whatever form.
    pub forbid: Vec<Pointer>,
    /// The reason of a rejection for one of them.
    pub forbidden: String,
}

/// Devices that are bound to something before they send.
#[derive(Debug)]
pub struct Enrol {
    /// Characters of the ids of a device and of what it is bound to, at most.
    pub most_id: usize,
    /// The configuration of a device: each property has a default.
    pub config: Schema,
}

/// What is done once records were taken, later and once for many batches.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Batches of one binding within so many seconds, counted from the epoch, are one run.
    pub seconds: u32,
}

/// Whose window it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Per {
    /// The device's.
    Device,
    /// That of what the device is bound to.
    Binding,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cost {
    /// Each request once.
    Request,
    /// Its records.
    Records,
}

/// A sliding window: no more than `limit` within any `seconds`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Which requests.
    pub role: Role,
    /// Whose.
    pub per: Per,
    /// What is counted of them.
    pub cost: Cost,
    /// So much.
    pub limit: u64,
    /// In so long.
    pub seconds: u32,
}

/// The schema of a version in parts, so that a record is judged by itself.
#[derive(Debug)]
pub struct Parts {
    /// A batch, whatever its records are.
    pub envelope: Schema,
    /// A record, by the contract's kinds.
    pub records: Vec<Schema>,
}
