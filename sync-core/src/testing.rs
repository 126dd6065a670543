//! Generators shared by the property tests of this crate.

use proptest::prelude::*;

use crate::value::Value;

/// Any value that SQLite can hold.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_filter("SQLite has no NaN", |f| !f.is_nan()).prop_map(Value::Real),
        any::<String>().prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
        proptest::collection::vec(any::<u8>(), 16).prop_map(Value::Blob),
    ]
}

/// A value that may be part of a key.
pub(crate) fn key_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        (-300i64..300).prop_map(Value::Integer),
        any::<String>().prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 16).prop_map(Value::Blob),
    ]
}
