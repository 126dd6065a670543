//! Projects, enrolment, configuration and status.

use serde_json::{Value, json};

use super::aexy_world::{
    BATCH, D, ENROL, PROJECTS, Tracker, batch, detail, enrol, event, heartbeat, presign, send, status,
};
use super::aexy_world::{told, with};
use super::world::contains;
use crate::http::Client;

#[test]
fn ax_01_projects_of_the_developer_that_take_records() {
    let t = Tracker::new();
    let reply = t.ada.get(PROJECTS);
    let expected = json!([{ "id": t.p, "name": "p", "slug": "p" }, { "id": t.q, "name": "q", "slug": "q" }]);
    assert_eq!((reply.status, reply.json()), (200, expected));
    assert_eq!(t.jwt("ada").get(PROJECTS).body, reply.body, "a signed token is the developer's, too");
    assert_eq!(t.jwt("nobody").get(PROJECTS).json(), json!([]));
    let again = ["projects", "create", "--data", "data", "--name", "other", "--slug", "p"];
    assert_eq!(t.world.run(&again).status.code(), Some(1), "one project has the slug");
    let unknown = ["projects", "member", "--data", "data", "--project", "nothing", "--user", "ada"];
    assert_eq!(t.world.run(&unknown).status.code(), Some(1));
}

#[test]
fn ax_02_enrolment_tells_the_configuration_and_makes_no_token() {
    let t = Tracker::new();
    let reply = enrol(&t.ada, D, &t.p);
    let config = json!({ "config_etag": "cfg_0", "sample_interval_s": 60, "screenshot_policy": "off",
        "screenshot_every_n_samples": 5, "idle_threshold_s": 300, "paused": false, "excluded_bundle_ids": [] });
    assert_eq!((reply.status, reply.json()), (201, json!({ "device_id": D, "project_id": t.p, "config": config })));
    for (wrong, path) in [
        (json!({ "project_id": t.p }), "/device_id"),
        (json!({ "device_id": "", "project_id": t.p }), "/device_id"),
        (json!({ "device_id": "d".repeat(37), "project_id": t.p }), "/device_id"),
        (json!({ "device_id": D }), "/project_id"),
        (json!({ "device_id": D, "project_id": t.p, "name": "n".repeat(256) }), "/name"),
        (json!({ "device_id": D, "project_id": t.p, "platform": 7 }), "/platform"),
    ] {
        assert_eq!(detail(&t.ada.post(ENROL, &wrong.to_string()), 422), format!("Invalid request at {path}"));
    }
    assert_eq!(t.ada.post(ENROL, "{").status, 422);
}

#[test]
fn ax_03_a_device_is_bound_again_by_its_own_developer_only() {
    let t = Tracker::enrolled();
    send(&t.ada, &batch(D, &[event(7)]));
    let again = enrol(&t.ada, D, &t.q);
    assert_eq!((again.status, &again.json()["project_id"]), (201, &Value::from(t.q.as_str())));
    assert_eq!(t.ada.get(&status(D)).json()["server_seq"], 7, "kept");
    detail(&enrol(&t.ada, D, &t.r), 403);
    detail(&enrol(&t.ada, D, &t.x), 403);
    assert_eq!(detail(&enrol(&t.ada, D, "33333333-3333-3333-3333-333333333333"), 404), "Project not found");
    assert_eq!(detail(&enrol(&t.bob, D, &t.b), 403), "Device belongs to another developer");
    assert_eq!(detail(&enrol(&t.bob, &D.to_uppercase(), &t.b), 403), "Device belongs to another developer");
}

#[test]
fn ax_04_no_route_without_a_valid_token() {
    let t = Tracker::enrolled();
    let args = ["keys", "create", "--data", "data", "--for", "aexy", "--user", "ada", "--json"];
    let revoked: Value = serde_json::from_str(&t.world.printed(&args)).unwrap();
    t.world.printed(&["keys", "revoke", "--data", "data", revoked["key_id"].as_str().unwrap()]);
    let client = |token: &str| t.world.client(token);
    let nobody: [Client; 4] = [
        t.ada.header("authorization", ""),
        client("aexy_0123456789abcdef0123456789abcdef"),
        client(revoked["secret"].as_str().unwrap()),
        client("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEiLCJleHAiOjF9.AAAA"),
    ];
    let body = batch(D, &[event(1)]).to_string();
    let enrolment = json!({ "device_id": D, "project_id": t.p }).to_string();
    for client in &nobody {
        for reply in [
            client.get(PROJECTS),
            client.post(ENROL, &enrolment),
            client.post(BATCH, &body),
            client.post(&heartbeat(D), ""),
            client.get(&status(D)),
            client.post(&presign(D), "{}"),
        ] {
            assert_eq!(detail(&reply, 401), "Not authenticated");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    assert_eq!(t.count(), 0);
}

#[test]
fn ax_17_a_changed_configuration_is_told_with_a_batch_and_a_heartbeat() {
    let t = Tracker::enrolled();
    assert_eq!(t.ada.post(&heartbeat(D), "").json()["config_etag"], "cfg_0");
    let set = ["--set", "sample_interval_s=120", "--set", "paused=true", "--json"];
    let printed: Value = serde_json::from_str(&t.project("config", &t.p, &set)).unwrap();
    let told = send(&t.ada, &batch(D, &[event(1)])).json();
    assert_ne!(told["config_etag"], "cfg_0");
    assert_eq!((&told["next_poll_after_s"], &told["config_etag"]), (&json!(120), &printed["config_etag"]));
    let config = t.ada.post(&heartbeat(D), "").json();
    assert_eq!(config, printed);
    assert_eq!((&config["paused"], &config["sample_interval_s"]), (&json!(true), &json!(120)));
    t.project("config", &t.p, &set);
    assert_eq!(t.ada.post(&heartbeat(D), "").json(), config, "the same again changes nothing");
    assert_eq!(enrol(&t.ada, D, &t.q).json()["config"]["config_etag"], "cfg_0", "the tag follows the project");
    for wrong in ["sample_interval_s=0", "paused=1", "unheard_of=1", "paused", "paused=tru"] {
        let args = ["projects", "config", "--data", "data", "--project", &t.p, "--set", wrong];
        assert!(matches!(t.world.run(&args).status.code(), Some(1 | 2)), "{wrong}");
    }
}

#[test]
fn ax_18_status_says_the_highest_number_that_was_not_rejected() {
    let t = Tracker::enrolled();
    let seq = || t.ada.get(&status(D)).json()["server_seq"].clone();
    assert_eq!(t.ada.get(&status(D)).json(), json!({ "device_id": D, "server_seq": 0, "last_seen_at": null }));
    send(&t.ada, &batch(D, &[event(1), event(2), event(7)]));
    assert_eq!(seq(), 7);
    let late = with(99, &json!({ "ts": "2001-01-01T00:00:00Z" }));
    assert_eq!(send(&t.ada, &batch(D, &[late])).json()["server_seq"], 7);
    assert_eq!(seq(), 7);
    assert_eq!(send(&t.ada, &batch(D, &[event(2)])).json()["server_seq"], 7);
    assert_eq!(seq(), 7);
}

#[test]
fn ax_19_an_unknown_device_and_anothers_are_alike() {
    let t = Tracker::enrolled();
    assert_eq!(enrol(&t.bob, "bobs", &t.b).status, 201);
    let presigned = json!({ "event_id": "e", "content_type": "image/webp", "byte_size": 1, "sha256": "0".repeat(64) });
    for device in ["bobs", "33333333-3333-3333-3333-333333333333"] {
        for reply in [
            t.ada.get(&status(device)),
            t.ada.post(&heartbeat(device), ""),
            send(&t.ada, &batch(device, &[event(1)])),
            t.ada.post(&presign(device), &presigned.to_string()),
        ] {
            assert_eq!(detail(&reply, 404), "Device not enrolled");
        }
    }
    for path in ["/api/v1/tracker/sync/status", "/api/v1/tracker/sync/status?device_id="] {
        assert_eq!(detail(&t.ada.get(path), 422), "Invalid request at /device_id");
    }
    assert_eq!((t.count(), t.bob.get(&status("bobs")).status), (0, 200));
}

/// Whether the developer left or the project was switched off, it is refused the same way, and comes back.
#[test]
fn ax_35_a_project_that_takes_no_more_records() {
    let t = Tracker::enrolled();
    let switches: [(&str, &[&str], &[&str]); 2] =
        [("member", &["--user", "ada", "--remove"], &["--user", "ada"]), ("tracker", &["off"], &["on"])];
    for (n, (command, off, on)) in (0..).zip(switches) {
        let before = t.count();
        t.project(command, &t.p, off);
        let sent = batch(D, &[event(10 + n)]);
        detail(&send(&t.ada, &sent), 403);
        detail(&t.ada.post(&presign(D), "{}"), 403);
        assert_eq!(t.count(), before);
        let config = t.ada.post(&heartbeat(D), "").json();
        assert!(config["paused"] == true && config["config_etag"] != "cfg_0", "{config}");
        assert_eq!(t.ada.get(&status(D)).status, 200);
        t.project(command, &t.p, on);
        assert_eq!(told(&send(&t.ada, &sent)), (1, 0, vec![]));
        assert_eq!(t.ada.post(&heartbeat(D), "").json()["config_etag"], "cfg_0");
    }
    assert!(!contains(&t.world.everything(), "panicked"));
}

#[test]
fn ax_36_ids_that_are_no_uuids_are_compared_as_they_are() {
    let t = Tracker::new();
    assert_eq!(enrol(&t.ada, "mac-1", &t.p).status, 201);
    let of = |id: &str| with(1, &json!({ "event_id": id }));
    let long = "x".repeat(36);
    assert_eq!(told(&send(&t.ada, &batch("mac-1", &[of("a"), of("A"), of(&long)]))), (3, 0, vec![]));
    let reply = send(&t.ada, &batch("mac-1", &[of(""), of(&"x".repeat(37))]));
    let rejected =
        json!([{ "event_id": "", "reason": "schema:/event_id" }, { "event_id": "", "reason": "schema:/event_id" }]);
    assert_eq!(reply.json()["rejected"], rejected);
    assert_eq!(t.ada.get(&status("MAC-1")).status, 404);
}
