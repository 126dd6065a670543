//! Our schema of StatsAI's batches judges as another one does: every batch of a directory, and thousands of mutations.
//!
//! `.ci/ingest DIR` runs it, where there is such a directory: `statsai_sync_batch.v1.schema.json`, and batches in
//! `statsai_*.json`, either alone or as the member `body`.
#![cfg(feature = "ingest")]

use std::path::PathBuf;

use serde_json::{Value, json};
use sync_core::ingest::contract::Contract;
use sync_core::ingest::validate::Schema;

/// Each place of a document, as a JSON Pointer.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), into)),
        Value::Object(members) => members.iter().for_each(|(n, v)| places(v, &format!("{at}/{n}"), into)),
        _ => {}
    }
}

fn without(document: &Value, place: &str) -> Option<Value> {
    let (parent, name) = place.rsplit_once('/')?;
    let mut changed = document.clone();
    match changed.pointer_mut(parent)? {
        Value::Object(members) => members.remove(name).map(drop)?,
        Value::Array(items) => drop(items.remove(name.parse().ok()?)),
        _ => return None,
    }
    Some(changed)
}

#[test]
#[ignore = "needs INGEST_REFERENCE, a directory with a schema and batches: .ci/ingest DIR"]
fn our_schema_judges_as_the_reference_does() {
    let dir = PathBuf::from(std::env::var_os("INGEST_REFERENCE").expect("INGEST_REFERENCE is set"));
    let read = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reference = Schema::new(&read(dir.join("statsai_sync_batch.v1.schema.json"))).unwrap();
    let contract = Contract::statsai();
    let ours = &contract.versions[0].schema;
    let others = [
        json!(null),
        json!(true),
        json!(""),
        json!("x"),
        json!("low"),
        json!("auto"),
        json!("unknown"),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(255),
        json!(256),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e30),
        json!([]),
        json!([null]),
        json!(["x"]),
        json!({}),
        json!({ "samples": 1 }),
        json!({ "project_id": "p" }),
        json!("2026-06-01T00:00:00Z"),
        json!("2026-06-01"),
        json!("2026-06-01T00:00:00"),
        json!("2026-06-01T00:00:00.123456789+09:00"),
    ];
    let (mut judged, mut refused) = (0, 0);
    let mut judge = |document: &Value, what: &str| {
        let (a, b) = (ours.check(document, 1).is_ok(), reference.check(document, 1).is_ok());
        assert_eq!(a, b, "{what}");
        judged += 1;
        refused += u32::from(!a);
    };
    for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("statsai_") || !name.ends_with(".json") || name.ends_with(".schema.json") {
            continue;
        }
        let document: Value = serde_json::from_str(&read(entry.path())).unwrap();
        let batch = document.get("body").unwrap_or(&document);
        judge(batch, &name);
        if batch.get("schema_version") != Some(&json!("sync_batch.v1")) {
            continue;
        }
        let mut all = Vec::new();
        places(batch, "", &mut all);
        for place in &all {
            if let Some(changed) = without(batch, place) {
                judge(&changed, &format!("{name} without {place}"));
            }
            for other in &others {
                let mut changed = batch.clone();
                *changed.pointer_mut(place).unwrap() = other.clone();
                judge(&changed, &format!("{name} with {other} at {place}"));
            }
        }
        // Members that no batch of these has.
        for (kind, known) in ours.document()["properties"].as_object().unwrap() {
            let Some(definition) = known["items"]["$ref"].as_str() else { continue };
            let record = &ours.document().pointer(&definition[1..]).unwrap()["properties"];
            for member in record.as_object().unwrap().keys().filter(|_| batch[kind].get(0).is_some()) {
                for other in &others {
                    let mut changed = batch.clone();
                    changed[kind][0][member] = other.clone();
                    judge(&changed, &format!("{name} with {other} as {kind} {member}"));
                }
            }
        }
    }
    println!("{judged} documents, {refused} refused by both");
    assert!(refused > 1000 && judged - refused > 1000, "{judged} {refused}");
}
