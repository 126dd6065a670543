//! One typed value: a SQLite storage class, exactly. JSON exists only at the edge ([`crate::wire`]).
//!
//! A value never passes through a floating-point number or a string on its way, so 64-bit
//! integers, blobs and reals survive a round trip bit for bit (protocol §4).

use std::fmt;

/// A value in one of SQLite's five storage classes.
///
/// `Debug` prints the class and the size, never the content: rows must not reach logs.
///
/// ```
/// use sync_core::value::Value;
/// assert_eq!(format!("{:?}", Value::Text("secret".into())), "Text(6 bytes)");
/// ```
#[derive(Clone)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// An IEEE double. Never NaN: SQLite stores NaN as NULL.
    Real(f64),
    /// Valid UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// Whether this is SQL NULL.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The storage class in SQLite's own words, as `typeof()` says it.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Integer(_) => "integer",
            Self::Real(_) => "real",
            Self::Text(_) => "text",
            Self::Blob(_) => "blob",
        }
    }
}

/// Equal storage class and equal bits: `1` and `1.0` differ, and so do `0.0` and `-0.0`.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Blob(a), Self::Blob(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Integer(_) => f.write_str("Integer"),
            Self::Real(_) => f.write_str("Real"),
            Self::Text(s) => write!(f, "Text({} bytes)", s.len()),
            Self::Blob(b) => write!(f, "Blob({} bytes)", b.len()),
        }
    }
}

impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Self::Integer(v)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Self::Real(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}

impl From<Vec<u8>> for Value {
    fn from(v: Vec<u8>) -> Self {
        Self::Blob(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_is_exact() {
        assert_eq!(Value::Integer(1), Value::Integer(1));
        assert_ne!(Value::Integer(1), Value::Real(1.0));
        assert_ne!(Value::Real(0.0), Value::Real(-0.0));
        assert_ne!(Value::Text("a".into()), Value::Blob(b"a".to_vec()));
        assert_eq!(Value::Null, Value::Null);
    }

    #[test]
    fn debug_shows_no_content() {
        for v in [
            Value::Text("hunter2".into()),
            Value::Integer(424_242),
            Value::Real(4.25),
            Value::Blob(b"hunter2".to_vec()),
        ] {
            let shown = format!("{v:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("42") && !shown.contains("4.25"), "{shown}");
        }
    }
}
