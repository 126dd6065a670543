//! What a backend says of itself, who may ask, how replies are dressed.

use super::edits::*;
use super::*;

pub(super) fn surface() -> Vec<Variant> {
    vec![
        reply("capabilities-feature-off", "capabilities", |q, r, _| {
            if q.is("GET", "/sync/capabilities") {
                set(r, "/features/snapshot_chunking", |_| json!(false));
            }
        }),
        reply("capabilities-table-hidden", "capabilities", |q, r, _| {
            if q.is("GET", "/sync/capabilities") {
                r.edit(|v| {
                    if let Some(t) = v.pointer_mut("/registered_tables").and_then(Value::as_array_mut) {
                        t.reverse();
                    }
                });
            }
        }),
        reply("capabilities-limit-missing", "capabilities", |q, r, _| {
            if q.is("GET", "/sync/capabilities") {
                r.edit(|v| {
                    if let Some(l) = v.pointer_mut("/bundle_limits").and_then(Value::as_object_mut) {
                        l.remove("max_rows_per_snapshot_chunk");
                    }
                });
            }
        }),
        request("auth-not-required", "auth", |q, _, _| {
            if q.header("authorization").is_empty() {
                q.set_header("authorization", "Bearer nobody");
            }
            None
        }),
        request("auth-source-made-up", "auth", |q, _, _| {
            if q.header("oversync-source-id").is_empty() {
                q.set_header("oversync-source-id", "made-up");
            }
            None
        }),
        reply("auth-plain-text-401", "auth", |_, r, _| {
            if r.status == 401 {
                *r = Reply {
                    status: 401,
                    headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
                    body: b"no".to_vec(),
                };
            }
        }),
        request("health-wants-a-token", "health", |q, _, _| {
            (q.is("GET", "/health") && q.header("authorization").is_empty())
                .then(|| error(401, "authentication_failed"))
        }),
        reply("status-without-counters", "status", |q, r, _| {
            if q.is("GET", "/status") {
                drop_member(r, "history_pruned_error_count");
            }
        }),
        reply("html-content-type", "encoding", |_, r, _| {
            for (name, value) in &mut r.headers {
                if name == "content-type" {
                    *value = "text/html".to_owned();
                }
            }
        }),
        request("encoding-gzip-refused", "encoding", |q, _, _| {
            (q.header("content-encoding") == "gzip").then(|| error(415, "unsupported_encoding"))
        }),
        reply("encoding-hostile-as-500", "encoding", |_, r, _| {
            if r.status == 400 {
                *r = error(500, "internal_error");
            }
        }),
        line("watch-never-wakes", "watch", |l| (!l.starts_with("data:") && !l.starts_with("event:")).then_some(l)),
        line("watch-wrong-sequence", "watch", |l| Some(l.replace("\"bundle_seq\":", "\"bundle_seq\":1"))),
        line("watch-other-event", "watch", |l| Some(l.replace("event: bundle", "event: change"))),
        line("watch-without-heartbeat", "watch.silent", |l| {
            if l.starts_with(':') { Some("data: {\"bundle_seq\":9}\n\n".to_owned()) } else { Some(l) }
        }),
        reply("watch-of-nothing", "watch", |q, r, _| {
            if q.is("GET", "/sync/watch") && r.status == 409 {
                *r = error(404, "not_found");
            }
        }),
    ]
}
