//! Between typed values and JSON (protocol §4): keys and payloads, in the view that the caller asked for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::canonical::{Escapes, push_integer, push_real_exact, push_real_reference, push_string};
use crate::json::{Members, Scalar};
use crate::record::Record;
use crate::schema::{Affinity, Column, Table};
use crate::value::Value;

/// Which JSON a row becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The exact view: every value comes back bit for bit. Also the input of the `blake3` hash.
    Exact,
    /// The plain view, which never nests, for clients of the June dialect.
    Plain,
    /// What our client sends to a server of the June dialect: the plain view, and integers that a double
    /// cannot hold as decimal text, since such a server reads numbers as doubles.
    Foreign,
    /// The input of the `sha256` hash: the plain view with doubles and HTML escapes.
    Reference,
}

impl Form {
    const fn escapes(self) -> Escapes {
        match self {
            Self::Exact | Self::Plain | Self::Foreign => Escapes::Minimal,
            Self::Reference => Escapes::Html,
        }
    }
}

/// A value that the column cannot take in the form it came in. The text carries no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A key column is missing from `key`.
    #[error("row key for {0} must include \"{1}\"")]
    KeyMissing(String, String),
    /// A key member is not a JSON string.
    #[error("row key {0}.{1} must be a string")]
    KeyNotString(String, String),
    /// The key of a BLOB-keyed table.
    #[error("row key {0}.{1} must use canonical dashed lowercase UUID text")]
    KeyNotUuid(String, String),
    /// The key of an INTEGER-keyed table.
    #[error("row key {0}.{1} must be a canonical decimal integer of 64 bits")]
    KeyNotInteger(String, String),
    /// The payload repeats the key with another value.
    #[error("payload key {0}.{1} must match request key")]
    KeyMismatch(String, String),
    /// An array or an object that is not one of the tagged values.
    #[error("payload field {0}.{1} must not be an array or an object")]
    Nested(String, String),
    /// A BLOB column got a string that is not base64.
    #[error("payload binary field {0}.{1} must be valid base64")]
    Base64(String, String),
    /// A BLOB column got a number or a boolean.
    #[error("payload binary field {0}.{1} must be a base64 string")]
    NotBase64String(String, String),
    /// A `{"$real": …}` that is no number.
    #[error("payload field {0}.{1} has a malformed $real")]
    TaggedReal(String, String),
    /// A member that begins with `_sync_`.
    #[error("payload for {0} must not include hidden column \"{1}\"")]
    Hidden(String, String),
}

/// Every integer up to this magnitude is a double; not every one beyond is.
pub const DOUBLE_HOLDS: u64 = 1 << 53;

/// Appends one column's value.
pub fn push_value(out: &mut String, column: &Column, value: &Value, form: Form) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Integer(i) if form == Form::Reference => push_real_reference(out, *i as f64),
        Value::Integer(i) if form == Form::Foreign && i.unsigned_abs() > DOUBLE_HOLDS => {
            out.push('"');
            push_integer(out, *i);
            out.push('"');
        }
        Value::Integer(i) => push_integer(out, *i),
        Value::Real(r) if r.is_infinite() => {
            let text = if *r > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" };
            if form == Form::Exact && column.affinity != Affinity::Real {
                out.push_str("{\"$real\":");
                out.push_str(text);
                out.push('}');
            } else {
                out.push_str(text);
            }
        }
        Value::Real(r) if form == Form::Reference => push_real_reference(out, *r),
        Value::Real(r) => push_real_exact(out, *r),
        Value::Text(s) if form == Form::Exact && (column.blob || column.affinity == Affinity::Real) => {
            out.push_str("{\"$text\":");
            push_string(out, s, Escapes::Minimal);
            out.push('}');
        }
        Value::Text(s) if column.blob => push_base64(out, s.as_bytes()),
        Value::Text(s) => push_string(out, s, form.escapes()),
        Value::Blob(b) if column.blob => match <[u8; 16]>::try_from(b.as_slice()) {
            Ok(id) if column.uuid => push_uuid(out, id),
            _ => push_base64(out, b),
        },
        Value::Blob(b) if form == Form::Exact => {
            out.push_str("{\"$blob\":");
            push_base64(out, b);
            out.push('}');
        }
        Value::Blob(b) => push_base64(out, b),
    }
}

/// Appends a payload: every column of the table in canonical order. `order` is
/// [`Table::canonical_order`], computed once by the caller.
pub fn push_payload(out: &mut String, table: &Table, order: &[usize], values: &[Value], form: Form) {
    out.push('{');
    for (n, &i) in order.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_string(out, &table.columns[i].name, form.escapes());
        out.push(':');
        push_value(out, &table.columns[i], &values[i], form);
    }
    out.push('}');
}

/// Appends the payload of a row that may lack columns; absent ones are left out.
pub fn push_partial_payload(out: &mut String, table: &Table, order: &[usize], values: &Record, form: Form) {
    out.push('{');
    let mut first = true;
    for &i in order {
        if let Some(value) = &values[i] {
            if !first {
                out.push(',');
            }
            first = false;
            push_string(out, &table.columns[i].name, form.escapes());
            out.push(':');
            push_value(out, &table.columns[i], value, form);
        }
    }
    out.push('}');
}

/// Appends an object as it was read, canonically: for verifying a hash over members that this side
/// may have no column for.
pub fn push_members(out: &mut String, members: &Members, form: Form) {
    let mut sorted: Vec<&(String, Scalar)> = members.0.iter().collect();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    out.push('{');
    for (n, (name, scalar)) in sorted.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_string(out, name, form.escapes());
        out.push(':');
        let mut tagged = |tag: &str, s: &str| {
            out.push_str("{\"$");
            out.push_str(tag);
            out.push_str("\":");
            push_string(out, s, form.escapes());
            out.push('}');
        };
        match scalar {
            Scalar::TaggedBlob(s) => tagged("blob", s),
            Scalar::TaggedText(s) => tagged("text", s),
            Scalar::TaggedReal(s) => tagged("real", s),
            Scalar::Null | Scalar::Nested => out.push_str("null"),
            Scalar::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Scalar::Integer(i) if form == Form::Reference => push_real_reference(out, *i as f64),
            Scalar::Integer(i) => push_integer(out, *i),
            Scalar::Real(r) if form == Form::Reference => push_real_reference(out, *r),
            Scalar::Real(r) => push_real_exact(out, *r),
            Scalar::Text(s) => push_string(out, s, form.escapes()),
        }
    }
    out.push('}');
}

/// Appends a key object. `key` is in the table's key order, the output in canonical member order.
///
/// A value that the table's key cannot have by its declared type (text in a BLOB key) is written
/// as its text; such rows are held back before they get here.
pub fn push_key(out: &mut String, table: &Table, key: &[Value], form: Form) {
    let mut members: Vec<(&Column, &Value)> = table.key.iter().map(|i| &table.columns[*i]).zip(key).collect();
    members.sort_by(|a, b| a.0.name.as_bytes().cmp(b.0.name.as_bytes()));
    out.push('{');
    for (n, (column, value)) in members.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_string(out, &column.name, form.escapes());
        out.push(':');
        match value {
            Value::Integer(i) => {
                out.push('"');
                push_integer(out, *i);
                out.push('"');
            }
            Value::Text(s) => push_string(out, s, form.escapes()),
            Value::Blob(b) => match <[u8; 16]>::try_from(b.as_slice()) {
                Ok(id) => push_uuid(out, id),
                Err(_) => push_base64(out, b),
            },
            Value::Null | Value::Real(_) => out.push_str("\"\""),
        }
    }
    out.push('}');
}

/// Whether a live row's key can travel: no NULL, no REAL, and each value of its column's kind.
#[must_use]
pub fn key_can_travel(table: &Table, key: &[Value]) -> bool {
    table.key.iter().zip(key).all(|(i, v)| {
        let c = &table.columns[*i];
        match v {
            Value::Null | Value::Real(_) => false,
            Value::Integer(_) => !c.blob && matches!(c.affinity, Affinity::Integer | Affinity::Numeric),
            Value::Text(s) => {
                !c.blob
                    && match c.affinity {
                        Affinity::Text => true,
                        Affinity::Numeric => canonical_integer(s).is_none(),
                        _ => false,
                    }
            }
            Value::Blob(b) => c.blob && b.len() == 16,
        }
    })
}

/// Reads a `key` object into values in the table's key order. Extra members are ignored.
///
/// # Errors
/// A missing member, a value that is no string, or text that is not the canonical form.
pub fn decode_key(table: &Table, key: &Members) -> Result<Vec<Value>, WireError> {
    table
        .key
        .iter()
        .map(|i| {
            let c = &table.columns[*i];
            let name = || (table.name.clone(), c.name.clone());
            let (t, n) = name();
            match key.get(&c.name) {
                None => Err(WireError::KeyMissing(t, n)),
                Some(Scalar::Text(s)) if c.blob => {
                    canonical_uuid(s).map_or(Err(WireError::KeyNotUuid(t, n)), |id| Ok(Value::Blob(id.to_vec())))
                }
                Some(Scalar::Text(s)) => match c.affinity {
                    Affinity::Integer => canonical_integer(s).map(Value::Integer).ok_or(WireError::KeyNotInteger(t, n)),
                    // SQLite would store what looks like a number as one, under another key.
                    Affinity::Numeric => match canonical_integer(s) {
                        Some(i) => Ok(Value::Integer(i)),
                        None if looks_numeric(s) => Err(WireError::KeyNotInteger(t, n)),
                        None => Ok(Value::Text(s.clone())),
                    },
                    _ => Ok(Value::Text(s.clone())),
                },
                Some(_) => Err(WireError::KeyNotString(t, n)),
            }
        })
        .collect()
}

/// A payload read against its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Values by column position; the key's columns are always present.
    pub values: Record,
    /// Members that the table has no column for.
    pub unknown: Vec<String>,
}

/// Reads a payload object. The key's columns are filled in where absent and compared where present.
///
/// # Errors
/// A value that its column cannot take, a key that differs, or a hidden member.
pub fn decode_payload(table: &Table, key: &[Value], payload: &Members) -> Result<Payload, WireError> {
    let mut values: Record = vec![None; table.columns.len()];
    let mut unknown = Vec::new();
    for (name, scalar) in &payload.0 {
        if name.to_ascii_lowercase().starts_with("_sync_") {
            return Err(WireError::Hidden(table.name.clone(), name.clone()));
        }
        match table.column(name) {
            None => unknown.push(name.clone()),
            Some(i) => values[i] = Some(decode_value(table, &table.columns[i], scalar)?),
        }
    }
    for (i, k) in table.key.iter().zip(key) {
        match &values[*i] {
            None => values[*i] = Some(k.clone()),
            Some(v) if v == k => {}
            Some(_) => return Err(WireError::KeyMismatch(table.name.clone(), table.columns[*i].name.clone())),
        }
    }
    Ok(Payload { values, unknown })
}

/// Reads one column's value, liberally (protocol §4).
///
/// # Errors
/// When the column cannot take the value in any reading.
pub fn decode_value(table: &Table, column: &Column, scalar: &Scalar) -> Result<Value, WireError> {
    let name = || (table.name.clone(), column.name.clone());
    let fail = |e: fn(String, String) -> WireError| {
        let (t, c) = name();
        Err(e(t, c))
    };
    Ok(match scalar {
        Scalar::Null => Value::Null,
        Scalar::Bool(b) => Value::Integer(i64::from(*b)),
        Scalar::Integer(i) if column.affinity == Affinity::Real => Value::Real(*i as f64),
        Scalar::Integer(i) => Value::Integer(*i),
        Scalar::Real(r) => Value::Real(*r),
        Scalar::Text(s) if column.blob => match canonical_uuid(s) {
            Some(id) if column.uuid => Value::Blob(id.to_vec()),
            _ => match BASE64.decode(s) {
                Ok(b) => Value::Blob(b),
                Err(_) => return fail(WireError::Base64),
            },
        },
        Scalar::Text(s) => match (column.affinity, s.as_str()) {
            (Affinity::Real, "Infinity") => Value::Real(f64::INFINITY),
            (Affinity::Real, "-Infinity") => Value::Real(f64::NEG_INFINITY),
            (Affinity::Integer | Affinity::Numeric, s) => {
                canonical_integer(s).map_or_else(|| Value::Text(s.to_owned()), Value::Integer)
            }
            _ => Value::Text(s.clone()),
        },
        Scalar::TaggedBlob(s) => match BASE64.decode(s) {
            Ok(b) => Value::Blob(b),
            Err(_) => return fail(WireError::Base64),
        },
        Scalar::TaggedText(s) => Value::Text(s.clone()),
        Scalar::TaggedReal(s) => match s.as_str() {
            "Infinity" => Value::Real(f64::INFINITY),
            "-Infinity" => Value::Real(f64::NEG_INFINITY),
            s => match s.parse::<f64>() {
                Ok(r) if r.is_finite() => Value::Real(r),
                _ => return fail(WireError::TaggedReal),
            },
        },
        Scalar::Nested => return fail(WireError::Nested),
    })
}

/// Whether a NUMERIC column would take this text for a number.
fn looks_numeric(s: &str) -> bool {
    let s = s.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    s.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && s.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
        && s.parse::<f64>().is_ok()
}

/// The value of canonical decimal text: no sign but `-`, no leading zeros, no `-0`, 64 bits.
#[must_use]
pub fn canonical_integer(s: &str) -> Option<i64> {
    let digits = s.strip_prefix('-').unwrap_or(s);
    let canonical = match digits.as_bytes() {
        [b'0'] => s == "0",
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if canonical { s.parse().ok() } else { None }
}

/// The 16 bytes of canonical dashed lowercase UUID text.
#[must_use]
pub fn canonical_uuid(s: &str) -> Option<[u8; 16]> {
    if s.len() != 36 || s.bytes().any(|b| b.is_ascii_uppercase()) || s.as_bytes()[8] != b'-' {
        return None;
    }
    uuid::Uuid::try_parse(s).ok().map(uuid::Uuid::into_bytes)
}

fn push_base64(out: &mut String, bytes: &[u8]) {
    out.push('"');
    BASE64.encode_string(bytes, out);
    out.push('"');
}

fn push_uuid(out: &mut String, id: [u8; 16]) {
    let mut buffer = uuid::Uuid::encode_buffer();
    out.push('"');
    out.push_str(uuid::Uuid::from_bytes(id).hyphenated().encode_lower(&mut buffer));
    out.push('"');
}

#[cfg(test)]
mod tests;
