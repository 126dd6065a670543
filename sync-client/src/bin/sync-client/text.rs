//! How numbers, times, keys and tables look to a person.

use jiff::{Timestamp, Unit};
use sync_client::context::{Environment as _, System};

/// The time, as far as it can be written.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millisecond(System.now_ms()).unwrap_or_default()
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 row`, `2,000 rows`.
pub(crate) fn rows(number: u64) -> String {
    counted(number, "row")
}

/// A number and its noun.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// `2026-11-23 02:45:10 UTC (5 min ago)` of an RFC 3339 time; unreadable ones as they are.
pub(crate) fn when(time: &str, now: Timestamp) -> String {
    let Ok(at) = time.parse::<Timestamp>() else { return time.to_owned() };
    let at_text = at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let seconds = at.until((Unit::Second, now)).map_or(0, |span| span.get_seconds());
    let ago = match seconds {
        ..0 => return at_text.to_string(),
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    };
    format!("{at_text} ({ago})")
}

/// A key as `retry` and `drop` take it: the bare text of a key of one column.
pub(crate) fn key(object: &str) -> String {
    match serde_json::from_str::<std::collections::BTreeMap<String, String>>(object) {
        Ok(members) if members.len() == 1 => members.into_values().next().unwrap_or_default(),
        _ => object.to_owned(),
    }
}

/// Text as one word of a shell's command line.
pub(crate) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Columns, aligned; the last one is not padded.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| render(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// Control characters made visible, so that what a row holds cannot drive the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_nouns() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(12_345_678), "12,345,678");
        assert_eq!((rows(1), rows(2)), ("1 row".into(), "2 rows".into()));
    }

    #[test]
    fn times_and_ages() {
        let now = "2026-11-23T02:45:10Z".parse().unwrap();
        assert_eq!(when("2026-11-23T02:40:09.5Z", now), "2026-11-23 02:40:09 UTC (5 min ago)");
        assert_eq!(when("2026-11-20T02:45:10Z", now), "2026-11-20 02:45:10 UTC (3 d ago)");
        assert_eq!(when("yesterday", now), "yesterday");
    }

    #[test]
    fn keys_and_words() {
        assert_eq!(key(r#"{"id":"42"}"#), "42");
        assert_eq!(key(r#"{"a":"1","b":"2"}"#), r#"{"a":"1","b":"2"}"#);
        assert_eq!(shell("it's"), r"'it'\''s'");
        assert_eq!(shell("app.db"), "app.db");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned()], vec!["bbb".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["T", "KEY"], &rows), "T    KEY\na    long cell\nbbb  x");
    }
}
