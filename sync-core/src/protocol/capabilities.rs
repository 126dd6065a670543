//! `GET /sync/capabilities` and `GET /sync/schema` (reference-server §7.1; protocol §10).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The reply. Everything may be missing on somebody else's server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// [`super::PROTOCOL_VERSION`]
    pub protocol_version: String,
    /// The operator's number for the schema.
    pub schema_version: i64,
    /// The operator's name for the app.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app_name: String,
    /// `schema.table`, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registered_tables: Vec<String>,
    /// The same with keys and columns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registered_table_specs: Vec<TableSpec>,
    /// What is offered.
    pub features: BTreeMap<String, bool>,
    /// Limits; a missing member is no limit.
    pub bundle_limits: Limits,
    /// Additive: `["sha256", "blake3"]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundle_hash_algorithms: Vec<String>,
    /// Additive: present where the scope exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope_id: Option<String>,
    /// Additive: the contracts by which devices send records to the same server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingest_streams: Vec<IngestStream>,
}

/// A contract by which devices send records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngestStream {
    /// Its full name.
    pub name: String,
    /// The versions of its batches that are taken.
    pub versions: Vec<String>,
    /// Bytes of a batch, at most.
    pub max_bytes_per_batch: u64,
}

impl Capabilities {
    /// Whether a feature is offered.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.get(feature).copied().unwrap_or(false)
    }
}

/// One table as the server sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableSpec {
    /// Wire schema name.
    pub schema: String,
    /// Wire table name.
    pub table: String,
    /// The key's columns, in key order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sync_key_columns: Vec<String>,
    /// Additive: every column that travels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Additive: the declared type of each of `columns`, in their order; empty where a column has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub column_types: Vec<String>,
    /// Additive, with `column_types`: those of `columns` whose 16 bytes travel as a UUID.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uuid_columns: Vec<String>,
    /// Additive: those of `columns` that are NOT NULL and have no default: a new row has to give them a value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_columns: Vec<String>,
    /// Additive, with `column_types`: the table is declared STRICT.
    #[serde(skip_serializing_if = "is_false")]
    pub strict: bool,
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Limits, all in rows, bundles, bytes or whole seconds as named; 0 is no limit and is left out.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Limits {
            $($(#[$doc])* #[serde(skip_serializing_if = "is_zero")] pub $name: i64,)*
        }
    };
}

limits! {
    /// Rows of one push.
    max_rows_per_bundle,
    /// Bytes of one push.
    max_bytes_per_bundle,
    /// Bundles of one pull page.
    max_bundles_per_pull,
    /// Advice.
    default_rows_per_push_chunk,
    /// Rows of one chunk.
    max_rows_per_push_chunk,
    /// How long a staged push lives without a chunk.
    push_session_ttl_seconds,
    /// Rows of a committed-bundle page that asks for no number.
    default_rows_per_committed_bundle_chunk,
    /// Rows of a committed-bundle page.
    max_rows_per_committed_bundle_chunk,
    /// Rows of a snapshot page that asks for no number.
    default_rows_per_snapshot_chunk,
    /// Rows of a snapshot page.
    max_rows_per_snapshot_chunk,
    /// How long a snapshot lives without a page being read.
    snapshot_session_ttl_seconds,
    /// Rows of a snapshot.
    max_rows_per_snapshot_session,
    /// Bytes of a snapshot.
    max_bytes_per_snapshot_session,
    /// How long a seeding device may be silent.
    initialization_lease_ttl_seconds,
    /// Additive: decoded bytes of one request.
    max_bytes_per_request,
    /// Additive: bytes of one row's payload.
    max_bytes_per_row,
    /// Additive: where a pull page ends, softly.
    max_bytes_per_pull,
    /// Additive: rows that one digest request covers.
    max_rows_per_digest,
    /// Additive: parts that one digest request is cut into.
    max_ranges_per_digest,
    /// Additive: rows that a user's digest requests cover in a minute; each counts as 100 at least.
    max_digest_rows_per_minute,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands over a reference")]
const fn is_false(v: &bool) -> bool {
    !*v
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands over a reference")]
const fn is_zero(v: &i64) -> bool {
    *v == 0
}

/// `GET /sync/schema`: the statements that make a new device's tables, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaReply {
    /// Wire schema name.
    pub schema: String,
    /// `CREATE` statements of the synced tables, parents first, then their indexes.
    pub statements: Vec<String>,
    /// Additive: statements that make the app's other objects, as the operator gave them. The server has never run them,
    /// and a client runs them as those of a stranger (`sync_core::sqlite::guest`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub app_objects: Vec<String>,
}
