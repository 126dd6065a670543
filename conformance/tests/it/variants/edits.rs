//! How requests and replies are changed.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::proxy::{Memory, Reply, Request, ask};

pub(crate) const CHUNK: &str = "/sync/push-sessions/{}/chunks";
pub(crate) const COMMIT: &str = "/sync/push-sessions/{}/commit";
pub(crate) const ROWS: &str = "/sync/committed-bundles/{}/rows";
pub(crate) const PAGE: &str = "/sync/snapshot-sessions/{}";

/// Everybody's sessions are used with their owner's token.
pub(crate) fn owner(q: &mut Request, m: &Memory, server: SocketAddr) -> Option<Reply> {
    let made = q.is("POST", "/sync/push-sessions") || q.is("POST", "/sync/snapshot-sessions");
    if made {
        let reply = ask(q, server);
        let id =
            reply.value().and_then(|v| v["push_id"].as_str().or_else(|| v["snapshot_id"].as_str()).map(str::to_owned));
        if let Some(id) = id {
            m.put(&id, q.header("authorization"));
        }
        return Some(reply);
    }
    if let Some(token) = m.get(&q.id()) {
        q.set_header("authorization", &token);
    }
    None
}

pub(crate) fn error(status: u16, code: &str) -> Reply {
    Reply::json(status, &json!({"error": code, "message": "broken on purpose"}))
}

pub(crate) fn staging() -> Reply {
    Reply::json(
        200,
        &json!({"push_id": "0000-made-up", "status": "staging", "planned_row_count": 1, "next_expected_row_ordinal": 0}),
    )
}

pub(crate) fn committed() -> Reply {
    Reply::json(
        200,
        &json!({"bundle_seq": 1, "source_id": "device-a", "source_bundle_id": 1, "row_count": 1, "bundle_hash": "0".repeat(64)}),
    )
}

pub(crate) fn set(r: &mut Reply, at: &str, f: impl FnOnce(Value) -> Value) {
    r.edit(|v| {
        if let Some(v) = v.pointer_mut(at) {
            *v = f(v.take());
        }
    });
}

pub(crate) fn add(r: &mut Reply, at: &str, n: i64) {
    set(r, at, |v| json!(v.as_i64().unwrap_or(0) + n));
}

pub(crate) fn drop_member(r: &mut Reply, name: &str) {
    r.edit(|v| {
        if let Some(v) = v.as_object_mut() {
            v.remove(name);
        }
    });
}

pub(crate) fn each_row(q: &mut Request, f: impl Fn(&mut Value)) {
    if q.is("POST", CHUNK) {
        q.edit(|v| {
            v.pointer_mut("/rows")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
                .filter(|r| r.is_object())
                .for_each(f)
        });
    }
}

/// Every payload and server row of a reply.
pub(crate) fn payloads(v: &mut Value) -> Vec<&mut Value> {
    let mut found = Vec::new();
    let Some(v) = v.as_object_mut() else { return found };
    for (name, value) in v {
        match name.as_str() {
            "rows" | "bundles" => {
                for item in value.as_array_mut().into_iter().flatten() {
                    if item.get("rows").is_some() {
                        found.extend(payloads(item));
                    } else if let Some(p) = item.get_mut("payload") {
                        found.push(p);
                    }
                }
            }
            "conflict" => found.extend(value.get_mut("server_row").filter(|r| r.is_object())),
            _ => {}
        }
    }
    found
}

pub(crate) fn each_payload(r: &mut Reply, f: impl Fn(&mut Value)) {
    r.edit(|v| {
        for p in payloads(v) {
            p.as_object_mut().into_iter().flatten().filter(|(n, _)| *n != "id").for_each(|(_, v)| f(v));
        }
    });
}
