//! The wire forms of every pairing of storage class and column, and that exact is exact.

use super::*;
use crate::testing::value;
use proptest::prelude::*;

fn column(name: &str, declared: &str, uuid: bool) -> Column {
    Column {
        name: name.into(),
        sql_name: name.into(),
        declared: declared.into(),
        affinity: Affinity::of(declared),
        blob: declared.to_ascii_uppercase().contains("BLOB"),
        uuid,
        not_null: false,
    }
}

fn table() -> Table {
    Table {
        name: "t".into(),
        sql_name: "t".into(),
        columns: vec![
            column("id", "TEXT", false),
            column("i", "INTEGER", false),
            column("r", "REAL", false),
            column("s", "TEXT", false),
            column("b", "BLOB", false),
            column("u", "BLOB", true),
            column("n", "NUMERIC", false),
            column("x", "", false),
        ],
        key: vec![0],
        foreign_keys: vec![],
        uniques: vec![],
        primary_key: true,
        without_rowid: false,
        strict: false,
        sql: String::new(),
    }
}

fn written(column: &str, value: &Value, form: Form) -> String {
    let t = table();
    let mut out = String::new();
    push_value(&mut out, &t.columns[t.column(column).unwrap()], value, form);
    out
}

#[test]
fn every_pairing() {
    let uuid = Value::Blob((0..16).collect());
    let blob = Value::Blob(vec![0, 1, 2, 255]);
    let text = Value::Text("<é>".into());
    let inf = Value::Real(f64::NEG_INFINITY);
    for (column, value, exact, plain) in [
        ("s", &Value::Null, "null", "null"),
        ("i", &Value::Integer(9_007_199_254_740_993), "9007199254740993", "9007199254740993"),
        ("r", &Value::Real(1.0), "1.0", "1.0"),
        ("r", &inf, "\"-Infinity\"", "\"-Infinity\""),
        ("x", &inf, "{\"$real\":\"-Infinity\"}", "\"-Infinity\""),
        ("s", &text, "\"<é>\"", "\"<é>\""),
        ("i", &text, "\"<é>\"", "\"<é>\""),
        ("r", &text, "{\"$text\":\"<é>\"}", "\"<é>\""),
        ("b", &text, "{\"$text\":\"<é>\"}", "\"PMOpPg==\""),
        ("b", &blob, "\"AAEC/w==\"", "\"AAEC/w==\""),
        ("b", &uuid, "\"AAECAwQFBgcICQoLDA0ODw==\"", "\"AAECAwQFBgcICQoLDA0ODw==\""),
        ("u", &uuid, "\"00010203-0405-0607-0809-0a0b0c0d0e0f\"", "\"00010203-0405-0607-0809-0a0b0c0d0e0f\""),
        ("u", &blob, "\"AAEC/w==\"", "\"AAEC/w==\""),
        ("s", &blob, "{\"$blob\":\"AAEC/w==\"}", "\"AAEC/w==\""),
        ("x", &blob, "{\"$blob\":\"AAEC/w==\"}", "\"AAEC/w==\""),
    ] {
        assert_eq!(written(column, value, Form::Exact), exact, "{column} {value:?}");
        assert_eq!(written(column, value, Form::Plain), plain, "{column} {value:?}");
    }
    assert_eq!(written("i", &Value::Integer(9_007_199_254_740_993), Form::Reference), "9007199254740992");
    assert_eq!(written("i", &Value::Integer(9_007_199_254_740_993), Form::Foreign), "\"9007199254740993\"");
    assert_eq!(written("i", &Value::Integer(-9_007_199_254_740_992), Form::Foreign), "-9007199254740992");
    assert_eq!(written("s", &text, Form::Reference), "\"\\u003cé\\u003e\"");
    assert_eq!(written("r", &Value::Real(1.0), Form::Reference), "1");
}

#[test]
fn liberal_reading() {
    let t = table();
    let read = |column: &str, scalar: Scalar| decode_value(&t, &t.columns[t.column(column).unwrap()], &scalar);
    let text = |s: &str| Scalar::Text(s.into());
    assert_eq!(read("i", Scalar::Bool(true)), Ok(Value::Integer(1)));
    assert_eq!(read("i", text("42")), Ok(Value::Integer(42)));
    assert_eq!(read("n", text("-7")), Ok(Value::Integer(-7)));
    assert_eq!(read("i", text("042")), Ok(Value::Text("042".into())));
    assert_eq!(read("s", text("42")), Ok(Value::Text("42".into())));
    assert_eq!(read("r", Scalar::Integer(5)), Ok(Value::Real(5.0)));
    assert_eq!(read("u", text("AAEC/w==")), Ok(Value::Blob(vec![0, 1, 2, 255])));
    assert!(matches!(read("b", text("not base64")), Err(WireError::Base64(..))));
    assert!(matches!(read("s", Scalar::Nested), Err(WireError::Nested(..))));
    assert!(matches!(read("x", Scalar::TaggedReal("nan".into())), Err(WireError::TaggedReal(..))));
}

#[test]
fn keys() {
    let mut t = table();
    let key = |t: &Table, text: &str| decode_key(t, &crate::json::from_slice(text.as_bytes()).unwrap());
    assert_eq!(key(&t, r#"{"id":"a","more":1}"#), Ok(vec![Value::Text("a".into())]));
    assert_eq!(key(&t, "{}"), Err(WireError::KeyMissing("t".into(), "id".into())));
    assert_eq!(key(&t, r#"{"id":1}"#), Err(WireError::KeyNotString("t".into(), "id".into())));
    t.key = vec![5, 1];
    let uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f";
    let expected = vec![Value::Blob((0..16).collect()), Value::Integer(-42)];
    assert_eq!(key(&t, &format!(r#"{{"u":"{uuid}","i":"-42"}}"#)), Ok(expected.clone()));
    for bad in ["00010203-0405-0607-0809-0A0B0C0D0E0F", "000102030405060708090a0b0c0d0e0f", ""] {
        assert!(matches!(key(&t, &format!(r#"{{"u":"{bad}","i":"1"}}"#)), Err(WireError::KeyNotUuid(..))));
    }
    for bad in ["+1", "01", "-0", "1.0", "9223372036854775808", ""] {
        assert!(matches!(key(&t, &format!(r#"{{"u":"{uuid}","i":"{bad}"}}"#)), Err(WireError::KeyNotInteger(..))));
    }
    let mut out = String::new();
    push_key(&mut out, &t, &expected, Form::Exact);
    assert_eq!(out, format!(r#"{{"i":"-42","u":"{uuid}"}}"#));
}

#[test]
fn payloads_agree_with_their_key() {
    let t = table();
    let key = [Value::Text("a".into())];
    let read = |text: &str| decode_payload(&t, &key, &crate::json::from_slice(text.as_bytes()).unwrap());
    let p = read(r#"{"i":1,"later":2}"#).unwrap();
    assert_eq!(p.values[0], Some(Value::Text("a".into())));
    assert_eq!(p.values[2], None);
    assert_eq!(p.unknown, ["later"]);
    assert!(matches!(read(r#"{"id":"b"}"#), Err(WireError::KeyMismatch(..))));
    assert!(matches!(read(r#"{"_SYNC_scope_id":"b"}"#), Err(WireError::Hidden(..))));
}

proptest! {
    /// What is written in the exact view is read back as it was, in every column. A column turns
    /// some values into others when they are stored; those pairings cannot occur in a file.
    #[test]
    fn exact_is_exact(v in value(), column in 1usize..8) {
        let t = table();
        let c = &t.columns[column];
        let cannot_occur = match (&v, c.affinity) {
            (Value::Integer(_), Affinity::Real | Affinity::Text) => true,
            (Value::Text(s), Affinity::Integer | Affinity::Numeric) => canonical_integer(s).is_some(),
            _ => false,
        };
        prop_assume!(!cannot_occur);
        let mut text = String::new();
        push_value(&mut text, c, &v, Form::Exact);
        let scalar: Scalar = crate::json::from_slice(text.as_bytes()).unwrap();
        prop_assert_eq!(decode_value(&t, c, &scalar).unwrap(), v, "{}", text);
    }
}

#[test]
fn members_are_written_as_they_were_read() {
    let text = r#"{"b":1.0,"a":{"$blob":"AA=="},"d":9007199254740993,"c":"<x>","e":true,"f":null}"#;
    let m = crate::json::from_slice(text.as_bytes()).unwrap();
    let mut out = String::new();
    push_members(&mut out, &m, Form::Exact);
    assert_eq!(out, r#"{"a":{"$blob":"AA=="},"b":1.0,"c":"<x>","d":9007199254740993,"e":true,"f":null}"#);
    out.clear();
    let m = crate::json::from_slice(br#"{"d":9007199254740993,"c":"<x>"}"#).unwrap();
    push_members(&mut out, &m, Form::Reference);
    assert_eq!(out, r#"{"c":"\u003cx\u003e","d":9007199254740992}"#);
}
