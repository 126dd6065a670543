//! What fails below the protocol, and which answer it becomes.

use rusqlite::ErrorCode;
use sync_core::protocol::{ApiError, Code};
use sync_core::sqlite::NotUtf8;

/// An answer of the protocol, or a failure of the storage.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fail {
    /// Decided by the protocol.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// SQLite's.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file holds what this program never writes.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

impl From<NotUtf8> for Fail {
    fn from(_: NotUtf8) -> Self {
        Self::Damaged("text that is not UTF-8")
    }
}

/// The result of everything in a scope.
pub(crate) type Outcome<T> = Result<T, Fail>;

impl Fail {
    /// Whether the file itself is at fault.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(e) => {
                matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            }
            Self::Api(e) => e.code == Code::ScopeDamaged,
        }
    }

    /// The answer. The cause goes to the log, without values: SQLite's messages name tables, columns
    /// and places only.
    pub(crate) fn into_api(self) -> ApiError {
        if let Self::Api(e) = self {
            return e;
        }
        if self.is_damage() {
            tracing::error!(cause = %self, "a scope file is damaged");
            return damaged();
        }
        match &self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(e, _))
                if !matches!(
                    e.code,
                    ErrorCode::ApiMisuse
                        | ErrorCode::InternalMalfunction
                        | ErrorCode::Unknown
                        | ErrorCode::TypeMismatch
                ) =>
            {
                tracing::warn!(code = e.extended_code, "storage failed");
                ApiError::new(Code::StorageUnavailable, "the server's storage is not available; nothing was changed")
            }
            _ => {
                tracing::error!(cause = %self, "an operation failed");
                ApiError::new(Code::InternalError, "the server failed; nothing was changed")
            }
        }
    }
}

/// `scope_damaged`.
pub(crate) fn damaged() -> ApiError {
    ApiError::new(Code::ScopeDamaged, "this user's file is damaged and was set aside").after(60)
}
