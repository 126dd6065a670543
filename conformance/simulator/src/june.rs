//! A server of the June dialect: none of our additions, numbers of bundles go through doubles, and what its schema
//! refuses is a 500 without a name. It is our server, whose replies are taken apart.

use serde_json::{Value as Json, json};
use sync_core::canonical::push_real_reference;
use sync_core::hash::{Algorithm, BundleHasher, HashRow};
use sync_core::protocol::Op;
use sync_core::protocol::rows::WireRow;
use sync_core::wire::{DOUBLE_HOLDS, Form, push_members};

use crate::model::Val;
use crate::server::{Endpoint, Reply};

/// What such a server answers in place of this. `whole` is a page with the whole bundle of which these are committed
/// rows, as far as it is kept. With `names` it says what it refuses.
pub(crate) fn answer(endpoint: Endpoint, reply: Reply, whole: Option<Vec<u8>>, names: bool) -> Reply {
    let Ok(mut body) = serde_json::from_slice::<Json>(&reply.body) else { return reply };
    let mut status = reply.status;
    if endpoint == Endpoint::Commit && status == 422 && !names {
        status = 500;
        body = json!({"error": "push_session_commit_failed", "message": "failed"});
    }
    if let Some(features) = body.get_mut("features").and_then(Json::as_object_mut) {
        features.retain(|name, _| matches!(name.as_str(), "connect_lifecycle" | "bundle_change_watch"));
    }
    if let Some(limits) = body.get_mut("bundle_limits").and_then(Json::as_object_mut) {
        limits.retain(|name, _| LIMITS.contains(&name.as_str()));
    }
    for spec in body.get_mut("registered_table_specs").and_then(Json::as_array_mut).into_iter().flatten() {
        spec.as_object_mut().map(|s| s.remove("columns"));
    }
    if let Some(all) = body.as_object_mut() {
        all.retain(|name, _| !ADDITIONS.contains(&name.as_str()));
    }
    for bundle in body.get_mut("bundles").and_then(Json::as_array_mut).into_iter().flatten() {
        bundle.as_object_mut().map(|b| b.remove("history_hash"));
        rows_of(bundle).for_each(round);
        bundle["bundle_hash"] = hash(bundle).into();
    }
    if endpoint == Endpoint::CommittedRows {
        rows_of(&mut body).for_each(round);
        // The hash is of all rows, as they were sent with their bundle.
        let bundle =
            whole.and_then(|page| serde_json::from_slice::<Json>(&page).ok()).map(|mut p| p["bundles"][0].take());
        if let Some(mut bundle) = bundle.filter(|b| b.get("rows").is_some()) {
            rows_of(&mut bundle).for_each(round);
            body["bundle_hash"] = hash(&bundle).into();
        }
    }
    Reply { status, body: body.to_string().into_bytes(), ..reply }
}

/// Whether both are the same once they went through doubles.
pub(crate) fn same_rounded(a: &Val, b: &Val) -> bool {
    let double = |v: &Val| match v {
        Val::Int(i) if i.unsigned_abs() >= DOUBLE_HOLDS => Some(*i as f64),
        Val::Real(bits) => Some(f64::from_bits(*bits)),
        _ => None,
    };
    a == b || double(a).is_some_and(|a| double(b) == Some(a))
}

/// Whether a number is what a double leaves of one that the apps write.
pub(crate) fn is_rounding(v: &Val) -> bool {
    matches!(v, Val::Int(i) if i.unsigned_abs() == DOUBLE_HOLDS)
}

fn rows_of(v: &mut Json) -> impl Iterator<Item = &mut Json> {
    v.get_mut("rows").and_then(Json::as_array_mut).into_iter().flatten()
}

fn round(row: &mut Json) {
    for value in row.get_mut("payload").and_then(Json::as_object_mut).into_iter().flat_map(|p| p.values_mut()) {
        if let Some(i) = value.as_i64().filter(|i| i.unsigned_abs() > DOUBLE_HOLDS) {
            let mut text = String::new();
            push_real_reference(&mut text, i as f64);
            *value = serde_json::from_str(&text).expect("invariant: a number");
        }
    }
}

fn hash(bundle: &Json) -> String {
    let mut hasher = BundleHasher::new(Algorithm::Sha256);
    for row in bundle["rows"].as_array().into_iter().flatten() {
        let row: WireRow = serde_json::from_value(row.clone()).expect("invariant: a row of ours");
        let (mut key, mut payload) = (String::new(), String::new());
        push_members(&mut key, &row.key, Form::Reference);
        row.payload.iter().for_each(|p| push_members(&mut payload, p, Form::Reference));
        hasher.row(HashRow {
            schema: &row.schema,
            table: &row.table,
            key: &key,
            op: Op::parse(&row.op).expect("invariant: an operation of ours"),
            row_version: row.version,
            payload: row.payload.is_some().then_some(&payload),
        });
    }
    hasher.finish().hex()
}

/// What our server adds at the top of a reply.
const ADDITIONS: [&str; 7] = [
    "bundle_hash_algorithms",
    "scope_id",
    "history_hash",
    "request_hash",
    "conflicts",
    "conflicts_truncated",
    "tables",
];
const LIMITS: [&str; 3] =
    ["max_rows_per_push_chunk", "max_rows_per_snapshot_chunk", "max_rows_per_committed_bundle_chunk"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_rounded_and_hashed_as_they_are_sent() {
        let row = json!({"schema": "main", "table": "people", "key": {"id": "p"}, "op": "INSERT", "row_version": 1,
            "payload": {"id": "p", "age": 9_007_199_254_740_993_i64}});
        let page = json!({"scope_id": "s", "bundles": [{"bundle_seq": 1, "history_hash": "h", "rows": [row]}]});
        let reply = Reply { status: 200, retry_after: None, body: page.to_string().into_bytes() };
        let out: Json = serde_json::from_slice(&answer(Endpoint::Pull, reply, None, false).body).unwrap();
        assert_eq!(out["bundles"][0]["rows"][0]["payload"]["age"], 9_007_199_254_740_992_i64);
        assert!(out.get("scope_id").is_none() && out["bundles"][0].get("history_hash").is_none());
        assert_eq!(out["bundles"][0]["bundle_hash"], hash(&out["bundles"][0]));
    }

    #[test]
    fn only_what_a_double_cannot_hold_is_the_same() {
        let exact = Val::Int(9_007_199_254_740_993);
        assert!(same_rounded(&exact, &Val::Int(9_007_199_254_740_992)));
        assert!(same_rounded(&Val::Int(i64::MIN), &Val::Real((i64::MIN as f64).to_bits())));
        assert!(!same_rounded(&Val::Int(1), &Val::Int(2)) && !same_rounded(&exact, &Val::Null));
        assert!(is_rounding(&Val::Int(9_007_199_254_740_992)) && !is_rounding(&exact));
    }
}
