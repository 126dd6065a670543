//! JSON as it came: numbers keep their digits, members their order, and duplicates are an error.
//!
//! A referee must not read replies with the library that one of the judged servers writes them with.

use std::fmt;

use sync_core::canonical::{Escapes, push_integer, push_real_exact, push_real_reference, push_string};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// The digits as they came.
    Number(String),
    /// A string.
    Text(String),
    /// An array.
    Array(Vec<Self>),
    /// Members in their order.
    Object(Vec<(String, Self)>),
}

impl Json {
    /// Parses one document and nothing after it.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
        let mut p = Parser { text, at: 0, depth: 0 };
        let value = p.value()?;
        p.space();
        if p.at < text.len() { Err(format!("more than one document at byte {}", p.at)) } else { Ok(value) }
    }

    /// A member of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(s) = self { Some(s) } else { None }
    }

    /// An integer: digits only.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        if let Self::Number(n) = self { n.parse().ok() } else { None }
    }

    /// A boolean.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    /// The items of an array.
    #[must_use]
    pub fn items(&self) -> Option<&[Self]> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }

    /// The members of an object.
    #[must_use]
    pub fn members(&self) -> Option<&[(String, Self)]> {
        if let Self::Object(m) = self { Some(m) } else { None }
    }

    /// Whether two values mean the same: integers by their digits, other numbers as doubles,
    /// objects without regard to order.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => match (a.parse::<i64>(), b.parse::<i64>()) {
                (Ok(a), Ok(b)) => a == b,
                _ => matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b),
            },
            (Self::Array(a), Self::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (Self::Object(a), Self::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(n, v)| other.get(n).is_some_and(|o| v.same(o)))
            }
            _ => self == other,
        }
    }

    /// Appends the canonical form of one of the two hashes (protocol §5).
    pub fn push_canonical(&self, out: &mut String, escapes: Escapes) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Self::Number(n) => match (n.parse::<i64>(), escapes) {
                (Ok(i), Escapes::Minimal) => push_integer(out, i),
                (_, Escapes::Minimal) => push_real_exact(out, n.parse().unwrap_or(f64::NAN)),
                (_, Escapes::Html) => push_real_reference(out, n.parse().unwrap_or(f64::NAN)),
            },
            Self::Text(s) => push_string(out, s, escapes),
            Self::Array(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    item.push_canonical(out, escapes);
                }
                out.push(']');
            }
            Self::Object(members) => {
                let mut sorted: Vec<&(String, Self)> = members.iter().collect();
                sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
                out.push('{');
                for (n, (name, value)) in sorted.into_iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    push_string(out, name, escapes);
                    out.push(':');
                    value.push_canonical(out, escapes);
                }
                out.push('}');
            }
        }
    }
}

/// As it came, without white space.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let string = |s: &str, f: &mut fmt::Formatter<'_>| {
            let mut out = String::new();
            push_string(&mut out, s, Escapes::Minimal);
            f.write_str(&out)
        };
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Number(n) => f.write_str(n),
            Self::Text(s) => string(s, f),
            Self::Array(items) => {
                f.write_str("[")?;
                for (n, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if n > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (n, (name, value)) in members.iter().enumerate() {
                    if n > 0 {
                        f.write_str(",")?;
                    }
                    string(name, f)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

impl From<serde_json::Value> for Json {
    fn from(v: serde_json::Value) -> Self {
        match v {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(b),
            serde_json::Value::Number(n) => Self::Number(n.to_string()),
            serde_json::Value::String(s) => Self::Text(s),
            serde_json::Value::Array(a) => Self::Array(a.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(m) => Self::Object(m.into_iter().map(|(n, v)| (n, Self::from(v))).collect()),
        }
    }
}

impl From<&str> for Json {
    fn from(s: &str) -> Self {
        Self::Text(s.to_owned())
    }
}

impl From<String> for Json {
    fn from(s: String) -> Self {
        Self::Text(s)
    }
}

impl From<i64> for Json {
    fn from(i: i64) -> Self {
        Self::Number(i.to_string())
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Json, String> {
        self.space();
        self.depth += 1;
        if self.depth > 128 {
            return Err("nested deeper than 128".to_owned());
        }
        let value = match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let words = [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))];
                let found = words.into_iter().find(|(w, _)| self.text[self.at..].starts_with(w));
                let (word, value) = found.ok_or_else(|| self.wrong("a value"))?;
                self.at += word.len();
                Ok(value)
            }
        };
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Json, String> {
        let mut members: Vec<(String, Json)> = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a member name"));
            }
            let name = self.string()?;
            if members.iter().any(|(n, _)| *n == name) {
                return Err(format!("duplicate member \"{name}\" at byte {}", self.at));
            }
            self.space();
            if !self.take(b':') {
                return Err(self.wrong("a colon"));
            }
            members.push((name, self.value()?));
            self.space();
            if self.take(b'}') {
                return Ok(Json::Object(members));
            }
            if !self.take(b',') {
                return Err(self.wrong("a comma or the end of the object"));
            }
        }
    }

    fn array(&mut self) -> Result<Json, String> {
        let mut items = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            if self.take(b']') {
                return Ok(Json::Array(items));
            }
            if !self.take(b',') {
                return Err(self.wrong("a comma or the end of the array"));
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let from = self.at;
        let bytes = self.text.as_bytes();
        self.at += 1;
        while self.at < bytes.len() {
            match bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    // Escapes are the one thing that is left to the library.
                    return serde_json::from_str(&self.text[from..self.at])
                        .map_err(|_| format!("a malformed string at byte {from}"));
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        Err(format!("an unfinished string at byte {from}"))
    }

    fn number(&mut self) -> Result<Json, String> {
        let from = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = &self.text[from..self.at];
        let digits = text.strip_prefix('-').unwrap_or(text);
        let leading = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        if leading || text.parse::<f64>().is_err() || digits.starts_with('.') || text.ends_with('.') {
            return Err(format!("a malformed number at byte {from}"));
        }
        Ok(Json::Number(text.to_owned()))
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn wrong(&self, wanted: &str) -> String {
        format!("{wanted} is missing at byte {}", self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits_and_duplicates_are_refused() {
        let text = r#"{"a":[1.0,9007199254740993,-0.0,1e+21],"b":{"c":null,"d":"x\"é\u0001"},"e":true}"#;
        let json = Json::parse(text.as_bytes()).unwrap();
        assert_eq!(json.to_string(), text);
        for bad in [r#"{"a":1,"a":2}"#, "{} {}", "[1,]", "01", "{\"a\" 1}", "\"abc", "", "[1.]", "{,}", "nul"] {
            assert!(Json::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn sameness_is_by_meaning() {
        let same = |a: &str, b: &str| Json::parse(a.as_bytes()).unwrap().same(&Json::parse(b.as_bytes()).unwrap());
        assert!(same(r#"{"a":1,"b":[2.0]}"#, r#"{"b":[2],"a":1}"#));
        assert!(!same("9007199254740993", "9007199254740992"));
        assert!(!same(r#"{"a":1}"#, r#"{"a":1,"b":null}"#));
    }
}
