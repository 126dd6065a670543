//! Keys: the typed values that name a row, and their one stored form.
//!
//! The stored form sorts as the values sort (integers by value, text and blobs by their bytes,
//! members from left to right), so a scan in key order is a scan in stored order, on both ends.

use crate::value::Value;

/// The stored bytes of a row's key. Equal keys have equal bytes and the order is the keys' order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

/// A value that cannot be part of a key (protocol §4): NULL, a real, or damaged stored bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// SQLite allows NULL in most primary keys; such a row has no identity that another device knows.
    #[error("the key contains NULL")]
    Null,
    /// Two doubles that print alike may differ; they do not identify a row.
    #[error("the key contains a REAL value")]
    Real,
    /// The bytes were not written by [`Key::pack`].
    #[error("stored key is damaged")]
    Damaged,
}

const BLOB: u8 = 0x01;
const TEXT: u8 = 0x02;
const ZERO: u8 = 0x14;

impl Key {
    /// The stored form of a key.
    ///
    /// # Errors
    /// When a value is NULL or REAL.
    ///
    /// ```
    /// use sync_core::{key::Key, value::Value};
    /// let a = Key::pack(&[Value::Integer(-5)]).unwrap();
    /// let b = Key::pack(&[Value::Integer(300)]).unwrap();
    /// assert!(a < b);
    /// assert_eq!(b.unpack().unwrap(), vec![Value::Integer(300)]);
    /// ```
    pub fn pack(values: &[Value]) -> Result<Self, KeyError> {
        let mut out = Vec::with_capacity(40);
        for v in values {
            match v {
                Value::Null => return Err(KeyError::Null),
                Value::Real(_) => return Err(KeyError::Real),
                Value::Integer(i) => push_integer(&mut out, *i),
                Value::Text(s) => push_bytes(&mut out, TEXT, s.as_bytes()),
                Value::Blob(b) => push_bytes(&mut out, BLOB, b),
            }
        }
        Ok(Self(out))
    }

    /// Takes bytes that [`Key::pack`] wrote, read back from a store.
    #[must_use]
    pub const fn from_stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The stored bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The typed values again.
    ///
    /// # Errors
    /// When the bytes were not written by [`Key::pack`].
    pub fn unpack(&self) -> Result<Vec<Value>, KeyError> {
        let mut rest = self.0.as_slice();
        let mut out = Vec::with_capacity(1);
        while let Some((&tag, tail)) = rest.split_first() {
            rest = tail;
            out.push(match tag {
                TEXT => {
                    let bytes = read_bytes(&mut rest)?;
                    Value::Text(String::from_utf8(bytes).map_err(|_| KeyError::Damaged)?)
                }
                BLOB => Value::Blob(read_bytes(&mut rest)?),
                tag if (ZERO - 8..=ZERO + 8).contains(&tag) => Value::Integer(read_integer(tag, &mut rest)?),
                _ => return Err(KeyError::Damaged),
            });
        }
        Ok(out)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}

/// Bytes up to a `00` that no `ff` follows, so that a shorter string sorts first, also inside a
/// composite key.
fn push_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    for &b in bytes {
        out.push(b);
        if b == 0 {
            out.push(0xff);
        }
    }
    out.push(0);
}

fn read_bytes(rest: &mut &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut out = Vec::with_capacity(rest.len());
    let mut at = 0;
    loop {
        match rest.get(at) {
            None => return Err(KeyError::Damaged),
            Some(0) if rest.get(at + 1) == Some(&0xff) => {
                out.push(0);
                at += 2;
            }
            Some(0) => {
                *rest = &rest[at + 1..];
                return Ok(out);
            }
            Some(&b) => {
                out.push(b);
                at += 1;
            }
        }
    }
}

/// A length byte around [`ZERO`], below it for negative numbers, then the magnitude; negative
/// magnitudes are complemented so that they sort by value.
fn push_integer(out: &mut Vec<u8>, i: i64) {
    let magnitude = i.unsigned_abs();
    let len = (8 - magnitude.leading_zeros() / 8) as u8;
    let bytes = magnitude.to_be_bytes();
    let bytes = &bytes[8 - len as usize..];
    if i >= 0 {
        out.push(ZERO + len);
        out.extend_from_slice(bytes);
    } else {
        out.push(ZERO - len);
        out.extend(bytes.iter().map(|b| !b));
    }
}

fn read_integer(tag: u8, rest: &mut &[u8]) -> Result<i64, KeyError> {
    let negative = tag < ZERO;
    let len = usize::from(tag.abs_diff(ZERO));
    if rest.len() < len {
        return Err(KeyError::Damaged);
    }
    let (raw, tail) = rest.split_at(len);
    *rest = tail;
    let mut magnitude = 0i128;
    for &b in raw {
        magnitude = magnitude << 8 | i128::from(if negative { !b } else { b });
    }
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| KeyError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key_value;
    use proptest::prelude::*;

    fn rank(v: &Value) -> u8 {
        match v {
            Value::Blob(_) => 0,
            Value::Text(_) => 1,
            _ => 2,
        }
    }

    fn compare(a: &Value, b: &Value) -> std::cmp::Ordering {
        match (a, b) {
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
            _ => rank(a).cmp(&rank(b)),
        }
    }

    proptest! {
        #[test]
        fn round_trips(values in proptest::collection::vec(key_value(), 1..4)) {
            prop_assert_eq!(Key::pack(&values).unwrap().unpack().unwrap(), values);
        }

        #[test]
        fn order_is_the_values_order(a in proptest::collection::vec(key_value(), 2), b in proptest::collection::vec(key_value(), 2)) {
            let expected = compare(&a[0], &b[0]).then_with(|| compare(&a[1], &b[1]));
            prop_assert_eq!(Key::pack(&a).unwrap().cmp(&Key::pack(&b).unwrap()), expected);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Key::from_stored(bytes).unpack();
        }
    }

    #[test]
    fn extremes() {
        for i in [i64::MIN, i64::MIN + 1, -256, -255, -1, 0, 1, 255, 256, i64::MAX] {
            let key = Key::pack(&[Value::Integer(i)]).unwrap();
            assert_eq!(key.unpack().unwrap(), vec![Value::Integer(i)]);
        }
        assert_eq!(Key::pack(&[Value::Null]), Err(KeyError::Null));
        assert_eq!(Key::pack(&[Value::Real(1.0)]), Err(KeyError::Real));
    }
}
