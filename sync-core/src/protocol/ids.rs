//! Identifiers that are more than text.

use std::fmt;

/// One user's data stream is a *scope*; this names its user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(String);

impl UserId {
    /// A trimmed, non-empty user id.
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        let s = s.trim();
        if s.is_empty() { None } else { Some(Self(s.to_owned())) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One writer stream of a scope: one installation of an app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(String);

impl SourceId {
    /// 1 to 128 characters, each `!`..`~`, after trimming (protocol §3).
    ///
    /// ```
    /// use sync_core::protocol::SourceId;
    /// assert!(SourceId::parse(" phone-1 ").is_some());
    /// assert!(SourceId::parse("two words").is_none());
    /// assert!(SourceId::parse(&"x".repeat(129)).is_none());
    /// ```
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        let s = s.trim_matches([' ', '\t']);
        let fits = (1..=128).contains(&s.len()) && s.bytes().all(|b| (b'!'..=b'~').contains(&b));
        if fits { Some(Self(s.to_owned())) } else { None }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
