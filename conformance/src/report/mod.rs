//! What the suite says in the end: on a terminal, and for programs.

pub mod html;
pub mod json;
pub mod junit;
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

impl Heading {
    /// What the names of all made-up users begin with.
    pub(crate) fn name(&self) -> &str {
        self.users.first().map_or("", |u| u.rsplit_once('-').map_or(u.as_str(), |(p, _)| p))
    }
}

/// Text as markup: nothing in it is an element, and nothing is a character that XML cannot have.
fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The suite's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The dialect that is judged.
pub const DIALECT: &str = "v1, the revision of June 2026";
