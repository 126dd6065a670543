//! Query strings (reference-server §1.4): base-10 integers, an empty value is an absent one, the
//! first of several counts, unknown names are ignored.

use sync_core::protocol::{ApiError, Code};

/// A query whose malformed values are answered with one code.
pub(crate) struct Query<'a> {
    raw: &'a str,
    invalid: Code,
}

impl<'a> Query<'a> {
    pub(crate) fn new(raw: Option<&'a str>, invalid: Code) -> Self {
        Self { raw: raw.unwrap_or_default(), invalid }
    }

    /// The first value of a name, decoded; `None` where it is absent or empty.
    ///
    /// # Errors
    /// Where it cannot be decoded.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        for pair in self.raw.split('&') {
            let (n, v) = pair.split_once('=').unwrap_or((pair, ""));
            if decode(n).as_deref() == Some(name) {
                return match decode(v) {
                    Some(v) => Ok(Some(v).filter(|v| !v.is_empty())),
                    None => Err(self.invalid(format!("{name} is not percent-encoded UTF-8"))),
                };
            }
        }
        Ok(None)
    }

    /// An integer of at least `min`.
    ///
    /// # Errors
    /// Where it is no integer or less.
    pub(super) fn integer(&self, name: &str, min: i64) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let i: i64 = text.parse().map_err(|_| self.invalid(format!("{name} must be an integer")))?;
        if i < min {
            let bound = if min == 1 { "> 0".to_owned() } else { format!(">= {min}") };
            return Err(self.invalid(format!("{name} must be {bound}")));
        }
        Ok(Some(i))
    }

    /// 64 lowercase hex digits.
    ///
    /// # Errors
    /// Where it is anything else.
    pub(super) fn hash(&self, name: &str) -> Result<Option<String>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Some(text))
        } else {
            Err(self.invalid(format!("{name} must be 64 lowercase hex digits")))
        }
    }

    fn invalid(&self, message: String) -> ApiError {
        ApiError::new(self.invalid, message)
    }
}

/// Undoes percent-encoding; `+` is a blank. `None` where the result is not UTF-8 or an escape is broken.
fn decode(s: &str) -> Option<String> {
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (char::from(bytes.next()?).to_digit(16)?, char::from(bytes.next()?).to_digit(16)?);
                u8::try_from(high * 16 + low).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(raw: &str) -> Result<Option<i64>, String> {
        Query::new(Some(raw), Code::PullInvalid).integer("n", 0).map_err(|e| e.message)
    }

    #[test]
    fn integers_are_read_as_the_reference_reads_them() {
        assert_eq!(integer("a=1&n=7&n=x"), Ok(Some(7)));
        assert_eq!(integer("n="), Ok(None));
        assert_eq!(integer("n"), Ok(None));
        assert_eq!(integer(""), Ok(None));
        assert_eq!(integer("n=%2B7"), Ok(Some(7)));
        assert_eq!(integer("n=9223372036854775807"), Ok(Some(i64::MAX)));
        for wrong in ["n=%207", "n=1.0", "n=1e2", "n=9223372036854775808", "n=0x1", "n=7x", "n=%ff", "n=%2"] {
            assert!(integer(wrong).is_err(), "{wrong}");
        }
        assert_eq!(integer("n=-1"), Err("n must be >= 0".into()));
    }
}
