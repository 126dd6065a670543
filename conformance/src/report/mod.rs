//! What the suite says in the end: on a terminal, and for programs.

pub mod json;
pub mod markdown;
pub mod terminal;
pub mod transcript;

/// What a report says of the run beside its findings.
#[derive(Debug, Clone)]
pub struct Heading {
    /// The backend's name, of the profile.
    pub backend: String,
    /// Where it is.
    pub url: String,
    /// When the run began, RFC 3339.
    pub at: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The users that were made up.
    pub users: Vec<String>,
}

/// The suite's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The dialect that is judged.
pub const DIALECT: &str = "v1, the revision of June 2026";
