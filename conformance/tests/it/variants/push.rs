//! Broken connects and pushes.

use super::edits::*;
use super::*;

pub(super) fn connect() -> Vec<Variant> {
    vec![
        reply("connect-remote-as-empty", "connect", |q, r, _| {
            if q.is("POST", "/sync/connect") {
                set(r, "/resolution", |v| if v == "remote_authoritative" { json!("initialize_empty") } else { v });
            }
        }),
        reply("connect-lease-without-id", "connect", |q, r, _| {
            if q.is("POST", "/sync/connect") {
                drop_member(r, "initialization_id");
            }
        }),
        reply("connect-new-id-each-time", "connect", |q, r, m| {
            if q.is("POST", "/sync/connect") {
                let n = m.next();
                set(r, "/initialization_id", |_| json!(format!("00000000-0000-4000-8000-{n:012x}")));
            }
        }),
        reply("connect-later-as-error", "connect", |q, r, _| {
            if q.is("POST", "/sync/connect") && r.value().is_some_and(|v| v["resolution"] == "retry_later") {
                *r = error(409, "scope_initializing");
            }
        }),
        reply("connect-lease-in-the-past", "connect", |q, r, _| {
            if q.is("POST", "/sync/connect") {
                set(r, "/lease_expires_at", |_| json!("2020-01-01T00:00:00Z"));
            }
        }),
        request("connect-ignores-pending-rows", "connect", |q, _, _| {
            if q.is("POST", "/sync/connect") {
                q.edit(|v| v["has_local_pending_rows"] = json!(false));
            }
            None
        }),
        request("connect-takes-anything", "connect", |q, _, _| {
            if q.is("POST", "/sync/connect") && serde_json::from_slice::<Value>(&q.body).is_err() {
                q.body = b"{}".to_vec();
            }
            None
        }),
    ]
}

pub(super) fn push() -> Vec<Variant> {
    vec![
        reply("create-other-status", "push.create", |q, r, _| {
            if q.is("POST", "/sync/push-sessions") {
                set(r, "/status", |v| if v == "staging" { json!("open") } else { v });
            }
        }),
        reply("create-planned-off-by-one", "push.create", |q, r, _| {
            if q.is("POST", "/sync/push-sessions") {
                add(r, "/planned_row_count", 1);
            }
        }),
        reply("create-already-committed-elsewhere", "push.already_committed", |q, r, _| {
            if q.is("POST", "/sync/push-sessions") {
                add(r, "/bundle_seq", 1);
            }
        }),
        reply("create-takes-zero", "push.create", |q, r, _| {
            if q.is("POST", "/sync/push-sessions") && r.code() == "push_session_invalid" {
                *r = staging();
            }
        }),
        reply("create-takes-any-sequence", "push.sequence", |q, r, _| {
            if r.code() == "source_sequence_out_of_order" && q.is("POST", "/sync/push-sessions") {
                *r = staging();
            }
        }),
        reply("create-before-initialization", "push.create", |q, r, _| {
            if r.code() == "scope_uninitialized" && q.is("POST", "/sync/push-sessions") {
                *r = staging();
            }
        }),
        request("create-keeps-the-old-session", "push.create", |q, m, server| {
            // The tuple's first session is given out again.
            if !q.is("POST", "/sync/push-sessions") {
                return None;
            }
            let key = format!("{} {}", q.header("authorization"), String::from_utf8_lossy(&q.body));
            if let Some(old) = m.get(&key) {
                return Some(Reply::json(200, &serde_json::from_str(&old).unwrap()));
            }
            let reply = ask(q, server);
            if reply.status == 200 {
                m.put(&key, &String::from_utf8_lossy(&reply.body));
            }
            Some(reply)
        }),
        reply("chunk-next-off-by-one", "push.chunk", |q, r, _| {
            if q.is("POST", CHUNK) {
                add(r, "/next_expected_row_ordinal", 1);
            }
        }),
        reply("chunk-out-of-order-taken", "push.chunk", |q, r, _| {
            if q.is("POST", CHUNK) && r.code() == "push_chunk_out_of_order" {
                *r = Reply::json(200, &json!({"push_id": q.id(), "next_expected_row_ordinal": 1}));
            }
        }),
        reply("chunk-invalid-as-500", "push.refused", |q, r, _| {
            if q.is("POST", CHUNK) && r.status == 400 {
                *r = error(500, "push_chunk_failed");
            }
        }),
        reply("chunk-unknown-table-taken", "push.refused", |q, r, _| {
            if q.is("POST", CHUNK) && String::from_utf8_lossy(&q.body).contains("no_such_table") && r.status == 400 {
                *r = Reply::json(200, &json!({"push_id": q.id(), "next_expected_row_ordinal": 1}));
            }
        }),
        request("chunk-hidden-column-taken", "push.refused", |q, _, _| {
            each_row(q, |row| {
                if let Some(p) = row["payload"].as_object_mut() {
                    p.retain(|n, _| !n.starts_with("_sync_"));
                }
            });
            None
        }),
        request("chunk-delete-payload-taken", "push.refused", |q, _, _| {
            each_row(q, |row| {
                if row["op"] == "DELETE" {
                    row.as_object_mut().unwrap().remove("payload");
                }
            });
            None
        }),
        request("chunk-lowercases-uuids", "push.refused", |q, _, _| {
            if q.is("POST", CHUNK) {
                let text = String::from_utf8_lossy(&q.body)
                    .replace("6DF0D8DD-A84B-43B6-BBCA-8DE70432922A", "6df0d8dd-a84b-43b6-bbca-8de70432922a");
                q.body = text.into_bytes();
            }
            None
        }),
        request("chunk-keeps-the-last-of-duplicates", "push.refused", |q, _, _| {
            if q.is("POST", CHUNK) {
                q.edit(|v| {
                    if let Some(rows) = v.pointer_mut("/rows").and_then(Value::as_array_mut) {
                        let mut seen = Vec::new();
                        for row in rows.iter_mut() {
                            if seen.contains(&row["key"]) {
                                row["key"] = json!({"id": format!("other-{}", seen.len())});
                                row["payload"]["id"] = row["key"]["id"].clone();
                            }
                            seen.push(row["key"].clone());
                        }
                    }
                });
            }
            None
        }),
        request("sessions-belong-to-everybody", "push.chunk", owner),
        request("commits-of-everybody", "push.commit", owner),
        request("deletes-of-everybody", "push.delete", owner),
        reply("delete-answers-200", "push.delete", |q, r, _| {
            if q.is("DELETE", "/sync/push-sessions/{}") && r.status == 204 {
                *r = Reply::json(200, &json!({}));
            }
        }),
        request("delete-does-nothing", "push.delete", |q, _, _| {
            q.is("DELETE", "/sync/push-sessions/{}").then(|| Reply { status: 204, ..Reply::default() })
        }),
    ]
}
