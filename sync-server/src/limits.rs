//! Every limit that the server enforces. What is enforced is advertised (protocol §10).

/// Limits of a service. 0 is "no limit" where a field says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Decoded bytes of one request. Counted while inflating.
    pub max_bytes_per_request: u64,
    /// Rows of one push; 0 for no limit.
    pub max_rows_per_bundle: i64,
    /// Bytes of one row's payload; 0 for no limit. What the schema makes of a row may come to eight times as many, and to
    /// 16 MiB always.
    pub max_bytes_per_row: i64,
    /// Advice to clients.
    pub default_rows_per_push_chunk: i64,
    /// Rows of one chunk.
    pub max_rows_per_push_chunk: i64,
    /// Rows of a committed-bundle page that asks for no number.
    pub default_rows_per_committed_bundle_chunk: i64,
    /// Rows of a committed-bundle page.
    pub max_rows_per_committed_bundle_chunk: i64,
    /// Rows of a snapshot page that asks for no number.
    pub default_rows_per_snapshot_chunk: i64,
    /// Rows of a snapshot page.
    pub max_rows_per_snapshot_chunk: i64,
    /// Bundles of a pull page.
    pub max_bundles_per_pull: i64,
    /// Where a pull page ends, softly, in bytes.
    pub max_bytes_per_pull: i64,
    /// How long a staged push lives without a chunk.
    pub push_session_ttl_ms: i64,
    /// How long a snapshot lives without a page being read.
    pub snapshot_session_ttl_ms: i64,
    /// How long a seeding device may be silent.
    pub initialization_lease_ttl_ms: i64,
    /// Rows of a snapshot; 0 for no limit.
    pub max_rows_per_snapshot_session: i64,
    /// Bytes of a snapshot; 0 for no limit.
    pub max_bytes_per_snapshot_session: i64,
    /// Snapshots being built at once, over all users.
    pub max_concurrent_snapshot_builds: usize,
    /// Rows that one digest request covers.
    pub max_rows_per_digest: i64,
    /// Parts that one digest request is cut into.
    pub max_ranges_per_digest: i64,
    /// Rows that a user's digest requests cover in a minute, each at least [`MIN_DIGEST_COST`]; 0 for no
    /// limit. One minute's worth may be taken at once.
    pub max_digest_rows_per_minute: i64,
    /// Bundles kept in each scope's history.
    pub retained_bundles: i64,
    /// Scopes whose files are kept open.
    pub open_scopes: usize,
}

/// What a digest request costs at least, in rows.
pub const MIN_DIGEST_COST: i64 = 100;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes_per_request: 256 * 1024 * 1024,
            max_rows_per_bundle: 0,
            max_bytes_per_row: 0,
            default_rows_per_push_chunk: 1000,
            max_rows_per_push_chunk: 5000,
            default_rows_per_committed_bundle_chunk: 1000,
            max_rows_per_committed_bundle_chunk: 5000,
            default_rows_per_snapshot_chunk: 1000,
            max_rows_per_snapshot_chunk: 5000,
            max_bundles_per_pull: 5000,
            max_bytes_per_pull: 8 * 1024 * 1024,
            push_session_ttl_ms: 15 * 60 * 1000,
            snapshot_session_ttl_ms: 15 * 60 * 1000,
            initialization_lease_ttl_ms: 15 * 60 * 1000,
            max_rows_per_snapshot_session: 0,
            max_bytes_per_snapshot_session: 0,
            max_concurrent_snapshot_builds: 4,
            max_rows_per_digest: 200_000,
            max_ranges_per_digest: 256,
            max_digest_rows_per_minute: 10_000_000,
            retained_bundles: 10_000,
            open_scopes: 64,
        }
    }
}
