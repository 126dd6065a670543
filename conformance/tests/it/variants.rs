//! Broken backends: each breaks one behaviour of our server, and a check of that area notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sync_conformance::run::{self, Options, Verdict};

use crate::proxy::{Break, Memory, Nothing, Reply, Request, ask, proxy};
use crate::server::{Ours, subject};

type OnRequest = fn(&mut Request, &Memory, SocketAddr) -> Option<Reply>;
type OnReply = fn(&Request, &mut Reply, &Memory);
type OnLine = fn(String) -> Option<String>;

/// One broken behaviour.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    /// The only checks that are run.
    area: &'static str,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    Request(OnRequest),
    Reply(OnReply),
    Line(OnLine),
}

impl Break for Variant {
    fn request(&self, request: &mut Request, memory: &Memory, server: SocketAddr) -> Option<Reply> {
        if let How::Request(f) = self.how { f(request, memory, server) } else { None }
    }

    fn reply(&self, request: &Request, reply: &mut Reply, memory: &Memory) {
        if let How::Reply(f) = self.how {
            f(request, reply, memory);
        }
    }

    fn line(&self, line: String) -> Option<String> {
        if let How::Line(f) = self.how { f(line) } else { Some(line) }
    }
}

#[test]
fn every_broken_variant_is_caught_by_its_area() {
    let ours = Ours::start();
    let all = variants();
    let next = AtomicUsize::new(0);
    let missed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(v) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = caught(v, ours.server.addr()) {
                        missed.lock().unwrap().push(format!("{}: {why}", v.name));
                    }
                }
            });
        }
    });
    assert!(all.len() >= 40);
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "nobody noticed:\n{}", missed.join("\n"));
}

fn caught(v: &Variant, server: SocketAddr) -> Result<(), String> {
    let url = proxy(server, Arc::new(*v));
    let subject = subject(&url, v.name);
    let options = Options { filter: vec![v.area.to_owned()], ..Options::default() };
    let mut checks = options.choose();
    assert!(!checks.is_empty(), "{} is no area", v.area);
    checks.sort_by_key(|c| c.slow);
    for check in &checks {
        if let Verdict::Fail { .. } = run::one(&subject, check).verdict {
            return Ok(());
        }
    }
    Err(format!("{} checks of {} passed", checks.len(), v.area))
}

/// What a property finds is shrunk to a few requests that show it.
#[test]
fn a_failing_property_is_shrunk() {
    let ours = Ours::start();
    let lost = request("shrink", "property", |q, _, _| {
        each_row(q, |row| {
            if row["op"] == "DELETE" {
                row["key"] = json!({"id": "k0"});
            }
        });
        None
    });
    let subject = subject(&proxy(ours.server.addr(), Arc::new(lost)), "shrink");
    let check = sync_conformance::checks::all().into_iter().find(|c| c.id == "property.sources").unwrap();
    let finding = run::one(&subject, &check);
    assert!(matches!(finding.verdict, Verdict::Fail { .. }), "{:?}", finding.verdict);
    // Connect, one push of a row, one push of its deletion, and a look at what came of it.
    assert!(finding.exchanges.len() <= 14, "{} requests", finding.exchanges.len());
}

/// The proxy itself breaks nothing.
#[test]
fn the_proxy_alone_passes() {
    let ours = Ours::start();
    let url = proxy(ours.server.addr(), Arc::new(Nothing));
    let subject = subject(&url, "control");
    let findings = run::run(&subject, &Options { quick: true, ..Options::default() }, &|_| {});
    let failed: Vec<_> = findings
        .iter()
        .filter_map(|f| match &f.verdict {
            Verdict::Fail { expected, got } => Some(format!("{}: {expected}: {got}", f.check.id)),
            Verdict::Inconclusive(why) => Some(format!("{}: {why}", f.check.id)),
            _ => None,
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

const fn request(name: &'static str, area: &'static str, f: OnRequest) -> Variant {
    Variant { name, area, how: How::Request(f) }
}

const fn reply(name: &'static str, area: &'static str, f: OnReply) -> Variant {
    Variant { name, area, how: How::Reply(f) }
}

const fn line(name: &'static str, area: &'static str, f: OnLine) -> Variant {
    Variant { name, area, how: How::Line(f) }
}

const CHUNK: &str = "/sync/push-sessions/{}/chunks";
const COMMIT: &str = "/sync/push-sessions/{}/commit";
const ROWS: &str = "/sync/committed-bundles/{}/rows";
const PAGE: &str = "/sync/snapshot-sessions/{}";

fn variants() -> Vec<Variant> {
    let mut all = connect();
    all.extend(push());
    all.extend(commit());
    all.extend(rows());
    all.extend(pull());
    all.extend(snapshot());
    all.extend(surface());
    all.extend(content());
    all.extend(property());
    all
}

fn connect() -> Vec<Variant> {
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

fn push() -> Vec<Variant> {
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

fn commit() -> Vec<Variant> {
    vec![
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

fn rows() -> Vec<Variant> {
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

fn pull() -> Vec<Variant> {
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

fn snapshot() -> Vec<Variant> {
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

fn surface() -> Vec<Variant> {
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

fn content() -> Vec<Variant> {
    vec![
        reply("hash-of-something-else", "hash", |_, r, _| {
            for at in ["/bundle_hash", "/bundles/0/bundle_hash"] {
                set(r, at, |v| json!(v.as_str().unwrap_or_default().chars().rev().collect::<String>()));
            }
        }),
        reply("hash-in-upper-case", "hash", |_, r, _| {
            set(r, "/bundle_hash", |v| json!(v.as_str().unwrap_or_default().to_uppercase()))
        }),
        request("hash-always-sha256", "hash", |q, _, _| {
            q.set_header("oversync-bundle-hash", "");
            None
        }),
        reply("history-hash-of-the-bundle", "hash", |_, r, _| {
            let hash = r.value().map(|v| v["bundle_hash"].clone()).unwrap_or_default();
            set(r, "/history_hash", |_| hash);
        }),
        reply("values-through-doubles", "value", |_, r, _| {
            each_payload(r, |v| {
                if let Some(i) = v.as_i64().filter(|i| i.unsigned_abs() > 1 << 53) {
                    #[expect(clippy::cast_possible_truncation, reason = "it is what is to be broken")]
                    let rounded = i as f64 as i64;
                    *v = json!(rounded);
                }
            })
        }),
        reply("values-trimmed", "value", |_, r, _| {
            each_payload(r, |v| {
                if let Some(s) = v.as_str().map(str::trim) {
                    *v = json!(s);
                }
            })
        }),
        reply("values-escaped-twice", "value", |_, r, _| {
            each_payload(r, |v| {
                if let Some(s) = v.as_str().map(|s| s.replace('<', "&lt;")) {
                    *v = json!(s);
                }
            })
        }),
        reply("values-null-as-empty", "value", |_, r, _| {
            each_payload(r, |v| {
                if v.is_null() {
                    *v = json!("");
                }
            })
        }),
        reply("values-null-left-out", "value", |_, r, _| {
            r.edit(|v| {
                for p in payloads(v) {
                    if let Some(p) = p.as_object_mut() {
                        p.retain(|_, v| !v.is_null());
                    }
                }
            })
        }),
        reply("values-url-base64", "value", |_, r, _| {
            each_payload(r, |v| {
                if let Some(s) = v.as_str().filter(|s| s.contains('/') && s.ends_with('=')).map(|s| s.replace('/', "_"))
                {
                    *v = json!(s);
                }
            })
        }),
        reply("values-reals-in-single-precision", "value", |_, r, _| {
            each_payload(r, |v| {
                if v.is_f64() {
                    #[expect(clippy::cast_possible_truncation, reason = "it is what is to be broken")]
                    let single = f64::from(v.as_f64().unwrap() as f32);
                    *v = json!(single);
                }
            })
        }),
        reply("hidden-column-shown", "rows", |_, r, _| {
            r.edit(|v| {
                for p in payloads(v) {
                    p["_sync_scope_id"] = json!("somebody");
                }
            })
        }),
        request("keys-without-case", "value", |q, _, _| {
            each_row(q, |row| {
                for p in ["/key/id", "/payload/id"] {
                    if let Some(v) = row.pointer_mut(p) {
                        *v = json!(v.as_str().unwrap_or_default().to_lowercase());
                    }
                }
            });
            None
        }),
    ]
}

fn property() -> Vec<Variant> {
    vec![
        reply("now-and-then-a-conflict-is-committed", "property.sources", |q, r, m| {
            if q.is("POST", COMMIT) && r.code() == "push_conflict" && m.next() > 3 {
                *r = committed();
            }
        }),
        request("now-and-then-a-label-is-lost", "property.sources", |q, m, _| {
            if m.next() > 40 {
                each_row(q, |row| {
                    if row["op"] == "UPDATE" {
                        row["payload"]["title"] = json!("lost");
                    }
                });
            }
            None
        }),
        request("snapshots-of-everybody-at-random", "property.hostile", |q, m, server| {
            // Whoever knows an id reads what it names.
            if q.is("POST", "/sync/snapshot-sessions") {
                return owner(q, m, server);
            }
            if q.is("GET", PAGE) { owner(q, m, server) } else { None }
        }),
        reply("a-fault-for-broken-json", "property.hostile", |q, r, _| {
            if r.status == 400 && serde_json::from_slice::<Value>(&q.body).is_err() {
                *r = error(500, "internal_error");
            }
        }),
    ]
}

/// Everybody's sessions are used with their owner's token.
fn owner(q: &mut Request, m: &Memory, server: SocketAddr) -> Option<Reply> {
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

fn error(status: u16, code: &str) -> Reply {
    Reply::json(status, &json!({"error": code, "message": "broken on purpose"}))
}

fn staging() -> Reply {
    Reply::json(
        200,
        &json!({"push_id": "0000-made-up", "status": "staging", "planned_row_count": 1, "next_expected_row_ordinal": 0}),
    )
}

fn committed() -> Reply {
    Reply::json(
        200,
        &json!({"bundle_seq": 1, "source_id": "device-a", "source_bundle_id": 1, "row_count": 1, "bundle_hash": "0".repeat(64)}),
    )
}

fn set(r: &mut Reply, at: &str, f: impl FnOnce(Value) -> Value) {
    r.edit(|v| {
        if let Some(v) = v.pointer_mut(at) {
            *v = f(v.take());
        }
    });
}

fn add(r: &mut Reply, at: &str, n: i64) {
    set(r, at, |v| json!(v.as_i64().unwrap_or(0) + n));
}

fn drop_member(r: &mut Reply, name: &str) {
    r.edit(|v| {
        if let Some(v) = v.as_object_mut() {
            v.remove(name);
        }
    });
}

fn each_row(q: &mut Request, f: impl Fn(&mut Value)) {
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
fn payloads(v: &mut Value) -> Vec<&mut Value> {
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

fn each_payload(r: &mut Reply, f: impl Fn(&mut Value)) {
    r.edit(|v| {
        for p in payloads(v) {
            p.as_object_mut().into_iter().flatten().filter(|(n, _)| *n != "id").for_each(|(_, v)| f(v));
        }
    });
}
