//! JSON Pointers (RFC 6901), as declarations name members of records.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::exact::{Json, Name};

/// A pointer to a member of an object in an object: no items of arrays.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pointer(Vec<String>);

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else { return Err(format!("{text:?} is not a pointer: begin with /")) };
        Ok(Self(rest.split('/').map(|p| p.replace("~1", "/").replace("~0", "~")).collect()))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|p| write!(f, "/{}", p.replace('~', "~0").replace('/', "~1")))
    }
}

impl Pointer {
    /// What it points to in a value; `None` where there is nothing.
    #[must_use]
    pub fn find<'a>(&self, value: &'a Json) -> Option<&'a Json> {
        self.0.iter().try_fold(value, |v, name| v.member(name))
    }

    /// The text that it points to.
    #[must_use]
    pub fn text<'a>(&self, value: &'a Json) -> Option<&'a str> {
        self.find(value).and_then(Json::text)
    }

    /// Sets what it points to to null, where there is something. Says whether there was.
    pub fn clear(&self, value: &mut Json) -> bool {
        let found = self.0.iter().try_fold(value, |v, name| v.member_mut(name));
        let cleared = found.as_deref().is_some_and(|v| *v != Json::Null);
        if let Some(found) = found {
            *found = Json::Null;
        }
        cleared
    }

    /// Sets what it points to, where the object around it is there.
    pub fn set(&self, value: &mut Json, new: Json) {
        let Some((last, path)) = self.0.split_last() else { return };
        if let Some(Json::Object(parent)) = path.iter().try_fold(value, |v, name| v.member_mut(name)) {
            parent.insert(Name(last.clone()), new);
        }
    }

    /// Takes what it points to away.
    pub fn remove(&self, value: &mut Json) {
        let Some((last, path)) = self.0.split_last() else { return };
        if let Some(parent) = path.iter().try_fold(value, |v, name| v.member_mut(name)) {
            parent.remove(last);
        }
    }

    /// The part of a JSON Schema that describes what it points to; `None` where the schema does not name it.
    #[must_use]
    pub fn in_schema<'a>(&self, root: &'a Value, at: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(at, |schema, name| described(root, schema)?.get("properties")?.get(name))
    }
}

/// A schema, or what its `$ref` refers to within the document.
pub(super) fn described<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    match schema.get("$ref").and_then(Value::as_str) {
        None => Some(schema),
        Some(reference) => root.pointer(reference.strip_prefix('#')?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_clearing_removing() {
        let pointer = |s: &str| Pointer::try_from(s.to_owned()).unwrap();
        let mut value = Json::read(br#"{"a":{"b/c":1,"d":"x"},"n":null}"#).unwrap();
        assert_eq!(pointer("/a/b~1c").find(&value), Some(&Json::Number("1".into())));
        assert_eq!(pointer("/a/b~1c").to_string(), "/a/b~1c");
        assert_eq!(pointer("/a/d").text(&value), Some("x"));
        for nothing in ["/x", "/a/x", "/n/x", "/a/d/x"] {
            assert!(!pointer(nothing).clear(&mut value));
            pointer(nothing).remove(&mut value);
        }
        assert!(!pointer("/n").clear(&mut value), "null already");
        assert!(pointer("/a/d").clear(&mut value));
        pointer("/a/b~1c").remove(&mut value);
        pointer("/a/e").set(&mut value, Json::Bool(true));
        pointer("/x/e").set(&mut value, Json::Bool(true));
        pointer("/n/e").set(&mut value, Json::Bool(true));
        assert_eq!(value.canonical(), r#"{"a":{"d":null,"e":true},"n":null}"#);
        assert!(Pointer::try_from("a".to_owned()).is_err());
    }
}
