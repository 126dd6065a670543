//! The wire types of every endpoint (seed; protocol §2–§10), one file per family.
//!
//! Small requests and replies are plain serde types read by [`crate::json::from_slice`]. Rows are
//! read and written one at a time ([`rows`]), so that no reply is ever held whole.

pub mod capabilities;
pub mod code;
pub mod connect;
pub mod digest;
pub mod error;
pub mod ids;
pub mod pull;
pub mod push;
pub mod rows;
pub mod snapshot;
pub mod watch;

pub use code::Code;
pub use error::ApiError;
pub use ids::{SourceId, UserId};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// The row came to be.
    Insert,
    /// The row changed.
    Update,
    /// The row went away.
    Delete,
}

impl Op {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    /// Reads a name, without regard to case and surrounding blanks.
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        let s = s.trim();
        [Self::Insert, Self::Update, Self::Delete].into_iter().find(|o| o.name().eq_ignore_ascii_case(s))
    }

    /// The number in stored form: 1, 2, 3.
    #[must_use]
    pub const fn stored(self) -> i64 {
        match self {
            Self::Insert => 1,
            Self::Update => 2,
            Self::Delete => 3,
        }
    }

    /// From the number in stored form.
    #[must_use]
    pub const fn from_stored(n: i64) -> Option<Self> {
        match n {
            1 => Some(Self::Insert),
            2 => Some(Self::Update),
            3 => Some(Self::Delete),
            _ => None,
        }
    }
}

/// The one protocol version that is spoken.
pub const PROTOCOL_VERSION: &str = "v1";
/// Names the caller's source on every authenticated request.
pub const SOURCE_HEADER: &str = "Oversync-Source-ID";
/// Asks for the exact view and the `blake3` hash when its value is `blake3`.
pub const HASH_HEADER: &str = "Oversync-Bundle-Hash";
