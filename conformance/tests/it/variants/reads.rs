//! Broken pages, pulls and snapshots.

use super::edits::*;
use super::*;

pub(super) fn rows() -> Vec<Variant> {
    vec![
        reply("rows-next-off-by-one", "rows", |q, r, _| {
            if q.is("GET", ROWS) {
                add(r, "/next_row_ordinal", 1);
            }
        }),
        reply("rows-never-more", "rows", |q, r, _| {
            if q.is("GET", ROWS) {
                set(r, "/has_more", |_| json!(false));
            }
        }),
        request("rows-max-ignored", "rows", |q, _, _| {
            if q.is("GET", ROWS) {
                q.set_parameter("max_rows", None);
            }
            None
        }),
        request("rows-after-inclusive", "rows", |q, _, _| {
            let after = q.parameter("after_row_ordinal").and_then(|n| n.parse::<i64>().ok()).filter(|n| *n > 0);
            if let Some(after) = after.filter(|_| q.is("GET", ROWS)) {
                q.set_parameter("after_row_ordinal", Some((after - 1).to_string()));
            }
            None
        }),
        reply("rows-last-one-lost", "rows", |q, r, _| {
            if q.is("GET", ROWS) {
                r.edit(|v| {
                    if let Some(rows) = v.pointer_mut("/rows").and_then(Value::as_array_mut) {
                        rows.pop();
                    }
                });
            }
        }),
        reply("rows-unknown-is-empty", "rows", |q, r, _| {
            if q.is("GET", ROWS) && r.status == 404 {
                *r = Reply::json(200, &json!({"rows": [], "has_more": false}));
            }
        }),
        reply("rows-fault-for-an-unknown-user", "rows.unknown_user", |q, r, m| {
            let user = q.header("authorization");
            if q.is("POST", "/sync/connect") {
                m.put(user, "known");
            } else if q.is("GET", ROWS) && r.status == 404 && m.get(user).is_none() {
                *r = error(500, "committed_bundle_rows_failed");
            }
        }),
        reply("rows-version-off-by-one", "rows", |q, r, _| {
            if q.is("GET", ROWS) {
                add(r, "/rows/0/row_version", 1);
            }
        }),
        request("rows-bad-parameters-ignored", "rows", |q, _, _| {
            if q.is("GET", ROWS) && q.parameter("max_rows").is_some_and(|n| n.parse::<u32>().unwrap_or(0) == 0) {
                q.set_parameter("max_rows", None);
            }
            None
        }),
    ]
}

pub(super) fn pull() -> Vec<Variant> {
    vec![
        request("pull-unfrozen", "pull", |q, _, _| {
            if q.is("GET", "/sync/pull") {
                q.set_parameter("target_bundle_seq", None);
            }
            None
        }),
        reply("pull-stable-off-by-one", "pull", |q, r, _| {
            if q.is("GET", "/sync/pull") {
                add(r, "/stable_bundle_seq", 1);
            }
        }),
        request("pull-of-somebody-else", "pull", |q, m, _| {
            if q.is("GET", "/sync/pull") {
                m.put("somebody", q.header("authorization"));
                let token = m.get("somebody").unwrap();
                q.set_header("authorization", &token);
            }
            None
        }),
        reply("pull-other-values-than-a-snapshot", "value.everywhere", |q, r, _| {
            if q.is("GET", "/sync/pull") || q.is("GET", ROWS) {
                each_payload(r, |v| {
                    if let Some(i) = v.as_i64().filter(|i| i.unsigned_abs() > 1 << 53) {
                        *v = json!(i - 1);
                    }
                });
            }
        }),
        reply("pull-always-more", "pull", |q, r, _| {
            if q.is("GET", "/sync/pull") {
                set(r, "/has_more", |_| json!(true));
            }
        }),
        reply("pull-without-own-bundles", "pull", |q, r, _| {
            if q.is("GET", "/sync/pull") {
                let own = q.header("oversync-source-id").to_owned();
                r.edit(|v| {
                    if let Some(b) = v.pointer_mut("/bundles").and_then(Value::as_array_mut) {
                        b.retain(|b| b["source_id"] != own.as_str());
                    }
                });
            }
        }),
        reply("pull-row-lost", "pull", |q, r, _| {
            if q.is("GET", "/sync/pull") {
                r.edit(|v| {
                    if let Some(rows) =
                        v.pointer_mut("/bundles/0/rows").and_then(Value::as_array_mut).filter(|r| r.len() > 1)
                    {
                        rows.pop();
                    }
                });
            }
        }),
        reply("pull-ahead-is-empty", "pull", |q, r, _| {
            if r.code() == "checkpoint_ahead" {
                let after = q.parameter("after_bundle_seq").and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
                *r = Reply::json(200, &json!({"stable_bundle_seq": after, "bundles": [], "has_more": false}));
            }
        }),
        reply("pull-uninitialized-is-empty", "pull", |q, r, _| {
            if q.is("GET", "/sync/pull") && r.code().starts_with("scope_") {
                *r = Reply::json(200, &json!({"stable_bundle_seq": 0, "bundles": [], "has_more": false}));
            }
        }),
        request("pull-max-ignored", "pull", |q, _, _| {
            if q.is("GET", "/sync/pull") {
                q.set_parameter("max_bundles", None);
            }
            None
        }),
        reply("pull-source-lost", "pull", |q, r, _| {
            if q.is("GET", "/sync/pull") {
                set(r, "/bundles/0/source_id", |_| json!("server"));
            }
        }),
        request("pull-after-inclusive", "pull", |q, _, _| {
            let after = q.parameter("after_bundle_seq").and_then(|n| n.parse::<i64>().ok()).filter(|n| *n > 0);
            if let Some(after) = after.filter(|_| q.is("GET", "/sync/pull")) {
                q.set_parameter("after_bundle_seq", Some((after - 1).to_string()));
            }
            None
        }),
        reply("pruned-is-empty", "retention", |_, r, _| {
            if r.code() == "history_pruned" {
                *r = Reply::json(200, &json!({"stable_bundle_seq": 64, "bundles": [], "has_more": false}));
            }
        }),
    ]
}

pub(super) fn snapshot() -> Vec<Variant> {
    vec![
        request("snapshot-unfrozen", "snapshot", |q, _, server| {
            if !q.is("GET", PAGE) {
                return None;
            }
            // Each page is of a snapshot of now.
            let mut fresh =
                Request { method: "POST".to_owned(), path: "/sync/snapshot-sessions".to_owned(), ..q.clone() };
            fresh.query.clear();
            let made = ask(&fresh, server).value().unwrap_or_default();
            let mut page = q.clone();
            page.path = format!("/sync/snapshot-sessions/{}", made["snapshot_id"].as_str().unwrap_or("none"));
            let mut reply = ask(&page, server);
            let id = q.id();
            reply.edit(|v| v["snapshot_id"] = json!(id));
            Some(reply)
        }),
        reply("snapshot-row-lost", "snapshot", |q, r, _| {
            if q.is("GET", PAGE) {
                r.edit(|v| {
                    if let Some(rows) = v.pointer_mut("/rows").and_then(Value::as_array_mut) {
                        rows.pop();
                    }
                });
            }
        }),
        reply("snapshot-count-off-by-one", "snapshot", |q, r, _| {
            if q.is("POST", "/sync/snapshot-sessions") {
                add(r, "/row_count", 1);
            }
        }),
        reply("snapshot-next-is-last-ordinal", "snapshot", |q, r, _| {
            if q.is("GET", PAGE) {
                add(r, "/next_row_ordinal", -1);
            }
        }),
        reply("snapshot-version-of-now", "snapshot", |q, r, _| {
            if q.is("GET", PAGE) {
                r.edit(|v| {
                    let seq = v["snapshot_bundle_seq"].clone();
                    for row in v.pointer_mut("/rows").and_then(Value::as_array_mut).into_iter().flatten() {
                        row["row_version"] = seq.clone();
                    }
                });
            }
        }),
        request("snapshot-of-everybody", "snapshot", owner),
        request("snapshot-takes-unknown-members", "snapshot", |q, _, _| {
            if q.is("POST", "/sync/snapshot-sessions") {
                q.edit(|v| {
                    if let Some(v) = v.as_object_mut() {
                        v.retain(|n, _| n == "source_replacement");
                    }
                });
            }
            None
        }),
        request("snapshot-delete-does-nothing", "snapshot", |q, _, _| {
            q.is("DELETE", PAGE).then(|| Reply { status: 204, ..Reply::default() })
        }),
        reply("snapshot-expires-soon", "snapshot", |q, r, _| {
            if q.is("POST", "/sync/snapshot-sessions") {
                set(r, "/expires_at", |_| json!("2099-01-01T00:00:00Z"));
            }
        }),
        request("replacement-retires-nobody", "replacement", |q, _, _| {
            if q.is("POST", "/sync/snapshot-sessions")
                && String::from_utf8_lossy(&q.body).contains("previous_source_id")
            {
                q.body = b"{}".to_vec();
            }
            None
        }),
        reply("replacement-unnamed", "replacement", |_, r, _| {
            if r.code() == "source_retired" {
                drop_member(r, "replaced_by_source_id");
            }
        }),
        request("replacement-for-any-reason", "replacement", |q, _, _| {
            if q.is("POST", "/sync/snapshot-sessions") {
                q.edit(|v| {
                    if v["source_replacement"].is_object() {
                        v["source_replacement"]["reason"] = json!("source_retired");
                    }
                });
            }
            None
        }),
        request("replacement-of-anybody", "replacement", |q, _, _| {
            let previous = serde_json::from_slice::<Value>(&q.body)
                .ok()
                .and_then(|v| v["source_replacement"]["previous_source_id"].as_str().map(str::to_owned));
            if let Some(previous) = previous.filter(|p| !p.is_empty() && q.is("POST", "/sync/snapshot-sessions")) {
                q.set_header("oversync-source-id", &previous);
            }
            None
        }),
    ]
}

pub(super) fn digest() -> Vec<Variant> {
    const DIGEST: &str = "/sync/digest";
    vec![
        reply("digest-of-something-else", "digest", |q, r, _| {
            if q.is("GET", DIGEST) {
                set(r, "/ranges/0/digest", |_| json!("0".repeat(64)));
            }
        }),
        reply("digest-part-off-by-one", "digest", |q, r, _| {
            if q.is("GET", DIGEST) {
                add(r, "/ranges/0/last_row_ordinal", 1);
            }
        }),
        reply("digest-part-lost", "digest", |q, r, _| {
            if q.is("GET", DIGEST) {
                r.edit(|v| {
                    if let Some(parts) = v.pointer_mut("/ranges").and_then(Value::as_array_mut) {
                        parts.pop();
                    }
                });
            }
        }),
        reply("digest-names-another-key", "digest", |q, r, _| {
            if q.is("GET", DIGEST) {
                set(r, "/ranges/0/last_key", |_| json!({"id": "another"}));
            }
        }),
        request("digest-in-one-part", "digest", |q, _, _| {
            if q.is("GET", DIGEST) {
                q.set_parameter("max_ranges", Some("1".to_owned()));
            }
            None
        }),
        reply("digest-takes-any-table", "digest", |q, r, _| {
            if q.is("GET", DIGEST) && r.code() == "digest_invalid" {
                *r = Reply::json(200, &json!({"ranges": []}));
            }
        }),
        request("digests-of-everybody", "digest", |q, m, server| {
            if q.is("GET", DIGEST) {
                let owner = q.parameter("snapshot_id").and_then(|id| m.get(id));
                if let Some(token) = owner {
                    q.set_header("authorization", &token);
                }
                return None;
            }
            owner(q, m, server)
        }),
        reply("digest-tables-off-by-one", "digest", |q, r, _| {
            if q.is("POST", "/sync/snapshot-sessions") {
                add(r, "/tables/0/row_count", 1);
            }
        }),
    ]
}
