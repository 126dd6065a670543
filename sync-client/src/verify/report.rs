//! What a comparison says.

use serde::Serialize;

/// What [`crate::Client::verify`] does about rows that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repair {
    /// Names them.
    #[default]
    No,
    /// Writes the server's row into the file. What the file had is kept whole in `discarded`.
    FromServer,
    /// Takes what the file has for a change made here: the next sync pushes it, under the table's policy.
    /// A row that the file was never known to have is taken from the server.
    FromFile,
}

impl Repair {
    /// As it is remembered in the file.
    pub(super) const fn stored(self) -> i64 {
        match self {
            Self::No => 0,
            Self::FromServer => 1,
            Self::FromFile => 2,
        }
    }
}

/// In what a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The server, or the second file, has it; the file has not.
    Missing,
    /// The file has it; the server, or the second file, has not.
    Extra,
    /// Both have it, with other values.
    Different,
}

/// What was done about a row that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Nothing: no repair was asked for.
    None,
    /// The file has the server's row now; what it had is in `discarded`.
    FromServer,
    /// The file's row waits to be pushed.
    FromFile,
    /// Nothing: it was repaired this way before, and differs again. Something keeps changing it.
    Again,
    /// Nothing: this file cannot take the server's row. Where its own had to leave, it is in `discarded`.
    Refused,
    /// Nothing: the app has changed the row meanwhile.
    Overtaken,
}

/// One row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Table, as on the wire.
    pub table: String,
    /// Key object, as on the wire.
    pub key: String,
    /// How.
    pub kind: Kind,
    /// With [`Kind::Different`]: in which columns.
    pub columns: Vec<String>,
    /// What was done about it.
    pub remedy: Remedy,
}

/// What a comparison of a file with its server found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The bundle at which both were compared.
    pub bundle_seq: i64,
    /// Rows compared.
    pub compared_rows: u64,
    /// Of these, rows that were downloaded, because a digest differed or none was to be had.
    pub downloaded_rows: u64,
    /// Rows left out: changed here and not confirmed yet, refused or set aside, or newer than the bundle.
    pub left_out_rows: u64,
    /// Rows that differ.
    pub differing_rows: u64,
    /// Of these, rows that were repaired.
    pub repaired_rows: u64,
    /// The rows that differ, by table and key; the first 10,000.
    pub differences: Vec<Difference>,
    /// Synced tables that the server does not have, or that are held back.
    pub skipped_tables: Vec<String>,
}

impl VerifyReport {
    /// Rows that still differ.
    #[must_use]
    pub const fn unrepaired_rows(&self) -> u64 {
        self.differing_rows - self.repaired_rows
    }
}

/// What a comparison of two files found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CompareReport {
    /// Rows compared.
    pub compared_rows: u64,
    /// Rows left out: changed and not confirmed yet in a synced file, or newer than what the other has pulled.
    pub left_out_rows: u64,
    /// Rows that differ.
    pub differing_rows: u64,
    /// The rows that differ, by table and key; the first 10,000.
    pub differences: Vec<Difference>,
    /// Tables that only the first file has.
    pub only_in_first: Vec<String>,
    /// Tables that only the second file has.
    pub only_in_second: Vec<String>,
    /// Tables whose keys have other columns: they were not compared.
    pub other_keys: Vec<String>,
}

impl CompareReport {
    /// Whether nothing differs.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.differing_rows == 0
            && self.only_in_first.is_empty()
            && self.only_in_second.is_empty()
            && self.other_keys.is_empty()
    }
}

/// Differing rows that are named; all of them are counted.
pub(super) const NAMED: usize = 10_000;
