//! The canonical JSON writers (protocol §5): one for each bundle hash.
//!
//! *Exact* is ours: minimal escapes, integers exact, reals shortest with `.` or exponent. *Reference*
//! is the June dialect's: every number through a double, and `<`, `>`, `&`, U+2028, U+2029 escaped.
//! Both sort members by the bytes of their names and write no white space.

/// Which characters a string writer escapes beside `"`, `\` and control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escapes {
    /// Nothing else: everything beyond U+001F is raw UTF-8.
    Minimal,
    /// `<`, `>`, `&`, U+2028 and U+2029 too, as Go's encoder does.
    Html,
}

/// Appends a JSON string.
pub fn push_string(out: &mut String, s: &str, escapes: Escapes) {
    out.push('"');
    let bytes = s.as_bytes();
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let b = bytes[at];
        let (escape, len): (&str, usize) = match b {
            b'"' => ("\\\"", 1),
            b'\\' => ("\\\\", 1),
            0x08 => ("\\b", 1),
            0x0c => ("\\f", 1),
            b'\n' => ("\\n", 1),
            b'\r' => ("\\r", 1),
            b'\t' => ("\\t", 1),
            0x00..=0x1f => ("", 1),
            b'<' if escapes == Escapes::Html => ("\\u003c", 1),
            b'>' if escapes == Escapes::Html => ("\\u003e", 1),
            b'&' if escapes == Escapes::Html => ("\\u0026", 1),
            0xe2 if escapes == Escapes::Html && bytes[at..].starts_with("\u{2028}".as_bytes()) => ("\\u2028", 3),
            0xe2 if escapes == Escapes::Html && bytes[at..].starts_with("\u{2029}".as_bytes()) => ("\\u2029", 3),
            _ => {
                at += 1;
                continue;
            }
        };
        out.push_str(&s[from..at]);
        if escape.is_empty() {
            out.push_str("\\u00");
            push_hex(out, b);
        } else {
            out.push_str(escape);
        }
        at += len;
        from = at;
    }
    out.push_str(&s[from..]);
    out.push('"');
}

/// Appends an integer in decimal.
pub fn push_integer(out: &mut String, i: i64) {
    use std::fmt::Write as _;
    write!(out, "{i}").expect("invariant: writing to a String does not fail");
}

/// Appends a finite real in the exact form: the reference's digits, and `.0` where they carry
/// neither `.` nor exponent, so that a real is never taken for an integer.
pub fn push_real_exact(out: &mut String, r: f64) {
    let from = out.len();
    push_real_reference(out, r);
    if !out[from..].contains(['.', 'e']) {
        out.push_str(".0");
    }
}

/// Appends a finite double in the reference form: shortest round-trip digits, plain decimal for
/// 1e-6 ≤ |r| < 1e21, else an exponent with sign and without zero padding; `1.0` is `1`, `-0.0` is `-0`.
pub fn push_real_reference(out: &mut String, r: f64) {
    use std::fmt::Write as _;
    let magnitude = r.abs();
    if magnitude == 0.0 {
        out.push_str(if r.is_sign_negative() { "-0" } else { "0" });
    } else if (1e-6..1e21).contains(&magnitude) {
        write!(out, "{r}").expect("invariant: writing to a String does not fail");
    } else {
        let from = out.len();
        write!(out, "{r:e}").expect("invariant: writing to a String does not fail");
        if let Some(e) = out[from..].find('e').map(|e| from + e)
            && !out[e + 1..].starts_with('-')
        {
            out.insert(e + 1, '+');
        }
    }
}

/// Appends two lowercase hex digits.
pub fn push_hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(r: f64) -> String {
        let mut out = String::new();
        push_real_reference(&mut out, r);
        out
    }

    fn exact(r: f64) -> String {
        let mut out = String::new();
        push_real_exact(&mut out, r);
        out
    }

    fn string(s: &str, e: Escapes) -> String {
        let mut out = String::new();
        push_string(&mut out, s, e);
        out
    }

    /// The number vectors of reference-client §0.
    #[test]
    fn reference_numbers() {
        for (r, expected) in [
            (1.0, "1"),
            (1e2, "100"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (123_456_789_012_345_678_901_234_567_890.0, "1.2345678901234568e+29"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (0.000_001_234, "0.000001234"),
            (9_007_199_254_740_993_i64 as f64, "9007199254740992"),
            (i64::MAX as f64, "9223372036854776000"),
            (5e-324, "5e-324"),
            (1.234_567_890_123_456_9e23, "1.2345678901234569e+23"),
        ] {
            assert_eq!(reference(r), expected);
        }
    }

    #[test]
    fn exact_reals_never_look_like_integers() {
        for (r, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1.5, "1.5"),
            (1e20, "100000000000000000000.0"),
            (1e21, "1e+21"),
            (1e-7, "1e-7"),
        ] {
            assert_eq!(exact(r), expected);
        }
    }

    #[test]
    fn strings() {
        assert_eq!(
            string("a\"\\\u{8}\u{c}\n\r\t\u{1}/\u{7f}é", Escapes::Minimal),
            "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001/\u{7f}é\""
        );
        assert_eq!(
            string("<&>\u{2028}\u{2029}\u{2027}", Escapes::Html),
            "\"\\u003c\\u0026\\u003e\\u2028\\u2029\u{2027}\""
        );
        assert_eq!(string("<&>\u{2028}", Escapes::Minimal), "\"<&>\u{2028}\"");
    }

    proptest! {
        #[test]
        fn reals_round_trip(bits in any::<u64>()) {
            let r = f64::from_bits(bits);
            prop_assume!(r.is_finite());
            prop_assert_eq!(exact(r).parse::<f64>().unwrap().to_bits(), r.to_bits());
            let back: f64 = serde_json::from_str(&exact(r)).unwrap();
            prop_assert_eq!(back.to_bits(), r.to_bits());
            let back: f64 = reference(r).parse().unwrap();
            prop_assert_eq!(back.to_bits(), r.to_bits());
        }

        #[test]
        fn strings_round_trip(s in any::<String>()) {
            for e in [Escapes::Minimal, Escapes::Html] {
                prop_assert_eq!(serde_json::from_str::<String>(&string(&s, e)).unwrap(), s.clone());
            }
        }
    }
}
