//! Strict JSON input (protocol §3): duplicate members and nesting over 64 are refused, numbers keep
//! their 64 bits, and nothing becomes a generic document tree.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// Most members of one object: more than any table has columns. Each is kept until the object ends.
pub const MAX_MEMBERS: usize = 4096;

/// What may stand for one column's value on the wire, before its column is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number without fraction or exponent that fits 64 bits.
    Integer(i64),
    /// Any other number. As in SQL, that includes integers that do not fit 64 bits.
    Real(f64),
    /// A string.
    Text(String),
    /// `{"$blob": base64}`
    TaggedBlob(String),
    /// `{"$text": string}`
    TaggedText(String),
    /// `{"$real": string}`
    TaggedReal(String),
    /// An array, or any other object.
    Nested,
}

/// The members of one JSON object, in their order, without duplicates.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Members(pub Vec<(String, Scalar)>);

impl Members {
    /// The value of a member.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Scalar> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column value")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(v).map_or(Scalar::Real(v as f64), Scalar::Integer))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Scalar, E> {
        Ok(Scalar::Real(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element_seed(Skip { depth: 4 })?.is_some() {}
        Ok(Scalar::Nested)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        let mut seen = Names::default();
        let mut found = None;
        let mut members = 0;
        while let Some(name) = map.next_key::<String>()? {
            members += 1;
            if matches!(name.as_str(), "$blob" | "$text" | "$real") {
                let value = map.next_value::<Self::Value>()?;
                found = match (name.as_str(), value) {
                    ("$blob", Scalar::Text(s)) => Some(Scalar::TaggedBlob(s)),
                    ("$text", Scalar::Text(s)) => Some(Scalar::TaggedText(s)),
                    ("$real", Scalar::Text(s)) => Some(Scalar::TaggedReal(s)),
                    _ => Some(Scalar::Nested),
                };
            } else {
                map.next_value_seed(Skip { depth: 4 })?;
            }
            seen.insert(name)?;
        }
        Ok(if members == 1 { found.unwrap_or(Scalar::Nested) } else { Scalar::Nested })
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members: Vec<(String, Scalar)> = Vec::with_capacity(8);
                let mut many = None;
                while let Some((name, value)) = map.next_entry::<String, Scalar>()? {
                    if members.len() < 24 {
                        if members.iter().any(|(n, _)| *n == name) {
                            return Err(duplicate());
                        }
                    } else {
                        let names: &mut Names =
                            many.get_or_insert_with(|| Names(members.iter().map(|(n, _)| n.clone()).collect()));
                        names.insert(name.clone())?;
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(V)
    }
}

/// Reads and drops any value, refusing duplicate members and nesting beyond [`MAX_DEPTH`].
#[derive(Debug, Clone, Copy)]
pub struct Skip {
    /// How deep the value itself stands.
    pub depth: usize,
}

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = Names::default();
        while let Some(name) = map.next_key::<String>()? {
            seen.insert(name)?;
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

impl Skip {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("nesting is deeper than 64"));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

/// Parses one small document into a request or reply type, after checking the whole of it.
///
/// # Errors
/// Malformed JSON, trailing bytes, duplicate members, nesting over 64, or a wrong type; the text
/// names the place, never a value.
pub fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, JsonError> {
    let mut d = serde_json::Deserializer::from_slice(bytes);
    Skip { depth: 0 }.deserialize(&mut d).map_err(JsonError::new)?;
    d.end().map_err(JsonError::new)?;
    serde_json::from_slice(bytes).map_err(JsonError::new)
}

/// Why a document was refused, without its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at line {line} column {column}")]
pub struct JsonError {
    what: &'static str,
    line: usize,
    column: usize,
}

impl JsonError {
    /// Keeps the place and the class of a parser's error, and drops its text, which may quote input.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "used as a map_err function")]
    pub fn new(e: serde_json::Error) -> Self {
        let what = match e.classify() {
            serde_json::error::Category::Syntax => "malformed JSON",
            serde_json::error::Category::Eof => CUT,
            serde_json::error::Category::Io => "reading failed",
            serde_json::error::Category::Data => {
                let text = e.to_string();
                if text.starts_with("duplicate") {
                    "duplicate member"
                } else if text.starts_with("nesting") {
                    "nesting is deeper than 64"
                } else if text.starts_with("too many members") {
                    "too many members in one object"
                } else if text.starts_with("missing") {
                    "missing member"
                } else {
                    "wrong type"
                }
            }
        };
        Self { what, line: e.line(), column: e.column() }
    }

    /// A number that no exact form can be given to.
    #[cfg(feature = "ingest")]
    pub(crate) fn number() -> Self {
        Self { what: "a number out of range", line: 0, column: 0 }
    }

    /// Whether the document broke off: what there is of it may be right.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.what == CUT
    }
}

const CUT: &str = "JSON ends too early";

/// Names already seen in one object.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn insert<E: de::Error>(&mut self, name: String) -> Result<(), E> {
        if self.0.len() >= MAX_MEMBERS {
            return Err(E::custom("too many members"));
        }
        if self.0.insert(name) { Ok(()) } else { Err(duplicate()) }
    }
}

fn duplicate<E: de::Error>() -> E {
    E::custom("duplicate member")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Result<Members, JsonError> {
        from_slice(text.as_bytes())
    }

    #[test]
    fn scalars_keep_their_type() {
        let m = members(
            r#"{"a":null,"b":true,"c":9007199254740993,"d":1.0,"e":18446744073709551615,"f":"x","g":{"$blob":"AA=="},
               "h":{"$text":"t"},"i":{"$real":"Infinity"},"j":[1],"k":{"x":1},"l":-9223372036854775808,"m":1e400e}"#,
        );
        assert!(m.is_err());
        let m = members(
            r#"{"a":null,"b":true,"c":9007199254740993,"d":1.0,"e":18446744073709551615,"f":"x","g":{"$blob":"AA=="},
               "h":{"$text":"t"},"i":{"$real":"Infinity"},"j":[1],"k":{"x":1},"l":-9223372036854775808,"m":{"$blob":"","z":1}}"#,
        )
        .unwrap();
        let expected = [
            Scalar::Null,
            Scalar::Bool(true),
            Scalar::Integer(9_007_199_254_740_993),
            Scalar::Real(1.0),
            Scalar::Real(18_446_744_073_709_551_615.0),
            Scalar::Text("x".into()),
            Scalar::TaggedBlob("AA==".into()),
            Scalar::TaggedText("t".into()),
            Scalar::TaggedReal("Infinity".into()),
            Scalar::Nested,
            Scalar::Nested,
            Scalar::Integer(i64::MIN),
            Scalar::Nested,
        ];
        assert_eq!(m.0.into_iter().map(|(_, v)| v).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn strictness() {
        for (text, what) in [
            (r#"{"a":1,"a":2}"#, "duplicate member"),
            (r#"{"a":{"x":1,"x":2}}"#, "duplicate member"),
            (r#"{"a":1} 2"#, "malformed JSON"),
            (r#"{"a":1"#, "JSON ends too early"),
            ("[1]", "wrong type"),
            ("", "JSON ends too early"),
        ] {
            assert_eq!(members(text).unwrap_err().what, what, "{text}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(64), "]".repeat(64));
        assert_eq!(members(&deep).unwrap_err().what, "nesting is deeper than 64");
        let fine = format!("{{\"a\":{}1{}}}", "[".repeat(50), "]".repeat(50));
        assert!(members(&fine).is_ok());
        let many: Vec<String> = (0..100).map(|i| format!("\"m{}\":1", i % 99)).collect();
        assert_eq!(members(&format!("{{{}}}", many.join(","))).unwrap_err().what, "duplicate member");
        let many = |n: usize| {
            let list: Vec<String> = (0..n).map(|i| format!("\"m{i}\":1")).collect();
            list.join(",")
        };
        assert!(members(&format!("{{{}}}", many(MAX_MEMBERS))).is_ok());
        for text in [format!("{{{}}}", many(MAX_MEMBERS + 1)), format!("{{\"x\":{{{}}}}}", many(MAX_MEMBERS + 1))] {
            assert_eq!(members(&text).unwrap_err().what, "too many members in one object");
        }
    }
}
