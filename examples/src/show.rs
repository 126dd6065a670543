//! Plain text for people: numbers with separators, columns that line up, colour only on a terminal.

use std::io::{IsTerminal as _, Write as _};

/// A colour, or none where standard output is not a terminal or `NO_COLOR` is set.
#[derive(Debug, Clone, Copy)]
pub enum Colour {
    /// For what is well.
    Green,
    /// For what is not.
    Red,
    /// For what was lost or set aside.
    Yellow,
    /// For headings.
    Bold,
    /// For what matters less.
    Dim,
}

/// Text in a colour.
#[must_use]
pub fn paint(colour: Colour, text: &str) -> String {
    if !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Green => "32",
        Colour::Red => "31",
        Colour::Yellow => "33",
        Colour::Bold => "1",
        Colour::Dim => "2",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// Prints a line. A reader that went away (`| head`) is no reason to stop half-way.
pub fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// A heading with an empty line before it.
pub fn heading(text: &str) {
    say(&format!("\n{}", paint(Colour::Bold, text)));
}

/// A label in a column of its own, and what it says.
pub fn line(label: &str, text: &str) {
    say(&format!("  {label:<9} {text}"));
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 row`, `1,234 rows`.
#[must_use]
pub fn rows(n: u64) -> String {
    format!("{} {}", count(n), if n == 1 { "row" } else { "rows" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(["0", "999", "1,000", "1,234,567"].map(str::to_owned), [0, 999, 1000, 1_234_567].map(count));
        assert_eq!((rows(1), rows(2)), ("1 row".to_owned(), "2 rows".to_owned()));
    }
}
