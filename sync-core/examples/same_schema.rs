//! Whether our schema of StatsAI's batches judges as another one does: every batch of a directory, and thousands of
//! mutations. It ends with 1 at the first on which they disagree.
//!
//! `same_schema DIR`, where `DIR` has `statsai_sync_batch.v1.schema.json`, and batches in `statsai_*.json`, either alone
//! or as the member `body`. `.ci/ingest DIR` runs it.

use std::error::Error;
use std::path::{Path, PathBuf};

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

/// What is put in each place.
fn others() -> Vec<Value> {
    vec![
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
    ]
}

/// What both schemas said.
struct Judge<'a> {
    ours: &'a Schema,
    reference: &'a Schema,
    judged: u32,
    refused: u32,
}

impl Judge<'_> {
    fn judge(&mut self, document: &Value, what: &str) -> Result<(), String> {
        let ours = self.ours.check(document, 1).is_ok();
        if ours != self.reference.check(document, 1).is_ok() {
            return Err(format!(
                "{what}: our schema {} it, the other does not",
                if ours { "takes" } else { "refuses" }
            ));
        }
        self.judged += 1;
        self.refused += u32::from(!ours);
        Ok(())
    }

    /// Each place of a batch without what is there, and with something else.
    fn mutations(&mut self, batch: &Value, name: &str) -> Result<(), String> {
        let mut all = Vec::new();
        places(batch, "", &mut all);
        for place in &all {
            if let Some(changed) = without(batch, place) {
                self.judge(&changed, &format!("{name} without {place}"))?;
            }
            for other in others() {
                let mut changed = batch.clone();
                let what = format!("{name} with {other} at {place}");
                if let Some(there) = changed.pointer_mut(place) {
                    *there = other;
                }
                self.judge(&changed, &what)?;
            }
        }
        Ok(())
    }

    /// Members that no batch of these has, in the first record of each kind.
    fn further_members(&mut self, batch: &Value, name: &str) -> Result<(), String> {
        for (kind, known) in self.ours.document()["properties"].as_object().into_iter().flatten() {
            let Some(definition) = known["items"]["$ref"].as_str() else { continue };
            let record = self.ours.document().pointer(&definition[1..]).and_then(|d| d["properties"].as_object());
            for member in record.into_iter().flatten().map(|(m, _)| m).filter(|_| batch[kind].get(0).is_some()) {
                for other in others() {
                    let mut changed = batch.clone();
                    let what = format!("{name} with {other} as {kind} {member}");
                    changed[kind][0][member] = other;
                    self.judge(&changed, &what)?;
                }
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: same_schema DIR")?);
    let reference = Schema::new(&read(&dir.join("statsai_sync_batch.v1.schema.json"))?)?;
    let contract = Contract::statsai();
    let mut judge = Judge { ours: &contract.versions[0].schema, reference: &reference, judged: 0, refused: 0 };
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("statsai_") || !name.ends_with(".json") || name.ends_with(".schema.json") {
            continue;
        }
        let document: Value = serde_json::from_str(&read(&path)?)?;
        let batch = document.get("body").unwrap_or(&document);
        judge.judge(batch, &name)?;
        if batch.get("schema_version") == Some(&json!("sync_batch.v1")) {
            judge.mutations(batch, &name)?;
            judge.further_members(batch, &name)?;
        }
    }
    println!("{} documents, {} refused by both", judge.judged, judge.refused);
    if judge.refused < 1000 || judge.judged - judge.refused < 1000 {
        return Err("too few of a kind to say that both judge alike".into());
    }
    Ok(())
}
