//! Validation by JSON Schema, with exact numbers and without an echo of what was sent.
//!
//! Two things are stricter than the standard. An `integer` is written without a fraction or an exponent: `1000.0` is
//! none. And `format` is asserted where it is known: `date-time` (RFC 3339 with an offset), `date-time-or-utc` (which may lack
//! the offset), `uint64`, `int64`, `uint8`.

use std::fmt;

use jsonschema::{Keyword, ValidationError, Validator, error::ValidationErrorKind, paths::Location};
use serde_json::{Map, Value};

use super::time;

/// A fault of a document: where and by which rule. It never has a value of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// A JSON Pointer to the member at fault, or to where a missing one should be.
    pub path: String,
}

/// A compiled JSON Schema.
pub struct Schema {
    text: String,
    document: Value,
    validator: Validator,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the schema cannot be used: {0}")]
pub struct SchemaError(String);

impl Schema {
    /// Compiles a JSON Schema (draft 2020-12 where it does not say which). References lead nowhere outside of it.
    ///
    /// # Errors
    /// Where it is no JSON Schema.
    pub fn new(text: &str) -> Result<Self, SchemaError> {
        let document: Value = serde_json::from_str(text).map_err(|e| SchemaError(e.to_string()))?;
        let validator = jsonschema::options()
            .with_keyword("type", |_: &Map<String, Value>, value: &Value, _: Location| {
                Ok(Box::new(Type::new(value)) as Box<dyn for<'i> Keyword<'i>>)
            })
            .with_keyword("format", |_: &Map<String, Value>, value: &Value, _: Location| {
                Ok(Box::new(Format::new(value)) as Box<dyn for<'i> Keyword<'i>>)
            })
            .build(&document)
            .map_err(|e| SchemaError(e.to_string()))?;
        Ok(Self { text: text.to_owned(), document, validator })
    }

    /// The schema as it was declared.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The schema as JSON.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// The faults of a document, at most so many, in the order of the schema.
    ///
    /// # Errors
    /// Where there is one.
    pub fn check(&self, document: &Value, most: usize) -> Result<(), Vec<Violation>> {
        let found: Vec<Violation> = self.validator.iter_errors(document).take(most.max(1)).map(|e| fault(&e)).collect();
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}

fn fault(e: &ValidationError<'_>) -> Violation {
    let mut path = e.instance_path().as_str().to_owned();
    if let ValidationErrorKind::Required { property } = e.kind()
        && let Some(name) = property.as_str()
    {
        path.push('/');
        path.push_str(&name.replace('~', "~0").replace('/', "~1"));
    }
    Violation { path }
}

/// `type`, with integers as they are written.
struct Type(Vec<String>);

impl Type {
    fn new(value: &Value) -> Self {
        let one = |v: &Value| v.as_str().map(str::to_owned);
        Self(
            value
                .as_array()
                .map_or_else(|| one(value).into_iter().collect(), |list| list.iter().filter_map(one).collect()),
        )
    }
}

impl<'i> Keyword<'i> for Type {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) { Ok(()) } else { Err(ValidationError::custom("another type")) }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        self.0.iter().any(|name| match name.as_str() {
            "null" => instance.is_null(),
            "boolean" => instance.is_boolean(),
            "string" => instance.is_string(),
            "array" => instance.is_array(),
            "object" => instance.is_object(),
            "number" => instance.is_number(),
            // Integers beyond 64 bits, and what has a fraction or an exponent, are read as doubles.
            "integer" => instance.is_i64() || instance.is_u64(),
            _ => false,
        })
    }
}

/// `format`, asserted; names that are not known are comments, as in the standard.
enum Format {
    DateTime,
    DateTimeOrUtc,
    Uint64,
    Int64,
    Uint8,
    Unknown,
}

impl Format {
    fn new(value: &Value) -> Self {
        match value.as_str() {
            Some("date-time") => Self::DateTime,
            Some("date-time-or-utc") => Self::DateTimeOrUtc,
            Some("uint64") => Self::Uint64,
            Some("int64") => Self::Int64,
            Some("uint8") => Self::Uint8,
            _ => Self::Unknown,
        }
    }
}

impl<'i> Keyword<'i> for Format {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) { Ok(()) } else { Err(ValidationError::custom("another format")) }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        match (self, instance) {
            (Self::DateTime, Value::String(s)) => time::nanoseconds(s).is_some(),
            (Self::DateTimeOrUtc, Value::String(s)) => nanoseconds_or_utc(s).is_some(),
            (Self::Uint64, Value::Number(n)) => n.is_u64(),
            (Self::Int64, Value::Number(n)) => n.is_i64(),
            (Self::Uint8, Value::Number(n)) => n.as_u64().is_some_and(|n| n < 256),
            _ => true,
        }
    }
}

/// As [`time::nanoseconds`], for a `date-time` that is in UTC where it has no offset.
#[must_use]
pub fn nanoseconds_or_utc(text: &str) -> Option<i128> {
    time::nanoseconds(text).or_else(|| time::nanoseconds(&format!("{text}Z")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(schema: &str, document: &str) -> Vec<String> {
        let document: Value = serde_json::from_str(document).unwrap();
        let found = Schema::new(schema).unwrap().check(&document, 10);
        found.err().unwrap_or_default().into_iter().map(|v| v.path).collect()
    }

    #[test]
    fn integers_are_written_as_integers() {
        let schema = r#"{"properties":{"n":{"type":["integer","null"],"format":"uint64"}}}"#;
        for fine in ["0", "1000", "18446744073709551615", "null"] {
            assert_eq!(verdict(schema, &format!("{{\"n\":{fine}}}")), [""; 0], "{fine}");
        }
        for wrong in ["-1", "1.5", "1000.0", "1e3", "18446744073709551616", "\"1\"", "true", "[]"] {
            assert!(verdict(schema, &format!("{{\"n\":{wrong}}}")).contains(&"/n".to_owned()), "{wrong}");
        }
        let schema = r#"{"type":"integer","format":"int64"}"#;
        assert_eq!(verdict(schema, "-9223372036854775808"), [""; 0]);
        assert_eq!(verdict(schema, "9223372036854775808").len(), 1);
        assert_eq!(verdict(r#"{"format":"uint8"}"#, "256").len(), 1);
    }

    #[test]
    fn faults_name_the_place_and_nothing_of_the_document() {
        let schema = r#"{"type":"object","required":["a~/b"],"properties":{"l":{"type":"array","items":{"format":"date-time"}}}}"#;
        assert_eq!(verdict(schema, r#"{"l":["2026-06-01T00:00:00Z","secret"]}"#), ["/a~0~1b", "/l/1"]);
        let fault = Schema::new(r#"{"type":"string"}"#).unwrap().check(&serde_json::json!(7), 1).unwrap_err();
        assert_eq!(format!("{fault:?}"), r#"[Violation { path: "" }]"#);
        assert!(Schema::new("{\"type\":").is_err());
        assert!(Schema::new(r##"{"$ref":"#/$defs/none"}"##).is_err());
    }
}
