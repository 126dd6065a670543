//! What a batch of events is answered, and what it leaves.

use std::sync::Barrier;

use serde_json::{Value, json};

use super::aexy_world::{
    BATCH, D, PROJECTS, Tracker, batch, detail, enrol, event, heartbeat, id, instant, send, status,
};
use super::aexy_world::{told, with};
use super::world::{World, contains};

#[test]
fn ax_05_ax_06_a_batch_and_the_same_bytes_again() {
    let t = Tracker::enrolled();
    let sent = batch(D, &[event(1), event(2), event(3)]);
    let expected = |accepted: u64, duplicates: u64| {
        json!({ "accepted": accepted, "duplicates": duplicates, "rejected": [], "server_seq": 3, "next_poll_after_s": 60,
            "config_etag": "cfg_0" })
    };
    let first = send(&t.ada, &sent);
    assert_eq!((first.status, first.json()), (200, expected(3, 0)));
    for _ in 0..2 {
        let again = send(&t.ada, &sent);
        assert_eq!((again.status, again.json()), (200, expected(0, 3)));
    }
    assert_eq!(t.count(), 3);
    let empty = send(&t.ada, &batch(D, &[]));
    assert_eq!((empty.status, empty.json()), (200, expected(0, 0)));
}

#[test]
fn ax_07_ax_09_duplicates_within_a_batch_and_a_mix_reconcile() {
    let t = Tracker::enrolled();
    assert_eq!(told(&send(&t.ada, &batch(D, &[event(1), event(1), event(2)]))), (2, 1, vec![]));
    let late = with(6, &json!({ "ts": instant(-31 * 86_400) }));
    let mixed = send(&t.ada, &batch(D, &[event(3), event(1), late.clone(), event(4), event(4)]));
    assert_eq!(told(&mixed), (2, 2, vec!["ts_out_of_range".to_owned()]));
    assert_eq!(mixed.json()["rejected"][0]["event_id"], id(6));
    assert_eq!(told(&send(&t.ada, &batch(D, &[late.clone(), late]))).2.len(), 2, "each of them");
    assert_eq!(t.count(), 4);
}

#[test]
fn ax_08_events_from_thirty_days_ago_to_five_minutes_ahead() {
    let t = Tracker::enrolled();
    let month = 30 * 86_400;
    let at = |n, seconds| with(n, &json!({ "ts": instant(seconds) }));
    let reply = send(&t.ada, &batch(D, &[at(1, -month - 60), at(2, 360), at(3, -month + 60), at(4, 240)]));
    assert_eq!(told(&reply), (2, 0, vec!["ts_out_of_range".to_owned(); 2]));
    let rejected = reply.json()["rejected"].clone();
    assert_eq!((&rejected[0]["event_id"], &rejected[1]["event_id"]), (&id(1).into(), &id(2).into()));
    // Without an offset it is UTC.
    let naive = instant(-60).trim_end_matches('Z').to_owned();
    assert_eq!(told(&send(&t.ada, &batch(D, &[with(5, &json!({ "ts": naive }))]))).0, 1);
}

#[test]
fn ax_10_ax_14_ax_15_each_event_is_judged_by_itself() {
    let t = Tracker::enrolled();
    let interval = |n, s: Value| with(n, &json!({ "interval_s": s }));
    let events = [interval(1, json!(0)), interval(2, json!(1)), interval(3, json!(600)), interval(4, json!(601))];
    let reply = send(&t.ada, &batch(D, &events));
    assert_eq!(told(&reply), (2, 0, vec!["schema:/interval_s".to_owned(); 2]));
    let derived = [
        with(5, &json!({ "category": "productive" })),
        with(6, &json!({ "attribution": {} })),
        with(7, &json!({ "category": null })),
        event(8),
        with(9, &json!({ "foo": 1, "browser": { "url": "https://example.org", "bar": 2 } })),
    ];
    let reply = send(&t.ada, &batch(D, &derived));
    assert_eq!(told(&reply), (2, 0, vec!["server_derived_field".to_owned(); 3]));
    let stored = t.stored();
    let last = &stored.last().unwrap().2;
    assert!(last.contains("https://example.org") && !last.contains("foo") && !last.contains("bar"), "{last}");
    let mixed = json!([7, null, "x", event(11)]);
    let reply = send(&t.ada, &batch(D, mixed.as_array().unwrap()));
    assert_eq!(told(&reply), (1, 0, vec!["schema:".to_owned(); 3]));
}

#[test]
fn ax_11_five_hundred_events_are_the_most() {
    let t = Tracker::enrolled();
    let events = |n: u64| (1..=n).map(event).collect::<Vec<_>>();
    assert_eq!(detail(&send(&t.ada, &batch(D, &events(501))), 422), "Invalid request at /events");
    assert_eq!(t.count(), 0);
    assert_eq!(told(&send(&t.ada, &batch(D, &events(500)))), (500, 0, vec![]));
}

#[test]
fn ax_12_only_versions_that_begin_with_one() {
    let t = Tracker::enrolled();
    for (n, (version, expected)) in (1..).zip([("1.0", 200), ("1.9", 200), ("2.0", 409), ("1", 409), ("0.9", 409)]) {
        let mut sent = batch(D, &[with(n, &json!({ "category": 1, "attribution": 2 })), event(100 + n)]);
        sent["schema_version"] = version.into();
        let reply = send(&t.ada, &sent);
        assert_eq!(reply.status, expected, "{version}");
        if expected == 409 {
            assert_eq!(reply.json(), json!({ "detail": "Unsupported schema_version" }));
        }
    }
    assert_eq!(t.count(), 2);
}

#[test]
fn ax_13_what_was_typed_is_in_no_reply_log_or_table() {
    let t = Tracker::enrolled();
    let typed = json!({ "input_cadence": { "key_events": 1, "mouse_events": 2, "keystrokes": "hunter2hunter2" } });
    let counted = json!({ "input_cadence": { "key_events": 1, "mouse_events": 2 } });
    let reply = send(&t.ada, &batch(D, &[with(1, &counted), with(2, &typed)]));
    assert_eq!(told(&reply), (1, 0, vec!["schema:/input_cadence".to_owned()]));
    assert!(!contains(&reply.body, "hunter2") && !contains(&t.world.everything(), "hunter2hunter2"));
    assert!(t.stored()[0].2.contains("\"key_events\":1"));
}

#[test]
fn ax_16_uuids_are_the_same_in_upper_and_lower_case() {
    let t = Tracker::new();
    let (lower, upper) = ("abcdef00-2222-4222-8222-222222222222", "ABCDEF00-2222-4222-8222-222222222222");
    assert_eq!(enrol(&t.ada, lower, &t.p).status, 201);
    let of = |id: &str| with(1, &json!({ "event_id": id }));
    let (small, large) = (id(1), id(1).to_uppercase());
    assert_ne!(small, large);
    assert_eq!(told(&send(&t.ada, &batch(lower, &[of(&large)]))), (1, 0, vec![]));
    assert_eq!(told(&send(&t.ada, &batch(lower, &[of(&small)]))), (0, 1, vec![]));
    assert_eq!(told(&send(&t.ada, &batch(upper, &[of(&large)]))), (0, 1, vec![]));
    assert_eq!(t.ada.get(&status(upper)).json()["device_id"], lower, "as it was enrolled");
    assert_eq!(enrol(&t.ada, upper, &t.p).json()["device_id"], upper);
    assert_eq!(t.ada.get(&status(lower)).json()["device_id"], upper);
    let mut late = of(&large);
    late["ts"] = "2001-01-01T00:00:00Z".into();
    assert_eq!(send(&t.ada, &batch(lower, &[late])).json()["rejected"][0]["event_id"], large);
}

#[test]
fn ax_28_ax_29_both_spellings_of_a_colon_and_replies_that_the_tracker_reads() {
    let t = Tracker::enrolled();
    for (n, path) in (1..).zip(["events:batch", "events%3Abatch", "events%3abatch"]) {
        let reply = t.ada.post(&format!("/api/v1/tracker/{path}"), &batch(D, &[event(n)]).to_string());
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
        assert_eq!(told(&reply).0, 1);
        let beat = t.ada.post(&heartbeat(D).replace(':', if n == 1 { ":" } else { "%3A" }), "");
        assert_eq!(beat.json()["config_etag"], "cfg_0");
    }
    let enrolment = json!({ "device_id": D, "project_id": t.p }).to_string();
    assert_eq!(t.ada.post("/api/v1/tracker/devices%3Aenroll", &enrolment).status, 201);
    assert_eq!(t.ada.post("/api/v1/tracker/evidence%3Apresign?device_id=none", "{}").status, 404);
    let seen = t.ada.get(&status(D)).json()["last_seen_at"].as_str().unwrap().to_owned();
    assert!(seen.len() == 20 && seen.ends_with('Z') && !seen.contains('.'), "{seen}");
    assert_eq!(t.ada.post(&format!("{BATCH}/"), "{}").status, 404);
    let nobody = t.world.client("nobody");
    for (path, allow) in [
        (BATCH, "POST, OPTIONS"),
        (PROJECTS, "GET, HEAD, OPTIONS"),
        (super::aexy_world::TOKENS, "POST, GET, HEAD, OPTIONS"),
        ("/api/v1/developers/me/api-tokens/x", "DELETE, OPTIONS"),
    ] {
        let options = nobody.send("OPTIONS", path, b"");
        assert_eq!((options.status, options.header("allow")), (204, Some(allow)), "{path}");
        let head = nobody.send("HEAD", path, b"").status;
        assert_eq!(head, if allow.contains("HEAD") { 200 } else { 405 }, "{path}");
        assert_eq!(nobody.send("PATCH", path, b"").status, 405);
    }
}

#[test]
fn ax_34_an_event_stays_with_the_project_that_it_came_to() {
    let t = Tracker::enrolled();
    send(&t.ada, &batch(D, &[event(1)]));
    enrol(&t.ada, D, &t.q);
    assert_eq!(told(&send(&t.ada, &batch(D, &[event(1), event(2)]))), (1, 1, vec![]));
    let bindings: Vec<String> = t.stored().into_iter().map(|(binding, ..)| binding).collect();
    assert_eq!(bindings, [t.p.as_str(), t.q.as_str()]);
}

/// The fixture's shape, with times of today.
#[test]
fn a_whole_event_is_stored_as_it_was_sent() {
    let t = Tracker::enrolled();
    let whole = with(
        1,
        &json!({
            "active_app": { "name": "VS Code", "bundle_id": "com.microsoft.VSCode", "window_title": "main.py" },
            "file_context": { "path": "/Users/ada/x/main.py", "repo": "x", "branch": "dev" },
            "dev_context": { "terminal_cwd": null, "last_command": "pytest", "editor_file": "main.py" },
            "browser": null, "input_cadence": { "key_events": 12, "mouse_events": 3 },
            "meeting": { "in_call": false, "call_app": null, "calendar_event_id": null },
            "system": { "on_battery": null, "displays": 2, "online": true, "network": null }, "evidence_ref": null,
        }),
    );
    assert_eq!(told(&send(&t.ada, &batch(D, std::slice::from_ref(&whole)))), (1, 0, vec![]));
    assert_eq!(serde_json::from_str::<Value>(&t.stored()[0].2).unwrap(), whole);
}

/// Also XC-06 and XC-08: what is refused is not repeated, and nothing makes the server stumble.
#[test]
fn refusals_of_a_batch_repeat_nothing_of_it() {
    let t = Tracker::enrolled();
    let good = batch(D, &[event(1)]).to_string();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, status) in [
        ("{".to_owned(), 422),
        (deep, 422),
        (good.replacen("\"sent_at\"", "\"sent_at\":\"SEKRIT-SEKRIT\",\"sent_at\"", 1), 422),
        (good.replacen("\"1.0\"", "\"9-SEKRIT-SEKRIT\"", 1), 409),
        (good.replacen("\"1.0\"", "\"1.SEKRIT-SEKRIT-SEKRIT\"", 1), 422),
        (good.replacen("\"events\"", "\"SEKRIT-SEKRIT\"", 1), 422),
        (good.replacen(D, "SEKRIT-SEKRIT", 1), 404),
        (format!("{good}{}", " ".repeat(9 << 20)), 413),
    ] {
        let reply = t.ada.post(BATCH, &body);
        detail(&reply, status);
        assert!(!contains(&reply.body, "SEKRIT"), "{reply:?}");
    }
    assert_eq!(t.ada.header("content-encoding", "br").post(BATCH, &good).status, 415);
    assert_eq!(t.ada.header("content-encoding", "gzip").post(BATCH, &good).status, 422);
    let odd = [
        with(2, &json!({ "event_id": "SEKRIT\u{0}" })),
        with(3, &json!({ "SEKRIT-SEKRIT": 1, "interval_s": "SEKRIT" })),
    ];
    let reply = send(&t.ada, &batch(D, &odd));
    assert_eq!(told(&reply), (1, 0, vec!["schema:/interval_s".to_owned()]));
    assert_eq!(t.count(), 1);
    let all = t.world.everything();
    assert!(!contains(&all, "panicked") && !contains(&all, "SEKRIT-SEKRIT"));
}

#[test]
fn concurrent_batches_of_one_event_store_it_once() {
    let t = Tracker::enrolled();
    let sent = batch(D, &[event(1), event(2)]);
    let start = Barrier::new(16);
    let replies: Vec<_> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                s.spawn(|| {
                    start.wait();
                    told(&send(&t.ada, &sent))
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(replies.iter().filter(|r| r.0 == 2).count(), 1, "{replies:?}");
    assert_eq!(replies.iter().filter(|r| r.1 == 2).count(), 15);
    assert_eq!(t.count(), 2);
}

/// I3: records, highest number and what is queued, all or nothing.
#[test]
fn a_batch_of_a_killed_server_is_there_whole_or_not_at_all() {
    for (fault, there) in [("before_commit", false), ("after_commit", true)] {
        let mut t = Tracker::enrolled();
        let token = t.ada.headers[0].1.trim_start_matches("Bearer ").to_owned();
        t.world.start(&["--secret-file", "secret"], Some(fault));
        let (stuck, body) = (t.world.client(&token), batch(D, &[event(1), event(2)]));
        let sending = std::thread::spawn({
            let body = body.to_string();
            move || stuck.try_post(BATCH, &body).is_some()
        });
        t.world.at_fault();
        t.world.kill();
        assert!(!sending.join().unwrap(), "nobody was told");
        t.world.start(&["--secret-file", "secret"], None);
        let ada = t.world.client(&token);
        let seq = ada.get(&status(D)).json()["server_seq"].clone();
        assert_eq!((t.count(), seq), if there { (2, json!(2)) } else { (0, json!(0)) });
        assert_eq!(told(&send(&ada, &body)), if there { (0, 2, vec![]) } else { (2, 0, vec![]) });
        assert_eq!(t.count(), 2);
    }
}

/// XC-05, on the server's side: killed at whatever instant, again and again, while batches come, each sent until it is
/// answered.
#[test]
fn xc_05_each_event_is_stored_once_by_a_server_that_is_killed_again_and_again() {
    let mut t = Tracker::enrolled();
    let token = t.ada.headers[0].1.trim_start_matches("Bearer ").to_owned();
    let batches: Vec<String> =
        (0..28).map(|n| batch(D, &(n * 3..n * 3 + 5).map(event).collect::<Vec<_>>()).to_string()).collect();
    let (mut kills, mut state, mut next) = (0, 54_321_u64, 0);
    while next < batches.len() {
        let client = t.world.client(&token);
        // The kill comes after a number of requests that nobody knows beforehand, in the midst of one.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (from, until) = (next, next + usize::try_from(state >> 33).unwrap() % 4);
        let (reached, signal) = std::sync::mpsc::channel();
        let pending = batches[from..].to_vec();
        let sending = std::thread::spawn(move || {
            let mut answered = 0;
            for (n, body) in pending.iter().enumerate() {
                if from + n == until {
                    reached.send(()).unwrap();
                }
                match client.try_post(BATCH, body) {
                    Some(reply) => assert_eq!(told(&reply).2, [""; 0]),
                    None => break,
                }
                answered += 1;
            }
            answered
        });
        if signal.recv().is_ok() {
            t.world.kill();
            kills += 1;
        }
        next += sending.join().unwrap();
        t.world.start(&["--secret-file", "secret"], None);
    }
    assert!(kills > 5, "{kills}");
    assert_eq!(t.world.client(&token).get(&status(D)).json()["server_seq"], 85);
    let mut ids: Vec<String> = t.stored().into_iter().map(|(_, id, _)| id).collect();
    ids.sort();
    assert_eq!(ids, (0..86).map(id).collect::<Vec<_>>());
}

/// What row sync says of itself is the same beside contracts, but for their names.
#[test]
fn xc_02_capabilities_name_the_contracts_that_are_served() {
    let mut world = World::serving("statsai,aexy", &[]);
    std::fs::write(world.dir.path().join("schema.sql"), crate::http::SCHEMA).unwrap();
    world.start(&["--schema", "schema.sql", "--secret-file", "secret"], None);
    let token = world.printed(&["token", "--user", "ada", "--secret-file", "secret"]);
    let mut beside = world.client(token.trim()).get("/sync/capabilities").json();
    let streams = beside.as_object_mut().unwrap().remove("ingest_streams").unwrap();
    let expected = json!([
        { "name": "statsai.sync_batch", "versions": ["sync_batch.v1"], "max_bytes_per_batch": 8 << 20 },
        { "name": "aexy.events_batch", "versions": ["1.x"], "max_bytes_per_batch": 8 << 20 },
    ]);
    assert_eq!(streams, expected);
    let alone = crate::http::World::new();
    let mut alone = alone.client("ada", "a").get("/sync/capabilities").json();
    for capabilities in [&mut beside, &mut alone] {
        for of_the_host in ["app_name", "scope_id"] {
            capabilities.as_object_mut().unwrap().remove(of_the_host);
        }
    }
    assert_eq!(beside, alone);
}

/// XC-01: a token of one contract is nobody's on the other's paths; what is not mounted is not there.
#[test]
fn xc_01_paths_and_tokens_of_aexy_and_statsai_do_not_meet() {
    let t = Tracker::enrolled();
    let statsai = t.world.device("ada", "dev_a");
    for reply in [statsai.get(PROJECTS), statsai.post(BATCH, "{}"), statsai.get(&status(D))] {
        detail(&reply, 401);
    }
    for client in [&t.ada, &t.jwt("ada")] {
        assert_eq!(client.get("/api/sync/status").status, 401);
        assert_eq!(client.post("/api/sync/batches", "{}").status, 401);
    }
    let other = World::new();
    let absent = other.device("ada", "dev_a");
    for path in [PROJECTS, &status(D)] {
        assert_eq!(absent.get(path).status, 404, "{path}");
    }
}
