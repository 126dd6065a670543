//! Our server's replies as a server of the June dialect would give them: none of our additions, and integers that went
//! through doubles. The tests of the client put it between both ends, and so does the simulator.

use serde_json::Value as Json;
use sync_core::canonical::push_real_reference;
use sync_core::wire::DOUBLE_HOLDS;

/// Takes away what our server adds to a reply.
pub fn plain(reply: &mut Json) {
    if let Some(features) = reply.get_mut("features").and_then(Json::as_object_mut) {
        features.retain(|name, _| matches!(name.as_str(), "connect_lifecycle" | "bundle_change_watch"));
    }
    if let Some(limits) = reply.get_mut("bundle_limits").and_then(Json::as_object_mut) {
        limits.retain(|name, _| LIMITS.contains(&name.as_str()));
    }
    for spec in list(reply, "registered_table_specs") {
        spec.as_object_mut().map(|s| s.remove("columns"));
    }
    if let Some(all) = reply.as_object_mut() {
        all.retain(|name, _| !ADDITIONS.contains(&name.as_str()));
    }
    for bundle in bundles_of(reply) {
        bundle.as_object_mut().map(|b| b.remove("history_hash"));
    }
}

/// The bundles of a page.
pub fn bundles_of(page: &mut Json) -> impl Iterator<Item = &mut Json> {
    list(page, "bundles")
}

/// The rows of a bundle, a page or a request.
pub fn rows_of(value: &mut Json) -> impl Iterator<Item = &mut Json> {
    list(value, "rows")
}

fn list<'a>(value: &'a mut Json, name: &str) -> impl Iterator<Item = &'a mut Json> + use<'a> {
    value.get_mut(name).and_then(Json::as_array_mut).into_iter().flatten()
}

/// Puts the integers of a row through doubles. The `sha256` hash of a bundle is of doubles already: it stays as it is.
///
/// # Panics
/// Never: what a double prints is a number.
pub fn round(row: &mut Json) {
    for value in row.get_mut("payload").and_then(Json::as_object_mut).into_iter().flat_map(|p| p.values_mut()) {
        if let Some(i) = value.as_i64().filter(|i| i.unsigned_abs() > DOUBLE_HOLDS) {
            let mut text = String::new();
            push_real_reference(&mut text, i as f64);
            *value = serde_json::from_str(&text).expect("invariant: a number");
        }
    }
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
    use serde_json::json;

    use super::*;

    #[test]
    fn additions_go_and_integers_are_rounded() {
        let row = json!({"schema": "main", "table": "people", "key": {"id": "p"}, "op": "INSERT", "row_version": 1,
            "payload": {"id": "p", "age": 9_007_199_254_740_993_i64, "n": 7}});
        let bundle = json!({"bundle_seq": 1, "history_hash": "h", "rows": [row]});
        let mut page = json!({"scope_id": "s", "stable_bundle_seq": 1, "bundles": [bundle],
            "features": {"connect_lifecycle": true, "digest": true}});
        plain(&mut page);
        bundles_of(&mut page).for_each(|b| rows_of(b).for_each(round));
        let payload = &page["bundles"][0]["rows"][0]["payload"];
        assert_eq!((&payload["age"], &payload["n"]), (&json!(9_007_199_254_740_992_i64), &json!(7)));
        assert_eq!(page["features"], json!({"connect_lifecycle": true}));
        assert!(page.get("scope_id").is_none() && page["bundles"][0].get("history_hash").is_none());
    }
}
