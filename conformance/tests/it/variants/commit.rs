//! Broken commits, and bundles that are not what was pushed.

use super::edits::*;
use super::*;

pub(super) fn commit() -> Vec<Variant> {
    vec![
        request("commit-upper-case-erases", "push.commit.upper_case_member", |q, _, _| {
            each_row(q, |row| {
                if let Some(p) = row["payload"].as_object_mut() {
                    let upper: Vec<String> = p.keys().filter(|n| n.chars().any(char::is_uppercase)).cloned().collect();
                    for name in upper {
                        p.remove(&name);
                        p.insert(name.to_lowercase(), json!(""));
                    }
                }
            });
            None
        }),
        request("commit-delete-with-null-refused", "push.commit.delete_null", |q, _, _| {
            let null = |row: &Value| row["op"] == "DELETE" && row.get("payload").is_some_and(Value::is_null);
            let refused = q.is("POST", CHUNK)
                && serde_json::from_slice::<Value>(&q.body)
                    .is_ok_and(|v| v["rows"].as_array().is_some_and(|rows| rows.iter().any(null)));
            refused.then(|| error(400, "push_chunk_invalid"))
        }),
        reply("commit-sequence-off-by-one", "push.commit", |q, r, _| {
            if q.is("POST", COMMIT) {
                add(r, "/bundle_seq", 1);
            }
        }),
        reply("commit-stale-version-taken", "push.commit", |q, r, _| {
            if q.is("POST", COMMIT) && r.code() == "push_conflict" {
                *r = committed();
            }
        }),
        reply("commit-conflict-without-row", "push.commit", |q, r, _| {
            if q.is("POST", COMMIT) {
                set(r, "/conflict/server_row", |_| Value::Null);
            }
        }),
        reply("commit-conflict-without-version", "push.commit", |q, r, _| {
            if q.is("POST", COMMIT) {
                set(r, "/conflict/server_row_version", |_| json!(0));
            }
        }),
        reply("commit-conflict-deleted-flipped", "push.commit", |q, r, _| {
            if q.is("POST", COMMIT) {
                set(r, "/conflict/server_row_deleted", |v| json!(v != json!(true)));
            }
        }),
        reply("commit-conflict-shows-hidden-column", "push.commit", |q, r, _| {
            if q.is("POST", COMMIT) && r.value().is_some_and(|v| v["conflict"]["server_row"].is_object()) {
                r.edit(|v| v["conflict"]["server_row"]["_sync_scope_id"] = json!("somebody"));
            }
        }),
        reply("commit-incomplete-taken", "push.commit", |q, r, _| {
            if q.is("POST", COMMIT) && r.code() == "push_commit_invalid" {
                *r = committed();
            }
        }),
        reply("commit-again-taken", "push.commit", |q, r, m| {
            if q.is("POST", COMMIT) {
                if r.status == 200 {
                    m.put(&q.id(), &String::from_utf8_lossy(&r.body));
                } else if let Some(first) = m.get(&q.id()) {
                    *r = Reply::json(200, &serde_json::from_str(&first).unwrap());
                }
            }
        }),
        request("commit-ends-the-session", "push.commit", |q, _, server| {
            // A commit that is refused deletes its session.
            if !q.is("POST", COMMIT) {
                return None;
            }
            let reply = ask(q, server);
            if reply.status != 200 {
                let path = q.path.trim_end_matches("/commit").to_owned();
                ask(&Request { method: "DELETE".to_owned(), path, ..q.clone() }, server);
            }
            Some(reply)
        }),
        reply("rejected-as-500", "push.rejected", |q, r, _| {
            if q.is("POST", COMMIT) && r.status == 422 {
                *r = error(500, "push_session_commit_failed");
            }
        }),
        reply("rejected-names-another-row", "push.rejected", |q, r, _| {
            if q.is("POST", COMMIT) {
                add(r, "/rejections/0/row_ordinal", 1);
            }
        }),
        request("rejected-unknown-column-dropped", "push.rejected", |q, _, _| {
            each_row(q, |row| {
                if let Some(p) = row["payload"].as_object_mut() {
                    p.remove("no_such_column");
                }
            });
            None
        }),
        request("rejected-row-skipped", "push.rejected", |q, _, _| {
            // The bad row becomes a good one.
            each_row(q, |row| {
                if row["payload"]["stars"] == json!(-1) {
                    row["payload"]["stars"] = json!(1);
                }
            });
            None
        }),
        request("update-clears-what-was-not-sent", "push.commit", |q, _, _| {
            each_row(q, |row| {
                if row["op"] == "UPDATE" && row["table"] == "notes" && row["payload"].get("body").is_none() {
                    row["payload"]["body"] = Value::Null;
                }
            });
            None
        }),
        reply("effects-leave-cascades-out", "push.effects", |q, r, _| {
            if q.is("GET", ROWS) {
                r.edit(|v| {
                    let rows = v.pointer_mut("/rows").and_then(Value::as_array_mut);
                    if let Some(rows) = rows {
                        rows.retain(|r| !(r["op"] == "DELETE" && r["table"] == "file_reviews"));
                    }
                });
            }
        }),
        reply("effects-in-key-order", "push.effects", |q, r, _| {
            if q.is("GET", ROWS) {
                r.edit(|v| {
                    if let Some(rows) = v.pointer_mut("/rows").and_then(Value::as_array_mut) {
                        rows.sort_by_key(|r| r["key"].to_string());
                    }
                });
            }
        }),
    ]
}
