//! JSON whose numbers are kept exactly: 64-bit counts are beyond a double, and equality must not merge two of them.
//!
//! The canonical text of a value has sorted members (by UTF-16 units, as in RFC 8785), no white space, no needless
//! escapes, and each number in the one form of its exact decimal value: `1000`, `1000.0` and `1e3` are one number, 2^53
//! and 2^53 + 1 are two.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::canonical::{Escapes, push_string};
use crate::json::{JsonError, from_slice};

/// A JSON value. Numbers are in their canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` and `false`
    Bool(bool),
    /// The canonical text of a number.
    Number(String),
    /// A string, its escapes undone.
    Text(String),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Object(BTreeMap<Name, Self>),
}

/// A member's name; sorted by UTF-16 units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.encode_utf16().cmp(other.0.encode_utf16())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Json {
    /// Reads one document.
    ///
    /// # Errors
    /// As [`crate::json::from_slice`]: malformed JSON, a member twice, nesting over 64, and exponents beyond 32 bits.
    pub fn read(bytes: &[u8]) -> Result<Self, JsonError> {
        // All of it is checked here, so that the reader below meets valid JSON only.
        from_slice::<IgnoredAny>(bytes)?;
        let mut reader = Reader { bytes, at: 0 };
        reader.value().ok_or_else(JsonError::number)
    }

    /// The member of an object.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        // Names are few, and a borrowed key in UTF-16 order would need one more type.
        match self {
            Self::Object(members) => members.iter().find(|(n, _)| n.0 == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The member of an object, to be changed.
    pub fn member_mut(&mut self, name: &str) -> Option<&mut Self> {
        match self {
            Self::Object(members) => members.iter_mut().find(|(n, _)| n.0 == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Takes a member away.
    pub fn remove(&mut self, name: &str) {
        if let Self::Object(members) = self {
            members.retain(|n, _| n.0 != name);
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(s) => Some(s),
            _ => None,
        }
    }

    /// The items of an array; none of anything else.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// An integer, where it is one and fits.
    #[must_use]
    pub fn integer(&self) -> Option<i128> {
        match self {
            Self::Number(n) => n.parse().ok(),
            _ => None,
        }
    }

    /// Whether it is empty: `null`, `[]`, `{}`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::List(items) => items.is_empty(),
            Self::Object(members) => members.is_empty(),
            _ => false,
        }
    }

    /// The canonical text.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// SHA-256 of the canonical text.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.canonical()).into()
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Self::Number(n) => out.push_str(n),
            Self::Text(s) => push_string(out, s, Escapes::Minimal),
            Self::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    out.push(if i == 0 { '[' } else { ',' });
                    item.write(out);
                }
                out.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Self::Object(members) => {
                for (i, (name, value)) in members.iter().enumerate() {
                    out.push(if i == 0 { '{' } else { ',' });
                    push_string(out, &name.0, Escapes::Minimal);
                    out.push(':');
                    value.write(out);
                }
                out.push_str(if members.is_empty() { "{}" } else { "}" });
            }
        }
    }
}

/// Reads JSON that is known to be valid and not too deep. `None` is a number that has no canonical form.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    /// Whether the next character is this one, which is then passed.
    fn pass(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn value(&mut self) -> Option<Json> {
        match self.peek()? {
            b'{' => {
                self.at += 1;
                let mut members = BTreeMap::new();
                while !self.pass(b'}') {
                    self.pass(b',');
                    self.peek();
                    let name = self.string()?;
                    self.pass(b':');
                    members.insert(Name(name), self.value()?);
                }
                Some(Json::Object(members))
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.pass(b']') {
                    self.pass(b',');
                    items.push(self.value()?);
                }
                Some(Json::List(items))
            }
            b'"' => self.string().map(Json::Text),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'n' => self.word("null", Json::Null),
            _ => {
                let from = self.at;
                while self.bytes.get(self.at).is_some_and(|b| b"+-.eE0123456789".contains(b)) {
                    self.at += 1;
                }
                number(std::str::from_utf8(&self.bytes[from..self.at]).ok()?).map(Json::Number)
            }
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Option<Json> {
        self.at += word.len();
        Some(value)
    }

    fn string(&mut self) -> Option<String> {
        let from = self.at;
        self.at += 1;
        loop {
            match self.bytes.get(self.at)? {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        serde_json::from_slice(&self.bytes[from..self.at]).ok()
    }
}

/// Digits that a number is written out with, before it gets an exponent.
const PLAIN_DIGITS: i64 = 40;

/// The canonical form of a JSON number: plain where that is short, else `d…e±n` without a point.
fn number(text: &str) -> Option<String> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = i64::from(exponent.parse::<i32>().ok()?) - i64::try_from(fraction.len()).ok()?;
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some("0".to_owned());
    }
    let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let exponent = exponent + zeros;
    let length = i64::try_from(significant.len()).ok()?;
    Some(if exponent >= 0 && length + exponent <= PLAIN_DIGITS {
        format!("{sign}{significant}{}", "0".repeat(usize::try_from(exponent).ok()?))
    } else if exponent < 0 && -exponent <= PLAIN_DIGITS {
        let places = usize::try_from(-exponent).ok()?;
        let padded = format!("{significant:0>width$}", width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        format!("{sign}{whole}.{fraction}")
    } else {
        format!("{sign}{significant}e{exponent}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        Json::read(text.as_bytes()).unwrap().canonical()
    }

    #[test]
    fn numbers_have_one_form() {
        for (forms, expected) in [
            (&["1000", "1000.0", "1e3", "1E+3", "0.1e4", "1000.000"][..], "1000"),
            (&["0", "-0", "0.0", "0e7", "-0.000e-3"], "0"),
            (&["0.25", "25e-2", "2.5E-1", "0.250"], "0.25"),
            (&["-1.50", "-15e-1"], "-1.5"),
            (&["1e50", "10e49"], "1e50"),
            (&["1e-50", "0.1e-49"], "1e-50"),
            (&["18446744073709551615"], "18446744073709551615"),
            (&["9007199254740993"], "9007199254740993"),
            (&["9007199254740992"], "9007199254740992"),
            (&["0.28873917228103946"], "0.28873917228103946"),
        ] {
            for form in forms {
                assert_eq!(number(form).as_deref(), Some(expected), "{form}");
                assert_eq!(number(expected).as_deref(), Some(expected), "it is its own form");
            }
        }
        assert!(Json::read(b"1e-99999999999").is_err(), "no form, and no panic");
    }

    #[test]
    fn order_space_and_escapes_do_not_matter() {
        let a = canonical("{ \"b\" : [ 1 , {\"x\":null} , [] ,{} ] , \"a\" : \"\\u0041\\n\\/\" , \"c\":[true,false]}");
        assert_eq!(a, "{\"a\":\"A\\n/\",\"b\":[1,{\"x\":null},[],{}],\"c\":[true,false]}");
        // U+FB33 is above U+1F600 in UTF-16, and below it in UTF-8.
        assert_eq!(canonical("{\"\u{fb33}\":1,\"\u{1f600}\":2}"), "{\"\u{1f600}\":2,\"\u{fb33}\":1}");
    }

    #[test]
    fn what_is_refused() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::read(deep(64).as_bytes()).is_ok());
        for bad in [&deep(65), "{\"a\":1,\"a\":2}", "[1] 2", "\"\\ud800\"", "", "01", "[1,]", "nul"] {
            assert!(Json::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reading_what_was_written_changes_nothing(s in any::<String>(), i in any::<u64>(), r in any::<f64>()) {
            prop_assume!(r.is_finite());
            let text = serde_json::json!({ "s": s, "i": i, "r": r, "l": [s, { "k": r }] }).to_string();
            let json = Json::read(text.as_bytes()).unwrap();
            prop_assert_eq!(json.member("i").unwrap().integer(), Some(i128::from(i)));
            let again = Json::read(json.canonical().as_bytes()).unwrap();
            prop_assert_eq!(again.digest(), json.digest());
            let value: serde_json::Value = serde_json::from_str(&json.canonical()).unwrap();
            prop_assert_eq!(value["r"].as_f64(), Some(if r == 0.0 { 0.0 } else { r }));
            prop_assert_eq!(value["s"].as_str(), Some(s.as_str()));
        }
    }
}
