//! What a producer makes of records: checked and scrubbed ones, batches of them within the contract's limits, and the ids
//! of those batches.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::contract::{Contract, Kind};
use super::exact::{Json, Name};
use super::redaction::scrub;
use super::validate::Violation;

/// A record as it would leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its id.
    pub id: String,
    /// Its time for the incremental cursor, as it is written.
    pub at: Option<String>,
    /// Canonical JSON, scrubbed.
    pub payload: String,
    /// SHA-256 of the payload without the members that make no version: what a target has or has not.
    pub hash: [u8; 32],
    /// What the schema has against it: it cannot be sent like this.
    pub fault: Option<Violation>,
}

/// Why something is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRecord {
    /// Not JSON, too deep, or with a member twice.
    #[error("it is not JSON, or has a member twice, or is nested too deep")]
    NotJson,
    /// Without the text by which it is known.
    #[error("it has no id")]
    NoId,
}

/// A record with what was left out filled in, where its kind has numbers and times of its own: the number by `seq`, which
/// is asked only then, and the time. As it was where it is no JSON object. Says its number, too.
///
/// # Errors
/// Those of `seq`.
pub fn complete<E>(
    kind: &Kind,
    record: &str,
    at: Option<&str>,
    seq: impl FnOnce() -> Result<Option<i64>, E>,
) -> Result<(String, Option<i64>), E> {
    let as_is = || (record.to_owned(), None);
    let (Some(append), Ok(mut json)) = (&kind.append, Json::read(record.as_bytes())) else { return Ok(as_is()) };
    let mut changed = false;
    if let (None, Some(at)) = (append.time.find(&json), at) {
        append.time.set(&mut json, Json::Text(at.to_owned()));
        changed = true;
    }
    let mut number = append.seq.find(&json).and_then(Json::integer).and_then(|n| i64::try_from(n).ok());
    if append.seq.find(&json).is_none() {
        number = seq()?;
        if let Some(n) = number {
            append.seq.set(&mut json, Json::Number(n.to_string()));
            changed = true;
        }
    }
    // The canonical form would make an integer of 1000.0, so what is whole stays as it was written.
    Ok((if changed { json.canonical() } else { record.to_owned() }, number))
}

/// Scrubs and checks a record of a kind (by position).
///
/// # Errors
/// Where it is no record of any kind. What the schema has against it is in [`Prepared::fault`].
pub fn prepare(contract: &Contract, kind: usize, text: &[u8]) -> Result<Prepared, NoRecord> {
    let spec = &contract.kinds[kind];
    let mut record = Json::read(text).map_err(|_| NoRecord::NotJson)?;
    let id = spec.id.text(&record).filter(|id| !id.is_empty()).ok_or(NoRecord::NoId)?.to_owned();
    // Checked as it was written, since the canonical form makes an integer of 1000.0.
    let as_written: Value = serde_json::from_slice(text).map_err(|_| NoRecord::NotJson)?;
    scrub(spec, &mut record);
    let at = spec.cursor.as_ref().and_then(|p| p.text(&record)).map(str::to_owned);
    let payload = record.canonical();
    let fault = fault(contract, kind, as_written);
    for p in &spec.hash_ignore {
        p.remove(&mut record);
    }
    Ok(Prepared { id, at, payload, hash: record.digest(), fault })
}

/// The version that a producer sends.
pub const SENT: usize = 0;

fn fault(contract: &Contract, kind: usize, record: Value) -> Option<Violation> {
    let head = Head { batch_id: "b", device_id: "d", created_at: "1970-01-01T00:00:00Z" };
    let mut batch: Value = serde_json::from_str(&envelope(contract, head).canonical()).ok()?;
    let Kind { name, append, .. } = &contract.kinds[kind];
    // What a server refuses in any form is not sent first.
    let forbidden = append.iter().flat_map(|a| &a.forbid).find(|p| record.pointer(&p.to_string()).is_some());
    if let Some(p) = forbidden {
        return Some(Violation { path: p.to_string() });
    }
    batch.as_object_mut()?.insert(name.clone(), Value::Array(vec![record]));
    let mut found = contract.versions[SENT].schema.check(&batch, 1).err()?;
    let mut found = found.remove(0);
    let list = format!("/{name}/0");
    if let Some(rest) = found.path.strip_prefix(&list) {
        found.path = rest.to_owned();
    }
    Some(found)
}

/// What a batch says beside its records.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Its id.
    pub batch_id: &'a str,
    /// The device that made it.
    pub device_id: &'a str,
    /// When, in RFC 3339.
    pub created_at: &'a str,
}

fn envelope(contract: &Contract, head: Head<'_>) -> Json {
    let mut batch = Json::Object(std::collections::BTreeMap::new());
    let text = |s: &str| Json::Text(s.to_owned());
    contract.version_at.set(&mut batch, text(&contract.versions[SENT].is));
    if let Some(id) = &contract.envelope.batch {
        id.set(&mut batch, text(head.batch_id));
    }
    contract.envelope.device.set(&mut batch, text(head.device_id));
    contract.envelope.created_at.set(&mut batch, text(head.created_at));
    batch
}

/// The bytes of a batch: canonical JSON. Records are a kind (by position) and a payload of [`prepare`]; kinds without
/// records are left out. `None` where a payload is not JSON.
#[must_use]
pub fn compose<'a>(
    contract: &Contract,
    head: Head<'_>,
    records: impl IntoIterator<Item = (usize, &'a str)>,
) -> Option<String> {
    let mut lists = vec![Vec::new(); contract.kinds.len()];
    for (kind, payload) in records {
        lists[kind].push(Json::read(payload.as_bytes()).ok()?);
    }
    let Json::Object(mut members) = envelope(contract, head) else { return None };
    for (kind, list) in contract.kinds.iter().zip(lists).filter(|(_, list)| !list.is_empty()) {
        members.insert(Name(kind.name.clone()), Json::List(list));
    }
    Some(Json::Object(members).canonical())
}

/// The digest of a batch's bytes, under which it is frozen.
#[must_use]
pub fn digest(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// Bytes that a batch has beside its records, at most; ids are short.
const AROUND: u64 = 4096;

/// How many of these records, given by kind (position) and bytes of payload, make each batch, in their order.
#[must_use]
pub fn cut(contract: &Contract, records: impl IntoIterator<Item = (usize, usize)>) -> Vec<usize> {
    let limits = &contract.limits;
    let most_bytes = limits.wire_bytes.min(limits.decoded_bytes).saturating_sub(AROUND);
    let (mut cuts, mut count, mut bytes, mut metadata, mut others) = (Vec::new(), 0, 0, 0, 0);
    for (kind, size) in records {
        let size = size as u64 + 1;
        let of_metadata = contract.kinds[kind].always;
        let full = if of_metadata { metadata >= limits.metadata_per_batch } else { others >= limits.records_per_batch };
        if count > 0 && (full || bytes + size > most_bytes) {
            cuts.push(count);
            (count, bytes, metadata, others) = (0, 0, 0, 0);
        }
        count += 1;
        bytes += size;
        if of_metadata {
            metadata += 1;
        } else {
            others += 1;
        }
    }
    if count > 0 {
        cuts.push(count);
    }
    cuts
}

/// The number of a new batch: the time, in milliseconds since the Unix epoch, and never one that was given before.
#[must_use]
pub fn next_number(last: Option<i64>, now_ms: i64) -> i64 {
    last.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)))
}

/// The id of a batch.
#[must_use]
pub fn batch_id(number: i64) -> String {
    format!("batch_{number}")
}

const PART: &str = "_part_";

/// The id of part `n` (from 1) of a batch that goes in so many.
#[must_use]
pub fn part_id(whole: &str, n: usize, of: usize) -> String {
    if of == 1 { whole.to_owned() } else { format!("{whole}{PART}{n}_of_{of}") }
}

/// The id of the batch that this one is a part of.
#[must_use]
pub fn whole_id(id: &str) -> &str {
    id.split_once(PART).map_or(id, |(whole, _)| whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::gates::judge;

    const SOURCE: &str = r#"{"schema_version":"source_location.v1","source_id":"s1","provider":"codex",
        "source_kind":"local_adapter","location_origin":"default","enabled":true,"path_label":"/x",
        "created_at":"2026-06-09T12:00:00Z","updated_at":"2026-06-09T12:00:00Z"}"#;

    #[test]
    fn records_are_scrubbed_checked_and_known_by_id() {
        let c = Contract::statsai();
        let fine = prepare(&c, 0, SOURCE.as_bytes()).unwrap();
        assert_eq!((fine.id.as_str(), &fine.at, &fine.fault), ("s1", &None, &None));
        assert!(fine.payload.contains(r#""path_label":null"#), "{}", fine.payload);
        let wrong = prepare(&c, 0, SOURCE.replace("true", "\"yes\"").as_bytes()).unwrap();
        assert_eq!(wrong.fault.unwrap().path, "/enabled");
        assert_ne!(wrong.hash, fine.hash);
        assert_eq!(prepare(&c, 0, b"{}"), Err(NoRecord::NoId));
        assert_eq!(prepare(&c, 0, b"[]"), Err(NoRecord::NoId));
        assert_eq!(prepare(&c, 0, b"{\"source_id\":1}"), Err(NoRecord::NoId));
        assert_eq!(prepare(&c, 0, b"{\"a\":1,\"a\":2}"), Err(NoRecord::NotJson));
    }

    #[test]
    fn what_a_producer_composes_passes_the_gates() {
        let c = Contract::statsai();
        let source = prepare(&c, 0, SOURCE.as_bytes()).unwrap();
        let head = Head { batch_id: "batch_1", device_id: "dev_1", created_at: "2026-06-09T12:00:00Z" };
        let body = compose(&c, head, [(0, source.payload.as_str())]).unwrap();
        let batch = judge(&c, body.as_bytes()).unwrap();
        assert_eq!((batch.id.as_str(), batch.records.len()), ("batch_1", 1));
        assert_eq!(batch.records[0].payload, source.payload, "nothing is left to strip");
        let empty = compose(&c, head, []).unwrap();
        assert_eq!(judge(&c, empty.as_bytes()).unwrap().records, []);
        assert!(!empty.contains('['), "{empty}");
        assert_eq!(compose(&c, head, [(0, "{")]), None);
    }

    #[test]
    fn numbers_and_times_are_filled_in_where_they_are_left_out() {
        let c = Contract::aexy();
        let done = |record: &str| {
            let seq = || Ok::<_, ()>(Some(7));
            complete(&c.kinds[0], record, Some("2026-06-17T10:00:00Z"), seq).unwrap()
        };
        assert_eq!(done(r#"{"a":1.0}"#), (r#"{"a":1,"client_seq":7,"ts":"2026-06-17T10:00:00Z"}"#.into(), Some(7)));
        let whole = r#"{"ts":"x","client_seq":3,"interval_s":60.0}"#;
        assert_eq!(done(whole), (whole.into(), Some(3)));
        assert_eq!(done("[").1, None);
        assert_eq!(
            complete(&Contract::statsai().kinds[0], "{}", None, || Ok::<_, ()>(Some(1))),
            Ok(("{}".into(), None))
        );
        let event = r#"{"event_id":"e","client_seq":1,"ts":"2026-06-17T10:00:00Z","interval_s":60,"category":null,
            "active_app":{"name":"n","bundle_id":"b"}}"#;
        assert_eq!(prepare(&c, 0, event.as_bytes()).unwrap().fault.unwrap().path, "/category");
        assert_eq!(prepare(&c, 0, event.replace("category", "x").as_bytes()).unwrap().fault, None);
    }

    #[test]
    fn batches_are_cut_by_counts_and_bytes() {
        let c = Contract::statsai();
        let (source, event, summary) = (0, 4, 5);
        let many = |n: usize, kind: usize| std::iter::repeat_n((kind, 10), n);
        assert_eq!(cut(&c, []), [0; 0]);
        assert_eq!(cut(&c, many(20, source).chain(many(20, event)).chain(many(5, summary))), [45]);
        assert_eq!(cut(&c, many(21, source).chain(many(25, summary))), [20, 26]);
        assert_eq!(cut(&c, many(26, summary)), [25, 1]);
        let big = (summary, 5 << 20);
        assert_eq!(cut(&c, [big, big, (summary, 1), big]), [1, 2, 1]);
        assert_eq!(cut(&c, [(summary, 9 << 20), (summary, 1)]), [1, 1], "what never fits is alone");
    }

    #[test]
    fn ids_never_repeat_and_parts_have_a_whole() {
        assert_eq!(next_number(None, 5), 5);
        assert_eq!(next_number(Some(5), 5), 6);
        assert_eq!(next_number(Some(9), 5), 10);
        assert_eq!(next_number(Some(5), 9), 9);
        let id = batch_id(7);
        assert_eq!(part_id(&id, 1, 1), "batch_7");
        let part = part_id(&part_id(&id, 1, 3), 2, 2);
        assert_eq!(part, "batch_7_part_1_of_3_part_2_of_2");
        assert_eq!((whole_id(&part), whole_id(&id)), ("batch_7", "batch_7"));
    }
}
