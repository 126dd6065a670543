//! The table of error codes: code, status, sentence, and what a client does about it.

/// What a client does after an error, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Send the same request again later.
    Later,
    /// Take the protocol's own next step: pull, reconnect, rebuild, or start the session again.
    Recover,
    /// Nothing helps but a change: of the token, the request, or the rows.
    Never,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $retry:ident, $sentence:literal;)*) => {
        /// Every error code that the protocol knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $sentence] $name,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that carries it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// What a client does about it.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }

            /// Reads a code from the wire.
            #[must_use]
            pub fn parse(s: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|c| c.as_str() == s)
            }
        }
    };
}

codes! {
    InvalidRequest = "invalid_request", 400, Never, "The request is malformed.";
    AuthenticationFailed = "authentication_failed", 401, Never, "The token is missing, wrong or expired.";
    NotFound = "not_found", 404, Never, "Nothing is served at this path.";
    MethodNotAllowed = "method_not_allowed", 405, Never, "This path does not take this method.";
    PayloadTooLarge = "payload_too_large", 413, Never, "The decoded body is over the limit.";
    UnsupportedEncoding = "unsupported_encoding", 415, Never, "The body's encoding is not identity, gzip or zstd.";
    RateLimited = "rate_limited", 429, Later, "Too many requests; wait as long as Retry-After says.";
    InternalError = "internal_error", 500, Later, "The server failed; nothing was changed.";
    ServiceUnavailable = "service_unavailable", 503, Later, "The server is shutting down.";
    StorageUnavailable = "storage_unavailable", 503, Later, "The server's storage is busy, full or failing; nothing was half-written.";
    ScopeDamaged = "scope_damaged", 503, Later, "This user's file is damaged and was set aside; an operator has to restore it.";

    ConnectInvalid = "connect_invalid", 400, Never, "The connect request is not valid.";
    ConnectFailed = "connect_failed", 500, Later, "Connecting failed on the server.";

    ScopeUninitialized = "scope_uninitialized", 409, Recover, "Nobody has initialized this user's scope; connect first.";
    ScopeInitializing = "scope_initializing", 409, Later, "Another device is seeding this user's scope.";
    InitializationStale = "initialization_stale", 409, Recover, "The initialization lease belongs to somebody else now; connect again.";
    InitializationExpired = "initialization_expired", 410, Recover, "The initialization lease has lapsed; connect again.";

    PushSessionInvalid = "push_session_invalid", 400, Recover, "The push session request is not valid.";
    BundleTooLarge = "bundle_too_large", 413, Never, "The bundle has more rows than the server takes.";
    HistoryPruned = "history_pruned", 409, Recover, "The history that was asked for is no longer kept; rebuild from a snapshot.";
    SourceSequenceOutOfOrder = "source_sequence_out_of_order", 409, Recover, "The source bundle id is ahead of what the server expects.";
    SourceSequenceChanged = "source_sequence_changed", 409, Recover, "The source's sequence moved on while the push was staged.";
    SourceRetired = "source_retired", 409, Recover, "This source was retired; a fresh one must be used.";
    SourceReplacementInvalid = "source_replacement_invalid", 409, Recover, "The replacement source cannot be used.";
    PushSessionCreateFailed = "push_session_create_failed", 500, Later, "Creating the push session failed on the server.";

    PushChunkInvalid = "push_chunk_invalid", 400, Never, "A chunk or a row in it is malformed.";
    PushChunkOutOfOrder = "push_chunk_out_of_order", 409, Recover, "The chunk does not start where the session stands.";
    PushSessionNotFound = "push_session_not_found", 404, Recover, "There is no such push session; create it again.";
    PushSessionForbidden = "push_session_forbidden", 403, Never, "The push session belongs to another user or source.";
    PushSessionExpired = "push_session_expired", 410, Recover, "The push session has expired; create it again.";
    PushChunkFailed = "push_chunk_failed", 500, Later, "Storing the chunk failed on the server.";

    PushCommitInvalid = "push_commit_invalid", 400, Recover, "The staged push is not complete or not what was announced.";
    PushConflict = "push_conflict", 409, Recover, "A row changed on the server since this device last saw it; pull, then push again.";
    PushRejected = "push_rejected", 422, Recover, "The server's schema refuses some rows; nothing was committed.";
    PushSessionCommitFailed = "push_session_commit_failed", 500, Later, "Committing failed on the server.";
    PushSessionDeleteFailed = "push_session_delete_failed", 500, Later, "Deleting the push session failed on the server.";

    CommittedBundleChunkInvalid = "committed_bundle_chunk_invalid", 400, Never, "The page request is not valid.";
    CommittedBundleNotFound = "committed_bundle_not_found", 404, Recover, "There is no such bundle.";
    CommittedBundleRowsFailed = "committed_bundle_rows_failed", 500, Later, "Reading the bundle failed on the server.";

    PullInvalid = "pull_invalid", 400, Never, "The pull request is not valid.";
    CheckpointAhead = "checkpoint_ahead", 409, Recover, "The checkpoint is ahead of the server's history, which was rewritten.";
    HistoryDiverged = "history_diverged", 409, Recover, "The server's history is not the one that this device pulled.";
    PullFailed = "pull_failed", 500, Later, "Pulling failed on the server.";

    WatchForbidden = "bundle_change_watch_forbidden", 403, Never, "This user may not watch.";
    WatchDisabled = "bundle_change_watch_disabled", 503, Never, "Watching is turned off on this server.";
    WatchFailed = "bundle_change_watch_failed", 500, Later, "Watching failed on the server.";

    DigestInvalid = "digest_invalid", 400, Never, "The digest request is not valid.";

    SnapshotSessionInvalid = "snapshot_session_invalid", 400, Never, "The snapshot session request is not valid.";
    SnapshotSessionLimitExceeded = "snapshot_session_limit_exceeded", 409, Never, "The snapshot is over the server's limit.";
    SnapshotBuildCapacity = "snapshot_build_capacity", 429, Later, "Too many snapshots are being built; wait as long as Retry-After says.";
    SnapshotSessionCreateFailed = "snapshot_session_create_failed", 500, Later, "Building the snapshot failed on the server.";
    SnapshotChunkInvalid = "snapshot_chunk_invalid", 400, Never, "The snapshot page request is not valid.";
    SnapshotSessionNotFound = "snapshot_session_not_found", 404, Recover, "There is no such snapshot session; create it again.";
    SnapshotSessionForbidden = "snapshot_session_forbidden", 403, Never, "The snapshot session belongs to another user.";
    SnapshotSessionExpired = "snapshot_session_expired", 410, Recover, "The snapshot session has expired; create it again.";
    SnapshotChunkFailed = "snapshot_chunk_failed", 500, Later, "Reading the snapshot failed on the server.";
    SnapshotSessionDeleteFailed = "snapshot_session_delete_failed", 500, Later, "Deleting the snapshot session failed on the server.";

    StatusFailed = "status_failed", 500, Later, "Reading the server's status failed.";
    HealthFailed = "health_failed", 500, Later, "Reading the server's health failed.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        for c in Code::ALL {
            assert_eq!(Code::parse(c.as_str()), Some(*c), "codes are unique");
            assert!(c.sentence().ends_with('.'));
            assert!((400..600).contains(&c.status()));
            if c.status() == 500 || c.status() == 429 {
                assert_eq!(c.retry(), Retry::Later, "{}", c.as_str());
            }
        }
        assert_eq!(Code::parse("unheard_of"), None);
    }
}
