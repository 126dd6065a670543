//! Rows as they are on the wire, for the model: what a key object and a payload say, in either view.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use crate::model::{Row, TableDef, Val, Wrong};

/// Reads a key object.
///
/// # Errors
/// Where a member is missing or has another form.
pub(crate) fn read_key(def: &TableDef, key: &Json) -> Result<Vec<Val>, Wrong> {
    def.key
        .iter()
        .map(|c| {
            let text = key[*c].as_str().ok_or_else(|| format!("key of {}: {key}", def.name))?;
            Ok(match (def.name, def.blobs.contains(c)) {
                ("counters" | "boxes", _) => {
                    Val::Int(text.parse().map_err(|_| format!("key of {}: {text}", def.name))?)
                }
                (_, true) => Val::Blob(uuid(text).ok_or_else(|| format!("key of {}: {text}", def.name))?),
                _ => Val::Text(text.to_owned()),
            })
        })
        .collect()
}

/// Reads a payload, in either view.
///
/// # Errors
/// Where a value has no meaning.
pub(crate) fn read_row(def: &TableDef, payload: &Json) -> Result<Row, Wrong> {
    let members = payload.as_object().ok_or("a payload that is no object")?;
    members.iter().map(|(name, v)| Ok((name.as_str().into(), read_value(def, name, v)?))).collect()
}

fn read_value(def: &TableDef, column: &str, v: &Json) -> Result<Val, Wrong> {
    let (real, blob) = (def.reals.contains(&column), def.blobs.contains(&column));
    Ok(match v {
        Json::Null => Val::Null,
        Json::Bool(b) => Val::Int(i64::from(*b)),
        Json::Number(n) => match n.as_i64() {
            Some(i) if real => Val::Real((i as f64).to_bits()),
            Some(i) => Val::Int(i),
            None => Val::Real(n.as_f64().ok_or("a number")?.to_bits()),
        },
        Json::String(s) if real && s == "Infinity" => Val::Real(f64::INFINITY.to_bits()),
        Json::String(s) if real && s == "-Infinity" => Val::Real(f64::NEG_INFINITY.to_bits()),
        // Beyond what a double holds; the column makes a number of it again.
        Json::String(s) if column == "age" && s.parse::<i64>().is_ok() => Val::Int(s.parse().expect("a number")),
        Json::String(s) if blob => Val::Blob(
            uuid(s)
                .filter(|_| def.key.contains(&column))
                .map_or_else(|| STANDARD.decode(s).map_err(|e| format!("{column}: {e}")), Ok)?,
        ),
        Json::String(s) => Val::Text(s.clone()),
        Json::Object(o) => match o.iter().next() {
            Some((k, Json::String(s))) if k == "$blob" => {
                Val::Blob(STANDARD.decode(s).map_err(|e| format!("{column}: {e}"))?)
            }
            Some((k, Json::String(s))) if k == "$text" => Val::Text(s.clone()),
            Some((k, Json::String(s))) if k == "$real" => {
                Val::Real(if s.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }.to_bits())
            }
            _ => return Err(format!("{column}: {v}")),
        },
        Json::Array(_) => return Err(format!("{column}: {v}")),
    })
}

fn uuid(text: &str) -> Option<Vec<u8>> {
    let hex: String = text.split('-').collect();
    if text.len() != 36 || hex.len() != 32 {
        return None;
    }
    (0..16).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::table;
    use serde_json::json;

    #[test]
    fn values_are_read_in_both_views() {
        let people = table("people").unwrap();
        let row = read_row(
            people,
            &json!({"age": 9_007_199_254_740_993_i64, "score": 1, "photo": "AP8=", "name": {"$blob": "AA=="}}),
        )
        .unwrap();
        assert_eq!(row["age"], Val::Int(9_007_199_254_740_993));
        assert_eq!(row["score"], Val::Real(1f64.to_bits()));
        assert_eq!(row["photo"], Val::Blob(vec![0, 255]));
        assert_eq!(row["name"], Val::Blob(vec![0]));
    }
}
