//! What a batch is answered, and what it leaves.

use serde_json::{Value, json};

use super::world::{BATCHES, World, ZERO, batch, contains, counts, full, send, status, subscription};

#[test]
fn st_01_only_a_device_with_a_valid_token_sends() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let body = full("batch_1").to_string();
    let nobody = device.header("authorization", "");
    for client in [nobody, world.client("nope"), device.header("authorization", "Basic YTpi")] {
        let reply = client.post(BATCHES, &body);
        assert_eq!((reply.status, reply.json()), (401, json!({ "error": "unauthorized" })));
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(status(&device), (Value::Null, [0; 4]));
}

#[test]
fn st_02_st_03_an_empty_batch_with_and_without_lists() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let bare = batch("batch_fixture_minimal", "2026-05-28T00:00:00Z");
    let mut lists = bare.clone();
    lists["batch_id"] = "batch_with_lists".into();
    for kind in super::world::KINDS {
        lists[kind] = json!([]);
    }
    for sent in [lists, bare] {
        let reply = send(&device, &sent);
        assert_eq!(reply.json()["schema_version"], "sync_ack.v1");
        assert_eq!((counts(&reply, "accepted"), counts(&reply, "duplicates")), (ZERO, ZERO));
        assert_eq!(status(&device).0, sent["batch_id"]);
    }
}

#[test]
fn st_04_st_05_st_06_st_12_the_same_batch_and_the_same_records_again() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let first = full("batch_1710000000000");
    let reply = send(&device, &first);
    assert_eq!((counts(&reply, "accepted"), counts(&reply, "duplicates")), ([1, 1, 1, 0, 1, 0], ZERO));
    let replay = send(&device, &first);
    for _ in 0..2 {
        let again = send(&device, &first);
        assert_eq!((counts(&again, "accepted"), counts(&again, "duplicates")), (ZERO, [1, 1, 1, 0, 1, 0]));
        assert_eq!(again.body, replay.body, "a replay is told alike each time");
    }
    let other = send(&device, &full("batch_1710000000009"));
    assert_eq!((counts(&other, "accepted"), counts(&other, "duplicates")), (ZERO, [1, 1, 1, 0, 1, 0]));
    let mut changed = first.clone();
    changed["events"][0]["cost"]["estimated_api_equivalent_usd"] = 13.into();
    let refused = send(&device, &changed);
    assert_eq!((refused.status, refused.json()), (409, json!({ "error": "batch_id_payload_conflict" })));
    assert_eq!(send(&device, &first).body, replay.body);
    changed["batch_id"] = "batch_1710000000010".into();
    let updated = send(&device, &changed);
    assert_eq!((counts(&updated, "accepted"), counts(&updated, "updated")), ([0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0]));
}

#[test]
fn st_07_versions_that_are_not_served() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    for version in [json!("sync_batch.v9"), json!("v9-SEKRIT"), json!("sync_batch.v1 "), json!(1), Value::Null] {
        let mut batch = full("batch_1");
        batch["schema_version"] = version;
        let reply = send(&device, &batch);
        assert_eq!((reply.status, reply.json()), (400, json!({ "error": "unsupported_schema_version" })));
    }
    assert_eq!(status(&device), (Value::Null, [0; 4]));
}

#[test]
fn st_08_one_fault_refuses_the_whole_batch() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let raw = full("batch_1").to_string();
    let cases = [
        ("\"created_at\":\"2026-06-09T12:00:01Z\",", "", "/created_at"),
        ("\"input_tokens\":1000", "\"input_tokens\":-1", "/events/0/usage/input_tokens"),
        ("\"input_tokens\":1000", "\"input_tokens\":1.5", "/events/0/usage/input_tokens"),
        ("\"input_tokens\":1000", "\"input_tokens\":1000.0", "/events/0/usage/input_tokens"),
        ("\"input_tokens\":1000", "\"input_tokens\":18446744073709551616", "/events/0/usage/input_tokens"),
        (
            "\"confidence\":\"high\",\"created_at\"",
            "\"confidence\":\"unsureunsure\",\"created_at\"",
            "/accounts/0/confidence",
        ),
        ("\"started_at\":\"2026-06-09T12:00:00Z\"", "\"started_at\":\"yesterdayish\"", "/started_at"),
    ];
    for (from, to, path) in cases {
        assert!(raw.contains(from), "{from}");
        let reply = device.post(BATCHES, &raw.replacen(from, to, 1));
        let told = reply.json();
        assert_eq!((reply.status, &told["error"]), (400, &json!("invalid_batch")), "{to}");
        assert!(told["path"].as_str().unwrap().ends_with(path), "{told} {to}");
        assert!(told.get("rejected").is_none() && reply.body.len() <= 200);
        assert!(!contains(&reply.body, "sureunsure") && !contains(&reply.body, "yesterdayish"));
        assert_eq!(status(&device), (Value::Null, [0; 4]));
    }
    assert_eq!(counts(&send(&device, &full("batch_1")), "accepted"), [1, 1, 1, 0, 1, 0]);
}

/// Also in what a batch of another device, or a later batch, finds.
#[test]
fn st_15_scrubbed_members_are_never_stored() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let mut sent = full("batch_1");
    sent["sources"][0]["path_label"] = "/secret/dir".into();
    sent["accounts"][0]["plan_name"] = "PLANNED-SEKRIT".into();
    sent["accounts"][0]["account_label"] = "LABEL-SEKRIT".into();
    sent["events"][0]["source"]["source_record_id"] = "RECORD-SEKRIT".into();
    sent["events"][0]["parse_evidence"] = json!({ "event_key_version": "1", "model_inferred": false,
        "timestamp_inferred": false, "account_identity_source": "local_auth", "source_line_number": 918_273_645,
        "source_record_id": "EVIDENCE-SEKRIT", "source_file_path_hash": "kept" });
    sent["subscriptions"] = subscription("x")["subscriptions"].clone();
    sent["subscriptions"][0]["notes"] = "NOTES-SEKRIT".into();
    assert_eq!(counts(&send(&device, &sent), "accepted"), [1, 1, 1, 1, 1, 0]);
    // As a producer sends it that scrubs: nothing is new.
    let mut scrubbed = sent.clone();
    scrubbed["batch_id"] = "batch_2".into();
    for pointer in [
        "/sources/0/path_label",
        "/accounts/0/plan_name",
        "/accounts/0/account_label",
        "/events/0/source/source_record_id",
        "/events/0/parse_evidence/source_line_number",
        "/events/0/parse_evidence/source_record_id",
        "/subscriptions/0/notes",
    ] {
        *scrubbed.pointer_mut(pointer).unwrap() = Value::Null;
    }
    assert_eq!(counts(&send(&device, &scrubbed), "duplicates"), [1, 1, 1, 1, 1, 0]);
    sent["batch_id"] = "batch_3".into();
    sent["accounts"][0]["identity_source"] = "user_configured".into();
    sent["accounts"][0]["account_label"] = "A label of the user's".into();
    assert_eq!(counts(&send(&device, &sent), "updated"), [0, 1, 0, 0, 0, 0]);
    let everything = world.everything();
    assert!(
        !contains(&everything, "/secret/dir")
            && !contains(&everything, "SEKRIT")
            && !contains(&everything, "918273645")
    );
    assert!(
        contains(&everything, "A label of the user's") && contains(&everything, "ada@example.com"),
        "kept on purpose"
    );
}

#[test]
fn xc_06_refusals_repeat_nothing_of_the_request() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    send(&device, &full("batch_1"));
    let mut conflict = full("batch_1");
    conflict["device_id"] = "SEKRIT-DEVICE".into();
    let mut unknown = full("batch_2");
    unknown["schema_version"] = "SEKRIT-VERSION".into();
    let mut wrong = full("batch_2");
    wrong["sources"][0]["provider"] = json!({ "SEKRIT-NAME": "SEKRIT-VALUE" });
    let mut later = full("batch_2");
    later["task_buckets"] = json!(["SEKRIT-TASK"]);
    for (sent, expected) in [(conflict, 409), (unknown, 400), (wrong, 400), (later, 400)] {
        let reply = send(&device, &sent);
        assert_eq!(reply.status, expected);
        assert!(!contains(&reply.body, "SEKRIT"), "{reply:?}");
    }
    for (path, body) in [
        (BATCHES, "{\"SEKRIT\":"),
        ("/api/sync/reset", "{\"confirm\":\"SEKRIT-WORD\"}"),
        ("/api/devices/poll", "{\"deviceCode\":\"SEKRIT-CODE\"}"),
        ("/api/devices/token", "{\"refreshToken\":\"SEKRIT-TOKEN\"}"),
        ("/api/devices/start", "{\"deviceId\":[\"SEKRIT-ID\"]}"),
    ] {
        let reply = device.post(path, body);
        assert!((400..500).contains(&reply.status) && reply.json()["error"].is_string(), "{reply:?}");
        assert!(!contains(&reply.body, "SEKRIT"), "{reply:?}");
    }
    assert!(!contains(&world.everything(), "SEKRIT"));
}

#[test]
fn xc_06b_the_digest_is_of_the_value_not_of_its_spelling() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let head = r#""schema_version":"sync_batch.v1","batch_id":"b","device_id":"d","created_at":"2026-06-01T00:00:00Z""#;
    let accepted = |body: String| device.post(BATCHES, &body).status;
    assert_eq!(accepted(format!(r#"{{{head},"x":{{"a":1000,"b":"A"}}}}"#)), 200);
    assert_eq!(accepted(format!(r#"{{ "x" : {{"b":"\u0041","a":1e3}}, {head} }}"#)), 200);
    assert_eq!(accepted(format!(r#"{{{head},"x":{{"a":1000.0,"b":"A"}}}}"#)), 200);
    assert_eq!(accepted(format!(r#"{{{head},"x":{{"a":1001,"b":"A"}}}}"#)), 409);
    let exact = |id: &str, n: &str| accepted(format!(r#"{{{},"x":{n}}}"#, head.replace("\"b\"", &format!("\"{id}\""))));
    assert_eq!([exact("c", "9007199254740992"), exact("c", "9007199254740993")], [200, 409]);
}
