//! Broken hashes and values, and what only a property finds.

use super::edits::*;
use super::*;

pub(super) fn content() -> Vec<Variant> {
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

pub(super) fn property() -> Vec<Variant> {
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

/// What devices suffer from: a write that becomes another, a row that does not arrive.
pub(super) fn replica() -> Vec<Variant> {
    vec![
        request("replica-update-lost", "replica", |q, _, _| {
            each_row(q, |row| {
                if row["op"] == "UPDATE" && row["payload"].get("title").is_some() {
                    row["payload"]["title"] = json!("lost");
                }
            });
            None
        }),
        request("replica-blobs-cut", "replica", |q, _, _| {
            each_row(q, |row| {
                if row["payload"]["data"].as_str().is_some_and(|s| s.len() > 4) {
                    row["payload"]["data"] = json!("AAEC");
                }
            });
            None
        }),
        reply("replica-snapshot-row-lost", "replica", |q, r, _| {
            if q.is("POST", "/sync/snapshot-sessions") {
                add(r, "/row_count", -1);
                drop_member(r, "tables");
            } else if q.is("GET", PAGE) && r.value().is_some_and(|v| v["has_more"] == json!(false)) {
                add(r, "/next_row_ordinal", -1);
                r.edit(|v| drop(v["rows"].as_array_mut().map(Vec::pop)));
            }
        }),
        reply("replica-other-text-for-the-second", "replica", |q, r, m| {
            let source = q.header("oversync-source-id");
            m.put("first", source);
            if !(q.is("GET", "/sync/pull") || q.is("GET", PAGE)) || m.get("first").as_deref() == Some(source) {
                return;
            }
            // A client that verifies hashes reads a snapshot then, which has none.
            r.edit(|v| {
                for p in payloads(v).into_iter().filter(|p| p.get("title").is_some()) {
                    p["title"] = json!("other");
                }
            });
        }),
    ]
}
