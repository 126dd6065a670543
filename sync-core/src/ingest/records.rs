//! Batches whose records are taken or rejected one by one, and are stored once.
//!
//! The batch itself is judged without a look at its records ([`open`]), then who sent it, and then each record
//! ([`Opened::judge`]). A reason never has a value of the record.

use std::borrow::Cow;

use serde_json::Value;

use super::contract::{Append, Contract};
use super::exact::Json;
use super::gates::Refusal;
use super::pointer::described;
use super::validate::{Schema, Violation, nanoseconds_or_utc};
use crate::json::from_slice;

/// A batch whose records were not looked at.
#[derive(Debug)]
pub struct Opened {
    /// The device that it is from, as it was sent.
    pub device: String,
    /// How many records it has.
    pub records: usize,
    version: usize,
    batch: Value,
}

/// A record that can be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its kind, by position in the contract.
    pub kind: usize,
    /// Its id, as it is compared.
    pub id: String,
    /// The producer's number of it.
    pub seq: i64,
    /// When it happened, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Canonical JSON of the members that the schema knows.
    pub payload: String,
}

/// A record that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its id as it was sent; empty where it has none that can be shown.
    pub id: String,
    /// Why: a code of the contract, or `schema:` and a pointer.
    pub reason: String,
}

/// An id as it is compared: a UUID in lower case, anything else as it is.
#[must_use]
pub fn canonical_id(id: &str) -> Cow<'_, str> {
    if id.len() == 36 && uuid::Uuid::try_parse(id).is_ok() {
        Cow::Owned(id.to_ascii_lowercase())
    } else {
        Cow::Borrowed(id)
    }
}

/// The gates decode, schema and version, for the decoded bytes of a batch.
///
/// # Errors
/// `NotJson`, `Schema`, `BadVersion`.
pub fn open(contract: &Contract, bytes: &[u8]) -> Result<Opened, Refusal> {
    let batch: Value = from_slice(bytes).map_err(|_| Refusal::NotJson)?;
    // Envelopes of all versions are told apart by one member, so the first one's schema has to say what that is.
    let first = contract.versions.first().and_then(|v| v.parts.as_ref()).ok_or(Refusal::Failed)?;
    first.envelope.check(&batch, 1).map_err(|mut found| Refusal::Schema(found.remove(0)))?;
    let text = |p: String| batch.pointer(&p).and_then(Value::as_str).unwrap_or_default();
    let said = text(contract.version_at.to_string());
    let version = contract.versions.iter().position(|v| v.takes(said)).ok_or(Refusal::BadVersion)?;
    let device = text(contract.envelope.device.to_string()).to_owned();
    let of = |kind: &str| batch.get(kind).and_then(Value::as_array).map_or(0, Vec::len);
    let records = contract.kinds.iter().map(|k| of(&k.name)).sum();
    Ok(Opened { device, records, version, batch })
}

impl Opened {
    /// Each record of it, in order.
    #[must_use]
    pub fn judge(mut self, contract: &Contract, now_ms: i64) -> Vec<Result<Sample, Rejected>> {
        let mut judged = Vec::with_capacity(self.records);
        for (kind, spec) in contract.kinds.iter().enumerate() {
            let parts = contract.versions[self.version].parts.as_ref();
            let (Some(append), Some(schema)) = (&spec.append, parts.and_then(|p| p.records.get(kind))) else {
                continue;
            };
            let records = self.batch.get_mut(&spec.name).map(Value::take);
            let Some(Value::Array(records)) = records else { continue };
            let id = spec.id.to_string();
            judged.extend(records.into_iter().map(|r| one(append, schema, (kind, &id), r, now_ms)));
        }
        judged
    }
}

fn one(
    append: &Append,
    schema: &Schema,
    (kind, at): (usize, &str),
    mut record: Value,
    now_ms: i64,
) -> Result<Sample, Rejected> {
    let id = record.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let fits = !id.is_empty() && id.chars().count() <= append.most_id;
    let id = if fits { id.to_owned() } else { String::new() };
    let because = |reason: String| Rejected { id: id.clone(), reason };
    if append.forbid.iter().any(|p| record.pointer(&p.to_string()).is_some()) {
        return Err(because(append.forbidden.clone()));
    }
    schema.check(&record, 1).map_err(|found| because(fault(&found)))?;
    keep_known(schema.document(), schema.document(), &mut record);
    let text = serde_json::to_vec(&record).unwrap_or_default();
    // The schema requires all three, so none of these is met.
    let lost = || because("schema:".into());
    let json = Json::read(&text).map_err(|_| lost())?;
    let seq = append.seq.find(&json).and_then(Json::integer).and_then(|n| i64::try_from(n).ok()).ok_or_else(lost)?;
    let at = append.time.text(&json).and_then(nanoseconds_or_utc).ok_or_else(lost)?;
    let now = i128::from(now_ms) * 1_000_000;
    let seconds = |s: u32| i128::from(s) * 1_000_000_000;
    if at < now - seconds(append.past_s) || at > now + seconds(append.future_s) {
        return Err(because(append.outside.clone()));
    }
    let at_ms = i64::try_from(at.div_euclid(1_000_000)).map_err(|_| lost())?;
    Ok(Sample { kind, id: canonical_id(&id).into_owned(), seq, at_ms, payload: json.canonical() })
}

fn fault(found: &[Violation]) -> String {
    format!("schema:{}", found.first().map_or("", |v| v.path.as_str()))
}

/// Takes away the members that a schema does not name: what is not declared is not stored.
fn keep_known(root: &Value, schema: &Value, value: &mut Value) {
    let Some(known) = described(root, schema).and_then(|s| s.get("properties")?.as_object()) else { return };
    let Some(members) = value.as_object_mut() else { return };
    members.retain(|name, _| known.contains_key(name));
    for (name, member) in members {
        keep_known(root, &known[name], member);
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Records that are stored now.
    pub accepted: u64,
    /// Records that were stored before, or came earlier in the same batch.
    pub duplicates: u64,
    /// The others, in order.
    pub rejected: Vec<Rejected>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_781_690_400_000;

    fn batch(events: &Value) -> Vec<u8> {
        json!({"schema_version": "1.0", "device_id": "d", "sent_at": "2026-06-17T10:00:00", "events": events})
            .to_string()
            .into_bytes()
    }

    fn event(change: Value) -> Value {
        let mut event = json!({"event_id": "e", "client_seq": 7, "ts": "2026-06-17T10:00:00Z", "interval_s": 60,
            "active_app": {"name": "n", "bundle_id": "b"}});
        for (name, value) in change.as_object().unwrap() {
            event[name] = value.clone();
        }
        event
    }

    fn judged(change: Value) -> Result<Sample, Rejected> {
        let contract = Contract::aexy();
        let opened = open(&contract, &batch(&json!([event(change)]))).unwrap();
        assert_eq!((opened.records, opened.device.as_str()), (1, "d"));
        opened.judge(&contract, NOW).remove(0)
    }

    #[test]
    fn the_times_that_are_taken_have_inclusive_bounds() {
        let at = |ts: &str| judged(json!({ "ts": ts }));
        for fine in ["2026-05-18T10:00:00Z", "2026-06-17T10:05:00", "2026-06-17T19:05:00+09:00"] {
            assert!(at(fine).is_ok(), "{fine}");
        }
        for outside in ["2026-05-18T09:59:59.999999999Z", "2026-06-17T10:05:00.000000001Z"] {
            assert_eq!(at(outside).unwrap_err().reason, "ts_out_of_range", "{outside}");
        }
        assert_eq!(at("yesterday").unwrap_err().reason, "schema:/ts");
    }

    #[test]
    fn records_are_rejected_with_a_place_and_stored_with_what_is_known() {
        for (change, reason) in [
            (json!({"interval_s": 0}), "schema:/interval_s"),
            (json!({"interval_s": 60.0}), "schema:/interval_s"),
            (json!({"client_seq": -1}), "schema:/client_seq"),
            (json!({"client_seq": 9_223_372_036_854_775_808_u64}), "schema:/client_seq"),
            (json!({"active_app": {"name": "n"}}), "schema:/active_app/bundle_id"),
            (json!({"input_cadence": {"key_events": 1, "keystrokes": "hunter2"}}), "schema:/input_cadence"),
            (json!({"category": null}), "server_derived_field"),
            (json!({"attribution": {}, "interval_s": 0}), "server_derived_field"),
        ] {
            let rejected = judged(change).unwrap_err();
            assert_eq!((rejected.id.as_str(), rejected.reason.as_str()), ("e", reason));
        }
        for id in [json!(""), json!("x".repeat(37)), json!(1), Value::Null] {
            let rejected = judged(json!({ "event_id": id })).unwrap_err();
            assert_eq!((rejected.id.as_str(), rejected.reason.as_str()), ("", "schema:/event_id"));
        }
        let kept = judged(json!({"foo": 1, "browser": {"url": "u", "bar": 2}, "client_seq": i64::MAX})).unwrap();
        assert_eq!((kept.seq, kept.at_ms), (i64::MAX, NOW));
        assert!(!kept.payload.contains("foo") && !kept.payload.contains("bar"), "{}", kept.payload);
        assert!(kept.payload.contains("\"url\":\"u\""));
        let contract = Contract::aexy();
        let opened = open(&contract, &batch(&json!([7, event(json!({}))]))).unwrap();
        let both = opened.judge(&contract, NOW);
        assert_eq!(both[0], Err(Rejected { id: String::new(), reason: "schema:".into() }));
        assert!(both[1].is_ok());
    }

    #[test]
    fn envelopes_and_versions() {
        let contract = Contract::aexy();
        let of = |change: &dyn Fn(&mut Value)| {
            let mut value: Value = serde_json::from_slice(&batch(&json!([{"category": 1}]))).unwrap();
            change(&mut value);
            open(&contract, value.to_string().as_bytes()).map(|o| o.records)
        };
        assert_eq!(of(&|_| {}), Ok(1));
        assert_eq!(of(&|b| b["others"] = json!([1, 2, 3])), Ok(1), "what is no kind is no record");
        for version in ["1.9", "1.", "1.0-x"] {
            assert_eq!(of(&|b| b["schema_version"] = version.into()), Ok(1));
        }
        for version in ["1", "2.0", "0.9", " 1.0"] {
            assert_eq!(of(&|b| b["schema_version"] = version.into()), Err(Refusal::BadVersion));
        }
        let at = |path: &str| Err(Refusal::Schema(Violation { path: path.into() }));
        assert_eq!(of(&|b| b["sent_at"] = "soon".into()), at("/sent_at"));
        assert_eq!(of(&|b| b["device_id"] = "".into()), at("/device_id"));
        assert_eq!(of(&|b| b["events"] = vec![0; 501].into()), at("/events"));
        assert_eq!(of(&|b| drop(b.as_object_mut().unwrap().remove("events"))), at("/events"));
        assert_eq!(open(&contract, b"{").err(), Some(Refusal::NotJson));
    }

    #[test]
    fn ids_that_are_uuids_are_compared_in_lower_case() {
        let upper = "ABCDEF00-1111-4111-8111-111111111111";
        assert_eq!(canonical_id(upper), upper.to_lowercase());
        for other in ["A", "ABCDEF001111411181111111111111110000", "ABCDEF00-1111-4111-8111-11111111111G"] {
            assert_eq!(canonical_id(other), other);
        }
        let kept = judged(json!({ "event_id": upper })).unwrap();
        assert_eq!(kept.id, upper.to_lowercase());
        assert!(kept.payload.contains(upper), "as it was sent");
    }
}
