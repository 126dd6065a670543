//! Stored form of a row: typed values as compact bytes, for outboxes, bases and staged rows.
//!
//! The form is private to one file on one machine, yet an older file must stay readable, so a tag
//! never changes its meaning. A column may be *absent*: a partial payload leaves it untouched.

use crate::value::Value;

/// The values of a row by column position; `None` is a column that the writer did not mention.
pub type Record = Vec<Option<Value>>;

/// Whether a row is what a record says, in every column that this mentions.
///
/// ```
/// use sync_core::{record::agrees, value::Value};
/// let row = [Value::from(1), Value::Null];
/// assert!(agrees(&row, &vec![Some(Value::from(1)), None]));
/// assert!(!agrees(&row, &vec![None, Some(Value::from(2))]));
/// assert!(!agrees(&row, &vec![None, None, Some(Value::Null)]));
/// ```
#[must_use]
pub fn agrees(row: &[Value], record: &Record) -> bool {
    record.iter().enumerate().all(|(i, r)| r.as_ref().is_none_or(|r| row.get(i) == Some(r)))
}

const ABSENT: u8 = 0;
const NULL: u8 = 1;
const INTEGER: u8 = 2;
const REAL: u8 = 3;
const TEXT: u8 = 4;
const BLOB: u8 = 5;

/// Stored bytes that are not a record: the file was damaged or written by something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored record is damaged at byte {0}")]
pub struct RecordError(pub usize);

/// Appends one present value.
pub fn push_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(NULL),
        Value::Integer(i) => push_integer(out, *i),
        Value::Real(r) => push_real(out, *r),
        Value::Text(s) => push_text(out, s),
        Value::Blob(b) => push_blob(out, b),
    }
}

/// Appends a NULL.
pub fn push_null(out: &mut Vec<u8>) {
    out.push(NULL);
}

/// Appends an integer.
pub fn push_integer(out: &mut Vec<u8>, i: i64) {
    out.push(INTEGER);
    push_varint(out, ((i << 1) ^ (i >> 63)).cast_unsigned());
}

/// Appends a real, bit for bit.
pub fn push_real(out: &mut Vec<u8>, r: f64) {
    out.push(REAL);
    out.extend_from_slice(&r.to_bits().to_be_bytes());
}

/// Appends text.
pub fn push_text(out: &mut Vec<u8>, s: &str) {
    out.push(TEXT);
    push_varint(out, s.len() as u64);
    out.extend_from_slice(s.as_bytes());
}

/// Appends bytes.
pub fn push_blob(out: &mut Vec<u8>, b: &[u8]) {
    out.push(BLOB);
    push_varint(out, b.len() as u64);
    out.extend_from_slice(b);
}

/// Appends the mark of a column that was not mentioned.
pub fn push_absent(out: &mut Vec<u8>) {
    out.push(ABSENT);
}

/// The stored form of a complete row.
#[must_use]
pub fn encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * 12);
    for v in values {
        push_value(&mut out, v);
    }
    out
}

/// The stored form of a row that may lack columns.
#[must_use]
pub fn encode_partial(values: &[Option<Value>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * 12);
    for v in values {
        match v {
            Some(v) => push_value(&mut out, v),
            None => push_absent(&mut out),
        }
    }
    out
}

/// Reads a stored row back.
///
/// # Errors
/// When the bytes are not what [`encode`] or [`encode_partial`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    let mut at = 0;
    let mut out = Vec::with_capacity(8);
    while at < bytes.len() {
        let tag = bytes[at];
        at += 1;
        out.push(match tag {
            ABSENT => None,
            NULL => Some(Value::Null),
            INTEGER => {
                let z = read_varint(bytes, &mut at)?;
                Some(Value::Integer((z >> 1).cast_signed() ^ -((z & 1).cast_signed())))
            }
            REAL => {
                let raw = take(bytes, &mut at, 8)?;
                let bits: [u8; 8] = raw.try_into().map_err(|_| RecordError(at))?;
                Some(Value::Real(f64::from_bits(u64::from_be_bytes(bits))))
            }
            TEXT => {
                let len = read_varint(bytes, &mut at)?;
                let raw = take(bytes, &mut at, len)?;
                let text = std::str::from_utf8(raw).map_err(|_| RecordError(at))?;
                Some(Value::Text(text.to_owned()))
            }
            BLOB => {
                let len = read_varint(bytes, &mut at)?;
                Some(Value::Blob(take(bytes, &mut at, len)?.to_vec()))
            }
            _ => return Err(RecordError(at - 1)),
        });
    }
    Ok(out)
}

/// Reads a stored row in which every column must be present.
///
/// # Errors
/// When the bytes are damaged or a column is absent.
pub fn decode_full(bytes: &[u8]) -> Result<Vec<Value>, RecordError> {
    decode(bytes)?.into_iter().enumerate().map(|(i, v)| v.ok_or(RecordError(i))).collect()
}

fn push_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push((v & 0x7f) as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Result<u64, RecordError> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let b = *bytes.get(*at).ok_or(RecordError(*at))?;
        *at += 1;
        v |= u64::from(b & 0x7f) << shift;
        if b & 0x80 == 0 {
            return Ok(v);
        }
    }
    Err(RecordError(*at))
}

fn take<'a>(bytes: &'a [u8], at: &mut usize, len: impl TryInto<usize>) -> Result<&'a [u8], RecordError> {
    let len: usize = len.try_into().map_err(|_| RecordError(*at))?;
    let end = at.checked_add(len).filter(|e| *e <= bytes.len()).ok_or(RecordError(*at))?;
    let out = &bytes[*at..end];
    *at = end;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(values in proptest::collection::vec(proptest::option::of(crate::testing::value()), 0..12)) {
            prop_assert_eq!(decode(&encode_partial(&values)).expect("own bytes"), values);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_cut_record_is_an_error() {
        let bytes = encode(&[Value::Text("abc".into())]);
        assert_eq!(decode(&bytes[..3]), Err(RecordError(2)));
        assert_eq!(decode_full(&encode_partial(&[None])), Err(RecordError(0)));
    }
}
