//! Every endpoint answers at its path; everything else is refused in the one error form.

use crate::http::{World, raw, row, user};

#[test]
fn every_endpoint_of_the_seed_answers() {
    let world = World::new();
    let phone = world.client("ada", "phone");
    let reply = phone.post("/sync/connect", r#"{"has_local_pending_rows":true}"#);
    let connected = reply.json();
    assert_eq!(connected["resolution"], "initialize_local");
    let id = connected["initialization_id"].as_str().unwrap();

    let reply = phone.post(
        "/sync/push-sessions",
        &format!(r#"{{"source_bundle_id":1,"planned_row_count":2,"initialization_id":"{id}"}}"#),
    );
    let created = reply.json();
    assert_eq!((created["status"].as_str(), created["planned_row_count"].as_i64()), (Some("staging"), Some(2)));
    assert_eq!(created["next_expected_row_ordinal"], 0);
    let push_id = created["push_id"].as_str().unwrap();
    let reply = phone.upload(push_id, 0, &[user("u1", "Ada")]);
    assert_eq!(reply.json()["next_expected_row_ordinal"], 1, "{reply:?}");
    assert_eq!(reply.json()["push_id"], push_id);
    phone.upload(push_id, 1, &[user("u2", "Bob")]);
    let reply = phone.commit(push_id);
    let committed = reply.json();
    assert_eq!(reply.status, 200);
    assert_eq!((committed["bundle_seq"].as_i64(), committed["row_count"].as_i64()), (Some(1), Some(2)));
    assert_eq!(committed["source_id"], "phone");
    assert_eq!(committed["bundle_hash"].as_str().unwrap().len(), 64);

    let again = phone.post("/sync/push-sessions", r#"{"source_bundle_id":1,"planned_row_count":2}"#).json();
    assert_eq!(again["status"], "already_committed");
    assert_eq!(again["bundle_hash"], committed["bundle_hash"]);

    let rows = phone.get("/sync/committed-bundles/1/rows?max_rows=1").json();
    assert_eq!((rows["rows"].as_array().unwrap().len(), rows["has_more"].as_bool()), (1, Some(true)));
    assert_eq!(rows["next_row_ordinal"], 0);
    let rows = phone.get("/sync/committed-bundles/1/rows?max_rows=99999&after_row_ordinal=0").json();
    assert_eq!((rows["rows"].as_array().unwrap().len(), rows["has_more"].as_bool()), (1, Some(false)));

    let tablet = world.client("ada", "tablet");
    assert_eq!(tablet.post("/sync/connect", "{}").json()["resolution"], "remote_authoritative");
    let page = tablet.get("/sync/pull?after_bundle_seq=0&max_bundles=99999").json();
    assert_eq!((page["stable_bundle_seq"].as_i64(), page["has_more"].as_bool()), (Some(1), Some(false)));
    assert_eq!(page["bundles"][0]["rows"][0]["payload"]["name"], "Ada");

    let session = tablet.post("/sync/snapshot-sessions", "").json();
    assert_eq!((session["row_count"].as_i64(), session["snapshot_bundle_seq"].as_i64()), (Some(2), Some(1)));
    let path = format!("/sync/snapshot-sessions/{}", session["snapshot_id"].as_str().unwrap());
    let page = tablet.get(&format!("{path}?max_rows=1")).json();
    assert_eq!((page["next_row_ordinal"].as_i64(), page["has_more"].as_bool()), (Some(1), Some(true)));
    let reply = tablet.delete(&path);
    assert_eq!((reply.status, reply.body.len(), reply.header("content-type")), (204, 0, None));
    assert_eq!(tablet.get(&path).error(), "snapshot_session_not_found");

    let push_id = tablet.create(1, 1);
    let reply = tablet.delete(&format!("/sync/push-sessions/{push_id}"));
    assert_eq!((reply.status, reply.body.len(), reply.header("content-type")), (204, 0, None));
    assert_eq!(tablet.commit(&push_id).error(), "push_session_not_found");

    let capabilities = tablet.get("/sync/capabilities").json();
    assert_eq!(capabilities["protocol_version"], "v1");
    assert_eq!(capabilities["features"]["bundle_change_watch"], true);
    assert_eq!(capabilities["bundle_limits"]["max_bundles_per_pull"], 5000);
    let schema = tablet.get("/sync/schema").json();
    assert!(schema["statements"][0].as_str().unwrap().starts_with("CREATE TABLE"));
}

#[test]
fn health_and_status_need_no_user() {
    let world = World::new();
    let anybody = world.client("", "").header("authorization", "").header("oversync-source-id", "");
    for path in ["/health", "/status", "/syncx/health", "/syncx/status"] {
        let reply = anybody.get(path);
        let json = reply.json();
        assert_eq!((reply.status, json["status"].as_str()), (200, Some("healthy")), "{path}");
        assert_eq!(json["lifecycle"], "running");
        assert_eq!(json["panics"], 0);
        for member in [
            "version",
            "app_name",
            "accepting_operations",
            "inflight_operations",
            "registered_tables",
            "features",
            "user_state_retention_floor_ahead_count",
            "latest_bundle_seq_max",
            "retained_bundle_floor_min",
            "retained_bundle_floor_max",
            "retained_bundle_window_min",
            "retained_bundle_window_max",
            "history_pruned_error_count",
            "accepted_push_replay_count",
            "rejected_registered_write_count",
            "committed_bundle_count",
            "committed_bundle_bytes",
        ] {
            assert!(!json[member].is_null(), "{path} lacks {member}");
        }
    }
    world.service.close();
    assert_eq!(anybody.get("/health").status, 503);
    assert_eq!(anybody.get("/status").status, 200);
    assert_eq!(anybody.get("/syncx/health").json()["accepting_operations"], false);
    assert_eq!(world.client("ada", "phone").post("/sync/connect", "{}").error(), "service_unavailable");
}

#[test]
fn unknown_paths_and_methods_are_refused_as_json() {
    let world = World::new();
    // Routing comes before authentication.
    let anybody = world.client("", "").header("authorization", "");
    for path in ["/", "/sync", "/sync/", "/sync/nothing", "/sync/pull/", "/favicon.ico"] {
        assert_eq!(anybody.get(path).error(), "not_found", "{path}");
    }
    for (method, path, allow) in [
        ("GET", "/sync/connect", "POST"),
        ("POST", "/sync/pull", "GET,HEAD"),
        ("PUT", "/sync/push-sessions", "POST"),
        ("GET", "/sync/push-sessions/x", "DELETE"),
        ("POST", "/sync/snapshot-sessions/x", "GET,HEAD,DELETE"),
        ("PATCH", "/sync/push-sessions/x/commit", "POST"),
        ("DELETE", "/health", "GET,HEAD"),
        ("OPTIONS", "/sync/capabilities", "GET,HEAD"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let reply = raw(world.addr, request.as_bytes());
        assert_eq!(reply.error(), "method_not_allowed", "{method} {path}");
        assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
    }
}

/// A cache that keeps an answer to a pull hides what others commit; one that keeps a refusal hides its end.
#[test]
fn no_reply_may_be_kept_by_a_cache() {
    let world = World::new();
    let phone = world.ready("ada", "phone");
    phone.push(1, &[user("u", "n")]);
    let snapshot = phone.post("/sync/snapshot-sessions", "").json();
    let page = format!("/sync/snapshot-sessions/{}", snapshot["snapshot_id"].as_str().unwrap());
    let push = format!("/sync/push-sessions/{}", phone.create(2, 1));
    let nobody = phone.header("authorization", "");
    for (client, method, path, status) in [
        (&phone, "GET", "/sync/pull?after_bundle_seq=0", 200),
        (&phone, "HEAD", "/sync/pull?after_bundle_seq=0", 200),
        (&phone, "GET", "/sync/committed-bundles/1/rows", 200),
        (&phone, "GET", page.as_str(), 200),
        (&phone, "GET", "/sync/capabilities", 200),
        (&phone, "GET", "/sync/schema", 200),
        (&phone, "POST", "/sync/connect", 200),
        (&phone, "DELETE", page.as_str(), 204),
        (&phone, "DELETE", push.as_str(), 204),
        (&nobody, "GET", "/health", 200),
        (&nobody, "GET", "/syncx/status", 200),
        (&nobody, "GET", "/sync/pull", 401),
        (&phone, "GET", "/sync/committed-bundles/9/rows", 404),
        (&nobody, "GET", "/", 404),
        (&nobody, "GET", "/sync/nothing", 404),
        (&nobody, "OPTIONS", "/sync/pull", 405),
        (&phone, "GET", "/sync/pull?after_bundle_seq=9", 409),
    ] {
        let body: &[u8] = if method == "POST" { b"{}" } else { b"" };
        let reply = client.send(method, path, body);
        let kept = reply.header("cache-control");
        assert_eq!((reply.status, kept), (status, Some("no-store")), "{method} {path}");
    }
}

#[test]
fn the_source_header_is_checked_after_the_user_and_before_the_request() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    let endpoints = [
        ("POST", "/sync/connect"),
        ("POST", "/sync/push-sessions"),
        ("DELETE", "/sync/push-sessions/x"),
        ("POST", "/sync/push-sessions/x/chunks"),
        ("POST", "/sync/push-sessions/x/commit"),
        ("GET", "/sync/committed-bundles/x/rows"),
        ("GET", "/sync/pull?after_bundle_seq=x"),
        ("GET", "/sync/watch?after_bundle_seq=x"),
        ("POST", "/sync/snapshot-sessions"),
        ("GET", "/sync/snapshot-sessions/x"),
        ("DELETE", "/sync/snapshot-sessions/x"),
        ("GET", "/sync/digest?until_row_ordinal=x"),
        ("GET", "/sync/capabilities"),
        ("GET", "/sync/schema"),
    ];
    for (method, path) in endpoints {
        let body: &[u8] = if method == "POST" { b"not json" } else { b"" };
        let nobody = client.header("authorization", "").header("oversync-source-id", "");
        let reply = nobody.send(method, path, body);
        assert_eq!(reply.error(), "authentication_failed", "{method} {path}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        for source in ["", "   ", "two words", "tab\there", "gr\u{fc}n", &"x".repeat(129)] {
            let reply = client.header("oversync-source-id", source).send(method, path, body);
            assert_eq!(reply.error(), "invalid_request", "{method} {path} {source:?}");
        }
    }
    for source in ["x", &"x".repeat(128), "!~", " padded "] {
        assert_eq!(client.header("oversync-source-id", source).get("/sync/capabilities").status, 200, "{source:?}");
    }
}

#[test]
fn replies_are_compressed_when_it_is_worth_it() {
    let world = World::new();
    let phone = world.ready("ada", "phone");
    let small = phone.push(1, &[user("u", "small")]);
    assert_eq!(small.status, 200, "{small:?}");
    let rows: Vec<_> = (0..3000).map(|i| user(&format!("u{i}"), "somebody with a name of some length")).collect();
    assert_eq!(phone.push(2, &rows).status, 200);
    let plain = phone.get("/sync/pull?after_bundle_seq=1");
    assert!(plain.body.len() > 300_000 && plain.header("content-encoding").is_none());

    let reply = phone.header("accept-encoding", "gzip").get("/sync/pull?after_bundle_seq=1");
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let mut decoded = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&reply.body[..]), &mut decoded).unwrap();
    assert_eq!(decoded, plain.body);
    assert!(reply.body.len() < plain.body.len() / 4);

    let reply = phone.header("accept-encoding", "gzip, zstd").get("/sync/pull?after_bundle_seq=1");
    assert_eq!(reply.header("content-encoding"), Some("zstd"));
    assert_eq!(zstd::decode_all(&reply.body[..]).unwrap(), plain.body);

    let reply = phone.header("accept-encoding", "gzip").get("/sync/pull?after_bundle_seq=0&max_bundles=1");
    assert_eq!(reply.header("content-encoding"), None, "a short reply is not worth it");
    reply.json();
    for refused in ["identity", "gzip;q=0", "br"] {
        assert_eq!(phone.header("accept-encoding", refused).get("/sync/pull?after_bundle_seq=1").body, plain.body);
    }
}

#[test]
fn the_exact_view_comes_where_blake3_is_asked_for() {
    let world = World::new();
    let phone = world.ready("ada", "phone");
    let exact = phone.header("oversync-bundle-hash", "blake3");
    let push_id = phone.create(1, 1);
    phone.upload(
        &push_id,
        0,
        &[row("users", "u", "INSERT", 0, r#"{"id":"u","name":"n","score":{"$real":"Infinity"}}"#)],
    );
    let committed = exact.commit(&push_id).json();
    let plain_page = phone.get("/sync/pull").json();
    let exact_page = exact.get("/sync/pull").json();
    assert_eq!(exact_page["bundles"][0]["bundle_hash"], committed["bundle_hash"]);
    assert_ne!(plain_page["bundles"][0]["bundle_hash"], committed["bundle_hash"]);
    let other = phone.header("oversync-bundle-hash", "sha256").get("/sync/pull").json();
    assert_eq!(other, plain_page);
}

#[test]
fn many_devices_at_once_share_one_history() {
    let world = World::new();
    let pushes = 5;
    std::thread::scope(|scope| {
        for name in ["ada", "bob"] {
            world.ready(name, "first");
            for device in 0..6 {
                let client = world.client(name, &format!("device-{device}"));
                scope.spawn(move || {
                    let mut checkpoint = 0;
                    for i in 1..=pushes {
                        let rows: Vec<_> = (0..20).map(|r| user(&format!("{device}-{i}-{r}"), name)).collect();
                        let seq = client.push(i, &rows).json()["bundle_seq"].as_i64().unwrap();
                        let page = client.get(&format!("/sync/pull?after_bundle_seq={checkpoint}")).json();
                        let bundles = page["bundles"].as_array().unwrap();
                        for bundle in bundles {
                            checkpoint += 1;
                            assert_eq!(bundle["bundle_seq"], checkpoint, "without a gap");
                        }
                        assert!(checkpoint >= seq, "what was acknowledged is there");
                    }
                });
            }
        }
    });
    for name in ["ada", "bob"] {
        let client = world.client(name, "last");
        let page = client.get("/sync/pull").json();
        assert_eq!(page["stable_bundle_seq"], 6 * pushes);
        let session = client.post("/sync/snapshot-sessions", "").json();
        assert_eq!(session["row_count"], 6 * pushes * 20);
    }
    assert_eq!(world.client("ada", "x").get("/status").json()["panics"], 0);
}
